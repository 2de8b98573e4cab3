"""What only the CUDA kernels of instance_norm and modulate serve: float16, and any width.

They run on a GPU, and on a CPU where tests/cuda emulates them.
"""

import os

import pytest
import torch
import torch.nn.functional as F

from nets import ops
from nets.ops.instance_norm import norm_backward_reference, norm_reference
from nets.ops.spade import modulate_backward_reference, modulate_reference

EMULATED = "CUDA_ON_CPU" in os.environ
DEVICE = "cpu" if EMULATED else "cuda"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# Channels: fewer than a warp's packs, more, no whole packs; pixels: fewer than rows, several parts.
SIZES = [(2, 8, 4, 5), (1, 264, 7, 3), (3, 5, 9, 7), (1, 1, 2, 1), (1, 16, 96, 64), (0, 8, 2, 2)]

if not EMULATED:
    pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def kernels():
    if not EMULATED and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if ops.kernel("instance_norm", DEVICE) != "compiled":
        pytest.skip("the operators are not compiled")


def drawn(*shape, dtype, seed=0):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)


def norm(call, back, x, grad, slope, eps=1e-5):
    """All that the operators write: y, scale, the gradient, and what is kept."""
    half = torch.float16 if x.dtype == torch.float32 else x.dtype
    y, scale = torch.empty_like(x), torch.empty(*x.shape[:2], 1, 1, device=DEVICE)
    scale = scale.to(torch.promote_types(x.dtype, torch.float32))
    kept = torch.empty_like(x, dtype=half) if slope == 0 else None
    call(x, y, scale, kept, slope, eps)
    results = [y, scale, back(grad, y, scale, kept, slope)]
    return results if kept is None else [*results, kept]


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_instance_norm(dtype, size, slope):
    x, grad = 3 * drawn(*size, dtype=dtype) + 2, drawn(*size, dtype=dtype, seed=1)
    op = torch.ops.guise
    ours = norm(op.instance_norm, op.instance_norm_backward, x, grad, slope)
    plain = norm(norm_reference, norm_backward_reference, x, grad, slope)
    exact = norm(norm_reference, norm_backward_reference, x.double(), grad.double(), slope)
    kink = (exact[0].abs() < 1e-2) & (slope != 1)  # there the sign may differ, and the gradient
    for i, (mine, other, want) in enumerate(zip(ours, plain, exact, strict=True)):
        assert mine.dtype == other.dtype and mine.shape == other.shape
        if mine.numel() == 0:
            continue
        errors = [(t.double() - want).abs() for t in (mine, other)]
        if i == 2:
            errors = [error * ~kink for error in errors]
        # An instance norm of two pixels divides by differences: relative to the largest.
        assert errors[0].max() <= 2 * errors[1].max() + 1e-6 * want.abs().max() + 1e-6


@pytest.mark.parametrize("misaligned", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_modulate(dtype, size, misaligned):
    n, c, h, w = size
    x, grad = drawn(*size, dtype=dtype), drawn(*size, dtype=dtype, seed=1)
    both = drawn(n, 2 * c, h, w, dtype=dtype, seed=2)
    if misaligned:  # an address that 16-byte accesses do not take
        room = torch.empty(x.numel() + 1, dtype=dtype, device=DEVICE)[1:]
        x = room.view(n, h, w, c).permute(0, 3, 1, 2).copy_(x)

    def all_of(call, back, x, both, grad):
        y, scale, by_x, by_both = (torch.empty_like(t) for t in (x, x, x, both))
        call(x, both, y, scale, 0.2)
        back(grad, y, x, scale, 0.2, by_x, by_both)
        return y, scale, by_x, by_both

    op = torch.ops.guise
    ours = all_of(op.modulate, op.modulate_backward, x, both, grad)
    inputs = [t.double() for t in (x, both, grad)]
    exact = all_of(modulate_reference, modulate_backward_reference, *inputs)
    for mine, want in zip(ours, exact, strict=True):
        bound = torch.finfo(dtype).eps * want.abs() + 2e-6  # rounded once, from float32
        assert ((mine.double() - want).abs() <= bound).all()


def test_an_outlier_and_an_offset_cost_no_digits():
    x = drawn(1, 4, 64, 64, dtype=torch.float32) + 1e5
    x[0, 1, 0, 0] = -3e5  # the pixel that is subtracted first
    y, scale = torch.empty_like(x), torch.empty(1, 4, 1, 1, device=DEVICE)
    torch.ops.guise.instance_norm(x, y, scale, None, 1.0, 1e-5)
    assert (y - F.instance_norm(x.double())).abs().max() < 1e-4


def test_the_same_bits_every_time():
    x, grad = (drawn(3, 16, 96, 64, dtype=torch.float32, seed=seed) for seed in (0, 1))
    op = torch.ops.guise
    first = norm(op.instance_norm, op.instance_norm_backward, x, grad, 0.0)
    again = norm(op.instance_norm, op.instance_norm_backward, x, grad, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("name", ["kept", "y", "scale"])
def test_what_is_wrong_is_named(name):
    x = drawn(2, 8, 4, 4, dtype=torch.float32)
    given = {
        "y": torch.empty_like(x),
        "scale": torch.empty(2, 8, 1, 1, device=DEVICE),
        "kept": torch.empty_like(x, dtype=torch.float16),
    }
    given[name] = given[name].double()
    with pytest.raises(RuntimeError, match=f"{name} must be"):
        torch.ops.guise.instance_norm(x, *given.values(), 0.0, 1e-5)
    with pytest.raises(RuntimeError, match=r"both must be .* with 16 channels"):
        torch.ops.guise.modulate(x, x, x, x, 0.2)
    y = torch.empty_like(x)
    with pytest.raises(RuntimeError, match="16 or 32 bits"):
        both = torch.cat([x, x], 1).double().contiguous(memory_format=torch.channels_last)
        torch.ops.guise.modulate(x.double(), both, y.double(), y.double(), 0.2)
