"""Blocks of the landmarks networks: gradients against the formulas', wiring written out."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import spectral_norm

from nets.landmarks import norm
from nets.landmarks.conv import conv, conv_doubled
from nets.landmarks.norm import Layers, modulate, modulate_through
from nets.landmarks.spade import Generator, SpadeBlock
from nets.landmarks.unet import UNet
from nets.spectral import Conv


def drawn(*shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


def agree(got, expected, inputs, rtol=1e-7, atol=1e-7):
    """Values, and gradients of a weighted sum."""
    torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)
    weight = torch.randn(got.shape, dtype=got.dtype, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad((got * weight).sum(), inputs)
    theirs = torch.autograd.grad((expected * weight).sum(), inputs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def layers(maps, hidden, outputs, dtype=torch.float64):
    half = (outputs + 1) // 2
    last = [(n, *rest) for n in (half, outputs - half) for rest in ((hidden, 3, 3), ())]
    return Layers(*drawn((hidden, maps, 3, 3), (hidden,), *last, dtype=dtype))


def written_out(made, maps):
    """Scale and shift, stacked, one convolution after the other."""
    hidden = F.relu(F.conv2d(maps, made.weight, made.bias, padding=1))
    scale = F.conv2d(hidden, made.scale, made.scale_bias, padding=1)
    return torch.cat([scale, F.conv2d(hidden, made.shift, made.shift_bias, padding=1)], 1)


@pytest.mark.parametrize("padded", [False, True])
def test_modulation(padded):
    x, maps = drawn((2, 4, 6, 6), (2, 3, 6, 6))
    made = layers(3, 5, 8)
    scale, shift = written_out(made, maps).chunk(2, dim=1)
    expected = F.leaky_relu(x * (1 + scale) + shift, 0.2)
    given = F.pad(maps, (0, 0, 0, 0, 0, 2)) if padded else maps
    agree(modulate(x, given, made, 0.2), expected, [x, maps, *made])


def test_modulation_through_a_1x1_convolution():
    x, maps, weight = drawn((2, 4, 6, 6), (2, 3, 6, 6), (3, 4, 1, 1))
    made = layers(3, 5, 7)
    both = written_out(made, maps)
    expected = F.conv2d(x * (1 + both[:, :4]), weight) + both[:, 4:]
    agree(modulate_through(x, maps, made, weight), expected, [x, maps, weight, *made])


def test_modulation_a_few_pictures_at_once(monkeypatch):
    monkeypatch.setattr(norm, "PIXELS", 200)
    for inputs in [(5, 4, 6, 6), (3, 4, 12, 12)]:  # two at once, and larger than the limit
        x, maps = drawn(inputs, (inputs[0], 3, *inputs[2:]))
        made = layers(3, 5, 8)
        got = modulate(x, maps, made, 0.2)
        ours = torch.autograd.grad(got.square().sum(), [x, maps, *made])
        monkeypatch.setattr(norm, "PIXELS", 1 << 14)
        expected = modulate(x, maps, made, 0.2)
        theirs = torch.autograd.grad(expected.square().sum(), [x, maps, *made])
        monkeypatch.setattr(norm, "PIXELS", 200)
        torch.testing.assert_close([got, *ours], [expected, *theirs])


@pytest.mark.parametrize("through", [False, True])
def test_a_hidden_layer_that_is_kept_changes_nothing(monkeypatch, through):
    monkeypatch.setattr(norm, "PIXELS", 1024)
    x, maps, weight = drawn((3, 16, 32, 32), (3, 32, 32, 32), (16, 16, 1, 1), dtype=torch.float32)
    x, maps, weight = (t.detach().bfloat16().requires_grad_() for t in (x, maps, weight))
    made, results = layers(32, 16, 32, torch.float32), []
    assert norm._kept(maps, made.weight, made.bias).dtype == torch.bfloat16
    assert norm._kept(maps.float(), made.weight, made.bias) is None
    for kept in (norm._kept, lambda *_: None):
        monkeypatch.setattr(norm, "_kept", kept)
        last = modulate_through(x, maps, made, weight) if through else modulate(x, maps, made, 0.2)
        inputs = [x, maps, *made, *([weight] if through else [])]
        results.append([last, *torch.autograd.grad(last.float().square().sum(), inputs)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert results[0][1].abs().sum() > 0


def test_modulation_by_the_fast_convolution():
    """float32, multiples of 16 channels, 512 pixels: the sizes that a compiled kernel takes."""
    x, maps = drawn((2, 16, 16, 16), (2, 32, 16, 16), dtype=torch.float32)
    made = layers(32, 16, 32, torch.float32)
    with torch.no_grad():
        made.scale.mul_(0.1)
        made.shift.mul_(0.1)
    scale, shift = written_out(made, maps).chunk(2, dim=1)
    expected = F.leaky_relu(x * (1 + scale) + shift, 0.2)
    agree(modulate(x, maps, made, 0.2), expected, [x, maps, *made], rtol=1e-3, atol=2e-2)


def test_generator_by_the_fast_convolution(monkeypatch):
    """Widths that the compiled kernel takes, against torch's convolutions; gradients too."""
    torch.manual_seed(0)
    net = Generator(16, 16, 32, hidden=16).eval()
    maps, vectors = torch.rand(2, 16, 32, 32), torch.randn(2, 16, 16)
    results = []
    for kernel in ("compiled", "reference"):
        if kernel == "reference":
            module = importlib.import_module("nets.ops.conv3x3")
            monkeypatch.setattr(module, "kernel", lambda name, device: "reference")
        made = net(maps, vectors)
        gradients = torch.autograd.grad(made.square().sum(), [*net.parameters()])
        results.append([made, torch.cat([g.flatten() for g in gradients])])
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


