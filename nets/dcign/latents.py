"""The latents of a trained DC-IGN by name: who owns them, how far they reach, what they mean."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nets.data.scenes.batches import Source, unit
from nets.data.scenes.factors import FACTORS
from nets.dcign import DCIGN, factor_slice, metrics, parse_groups
from nets.dcign.data import open_batches
from nets.dcign.options import sets
from nets.dcign.visuals import bounds
from nets.errors import UserError

IMAGES = 240  # of each type of batch, that ranges and maps are taken from
PUBLISHED = (-20.0, 20.0)  # range of a sweep where there is no data to take it from


@torch.no_grad()
def encode(net: DCIGN, image: Tensor, at_once: int = 64) -> Tensor:
    """(N, D) float32 on the CPU, the code's means of images (N, 1, S, S)."""
    device = next(net.parameters()).device
    return torch.cat([net.encode(unit(part.to(device)))[0].cpu() for part in image.split(at_once)])


@torch.no_grad()
def decode(net: DCIGN, code: Tensor, at_once: int = 64) -> Tensor:
    """(N, 1, S, S) float32 in [0, 1] on the CPU, of codes (N, D)."""
    device = next(net.parameters()).device
    return torch.cat([net.decode(part.to(device)).cpu() for part in code.split(at_once)])


class Latents:
    """Names for the latents of a network, from its options and, when asked for, its data.

    In the entangled regime nobody owns a latent: there a factor's is the one that varies most in
    batches in which only that factor does.
    """

    def __init__(
        self,
        net: DCIGN,
        trained: Mapping[str, Any],  # options of its training
        has_data: bool = True,  # its training data can be read
        known: Source | None = None,  # that data, where it is open already
    ):
        self.net, self.trained, self.has_data = net, trained, has_data
        if known is not None:
            self.known = known
        self.groups = parse_groups(trained["groups"])
        self.entangled = trained["regime"] == "entangled"
        self.factors = [g.name for g in self.groups if g.latents == 1]

    @functools.cached_property
    def known(self) -> Source:
        """Training batches of every type. Raises UserError where there are none."""
        if not self.has_data:
            raise UserError(
                "a published network: its data is not here; give latents by number, z:K"
            )
        options = {**self.trained, "regime": "disentangled"}
        return open_batches(options, sets(self.trained), "train")

    @functools.cached_property
    def seen(self) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """Codes {type: (B, N, D)} and labels {type: {name: (B, N, ...)}} of training batches."""
        return encode_batches(self.net, self.known, -(-IMAGES // self.trained["batch_size"]))

    @functools.cached_property
    def owners(self) -> dict[str, slice]:
        """The latents of each group, by its name."""
        d = self.net.latents
        owned = {g.name: factor_slice(self.groups, g.name, d) for g in self.groups}
        if not self.entangled:
            return owned
        moving = {t: c.var(1, unbiased=False).mean(0) for t, c in self.seen[0].items()}
        result = {name: int(moving[name].argmax()) for name in self.factors}
        return owned | {name: slice(i, i + 1) for name, i in result.items()}

    @functools.cached_property
    def intrinsic(self) -> Tensor:
        """(n,) numbers of the latents that no factor owns."""
        taken = [self.owners[name].start for name in self.factors]
        return torch.tensor([i for i in range(self.net.latents) if i not in taken])

    def index(self, name: str) -> int:
        """The number, from 0, of the latent `azimuth`, ..., `shape:K`, the K-th of its group, or
        `z:K`, the K-th of all, K from 1. Raises UserError.
        """
        group, _, place = name.partition(":")
        names = [g.name for g in self.groups]
        many = {"z": slice(0, self.net.latents)}
        if group in names:
            many[group] = self.owners[group]
        if group not in many:
            expected = ", ".join([*self.factors, f"{names[-1]}:K", "z:K"])
            raise UserError(f"{name}: no such latent; there are {expected}")
        own = many[group]
        count = own.stop - own.start
        if not place and count == 1:
            return own.start
        if not place.isdigit() or not 1 <= int(place) <= count:
            raise UserError(f"{name}: must be {group}:K, K from 1 to {count}")
        return own.start + int(place) - 1

    def bounds(self, index: int) -> tuple[float, float]:
        """How far a sweep of a latent goes: its 1st and 99th percentile over training images."""
        if not self.has_data:
            return PUBLISHED
        return bounds(torch.cat([c.flatten(0, 1) for c in self.seen[0].values()])[:, index])

    @functools.cached_property
    def maps(self) -> dict[str, metrics.LatentMap]:
        """What value of its latent stands for a value of a factor, radians, where labels are."""
        codes, labels = self.seen
        maps = {}
        for name in self.factors:
            if name in FACTORS and all(name in of for of in labels.values()):
                truth = torch.cat([of[name].flatten() for of in labels.values()])
                latent = torch.cat(
                    [c[..., self.owners[name].start].flatten() for c in codes.values()]
                )
                maps[name] = metrics.fit_map(truth, latent)
        return maps


def encode_batches(
    net: DCIGN, source: Source, limit: int
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Codes {type: (B, N, D)} and labels {type: {name: (B, N, ...)}} of batches, `limit` a type."""
    codes, labels = {}, {}
    for kind, count in source.counts.items():
        read = [source.read(kind, number) for number in range(min(count, limit))]
        codes[kind] = torch.stack([encode(net, batch["image"]) for batch in read])
        labels[kind] = {
            name: torch.stack([batch[name] for batch in read])
            for name in read[0]
            if name != "image"
        }
    return codes, labels
