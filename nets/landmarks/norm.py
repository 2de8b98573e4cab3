"""Instance norm without parameters, modulation by maps, and the convolution between them.

The norm and the modulation have gradients of their own: what torch composes keeps more tensors for
the backward pass, and its instance norm copies pictures that are channels_last. A modulation keeps
none of the layers between the maps and its scale; its backward pass makes them again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nets.ops import conv3x3, conv3x3_backward
from nets.spectral import full_precision

PIXELS = 1 << 14  # of the pictures that a modulation works on at once
LANES = 16  # channels come in multiples of this where convolutions are fastest


def instance_norm(x: Tensor, slope: float = 1.0, eps: float = 1e-5) -> Tensor:
    """Each channel of each picture with mean 0 and variance 1 (biased), then leaky ReLU.

    slope  of the leaky ReLU; 1: none, 0: ReLU
    Statistics are in float32. Raises ValueError where a channel is a single pixel: its variance
    says nothing.
    """
    if x.shape[2] * x.shape[3] == 1:
        raise ValueError(
            f"instance_norm: x must have more than one pixel a channel, got {list(x.shape)}"
        )
    return _Norm.apply(x, slope, eps)


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
    tensors = [x, maps, weight, *layers[1:], last]
    device = x.device.type
    if not x.is_meta and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        tensors = [t.to(dtype) if isinstance(t, Tensor) else t for t in tensors]
    with full_precision(x):
        return function.apply(*tensors)


def conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """3x3 convolution of stride 1 and padding 1; some zero channels make it a faster one."""
    outputs, inputs = weight.shape[:2]
    slow = x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
    if slow or min(inputs, outputs) < LANES:
        return F.conv2d(x, weight, bias, padding=1)
    more, beyond = -inputs % LANES, -outputs % LANES
    if more:
        x = F.pad(x, (0, 0, 0, 0, 0, more))
    if more or beyond:
        weight = F.pad(weight, (0, 0, 0, 0, 0, more, 0, beyond))
        bias = None if bias is None else F.pad(bias, (0, beyond))
    y = conv3x3(x, weight, bias)
    return y[:, :outputs] if beyond else y


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, slope, eps):
        real = x if x.dtype == torch.float64 else x.float()
        y = real - real.mean((2, 3), keepdim=True)
        scale = y.square().mean((2, 3), keepdim=True).add_(eps).rsqrt_()
        y.mul_(scale)
        kept = []
        if slope == 0:
            # What a ReLU cuts off enters the gradient only times the mean of gradient and output,
            # a small number: 11 bits of it are enough.
            kept = [y.clamp(max=0).to(torch.float16 if x.dtype == torch.float32 else x.dtype)]
        y = (y if slope == 1 else F.leaky_relu_(y, slope)).to(x.dtype)
        ctx.slope = slope
        ctx.save_for_backward(y, scale, *kept)
        return y

    @staticmethod
    def backward(ctx, grad):
        y, scale, *kept = ctx.saved_tensors
        slope, dtype = ctx.slope, grad.dtype
        g = grad if slope == 1 else torch.ops.aten.leaky_relu_backward(grad, y, slope, True)
        g = g if g.dtype == torch.float64 else g.float()
        normal = y.to(g.dtype)
        if slope not in (0, 1):
            normal = F.leaky_relu(normal, 1 / slope)
        along = (g * normal).mean((2, 3), keepdim=True)
        if kept:
            normal = normal + kept[0]
        result = (g - g.mean((2, 3), keepdim=True)).addcmul_(normal, along, value=-1).mul_(scale)
        return result.to(dtype), None, None


def _hidden(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.relu_(conv3x3(maps, weight, bias).detach())


class _Modulate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, maps, weight, bias, to_scale, scale_bias, to_shift, shift_bias, slope):
        last, last_bias = torch.cat([to_scale, to_shift]), torch.cat([scale_bias, shift_bias])
        y, scale = torch.empty_like(x), torch.empty_like(x)
        for rows in _parts(x):
            both = conv3x3(_hidden(maps[rows], weight, bias), last, last_bias)
            factor, shift = both.chunk(2, dim=1)
            scale[rows] = factor
            y[rows] = F.leaky_relu_(torch.addcmul(x[rows] + shift, x[rows], factor), slope)
        ctx.slope = slope
        ctx.save_for_backward(x, maps, weight, bias, to_scale, to_shift, scale, y)
        return y

    @staticmethod
    def backward(ctx, grad):
        x, maps, weight, bias, to_scale, to_shift, scale, y = ctx.saved_tensors
        g = torch.ops.aten.leaky_relu_backward(grad, y, ctx.slope, True)
        last = torch.cat([to_scale, to_shift])
        by_layers = _layers_backward(g, g, x, maps, weight, bias, last)
        return torch.addcmul(g, g, scale), *by_layers, None


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, maps, weight, bias, to_scale, scale_bias, to_shift, shift_bias, matrix):
        last, last_bias = torch.cat([to_scale, to_shift]), torch.cat([scale_bias, shift_bias])
        c = x.shape[1]
        y, scale = _like(x, len(matrix)), torch.empty_like(x)
        for rows in _parts(x):
            both = conv3x3(_hidden(maps[rows], weight, bias), last, last_bias)
            factor, shift = both[:, :c], both[:, c:]
            scale[rows] = factor
            y[rows] = F.conv2d(torch.addcmul(x[rows], x[rows], factor), matrix) + shift
        ctx.save_for_backward(x, maps, weight, bias, to_scale, to_shift, scale, matrix)
        return y

    @staticmethod
    def backward(ctx, grad):
        x, maps, weight, bias, to_scale, to_shift, scale, matrix = ctx.saved_tensors
        g, by_matrix, _ = torch.ops.aten.convolution_backward(
            grad, torch.addcmul(x, x, scale), matrix, None,
            (1, 1), (0, 0), (1, 1), False, (0, 0), 1, (True, True, False),
        )  # fmt: skip
        last = torch.cat([to_scale, to_shift])
        by_layers = _layers_backward(g, grad, x, maps, weight, bias, last)
        return torch.addcmul(g, g, scale), *by_layers, by_matrix


def _layers_backward(
    grad: Tensor,
    by_shift: Tensor,
    x: Tensor,
    maps: Tensor,
    weight: Tensor,
    bias: Tensor,
    last: Tensor,
) -> list[Tensor]:
    """Gradients of the maps and of all `Layers`; `grad` is that of x (1 + scale)."""
    c, by_maps, sums = x.shape[1], torch.empty_like(maps), None
    for rows in _parts(x):
        both = _like(x[rows], len(last))
        torch.mul(grad[rows], x[rows], out=both[:, :c])
        both[:, c:] = by_shift[rows]
        hidden = _hidden(maps[rows], weight, bias)
        by_hidden, *by_last = conv3x3_backward(both, hidden, last)
        del both
        by_hidden = torch.ops.aten.threshold_backward(by_hidden, hidden, 0)
        del hidden
        by_maps[rows], *by_first = conv3x3_backward(by_hidden, maps[rows], weight)
        parts = [*by_first, *by_last]
        sums = parts if sums is None else [a.add_(b) for a, b in zip(sums, parts, strict=True)]
    *first, by_last, by_last_bias = sums
    return [by_maps, *first, by_last[:c], by_last_bias[:c], by_last[c:], by_last_bias[c:]]


def _parts(x: Tensor) -> list[slice]:
    """The pictures, so many at once as keep the hidden layer small."""
    step = max(1, PIXELS // (x.shape[2] * x.shape[3])) if x.device.type == "cpu" else len(x)
    return [slice(i, i + step) for i in range(0, len(x), step)]


def _like(x: Tensor, channels: int) -> Tensor:
    n, _, h, w = x.shape
    return torch.empty(
        (n, channels, h, w), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
