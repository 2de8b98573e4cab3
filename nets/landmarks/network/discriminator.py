"""The multi-scale patch discriminator (Wang et al., pix2pixHD, CVPR 2018, section 3.2)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from nets.ops import instance_norm


class PatchDiscriminator(nn.Sequential):
    """Scores of patches, without a sigmoid: (N, channels, H, W) -> (N, 1, about H/8, about W/8).

    All convolutions are 4x4 with padding 2. The first `layers` have stride 2, the other two 1. All
    but the first and the last are followed by an instance norm. Leaky ReLUs of slope 0.2 between.
    """

    def __init__(
        self,
        channels: int,
        width: int,  # channels of the first convolution; each further one doubles them, up to 512
        layers: int,  # convolutions of stride 2; H/8 above is for 3
    ):
        widths = [min(width << i, 512) for i in range(layers + 1)]
        # Keys of the published checkpoints, which count norms and activations as well.
        parts = {"0": nn.Conv2d(channels, width, 4, 2, 2)}
        for i, (before, after) in enumerate(itertools.pairwise(widths)):
            stride = 1 if i == layers - 1 else 2
            parts[f"{2 + 3 * i}"] = nn.Conv2d(before, after, 4, stride, 2)
        parts[f"{2 + 3 * layers}"] = nn.Conv2d(widths[-1], 1, 4, 1, 2)
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        first, *middle, last = self
        x = F.leaky_relu(first(x), 0.2, inplace=True)
        for convolution in middle:
            x = instance_norm(convolution(x), slope=0.2, inplace=True)
        return last(x)


class MultiscaleDiscriminator(nn.Module):
    """Scores at several scales, finest first, each from its own patch discriminator.

    `layer0` takes the coarsest image. The published sizes have 5,529,474 parameters.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,  # see `PatchDiscriminator`
        layers: int = 3,  # see `PatchDiscriminator`
        scales: int = 2,  # number of scales, each half as large as the one before
    ):
        super().__init__()
        if min(width, layers, scales) < 1:
            raise ValueError(
                "Discriminator: width, layers and scales must be at least 1, "
                f"got {width}, {layers}, {scales}"
            )
        for i in range(scales):
            self.add_module(f"layer{i}", PatchDiscriminator(channels, width, layers))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.constant_(module.bias, 0.1)

    def forward(self, x: Tensor) -> list[Tensor]:
        scores = []
        for i, layer in enumerate(reversed(list(self.children()))):
            if i:
                x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
            scores.append(layer(x))
        return scores


def build_discriminator(options: Mapping[str, Any]) -> MultiscaleDiscriminator:
    """The discriminator of a run's options."""
    return MultiscaleDiscriminator(3, options["ndf"], options["n_layers_D"], options["num_D"])
