"""3x3 convolutions with the channels that are fastest, and of doubled pictures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nets.ops import conv3x3, conv3x3_backward
from nets.spectral import full_precision

LANES = 16  # channels come in multiples of this where convolutions are fastest


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None = None) -> Tensor:
    """3x3 convolution of stride 1 and padding 1, plus `added`; some zero channels make it a faster
    one."""
    outputs = len(weight)
    x, weight, bias = _in_lanes(x, weight, bias)
    if len(weight) == outputs:
        return conv3x3(x, weight, bias, added)
    y = exact(conv3x3(x, weight, bias), outputs)
    return y if added is None else added + y


def conv_in_lanes(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`conv` whose result may have zero channels at its end, and whose picture may: those that
    make convolutions faster stay from one to the next."""
    return conv3x3(*_in_lanes(x, weight, bias))


def exact(x: Tensor, channels: int) -> Tensor:
    """Without the zero channels."""
    return x if x.shape[1] == channels else x[:, :channels]


def widened(weight: Tensor, x: Tensor) -> Tensor:
    """The weight for a picture that has zero channels at its end."""
    more = x.shape[1] - weight.shape[1]
    return F.pad(weight, (0, 0, 0, 0, 0, more)) if more else weight


def conv_doubled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`conv` of the picture at twice the size, bilinear; the corners of the grid stay where they
    are. The picture may have zero channels at its end; the backward pass keeps it as small as
    it is."""
    outputs, x = len(weight), as_autocast(x)
    with full_precision(x):
        y = _Doubled.apply(*_in_lanes(x, weight, bias))
    return exact(y, outputs)


def as_autocast(t: Tensor) -> Tensor:
    """In the type of autocast on the tensor's device, if that is on."""
    device = t.device.type
    if t.is_meta or not torch.is_autocast_enabled(device):
        return t
    return t.to(torch.get_autocast_dtype(device))


def _in_lanes(
    x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """All with some zero channels, where that makes the convolution a faster one."""
    outputs, inputs = weight.shape[:2]
    weight = widened(weight, x)
    slow = x.device.type != "cpu" or x.dtype == torch.float64 or min(inputs, outputs) < LANES
    more, beyond = -x.shape[1] % LANES, -outputs % LANES
    if slow or not (more or beyond):
        return x, weight, bias
    x = F.pad(x, (0, 0, 0, 0, 0, more)) if more else x
    weight = F.pad(weight, (0, 0, 0, 0, 0, more, 0, beyond))
    return x, weight, None if bias is None else F.pad(bias, (0, beyond))


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return conv3x3(_double(x), weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        by_doubled, *rest = conv3x3_backward(grad, _double(x), weight)
        by_x = torch.ops.aten.upsample_bilinear2d_backward(
            by_doubled, by_doubled.shape[2:], x.shape, True
        )
        return by_x, *rest


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
