"""The multi-scale patch discriminator (Wang et al., pix2pixHD, CVPR 2018, section 3.2)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from nets.ops import instance_norm


class PatchDiscriminator(nn.Sequential):
    """(N, channels, H, W) -> scores (N, 1, about H/8, about W/8), without a sigmoid.

    Convolutions 4x4 with padding 2: one of stride 2, `layers` - 1 more with instance norm, one of
    stride 1 with it, and one to a score. `width` doubles up to 512. Leaky ReLU 0.2 between.
    """

    def __init__(self, channels: int, width: int, layers: int):
        widths = [min(width << i, 512) for i in range(layers + 1)]
        parts = {"0": nn.Conv2d(channels, width, 4, 2, 2)}
        for i, (before, after) in enumerate(itertools.pairwise(widths)):
            stride = 1 if i == layers - 1 else 2
            parts[f"{2 + 3 * i}"] = nn.Conv2d(before, after, 4, stride, 2)
        parts[f"{2 + 3 * layers}"] = nn.Conv2d(widths[-1], 1, 4, 1, 2)
        super().__init__()
        for name, part in parts.items():  # norms and activations had the numbers between
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        first, *middle, last = self
        x = F.leaky_relu(first(x), 0.2, inplace=True)
        for convolution in middle:
            x = instance_norm(convolution(x), slope=0.2, inplace=True)
        return last(x)


class MultiscaleDiscriminator(nn.Module):
    """Scores at several scales, finest first: a patch discriminator of its own for each.

    `layer0` sees the coarsest image. 5,529,474 parameters with the published sizes.
    """

    def __init__(self, channels: int = 3, width: int = 64, layers: int = 3, scales: int = 2):
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
                nn.init.constant_(module.bias, 0.1)

    def forward(self, x: Tensor) -> list[Tensor]:
        scores = []
        for i, layer in enumerate(reversed(list(self.children()))):
            if i:
                x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
            scores.append(layer(x))
        return scores


def build_discriminator(options: Mapping[str, Any]) -> MultiscaleDiscriminator:
    """The discriminator that a run's options describe."""
    return MultiscaleDiscriminator(3, options["ndf"], options["n_layers_D"], options["num_D"])
