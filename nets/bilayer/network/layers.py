"""Blocks of the bilayer networks: norms, adaptive layers, the residual block.

Parameters that one network predicts for another are arguments of the call and never state of a
module, so identities cannot be mixed up: a `Chain` hands an iterator of (weight, bias) pairs down
to its adaptive layers, which take theirs in the order in which they stand (depth first).

A pair belongs to one identity a row, (b, ...). Where the input has b * t rows, each pair serves t
consecutive ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.spectral import Conv

Pair = tuple[Tensor, Tensor]
NORMS = ("none", "bn", "in")
PIXEL_BIASES = ("none", "fixed", "adaptive", "adaptive_original", "stochastic")
SLOPE = 0.2


class Upsample(nn.Module):
    """Twice the size, `nearest` or `bilinear`."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = _one_of("upsampling", kind, ("nearest", "bilinear"))

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode=self.kind)


def downsample(kind: str) -> nn.Module:
    """Half the size, `avgpool` or `maxpool` over 2x2."""
    pools = {"avgpool": nn.AvgPool2d, "maxpool": nn.MaxPool2d}
    return pools[_one_of("downsampling", kind, tuple(pools))](2)


def activation(kind: str) -> nn.Module:
    """`leakyrelu` (slope 0.2) or `relu`."""
    if _one_of("activation", kind, ("leakyrelu", "relu")) == "relu":
        return nn.ReLU()
    return nn.LeakyReLU(SLOPE)


class AdaptiveConv2d(nn.Module):
    """A 1x1 convolution whose weight (b, out, in, 1, 1) and bias (b, out) come with the call."""

    sets = 1

    def forward(self, x: Tensor, pairs: Iterator[Pair]) -> Tensor:
        weight, bias = next(pairs)
        return adaptive_conv(x, weight, bias)


