"""Batches of the demo world of heads, rendered when they are first asked for."""

from __future__ import annotations

import mmap
from collections.abc import Mapping

import torch
from torch import Tensor

from nets.data.scenes.factors import FACTORS, MIXED, kinds_of
from nets.errors import UserError
from nets.random import uniform
from nets.worlds.heads.world import RANGES, SPLITS, identities, render

COUNTS = {"train": 200, "test": 8}  # batches of a type
KINDS = (*FACTORS, "shape", MIXED)
POOL = 2 << 30  # bytes of images that are kept


class HeadBatches:
    """Batches by type and number; each is a function of (seed, split, type, number) alone.

    In a batch of type azimuth, elevation or light that factor is uniform in its range and all else
    is fixed; of type shape each image shows another person; mixed, everything changes. The splits
    share no person, and neither do two batches.
    Labels: azimuth, elevation, light (radians), identity (20 numbers), person (its id).
    """

    name = "heads"
    labels = (*FACTORS, "identity", "person")

    def __init__(
        self,
        split: str,  # "train" or "test"
        sets: Mapping[str, str] | None = None,  # its keys are the types; None: everything changes
        count: int = 20,  # images in a batch
        size: int = 150,  # their side in pixels
        limit: int | None = None,  # batches of a type; default: 200 to train, 8 to test
        seed: int = 0,
    ):
        """Raises UserError for a type that is none of azimuth, elevation, light, shape."""
        unknown = [kind for kind in kinds_of(sets) if kind not in KINDS]
        if unknown:
            raise UserError(
                f"the demo world of heads has no batches in which only {unknown[0]} changes, but "
                f"of {', '.join(KINDS[:-1])}; give --datasetdir"
            )
        if size < 16:
            raise UserError(f"image_size: must be 16 or more for the demo world, got {size}")
        self.split, self.count, self.size, self.seed = split, count, size, seed
        self.counts = {kind: limit or COUNTS[split] for kind in kinds_of(sets)}
        self._first = {kind: i * (limit or COUNTS[split]) for i, kind in enumerate(self.counts)}
        self._open_pool()

    def _open_pool(self) -> None:
        """Memory for images that were rendered, which forked workers share."""
        one = self.count * self.size**2
        slots = min(sum(self.counts.values()), POOL // one)
        memory = mmap.mmap(-1, max(1, slots) * (one + 1))  # taken as it is written to
        whole = torch.frombuffer(memory, dtype=torch.uint8)
        self._images = whole[: slots * one].view(slots, self.count, 1, self.size, self.size)
        self._ready = whole[slots * one : slots * (one + 1)]

    def __getstate__(self) -> dict:
        state = dict(self.__dict__)
        del state["_images"], state["_ready"]
        return state

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open_pool()  # a process that was not forked has its own

    def scene(self, kind: str, number: int) -> dict[str, Tensor]:
        """The labels of a batch: what `render` needs for its images."""
        n, place = self.count, KINDS.index(kind)
        key = torch.tensor([number], dtype=torch.int64)
        fixed = uniform(self.seed, f"heads {self.split} {kind}", key, len(FACTORS)).expand(n, -1)
        each = torch.arange(n) + number * n
        moving = uniform(self.seed, f"heads {self.split} {kind} each", each, len(FACTORS))
        scene = {
            factor: ((moving if kind in (factor, MIXED) else fixed)[:, i] * 2 - 1).float()
            * RANGES[factor]
            for i, factor in enumerate(FACTORS)
        }
        person = SPLITS[self.split] + each * len(KINDS) + place
        if kind in FACTORS:
            person = person[:1].expand(n).contiguous()
        return {**scene, "identity": identities(person), "person": person}

    def draw(self, scene: Mapping[str, Tensor]) -> Tensor:
        """The exact images (N, 1, S, S) uint8 of labels like those of `scene`."""
        given = [scene[name] for name in ("identity", *FACTORS)]
        with torch.autocast("cpu", enabled=False):  # exact, also where a test computes in bf16
            return render(*given, self.size)["image"]

    def read(self, kind: str, number: int) -> dict[str, Tensor]:
        if not 0 <= number < self.counts[kind]:
            raise IndexError(f"HeadBatches: number must be below {self.counts[kind]}, got {number}")
        scene, slot = self.scene(kind, number), self._first[kind] + number
        if slot >= len(self._images):
            return {"image": self.draw(scene), **scene}
        if not self._ready[slot]:
            self._images[slot] = self.draw(scene)
            self._ready[slot] = 1
        return {"image": self._images[slot].clone(), **scene}
