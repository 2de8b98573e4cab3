"""Layers of a VUNet: normalised convolutions, residual blocks, 2x2 space-to-depth."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets import ops
from nets.layers import depth_to_space

NORMS = ("none", "weight", "weight_affine")
Net = TypeVar("Net", bound=nn.Module)


def space_to_depth(x: Tensor) -> Tensor:
    """Feature maps (N, 4C, H/2, W/2) from (N, C, H, W); depth channel = (row * 2 + column) * C + c.

    The groups of C channels are the positions (0,0), (0,1), (1,0), (1,1) of each 2x2 cell. This
    is TensorFlow's order, not that of `F.pixel_unshuffle` (c * 4 + row * 2 + column).
    """
    n, c, h, w = x.shape
    if x.is_contiguous(memory_format=torch.channels_last):  # the result is channels_last as well
        x = x.permute(0, 2, 3, 1).reshape(n, h // 2, 2, w // 2, 2, c).transpose(2, 3)
        return x.reshape(n, h // 2, w // 2, 4 * c).permute(0, 3, 1, 2)
    x = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, 4 * c, h // 2, w // 2)


class NormConv2d(nn.Module):
    """A square convolution with zero padding: same size (stride 1) or half of it (stride 2).

    norm "none"           weight, bias; torch's default initialisation
    norm "weight"         y = gain * (x conv V/|V|) + bias, |V| an output channel, V ~ N(0, 0.05^2)
                          (Salimans and Kingma 2016, eq. 2)
    norm "weight_affine"  gamma * (that) + beta, the redundant form of published checkpoints, with
                          torch's default initialisation of V
    padding "symmetric"   k//2 on every side
    padding "same"        stride 2 only: 0 before, k//2 behind, as TensorFlow pads even sizes
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 3,
        stride: int = 1,
        norm: str = "none",
        padding: str = "symmetric",
    ):
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"NormConv2d: norm must be one of {', '.join(NORMS)}, got {norm!r}")
        self.stride, self.norm = stride, norm
        self.measure: Callable[[Tensor], Tensor] | None = None  # see `initialise_from_data`
        self.initial_std = 1.0  # of the output, after `initialise_from_data`
        self.pad_behind = kernel // 2 if padding == "same" and stride == 2 else 0
        self.padding = 0 if self.pad_behind else kernel // 2
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        if norm == "weight":
            nn.init.normal_(self.weight, std=0.05)
            self.gain = nn.Parameter(torch.ones(channels_out))
            return
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        bound = 1 / math.sqrt(channels_in * kernel**2)
        nn.init.uniform_(self.bias, -bound, bound)
        if norm == "weight_affine":
            self.gain = nn.Parameter(self.weight.detach().flatten(1).norm(dim=1))
            self.gamma = nn.Parameter(torch.ones(channels_out))
            self.beta = nn.Parameter(torch.zeros(channels_out))

    def direction(self) -> Tensor:
        """V/|V| (O, I, k, k)."""
        return self.weight / self._length().view(-1, 1, 1, 1)

    def _length(self) -> Tensor:
        return torch.linalg.vector_norm(self.weight, dim=(1, 2, 3)).clamp_min(1e-6)

    def effective(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the plain convolution that computes the same function."""
        if self.norm == "none":
            return self.weight, self.bias
        gain: Tensor = self.gain
        bias: Tensor = self.bias
        if self.norm == "weight_affine":
            gain, bias = gain * self.gamma, bias * self.gamma + self.beta
        # torch.compile fuses the formula. It gets the strides of the operator below wrong at times,
        # and the operator's backward pass then gives wrong gradients without an error.
        if torch.compiler.is_compiling():
            return self.direction() * gain.view(-1, 1, 1, 1), bias
        # torch's own operator: one pass forward and one backward, in the memory order of V.
        last = self.weight.is_contiguous(memory_format=torch.channels_last)
        v = self.weight.permute(0, 2, 3, 1) if last else self.weight
        v = torch._weight_norm(v, gain.view(-1, 1, 1, 1), 0)
        return v.permute(0, 3, 1, 2) if last else v, bias

    @torch.no_grad()
    def fold(self) -> None:
        """Turn this layer into the plain convolution of the same function, for inference."""
        weight, bias = self.effective()
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
        for name in ("gain", "gamma", "beta"):
            if hasattr(self, name):
                delattr(self, name)
        self.norm = "none"

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """The convolution of x, plus `added`."""
        if self.pad_behind:
            x = F.pad(x, (0, self.pad_behind, 0, self.pad_behind))
        if self.measure is not None:
            y = self._initialise(x, self.measure)
        else:
            weight, bias = self.effective()
            if self.stride == 1 and weight.shape[-1] == 3:
                return ops.conv3x3(x, weight, bias, added)
            if _by_product(x, weight):
                y = F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
            else:
                y = F.conv2d(x, weight, bias, self.stride, self.padding)
        return y if added is None else added + y

    def _initialise(self, x: Tensor, measure: Callable[[Tensor], Tensor]) -> Tensor:
        """The normalised output of this batch; sets gain and bias to match."""
        y = F.conv2d(x, self.direction(), None, self.stride, self.padding)
        moments = torch.stack([y.double().mean((0, 2, 3)), y.double().square().mean((0, 2, 3))])
        mean, square = measure(moments)
        scale = (square - mean.square()).clamp_min(0).add(1e-10).rsqrt() * self.initial_std
        self.gain.copy_(scale)
        self.bias.copy_(-mean * scale)
        return y * self.gain.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


def _by_product(x: Tensor, weight: Tensor) -> bool:
    """True if a 1x1 convolution is trained faster as a product of matrices.

    On CPUs with several threads, the weight gradient of F.conv2d waits in busy loops: for
    milliseconds a layer where other programs run. Without gradients F.conv2d is as fast or faster.
    """
    if weight.shape[-1] > 1 or x.device.type != "cpu" or not torch.is_grad_enabled():
        return False
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return False
    return x.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def initialise_from_data(
    net: nn.Module,
    forward: Callable[[], object],  # pushes one batch through `net`
    average: Callable[[Tensor], Tensor] = lambda moments: moments,  # mean over ranks, (2, C)
) -> None:
    """Set gain and bias of every weight-normalised layer: outputs of mean 0 and `initial_std`.

    Layers are set in the order in which they run, each on the normalised output of the ones before.
    Directions do not change. All ranks must hold batches of one size. Salimans and Kingma 2016,
    section 3.
    """
    layers = [m for m in net.modules() if isinstance(m, NormConv2d) and m.norm == "weight"]
    try:
        for layer in layers:
            layer.measure = average
        forward()
    finally:
        for layer in layers:
            layer.measure = None


def fold(net: Net) -> Net:
    """`net` with its normalised convolutions turned into plain ones, in place, for inference."""
    for module in net.modules():
        if isinstance(module, NormConv2d):
            module.fold()
    return net


class ResidualBlock(nn.Module):
    """h + conv3x3(dropout(elu(r))), where r = h or, with a skip, concat[h, pre(skip)].

    channels         of h
    skip_channels    of the skip, which the 1x1 convolution `pre` maps to `channels`; 0: no skip
    skip_activation  an ELU before `pre`
    """

    def __init__(
        self,
        channels: int,
        skip_channels: int = 0,
        norm: str = "none",
        dropout: float = 0.0,
        skip_activation: bool = True,
    ):
        super().__init__()
        self.dropout, self.skip_activation = dropout, skip_activation
        self.pre = NormConv2d(skip_channels, channels, 1, norm=norm) if skip_channels else None
        self.conv = NormConv2d(channels * (2 if skip_channels else 1), channels, norm=norm)

    def forward(self, h: Tensor, skip: Tensor | None = None) -> Tensor:
        if self.pre is None or skip is None:
            r = ops.elu_cat(h)
        else:
            skip = self.pre(ops.elu_cat(skip) if self.skip_activation else skip)
            r = ops.elu_cat(h, skip)
        if self.dropout:
            r = F.dropout(r, self.dropout, self.training)
        return self.conv(r, h)


class Down(NormConv2d):
    """3x3 convolution with stride 2, without activation: half the size."""

    def __init__(self, channels_in: int, channels_out: int, norm: str, padding: str):
        super().__init__(channels_in, channels_out, 3, 2, norm, padding)


class Up(nn.Module):
    """Twice the size: 3x3 convolution to four times the channels, then depth to space."""

    def __init__(self, channels_in: int, channels_out: int, norm: str):
        super().__init__()
        self.conv = NormConv2d(channels_in, 4 * channels_out, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        return depth_to_space(self.conv(x))
