"""Loss terms against hand-computed values, and both losses against independent formulas."""

import pytest
import torch

from nets import perceptual
from nets.pretrained import vgg
from nets.vunet import losses

NARROW = ["relu1_2", "relu2_2"]  # layers that fit small images


@pytest.fixture(scope="module")
def nets():
    return {family: vgg.load_vgg(source="random", family=family) for family in vgg.FAMILIES}


def image(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def latents(seed, n=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 4, side, side, generator=generator) for side in (1, 2)]


IMAGES = image(2, 3, 32, 32), image(2, 3, 32, 32, seed=1)


def test_linear_ramp():
    # The published parts configurations, with lr_decay_end 100000.
    ramp = [losses.linear_ramp(s, 50000, 1e-6, 75000, 1.0) for s in (0, 50000, 62500, 75000, 10**6)]
    assert ramp == pytest.approx([1e-6, 1e-6, 0.5, 1.0, 1.0], rel=2e-6)
    # The published image configuration.
    assert [losses.linear_ramp(s, 2000, 0, 3500, 1) for s in (1999, 2000, 2750, 3500, 3501)] == [
        0, 0, 0.5, 1, 1,
    ]  # fmt: skip
    assert [losses.linear_ramp(s, 7, 2.0, 7, 3.0) for s in (6, 7)] == [2.0, 3.0]
    with pytest.raises(ValueError, match="end_it must be at least start_it = 5, got 4"):
        losses.linear_ramp(0, 5, 0.0, 4, 1.0)


def test_pixel_terms_by_hand():
    t = torch.zeros(2, 3, 1, 3)
    y = t.clone()
    y[0, 0, 0] = torch.tensor([1.0, 0.0, -2.0])
    torch.testing.assert_close(losses.color_l1(y, t), torch.tensor([3 / 9, 0.0]))
    torch.testing.assert_close(losses.color_l2(y, t), torch.tensor([5 / 9, 0.0]))
    t[0, 0, 0] = torch.tensor([0.0, 3.0, 3.0])
    # Along x: |-1|, |-2| against |3|, |0|, mean over 6 values. One row has no differences along y,
    # whose mean would be 0 / 0, so the row is repeated.
    y, t = y.repeat(1, 1, 2, 1), t.repeat(1, 1, 2, 1)
    y[0, 0, 1] += 4  # along y: |4|, |4|, |4| against 0, mean over 9 values
    expected = torch.tensor([2 * (2 + 2) / 12 + 12 / 9, 0.0])
    torch.testing.assert_close(losses.color_gradient(y, t), expected)
    # An edge may have either sign.
    torch.testing.assert_close(losses.color_gradient(y, -y), torch.zeros(2))


def test_texture_by_hand():
    y = torch.zeros(2, 1, 8, 12)
    y[0, :, :, 8:] = 1.0  # one edge, on all rows
    # Pixels: 8 x 11 differences, 1 at column 7. 3 x 3 cells of 8 begin at -4, 0, 4 along both; the
    # edge is in the last two of a row. Pooled by 2, 4 x 5 with cells of 4 from -2, 0, 2: column 3
    # is in the last two. Pooled by 4, 2 x 2 with cells of 2 from -1, 0, 1: column 1, the last two.
    octave = [2 * (4 + 8 + 4) / 64 / 9, 2 * (2 + 4 + 2) / 16 / 9, 2 * (1 + 2 + 1) / 4 / 9]
    expected = torch.tensor([sum(octave) / 3, 0.0])
    torch.testing.assert_close(losses.texture(y, torch.zeros_like(y)), expected)
    torch.testing.assert_close(losses.texture(y.mT, torch.zeros_like(y.mT)), expected)
    y, q, p = torch.rand(2, 3, 16, 16), latents(1), latents(2)
    loss, terms = losses.parts_losses(y, y.flip(2), q, p, 0.0, None, (), (), (), 0.5)
    torch.testing.assert_close(terms["texture"], 127.5 * losses.texture(y, y.flip(2)).mean())
    torch.testing.assert_close(loss, 5 * 0.5 * terms["texture"])


