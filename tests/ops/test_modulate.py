"""modulate and modulate_backward against the formula and its autograd."""

import importlib

import pytest
import torch
import torch.nn.functional as F

from nets import ops

module = importlib.import_module("nets.ops.spade")
needs_kernel = pytest.mark.skipif(
    ops.kernel("modulate", "cpu") != "compiled", reason="the operators are not compiled"
)
SLOPE = 0.2


def drawn(n, c, h, w, dtype, layout=torch.channels_last):
    """x, scale and shift concatenated, and a gradient."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(n, c, h, w), (n, 2 * c, h, w), (n, c, h, w)]
    drawn = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    return [t.to(dtype).contiguous(memory_format=layout) for t in drawn]


def exact(x, both, grad):
    """y, scale, gradient of x, gradients of scale and shift concatenated, in float64."""
    x, both = (t.double().requires_grad_() for t in (x, both))
    scale, shift = both.chunk(2, dim=1)
    y = F.leaky_relu(x * (1 + scale) + shift, SLOPE)
    return y.detach(), scale.detach(), *torch.autograd.grad(y, (x, both), grad.double())


def computed(x, both, grad):
    y, scale, by_x, by_both = (torch.empty_like(t) for t in (x, x, x, both))
    ops.modulate(x, both, SLOPE, y, scale)
    ops.modulate_backward(grad, y, x, scale, SLOPE, by_x, by_both)
    return y, scale, by_x, by_both


@needs_kernel
@pytest.mark.parametrize("size", [(2, 16, 9, 7), (1, 64, 33, 31), (3, 48, 1, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_kernel_rounds_once(monkeypatch, dtype, size):
    for name in ("modulate_reference", "modulate_backward_reference"):
        monkeypatch.setattr(module, name, None)
    inputs = drawn(*size, dtype)
    y, scale, by_x, by_both = computed(*inputs)
    want = exact(*inputs)
    assert torch.equal(scale, want[1].to(dtype))
    for got, expected in zip((y, by_x, by_both), (want[0], *want[2:]), strict=True):
        # Half a unit of the type, plus float32 rounding of a sum with cancellation.
        bound = torch.finfo(dtype).eps * expected.abs() + 1e-6
        assert ((got.double() - expected).abs() <= bound).all()


CASES = {
    "channels that are no vectors": (drawn(2, 5, 6, 4, torch.float32), 1e-5),
    "double": (drawn(2, 16, 6, 4, torch.float64), 1e-12),
    "not channels_last": (drawn(2, 16, 6, 4, torch.float32, torch.contiguous_format), 1e-5),
    "bfloat16": (drawn(2, 5, 6, 4, torch.bfloat16), 0.05),
}


@pytest.mark.parametrize("case", CASES)
def test_the_reference_serves_the_rest(monkeypatch, case):
    monkeypatch.setattr(module, "_modulate", None)
    monkeypatch.setattr(module, "_modulate_backward", None)
    inputs, tolerance = CASES[case]
    for got, expected in zip(computed(*inputs), exact(*inputs), strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


def test_parts_of_a_batch_are_written_in_place():
    x, both, grad = drawn(3, 16, 4, 4, torch.float32)
    whole = computed(x, both, grad)
    y, scale, by_x = (torch.full_like(x, 7.0) for _ in range(3))
    ops.modulate(x[1:2], both[1:2], SLOPE, y[1:2], scale[1:2])
    result = torch.empty_like(both[1:2])
    ops.modulate_backward(grad[1:2], y[1:2], x[1:2], scale[1:2], SLOPE, by_x[1:2], result)
    for part, all_ in zip((y, scale, by_x), whole, strict=False):
        assert torch.equal(part[1], all_[1])
        assert (part[[0, 2]] == 7).all()
    assert torch.equal(result[0], whole[3][1])


@needs_kernel
def test_nan_stays_nan():
    x, both, grad = drawn(1, 16, 2, 2, torch.float32)
    x[0, 0, 0, 0], both[0, 1, 0, 1], both[0, 18, 1, 1] = float("nan"), float("nan"), float("inf")
    y, _, by_x, _ = computed(x, both, grad)
    assert y[0, 0, 0, 0].isnan() and y[0, 1, 0, 1].isnan() and y[0, 2, 1, 1].isinf()
    assert by_x[0, 1, 0, 1].isnan()


@needs_kernel
def test_the_kernel_names_what_is_wrong():
    x, both, _ = drawn(2, 16, 4, 4, torch.float32)
    y = torch.empty_like(x)
    call = torch.ops.guise.modulate
    with pytest.raises(
        RuntimeError, match=r"both must be .* with 32 channels, got \[2, 16, 4, 4\]"
    ):
        call(x, x, y, y, SLOPE)
    with pytest.raises(RuntimeError, match="y must be channels_last"):
        call(x, both, y.contiguous(), y, SLOPE)
    with pytest.raises(RuntimeError, match=r"x must be .* of a multiple of"):
        call(x[:, :5], both, y, y, SLOPE)


def test_opcheck():
    x, both, grad = drawn(2, 16, 4, 4, torch.float32)
    y, scale = torch.randn_like(x), torch.randn_like(x)
    torch.library.opcheck(torch.ops.guise.modulate, (x, both, y, scale, SLOPE))
    args = (grad, y, x, scale, SLOPE, torch.empty_like(x), torch.empty_like(both))
    torch.library.opcheck(torch.ops.guise.modulate_backward, args)
