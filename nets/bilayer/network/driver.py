"""Frames of one avatar as fast as they come: everything that does not change is worked in.

Against `drive`: the spectral norms are divided out; the norms, which in evaluation mode are a scale
and a shift a channel, and the identity's own scales and shifts are one, and where a convolution
stands before them part of its weights; nearest upsampling and the 3x3 convolution behind it are one
2x2 convolution to the four pixels, 4/9 of the products; the heads are one convolution that gives
two pixels at a time; lookup, sum and mask are one pass. The same numbers but for rounding
(test_driver_equals_the_full_pass).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.bilayer.network.layers import SLOPE, AdaptiveNorm2d, Pair, Residual, Upsample
from nets.bilayer.network.model import Avatar, Bilayer
from nets.ops import uv_sample


class Block(nn.Module):
    """One doubling: x -> act(scale x + shift) -> conv, act -> up, conv, + up of a 1x1 of x."""

    def __init__(self, norm: Pair, first: Pair, second: Pair, skip: Pair, slope: float):
        super().__init__()
        self.slope = slope
        self.register_buffer("scale", norm[0].view(1, -1, 1, 1).clone())
        self.register_buffer("shift", norm[1].view(1, -1, 1, 1).clone())
        self.register_buffer("first", _last(first[0]))
        self.register_buffer("first_bias", first[1].clone())
        self.register_buffer("second", _last(four_pixels(second[0])))
        self.register_buffer("second_bias", second[1] + skip[1])
        self.register_buffer("skip", _last(skip[0]))

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu_(torch.addcmul(self.shift, x, self.scale), self.slope)
        y = F.leaky_relu_(F.conv2d(y, self.first, self.first_bias, padding=1), self.slope)
        # Zeros around: what is beyond the image, for the pixels at its edge.
        y = F.conv2d(y, self.second, padding=1)
        x = F.conv2d(x, self.skip, self.second_bias)
        n, c, h, w = x.shape
        out = torch.empty((n, 2 * h, 2 * w, c), dtype=x.dtype, device=x.device).permute(0, 3, 1, 2)
        for k in range(4):
            i, j = k // 2, k % 2
            part = y[:, k * c : (k + 1) * c, i : i + h, j : j + w]
            place = out[:, :, i::2, j::2]
            if torch.compiler.is_compiling():  # takes no `out` with gaps, and fuses the two itself
                place.copy_(part + x)
            else:
                torch.add(part, x, out=place)
        return out


class Driver(nn.Module):
    """Images of one avatar: `image, mask = driver(poses)`.

    model   in evaluation mode; it is left as it is
    avatar  of one identity
    dtype   of the convolutions; offsets, lookup and sum are float32 in any case
    masked  the image on a background of -1 by its mask
    Raises ValueError for an inference generator that cannot be folded (instance norms, upsampling
    other than nearest); `drive` serves those.
    """

    def __init__(
        self,
        model: Bilayer,
        avatar: Avatar,
        dtype: torch.dtype = torch.float32,
        masked: bool = False,
    ):
        super().__init__()
        if len(avatar.texture) != 1:
            raise ValueError(f"Driver: avatar must be one identity, got {len(avatar.texture)}")
        net = model.inference_generator
        self.masked, self.dtype = masked, dtype
        self.register_buffer("texture", avatar.texture.detach().float().contiguous())
        with torch.no_grad():
            self.embedder = _folded_mlp(model.keypoints_embedder)
            self.blocks, heads, bias = _folded(net.gen_inf, avatar.pairs)
        self.register_buffer("heads", heads.to(dtype))
        self.register_buffer("heads_bias", bias.to(dtype))
        frequencies = getattr(model.keypoints_embedder, "frequencies", None)
        self.register_buffer("frequencies", frequencies)
        self.shape = model.keypoints_embedder.output_shape
        self.slope = _slope(net.gen_inf.blocks[-1])
        self.has_mask = len(net.gen_inf.heads) > 2
        if masked and not self.has_mask:
            raise ValueError("Driver: this network predicts no mask")
        for part in (self.embedder, self.blocks):
            part.to(dtype)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, poses: Tensor) -> tuple[Tensor, Tensor | None]:
        """image (N, 3, S, S), may leave [-1, 1], and mask (N, 1, S, S) in [0, 1] or None.

        poses  (N, 2 K) in [-1, 1]
        """
        x = poses[None]
        if self.frequencies is not None:
            angles = (x[..., None] * self.frequencies).flatten(2)
            x = torch.cat([angles.sin(), angles.cos()], dim=2)
        x = self.embedder(x[0].to(self.dtype)).view(-1, *self.shape)
        x = x.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x)
        F.leaky_relu_(x, self.slope)
        y = F.conv2d(x, self.heads, self.heads_bias, stride=(1, 2), padding=1)
        n, c, h, w = y.shape  # two neighbours in the channels: in memory already in their places
        y = y.permute(0, 2, 3, 1).reshape(n, h, 2 * w, c // 2).permute(0, 3, 1, 2)
        y = y.to(torch.float32, memory_format=torch.contiguous_format)
        layers = y[:, :5].tanh()
        mask = y[:, 5:].sigmoid() if self.has_mask else None
        cut = mask if self.masked else None
        return uv_sample(self.texture, layers[:, :2], layers[:, 2:], cut), mask


class Graph:
    """A `Driver` as one CUDA graph for batches of n poses: what it returns is overwritten by the
    next call."""

    def __init__(self, driver: Driver, n: int):
        device = driver.texture.device
        inputs = next(m for m in driver.embedder if isinstance(m, nn.Linear)).in_features
        if driver.frequencies is not None:
            inputs //= 2 * driver.frequencies.numel()
        self.poses = torch.zeros(n, inputs, device=device)
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):  # libraries choose their kernels before the capture
            for _ in range(3):
                driver(self.poses)
        torch.cuda.current_stream(device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.made = driver(self.poses)

    def __call__(self, poses: Tensor) -> tuple[Tensor, Tensor | None]:
        self.poses.copy_(poses)
        self.graph.replay()
        return self.made


def four_pixels(weight: Tensor) -> Tensor:
    """The 2x2 kernels of a 3x3 convolution behind nearest upsampling: (O, I, 3, 3) ->
    (4 O, I, 2, 2), outputs in the order of the pixels (0, 0), (0, 1), (1, 0), (1, 1).

    Pixel (i, j) of a cell sees two rows and two columns of cells, from its own place less 1 - i
    and 1 - j on; kernel rows that fall into the same cell are summed.
    """
    rows = ((slice(0, 1), slice(1, 3)), (slice(0, 2), slice(2, 3)))
    kernels = []
    for i in range(2):
        for j in range(2):
            cells = [weight[:, :, r, c].sum((2, 3)) for r in rows[i] for c in rows[j]]
            kernels.append(torch.stack(cells, -1).unflatten(-1, (2, 2)))
    return torch.cat(kernels)


def _folded(gen: nn.Module, pairs: list[Pair]) -> tuple[nn.ModuleList, Tensor, Tensor]:
    rest, blocks = iter(pairs), nn.ModuleList()
    *stages, final, _ = gen.blocks
    parts = [_block(stage, rest) for stage in stages]
    scale, shift = _affine(final, rest)
    norm, first, second, skip, slope = parts[-1]  # nothing else reads what the last block gives
    by = scale.view(-1, 1, 1, 1)
    second = (second[0] * by, second[1] * scale + shift)
    parts[-1] = (norm, first, second, (skip[0] * by, skip[1] * scale), slope)
    blocks.extend(Block(*part) for part in parts)
    weight = torch.cat([head[0].effective_weight() for head in gen.heads])
    bias = torch.cat([head[0].bias for head in gen.heads])
    pixels = torch.cat([F.pad(weight, (0, 1)), F.pad(weight, (1, 0))])
    return blocks, _last(pixels), bias.repeat(2)


def _block(block: Residual, rest: Iterator[Pair]) -> tuple:
    *before, conv, norm, act = block.block_feats
    up, second = block.block
    if len(before) != 2 or not isinstance(up, Upsample) or up.kind != "nearest":
        raise ValueError("Driver: only nearest upsampling and norms everywhere can be folded")
    first_norm = _affine(before[0], rest)
    scale, shift = _affine(norm, rest)
    weight = conv.effective_weight() * scale.view(-1, 1, 1, 1)
    first = (weight, conv.bias * scale + shift)
    one = block.skip[1]
    if getattr(one, "sets", 0):
        skip = tuple(part[0] for part in next(rest))
    else:
        skip = (one.effective_weight(), one.bias)
    return first_norm, first, (second.effective_weight(), second.bias), skip, _slope(act)


def _affine(norm: nn.Module, rest: Iterator[Pair]) -> Pair:
    """Scale and shift that a norm amounts to in evaluation mode, (C,) each."""
    extra = None
    if isinstance(norm, AdaptiveNorm2d):
        extra = next(rest)
        norm = norm.norm_layer
    if isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm):
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        shift = -norm.running_mean.double() * scale
        if norm.weight is not None:
            scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    elif isinstance(norm, nn.Identity) and extra is not None:
        scale = torch.ones_like(extra[0][0], dtype=torch.float64)
        shift = torch.zeros_like(scale)
    else:
        raise ValueError(f"Driver: {type(norm).__name__} cannot be folded")
    if extra is not None:
        one = 1 + extra[0][0].double()
        scale, shift = scale * one, shift * one + extra[1][0]
    return scale.float(), shift.float()


def _folded_mlp(embedder: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = []
    for layer in embedder.net.mlp:
        if isinstance(layer, nn.Linear):
            plain = nn.Linear(layer.in_features, layer.out_features, device="meta")
            weight = nn.Parameter(layer.effective_weight().clone())
            plain.weight, plain.bias = weight, nn.Parameter(layer.bias.clone())
            layers.append(plain)
        elif isinstance(layer, nn.BatchNorm1d):
            scale = layer.weight * (layer.running_var + layer.eps).rsqrt()
            layers[-1].weight *= scale[:, None]
            layers[-1].bias.sub_(layer.running_mean).mul_(scale).add_(layer.bias)
        else:
            layers.append(layer)
    return nn.Sequential(*layers)


def _slope(act: nn.Module) -> float:
    return SLOPE if isinstance(act, nn.LeakyReLU) else 0.0


def _last(weight: Tensor) -> Tensor:
    return weight.detach().clone().contiguous(memory_format=torch.channels_last)
