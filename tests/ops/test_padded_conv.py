"""Padded and upsampled 3x3 convolutions against F.conv2d, gradients too."""

import pytest
import torch
import torch.nn.functional as F

from nets.ops import conv3x3_padded, conv3x3_upsampled
from nets.ops.padded_conv import conv3x3_upsampled_reference


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


@pytest.mark.parametrize("channels", [(6, 12), (30, 32), (32, 30), (24, 40)], ids=str)
def test_convolution_of_any_channels(channels):
    inputs, outputs = channels
    x, weight, bias = drawn(
        (2, inputs, 16, 16), (outputs, inputs, 3, 3), (outputs,), dtype=torch.float32
    )
    (more,) = drawn((2, outputs, 16, 16), dtype=torch.float32)
    expected = F.conv2d(x, weight, bias, padding=1)
    agree(conv3x3_padded(x, weight, bias), expected, [x, weight, bias], rtol=1e-4, atol=1e-2)
    expected = F.conv2d(x, weight, bias, padding=1) + more
    got = conv3x3_padded(x, weight, bias, more)
    agree(got, expected, [x, weight, bias, more], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("channels", [(6, 12), (30, 32), (32, 30), (32, 48)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_convolution_of_an_upsampled_image(channels, dtype):
    inputs, outputs = channels
    x, *rest = drawn((2, inputs, 9, 16), (outputs, inputs, 3, 3), (outputs,), dtype=dtype)
    room = {"rtol": 1e-4, "atol": 1e-2} if dtype == torch.float32 else {}
    agree(conv3x3_upsampled(x, *rest), conv3x3_upsampled_reference(x, *rest), [x, *rest], **room)


def test_what_an_upsampling_keeps_is_small():
    x, *rest = drawn((2, 16, 16, 16), (16, 16, 3, 3), (16,), dtype=torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        result = conv3x3_upsampled(x, *rest)
    assert result.shape == (2, 16, 32, 32)
    assert kept and max(t.numel() for t in kept) <= x.numel()


def test_upsampling_follows_autocast():
    x, *rest = drawn((2, 32, 16, 16), (32, 32, 3, 3), (32,), dtype=torch.float32)
    exact = conv3x3_upsampled(x, *rest)
    with torch.autocast("cpu", torch.bfloat16):
        result = conv3x3_upsampled(x, *rest)
    assert result.dtype == torch.bfloat16
    assert (result - exact).norm() < 0.02 * exact.norm()
    for got, want in zip(
        torch.autograd.grad(result.float().square().sum(), [x, *rest]),
        torch.autograd.grad(exact.square().sum(), [x, *rest]),
        strict=True,
    ):
        assert got.dtype == torch.float32
        assert (got - want).norm() < 0.02 * want.norm()