def adaptive_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(b * t, in, H, W), (b, out, in, 1, 1), (b, out) -> (b * t, out, H, W)."""
    b, c, (h, w) = len(weight), x.shape[1], x.shape[2:]
    matrix = weight.flatten(2)
    if x.stride(1) == 1 and c > 1:  # channels last, and the result too
        rows = x.permute(0, 2, 3, 1).reshape(b, -1, c)
        y = torch.baddbmm(bias[:, None].to(rows.dtype), rows, matrix.transpose(1, 2).to(rows.dtype))
        return y.view(len(x), h, w, -1).permute(0, 3, 1, 2)
    planes = x.reshape(b, len(x) // b, c, h * w)
    y = matrix[:, None] @ planes + bias[:, None, :, None]
    return y.reshape(len(x), -1, h, w)


class AdaptiveNorm2d(nn.Module):
    """A norm without affine, then a predicted scale (+ 1) and shift for each identity.

    norm     "bn", "in" or "none"
    spatial  0: the pair is (scale, shift), (b, C) each. Else the side s of a learned
             `pixel_feats` (1, C, s, s), and two pairs, those of the 1x1 convolutions that turn it
             into maps of scale (+ 1) and shift
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
            feats = self.pixel_feats.expand(len(weight), -1, -1, -1)
            scale = adaptive_conv(feats, weight, bias)
            shift = adaptive_conv(feats, shift_weight, shift_bias)
        x = self.norm_layer(x)
        if len(scale) != len(x):
            scale, shift = (p.repeat_interleave(len(x) // len(p), 0) for p in (scale, shift))
        return torch.addcmul(shift.to(x.dtype), x, 1 + scale.to(x.dtype))


class SpatialNorm2d(nn.Module):
    """The static form: scale (+ 1) and shift maps from `pixel_feats` by two ordinary 1x1 convs."""

    def __init__(self, norm, channels, side, eps, momentum):
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
    """BatchNorm ("bn"), InstanceNorm ("in") or nothing ("none")."""
    if kind == "bn":
        return nn.BatchNorm2d(channels, eps, momentum, affine)
    if kind == "in":
        return nn.InstanceNorm2d(channels, eps, affine=affine)
    return nn.Identity()


def norm2d(kind: str, channels: int, side: int, eps: float, momentum: float) -> nn.Module:
    """A norm by name: `bn`, `in`, `none`, each with `spade_` and `ada_` or both before it.

    side  of the maps that it sees, for those with `spade_`. With `none`, `spade_` and `ada_` leave
          out only the normalisation
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
    """What is added after a convolution: `fixed` a learned (1, C, s, s); `adaptive` that through
    a predicted 1x1 convolution; `adaptive_original` the same prediction, but not used, as the
    published program does; `stochastic` a learned scale a channel times normal noise."""

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
        weight, bias = next(pairs)
        if self.kind == "adaptive_original":
            return x + self.bias
        added = adaptive_conv(self.bias.expand(len(weight), -1, -1, -1), weight, bias)
        return x + added.repeat_interleave(len(x) // len(added), 0)


class Chain(nn.Sequential):
    """Layers in a row. The adaptive ones take their pairs from the iterator, in order."""

    def forward(self, x: Tensor, pairs: Iterator[Pair] | None = None) -> Tensor:
        for layer in self:
            x = layer(x, pairs) if getattr(layer, "sets", 0) else layer(x)
        return x


class Residual(nn.Module):
    """block(block_feats(x)) + skip(x), pre-activation; see `forward`.

    block_feats  [norm] activation [up] conv3x3 [pixel bias] [norm] activation
    block        [up, if efficient] conv3x3 [pixel bias] [down]
    skip         [up] conv1x1 [down]; nothing if the channels and the size stay
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        norms: tuple[str, str] = ("none", "none"),  # names for `norm2d`, before each activation
        act: str = "leakyrelu",
        up: str | None = None,  # "nearest", "bilinear": twice the size
        down: str | None = None,  # "avgpool", "maxpool": half the size
        side: int = 0,  # of the input maps, for norms and biases that have maps of their own
        efficient: bool = False,  # upsample before the second convolution, not the first
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
            layers = [Conv(width, outputs, 3, eps, plain)]
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
        """The output, and the features: what comes out of `block_feats`.

        x  (N, inputs, H, W)
        """
        feats = self.block_feats(x, pairs)
        y = self.block(feats, pairs)
        layers = list(self.skip)
        # A 1x1 convolution may change places with what averages or repeats pixels: a quarter of
        # the products (test_skip_order).
        if layers and (isinstance(layers[0], Upsample) or isinstance(layers[-1], nn.AvgPool2d)):
            layers.reverse()
        for layer in layers:
            x = layer(x, pairs) if getattr(layer, "sets", 0) else layer(x)
        return y + x, feats


def halving(
    widths: Sequence[int], side: int, norm: str, down: str, **settings: Any
) -> list[Residual]:
    """Residual blocks from each width to the next, each halving its maps, of `side` at first."""
    return [
        Residual(a, b, (norm, norm), down=down, side=side >> i, **settings)
        for i, (a, b) in enumerate(pairwise(widths))
    ]


def through(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """x after all layers; of residual blocks their output, not their features."""
    for layer in layers:
        x = layer(x)[0] if isinstance(layer, Residual) else layer(x)
    return x


def average_frames(x: Tensor, frames: int) -> Tensor:
    """(b * n, ...) -> (b, ...): the mean over every n consecutive rows."""
    return x if frames == 1 else x.unflatten(0, (-1, frames)).mean(1)


def doublings(large: int, small: int, names: str) -> int:
    """log2(large / small), a whole number at least 0; else ValueError."""
    count = round(math.log2(large / small)) if large > 0 and small > 0 else -1
    if count < 0 or small * 2**count != large:
        raise ValueError(f"bilayer: {names} must be a power of two, got {large} / {small}")
    return count


def _pixel_features(channels: int, side: int) -> Tensor:
    return torch.empty(1, channels, side, side).uniform_(-1, 1) / math.sqrt(channels * side * side)


def _one_of(what: str, value: str, known: tuple[str, ...], given: str | None = None) -> str:
    if value not in known:
        raise ValueError(
            f"bilayer: {what} must be one of {', '.join(known)}, got {given or value!r}"
        )
    return value
