"""VUNet: training steps and transfers.

The peer of the whole-image rows is the same network computed the way its published program did: the
weight-normalised convolution, its scale and its shift one after another, noise from a multivariate
normal with an identity covariance, NCHW, Adam without fusing. Pixel L1 only, no VGG, two images a
batch.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nets.run.precision import Precision
from nets.vunet import Noise, VUNet
from nets.vunet.layers import NormConv2d, ResidualBlock, fold

BATCH = 2


class Row(NamedTuple):
    """A row of the table."""

    name: str
    make: Callable[[], VUNet]
    size: int
    crops: int  # side of the appearance crops; 0: the appearance is an image

    batch = BATCH

    @property
    def contenders(self) -> list[str]:
        return ["fp32", "bf16"] + ([] if self.crops else ["published"])

    def contender(self, name: str, device: torch.device, compiled: bool) -> Contender:
        return Contender(self, name, device, compiled)


ROWS = [
    Row("image-128", lambda: VUNet.image(128, 32, 64, "weight_affine", tanh=False), 128, 0),
    Row("image-256", lambda: VUNet.image(256), 256, 0),
    Row("parts-128", lambda: VUNet.parts(128, 1, 1), 128, 64),
    Row("parts-256", lambda: VUNet.parts(256, 2, 2), 256, 64),
]


def published_convolution(self: NormConv2d, x: Tensor, added: Tensor | None = None) -> Tensor:
    """`NormConv2d.forward` one operation after another."""
    if self.norm == "weight_affine":
        v = torch._weight_norm(self.weight, self.gain.view(-1, 1, 1, 1), 0)
        y = F.conv2d(x, v, self.bias, self.stride, self.padding)
        y = self.gamma.view(1, -1, 1, 1) * y + self.beta.view(1, -1, 1, 1)
    else:
        y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
    return y if added is None else added + y


def published_block(self: ResidualBlock, h: Tensor, skip: Tensor | None = None) -> Tensor:
    """`ResidualBlock.forward` likewise."""
    r = h if self.pre is None else torch.cat([h, self.pre(skip)], dim=1)
    return self.conv(F.elu(r), h)


def published_noise(net: VUNet, n: int) -> Noise:
    """Seven draws from multivariate normals: the latents, and the prior's four groups each."""

    def draw(shape: tuple[int, ...]) -> Tensor:
        dims = shape[0] * shape[1] * shape[2]
        normal = torch.distributions.MultivariateNormal(torch.zeros(dims), torch.eye(dims))
        return normal.sample((n,)).view(n, *shape)

    coarse, fine = net.latent_shapes
    groups = [draw((fine[0] // 4, *fine[1:])) for _ in range(4)]
    return Noise((draw(coarse), draw(fine)), (draw(coarse), torch.cat(groups, dim=1)))


def as_published(net: VUNet) -> VUNet:
    """The network with every convolution and block computed the published way."""
    for module in net.modules():
        if isinstance(module, NormConv2d):
            module.forward = types.MethodType(published_convolution, module)
        if isinstance(module, ResidualBlock):
            module.forward = types.MethodType(published_block, module)
    return net


def data(row: Row, precision: Precision) -> tuple[Tensor, Tensor, Tensor]:
    """Pose, appearance and target, seeded."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, row.size), (24, row.crops) if row.crops else (3, row.size), (3, row.size)]
    made = [torch.rand(BATCH, c, s, s, generator=generator) * 2 - 1 for c, s in shapes]
    return tuple(t.to(precision.device, memory_format=precision.memory_format) for t in made)


class Contender:
    """One way of computing a row: its training step and its transfer."""

    def __init__(self, row: Row, name: str, device: torch.device, compiled: bool):
        self.peer = name == "published"
        kind = "fp32" if self.peer else name
        self.precision = Precision(kind, device, channels_last=not self.peer)
        torch.manual_seed(0)
        self.net = self.precision.place(row.make())
        if self.peer:
            as_published(self.net)
        self.optimizer = torch.optim.Adam(self.net.parameters(), 1e-4, fused=not self.peer)
        torch.manual_seed(0)
        self.ready = fold(self.precision.place(row.make())) if not self.peer else self.net
        self.pose, self.appearance, self.target = data(row, self.precision)
        if compiled:
            self.net.compile()
            self.ready.compile()

    def step(self) -> None:
        noise = published_noise(self.net, BATCH) if self.peer else None
        with self.precision.autocast():
            out = self.net(self.pose, self.appearance, "train", noise)
        loss = (out.image.float() - self.target).abs().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def forward(self, random: bool = True) -> Tensor:
        """The peer's transfer draws noise, as published, unless `random` is false."""
        noise = published_noise(self.net, BATCH) if self.peer and random else None
        with self.precision.autocast():
            return self.ready(self.pose, self.appearance, "transfer", noise).image.float()
