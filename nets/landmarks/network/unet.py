"""The U-Net of the shape, appearance, mask and background networks.

All layers are 3x3 or 1x1 convolutions with bias. Most are followed by an instance norm without
parameters and a ReLU. Modules have the names and the order of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from nets.ops import conv3x3_keep_padding, conv3x3_upsampled, instance_norm
from nets.ops.padded_conv import drop_padding, pad_inputs


class BiasedConv(nn.Conv2d):
    """A convolution that always has a bias."""

    bias: Tensor


def first_convolution(block: nn.Sequential) -> BiasedConv:
    """The first module of a block, which is a convolution with bias."""
    layer = block[0]
    assert isinstance(layer, BiasedConv)  # all blocks here start with one
    return layer


class ConvNorm(nn.Sequential):
    """Convolution (key `0` in checkpoints), instance norm, ReLU.

    The input may have zero channels at its end, and so may the output at stride 1.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 3,
        stride: int = 1,
        doubled: bool = False,  # enlarge the input to twice its size first
    ):
        super().__init__(BiasedConv(channels_in, channels_out, kernel, stride, kernel // 2))
        self.doubled = doubled

    def forward(self, x: Tensor) -> Tensor:
        layer = first_convolution(self)
        if self.doubled:
            x = conv3x3_upsampled(x, layer.weight, layer.bias)
        elif layer.stride == (1, 1) and layer.kernel_size == (3, 3):
            x = conv3x3_keep_padding(x, layer.weight, layer.bias)
        else:
            weight = pad_inputs(layer.weight, x)
            x = F.conv2d(x, weight, layer.bias, layer.stride, layer.padding)
        return instance_norm(x, slope=0.0, inplace=True)


class Skip(nn.Sequential):
    """1x1 convolution (key `0` in checkpoints), ReLU."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(BiasedConv(channels_in, channels_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        layer = first_convolution(self)
        return F.relu(F.conv2d(x, pad_inputs(layer.weight, x), layer.bias), inplace=True)


def down(channels_in: int, channels_out: int) -> nn.Sequential:
    """Two convolutions that halve height and width."""
    return nn.Sequential(
        ConvNorm(channels_in, channels_out, 3, 2), ConvNorm(channels_out, channels_out)
    )


def up(channels_in: int, channels_out: int) -> nn.Sequential:
    """Two convolutions that double height and width."""
    return nn.Sequential(
        ConvNorm(channels_in, channels_out),
        nn.Identity(),  # keeps the published keys: the published networks enlarge here
        ConvNorm(channels_out, channels_out, doubled=True),
    )


class UNet(nn.Module):
    """A U-Net: (N, channels, H, W) -> output and the features of the first level.

    Returns (N, widths[-1], h, w) with h = H / 2^(downs - ups), w likewise, and the features
    (N, 4 width, H/2, W/2) of level 0. The number of ups is len(widths) - 1.

    Level 0 has 4 width channels at half the size. Each further level halves the size and doubles
    the channels. The skip into upwards step i = 0, 1, ... comes from level downs - 1 - i. The first
    skip therefore adds the bottleneck to itself. With fewer ups than downs, the finest levels have
    no skip.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],  # channels after each upwards step, then of the output
        downs: int,  # halvings, at least as many as ups; H and W are larger multiples of 2^downs
        width: int,  # channels of the first convolution; 0: 2 channels
    ):
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
