"""The embedders of source images and keypoints, and the discriminator."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from nets.bilayer.network.layers import (
    Common,
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


class _Autoencoder(nn.Module):
    """The layers of `IdentityEmbedder`, under the published keys."""

    enc: nn.Sequential
    dec_blocks: nn.ModuleList


class _Perceptron(nn.Module):
    """The layers of `KeypointsEmbedder`, under the published keys."""

    mlp: nn.Sequential


class _Critic(nn.Module):
    """The layers of `Discriminator`, under the published keys."""

    first_conv: Conv
    blocks: nn.ModuleList
    final_block: nn.Sequential
    linear: Conv


class IdentityEmbedder(nn.Module):
    """A stack of embeddings of a head, averaged over any number of images.

    An encoder halves the image down to `output_size`. A decoder follows, which keeps the size. The
    embeddings are the features of the decoder's blocks, coarsest first. So the last block's second
    convolution and its skip have no effect; checkpoints hold them.

    31,442,304 parameters at 256 px with the published widths.
    """

    def __init__(
        self,
        size: int = 256,  # side of the images, pixels
        channels: int = 64,  # at the full size; doubled with every halving
        max_channels: int = 512,
        output_size: int = 8,  # side of the embeddings, pixels
        embeds: Sequence[int] = EMBEDS,  # channels of the embeddings, coarsest first
        stickman: bool = True,  # a stick figure of the keypoints is an input too
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
        common: Common = {"act": act, "eps": eps, "momentum": momentum}
        widths = [min(channels * 2**i, max_channels) for i in range(halvings + 1)]
        net = _Autoencoder()
        first = Conv(6 if stickman else 3, channels, 3, eps)
        net.enc = nn.Sequential(first, *halving(widths, size, norm, down, common))
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
        """Embeddings (b, C, output_size, output_size), one per decoder block.

        images    (b, n, 3, S, S) in [-1, 1]
        stickmen  (b, n, 3, S, S) in [-1, 1], if the network takes them
        masks     (b, n, 1, S, S) in [0, 1]: the background of the images becomes -1
        frames    n (default): average the frames between encoder and decoder, as in training.
                  1: average the embeddings, as the published program does for more frames than
                  it was trained with
        Raises ValueError on another number of frames, or without stickmen where they are needed.
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
            else:  # the output of the last block is not used
                assert isinstance(block, Residual)
                feats = block.block_feats(x)
            embeds.append(feats)
        return [average_frames(e, n // frames) for e in embeds]


def frequencies(count: int) -> Tensor:
    """The frequencies pi 2^k of a harmonic encoding, (1, 1, count)."""
    return (torch.pi * 2.0 ** torch.arange(count)).view(1, 1, -1)


COMPONENTS = 48  # of poses, for `KeypointsEmbedder.whiten`
POWER = 0.7  # 0: components keep their deviations; 1: all get the same
GAIN = 0.3  # deviation of the outputs; with 2, images of 128 px stayed in blocks
NOISE = 0.002  # deviation of poses, in [-1, 1], below which components count as noise


class KeypointsEmbedder(nn.Module):
    """The pose embedding of keypoints, which is the inference generator's input.

    1,219,328 parameters with the published widths.
    """

    frequencies: Tensor  # (1, 1, harmonics); with a harmonic encoding only

    def __init__(
        self,
        inputs: int = 136,  # 2 per keypoint
        channels: int = 256,  # hidden width
        blocks: int = 4,  # fully connected layers
        output_channels: int = 256,
        output_size: int = 4,
        harmonics: int = 0,  # frequencies of a harmonic encoding; 0: plain coordinates
        norm: str = "none",  # or "bn_1d": BatchNorm before each activation
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
        self.net = _Perceptron()
        self.net.mlp = nn.Sequential(*layers)

    def forward(self, poses: Tensor) -> Tensor:
        """Pose embeddings (b, t, C, s, s).

        poses  (b, t, 2 K) in [-1, 1]: x and y of each keypoint in turn
        Raises ValueError on another shape.
        """
        if poses.ndim != 3 or poses.shape[2] != self.inputs:
            raise ValueError(
                f"bilayer: poses must be [b, t, {self.inputs}], got {list(poses.shape)}"
            )
        x = poses
        if self.harmonics:
            angles = (x[..., None] * self.frequencies).flatten(2)
            x = torch.cat([angles.sin(), angles.cos()], dim=2)
        return self.net.mlp(x.flatten(0, 1)).view(*poses.shape[:2], *self.output_shape)

    @torch.no_grad()
    def whiten(self, poses: Tensor) -> None:
        """Start the first layer from the principal components of poses (N, 2 K), N > 1.

        The position and the turn of a head move all keypoints far. Mouth and lids move few of them,
        by a hundredth of that, and with the usual start hardly reach the outputs. Here the first
        `COMPONENTS` principal components reach them in random directions, with their deviations to
        the power of 1 - `POWER`. docs/bilayer.md has a trial.
        """
        if self.harmonics:
            raise ValueError("bilayer: pse_init whitened is not for pse_use_harmonic_enc")
        layer = self.net.mlp[0]
        assert isinstance(layer, Linear) and layer.bias is not None
        poses = poses.detach().cpu().double()
        mean = poses.mean(0)
        _, size, axes = torch.linalg.svd(poses - mean, full_matrices=False)
        deviation = (size / len(poses) ** 0.5)[:COMPONENTS, None]
        basis = axes[:COMPONENTS] / (deviation.square() + NOISE**2) ** (POWER / 2)
        basis /= (basis @ (poses - mean).T).var(1).mean().sqrt()  # variance 1 on average
        directions = torch.randn(layer.out_features, len(basis), dtype=torch.float64)
        weight = GAIN * len(basis) ** -0.5 * directions @ basis
        (layer.weight_orig if layer.spectral else layer.weight).copy_(weight)
        if layer.spectral:
            layer.iterate(10)
        training, layer.training = layer.training, False
        layer.bias.copy_(-layer.effective_weight().cpu().double() @ mean)
        layer.training = training


class Discriminator(nn.Module):
    """A patch discriminator of images and stick figures.

    19,517,633 parameters at 256 px with the published widths.
    """

    def __init__(
        self,
        size: int = 256,  # side of the images, pixels
        channels: int = 64,
        max_channels: int = 512,
        blocks: int = 6,  # the first ones halve the size down to `output_size`, the others keep it
        output_size: int = 8,  # side of the scores, pixels
        stickman: bool = True,  # a stick figure of the keypoints is an input too
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
        net = _Critic()
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
        """Scores (N, 1, s, s), and the features of each block.

        x  (N, 6, S, S): images and their stick figures in [-1, 1]. Real and fake images are in one
           batch and share its statistics
        """
        feats = []
        x = self.net.first_conv(x)
        for block in self.net.blocks:
            x, inner = block(x)
            feats.append(inner)
        return self.net.linear(self.net.final_block(x)), feats
