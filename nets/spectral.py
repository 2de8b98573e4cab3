"""Spectrally normalised convolutions and fully connected layers, stored as torch's classic form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.ops.autocast import full_precision


class Spectral:
    """Mixin of a linear or convolutional layer: effective weight = weight_orig / sigma.

    sigma = u . (W v) with W the weight as (outputs, rest), u and v the stored vectors. A training
    forward moves them first by one power iteration; gradients flow through sigma with u and v
    constant. `fold` and `release` leave a plain layer whose parameter is `weight`.
    Miyato et al. 2018, algorithm 1.
    """

    def _init_spectral(self, eps: float) -> None:
        self.eps, self.spectral = eps, True
        weight = self.weight
        del self.weight
        self.weight_orig = weight
        for name, length in (("weight_u", len(weight)), ("weight_v", weight[0].numel())):
            start = torch.randn(length, dtype=weight.dtype, device=weight.device)
            self.register_buffer(name, self._unit(start))

    def effective_weight(self) -> Tensor:
        if not self.spectral:
            return self.weight
        weight = self.weight_orig
        # The vectors are short and the products cheap: never in bfloat16.
        with full_precision(weight):
            if self.training:
                self.iterate()
            # A second forward before the backward pass moves the buffers: keep these values.
            u, v = self.weight_u.clone(), self._inner(self.weight_v).flatten().clone()
            return weight / torch.dot(u, torch.mv(self._inner(weight, 1).flatten(1), v))

    @torch.no_grad()
    def iterate(self, times: int = 1) -> None:
        """Power iterations of the stored vectors."""
        matrix, v = self._inner(self.weight_orig, 1).flatten(1), self._inner(self.weight_v)
        for _ in range(times):
            moved = self._unit(torch.mv(matrix.t(), self.weight_u))
            v.copy_(moved.view(v.shape))
            self.weight_u.copy_(self._unit(torch.mv(matrix, moved)))

    def _inner(self, t: Tensor, first: int = 0) -> Tensor:
        """A view of the weight (first = 1), or of what has its inner shape, in the order in which
        the weight lies in memory: flattening one that is channels_last would copy it."""
        inner = self.weight_orig.shape[1:]
        t = t.view(*t.shape[:first], *inner)
        last = len(inner) == 3 and self.weight_orig.is_contiguous(memory_format=torch.channels_last)
        return t.movedim(first, -1) if last else t

    def _unit(self, vector: Tensor) -> Tensor:
        return F.normalize(vector, dim=0, eps=self.eps)

    @torch.no_grad()
    def fold(self) -> None:
        """Become a plain layer of the same function, by the stored vectors; for inference."""
        if self.spectral:
            training, self.training = self.training, False
            weight = self.effective_weight()
            self.training = training
            self.release()
            self.weight.copy_(weight)

    def release(self) -> None:
        """Become a plain layer with the weight as it is, not divided."""
        if self.spectral:
            weight = self.weight_orig
            del self.weight_orig, self.weight_u, self.weight_v
            self.weight, self.spectral = weight, False


class Conv(Spectral, nn.Conv2d):
    """A square convolution that keeps the size, spectrally normalised."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, eps: float = 1e-7, bias: bool = True
    ):
        nn.Conv2d.__init__(self, inputs, outputs, kernel, padding=kernel // 2, bias=bias)
        self._init_spectral(eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.effective_weight(), self.bias, padding=self.padding)


class Linear(Spectral, nn.Linear):
    """A fully connected layer, spectrally normalised."""

    def __init__(self, inputs: int, outputs: int, eps: float = 1e-7):
        nn.Linear.__init__(self, inputs, outputs)
        self._init_spectral(eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.effective_weight(), self.bias)


def spectral_layers(net: nn.Module) -> list[Spectral]:
    """All layers of a network that carry a spectral norm."""
    return [m for m in net.modules() if isinstance(m, Spectral) and m.spectral]


def settle(net: nn.Module, iterations: int = 10) -> nn.Module:
    """`net` after power iterations of every spectral norm: for fresh networks, whose vectors are
    random, so that they do not explode in evaluation mode."""
    for layer in spectral_layers(net):
        layer.iterate(iterations)
    return net


def fold(net: nn.Module) -> nn.Module:
    """`net`, every spectral norm divided into its weight, in place: same outputs in evaluation
    mode, bit for bit; for inference."""
    for layer in spectral_layers(net):
        layer.fold()
    return net
