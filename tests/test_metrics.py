"""Scores of images: hand-computed cases, and SSIM against an independent formula."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.ndimage import correlate1d, gaussian_filter, uniform_filter

from nets import metrics


def images(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def noisy(images, sigma, seed=1):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(images.shape, generator=generator) * sigma
    return (images.float() + noise).clamp(0, 255).to(torch.uint8)


def smooth(x, taps):
    # scipy's "mirror" does not repeat the edge pixel, as reflection in torch.
    return correlate1d(correlate1d(x, taps, axis=-1, mode="mirror"), taps, axis=-2, mode="mirror")


def ssim_formula(x, y):
    """Wang et al. 2004, eq. 13, per pixel, averaged; x, y float64 (3, H, W) in [0, 255]."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    taps /= taps.sum()
    mx, my = smooth(x, taps), smooth(y, taps)
    vx, vy = smooth(x * x, taps) - mx**2, smooth(y * y, taps) - my**2
    cov = smooth(x * y, taps) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return np.mean((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))


@pytest.mark.parametrize("size", [(6, 6), (17, 40), (64, 48)], ids=str)
def test_ssim_is_the_published_formula(size):
    truth = images(3, 3, *size)
    prediction = noisy(truth, 40)
    expected = [
        ssim_formula(x.double().numpy(), y.double().numpy())
        for x, y in zip(prediction, truth, strict=True)
    ]
    scores = metrics.ssim(prediction, truth)
    # float32 inside: variances of 65025 * 2**-24, against the constant 58.5 below them
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-5)
    assert 0.1 < expected[0] < 0.99


def test_ssim_of_flat_images():
    """The worst case of float32: no variance, large squares."""
    truth = torch.full((1, 3, 32, 32), 250, dtype=torch.uint8)
    prediction = truth.clone()
    prediction[..., ::2] = 249
    expected = ssim_formula(prediction[0].double().numpy(), truth[0].double().numpy())
    assert abs(float(metrics.ssim(prediction, truth)) - expected) < 1e-3


def test_ssim_ignores_autocast_and_knows_equal_images():
    truth = images(2, 3, 24, 24)
    prediction = noisy(truth, 30)
    with torch.autocast("cpu", torch.bfloat16):
        inside = metrics.ssim(prediction, truth)
    assert torch.equal(inside, metrics.ssim(prediction, truth))
    torch.testing.assert_close(metrics.ssim(truth, truth), torch.ones(2, dtype=torch.float64))


def test_each_image_has_its_own_score():
    truth = images(4, 3, 20, 20)
    prediction = torch.stack([noisy(truth[i], 10.0 * i) for i in range(4)])
    for score in (metrics.ssim, metrics.psnr):
        together = score(prediction, truth)
        alone = torch.cat([score(prediction[i : i + 1], truth[i : i + 1]) for i in range(4)])
        assert together.shape == (4,) and torch.equal(together, alone)
        assert (together.diff() < 0).all()
        assert score(truth[:0], truth[:0]).shape == (0,)


def skimage_ssim(x, y, data_range, window=None):
    """scikit-image's structural_similarity, written anew; x, y float64 (3, H, W).

    window  side of a uniform window with sample covariance; None: Gaussian of sigma 1.5
    """
    scores = []
    for a, b in zip(x, y, strict=True):
        if window is None:
            size, factor = 11, 1.0
            mean = partial(gaussian_filter, sigma=1.5, truncate=3.5)
        else:
            size, factor = window, window**2 / (window**2 - 1)
            mean = partial(uniform_filter, size=window)
        ma, mb = mean(a), mean(b)
        va, vb = factor * (mean(a * a) - ma * ma), factor * (mean(b * b) - mb * mb)
        cov = factor * (mean(a * b) - ma * mb)
        c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
        ssim = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
        border = (size - 1) // 2
        h, w = ssim.shape
        scores.append(ssim[border : h - border, border : w - border].mean())
    return np.mean(scores)


