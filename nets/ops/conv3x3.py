"""3x3 convolutions on CPUs by Winograd's algorithm, which needs 2.25 times fewer products."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
import torch.nn.grad
from torch import Tensor

from nets.ops._library import define, kernel

LANES = 16  # channels in a vector of the kernel
LEAST = 512  # pixels of a batch; below, transforming the filters costs more than it saves


def conv3x3(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, added: Tensor | None = None
) -> Tensor:
    """The convolution that F.conv2d computes with stride 1 and zero padding 1, plus `added`.

    x        [N, I, H, W]  any floating type and layout
    weight   [O, I, 3, 3]  of x's type; for bfloat16 preferably float32, which is not rounded first
    bias     [O] or None, of the weight's type
    added    [N, O, H, W] or None: a second summand, such as the input of a residual block
    returns  [N, O, H, W], differentiable once in all four where the kernel serves

    The kernel computes Winograd's F(2x2, 3x3), see `csrc/layers/winograd.h`. It serves float32 and,
    with float32 weights, bfloat16 on the CPU. I and O must be multiples of 16, and the batch must
    have 512 pixels or more. Everything else goes to F.conv2d. Autocast to bfloat16 is followed.
    The kernel's result is channels_last. In float32 it is exact to rounding. In bfloat16 its error
    is at most 1.5 times that of F.conv2d, because tiles and filters are rounded after their
    transforms. An infinity in a tile of 4x4 pixels gives NaN. The order in which weight gradients
    are summed depends on the number of threads.
    """
    if _autocasts(x, weight):
        with torch.autocast("cpu", enabled=False):
            return conv3x3(x.to(torch.bfloat16), weight, bias, added)
    if added is not None and added.dtype != x.dtype:
        return added + conv3x3(x, weight, bias)
    if not _serves(x, weight, bias, added):
        y = _conv2d(x, weight, bias)
        return y if added is None else added + y
    bias = None if bias is None else bias.contiguous()
    return _conv(_last(x), _last(weight), bias, None if added is None else _last(added))


def conv3x3_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias of `conv3x3(x, weight, bias)`, from that of its result.

    For the backward pass of a function that computes convolutions itself.
    """
    if _serves(x, weight, None, None) and grad.dtype == x.dtype:
        grad, x, weight = _last(grad), _last(x), _last(weight)
        return _input_backward(grad, weight), *_weight_backward(grad, x)
    by_x, by_weight, by_bias = torch.ops.aten.convolution_backward(
        grad, x, _like(weight, x), [len(weight)], (1, 1), (1, 1), (1, 1), False, (0, 0), 1,
        (True, True, True),
    )  # fmt: skip
    return by_x, by_weight.to(weight.dtype), by_bias.to(weight.dtype)


def _autocasts(x: Tensor, weight: Tensor) -> bool:
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return False
    types = torch.float32, torch.bfloat16
    to_brain = torch.get_autocast_dtype("cpu") == torch.bfloat16
    return to_brain and x.dtype in types and weight.dtype == torch.float32


def _conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    bias = None if bias is None else _like(bias, x)
    return F.conv2d(x, _like(weight, x), bias, padding=1)


def _like(t: Tensor, x: Tensor) -> Tensor:
    """The weight in x's type if it is float32 and x has 16 bits, else as it is."""
    small = t.dtype == torch.float32 and x.dtype in (torch.bfloat16, torch.half)
    return t.to(x.dtype) if small else t


def _serves(x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None) -> bool:
    """True if the kernel takes these tensors and is faster on them than F.conv2d."""
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or x.ndim != 4:
        return False
    if torch.compiler.is_exporting():  # what is chosen here must hold for a batch of any size
        return False
    n, inputs, h, w = x.shape
    outputs = weight.shape[0]
    if n * h * w < LEAST or inputs % LANES or outputs % LANES or not inputs * outputs:
        return False
    if weight.shape != (outputs, inputs, 3, 3):
        return False
    if (bias is not None and bias.shape != (outputs,)) or (
        added is not None and added.shape != (n, outputs, h, w)
    ):
        return False
    if any(t is not None and t.dtype != torch.float32 for t in (weight, bias)):
        return False
    if x.dtype != torch.float32 and (x.dtype != torch.bfloat16 or _has_tiles()):
        return False
    return (added is None or added.dtype == x.dtype) and _compiled()


@functools.cache
def _has_tiles() -> bool:
    """True if the processor has AMX tiles for bfloat16: there F.conv2d is faster."""
    ask = getattr(torch.cpu, "get_capabilities", None)  # missing in older torch
    return bool(ask and ask().get("amx_bf16"))


def _compiled() -> bool:
    return kernel("conv3x3", "cpu") == "compiled"


# The mark that torch.compiler.assume_constant_result sets. Calling that would import torch._dynamo,
# which takes seconds (tests/test_imports.py).
_compiled._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last)


def conv3x3_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None
) -> Tensor:
    """The definition, in stock torch."""
    y = _conv2d(x, weight, bias)
    return _last(y if added is None else added + y)


def conv3x3_input_backward_reference(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient of x, in stock torch."""
    shape = (grad.shape[0], weight.shape[1], *grad.shape[2:])
    return _last(torch.nn.grad.conv2d_input(shape, _like(weight, grad), grad, padding=1))


def conv3x3_weight_backward_reference(grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of weight and bias, in float32, in stock torch."""
    shape = (grad.shape[1], x.shape[1], 3, 3)
    weight = _last(torch.nn.grad.conv2d_weight(x, shape, grad, padding=1).float())
    return weight, grad.sum((0, 2, 3), dtype=torch.float32)


def _empty(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    dtype = dtype or like.dtype
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=torch.channels_last)


_conv = define(
    "conv3x3(Tensor x, Tensor weight, Tensor? bias, Tensor? added) -> Tensor",
    conv3x3_reference,
    lambda x, weight, bias, added: _empty(x, x.shape[0], weight.shape[0], *x.shape[2:]),
    vmap=False,
)
_input_backward = define(
    "conv3x3_input_backward(Tensor grad, Tensor weight) -> Tensor",
    conv3x3_input_backward_reference,
    lambda grad, weight: _empty(grad, grad.shape[0], weight.shape[1], *grad.shape[2:]),
    autocast=False,
    vmap=False,
)
_weight_backward = define(
    "conv3x3_weight_backward(Tensor grad, Tensor x) -> (Tensor, Tensor)",
    conv3x3_weight_backward_reference,
    lambda grad, x: (
        _empty(grad, grad.shape[1], x.shape[1], 3, 3, dtype=torch.float32),
        grad.new_empty(grad.shape[1], dtype=torch.float32),
    ),
    autocast=False,
    vmap=False,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, _, _ = inputs
    ctx.save_for_backward(x, weight)


@torch.autograd.function.once_differentiable
def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    grad = _last(grad)
    x_needs, weight_needs, bias_needs, added_needs = ctx.needs_input_grad
    by_x = _input_backward(grad, weight) if x_needs else None
    by_weight, by_bias = _weight_backward(grad, x) if weight_needs else (None, None)
    if bias_needs and not weight_needs:
        by_bias = grad.sum((0, 2, 3), dtype=torch.float32)
    return by_x, by_weight, by_bias if bias_needs else None, grad if added_needs else None


torch.library.register_autograd("guise::conv3x3", _backward, setup_context=_setup)
