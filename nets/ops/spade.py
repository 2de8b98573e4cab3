"""SPADE modulation with gradients of its own, which keep less than those that autograd composes.

Between the maps and the scale lies a hidden layer, much larger than the image. It is kept for the
backward pass or computed again there, which `recompute` chooses. Park et al. 2019, "Semantic image
synthesis with spatially-adaptive normalization", eq. 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nets.ops._library import define, kernel
from nets.ops.autocast import as_autocast, full_precision
from nets.ops.conv3x3 import conv3x3, conv3x3_backward


def modulate(x: Tensor, both: Tensor, slope: float, y: Tensor, scale: Tensor) -> None:
    """Writes y = leaky_relu(x (1 + scale) + shift), and a copy of the scale for the backward pass.

    x         [N, C, H, W]   any floating type and layout
    both      [N, 2C, H, W]  scale, then shift
    slope     of the leaky ReLU, above 0
    y, scale  of x's shape, overwritten; may be slices of a larger batch

    Autograd does not see it: use it inside functions with gradients of their own. The kernels serve
    channels_last: on the CPU float32 and bfloat16 with a multiple of 16 channels, on CUDA float16
    as well and any number of channels. Arithmetic is in float32. Park et al. 2019, eq. 1.
    """
    (_modulate if _serves(x, both, y, scale) else modulate_reference)(x, both, y, scale, slope)


def modulate_backward(
    grad: Tensor, y: Tensor, x: Tensor, scale: Tensor, slope: float, by_x: Tensor, both: Tensor
) -> None:
    """Writes the gradients of `modulate`: by_x of x's shape, and `both` [N, 2C, H, W]."""
    serves = _serves(x, grad, y, scale, by_x, both)
    back = _modulate_backward if serves else modulate_backward_reference
    back(grad, y, x, scale, slope, by_x, both)


def _serves(x: Tensor, *others: Tensor) -> bool:
    on_cpu = x.device.type == "cpu"
    return (
        not torch.compiler.is_compiling()
        and x.dtype in (torch.float32, torch.bfloat16, *([] if on_cpu else [torch.float16]))
        and (x.shape[1] % 16 == 0 or not on_cpu)
        and all(t.dtype == x.dtype for t in others)
        and all(t.is_contiguous(memory_format=torch.channels_last) for t in (x, *others))
        and kernel("modulate", x.device.type) == "compiled"
    )


def modulate_reference(x: Tensor, both: Tensor, y: Tensor, scale: Tensor, slope: float) -> None:
    """The definition, in stock torch."""
    factor, shift = both.chunk(2, dim=1)
    scale.copy_(factor)
    y.copy_(F.leaky_relu_(torch.addcmul(shift + x, x, factor), slope))


def modulate_backward_reference(
    grad: Tensor, y: Tensor, x: Tensor, scale: Tensor, slope: float, by_x: Tensor, both: Tensor
) -> None:
    """The definition of `modulate_backward`, in stock torch."""
    c = x.shape[1]
    g = torch.ops.aten.leaky_relu_backward(grad, y, slope, True)
    both[:, :c].copy_(g).mul_(x)
    both[:, c:] = g
    by_x.copy_(g).addcmul_(g, scale)


_modulate = define(
    "modulate(Tensor x, Tensor both, Tensor(a!) y, Tensor(b!) scale, float slope) -> ()",
    modulate_reference,
    lambda x, both, y, scale, slope: None,
    autocast=False,
    vmap=False,
)
_modulate_backward = define(
    "modulate_backward(Tensor grad, Tensor y, Tensor x, Tensor scale, float slope, "
    "Tensor(a!) by_x, Tensor(b!) both) -> ()",
    modulate_backward_reference,
    lambda grad, y, x, scale, slope, by_x, both: None,
    autocast=False,
    vmap=False,
)


PIXELS = 1 << 14  # of float32 images that are modulated at once on the CPU; of 16 bits, twice that
SHARE = 1 / 64  # of a GPU's memory that one hidden layer in float32 may take to be kept


class SpadeLayers(NamedTuple):
    """3x3 convolutions with a ReLU between: maps -> hidden -> scale and shift."""

    weight: Tensor  # [hidden, K, 3, 3]
    bias: Tensor
    scale: Tensor  # [C, hidden, 3, 3]
    scale_bias: Tensor
    shift: Tensor  # [channels of the shift, hidden, 3, 3]
    shift_bias: Tensor


