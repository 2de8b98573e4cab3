"""3x3 convolutions of any number of channels by the fast kernel, and of upsampled images.

The kernel of `conv3x3` takes multiples of 16 channels. Other numbers of channels are padded with
zeros, which change no result. Padding can stay from one layer to the next.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nets.ops.autocast import as_autocast, full_precision
from nets.ops.conv3x3 import LANES, conv3x3, conv3x3_backward


def conv3x3_padded(
    x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None = None
) -> Tensor:
    """`conv3x3` of any number of channels: stride 1, zero padded by 1, plus `added`.

    x        [N, I, H, W]
    weight   [O, I, 3, 3]
    bias     [O] or None
    added    [N, O, H, W] or None
    returns  [N, O, H, W], differentiable once in all four
    """
    outputs = len(weight)
    x, weight, bias = _padded(x, weight, bias)
    if len(weight) == outputs:
        return conv3x3(x, weight, bias, added)
    y = drop_padding(conv3x3(x, weight, bias), outputs)
    return y if added is None else added + y


def conv3x3_keep_padding(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`conv3x3_padded` whose image and result may both have zero channels at their end."""
    return conv3x3(*_padded(x, weight, bias))


def drop_padding(x: Tensor, channels: int) -> Tensor:
    """The first `channels` channels of x, without the zero channels behind them."""
    return x if x.shape[1] == channels else x[:, :channels]


def pad_inputs(weight: Tensor, x: Tensor) -> Tensor:
    """The weight [O, I, h, w], with zeros for the zero channels at the end of x."""
    more = x.shape[1] - weight.shape[1]
    return F.pad(weight, (0, 0, 0, 0, 0, more)) if more else weight


def conv3x3_upsampled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`conv3x3_padded` of the image at twice its size, bilinear with align_corners=True.

    x may have zero channels at its end. The backward pass keeps x, not the larger image.
    """
    outputs, x = len(weight), as_autocast(x)
    with full_precision(x):
        y = _Upsampled.apply(*_padded(x, weight, bias))
    return drop_padding(y, outputs)


def conv3x3_upsampled_reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The definition of `conv3x3_upsampled`, in stock torch; x without zero channels."""
    return F.conv2d(_upsample(x), weight, bias, padding=1)


def _padded(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """All three with zero channels added, where that makes the convolution faster."""
    outputs, inputs = weight.shape[:2]
    weight = pad_inputs(weight, x)
    slow = x.device.type != "cpu" or x.dtype == torch.float64 or min(inputs, outputs) < LANES
    more, beyond = -x.shape[1] % LANES, -outputs % LANES
    if slow or not (more or beyond):
        return x, weight, bias
    x = F.pad(x, (0, 0, 0, 0, 0, more)) if more else x
    weight = F.pad(weight, (0, 0, 0, 0, 0, more, 0, beyond))
    return x, weight, None if bias is None else F.pad(bias, (0, beyond))


class _Upsampled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return conv3x3(_upsample(x), weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        by_large, by_weight, by_bias = conv3x3_backward(grad, _upsample(x), weight)
        by_x = torch.ops.aten.upsample_bilinear2d_backward(
            by_large, by_large.shape[2:], x.shape, True
        )
        return by_x, by_weight, by_bias


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
