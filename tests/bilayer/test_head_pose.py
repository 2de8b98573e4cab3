"""Head pose and expression from 68 points of a known face."""

from __future__ import annotations

import math

import pytest
import torch

from nets.bilayer.head_pose import (
    euler_angles,
    expression_distance,
    head_pose,
    mean_face,
    pose_distance,
)


def rotation(yaw: float, pitch: float, roll: float) -> torch.Tensor:
    """roll @ pitch @ yaw, written out; degrees."""
    y, p, r = (math.radians(angle) for angle in (yaw, pitch, roll))
    about_y = [[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]]
    about_x = [[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]]
    about_z = [[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]]
    x, y_, z = (torch.tensor(rows, dtype=torch.float64) for rows in (about_x, about_y, about_z))
    return z @ x @ y_


def seen(angles, scale=33.0, moved=None) -> torch.Tensor:
    """(N, 68, 2) pixels of the mean face, turned; `moved` (51, 3) is added before it turns."""
    points = torch.zeros(len(angles), 68, 2, dtype=torch.float64)
    for i, angle in enumerate(angles):
        face = mean_face() + (0 if moved is None else moved)
        turned = face @ rotation(*angle).T
        points[i, 17:] = turned[:, :2] * torch.tensor([1.0, -1.0]).double() * scale + 50
    return points


ANGLES = [(0, 0, 0), (10, -20, 30), (-40, 15, -5)]


def test_the_mean_face_is_a_face():
    face = mean_face()
    assert face.shape == (51, 3) and face.mean(0).abs().max() < 1e-9
    eyes = face[19:25].mean(0), face[25:31].mean(0)
    assert (eyes[0] - eyes[1]).norm() == pytest.approx(1)
    assert eyes[0][0] < 0 < eyes[1][0]  # the person's right eye is left in the image
    assert face[13, 2] > eyes[0][2] and face[40, 1] < eyes[0][1]  # nose in front, lips below


def test_a_turned_mean_face_gives_its_angles_and_no_expression():
    pose = head_pose(seen(ANGLES))
    expected = torch.tensor(ANGLES, dtype=torch.float64)
    torch.testing.assert_close(euler_angles(pose.rotation), expected, rtol=0, atol=1e-5)
    assert pose.expression.abs().max() < 1e-9
    size = head_pose(seen(ANGLES, scale=7.0))
    assert pose_distance(pose, size).max() < 1e-6


def test_pose_distance_is_the_mean_of_three_angles_and_goes_the_short_way():
    one, other = (head_pose(seen([angle])) for angle in ((3, 0, 178), (0, 0, -179)))
    assert pose_distance(one, other).item() == pytest.approx((3 + 0 + 3) / 3, abs=1e-6)


def test_expressions_do_not_depend_on_roll_and_the_mean_of_a_clip_is_the_persons():
    smile = torch.zeros(51, 3, dtype=torch.float64)
    smile[31, 0], smile[37, 0] = -0.1, 0.1  # the corners of the mouth
    upright, rolled = (head_pose(seen([(0, 0, roll)], moved=smile)) for roll in (0, 25))
    torch.testing.assert_close(upright.expression, rolled.expression, rtol=0, atol=1e-9)
    assert upright.expression[0, 31, 0] == pytest.approx(-0.1, abs=0.01)
    # A clip of two frames that begins to smile, and one that does not.
    points = torch.cat([seen([(0, 0, 0)]), seen([(0, 0, 0)], moved=smile)])
    moving, still = head_pose(points), head_pose(points[:1].expand(2, -1, -1))
    always = head_pose(points[1:].expand(2, -1, -1))
    assert expression_distance(still, always).max() == 0
    # Half of the smile in each frame: two of 51 points move by 0.05, and all others a little, since
    # the fit takes a part of the smile for size and pose.
    assert 0.1 / 51 < expression_distance(moving, still).mean().item() < 2 * 0.1 / 51


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"points must be \[N, 68, 2\], got \[3, 51, 2\]"):
        head_pose(torch.zeros(3, 51, 2))
