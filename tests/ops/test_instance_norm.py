"""instance_norm: F.instance_norm and a leaky ReLU, values and gradients, in place or not."""

import importlib

import pytest
import torch
import torch.nn.functional as F

from nets import ops

module = importlib.import_module("nets.ops.instance_norm")  # the package attribute is the function
needs_kernel = pytest.mark.skipif(
    ops.kernel("instance_norm", "cpu") != "compiled", reason="the operators are not compiled"
)
SIZES = [(3, 4, 8, 8), (2, 44, 16, 12), (1, 64, 33, 31), (2, 432, 5, 3), (2, 28, 128, 128)]
KINDS = [torch.float32, torch.bfloat16]


def image(size, dtype=torch.float32, layout=torch.channels_last, offset=7.0):
    x = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (3 * x + offset).to(dtype).contiguous(memory_format=layout)
    return x.requires_grad_()


def gradients(function, x, grad):
    y = function(x)
    return y, torch.autograd.grad(y, x, grad.to(y.dtype))[0]


def plain(slope):
    return lambda x: F.leaky_relu(F.instance_norm(x), slope)


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_in_double_precision_it_is_the_formula(slope, layout):
    x = image((2, 5, 6, 4), torch.float64, layout)
    grad = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours = gradients(lambda x: ops.instance_norm(x, slope), x, grad)
    torch.testing.assert_close(ours, gradients(plain(slope), x, grad), rtol=1e-9, atol=1e-9)


@needs_kernel
@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_the_kernel_is_as_exact_as_the_reference(monkeypatch, dtype, size, slope):
    x = image(size, dtype)
    grad = torch.randn(size, generator=torch.Generator().manual_seed(1)).to(dtype)
    grad = grad.contiguous(memory_format=torch.channels_last)
    exact = gradients(plain(slope), x.detach().double().requires_grad_(), grad)
    called = []
    for name in ("_norm", "_norm_backward"):
        packet = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, packet=packet, name=name: (called.append(name), packet(*a))[1]
        )
    ours = gradients(lambda x: ops.instance_norm(x, slope), x, grad)
    assert called == ["_norm", "_norm_backward"]
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr(module, "_serves", lambda x: False)
    theirs = gradients(lambda x: ops.instance_norm(x, slope), x, grad)
    # Values near 0 may change sign, and so have the other gradient.
    kink = (F.instance_norm(x.detach().double()).abs() < 1e-2) & (slope != 1)
    for mine, other, want in zip(ours, theirs, exact, strict=True):
        assert mine.dtype == dtype
        errors = [((t - want).abs() * ~kink).max() for t in (mine, other)]
        assert errors[0] <= 2 * errors[1] + 1e-6


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("dtype", KINDS, ids=str)
def test_in_place_is_the_same_to_the_last_bit(slope, dtype):
    x = image((3, 20, 8, 8))
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    results = []
    for inplace in (False, True):
        fresh = (2 * x).to(dtype)
        y = ops.instance_norm(fresh, slope, inplace=inplace)
        assert (y.data_ptr() == fresh.data_ptr()) == inplace
        results.append((y, torch.autograd.grad(y, x, grad.to(dtype))[0]))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("offset", [1e3, pytest.param(1e5, marks=needs_kernel)])
def test_a_large_offset_costs_no_digits(offset):
    """The mean is subtracted before the variance, and the kernel corrects its rounding error."""
    x = image((1, 4, 64, 64), offset=offset).detach()
    assert (ops.instance_norm(x) - F.instance_norm(x.double())).abs().max() < 1e-4


def test_in_float32_behind_a_relu_it_has_the_gradient_of_the_formula():
    """The kernel keeps only 11 bits of the negative part."""
    x = image((2, 8, 16, 16))
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    ours = gradients(lambda x: ops.instance_norm(x, 0.0), x, grad)
    torch.testing.assert_close(ours, gradients(plain(0.0), x, grad), rtol=1e-3, atol=2e-4)


@needs_kernel
def test_the_negative_part_is_kept_as_a_half():
    x = -torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0)).mul(4).exp()
    x = x.contiguous(memory_format=torch.channels_last)  # tiny numbers, and 60 times the deviation
    y, kept = torch.empty_like(x), torch.empty_like(x, dtype=torch.float16)
    scale = torch.empty(1, 4, 1, 1)
    torch.ops.guise.instance_norm(x, y, scale, kept, 0.0, 1e-5)
    normal = F.instance_norm(x.double()).clamp(max=0)
    assert normal.min() < -30 and ((normal < 0) & (normal > -1e-3)).any()
    torch.testing.assert_close(kept.double(), normal, rtol=2.0**-11, atol=6.2e-5)
    assert torch.equal(y, y.clamp(min=0))


def test_nan_and_infinity_stay_in_their_channel():
    x = image((2, 8, 16, 16)).detach()
    x[1, 3, 5, 5] = float("nan")
    x[0, 2, 5, 5] = float("inf")
    spoilt = ops.instance_norm(x, 0.2).isnan().flatten(2).any(2)
    assert spoilt.nonzero().tolist() == [[0, 2], [1, 3]]


def test_a_channel_of_one_value_is_zeros():
    x = torch.full((1, 4, 8, 8), 3.0).contiguous(memory_format=torch.channels_last)
    assert ops.instance_norm(x, 0.0).abs().max() == 0


def test_no_images_and_one_pixel():
    assert ops.instance_norm(torch.zeros(0, 4, 8, 8)).shape == (0, 4, 8, 8)
    with pytest.raises(ValueError, match="more than one pixel"):
        ops.instance_norm(torch.zeros(2, 3, 1, 1))
