"""Modulation of normalised pictures by maps.

The modulation has gradients of its own: what torch composes keeps more tensors for the backward
pass. Of the layers between the maps and its scale it keeps the hidden one where that has 16 bits a
number; else its backward makes it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nets import ops
from nets.landmarks.conv import as_autocast
from nets.ops import conv3x3, conv3x3_backward
from nets.spectral import full_precision

PIXELS = 1 << 14  # of float32 pictures that a modulation works on at once; of 16 bits, twice that


class Layers(NamedTuple):
    """3x3 convolutions with a ReLU between: maps -> hidden -> scale and shift."""

    weight: Tensor  # (hidden, K, 3, 3)
    bias: Tensor
    scale: Tensor  # (C, hidden, 3, 3)
    scale_bias: Tensor
    shift: Tensor  # (channels of the shift, hidden, 3, 3)
    shift_bias: Tensor


def modulate(x: Tensor, maps: Tensor, layers: Layers, slope: float) -> Tensor:
    """leaky_relu(x (1 + scale) + shift), slope > 0. SPADE (Park et al. 2019, eq. 1).

    x     (N, C, H, W), normalised
    maps  (N, K or more, H, W), from which `layers` make C channels of scale, C of shift; what they
          have more than K channels is zeros
    """
    return _apply(_Modulate, x, maps, layers, slope)


def modulate_through(x: Tensor, maps: Tensor, layers: Layers, weight: Tensor) -> Tensor:
    """W (x (1 + scale)) + shift, W (O, C, 1, 1): `layers` make C channels of scale, O of shift."""
    return _apply(_Through, x, maps, layers, weight)


def _apply(function: type, x: Tensor, maps: Tensor, layers: Layers, last: Any) -> Tensor:
    """In autocast's type, and with the channels of the maps."""
    weight = layers.weight
    if maps.shape[1] > weight.shape[1]:
        weight = F.pad(weight, (0, 0, 0, 0, 0, maps.shape[1] - weight.shape[1]))
    x, maps = as_autocast(x), as_autocast(maps)  # conv3x3 takes the weights as they are
    last = as_autocast(last) if isinstance(last, Tensor) else last
    with full_precision(x):
        return function.apply(x, maps, weight, *layers[1:], last)


def _hidden(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.relu_(conv3x3(maps, weight, bias).detach())


def _kept(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor | None:
    """The hidden layer of all pictures, if it is small enough to be kept."""
    return _hidden(maps, weight, bias) if maps.dtype.itemsize == 2 else None


def _hidden_of(
    rows: slice, kept: Tensor | None, maps: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """The hidden layer of some pictures, made where it was not kept."""
    return _hidden(maps[rows], weight, bias) if kept is None else kept[rows]


class _Modulate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, maps, weight, bias, to_scale, scale_bias, to_shift, shift_bias, slope):
        last, last_bias = torch.cat([to_scale, to_shift]), torch.cat([scale_bias, shift_bias])
        y, scale = torch.empty_like(x), torch.empty_like(x)
        kept = _kept(maps, weight, bias)
        for rows in _parts(x):
            both = conv3x3(_hidden_of(rows, kept, maps, weight, bias), last, last_bias)
            ops.modulate(x[rows], both, slope, y[rows], scale[rows])
        ctx.slope = slope
        ctx.save_for_backward(x, maps, weight, bias, to_scale, to_shift, kept, scale, y)
        return y

    @staticmethod
    def backward(ctx, grad):
        x, *layers, scale, y = ctx.saved_tensors
        by_x = torch.empty_like(x)

        def both(rows: slice, result: Tensor) -> None:
            ops.modulate_backward(
                grad[rows], y[rows], x[rows], scale[rows], ctx.slope, by_x[rows], result
            )

        return by_x, *_layers_backward(both, x, *layers), None


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, maps, weight, bias, to_scale, scale_bias, to_shift, shift_bias, matrix):
        last, last_bias = torch.cat([to_scale, to_shift]), torch.cat([scale_bias, shift_bias])
        c = x.shape[1]
        y, scale = _like(x, len(matrix)), torch.empty_like(x)
        kept = _kept(maps, weight, bias)
        for rows in _parts(x):
            both = conv3x3(_hidden_of(rows, kept, maps, weight, bias), last, last_bias)
            factor, shift = both[:, :c], both[:, c:]
            scale[rows] = factor
            y[rows] = F.conv2d(torch.addcmul(x[rows], x[rows], factor), matrix) + shift
        ctx.save_for_backward(x, maps, weight, bias, to_scale, to_shift, kept, scale, matrix)
        return y

    @staticmethod
    def backward(ctx, grad):
        x, *layers, scale, matrix = ctx.saved_tensors
        by_x, by_matrix = torch.empty_like(x), torch.zeros_like(matrix, dtype=layers[1].dtype)

        def both(rows: slice, result: Tensor) -> None:
            c = x.shape[1]
            g, by_part, _ = torch.ops.aten.convolution_backward(
                grad[rows], torch.addcmul(x[rows], x[rows], scale[rows]), matrix, None,
                (1, 1), (0, 0), (1, 1), False, (0, 0), 1, (True, True, False),
            )  # fmt: skip
            by_matrix.add_(by_part)
            result[:, :c].copy_(g).mul_(x[rows])
            result[:, c:] = grad[rows]
            by_x[rows] = g.addcmul_(g, scale[rows])

        return by_x, *_layers_backward(both, x, *layers), by_matrix.to(matrix.dtype)


def _layers_backward(
    both_at: Callable[[slice, Tensor], None],  # writes their gradients, of scale and shift
    x: Tensor,
    maps: Tensor,
    weight: Tensor,
    bias: Tensor,
    to_scale: Tensor,
    to_shift: Tensor,
    kept: Tensor | None,
) -> list[Tensor]:
    """Gradients of the maps and of all `Layers`."""
    last = torch.cat([to_scale, to_shift])
    c, by_maps, sums = x.shape[1], torch.empty_like(maps), None
    for rows in _parts(x):
        both = _like(x[rows], len(last))
        both_at(rows, both)
        hidden = _hidden_of(rows, kept, maps, weight, bias)
        by_hidden, *by_last = conv3x3_backward(both, hidden, last)
        del both
        torch.ops.aten.threshold_backward.grad_input(by_hidden, hidden, 0, grad_input=by_hidden)
        del hidden
        by_maps[rows], *by_first = conv3x3_backward(by_hidden, maps[rows], weight)
        parts = [*by_first, *by_last]
        sums = parts if sums is None else [a.add_(b) for a, b in zip(sums, parts, strict=True)]
    *first, by_last, by_last_bias = sums
    return [by_maps, *first, by_last[:c], by_last_bias[:c], by_last[c:], by_last_bias[c:]]


def _parts(x: Tensor) -> list[slice]:
    """The pictures, so many at once as have so many pixels; PIXELS keep the hidden layer small."""
    if x.device.type != "cpu":
        return [slice(0, len(x))]
    step = max(1, PIXELS * 4 // (x.dtype.itemsize * x.shape[2] * x.shape[3]))
    return [slice(i, i + step) for i in range(0, len(x), step)]


def _like(x: Tensor, channels: int) -> Tensor:
    n, _, h, w = x.shape
    return torch.empty(
        (n, channels, h, w), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