@pytest.mark.parametrize("channels", [(6, 12), (30, 32), (32, 30), (24, 40)], ids=str)
def test_convolution_of_any_channels(channels):
    inputs, outputs = channels
    x, weight, bias = drawn(
        (2, inputs, 16, 16), (outputs, inputs, 3, 3), (outputs,), dtype=torch.float32
    )
    (more,) = drawn((2, outputs, 16, 16), dtype=torch.float32)
    expected = F.conv2d(x, weight, bias, padding=1)
    agree(conv(x, weight, bias), expected, [x, weight, bias], rtol=1e-4, atol=1e-2)
    expected = F.conv2d(x, weight, bias, padding=1) + more
    got = conv(x, weight, bias, more)
    agree(got, expected, [x, weight, bias, more], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("channels", [(6, 12), (30, 32), (32, 30), (32, 48)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_convolution_of_a_doubled_picture(channels, dtype):
    inputs, outputs = channels
    x, *rest = drawn((2, inputs, 9, 16), (outputs, inputs, 3, 3), (outputs,), dtype=dtype)
    large = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    room = {"rtol": 1e-4, "atol": 1e-2} if dtype == torch.float32 else {}
    agree(conv_doubled(x, *rest), F.conv2d(large, *rest, padding=1), [x, *rest], **room)


def test_what_a_doubling_keeps_is_small():
    x, *rest = drawn((2, 16, 16, 16), (16, 16, 3, 3), (16,), dtype=torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        made = conv_doubled(x, *rest)
    assert made.shape == (2, 16, 32, 32)
    assert kept and max(t.numel() for t in kept) <= x.numel()


def test_doubling_follows_autocast():
    x, *rest = drawn((2, 32, 16, 16), (32, 32, 3, 3), (32,), dtype=torch.float32)
    exact = conv_doubled(x, *rest)
    with torch.autocast("cpu", torch.bfloat16):
        made = conv_doubled(x, *rest)
    assert made.dtype == torch.bfloat16
    assert (made - exact).norm() < 0.02 * exact.norm()
    for got, want in zip(
        torch.autograd.grad(made.float().square().sum(), [x, *rest]),
        torch.autograd.grad(exact.square().sum(), [x, *rest]),
        strict=True,
    ):
        assert got.dtype == torch.float32
        assert (got - want).norm() < 0.02 * want.norm()


@pytest.mark.parametrize(
    ("channels", "widths", "width", "size"),
    [(2, [5, 3], 4, 16), (18, [24, 3], 18, 64)],  # the second: layers with zero channels between
    ids=["narrow", "in lanes"],
)
def test_unet_by_hand(channels, widths, width, size):
    """Two halvings, one doubling: the wiring written out."""
    torch.manual_seed(0)
    net = UNet(channels, widths, 2, width)
    x = torch.randn(2, channels, size, size).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()

    def cir(layer, x):
        return F.relu(F.instance_norm(layer[0](x)))

    first, second = net.encoder_layers
    e0 = cir(first[2][1], cir(first[2][0], cir(first[1], cir(first[0], x))))
    e1 = cir(second[1], cir(second[0], e0))
    y = cir(net.decoder_layers[0], e1) + F.relu(net.skip_convs[0][0](e1))
    double, last = net.decoder_layers[1]
    y = F.interpolate(cir(double[0], y), scale_factor=2, mode="bilinear", align_corners=True)
    y = last(cir(double[2], y))
    made, features = net(x)
    assert features.shape == (2, 4 * width, size // 2, size // 2)
    assert made.shape == (2, 3, size // 2, size // 2)
    torch.testing.assert_close(features, e0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made, y, rtol=1e-4, atol=1e-4)
    leaves = [x, *net.parameters()]
    ours = torch.autograd.grad(made.square().sum() + features.sum(), leaves)
    theirs = torch.autograd.grad(y.square().sum() + e0.sum(), leaves)
    for (name, _), one, other in zip(
        [("x", x), *net.named_parameters()], ours, theirs, strict=True
    ):
        if name.endswith("0.bias") and "skip" not in name:
            continue  # a norm takes it out again: both are rounding
        assert (one - other).norm() <= 1e-3 * other.norm(), name


def test_unet_without_a_width_starts_at_twice_its_input():
    assert UNet(7, [8, 3], 1, 0).encoder_layers[0][0][0].weight.shape[:2] == (14, 7)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_spectral_convolution_trains_like_the_one_in_torch(layout):
    """torch's older spectral norm has the published order of iterations and names."""
    torch.manual_seed(0)
    ours = Conv(3, 4, eps=1e-12).to(memory_format=layout)
    torch.nn.init.normal_(ours.weight_orig)
    torch.nn.init.normal_(ours.bias)
    theirs = spectral_norm(torch.nn.Conv2d(3, 4, 3, padding=1))
    theirs.load_state_dict(ours.state_dict())
    assert ours.weight_orig.is_contiguous(memory_format=layout)
    assert list(theirs.state_dict()) == list(ours.state_dict())
    x = torch.randn(2, 3, 8, 8)
    for _ in range(2):  # called twice before the backward pass, as the generator's head is
        expected, got = theirs(x), ours(x)
        torch.testing.assert_close(got, expected)
    torch.testing.assert_close(ours.weight_u, theirs.weight_u)
    torch.testing.assert_close(ours.weight_v, theirs.weight_v)
    expected.square().sum().backward()
    got.square().sum().backward()
    torch.testing.assert_close(ours.weight_orig.grad, theirs.weight_orig.grad)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)
    before = ours.weight_u.clone()
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    assert torch.equal(ours.weight_u, before)


def spade(norm, x, maps):
    """Scale and shift one after the other, as the paper writes them."""
    hidden = F.relu(norm.mlp_shared[0](maps))
    return F.instance_norm(x) * (1 + norm.mlp_gamma(hidden)) + norm.mlp_beta(hidden)


@pytest.mark.parametrize("channels", [(6, 6), (6, 4)])
def test_spade_block_by_hand(channels):
    torch.manual_seed(0)
    block = SpadeBlock(*channels, maps=3).eval()
    for name, parameter in block.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3 if "bias" in name else 0.1)
    x, maps = torch.randn(2, channels[0], 8, 8), torch.rand(2, 3, 8, 8)
    y = block.conv_0(F.leaky_relu(spade(block.norm_0, x, maps), 0.2))
    y = block.conv_1(F.leaky_relu(spade(block.norm_1, y, maps), 0.2))
    shortcut = x if channels[0] == channels[1] else block.conv_s(spade(block.norm_s, x, maps))
    torch.testing.assert_close(block(x, maps), shortcut + y, rtol=1e-4, atol=1e-5)
