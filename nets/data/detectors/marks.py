"""What both interfaces of MediaPipe share: marks as people and points, and silence."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from nets.data.detectors.interface import Person, is_part_of, overlap, person_box, same_person
from nets.data.detectors.places import Square, alike
from nets.skeletons import JOINTS_17, MEDIAPIPE_33, MESH_68, convert_joints

SURE = 0.5  # joints with a lower probability of being visible are missing
SMALLEST = 32  # pixels; smaller detections are mostly hands or shadows


def points_of(marks: Any, image: Tensor) -> Tensor:
    h, w = image.shape[1:]
    return torch.tensor([(mark.x * w, mark.y * h) for mark in marks], dtype=torch.float32)


def face_of(mesh: Any, image: Tensor) -> Tensor:
    """The 68 points of a face, pixels, from the marks of MediaPipe's mesh (468, or 478)."""
    return points_of([mesh[vertex] for vertex in MESH_68], image)


def person_of(marks: Any, image: Tensor, corner: tuple[int, int]) -> Person | None:
    """The person of MediaPipe's 33 marks in a crop whose first pixel is at `corner`, or None."""
    points = points_of(marks, image)
    sure = torch.tensor([mark.visibility >= SURE for mark in marks])
    h, w = image.shape[1:]
    inside = (points >= 0).all(-1) & (points < torch.tensor([w, h])).all(-1)
    points[~(sure & inside)] = math.nan
    joints = convert_joints(points, MEDIAPIPE_33, JOINTS_17) + torch.tensor(corner)
    if joints.isnan().all():
        return None
    person = Person(joints, person_box(joints))
    return person if person.extent >= SMALLEST else None


def people_at(places: Iterable[tuple[Square, Callable[[], Person | None]]]) -> Iterator[Person]:
    """The person in each square; squares like one that showed somebody are left out.

    places  squares (middle x, y and side, pixels), each with a function that finds its person
    """
    searched: list[Square] = []  # squares that showed somebody
    for place, find in places:
        if any(alike(place, other) for other in searched):
            continue
        person = find()
        if person is not None:
            searched.append(place)
            yield person


def distinct_people(seen: Iterable[Person], near: Person | None) -> list[Person]:
    """Each of the seen people once, without parts of others, the largest first.

    near  only people who overlap this person of an earlier frame
    """
    people: list[Person] = []
    for person in seen:
        if any(same_person(person, other) for other in people):
            continue
        if near is None or overlap(person.box, near.box) > 0:
            people.append(person)
    people.sort(key=lambda person: -person.extent)
    return [p for i, p in enumerate(people) if not any(is_part_of(p, o) for o in people[:i])]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides the output of C++ libraries on stderr."""
    sys.stderr.flush()
    saved = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nothing)
