"""Inputs of a VUNet: crops of narrow images, and training samples changed at random."""

import pytest
import torch

from nets.errors import UserError
from nets.skeletons import JOINTS_15
from nets.vunet.data import PersonInputs
from nets.worlds.people.world import PeopleWorld

OPTIONS = {
    "image_size": 32, "box_factor": 1, "appearance": "crops", "stickman": "parts",
    "missing_part": 0.0, "seed": 3,
}  # fmt: skip


def batch(count=8):
    world = PeopleWorld("train", 32, length=count, pairing="identity")
    samples = world.__getitems__([(0, i) for i in range(count)])
    return {name: torch.stack([torch.as_tensor(s[name]) for s in samples]) for name in samples[0]}


def inputs(**options):
    return PersonInputs({**OPTIONS, **options}, JOINTS_15)


def test_crops_of_narrow_images_hold_the_same_parts_in_fewer_columns():
    images = batch()
    square, narrow = (inputs(image_width=w)(images)[1] for w in (32, 16))
    assert square.shape == (8, 24, 16, 16) and narrow.shape == (8, 24, 16, 8)
    torch.testing.assert_close(narrow, square[..., ::2], atol=1e-4, rtol=0)  # positions in float32
    whole = inputs(appearance="image", image_width=16)(images)[1]
    assert torch.equal(whole, inputs(appearance="image")(images)[1][..., 8:24])


def test_mirrored_samples_are_mirrored_with_joints_and_mask():
    images, draw = batch(), torch.arange(8)
    result = inputs(flip_probability=0.5).augmented(images, draw)
    flipped = (result["target"] != images["target"]).flatten(1).any(1)
    assert 0 < flipped.sum() < 8
    for name in ("target", "appearance", "mask"):
        expected = images[name].clone()
        expected[flipped] = expected[flipped].flip(-1)
        assert torch.equal(result[name], expected)
    left, right = JOINTS_15.index("lwrist"), JOINTS_15.index("rwrist")
    for name in ("joints", "appearance_joints"):
        x = result[name][flipped, left, 0]
        torch.testing.assert_close(x, 31 - images[name][flipped, right, 0], equal_nan=True)
        assert torch.equal(result[name][~flipped], images[name][~flipped])


def test_colours_of_target_and_appearance_change_alike():
    images = batch()
    images["appearance"] = images["target"]
    result = inputs(color_jitter=True).augmented(images, torch.arange(8))
    assert torch.equal(result["appearance"], result["target"])
    assert (result["target"] != images["target"]).flatten(1).any(1).all()
    assert torch.equal(result["joints"], images["joints"])
    images["appearance"] = torch.cat([images["target"], images["target"][:, :1]], 1)
    opaque = inputs(color_jitter=True).augmented(images, torch.arange(8))["appearance"]
    assert torch.equal(opaque[:, :3], result["target"])
    assert torch.equal(opaque[:, 3], images["target"][:, 0])


def test_changes_depend_on_seed_and_number_of_a_sample_alone():
    images, change = batch(), {"flip_probability": 0.5, "color_jitter": True}
    whole = inputs(**change).augmented(images, torch.arange(8))
    part = {name: value[5:] for name, value in images.items()}
    some = inputs(**change).augmented(part, torch.arange(5, 8))
    assert all(torch.equal(some[name], whole[name][5:]) for name in part)
    other = inputs(**{**change, "seed": 4}).augmented(images, torch.arange(8))
    assert not torch.equal(other["target"], whole["target"])
    assert inputs().augmented(images, torch.arange(8))["target"] is images["target"]


def test_poses_that_a_data_set_draws_are_not_mirrored():
    images = {**batch(), "stickman": torch.zeros(8, 3, 32, 32)}
    with pytest.raises(UserError, match="--flip_probability: must be 0 for data that draws"):
        inputs(flip_probability=0.5).augmented(images, torch.arange(8))


def test_drawn_joints_cover_people_of_data_without_masks():
    images = batch(32)
    truth = images.pop("mask")
    drawn = inputs().person(images)
    shared = (drawn & truth).flatten(1).sum(1) / (drawn | truth).flatten(1).sum(1)
    assert shared.mean() > 0.5
    images["mask"] = truth
    assert inputs().person(images) is truth
