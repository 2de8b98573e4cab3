"""Persons in pictures as networks see them: the square that is cut out around one, and the same
person from frame to frame.
"""

from __future__ import annotations

import math

from torch import Tensor

from nets.data.detectors import PART, Detector, Person, overlap, person_box
from nets.data.faces import FaceBox

MARGIN = 0.15  # around a person, of the longer side of its box


def person_square(joints: Tensor, margin: float = MARGIN) -> FaceBox:
    """The square that is cut out around a person: its centre and half of its side, whole pixels.

    joints  (17, 2) pixels, in the order of JOINTS_17, NaN where missing but not all
    margin  on each side, as a fraction of the longer side of the box around the joints and head
    """
    x0, y0, x1, y1 = person_box(joints)
    half = math.ceil(max(x1 - x0, y1 - y0, 2) * (0.5 + margin))
    return FaceBox(round((x0 + x1) / 2), round((y0 + y1) / 2), half)


class Follow:
    """Finds the same person in frame after frame: picture -> Person or None.

    number  which one to begin with: 1 is the largest in the first frame that shows so many
    videos  False: pictures have nothing to do with one another, each is searched anew
    """

    def __init__(self, detector: Detector, number: int = 1, videos: bool = True):
        self.detector, self.number, self.videos = detector, number, videos
        self._last: Person | None = None

    def __call__(self, picture: Tensor) -> Person | None:
        last = self._last
        if last is None:
            everybody = self.detector.people(picture)
            found = everybody[self.number - 1] if len(everybody) >= self.number else None
        else:  # first where it was; lost, whoever is there of all
            near = self.detector.people(picture, near=last)
            found = self._again(near) or self._again(self.detector.people(picture))
        if self.videos and found is not None:
            self._last = found
        return found

    def _again(self, people: list[Person]) -> Person | None:
        """Of those whoever is where the last one was, and no mere part of it, or nobody."""
        last = self._last
        for person in people:
            if overlap(person.box, last.box) and person.extent >= PART * last.extent:
                return person
        return None
