"""The U-Net of the shape, appearance, mask and background networks.

Everywhere: 3x3 or 1x1 convolution with bias, instance norm without parameters, ReLU. Modules have
the names and the order of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from nets.ops import conv3x3_keep_padding, conv3x3_upsampled, instance_norm
from nets.ops.padded_conv import drop_padding, pad_inputs


class ConvNorm(nn.Sequential):
    """Convolution (its weights are `0`), instance norm, ReLU; `doubled`: of twice the size.

    The image may have zero channels at its end, and so may the result of stride 1.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1, doubled=False
    ):
        super().__init__(nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2))
        self.doubled = doubled

    def forward(self, x: Tensor) -> Tensor:
        layer = self[0]
        if self.doubled:
            x = conv3x3_upsampled(x, layer.weight, layer.bias)
        elif layer.stride == (1, 1) and layer.kernel_size == (3, 3):
            x = conv3x3_keep_padding(x, layer.weight, layer.bias)
        else:
            x = F.conv2d(x, pad_inputs(layer.weight, x), layer.bias, layer.stride, layer.padding)
        return instance_norm(x, slope=0.0, inplace=True)


class Skip(nn.Sequential):
    """1x1 convolution (its weights are `0`), ReLU."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(nn.Conv2d(channels_in, channels_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        layer = self[0]
        return F.relu(F.conv2d(x, pad_inputs(layer.weight, x), layer.bias), inplace=True)


def down(channels_in: int, channels_out: int) -> nn.Sequential:
    """Half the size."""
    return nn.Sequential(
        ConvNorm(channels_in, channels_out, 3, 2), ConvNorm(channels_out, channels_out)
    )


def up(channels_in: int, channels_out: int) -> nn.Sequential:
    """Twice the size."""
    return nn.Sequential(
        ConvNorm(channels_in, channels_out),
        nn.Identity(),  # where the published networks double
        ConvNorm(channels_out, channels_out, doubled=True),
    )


class UNet(nn.Module):
    """(N, channels, H, W) -> (N, out, h, w), h = H / 2^(downs - ups), and the first level's output.

    widths  channels after each upwards step, then of the output: one more than there are ups
    downs   halvings, at least as many as ups; H and W are multiples of 2^downs and larger than it
    width   channels of the very first convolution; 0: twice the input's

    Level 0 has 4 * width channels at half the size, and each further level doubles them. The skip
    into upwards step i comes from level downs - i, so the first adds the bottleneck to itself and
    the finest levels are not used where there are fewer ups than downs.
    """

    def __init__(self, channels: int, widths: Sequence[int], downs: int, width: int):
        super().__init__()
        width = width or 2 * channels
        first = nn.Sequential(
            ConvNorm(channels, width), ConvNorm(width, 2 * width), down(2 * width, 4 * width)
        )
        levels = [4 * width << i for i in range(downs)]
        self.features = levels[0]
        self.encoder_layers = nn.ModuleList(
            [first, *(down(c // 2, c) for c in levels[1:])],
        )
        steps = [levels[-1], *widths[:-1]]  # channels before each upwards step
        ups = [up(a, b) for a, b in zip(steps, widths[:-1], strict=False)]
        ups[-1] = nn.Sequential(ups[-1], nn.Conv2d(widths[-2], widths[-1], 1))
        self.decoder_layers = nn.ModuleList([ConvNorm(levels[-1], levels[-1], 1), *ups])
        self.skip_convs = nn.ModuleList(
            Skip(level, c) for level, c in zip(levels[::-1], steps[:-1], strict=False)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        levels = []
        for layer in self.encoder_layers:
            x = layer(x)
            levels.append(x)
        y = self.decoder_layers[0](x)
        steps = zip(self.decoder_layers[1:], self.skip_convs, levels[::-1], strict=False)
        for layer, skip, level in steps:
            y = layer(y + skip(level))
        return y, drop_padding(levels[0], self.features)