def spade_modulate(
    x: Tensor, maps: Tensor, layers: SpadeLayers, slope: float, recompute: bool | None = None
) -> Tensor:
    """leaky_relu(x (1 + scale) + shift), scale and shift computed from maps by `layers`.

    x          [N, C, H, W], normalised
    maps       [N, K or more, H, W]; channels beyond K are zeros
    layers     with C channels of scale and C of shift
    slope      of the leaky ReLU, above 0
    recompute  compute the hidden layer again in the backward pass, for less memory. None: on the
               CPU in float32 only; on CUDA only if it takes more than 1/64 of the GPU's memory
    returns    [N, C, H, W], differentiable once in x, maps and layers
    """
    if torch.compiler.is_exporting():  # a graph for batches of any size, without gradients
        return spade_modulate_reference(x, maps[:, : layers.weight.shape[1]], layers, slope)
    return _apply(_Modulate, x, maps, layers, slope, recompute)


def spade_modulate_conv1x1(
    x: Tensor, maps: Tensor, layers: SpadeLayers, weight: Tensor, recompute: bool | None = None
) -> Tensor:
    """weight (x (1 + scale)) + shift: modulation, a 1x1 convolution within, no activation.

    x, maps    as for `spade_modulate`
    layers     with C channels of scale and O of shift
    weight     [O, C, 1, 1]
    recompute  as for `spade_modulate`
    returns    [N, O, H, W], differentiable once in all
    """
    if torch.compiler.is_exporting():
        maps = maps[:, : layers.weight.shape[1]]
        return spade_modulate_conv1x1_reference(x, maps, layers, weight)
    return _apply(_ModulateConv, x, maps, layers, weight, recompute)


def spade_modulate_reference(x: Tensor, maps: Tensor, layers: SpadeLayers, slope: float) -> Tensor:
    """The definition of `spade_modulate`, in stock torch; maps of K channels."""
    scale, shift = _scale_and_shift(maps, layers)
    return F.leaky_relu(x * (1 + scale) + shift, slope)


def spade_modulate_conv1x1_reference(
    x: Tensor, maps: Tensor, layers: SpadeLayers, weight: Tensor
) -> Tensor:
    """The definition of `spade_modulate_conv1x1`, in stock torch; maps of K channels."""
    scale, shift = _scale_and_shift(maps, layers)
    return F.conv2d(x * (1 + scale), weight) + shift


def _scale_and_shift(maps: Tensor, layers: SpadeLayers) -> tuple[Tensor, Tensor]:
    hidden = F.relu(F.conv2d(maps, layers.weight, layers.bias, padding=1))
    scale = F.conv2d(hidden, layers.scale, layers.scale_bias, padding=1)
    return scale, F.conv2d(hidden, layers.shift, layers.shift_bias, padding=1)


def _apply(
    function: type[torch.autograd.Function],
    x: Tensor,
    maps: Tensor,
    layers: SpadeLayers,
    last: Tensor | float,
    recompute: bool | None,
) -> Tensor:
    """The function in autocast's type; the first weight takes the zero channels of the maps."""
    weight = layers.weight
    if maps.shape[1] > weight.shape[1]:
        weight = F.pad(weight, (0, 0, 0, 0, 0, maps.shape[1] - weight.shape[1]))
    x, maps = as_autocast(x), as_autocast(maps)  # conv3x3 takes the weights as they are
    last = as_autocast(last) if isinstance(last, Tensor) else last
    with full_precision(x):
        if recompute is None:
            recompute = _recomputes(maps, len(weight))
        return function.apply(x, maps, weight, *layers[1:], last, recompute)


