"""The latents of a trained DC-IGN by name: their groups, their ranges, and their factors."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from nets.data.scenes.batches import Source, unit
from nets.data.scenes.factors import FACTORS
from nets.dcign import DCIGN, factor_slice, metrics, parse_groups
from nets.dcign.data import is_squashed, open_batches
from nets.dcign.options import sets
from nets.dcign.visuals import bounds
from nets.errors import UserError

BATCH = 20  # images per batch, as published
IMAGES = 240  # training images per type of batch, for ranges and maps
DELAY = 2.0  # seconds until a progress bar appears
Item = TypeVar("Item")
PUBLISHED = (-20.0, 20.0)  # range of a sweep if there is no data to measure it on


def progress(items: Sequence[Item], what: str, unit: str = "batch") -> tqdm[Item]:
    """The items, with a progress bar on a terminal if they take longer than two seconds."""
    return tqdm(items, what, unit=unit, delay=DELAY, leave=False, disable=None, dynamic_ncols=True)


@torch.no_grad()
def encode(net: DCIGN, image: Tensor, at_once: int = 64) -> Tensor:
    """The means of the codes, (N, D) float32 on the CPU, of images (N, 1, S, S).

    image    uint8, or floating point in [0, 1]
    at_once  images in a forward pass
    """
    device = next(net.parameters()).device
    parts = progress(image.split(at_once), "encoding")
    return torch.cat([net.encode(unit(part.to(device)))[0].cpu() for part in parts])


@torch.no_grad()
def decode(net: DCIGN, code: Tensor, at_once: int = 64) -> Tensor:
    """Images (N, 1, S, S) float32 in [0, 1] on the CPU, from codes (N, D)."""
    device = next(net.parameters()).device
    parts = progress(code.split(at_once), "decoding")
    return torch.cat([net.decode(part.to(device)).cpu() for part in parts])


class Latents:
    """The latents of a network by name, with their ranges and maps, which are read from its data.

    Every group of latents but the last stands for a factor. In the entangled regime no latent
    belongs to a factor. Each factor then gets the latent with the largest variance in batches in
    which only that factor changes.
    """

    def __init__(
        self,
        net: DCIGN,
        trained: Mapping[str, Any],  # options of its training
        has_data: bool = True,  # whether its training data can be read
        known: Source | None = None,  # its training data, if already open
    ):
        self.net, self.trained, self.has_data = net, trained, has_data
        if known is not None:
            self.known = known
        self.squashed = is_squashed(trained)
        self.groups = parse_groups(trained["groups"])
        self.entangled = trained["regime"] == "entangled"
        self.factors = [g.name for g in self.groups[:-1]]

    @functools.cached_property
    def known(self) -> Source:
        """Training batches of every type. Raises UserError if there are none."""
        if not self.has_data:
            raise UserError(
                "a published network has no data of its own; give latents by number, z:K"
            )
        options = {**self.trained, "regime": "disentangled"}
        return open_batches(options, sets(self.trained), "train")

    @functools.cached_property
    def seen(self) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
        """Codes {type: (B, N, D)} and labels {type: {name: (B, N, ...)}} of training batches."""
        size = self.trained["batch_size"] or BATCH
        return encode_batches(self.net, self.known, -(-IMAGES // size))

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
        """(n,) numbers of the latents that belong to no factor."""
        taken = {i for name in self.factors for i in range(self.net.latents)[self.owners[name]]}
        return torch.tensor([i for i in range(self.net.latents) if i not in taken])

    def is_single(self, name: str) -> bool:
        """True if one latent belongs to a group."""
        own = self.owners[name]
        return own.stop - own.start == 1

    def indices(self, name: str) -> list[int]:
        """The numbers of the latents of a name, from 0.

        name  a factor, such as `azimuth`; `shape:K`, the K-th latent of its group; or `z:K`, the
              K-th of all, K from 1
        Raises UserError for any other name.
        """
        group, _, place = name.partition(":")
        many = {"z": slice(0, self.net.latents)}
        if group in (g.name for g in self.groups):
            many[group] = self.owners[group]
        if group not in many:
            expected = ", ".join([*self.factors, f"{self.groups[-1].name}:K", "z:K"])
            raise UserError(f"{name}: no such latent; the names are {expected}")
        own = range(self.net.latents)[many[group]]
        if not place and (len(own) == 1 or group in self.factors):
            return list(own)
        if not place.isdigit() or not 1 <= int(place) <= len(own):
            raise UserError(f"{name}: must be {group}:K, K from 1 to {len(own)}")
        return [own[int(place) - 1]]

    def bounds(self, index: int) -> tuple[float, float]:
        """The range of a sweep: the 1st and 99th percentile of a latent over training images."""
        if not self.has_data:
            return PUBLISHED
        return bounds(torch.cat([c.flatten(0, 1) for c in self.seen[0].values()])[:, index])

    @functools.cached_property
    def maps(self) -> dict[str, metrics.LatentMap]:
        """Map of each labelled factor, in radians, to the values of its latents."""
        codes, labels = self.seen
        maps = {}
        for name in self.factors:
            if name in FACTORS and all(name in known for known in labels.values()):
                truth = torch.cat([known[name].flatten() for known in labels.values()])
                own = self.owners[name]
                latent = torch.cat([c[..., own].flatten(0, 1) for c in codes.values()])
                maps[name] = metrics.fit_map(truth, latent)
        return maps


def encode_batches(
    net: DCIGN, source: Source, limit: int
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Codes {type: (B, N, D)} and labels {type: {name: (B, N, ...)}} of a source's batches.

    limit  batches of each type, at most, at equal distances
    If batches of a type differ in size, the first N images of each count, N that of the smallest.
    """
    codes, labels = {}, {}
    for kind, count in source.counts.items():
        encoded, known = [], []
        several = min(count, limit)
        numbers = [i * count // several for i in range(several)]
        for number in progress(numbers, f"codes of type {kind}"):
            batch = source.read(kind, number)
            encoded.append(encode(net, batch.pop("image")))
            known.append(batch)
        sizes = {len(code) for code in encoded}
        n = min(sizes)
        if len(sizes) > 1:
            print(f"{kind}: batches of {n} to {max(sizes)} images; codes of the first {n} of each")
        codes[kind] = torch.stack([code[:n] for code in encoded])
        labels[kind] = {name: torch.stack([of[name][:n] for of in known]) for name in known[0]}
    return codes, labels
