"""Spectrally normalised convolutions and fully connected layers, with torch's classic keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.ops.autocast import full_precision


class Spectral(nn.Module):
    """Mixin of a linear or convolutional layer: effective weight = weight_orig / sigma.

    sigma = u . (W v) with W the weight as (outputs, rest), and u and v the stored vectors. In
    training, each forward pass first updates u and v by one power iteration. Gradients flow through
    sigma with u and v constant. `fold` and `release` leave a plain layer with the parameter
    `weight`. Miyato et al. 2018, algorithm 1.
    """

    weight: Tensor  # of a plain layer; a spectral one has the other three instead
    weight_orig: Tensor
    weight_u: Tensor
    weight_v: Tensor

    def _init_spectral(self, eps: float) -> None:
        self.eps, self.spectral = eps, True
        weight = self.weight
        del self.weight
        self.weight_orig = weight
        for name, length in (("weight_u", len(weight)), ("weight_v", weight[0].numel())):
            start = torch.randn(length, dtype=weight.dtype, device=weight.device)
            self.register_buffer(name, self._unit(start))

    def effective_weight(self) -> Tensor:
        """The weight that the layer computes with."""
        if not self.spectral:
            return self.weight
        weight = self.weight_orig
        # The vectors are short and the products cheap, so they are never in bfloat16.
        with full_precision(weight):
            if self.training:
                self.iterate()
            # Copies: a second forward pass before the backward pass changes the buffers.
            u, v = self.weight_u.clone(), self._inner(self.weight_v).flatten().clone()
            return weight / torch.dot(u, torch.mv(self._inner(weight, 1).flatten(1), v))

    @torch.no_grad()
    def iterate(self, times: int = 1) -> None:
        """Updates the stored vectors by power iterations."""
        matrix, v = self._inner(self.weight_orig, 1).flatten(1), self._inner(self.weight_v)
        for _ in range(times):
            new_v = self._unit(torch.mv(matrix.t(), self.weight_u))
            v.copy_(new_v.view(v.shape))
            self.weight_u.copy_(self._unit(torch.mv(matrix, new_v)))

    def _inner(self, t: Tensor, first: int = 0) -> Tensor:
        """A view of `t` whose inner axes follow the weight's memory order.

        t      the weight (first = 1), or a tensor of its inner shape (first = 0)
        Flattening a weight in channels_last without this would copy it.
        """
        inner = self.weight_orig.shape[1:]
        t = t.view(*t.shape[:first], *inner)
        last = len(inner) == 3 and self.weight_orig.is_contiguous(memory_format=torch.channels_last)
        return t.movedim(first, -1) if last else t

    def _unit(self, vector: Tensor) -> Tensor:
        return F.normalize(vector, dim=0, eps=self.eps)

    @torch.no_grad()
    def fold(self) -> None:
        """Turns this into a plain layer of the same outputs, for inference."""
        if self.spectral:
            training, self.training = self.training, False
            weight = self.effective_weight()
            self.training = training
            self.release()
            self.weight.copy_(weight)

    def release(self) -> None:
        """Turns this into a plain layer with the weight as stored, not divided by sigma."""
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
    """`net` after power iterations of every spectral norm.

    For fresh networks: their vectors are random, and outputs in evaluation mode could explode.
    """
    for layer in spectral_layers(net):
        layer.iterate(iterations)
    return net


def fold(net: nn.Module) -> nn.Module:
    """`net` with every weight divided by its spectral norm, in place, for inference.

    Outputs in evaluation mode stay the same, bit for bit.
    """
    for layer in spectral_layers(net):
        layer.fold()
    return net
