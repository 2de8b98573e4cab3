"""The texture enhancer: a few learned steps that make a texture fit the source images."""

from __future__ import annotations

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
from nets.ops import uv_sample
from nets.ops.autocast import full_precision
from nets.spectral import Conv


class TextureEnhancer(nn.Module):
    """2,715,331 parameters at 256 px with the published widths."""

    def __init__(
        self,
        size: int = 256,
        channels: int = 64,
        max_channels: int = 128,
        bottleneck_size: int = 128,
        blocks: int = 8,
        steps: int = 4,
        guide: str = "sse",  # "sse": half the summed squared error leads; "l1": the summed error
        norm: str = "none",
        act: str = "leakyrelu",
        down: str = "avgpool",
        up: str = "nearest",
        eps: float = 1e-7,
        momentum: float = 1.0,
    ):
        super().__init__()
        if guide not in ("sse", "l1"):
            raise ValueError(f"bilayer: enh_guiding_rgb_loss_type must be sse or l1, got {guide!r}")
        if blocks < 1:
            raise ValueError(f"bilayer: enh_num_blocks must be at least 1, got {blocks}")
        count = doublings(size, bottleneck_size, "image_size / enh_bottleneck_tensor_size")
        widths = [min(channels * 2**i, max_channels) for i in range(count + 1)]
        common = {"act": act, "eps": eps, "momentum": momentum}
        norms = (norm, norm)
        layers: list[nn.Module] = [Conv(6, channels, 3, eps)]
        layers += halving(widths, size, norm, down, **common)
        for _ in range(blocks):
            layers.append(Residual(widths[-1], widths[-1], norms, side=bottleneck_size, **common))
        self.apart = len(layers)  # so many see the frames apart, the others their average
        for i in reversed(range(count)):
            side = size >> (i + 1)
            layers.append(Residual(widths[i + 1], widths[i], norms, up=up, side=side, **common))
        layers.append(norm2d(norm, channels, size, eps, momentum))
        layers += [activation(act), Conv(channels, 3, 3, eps)]
        self.net = nn.Module()
        self.net.blocks = nn.Sequential(*layers)
        self.steps, self.guide = steps, guide

    def change(self, texture: Tensor, gradient: Tensor, frames: int) -> Tensor:
        """One step's change of the texture, (b, 3, S, S) in [-1, 1], from (b * n, 3, S, S)."""
        each, one = self.net.blocks[: self.apart], self.net.blocks[self.apart :]
        x = through(each, torch.cat([texture, gradient], dim=1))
        return through(one, average_frames(x, frames)).tanh()

    def forward(
        self,
        texture: Tensor,
        images: Tensor,
        delta: Tensor,
        low_frequency: Tensor,
        masks: Tensor | None = None,
        frames: int | None = None,
    ) -> Tensor:
        """The texture after `steps` changes, (b, 3, S, S); it may leave [-1, 1].

        texture        (b, 3, S, S)
        images         (b, n, 3, S, S), the source images in [-1, 1], not masked
        delta          (b, n, 2, S, S), offsets of their rendering
        low_frequency  (b, n, 3, S, S)
        masks          (b, n, 1, S, S), predicted foreground of the sources
        frames         as in `IdentityEmbedder.forward`
        """
        n = images.shape[1]
        frames = n if frames is None else frames
        images, delta, low = (t.flatten(0, 1) for t in (images, delta, low_frequency))
        if masks is not None:
            masks = masks.flatten(0, 1)
            images = images * masks - (1 - masks)
        for _ in range(self.steps):
            each = texture.repeat_interleave(n, 0) if n > 1 else texture
            gradient = self.guidance(each, images, delta, low, masks)
            change = self.change(each, gradient, frames)
            texture = texture + average_frames(change, n // frames)
        return texture

    def guidance(
        self, texture: Tensor, images: Tensor, delta: Tensor, low: Tensor, masks: Tensor | None
    ) -> Tensor:
        """d L / d texture for each image of its own texture, a constant.

        L is summed over everything, not averaged: half the squared difference of the rendering and
        the image, or its absolute value.
        """
        with torch.enable_grad(), full_precision(texture):
            leaf = texture.detach().float().requires_grad_()
            fixed = [None if t is None else t.detach().float() for t in (delta, low, masks)]
            error = uv_sample(leaf, *fixed) - images.detach().float()
            loss = error.square().sum() / 2 if self.guide == "sse" else error.abs().sum()
            return torch.autograd.grad(loss, leaf)[0].to(texture.dtype)
