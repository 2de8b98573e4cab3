"""Fast frames of one avatar: everything constant is folded into the weights.

The results are those of `drive` up to rounding (test_driver_equals_the_full_pass). The differences:

- Weights are divided by their spectral norms.
- In evaluation mode a norm is a scale and a shift per channel. They are merged with the identity's
  predicted scale and shift, and with the weights of a convolution before them.
- Nearest upsampling and the 3x3 convolution after it are one 2x2 convolution with four outputs per
  pixel. It needs 4/9 of the products.
- The heads are one convolution, which computes two pixels at a time, or four of a `Student`.
- Texture lookup, sum and mask are one operator.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.bilayer.network.encoders import KeypointsEmbedder
from nets.bilayer.network.generators import Generator
from nets.bilayer.network.layers import (
    SLOPE,
    AdaptiveConv2d,
    AdaptiveNorm2d,
    Pair,
    Residual,
    Upsample,
)
from nets.bilayer.network.model import Avatar, Bilayer
from nets.bilayer.network.student import Student, pixels_of_cells
from nets.ops import uv_sample
from nets.spectral import Conv, Linear


class Folded(NamedTuple):
    """A residual block as weights and biases.

    norm    scale and shift of the first norm, (C,) each
    first   of the first convolution, merged with the second norm
    second  of the second convolution, which comes after nearest upsampling
    skip    of the 1x1 convolution
    slope   of the activations for negative inputs
    """

    norm: Pair
    first: Pair
    second: Pair
    skip: Pair
    slope: float


class Block(nn.Module):
    """A folded residual block that doubles the size.

    x -> act(scale x + shift) -> conv, act -> up, conv; plus the upsampled 1x1 convolution of x.
    """

    scale: Tensor
    shift: Tensor
    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor
    skip: Tensor

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
        # The padding is zero, as outside of the upsampled image.
        y = F.conv2d(y, self.second, padding=1)
        x = F.conv2d(x, self.skip, self.second_bias)
        n, c, h, w = x.shape
        out = torch.empty((n, 2 * h, 2 * w, c), dtype=x.dtype, device=x.device).permute(0, 3, 1, 2)
        for k in range(4):
            i, j = k // 2, k % 2
            part = y[:, k * c : (k + 1) * c, i : i + h, j : j + w]
            place = out[:, :, i::2, j::2]
            # torch.compile takes no `out` with gaps, and fuses sum and copy itself.
            if torch.compiler.is_compiling():
                place.copy_(part + x)
            else:
                torch.add(part, x, out=place)
        return out


class Driver(nn.Module):
    """A network that renders one avatar: `image, mask = driver(poses)`.

    model   in evaluation mode; it is not changed. A `Student` goes with its own `avatar()`
    avatar  of one identity
    dtype   of the convolutions; offsets, lookup and sum are always float32
    masked  put the image on a background of -1 by its mask
    Raises ValueError for several identities, and for an inference generator that cannot be folded:
    one with instance norms or with another upsampling than nearest. Use `drive` for those.
    """

    texture: Tensor  # (1, 3, S, S)
    heads: Tensor
    heads_bias: Tensor
    frequencies: Tensor | None  # of a harmonic encoding

    def __init__(
        self,
        model: Bilayer | Student,
        avatar: Avatar,
        dtype: torch.dtype = torch.float32,
        masked: bool = False,
    ):
        super().__init__()
        if len(avatar.texture) != 1:
            raise ValueError(f"Driver: avatar must be one identity, got {len(avatar.texture)}")
        self.cells = isinstance(model, Student)  # the heads give cells of 2x2 pixels
        net = model.generator if isinstance(model, Student) else model.inference_generator.gen_inf
        self.masked, self.dtype = masked, dtype
        self.register_buffer("texture", avatar.texture.detach().float().contiguous())
        with torch.no_grad():
            self.embedder = _folded_mlp(model.keypoints_embedder)
            self.blocks, heads, bias = _folded(net, avatar.pairs)
            if not self.cells:
                heads, bias = _two_pixels(heads), bias.repeat(2)
        self.register_buffer("heads", _last(heads.to(dtype)))
        self.register_buffer("heads_bias", bias.to(dtype))
        frequencies = getattr(model.keypoints_embedder, "frequencies", None)
        self.register_buffer("frequencies", frequencies)
        self.shape = model.keypoints_embedder.output_shape
        self.slope = _slope(net.blocks[-1])
        self.channels = len(bias) // (4 if self.cells else 2)  # of a pixel
        self.has_mask = self.channels > 5
        if masked and not self.has_mask:
            raise ValueError("Driver: this network predicts no mask")
        for part in (self.embedder, self.blocks):
            part.to(dtype)
        self.eval().requires_grad_(False)

    def forward(self, poses: Tensor) -> tuple[Tensor, Tensor | None]:
        """The images and masks of N poses.

        poses    (N, 2 K) in [-1, 1]
        returns  image (N, 3, S, S), may leave [-1, 1]; mask (N, 1, S, S) in [0, 1], or None
        """
        delta, low, mask = self.layers(poses)
        return uv_sample(self.texture, delta, low, mask if self.masked else None), mask

    @torch.no_grad()
    def layers(self, poses: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The layers of N poses, float32: delta and low_frequency as in `Layers`, and the mask."""
        x = poses[None]
        if self.frequencies is not None:
            angles = (x[..., None] * self.frequencies).flatten(2)
            x = torch.cat([angles.sin(), angles.cos()], dim=2)
        x = self.embedder(x[0].to(self.dtype)).view(-1, *self.shape)
        x = x.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x)
        F.leaky_relu_(x, self.slope)
        y = F.conv2d(x, self.heads, self.heads_bias, stride=(1, 1 if self.cells else 2), padding=1)
        n, _, h, w = y.shape
        if self.cells:
            y = pixels_of_cells(y)
        else:  # the channels hold two neighbouring pixels, in memory already at their places
            y = y.permute(0, 2, 3, 1).reshape(n, h, 2 * w, self.channels).permute(0, 3, 1, 2)
        y = y.to(torch.float32, memory_format=torch.contiguous_format)
        layers = y[:, :5].tanh()
        return layers[:, :2], layers[:, 2:], y[:, 5:].sigmoid() if self.has_mask else None


