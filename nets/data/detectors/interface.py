"""What all detectors give: people with joints, faces with 68 points, masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nets.data.detectors.places import AROUND_BODY, Square
from nets.data.heads.faces import FaceBox
from nets.skeletons import JOINTS_17

HEAD = ("cnose", "leye", "reye", "lear", "rear")
MIRROR = [JOINTS_17.index({"l": "r", "r": "l"}.get(n[0], n[0]) + n[1:]) for n in JOINTS_17]
SAME = 0.15  # of the extent: two detections with a smaller mean distance are one person
PART = 0.4  # of the extent: a smaller detection on top of a person is a part of that person
MARGIN = 0.15  # on each side of a person, as a fraction of the longer side of its box


@dataclass
class Person:
    """A person in an image.

    joints  (17, 2) float32, pixels, in the order of JOINTS_17; NaN if not visible
    box     x0, y0, x1, y1 in pixels: around the joints, with a head's height above the eyes
    """

    joints: Tensor
    box: tuple[float, float, float, float]

    @property
    def extent(self) -> float:
        """The longer side of the box, pixels."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])

    @property
    def around(self) -> Square:
        """The square in which the person is looked for in the next frame: middle x, y and side."""
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2, AROUND_BODY * self.extent


class Detector(Protocol):
    """Interface of the backends. Images are (3, H, W) uint8 RGB."""

    def people(self, image: Tensor, near: Person | None = None) -> list[Person]:
        """All people, the largest first.

        near  search only around this person of an earlier frame; the result may be empty
        """

    def places(self, image: Tensor) -> list[Square]:
        """Squares in which people may be, found in the image as a whole; faster than `people`."""

    def faces(
        self, image: Tensor, near: Tensor | None = None, known: Tensor | None = None
    ) -> list[Tensor]:
        """The 68 points of all faces, (68, 2) float32 pixels in iBUG order; the largest first.

        near   points of an earlier frame; only a face near them is looked for, if that is faster
        known  points of an earlier frame; the search may end when a face is found in their place
        """

    def mask(self, image: Tensor) -> Tensor:
        """Probability that a pixel belongs to a person: (H, W) float32 in [0, 1]."""


def person_box(joints: Tensor) -> tuple[float, float, float, float]:
    """The box x0, y0, x1, y1 around a person's joints, extended to the top of the head.

    joints  (17, 2), or (15, 2) without ears, pixels; NaN if missing
    If a shoulder is missing, the box is extended around the head's joints instead.
    """
    at = dict(zip(JOINTS_17, joints, strict=False))
    neck = (at["lshoulder"] + at["rshoulder"]) / 2
    reach = [neck + 2 * (at["cnose"] - neck)]  # as far above the nose as the neck is below it
    if reach[0].isnan().any():
        head = torch.stack([at[name] for name in HEAD if name in at])
        head = head[~head.isnan().any(-1)]
        if len(head) > 1:  # in front view the distance between the ears
            away = torch.pdist(head).max()
            reach = [head.mean(0) - away, head.mean(0) + away]
    points = torch.stack([*joints, *reach])
    points = points[~points.isnan().any(-1)]
    return (*points.amin(0).tolist(), *points.amax(0).tolist())


def person_square(joints: Tensor, margin: float = MARGIN) -> FaceBox:
    """The square to cut out around a person: centre and half of its side, whole pixels.

    joints  (17, 2) pixels, in the order of JOINTS_17, NaN if missing; at least one is present
    margin  on each side, as a fraction of the longer side of the box around joints and head
    """
    x0, y0, x1, y1 = person_box(joints)
    half = math.ceil(max(x1 - x0, y1 - y0, 2) * (0.5 + margin))
    return FaceBox(round((x0 + x1) / 2), round((y0 + y1) / 2), half)


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Area of the intersection of two boxes, in square pixels."""
    w = min(one[2], other[2]) - max(one[0], other[0])
    h = min(one[3], other[3]) - max(one[1], other[1])
    return max(w, 0.0) * max(h, 0.0)


def same_person(one: Person, other: Person) -> bool:
    """True if two detections are one person, also if one has left and right exchanged."""
    for joints in (other.joints, other.joints[MIRROR]):
        distance = (one.joints - joints).norm(dim=-1)
        near = distance[~distance.isnan()]
        if len(near) and near.mean() < SAME * max(one.extent, other.extent):
            return True
    return False


def is_part_of(small: Person, large: Person) -> bool:
    """True if a detection is a part of a much larger person, like a hand: mostly on top of it."""
    x0, y0, x1, y1 = large.box
    room = 0.15 * large.extent
    around = (x0 - room, y0 - room, x1 + room, y1 + room)
    w, h = small.box[2] - small.box[0], small.box[3] - small.box[1]
    return small.extent < PART * large.extent and overlap(small.box, around) > 0.5 * w * h
