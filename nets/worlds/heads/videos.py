"""The demo world of heads in the form of `nets.data.heads.videos`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nets.data.heads.faces import normalised_pose
from nets.worlds.heads.world import HeadsWorld

PERSONS = {"train": 1000, "test": 64}
# A face from the front to three quarters: what one photograph tells of a head.
RANGES = {"azimuth": 0.9, "elevation": 0.3, "light": 0.8}
SCENE = ("azimuth", "elevation", "light", "expression")


class HeadVideos:
    """An endless supply of talking heads: item `index` is a video of person `index`, under one
    light and before one background; its frames are drawn anew in every epoch, but for phase test.

    Samples also hold person, background (1,) int64 and target_scene, the (t, ...) azimuth,
    elevation, light in radians and expression of the targets, of which `truth` makes any other
    person's image. The phases share no person.
    """

    name = "heads"
    shuffle = True

    def __init__(
        self,
        phase: str = "train",
        size: int = 64,  # side of the images, pixels
        sources: int = 1,
        targets: int = 1,
        masks: bool = True,
        seed: int = 0,
        length: int = 0,  # persons, one video each; 0: PERSONS
    ):
        self.phase, self.size, self.masks = phase, size, masks
        self.sources, self.targets = sources, targets
        persons = length or PERSONS[phase]
        self.world = HeadsWorld(
            phase, size, seed, persons, persons, frames=sources + targets, ranges=RANGES
        )

    def __len__(self) -> int:
        return len(self.world)

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any]:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        places = [(epoch if self.phase == "train" else 0, index) for epoch, index in places]
        with torch.autocast("cpu", enabled=False):  # batches may be asked for inside of one
            return [self._sample(made) for made in self.world.__getitems__(places)]

    def _sample(self, made: dict[str, Any]) -> dict[str, Any]:
        sample: dict[str, Any] = {"indices": torch.tensor([made["index"]])}
        for name in ("person", "background"):
            sample[name] = torch.tensor([made[name]])
        poses = normalised_pose(made["points"], self.size)
        masks = made["mask"][:, None].to(torch.uint8) * 255
        parts = {"source": slice(0, self.sources), "target": slice(self.sources, None)}
        for role, part in parts.items():
            if role == "source" and not self.sources:
                continue
            sample[f"{role}_imgs"], sample[f"{role}_poses"] = made["image"][part], poses[part]
            if self.masks:
                sample[f"{role}_segs"] = masks[part]
        sample["target_scene"] = {name: made[name][parts["target"]] for name in SCENE}
        return sample

    def truth(
        self, person: Tensor, background: Tensor, scene: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """What persons (N,) look like before backgrounds (N,), in scenes of N: image (N, 3, S, S)
        uint8, mask (N, S, S) bool, points (N, 68, 2) pixels.
        """
        return self.world.truth(person, scene, background)
