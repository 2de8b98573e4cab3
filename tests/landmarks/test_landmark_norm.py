"""Blocks of the landmarks networks and their gradients, against stock torch layers."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import spectral_norm

from nets.landmarks.network.generator import SpadeBlock, SpadeGenerator
from nets.landmarks.network.unet import UNet
from nets.spectral import Conv


def test_generator_by_the_fast_convolution(monkeypatch):
    """The compiled kernel gives the output and gradients of torch's convolutions."""
    torch.manual_seed(0)
    net = SpadeGenerator(16, 16, 32, hidden=16).eval()
    maps, vectors = torch.rand(2, 16, 32, 32), torch.randn(2, 16, 16)
    results = []
    for kernel in ("compiled", "reference"):
        if kernel == "reference":
            module = importlib.import_module("nets.ops.conv3x3")
            monkeypatch.setattr(module, "kernel", lambda name, device: "reference")
        output = net(maps, vectors)
        gradients = torch.autograd.grad(output.square().sum(), [*net.parameters()])
        results.append([output, torch.cat([g.flatten() for g in gradients])])
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


@pytest.mark.parametrize(
    ("channels", "widths", "width", "size"),
    [(2, [5, 3], 4, 16), (18, [24, 3], 18, 64)],  # second: zero channels between layers
    ids=["narrow", "in lanes"],
)
def test_unet_by_hand(channels, widths, width, size):
    """Two halvings and one doubling, in stock torch layers."""
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
    output, features = net(x)
    assert features.shape == (2, 4 * width, size // 2, size // 2)
    assert output.shape == (2, 3, size // 2, size // 2)
    torch.testing.assert_close(features, e0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output, y, rtol=1e-4, atol=1e-4)
    leaves = [x, *net.parameters()]
    ours = torch.autograd.grad(output.square().sum() + features.sum(), leaves)
    theirs = torch.autograd.grad(y.square().sum() + e0.sum(), leaves)
    for (name, _), one, other in zip(
        [("x", x), *net.named_parameters()], ours, theirs, strict=True
    ):
        if name.endswith("0.bias") and "skip" not in name:
            continue  # a norm removes the bias: gradients are rounding errors
        assert (one - other).norm() <= 1e-3 * other.norm(), name


def test_unet_without_a_width_starts_at_twice_its_input():
    assert UNet(7, [8, 3], 1, 0).encoder_layers[0][0][0].weight.shape[:2] == (14, 7)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_spectral_convolution_trains_like_the_one_in_torch(layout):
    """torch's older spectral norm has the published keys and order of iterations."""
    torch.manual_seed(0)
    ours = Conv(3, 4, eps=1e-12).to(memory_format=layout)
    torch.nn.init.normal_(ours.weight_orig)
    torch.nn.init.normal_(ours.bias)
    theirs = spectral_norm(torch.nn.Conv2d(3, 4, 3, padding=1))
    theirs.load_state_dict(ours.state_dict())
    assert ours.weight_orig.is_contiguous(memory_format=layout)
    assert list(theirs.state_dict()) == list(ours.state_dict())
    x = torch.randn(2, 3, 8, 8)
    for _ in range(2):  # twice before the backward pass, as in the generator
        expected, output = theirs(x), ours(x)
        torch.testing.assert_close(output, expected)
    torch.testing.assert_close(ours.weight_u, theirs.weight_u)
    torch.testing.assert_close(ours.weight_v, theirs.weight_v)
    expected.square().sum().backward()
    output.square().sum().backward()
    torch.testing.assert_close(ours.weight_orig.grad, theirs.weight_orig.grad)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)
    before = ours.weight_u.clone()
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    assert torch.equal(ours.weight_u, before)


def spade(norm, x, maps):
    """Modulated x by the paper's equation: norm(x) (1 + scale) + shift."""
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