class Graph:
    """A `Driver` as one CUDA graph for batches of up to n poses.

    Smaller batches cost as much as n poses. The next call overwrites the tensors that a call
    returns.
    """

    def __init__(self, driver: Driver, n: int):
        device = driver.texture.device
        inputs = next(m for m in driver.embedder if isinstance(m, nn.Linear)).in_features
        if driver.frequencies is not None:
            inputs //= 2 * driver.frequencies.numel()
        self.poses = torch.zeros(n, inputs, device=device)
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):  # warm-up: libraries choose their kernels before the capture
            for _ in range(3):
                driver(self.poses)
        torch.cuda.current_stream(device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.frames = driver(self.poses)

    def __call__(self, poses: Tensor) -> tuple[Tensor, Tensor | None]:
        n = len(poses)
        self.poses[:n].copy_(poses, non_blocking=True)
        self.graph.replay()
        image, mask = self.frames
        return image[:n], None if mask is None else mask[:n]


def four_pixels(weight: Tensor) -> Tensor:
    """The 2x2 kernels that replace nearest upsampling and a 3x3 convolution.

    weight   (O, I, 3, 3)
    returns  (4 O, I, 2, 2), outputs in the order of the pixels (0, 0), (0, 1), (1, 0), (1, 1)

    Each input pixel becomes a cell of 2x2 output pixels. Output pixel (i, j) of a cell reads two
    rows of cells, which start 1 - i rows above its own. It reads two columns likewise. Kernel rows
    that read the same cell are summed.
    """
    rows = ((slice(0, 1), slice(1, 3)), (slice(0, 2), slice(2, 3)))
    kernels = []
    for i in range(2):
        for j in range(2):
            cells = [weight[:, :, r, c].sum((2, 3)) for r in rows[i] for c in rows[j]]
            kernels.append(torch.stack(cells, -1).unflatten(-1, (2, 2)))
    return torch.cat(kernels)


def _folded(gen: Generator, pairs: list[Pair]) -> tuple[nn.ModuleList, Tensor, Tensor]:
    """The blocks of a generator, and the weight and bias of its heads."""
    rest, blocks = iter(pairs), nn.ModuleList()
    *stages, final, _ = gen.blocks
    parts = [_block(stage, rest) for stage in stages]
    scale, shift = _affine(final, rest)
    last = parts[-1]  # only the final norm reads its output, so the norm goes into its weights
    by = scale.view(-1, 1, 1, 1)
    parts[-1] = last._replace(
        second=(last.second[0] * by, last.second[1] * scale + shift),
        skip=(last.skip[0] * by, last.skip[1] * scale),
    )
    blocks.extend(Block(*part) for part in parts)
    heads = [_weights(head.get_submodule("0")) for head in gen.heads]
    weight, bias = (torch.cat(part) for part in zip(*heads, strict=True))
    return blocks, weight, bias


def _two_pixels(weight: Tensor) -> Tensor:
    """The kernel that gives two neighbouring pixels of a 3x3 convolution, with a stride of two."""
    return torch.cat([F.pad(weight, (0, 1)), F.pad(weight, (1, 0))])


def _block(block: nn.Module, rest: Iterator[Pair]) -> Folded:
    """A residual block as weights. Raises ValueError if it cannot be folded."""
    assert isinstance(block, Residual)
    *before, conv, norm, act = block.block_feats
    up, second = block.block
    if len(before) != 2 or not isinstance(up, Upsample) or up.kind != "nearest":
        raise ValueError("Driver: only nearest upsampling and norms everywhere can be folded")
    first_norm = _affine(before[0], rest)
    scale, shift = _affine(norm, rest)
    weight, bias = _weights(conv)
    first = (weight * scale.view(-1, 1, 1, 1), bias * scale + shift)
    one = block.skip[1]
    if isinstance(one, AdaptiveConv2d):
        by_identity, bias_by_identity = next(rest)
        skip = (by_identity[0], bias_by_identity[0])
    else:
        skip = _weights(one)
    return Folded(first_norm, first, _weights(second), skip, _slope(act))


def _weights(layer: nn.Module) -> Pair:
    """The weight, without its spectral norm, and the bias of a convolution or linear layer."""
    assert isinstance(layer, Conv | Linear)
    if layer.bias is None:
        raise ValueError("Driver: a convolution without a bias cannot be folded")
    return layer.effective_weight(), layer.bias


def _affine(norm: nn.Module, rest: Iterator[Pair]) -> Pair:
    """The scale and shift of a norm in evaluation mode, (C,) each."""
    extra = None
    if isinstance(norm, AdaptiveNorm2d):
        extra = next(rest)
        norm = norm.norm_layer
    if isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm):
        scale, shift = _normalisation(norm)
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