def test_texture_forgives_a_shift_and_not_a_blur():
    t = torch.zeros(1, 3, 32, 32)
    t[..., 2::8], t[..., 3::8] = 1.0, 1.0
    shifted, blurred = t.roll(3, 3), torch.full_like(t, 0.25)
    assert losses.texture(shifted, t) < 0.3 * losses.texture(blurred, t)
    grid = torch.zeros_like(t)
    grid[..., ::2] = t.diff(dim=3).abs().mean()  # as strong edges of single pixels alone
    assert losses.texture(shifted, t) < 0.5 * losses.texture(grid, t)
    assert losses.color_l1(shifted, t) > losses.color_l1(blurred, t)


def test_kl_by_hand():
    q = [torch.zeros(2, 1, 2, 2), torch.zeros(2, 2, 1, 1)]
    p = [torch.ones(2, 1, 2, 2), torch.zeros(2, 2, 1, 1)]
    p[1][1, 0] = 3.0
    torch.testing.assert_close(losses.kl_unit_gaussians(q, p), torch.tensor([2.0, 6.5]))
    with pytest.raises(ValueError, match="priors must have the shapes of posteriors"):
        losses.kl_unit_gaussians(q, p[:1])
    with pytest.raises(ValueError, match="priors must have the shapes of posteriors"):
        losses.kl_unit_gaussians(q, [p[0], p[1][:1]])


