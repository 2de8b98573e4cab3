"""DC-IGN: training steps of the disentangled regime, and reconstructions.

The peer is the same network computed the way its published program did: maps enlarged before they
are convolved, NCHW, a sigmoid and cross entropy on probabilities, two backward passes (one for the
reconstruction, one for the divergence), the optimiser's update operation by operation on one vector
of all parameters. Batches of 20, one latent active.
"""

from __future__ import annotations

import types
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nets.dcign import DCIGN, RMSprop, active_mask, bernoulli, hold, kl_divergence
from nets.dcign.network import UpConv
from nets.run.precision import Precision

RATE, B1, B2 = 5e-4, 0.1, 0.01


class Row(NamedTuple):
    """A row of the table."""

    name: str
    latents: int
    maps: int

    batch, size = 20, 150
    contenders = ("fp32", "bf16", "published")

    def contender(self, name: str, device: torch.device, compiled: bool) -> Contender:
        return Contender(self, name, device, compiled)


ROWS = [Row("dcign-150-96", 200, 96), Row("dcign-150-16", 24, 16)]


def published_convolution(self: UpConv, x: Tensor) -> Tensor:
    return F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), self.weight, self.bias)


class PublishedOptimizer:
    """The update on one vector, one operation after another."""

    def __init__(self, net: DCIGN):
        self.parameters = list(net.parameters())
        count = sum(p.numel() for p in self.parameters)
        device = self.parameters[0].device
        self.m, self.v = (torch.zeros(count, device=device) for _ in range(2))
        self.t = 0

    @torch.no_grad()
    def step(self) -> None:
        g = torch.cat([p.grad.flatten() for p in self.parameters])
        self.m = self.m * (1 - B1) + g * B1
        self.v = self.v * (1 - B2) + g * g * B2
        self.t += 1
        gamma = (1 - (1 - B2) ** self.t) ** 0.5 / (1 - (1 - B1) ** self.t)
        update = RATE * gamma * self.m / torch.sqrt(self.v + 1e-8)
        start = 0
        for p in self.parameters:
            p -= update[start : start + p.numel()].view(p.shape)
            start += p.numel()


class Contender:
    """One way of computing a row: its training step and its reconstruction."""

    def __init__(self, row: Row, name: str, device: torch.device, compiled: bool):
        self.peer = name == "published"
        self.precision = Precision("fp32" if self.peer else name, device, not self.peer)
        torch.manual_seed(0)
        self.net = self.precision.place(DCIGN(row.latents, row.maps))
        if self.peer:
            for layer in self.net.decoder:
                layer.forward = types.MethodType(published_convolution, layer)
        self.optimizer = (
            PublishedOptimizer(self.net) if self.peer else RMSprop(self.net.parameters(), RATE)
        )
        self.active = active_mask(slice(0, 1), row.latents, device)
        generator = torch.Generator().manual_seed(0)
        self.image = torch.rand(row.batch, 1, row.size, row.size, generator=generator).to(device)
        self.compute = torch.compile(self.held) if compiled else self.held

    def held(self) -> tuple[Tensor, Tensor, Tensor]:
        """Parameters of the likelihood, and the held mu and log variance."""
        mu, log_variance = (hold(head, self.active) for head in self.net.encode(self.image))
        z = self.net.sample(mu, log_variance, torch.randn_like(mu))
        return self.net.decode_parameters(z), mu, log_variance

    def step(self) -> None:
        self.net.zero_grad(set_to_none=True)
        with self.precision.autocast():
            parameters, mu, log_variance = self.compute()
        if self.peer:
            y, x, e = torch.sigmoid(parameters), self.image, 1e-12
            bce = -(x * torch.log(y + e) + (1 - x) * torch.log(1 - y + e)).sum()
            bce.backward(retain_graph=True)
            kl_divergence(mu, log_variance).backward()
        else:
            loss = bernoulli(parameters, self.image) + kl_divergence(mu, log_variance)
            loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def forward(self, random: bool = True) -> Tensor:
        """The reconstruction; the peer draws noise, as published, unless `random` is false."""
        with self.precision.autocast():
            mu, log_variance = self.net.encode(self.image)
            noise = torch.randn_like(mu) if self.peer and random else torch.zeros_like(mu)
            return self.net.decode(self.net.sample(mu, log_variance, noise))
