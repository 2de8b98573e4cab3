"""Scores of images: hand-computed cases, and SSIM against an independent formula."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

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