def test_gram_matrix_by_hand_and_in_half_precision():
    x = torch.tensor([[1.0, 2.0], [0.0, 4.0]]).view(1, 2, 1, 2)
    expected = torch.tensor([[[5.0, 8.0], [8.0, 16.0]]]) / (4 * 2)
    torch.testing.assert_close(perceptual.gram_matrix(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        big = perceptual.gram_matrix((x * 1000).half())  # squares beyond float16's 65504
    torch.testing.assert_close(big, expected * 1e6)


def independent_terms(net, y, t, layers):
    """The L1 of features and of Gram matrices of each layer, batch means, by einsum."""
    a, b = net.features(y, layers), net.features(t, layers)
    feature, gram = [], []
    for name in layers:
        feature.append((a[name] - b[name]).abs().mean())
        area = a[name].shape[2] * a[name].shape[3]
        g, h = (torch.einsum("nchw,ndhw->ncd", f[name], f[name]) / (4 * area) for f in (a, b))
        gram.append((g - h).abs().mean())
    return feature, gram


def test_parts_losses_are_the_published_sum(nets):
    net = nets["caffe"]
    y, t = IMAGES
    q, p = latents(1), latents(2)
    feature_weights, gram_weights = (1.0, 2.0, 0.0, 1.0, 0.5, 1.0), (0.0, 0.05, 0.05, 0, 0, 0.1)
    total, terms = losses.parts_losses(
        y, t, q, p, 0.25, net, losses.PARTS_LAYERS, feature_weights, gram_weights
    )
    feature, gram = independent_terms(net, y, t, losses.PARTS_LAYERS)
    likelihood = 5 * sum(w * v for w, v in zip(feature_weights, feature, strict=True))
    likelihood = likelihood + 5 * sum(w * v for w, v in zip(gram_weights, gram, strict=True))
    kl = sum(0.5 * (a - b).square().sum((1, 2, 3)).mean() for a, b in zip(q, p, strict=True))
    close = torch.testing.assert_close
    close(
        terms["likelihood_loss"], likelihood, rtol=1e-4, atol=0
    )  # the order of the Gram sums differs
    close(terms["kl_loss"], kl)
    close(total, likelihood + 0.25 * kl, rtol=1e-4, atol=0)
    close(terms["feature_block3_conv2"], feature[3])
    close(terms["gram_block2_conv2"], gram[2], rtol=1e-4, atol=0)
    assert set(terms) == {
        *(f"feature_{name}" for i, name in enumerate(losses.PARTS_LAYERS) if i != 2),
        *(f"gram_block{b}_conv2" for b in (1, 2, 5)),
        *("likelihood_loss", "kl_loss", "loss"),
    }
    assert not any(value.requires_grad or value.ndim for value in terms.values())


def test_input_1_is_on_the_0_255_scale():
    y = torch.zeros(1, 3, 8, 8)
    _, terms = losses.parts_losses(
        y, y + 0.2, latents(1, 1), latents(1, 1), 0.0, None, ["input_1"], [1.0], [0.1]
    )
    torch.testing.assert_close(terms["feature_input_1"], torch.tensor(25.5))
    b, c = (torch.tensor([127.5 - m for m in (103.939, 116.779, 123.68)]) + d for d in (0, 25.5))
    gram = (torch.outer(b, b) - torch.outer(c, c)).abs().mean() / 4
    torch.testing.assert_close(terms["gram_input_1"], gram)


def test_image_losses_are_the_published_sum(nets):
    net = nets["torchvision"]
    y, t = IMAGES
    q, p = latents(1), latents(2)
    weights = {"color_L1": 0.5, "color_gradient": 0.25, "color_L2": 2.0, "KL": 0.1, "perceptual": 3}
    layer_weights = (1.0, 0.5, 1.0, 2.0, 0.0, 1.0)
    total, terms = losses.image_losses(y, t, q, p, weights, net, layer_weights)
    inner = [name for name in losses.IMAGE_LAYERS if name != "image"]
    feature = [(y - t).abs().mean(), *independent_terms(net, y, t, inner)[0]]
    expected = {
        "color_L1": (y - t).abs().mean(),
        "color_L2": (y - t).square().mean(),
        "color_gradient": losses.color_gradient(y, t).mean(),
        "KL": sum(0.5 * (a - b).square().sum() / 2 for a, b in zip(q, p, strict=True)),
        "perceptual": sum(w * v for w, v in zip(layer_weights, feature, strict=True)),
    }
    expected["total"] = sum(weights[name] * value for name, value in expected.items())
    assert set(terms) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)
    torch.testing.assert_close(total, expected["total"])


def test_perceptual_gradient_comes_through_every_layer(nets):
    """Images beyond [-1, 1] get a gradient that lowers the loss; the target gets none."""
    net = nets["torchvision"]
    for layer in ("image", "input_1", *NARROW):
        y = (IMAGES[0] * 1.5).requires_grad_()
        t = IMAGES[1].clone().requires_grad_()
        perceptual.feature_distances(y, t, [layer], vgg=net)[f"feature_{layer}"].sum().backward()
        assert t.grad is None and (y.grad != 0).float().mean() > 0.99
        direction = y.grad.sign()
        step = perceptual.feature_distances(y - 1e-3 * direction, t, [layer], vgg=net)
        before = perceptual.feature_distances(y, t, [layer], vgg=net)
        assert (step[f"feature_{layer}"] < before[f"feature_{layer}"]).all()


def test_each_example_has_its_own_distance(nets):
    y, t = IMAGES
    for value, one in zip(
        perceptual.feature_distances(y, t, NARROW, NARROW, nets["caffe"]).values(),
        perceptual.feature_distances(y[1:], t[1:], NARROW, NARROW, nets["caffe"]).values(),
        strict=True,
    ):
        assert value.shape == (2,)
        torch.testing.assert_close(value[1:], one)


def test_unused_terms_cost_nothing(nets):
    """Zero weights compute no Gram matrix, no deeper layer than needed, and no VGG without need."""
    net, y, t, z = nets["caffe"], *IMAGES, latents(1)
    ran = []
    hooks = [c.register_forward_hook(lambda m, *_: ran.append(m)) for c in net.convolutions]
    some = (1.0, 1.0, 0.0, 0.0, 0.0, 0.0)
    _, terms = losses.parts_losses(y, t, z, z, 1.0, net, feature_weights=some)
    assert len(ran) == 2 * 2  # two convolutions, target and prediction
    features = ["feature_input_1", "feature_block1_conv2"]
    assert list(terms) == [*features, "likelihood_loss", "kl_loss", "loss"]
    for hook in hooks:
        hook.remove()
    pixels = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    total, _ = losses.parts_losses(y, t, z, z, 1.0, feature_weights=pixels)
    torch.testing.assert_close(total, 5 * 127.5 * (y - t).abs().mean())
    total, terms = losses.image_losses(
        y, t, z, z, {"color_L1": 0.5, "perceptual": 1.0, "color_L2": 0.0}, None, pixels
    )
    torch.testing.assert_close(total, 1.5 * (y - t).abs().mean())
    assert set(terms) == {"color_L1", "perceptual", "total"}


def test_kl_keeps_its_gradient_while_its_weight_is_zero():
    q = [z.requires_grad_() for z in latents(1)]
    y, t = IMAGES
    total, terms = losses.image_losses(y, t, q, latents(2), {"color_L1": 1.0, "KL": 0.0})
    total.backward()
    assert all(z.grad is not None and not z.grad.any() for z in q)
    assert terms["KL"] > 0


def test_half_precision_predictions_give_float32_losses(nets):
    y, t = IMAGES
    z = latents(1)
    exact, _ = losses.parts_losses(y, t, z, latents(2), 1.0, nets["caffe"], gram_weights=[0.1] * 6)
    with torch.autocast("cpu", torch.bfloat16):
        total, terms = losses.parts_losses(
            y.bfloat16(), t, z, latents(2), 1.0, nets["caffe"], gram_weights=[0.1] * 6
        )
    assert all(value.dtype == torch.float32 for value in (total, *terms.values()))
    torch.testing.assert_close(total, exact, rtol=0.01, atol=0)  # bfloat16: 8 bits


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from torch, when it loads its compiler
def test_compiles(nets):
    weights = {"color_L1": 1.0, "KL": torch.tensor(0.5), "perceptual": 1.0}
    results = []
    for call in (losses.image_losses, torch.compile(losses.image_losses, fullgraph=True)):
        y = IMAGES[0].clone().requires_grad_()
        arguments = (y, IMAGES[1], latents(1), latents(2), weights, nets["torchvision"])
        total, terms = call(*arguments, (1.0, 1.0, 1.0, 0.0, 0.0, 0.0))
        total.backward()
        results.append((terms, y.grad))
    (terms, gradient), (compiled_terms, compiled_gradient) = results
    torch.testing.assert_close(terms, compiled_terms, rtol=1e-5, atol=0)
    # Single pixels may differ: rounding decides the sign of a feature at the kink of a ReLU or L1.
    error = (gradient - compiled_gradient).abs().mean()
    assert error < 1e-3 * gradient.abs().mean()


def test_wrong_input_is_named():
    y, t = IMAGES
    z = latents(1)
    with pytest.raises(ValueError, match=r"color_l1: prediction and target must be .*one shape"):
        losses.color_l1(y, t[:1])
    with pytest.raises(ValueError, match="vgg must be given for the layers relu1_2"):
        perceptual.feature_distances(y, t, ["image", "relu1_2"])
    with pytest.raises(ValueError, match="feature_weights must be 6 finite numbers >= 0"):
        losses.parts_losses(y, t, z, z, 1.0, feature_weights=[1.0] * 5)
    with pytest.raises(ValueError, match="gram_weights must be 6 finite numbers >= 0"):
        losses.parts_losses(y, t, z, z, 1.0, gram_weights=[-1.0] * 6)
    with pytest.raises(ValueError, match="vgg_feat_weights must be 6 finite numbers"):
        losses.image_losses(y, t, z, z, {"perceptual": 1.0}, vgg_feat_weights=[float("nan")] * 6)
    with pytest.raises(ValueError, match=r"weights must name terms of color_L1.*got colour_L1"):
        losses.image_losses(y, t, z, z, {"colour_L1": 1.0})
    with pytest.raises(ValueError, match="weights must not all be zero"):
        losses.image_losses(y, t, z, z, {"color_L1": 0.0})
