"""What the networks see of a batch: which image is changed how, and what goes together."""

import pytest
import torch

from nets.data.clips.augment import Warps, colour_jitter, flip_joints, jitter_draws
from nets.data.clips.bbc_pose import JOINTS_7
from nets.landmarks.data import LandmarkInputs
from nets.landmarks.losses import motion_loss, motion_mask_loss
from nets.landmarks.options import parse


def inputs(*arguments):
    args = parse("", ["--use_temporal", "--img_size", "32", "--seed", "5", *arguments])
    return LandmarkInputs(args, JOINTS_7)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    frame, partner = torch.randint(0, 256, (2, 3, 3, 32, 32), generator=generator).byte()
    joints = torch.rand(3, 7, 2, generator=generator) * 31
    return {"frame": frame, "partner": partner, "joints": joints, "draw": torch.arange(3)}


def signed(image):
    return image.float() / 127.5 - 1


def test_only_the_pose_image_has_other_colours(batch):
    seen = inputs()(batch, True, False)
    jittered = colour_jitter(batch["frame"], *jitter_draws(5, batch["draw"]))
    assert torch.equal(seen.pose, signed(jittered))
    assert torch.equal(seen.target, signed(batch["frame"]))
    assert torch.equal(seen.appearance, signed(batch["partner"]))
    assert torch.equal(seen.joints, batch["joints"])
    same = inputs("--color_jitter_targets")(batch, True, False)
    assert torch.equal(same.target, signed(jittered))
    assert torch.equal(inputs("--color_jitter", "false")(batch, True, False).pose, seen.target)


def test_both_partners_double_the_batch_warped_ones_first(batch):
    seen = inputs("--use_warped")(batch, True, True)
    warped = Warps(32)(signed(batch["frame"]), 5, batch["draw"])
    torch.testing.assert_close(seen.appearance, torch.cat([warped, signed(batch["partner"])]))
    assert torch.equal(seen.pose[:3], seen.pose[3:])
    assert torch.equal(seen.target[:3], seen.target[3:])
    assert len(seen.joints) == 6


def test_frame_partner_and_joints_are_mirrored_together(batch):
    seen = inputs("--flip_probability", "1", "--color_jitter", "false")(batch, True, False)
    assert torch.equal(seen.target, signed(batch["frame"].flip(-1)))
    assert torch.equal(seen.appearance, signed(batch["partner"].flip(-1)))
    every = torch.ones(3, dtype=torch.bool)
    assert torch.equal(seen.joints, flip_joints(batch["joints"], every, 32, JOINTS_7))
    some = inputs("--flip_probability", "0.5")
    alone = [some({k: v[i : i + 1] for k, v in batch.items()}, True, False) for i in range(3)]
    torch.testing.assert_close(
        torch.cat([one.pose for one in alone]), some(batch, True, False).pose
    )


def test_the_loss_of_what_moves_looks_where_frames_differ():
    target = torch.zeros(1, 3, 32, 32)
    partner, here, there = (target.clone() for _ in range(3))
    partner[..., 4:12, 4:12] = 1.0
    here[..., 6:9, 6:9] = 0.5  # an error where something moved, and the same one elsewhere
    there[..., 20:23, 20:23] = 0.5
    assert motion_loss(there, target, partner) == 0
    plain = (here - target).abs().mean()
    assert motion_loss(here, target, partner) > 8 * plain
    assert motion_loss(here, target, target) == 0  # nothing moved: nothing to divide by


def test_masks_are_asked_to_cover_what_differs_and_nothing_else():
    target = torch.zeros(1, 3, 16, 16)
    partner = target.clone()
    partner[..., 2:6, 2:6] = 0.8  # was there
    partner[..., 9:13, 9:13] = -0.8  # is here
    mask, other = torch.zeros(2, 1, 1, 16, 16)
    mask[..., 9:13, 9:13], other[..., 2:6, 2:6] = 1, 1
    right = motion_mask_loss(mask, other, target, partner)
    assert right < 1e-3
    for wrong in (mask * 0, mask + 0.5):
        assert motion_mask_loss(wrong.clamp(max=1), other, target, partner) > right + 0.1