def _hidden(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.relu_(conv3x3(maps, weight, bias).detach())


def _recomputes(maps: Tensor, channels: int) -> bool:
    """True if the hidden layer of so many channels is too large to be kept."""
    if maps.dtype.itemsize == 2:
        return False
    if maps.device.type != "cuda":
        return True
    size = maps.shape[0] * channels * maps.shape[2] * maps.shape[3] * maps.dtype.itemsize
    return size > SHARE * torch.cuda.get_device_properties(maps.device).total_memory


def _hidden_of(
    rows: slice, kept: Tensor | None, maps: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """The hidden layer of some images, computed where it was not kept."""
    return _hidden(maps[rows], weight, bias) if kept is None else kept[rows]


class _Modulate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        maps: Tensor,
        weight: Tensor,
        bias: Tensor,
        to_scale: Tensor,
        scale_bias: Tensor,
        to_shift: Tensor,
        shift_bias: Tensor,
        slope: float,
        recompute: bool,
    ) -> Tensor:
        last, last_bias = torch.cat([to_scale, to_shift]), torch.cat([scale_bias, shift_bias])
        y, scale = torch.empty_like(x), torch.empty_like(x)
        kept = None if recompute else _hidden(maps, weight, bias)
        for rows in _parts(x):
            both = conv3x3(_hidden_of(rows, kept, maps, weight, bias), last, last_bias)
            modulate(x[rows], both, slope, y[rows], scale[rows])
        ctx.slope = slope
        ctx.save_for_backward(x, maps, weight, bias, to_scale, to_shift, kept, scale, y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *layers, scale, y = ctx.saved_tensors
        by_x = torch.empty_like(x)

        def write(rows: slice, result: Tensor) -> None:
            modulate_backward(
                grad[rows], y[rows], x[rows], scale[rows], ctx.slope, by_x[rows], result
            )

        return by_x, *_layers_backward(write, x, *layers), None, None


class _ModulateConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        maps: Tensor,
        weight: Tensor,
        bias: Tensor,
        to_scale: Tensor,
        scale_bias: Tensor,
        to_shift: Tensor,
        shift_bias: Tensor,
        matrix: Tensor,
        recompute: bool,
    ) -> Tensor:
        last, last_bias = torch.cat([to_scale, to_shift]), torch.cat([scale_bias, shift_bias])
        c = x.shape[1]
        y, scale = _empty(x, len(matrix)), torch.empty_like(x)
        kept = None if recompute else _hidden(maps, weight, bias)
        for rows in _parts(x):
            both = conv3x3(_hidden_of(rows, kept, maps, weight, bias), last, last_bias)
            factor, shift = both[:, :c], both[:, c:]
            scale[rows] = factor
            y[rows] = F.conv2d(torch.addcmul(x[rows], x[rows], factor), matrix) + shift
        ctx.save_for_backward(x, maps, weight, bias, to_scale, to_shift, kept, scale, matrix)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *layers, scale, matrix = ctx.saved_tensors
        by_x, by_matrix = torch.empty_like(x), torch.zeros_like(matrix, dtype=layers[1].dtype)

        def write(rows: slice, result: Tensor) -> None:
            c = x.shape[1]
            g, by_part, _ = torch.ops.aten.convolution_backward(
                grad[rows], torch.addcmul(x[rows], x[rows], scale[rows]), matrix, None,
                (1, 1), (0, 0), (1, 1), False, (0, 0), 1, (True, True, False),
            )  # fmt: skip
            by_matrix.add_(by_part)
            result[:, :c].copy_(g).mul_(x[rows])
            result[:, c:] = grad[rows]
            by_x[rows] = g.addcmul_(g, scale[rows])

        return by_x, *_layers_backward(write, x, *layers), by_matrix.to(matrix.dtype), None


def _layers_backward(
    write: Callable[[slice, Tensor], None],
    x: Tensor,
    maps: Tensor,
    weight: Tensor,
    bias: Tensor,
    to_scale: Tensor,
    to_shift: Tensor,
    kept: Tensor | None,
) -> list[Tensor]:
    """Gradients of the maps and of all `SpadeLayers`.

    write  puts the gradients of scale and shift, of some images, into a tensor
    """
    last = torch.cat([to_scale, to_shift])
    c, by_maps = x.shape[1], torch.empty_like(maps)
    sums: list[Tensor] = []
    for rows in _parts(x):
        both = _empty(x[rows], len(last))
        write(rows, both)
        hidden = _hidden_of(rows, kept, maps, weight, bias)
        by_hidden, *parts_last = conv3x3_backward(both, hidden, last)
        del both
        torch.ops.aten.threshold_backward.grad_input(by_hidden, hidden, 0, grad_input=by_hidden)
        del hidden
        by_maps[rows], *parts_first = conv3x3_backward(by_hidden, maps[rows], weight)
        parts = [*parts_first, *parts_last]
        sums = [a.add_(b) for a, b in zip(sums, parts, strict=True)] if sums else parts
    *by_first, by_last, by_last_bias = sums
    return [by_maps, *by_first, by_last[:c], by_last_bias[:c], by_last[c:], by_last_bias[c:]]


def _parts(x: Tensor) -> list[slice]:
    """Slices of the batch with at most PIXELS pixels each: they keep the hidden layer small."""
    if x.device.type != "cpu":
        return [slice(0, len(x))]
    step = max(1, PIXELS * 4 // (x.dtype.itemsize * x.shape[2] * x.shape[3]))
    return [slice(i, i + step) for i in range(0, len(x), step)]


def _empty(x: Tensor, channels: int) -> Tensor:
    """An empty image like x, channels_last, with so many channels."""
    n, _, h, w = x.shape
    return torch.empty(
        (n, channels, h, w), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
