"""The networks' inputs from a batch, and the losses on pixels that change between frames."""

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
    images = inputs()(batch, True, False)
    jittered = colour_jitter(batch["frame"], *jitter_draws(5, batch["draw"]))
    assert torch.equal(images.pose, signed(jittered))
    assert torch.equal(images.target, signed(batch["frame"]))
    assert torch.equal(images.appearance, signed(batch["partner"]))
    assert torch.equal(images.joints, batch["joints"])
    same = inputs("--color_jitter_targets")(batch, True, False)
    assert torch.equal(same.target, signed(jittered))
    assert torch.equal(inputs("--color_jitter", "false")(batch, True, False).pose, images.target)


def test_both_partners_double_the_batch_warped_ones_first(batch):
    images = inputs("--use_warped")(batch, True, True)
    warped = Warps(32)(signed(batch["frame"]), 5, batch["draw"])
    torch.testing.assert_close(images.appearance, torch.cat([warped, signed(batch["partner"])]))
    assert torch.equal(images.pose[:3], images.pose[3:])
    assert torch.equal(images.target[:3], images.target[3:])
    assert len(images.joints) == 6


def test_frame_partner_and_joints_are_mirrored_together(batch):
    images = inputs("--flip_probability", "1", "--color_jitter", "false")(batch, True, False)
    assert torch.equal(images.target, signed(batch["frame"].flip(-1)))
    assert torch.equal(images.appearance, signed(batch["partner"].flip(-1)))
    every = torch.ones(3, dtype=torch.bool)
    assert torch.equal(images.joints, flip_joints(batch["joints"], every, 32, JOINTS_7))
    some = inputs("--flip_probability", "0.5")
    alone = [some({k: v[i : i + 1] for k, v in batch.items()}, True, False) for i in range(3)]
    torch.testing.assert_close(
        torch.cat([one.pose for one in alone]), some(batch, True, False).pose
    )


def test_the_loss_of_what_moves_looks_where_frames_differ():
    target = torch.zeros(1, 3, 32, 32)
    partner, moving, still = (target.clone() for _ in range(3))
    partner[..., 4:12, 4:12] = 1.0
    moving[..., 6:9, 6:9] = 0.5  # an error on changed pixels; below the same elsewhere
    still[..., 20:23, 20:23] = 0.5
    assert motion_loss(still, target, partner) == 0
    plain = (moving - target).abs().mean()
    assert motion_loss(moving, target, partner) > 8 * plain
    assert motion_loss(moving, target, target) == 0  # nothing changes: no division by 0


def test_masks_are_asked_to_cover_what_differs_and_nothing_else():
    target = torch.zeros(1, 3, 16, 16)
    partner = target.clone()
    partner[..., 2:6, 2:6] = 0.8  # the old place
    partner[..., 9:13, 9:13] = -0.8  # the new place
    mask, other = torch.zeros(2, 1, 1, 16, 16)
    mask[..., 9:13, 9:13], other[..., 2:6, 2:6] = 1, 1
    right = motion_mask_loss(mask, other, target, partner)
    assert right < 1e-3
    for wrong in (mask * 0, mask + 0.5):
        assert motion_mask_loss(wrong.clamp(max=1), other, target, partner) > right + 0.1
