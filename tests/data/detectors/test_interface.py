"""Boxes around people, and which of them are one person."""

import torch

from nets.data.detectors.interface import Person, person_box, same_person
from nets.skeletons import JOINTS_15, JOINTS_17


def test_a_box_includes_the_head_and_ignores_missing_joints():
    joints = torch.full((15, 2), torch.nan)
    place = {"rshoulder": (10, 50), "lshoulder": (30, 50), "cnose": (20, 40), "lhip": (25, 90)}
    for name, at in place.items():
        joints[JOINTS_15.index(name)] = torch.tensor(at, dtype=torch.float32)
    assert person_box(joints) == (10, 30, 30, 90)
    assert Person(joints, person_box(joints)).extent == 60
    joints = torch.full((17, 2), torch.nan)
    for name, at in {"lear": (40, 50), "rear": (20, 50), "cnose": (30, 56)}.items():
        joints[JOINTS_17.index(name)] = torch.tensor(at, dtype=torch.float32)
    assert person_box(joints) == (10, 32, 50, 72)  # only a head: its box is around all of it


def test_a_person_and_its_mirror_image_are_the_same():
    joints = torch.rand(17, 2, generator=torch.Generator().manual_seed(0)) * 100
    names = [{"l": "r", "r": "l"}.get(name[0], "c") + name[1:] for name in JOINTS_17]
    other = torch.stack([joints[JOINTS_17.index(name)] for name in names]) + 3
    one, mirrored, elsewhere = (Person(j, person_box(j)) for j in (joints, other, joints + 60))
    assert (
        same_person(one, mirrored)
        and same_person(mirrored, one)
        and not same_person(one, elsewhere)
    )
