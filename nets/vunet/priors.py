"""Priors of VUNet's latents, predicted from the pose.

Every prior takes the hidden state `h`, the posterior's latent `z` or None, and the `noise` that is
added to the means when there is no `z`; it returns the prior's mean and `z` or the sample.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nets.layers import Conv, Residual, depth_to_space, space_to_depth


class HiddenPrior(nn.Module):
    """Prior of the coarsest latent of the image form: the hidden state itself is the mean."""

    def forward(self, h: Tensor, z: Tensor | None, noise: Tensor | None):
        mean = h
        return mean, z if z is not None else mean + noise


class GroupPrior(nn.Module):
    """Autoregressive prior over the four positions of each 2x2 cell, 4C wide, 3x3 projections."""

    def __init__(self, width: int, norm: str, dropout: float):
        super().__init__()
        self.block = Residual(width, 0, norm, dropout)
        self.means = nn.ModuleList(Conv(4 * width, width, norm=norm) for _ in range(4))
        self.feedback = nn.ModuleList(Residual(4 * width, width, norm, dropout) for _ in range(3))

    def forward(self, h: Tensor, z: Tensor | None, noise: Tensor | None):
        t = space_to_depth(self.block(h))
        given = space_to_depth(z).chunk(4, dim=1) if z is not None else None
        added = space_to_depth(noise).chunk(4, dim=1) if given is None else None
        means, samples = [], []
        for i in range(4):
            means.append(self.means[i](t))
            samples.append(given[i] if given else means[i] + added[i])
            if i < 3:
                t = self.feedback[i](t, samples[i])
        mean = depth_to_space(torch.cat(means, dim=1))
        return mean, z if z is not None else depth_to_space(torch.cat(samples, dim=1))


class ReducedPrior(nn.Module):
    """Autoregressive prior of the image form, C wide after a 1x1 reduction; states are the means.

    wiring "chain"  t_{i+1} = A_{i+1}(t_i, group i): every block used once
    wiring "port"   t_1 = A_0(t_0), then A_1, A_2 with groups 1, 2: what imported checkpoints learnt
    Mean, z and noise are in space-to-depth form, (N, 4C, 1, 1).
    """

    def __init__(self, width: int, norm: str, dropout: float, wiring: str):
        super().__init__()
        self.wiring = wiring
        self.blocks = nn.ModuleList(
            Residual(width, width if i else 0, norm, dropout, skip_activation=False)
            for i in range(4)
        )
        self.reduce = Conv(4 * width, width, 1, norm=norm)

    def forward(self, h: Tensor, z: Tensor | None, noise: Tensor | None):
        t = self.reduce(space_to_depth(self.blocks[0](h)))
        given = z.chunk(4, dim=1) if z is not None else None
        added = noise.chunk(4, dim=1) if given is None else None
        means, samples = [], []
        for i in range(4):
            means.append(t)
            samples.append(given[i] if given else t + added[i])
            if i == 3:
                break
            if self.wiring == "chain":
                t = self.blocks[i + 1](t, samples[i])
            else:
                t = self.blocks[i](t, samples[i]) if i else self.blocks[0](t)
        mean = torch.cat(means, dim=1)
        return mean, z if z is not None else torch.cat(samples, dim=1)
