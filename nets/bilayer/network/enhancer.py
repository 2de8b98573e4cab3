"""The texture enhancer: a few learned steps that fit a texture to the source images."""

from __future__ import annotations

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
from nets.ops import uv_sample
from nets.ops.autocast import full_precision
from nets.spectral import Conv


class _Blocks(nn.Module):
    """The layers of `TextureEnhancer`, under the published keys."""

    blocks: nn.Sequential


class TextureEnhancer(nn.Module):
    """A network that changes a texture step by step, guided by the gradient of a loss.

    2,715,331 parameters at 256 px with the published widths.
    """

    def __init__(
        self,
        size: int = 256,  # side of images and texture, pixels
        channels: int = 64,
        max_channels: int = 128,
        bottleneck_size: int = 128,  # side of the maps in the middle, pixels
        blocks: int = 8,  # residual blocks in the middle
        steps: int = 4,
        guide: str = "sse",  # loss: half the summed squared error; "l1": the summed absolute error
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
        common: Common = {"act": act, "eps": eps, "momentum": momentum}
        norms = (norm, norm)
        layers: list[nn.Module] = [Conv(6, channels, 3, eps)]
        layers += halving(widths, size, norm, down, common)
        for _ in range(blocks):
            layers.append(Residual(widths[-1], widths[-1], norms, side=bottleneck_size, **common))
        self.apart = len(layers)  # the first layers see single frames, the others their average
        for i in reversed(range(count)):
            side = size >> (i + 1)
            layers.append(Residual(widths[i + 1], widths[i], norms, up=up, side=side, **common))
        layers.append(norm2d(norm, channels, size, eps, momentum))
        layers += [activation(act), Conv(channels, 3, 3, eps)]
        self.net = _Blocks()
        self.net.blocks = nn.Sequential(*layers)
        self.steps, self.guide = steps, guide

    def change(self, texture: Tensor, gradient: Tensor, frames: int) -> Tensor:
        """One step's change of the texture, (b, 3, S, S) in [-1, 1].

        texture, gradient  (b * frames, 3, S, S)
        """
        layers = list(self.net.blocks)
        x = through(layers[: self.apart], torch.cat([texture, gradient], dim=1))
        return through(layers[self.apart :], average_frames(x, frames)).tanh()

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
        delta          (b, n, 2, S, S), predicted offsets into the texture
        low_frequency  (b, n, 3, S, S), predicted
        masks          (b, n, 1, S, S), predicted foreground of the sources
        frames         n (default): average the frames inside the network; 1: average the changes
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
        """The gradient d L / d texture of each image, (N, 3, S, S); a constant.

        L is a sum over all images and pixels: half the squared difference between rendering and
        image, or the absolute difference. Each image has its own row of `texture`.
        """
        with torch.enable_grad(), full_precision(texture):
            leaf = texture.detach().float().requires_grad_()
            offsets, low = delta.detach().float(), low.detach().float()
            masks = None if masks is None else masks.detach().float()
            error = uv_sample(leaf, offsets, low, masks) - images.detach().float()
            loss = error.square().sum() / 2 if self.guide == "sse" else error.abs().sum()
            return torch.autograd.grad(loss, leaf)[0].to(texture.dtype)
