"""What a source image and a set of keypoints are turned into, once each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from nets.bilayer.network.layers import (
    Residual,
    activation,
    average_frames,
    doublings,
    halving,
    norm2d,
    through,
)
from nets.spectral import Conv, Linear

EMBEDS = (512, 512, 512, 256, 128, 64)


class IdentityEmbedder(nn.Module):
    """A stack of embeddings of a head from images of it, the same however many there are.

    An encoder halves the image down to `output_size`, a decoder without resizing follows; the
    embeddings are the inner features of the decoder's blocks, coarsest first. So the last block's
    second convolution and its skip influence nothing; checkpoints hold them.

    31,442,304 parameters at 256 px with the published widths.
    """

    def __init__(
        self,
        size: int = 256,  # side of the images, pixels
        channels: int = 64,  # of the finest scale; doubled with every halving
        max_channels: int = 512,
        output_size: int = 8,  # side of the embeddings
        embeds: Sequence[int] = EMBEDS,  # channels of the embeddings, coarsest first
        stickman: bool = True,  # a drawing of the keypoints goes with the image
        norm: str = "none",
        act: str = "leakyrelu",
        down: str = "avgpool",
        eps: float = 1e-7,
        momentum: float = 1.0,
    ):
        super().__init__()
        halvings = doublings(size, output_size, "image_size / emb_output_tensor_size")
        if not halvings:
            raise ValueError("bilayer: emb_output_tensor_size must be smaller than image_size")
        common = {"act": act, "eps": eps, "momentum": momentum}
        widths = [min(channels * 2**i, max_channels) for i in range(halvings + 1)]
        net = nn.Module()
        first = Conv(6 if stickman else 3, channels, 3, eps)
        net.enc = nn.Sequential(first, *halving(widths, size, norm, down, **common))
        net.dec_blocks = nn.ModuleList()
        inputs = widths[-1]
        for outputs in embeds:
            net.dec_blocks.append(
                Residual(inputs, outputs, (norm, norm), side=output_size, **common)
            )
            inputs = outputs
        self.net = net
        self.stickman = stickman

    def forward(
        self,
        images: Tensor,
        stickmen: Tensor | None = None,
        masks: Tensor | None = None,
        frames: int | None = None,
    ) -> list[Tensor]:
        """Embeddings (b, C, output_size, output_size), one a decoder block.

        images    (b, n, 3, S, S) in [-1, 1]
        stickmen  (b, n, 3, S, S) in [-1, 1], if the network has them
        masks     (b, n, 1, S, S) in [0, 1]: the background of the images becomes -1
        frames    average over so many consecutive frames in the middle, as in training; n, which
                  is the default, or 1: then the average is taken at the end, as the published
                  program does for more frames than it was trained with
        """
        n = images.shape[1]
        frames = n if frames is None else frames
        if frames not in (1, n):
            raise ValueError(f"bilayer: frames must be 1 or {n}, got {frames}")
        x = images if masks is None else images * masks - (1 - masks)
        if self.stickman:
            if stickmen is None:
                raise ValueError("bilayer: this identity embedder needs stickmen beside the images")
            x = torch.cat([x, stickmen], dim=2)
        x = average_frames(through(self.net.enc, x.flatten(0, 1)), frames)
        embeds = []
        for place, block in enumerate(self.net.dec_blocks, start=1):
            if place < len(self.net.dec_blocks):
                x, feats = block(x)
            else:  # its output goes nowhere
                feats = block.block_feats(x)
            embeds.append(feats)
        return [average_frames(e, n // frames) for e in embeds]


def frequencies(count: int) -> Tensor:
    """pi 2^k of a harmonic encoding, (1, 1, count)."""
    return (torch.pi * 2.0 ** torch.arange(count)).view(1, 1, -1)


class KeypointsEmbedder(nn.Module):
    """The pose embedding that the inference generator starts from, from keypoints.

    1,219,328 parameters with the published widths.
    """

    def __init__(
        self,
        inputs: int = 136,  # 2 for each keypoint
        channels: int = 256,  # hidden width
        blocks: int = 4,  # fully connected layers
        output_channels: int = 256,
        output_size: int = 4,
        harmonics: int = 0,  # frequencies pi 2^k of a harmonic encoding; 0: coordinates as they are
        norm: str = "none",  # or "bn_1d", before each activation
        act: str = "leakyrelu",
        eps: float = 1e-7,
        momentum: float = 1.0,
    ):
        super().__init__()
        if norm not in ("none", "bn_1d"):
            raise ValueError(f"bilayer: pse_norm_layer_type must be none or bn_1d, got {norm!r}")
        if blocks < 1:
            raise ValueError(f"bilayer: pse_num_blocks must be at least 1, got {blocks}")
        self.inputs, self.output_shape = inputs, (output_channels, output_size, output_size)
        if harmonics:
            self.register_buffer("frequencies", frequencies(harmonics))
        self.harmonics = harmonics
        widths = [inputs * 2 * harmonics if harmonics else inputs] + [channels] * (blocks - 1)
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers.append(Linear(a, b, eps))
            layers += [nn.BatchNorm1d(b, eps, momentum)] if norm == "bn_1d" else []
            layers.append(activation(act))
        layers.append(Linear(widths[-1], output_channels * output_size**2, eps))
        self.net = nn.Module()
        self.net.mlp = nn.Sequential(*layers)

    def forward(self, poses: Tensor) -> Tensor:
        """(b, t, 2 K) in [-1, 1], x and y of each keypoint in turn -> (b, t, C, s, s)."""
        if poses.ndim != 3 or poses.shape[2] != self.inputs:
            raise ValueError(
                f"bilayer: poses must be [b, t, {self.inputs}], got {list(poses.shape)}"
            )
        x = poses
        if self.harmonics:
            angles = (x[..., None] * self.frequencies).flatten(2)
            x = torch.cat([angles.sin(), angles.cos()], dim=2)
        return self.net.mlp(x.flatten(0, 1)).view(*poses.shape[:2], *self.output_shape)


class Discriminator(nn.Module):
    """19,517,633 parameters at 256 px with the published widths."""

    def __init__(
        self,
        size: int = 256,
        channels: int = 64,
        max_channels: int = 512,
        blocks: int = 6,  # of which so many halve the size as lead to `output_size`
        output_size: int = 8,
        stickman: bool = True,  # a drawing of the keypoints goes with the image
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

        x  (N, 6, S, S): images in [-1, 1] and their stickmen; real and fake in one batch, whose
           statistics they share
        """
        feats = []
        x = self.net.first_conv(x)
        for block in self.net.blocks:
            x, inner = block(x)
            feats.append(inner)
        return self.net.linear(self.net.final_block(x)), feats