def _normalisation(norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> Pair:
    """Scale and shift by the running statistics, (C,) float64 each."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None  # the networks' norms track them
    scale: Tensor = (variance.double() + norm.eps).rsqrt()
    return scale, -mean.double() * scale


def _folded_mlp(embedder: KeypointsEmbedder) -> nn.Sequential:
    """The layers of a keypoints embedder, without spectral norms and BatchNorm."""
    layers: list[nn.Module] = []
    for layer in embedder.net.mlp:
        if isinstance(layer, Linear):
            plain = nn.Linear(layer.in_features, layer.out_features, device="meta")
            weight, bias = _weights(layer)
            plain.weight, plain.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
            layers.append(plain)
        elif isinstance(layer, nn.BatchNorm1d):
            before, mean, variance = layers[-1], layer.running_mean, layer.running_var
            assert isinstance(before, nn.Linear) and mean is not None and variance is not None
            scale = layer.weight * (variance + layer.eps).rsqrt()
            before.weight *= scale[:, None]
            before.bias.sub_(mean).mul_(scale).add_(layer.bias)
        else:
            layers.append(layer)
    return nn.Sequential(*layers)


def _slope(act: nn.Module) -> float:
    """The slope of an activation for negative inputs."""
    return SLOPE if isinstance(act, nn.LeakyReLU) else 0.0


def _last(weight: Tensor) -> Tensor:
    """A copy of a weight in channels_last."""
    return weight.detach().clone().contiguous(memory_format=torch.channels_last)
