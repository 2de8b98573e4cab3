"""Blocks of the bilayer networks: norms, adaptive layers, the residual block.

Parameters that one network predicts for another are arguments of the call, never state of a module.
So identities cannot be mixed up. A `Chain` hands an iterator of (weight, bias) pairs down to its
adaptive layers. Each layer takes its pairs in depth-first order.

A pair has one row per identity, (b, ...). If the input has b * t rows, each row of a pair serves t
consecutive rows of the input.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.spectral import Conv

Pair = tuple[Tensor, Tensor]
NORMS = ("none", "bn", "in")
PIXEL_BIASES = ("none", "fixed", "adaptive", "adaptive_original", "stochastic")
SLOPE = 0.2  # of the leaky ReLU


class Common(TypedDict):
    """Arguments that all residual blocks of a network share; see `Residual`."""

    act: str
    eps: float
    momentum: float


class Upsample(nn.Module):
    """Upsampling to twice the size, `nearest` or `bilinear`."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = _one_of("upsampling", kind, ("nearest", "bilinear"))

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode=self.kind)


def downsample(kind: str) -> nn.Module:
    """A layer that halves the size: `avgpool` or `maxpool` over 2x2."""
    pools: dict[str, type[nn.AvgPool2d | nn.MaxPool2d]]
    pools = {"avgpool": nn.AvgPool2d, "maxpool": nn.MaxPool2d}
    return pools[_one_of("downsampling", kind, tuple(pools))](2)


def activation(kind: str) -> nn.Module:
    """An activation by name: `leakyrelu` (slope 0.2) or `relu`."""
    if _one_of("activation", kind, ("leakyrelu", "relu")) == "relu":
        return nn.ReLU()
    return nn.LeakyReLU(SLOPE)


class AdaptiveConv2d(nn.Module):
    """A 1x1 convolution; its weight (b, out, in, 1, 1) and bias (b, out) come with the call."""

    sets = 1  # pairs per call

    def forward(self, x: Tensor, pairs: Iterator[Pair]) -> Tensor:
        weight, bias = next(pairs)
        return adaptive_conv(x, weight, bias)


