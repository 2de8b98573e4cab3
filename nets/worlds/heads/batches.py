"""Batches of the demo world of heads, each rendered on its first use."""

from __future__ import annotations

import mmap
from collections.abc import Mapping

import torch
from torch import Tensor

from nets.data.scenes.factors import FACTORS, MIXED, kinds_of
from nets.errors import UserError
from nets.random import uniform
from nets.worlds.heads.world import RANGES, SPLITS, identities, render

COUNTS = {"train": 200, "test": 8}  # batches of each type
KINDS = (*FACTORS, "shape", MIXED)
POOL = 2 << 30  # bytes of cached images


class HeadBatches:
    """Batches by type and number; each is a function of (seed, split, type, number) alone.

    In a batch of type azimuth, elevation or light, only that factor varies, uniform in its range.
    In type shape, each image shows another person. In type mixed, everything varies. Two splits
    share no person, nor do two batches. All faces are at rest.
    Labels: azimuth, elevation, light (radians), identity (its numbers), person (its id).
    """

    name = "heads"
    labels = (*FACTORS, "identity", "person")

    def __init__(
        self,
        split: str,  # "train" or "test"
        sets: Mapping[str, str] | None = None,  # its keys are the types; None: type mixed
        count: int = 20,  # images per batch
        size: int = 150,  # side of the images, in pixels
        limit: int | None = None,  # batches per type; default: 200 to train, 8 to test
        seed: int = 0,
    ):
        """Raises UserError for a type other than azimuth, elevation, light and shape."""
        unknown = [kind for kind in kinds_of(sets) if kind not in KINDS]
        if unknown:
            raise UserError(
                f"the demo world of {self.name} has no batches in which only {unknown[0]} changes; "
                f"its types are {', '.join(KINDS[:-1])}. Give --data"
            )
        if size < 16:
            raise UserError(f"image_size: must be 16 or more for the demo world, got {size}")
        self.split, self.count, self.size, self.seed = split, count, size, seed
        self.counts = {kind: limit or COUNTS[split] for kind in kinds_of(sets)}
        self._first = {kind: i * (limit or COUNTS[split]) for i, kind in enumerate(self.counts)}
        self._open_pool()

    def _open_pool(self) -> None:
        """Allocates memory for rendered images, which forked workers share."""
        one = self.count * self.size**2
        slots = min(sum(self.counts.values()), POOL // one)
        memory = mmap.mmap(
            -1, max(1, slots) * (one + 1)
        )  # pages are allocated when they are written
        whole = torch.frombuffer(memory, dtype=torch.uint8)
        self._images = whole[: slots * one].view(slots, self.count, 1, self.size, self.size)
        self._ready = whole[slots * one : slots * (one + 1)]

    def __getstate__(self) -> dict:
        state = dict(self.__dict__)
        del state["_images"], state["_ready"]
        return state

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open_pool()  # a process that was not forked has a pool of its own

    def scene(self, kind: str, number: int) -> dict[str, Tensor]:
        """The labels of a batch, from which `draw` renders its images."""
        n, place = self.count, KINDS.index(kind)
        key = torch.tensor([number], dtype=torch.int64)
        fixed = uniform(self.seed, f"faces {self.split} {kind}", key, len(FACTORS)).expand(n, -1)
        each = torch.arange(n) + number * n
        moving = uniform(self.seed, f"faces {self.split} {kind} each", each, len(FACTORS))
        scene = {
            factor: ((moving if kind in (factor, MIXED) else fixed)[:, i] * 2 - 1).float()
            * RANGES[factor]
            for i, factor in enumerate(FACTORS)
        }
        person = SPLITS[self.split] + each * len(KINDS) + place
        if kind in FACTORS:
            person = person[:1].expand(n).contiguous()
        return {**scene, "identity": identities(person, self.seed), "person": person}

    def draw(self, scene: Mapping[str, Tensor]) -> Tensor:
        """The exact images (N, 1, S, S) uint8 of labels as returned by `scene`."""
        identity, (azimuth, elevation, light) = scene["identity"], (scene[f] for f in FACTORS)
        with torch.autocast("cpu", enabled=False):  # exact, also if the caller computes in bf16
            return render(identity, azimuth, elevation, light, self.size)["image"]

    def read(self, kind: str, number: int) -> dict[str, Tensor]:
        """A batch: image (N, 1, S, S) uint8 and the labels."""
        if not 0 <= number < self.counts[kind]:
            raise IndexError(
                f"{type(self).__name__}: number must be below {self.counts[kind]}, got {number}"
            )
        scene, slot = self.scene(kind, number), self._first[kind] + number
        if slot >= len(self._images):
            return {"image": self.draw(scene), **scene}
        if not self._ready[slot]:
            self._images[slot] = self.draw(scene)
            self._ready[slot] = 1
        return {"image": self._images[slot].clone(), **scene}
