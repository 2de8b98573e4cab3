"""Scores of pictures, patch by patch, and the features on the way."""

from __future__ import annotations

from torch import Tensor, nn

from nets.bilayer.network.layers import Residual, activation, doublings, norm2d
from nets.spectral import Conv


class Discriminator(nn.Module):
    """19,517,633 parameters at 256 px with the published widths."""

    def __init__(
        self,
        size: int = 256,
        channels: int = 64,
        max_channels: int = 512,
        blocks: int = 6,  # of which so many halve the size as lead to `output_size`
        output_size: int = 8,
        stickman: bool = True,  # a drawing of the keypoints goes with the picture
        norm: str = "bn",
        act: str = "leakyrelu",
        down: str = "avgpool",
        eps: float = 1e-7,
        momentum: float = 1.0,
    ):
        super().__init__()
        halvings = doublings(size, output_size, "image_size / dis_output_tensor_size")
        if blocks < max(halvings, 1):
            raise ValueError(f"bilayer: dis_num_blocks must be at least {halvings}, got {blocks}")
        net = nn.Module()
        net.first_conv = Conv(6 if stickman else 3, channels, 3, eps)
        net.blocks = nn.ModuleList()
        inputs = channels
        for i in range(blocks):
            outputs = min(channels * 2 ** (i + 1), max_channels)
            net.blocks.append(
                Residual(
                    inputs,
                    outputs,
                    (norm, norm),
                    act,
                    down=down if i < halvings else None,
                    side=size >> min(i, halvings),
                    eps=eps,
                    momentum=momentum,
                )
            )
            inputs = outputs
        net.final_block = nn.Sequential(
            norm2d(norm, inputs, output_size, eps, momentum), activation(act)
        )
        net.linear = Conv(inputs, 1, 1, eps)
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores (N, 1, s, s) and the features of each block.

        x  (N, 6, S, S): pictures in [-1, 1] and their stickmen; real and fake in one batch, whose
           statistics they share
        """
        feats = []
        x = self.net.first_conv(x)
        for block in self.net.blocks:
            x, inner = block(x)
            feats.append(inner)
        return self.net.linear(self.net.final_block(x)), feats