def adaptive_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The 1x1 convolution of each identity's rows: (b * t, out, H, W).

    x       (b * t, in, H, W)
    weight  (b, out, in, 1, 1)
    bias    (b, out)
    """
    b, (n, c, h, w) = weight.shape[0], x.shape
    matrix = weight.flatten(2)
    if x.stride(1) == 1 and c > 1:  # channels_last, which the result keeps
        rows = x.permute(0, 2, 3, 1).reshape(b, -1, c)
        y = torch.baddbmm(bias[:, None].to(rows.dtype), rows, matrix.transpose(1, 2).to(rows.dtype))
        return y.view(n, h, w, -1).permute(0, 3, 1, 2)
    planes = x.reshape(b, n // b, c, h * w)
    y = matrix[:, None] @ planes + bias[:, None, :, None]
    return y.reshape(n, -1, h, w)


class AdaptiveNorm2d(nn.Module):
    """A norm without affine parameters, then a predicted scale (+ 1) and shift per identity.

    norm     "bn", "in" or "none"
    spatial  0: one pair (scale, shift), (b, C) each. Else the side s of the learned `pixel_feats`
             (1, C, s, s). Two pairs are then the 1x1 convolutions that map `pixel_feats` to maps
             of scale (+ 1) and shift
    """

    def __init__(self, norm: str, channels: int, spatial: int, eps: float, momentum: float):
        super().__init__()
        self.sets = 2 if spatial else 1
        if spatial:
            self.pixel_feats = nn.Parameter(_pixel_features(channels, spatial))
        self.norm_layer = plain_norm(norm, channels, eps, momentum, affine=False)

    def forward(self, x: Tensor, pairs: Iterator[Pair]) -> Tensor:
        if self.sets == 1:
            scale, shift = (p[..., None, None] for p in next(pairs))
        else:
            (weight, bias), (shift_weight, shift_bias) = next(pairs), next(pairs)
            feats = self.pixel_feats.expand(weight.shape[0], -1, -1, -1)
            scale = adaptive_conv(feats, weight, bias)
            shift = adaptive_conv(feats, shift_weight, shift_bias)
        x = self.norm_layer(x)
        if scale.shape[0] not in (1, x.shape[0]):  # one for all is spread by the next line
            times = x.shape[0] // scale.shape[0]
            scale, shift = (p.repeat_interleave(times, 0) for p in (scale, shift))
        return torch.addcmul(shift.to(x.dtype), x, 1 + scale.to(x.dtype))


class SpatialNorm2d(nn.Module):
    """The static form: two ordinary 1x1 convolutions map `pixel_feats` to scale (+ 1) and shift."""

    def __init__(self, norm: str, channels: int, side: int, eps: float, momentum: float):
        super().__init__()
        self.pixel_feats = nn.Parameter(_pixel_features(channels, side))
        self.norm_layer = plain_norm(norm, channels, eps, momentum, affine=False)
        self.conv_weight = Conv(channels, channels, 1, eps)
        self.conv_bias = Conv(channels, channels, 1, eps)

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.conv_weight(self.pixel_feats), self.conv_bias(self.pixel_feats)
        return torch.addcmul(shift, self.norm_layer(x), 1 + scale)


def plain_norm(
    kind: str, channels: int, eps: float, momentum: float, affine: bool = True
) -> nn.Module:
    """BatchNorm ("bn"), InstanceNorm ("in") or the identity ("none")."""
    if kind == "bn":
        return nn.BatchNorm2d(channels, eps, momentum, affine)
    if kind == "in":
        return nn.InstanceNorm2d(channels, eps, affine=affine)
    return nn.Identity()


def norm2d(kind: str, channels: int, side: int, eps: float, momentum: float) -> nn.Module:
    """A norm by name: `bn`, `in` or `none`, optionally with the prefix `spade_`, `ada_` or both.

    side  of the input maps, pixels; used with `spade_`
    `spade_none` and `ada_none` keep scale and shift, without a normalisation.
    """
    base = kind.removeprefix("ada_").removeprefix("spade_")
    _one_of("norm", base, NORMS, kind)
    spade = "spade_" in kind
    if kind.startswith("ada_"):
        return AdaptiveNorm2d(base, channels, side if spade else 0, eps, momentum)
    if spade:
        return SpatialNorm2d(base, channels, side, eps, momentum)
    return plain_norm(base, channels, eps, momentum)


class PixelBias(nn.Module):
    """A bias per pixel, added after a convolution.

    kind  fixed              a learned map (1, C, s, s)
          adaptive           this map after a predicted 1x1 convolution
          adaptive_original  the convolution is predicted but not used, as in the published program
          stochastic         a learned scale per channel times normal noise
    """

    def __init__(self, kind: str, channels: int, side: int, fan_in: int):
        super().__init__()
        self.kind, self.sets = kind, int(kind.startswith("adaptive"))
        if kind == "stochastic":
            start = torch.zeros(1, channels, 1, 1)
        else:
            start = torch.empty(1, channels, side, side).uniform_(-(fan_in**-0.5), fan_in**-0.5)
        self.bias = nn.Parameter(start)

    def forward(self, x: Tensor, pairs: Iterator[Pair] | None = None) -> Tensor:
        if self.kind == "stochastic":
            return x + self.bias * torch.randn_like(x[:, :1])
        if self.kind == "fixed":
            return x + self.bias
        if pairs is None:
            raise TypeError(f"PixelBias: pairs must be given for the kind {self.kind}")
        weight, bias = next(pairs)
        if self.kind == "adaptive_original":
            return x + self.bias
        added = adaptive_conv(self.bias.expand(weight.shape[0], -1, -1, -1), weight, bias)
        return x + added.repeat_interleave(x.shape[0] // added.shape[0], 0)


class Chain(nn.Sequential):
    """Layers in a row. Adaptive layers take their pairs from the iterator, in order."""

    def forward(self, x: Tensor, pairs: Iterator[Pair] | None = None) -> Tensor:
        for layer in self:
            x = layer(x, pairs) if getattr(layer, "sets", 0) else layer(x)
        return x


class Residual(nn.Module):
    """A pre-activation residual block: block(block_feats(x)) + skip(x).

    block_feats  [norm] activation [up] conv3x3 [pixel bias] [norm] activation
    block        [up, if efficient] conv3x3 [pixel bias] [down]
    skip         [up] conv1x1 [down]; empty if channels and size stay the same
    """

    block_feats: Chain
    block: Chain
    skip: Chain

    def __init__(
        self,
        inputs: int,
        outputs: int,
        norms: tuple[str, str] = ("none", "none"),  # names for `norm2d`, before each activation
        act: str = "leakyrelu",
        up: str | None = None,  # "nearest", "bilinear": twice the size
        down: str | None = None,  # "avgpool", "maxpool": half the size
        side: int = 0,  # of the input maps, pixels; for norms and biases with learned maps
        efficient: bool = False,  # upsample before the second convolution, not before the first
        skip: str = "conv",  # or "ada_conv"
        pixel_bias: str = "none",
        eps: float = 1e-7,
        momentum: float = 1.0,  # of BatchNorm
    ):
        super().__init__()
        _one_of("pixel bias", pixel_bias, PIXEL_BIASES)
        _one_of("skip layer", skip, ("conv", "ada_conv"))
        middle = side * 2 if up and not efficient else side
        after = side * 2 if up else side

        def norm(kind: str, channels: int, size: int) -> list[nn.Module]:
            return [] if kind == "none" else [norm2d(kind, channels, size, eps, momentum)]

        def conv(width: int, size: int) -> list[nn.Module]:
            plain = pixel_bias == "none"
            layers: list[nn.Module] = [Conv(width, outputs, 3, eps, plain)]
            return layers if plain else [*layers, PixelBias(pixel_bias, outputs, size, 9 * width)]

        upper = [Upsample(up)] if up else []
        lower = [downsample(down)] if down else []
        self.block_feats = Chain(
            *norm(norms[0], inputs, side),
            activation(act),
            *([] if efficient else upper),
            *conv(inputs, middle),
            *norm(norms[1], outputs, middle),
            activation(act),
        )
        self.block = Chain(*(upper if efficient else []), *conv(outputs, after), *lower)
        self.skip = Chain()
        if inputs != outputs or up or down or skip == "ada_conv":
            by_call = skip == "ada_conv"
            one = AdaptiveConv2d() if by_call else Conv(inputs, outputs, 1, eps)
            self.skip = Chain(
                *([Upsample(up)] if up else []), one, *([downsample(down)] if down else [])
            )

    def forward(self, x: Tensor, pairs: Iterator[Pair] | None = None) -> tuple[Tensor, Tensor]:
        """The block's output, and its features: the output of `block_feats`.

        x  (N, inputs, H, W)
        """
        feats = self.block_feats(x, pairs)
        y = self.block(feats, pairs)
        layers = list(self.skip)
        # A 1x1 convolution commutes with averaging and repeating pixels. The smaller size needs a
        # quarter of the products (test_skip_order).
        if layers and (isinstance(layers[0], Upsample) or isinstance(layers[-1], nn.AvgPool2d)):
            layers.reverse()
        for layer in layers:
            x = layer(x, pairs) if getattr(layer, "sets", 0) else layer(x)
        return y + x, feats


def halving(
    widths: Sequence[int], side: int, norm: str, down: str, common: Common
) -> list[Residual]:
    """Residual blocks from each width to the next; each halves the size.

    side  of the first block's input maps, pixels
    """
    return [
        Residual(a, b, (norm, norm), down=down, side=side >> i, **common)
        for i, (a, b) in enumerate(pairwise(widths))
    ]


def through(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """The output of all layers in a row. The features of residual blocks are dropped."""
    for layer in layers:
        x = layer(x)[0] if isinstance(layer, Residual) else layer(x)
    return x


def average_frames(x: Tensor, frames: int) -> Tensor:
    """The mean over every `frames` consecutive rows: (b * frames, ...) -> (b, ...)."""
    return x if frames == 1 else x.unflatten(0, (-1, frames)).mean(1)


def doublings(large: int, small: int, names: str) -> int:
    """log2(large / small). Raises ValueError if it is not a whole number of at least 0."""
    count = round(math.log2(large / small)) if large > 0 and small > 0 else -1
    if count < 0 or small * 2**count != large:
        raise ValueError(f"bilayer: {names} must be a power of two, got {large} / {small}")
    return count


def _pixel_features(channels: int, side: int) -> Tensor:
    return torch.empty(1, channels, side, side).uniform_(-1, 1) / math.sqrt(channels * side * side)


def _one_of(what: str, value: str, known: tuple[str, ...], given: str | None = None) -> str:
    """`value`, if it is known; else ValueError, which shows `given` if there is one."""
    if value not in known:
        raise ValueError(
            f"bilayer: {what} must be one of {', '.join(known)}, got {given or value!r}"
        )
    return value