def test_ssim_in_both_forms_of_pose_transfer():
    truth = images(2, 3, 64, 53)
    prediction = noisy(truth, 40)
    inside, window51 = (
        metrics.ssim_inside(prediction, truth), metrics.ssim_window51(prediction, truth),
    )  # fmt: skip
    for i in range(2):
        x, y = prediction[i].double().numpy(), truth[i].double().numpy()
        assert float(inside[i]) == pytest.approx(skimage_ssim(x, y, 255), abs=1e-9)
        assert float(window51[i]) == pytest.approx(skimage_ssim(x / 255, y / 255, 1, 51), abs=1e-9)
    for score in (metrics.ssim_inside, metrics.ssim_window51):
        torch.testing.assert_close(score(truth, truth), torch.ones(2, dtype=torch.float64))


def test_l1_and_gradient_by_hand():
    truth = torch.zeros(1, 3, 2, 3, dtype=torch.uint8)
    truth[..., 1] = 100  # columns 0 100 0: differences along x of 100, along y of 0
    prediction = truth.clone()
    prediction[..., 1] = 50
    prediction[..., 0, :] += 20  # and along y of 20
    assert float(metrics.l1(prediction, truth)) == pytest.approx((30 + 50 + 4 * 10) / 6 / 255)
    assert float(metrics.gradient(prediction, truth)) == pytest.approx((50 + 20) / 100)
    assert float(metrics.gradient(truth[..., :1].expand_as(truth).contiguous(), truth)) == 0


def test_nearest_target_leaves_out_other_targets_of_the_same_person():
    generator = torch.Generator().manual_seed(0)
    targets = torch.rand(6, 3, 32, 16, generator=generator) * 255
    people = ["anna", "anna", "ben", "ben", "cleo", "cleo"]
    results = targets.clone()
    results[0] = 0.55 * targets[1] + 0.45 * targets[0]  # nearest to another target of anna
    results[2] = targets[4]  # cleo instead of ben
    near = metrics.nearest_target(results, targets, people)
    assert near.tolist() == [True, True, False, True, True, True]
    flat = torch.full_like(targets, 127.0)
    flat_targets = flat + 1  # all equally far: an image that knows nothing scores nothing
    assert not metrics.nearest_target(flat, flat_targets, people).any()
    with pytest.raises(ValueError, match="people must be at least two"):
        metrics.nearest_target(results, targets, ["anna"] * 6)


def test_small_images_are_means_of_areas():
    image = images(1, 3, 128, 64)
    expected = image.double().view(1, 3, 32, 4, 16, 4).mean((3, 5))
    torch.testing.assert_close(metrics.small_images(image), expected.float())


@pytest.mark.parametrize("count", [5, 60])  # fewer images than features, and more
def test_frechet_is_the_published_formula(count):
    generator = np.random.default_rng(0)
    a = generator.normal(size=(count, 16)) @ generator.normal(size=(16, 16))
    b = generator.normal(size=(40, 16)) + 0.5
    ours = metrics.frechet(*(metrics.gaussian_of(torch.from_numpy(x)) for x in (a, b)))
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    distance = np.square(a.mean(0) - b.mean(0)).sum()
    expected = distance + np.trace(s) + np.trace(t) - 2 * np.trace(sqrtm(s @ t).real)
    # sqrtm loses half of the digits where the product is singular
    assert ours == pytest.approx(expected, rel=1e-9 if count > 16 else 1e-5)
    same = metrics.gaussian_of(torch.from_numpy(b))
    assert metrics.frechet(same, same) == pytest.approx(0, abs=1e-9)


def test_inception_score_is_the_published_formula():
    logits = np.random.default_rng(0).normal(size=(40, 7)) * 3
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    parts = [np.exp(np.mean([np.sum(q * np.log(q / part.mean(0))) for q in part]))
             for part in np.split(p, 4)]  # fmt: skip
    mean, std = metrics.inception_score(torch.from_numpy(logits), 4)
    assert (mean, std) == (pytest.approx(np.mean(parts)), pytest.approx(np.std(parts)))
    with pytest.raises(ValueError, match="N >= 10"):
        metrics.inception_score(torch.zeros(9, 3))


