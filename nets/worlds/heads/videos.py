"""The demo world of heads as a dataset in the form of `nets.data.heads.videos`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nets.contracts import Place, Sample
from nets.data.heads.faces import normalised_pose
from nets.worlds.heads.world import HeadsWorld

PERSONS = {"train": 1000, "test": 64}
# From frontal to three-quarter views: what one photograph shows of a head.
RANGES = {"azimuth": 0.9, "elevation": 0.3, "light": 0.8}
SCENE = ("azimuth", "elevation", "light", "expression")


class HeadVideos:
    """A dataset of videos of talking heads: item `index` is a video of person `index`.

    A video has one light and one background. In phase train its frames are drawn anew in every
    epoch. Samples also hold person and background, (1,) int64; target_scene: azimuth, elevation and
    light in radians and expression of the targets, (t, ...) each; and target_mouth (t,) and
    target_lids (t, 2): how far they are open, decimetres. `truth` renders any person in such a
    scene. The phases share no person.
    """

    name = "heads"
    shuffle = True

    def __init__(
        self,
        phase: str = "train",
        size: int = 64,  # side of the images, pixels
        sources: int = 1,  # source frames per sample
        targets: int = 1,  # target frames per sample
        masks: bool = True,  # add segmentation masks
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

    def __getitem__(self, place: Place, /) -> Sample:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[Place]) -> list[Sample]:
        places = [(epoch if self.phase == "train" else 0, index) for epoch, index in places]
        with torch.autocast("cpu", enabled=False):  # the caller may be inside of one
            return [self._sample(clip) for clip in self.world.__getitems__(places)]

    def _sample(self, clip: Sample) -> Sample:
        """A sample of sources and targets from a clip of the world."""
        sample: Sample = {"indices": torch.tensor([clip["index"]])}
        for name in ("person", "background"):
            sample[name] = torch.tensor([clip[name]])
        poses = normalised_pose(clip["points"], self.size)
        masks = clip["mask"][:, None].to(torch.uint8) * 255
        parts = {"source": slice(0, self.sources), "target": slice(self.sources, None)}
        for role, part in parts.items():
            if role == "source" and not self.sources:
                continue
            sample[f"{role}_imgs"], sample[f"{role}_poses"] = clip["image"][part], poses[part]
            if self.masks:
                sample[f"{role}_segs"] = masks[part]
        sample["target_scene"] = {name: clip[name][parts["target"]] for name in SCENE}
        for name in ("mouth", "lids"):
            sample[f"target_{name}"] = clip[name][parts["target"]]
        return sample

    def truth(
        self, person: Tensor, background: Tensor, scene: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Ground truth of persons (N,) with backgrounds (N,) in N scenes.

        Returns what `render` of the world does.
        """
        return self.world.truth(person, scene, background)