def test_psnr_by_hand():
    truth = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    prediction = truth.clone()
    prediction[0] = 51  # squared error (255 / 5)^2: 10 log10(25) dB
    expected = torch.tensor([10 * math.log10(25), math.inf], dtype=torch.float64)
    torch.testing.assert_close(metrics.psnr(prediction, truth), expected)


def test_masked_l1_by_hand():
    truth = torch.zeros(2, 3, 2, 2, dtype=torch.uint8)
    prediction = truth.clone()
    prediction[0, :, 0, 0] = torch.tensor([255, 51, 0], dtype=torch.uint8)
    prediction[0, :, 1, 1] = 200  # outside the mask
    truth[1, 0, 0, 1] = 255  # difference of -255: unsigned arithmetic would say 1
    mask = torch.zeros(2, 2, 2, dtype=torch.bool)
    mask[:, 0] = True
    expected = torch.tensor([(1 + 0.2) / 6, 1 / 6], dtype=torch.float64)
    torch.testing.assert_close(metrics.masked_l1(prediction, truth, mask), expected)


def test_nearest_outfit_looks_inside_the_mask_only():
    candidates = images(5, 7, 3, 16, 16)
    right = torch.tensor([3, 0, 6, 2, 2])
    mask = torch.zeros(5, 16, 16, dtype=torch.bool)
    mask[:, 4:12, 4:12] = True
    prediction = noisy(candidates[torch.arange(5), right], 20)
    prediction = torch.where(mask[:, None], prediction, images(5, 3, 16, 16, seed=9))
    assert torch.equal(metrics.nearest_outfit(prediction, mask, candidates), right)
    same = candidates[:, :1].expand(-1, 4, -1, -1, -1)
    assert metrics.nearest_outfit(prediction, mask, same).tolist() == [0] * 5


def test_summary_is_mean_and_population_std():
    result = metrics.summary(torch.tensor([1.0, 2.0, 6.0]))
    assert result == {"mean": 3.0, "std": pytest.approx(math.sqrt(14 / 3)), "count": 3}
    assert metrics.summary(torch.tensor([5.0, math.inf])) == {
        "mean": 5.0,
        "std": 0.0,
        "count": 1,
        "infinite": 1,
    }
    for bad in ([math.nan, 1.0], [math.inf], []):
        with pytest.raises(ValueError, match="summary: values must"):
            metrics.summary(torch.tensor(bad))


def test_the_protocol_states_the_settings_in_use():
    assert "11x11 of sigma 1.5" in metrics.PROTOCOL["ssim"]
    assert "range 255 on 8-bit RGB" in metrics.PROTOCOL["ssim"]
    assert not any("{" in text for text in metrics.PROTOCOL.values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, m: metrics.ssim(a.float(), a), "ssim: prediction must be uint8"),
        (lambda a, m: metrics.psnr(a, a[:, :1]), "psnr: truth must be uint8"),
        (lambda a, m: metrics.psnr(a, a[..., 1:]), "psnr: truth must have the prediction's shape"),
        (lambda a, m: metrics.ssim(a[..., :5], a[..., :5]), "ssim: prediction must be at least 6"),
        (lambda a, m: metrics.ssim_inside(a, a), "ssim_inside: prediction must be at least 11x11"),
        (lambda a, m: metrics.ssim_window51(a, a), "must be at least 51x51"),
        (lambda a, m: metrics.gaussian_of(torch.zeros(1, 3)), "with N >= 2"),
        (lambda a, m: metrics.masked_l1(a, a, m[:1]), "masked_l1: mask must be bool"),
        (lambda a, m: metrics.masked_l1(a, a, m.byte()), "masked_l1: mask must be bool"),
        (lambda a, m: metrics.masked_l1(a, a, ~m), r"mask must hold a pixel .*none in \[0, 1\]"),
        (lambda a, m: metrics.nearest_outfit(a, m, a), "candidates must be uint8 .N, M, 3"),
        (lambda a, m: metrics.nearest_outfit(a, m, a[:, None, :, 1:]), "fit the prediction's"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(images(2, 3, 8, 8), torch.ones(2, 8, 8, dtype=torch.bool))
