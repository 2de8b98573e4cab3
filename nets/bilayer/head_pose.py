"""Head pose and expression from 68 face points, by a rigid fit of a mean face.

The mean face is that of the demo world of faces (MakeHuman's head without any identity). The camera
is scaled orthographic. So angles are approximate, but the same for truth and prediction. Points are
(x, y) pixels in iBUG order.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

INNER = slice(
    17, 68
)  # points without the jaw, whose points slide along the outline as a head turns
RIGHT_EYE, LEFT_EYE = slice(36, 42), slice(42, 48)  # the person's


class HeadPose(NamedTuple):
    """The pose of N faces, and what it does not explain of their points.

    rotation    (N, 3, 3) float64, of the mean face: x right, y up, z towards the camera
    expression  (N, 51, 2) float64: points without the jaw, minus the posed mean face, turned back
                by the roll and divided by the posed face's scale, in distances of its eye centres
    """

    rotation: Tensor
    expression: Tensor


@functools.cache
def mean_face() -> Tensor:
    """The 51 points without the jaw, (51, 3) float64: x right, y up, z towards the camera.

    Their mean is 0, and the distance of the eye centres is 1.
    """
    from nets.worlds.heads.face.mesh import face

    model = face()
    zeros = (torch.zeros(1, len(names)) for names in (model.shapes, model.units))
    points = model.positions(*zeros)[0][model.landmarks].double()
    eyes = (points[RIGHT_EYE].mean(0) - points[LEFT_EYE].mean(0)).norm()
    inner = points[INNER]
    return (inner - inner.mean(0)) / eyes


def head_pose(points: Tensor) -> HeadPose:
    """Pose and expression of faces from points (N, 68, 2).

    The affine 2x3 camera is the least-squares fit; its nearest scaled rotation is the pose (two
    rows by singular values; the third is their cross product). Exact for a rigid mean face.
    """
    if points.ndim != 3 or points.shape[1:] != (68, 2):
        raise ValueError(f"head_pose: points must be [N, 68, 2], got {list(points.shape)}")
    model = mean_face().to(points.device)
    seen = points.double()[:, INNER] * points.new_tensor([1.0, -1.0]).double()  # y up
    seen = seen - seen.mean(1, keepdim=True)
    camera = (torch.linalg.pinv(model) @ seen).mT  # (N, 2, 3)
    u, s, vh = torch.linalg.svd(camera, full_matrices=False)
    rows, scale = u @ vh, s.mean(1)
    rotation = torch.cat([rows, torch.linalg.cross(rows[:, 0], rows[:, 1])[:, None]], 1)
    scale = scale.clamp_min(1e-12)[:, None, None]
    rest = seen / scale - model @ rows.mT
    roll = torch.atan2(rows[:, 1, 0], rows[:, 0, 0])
    cos, sin = roll.cos(), roll.sin()
    back = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    return HeadPose(rotation, rest @ back)


def euler_angles(rotation: Tensor) -> Tensor:
    """Yaw, pitch and roll in degrees, (N, 3), of rotations (N, 3, 3) = roll @ pitch @ yaw.

    Yaw turns about y, pitch about x, roll about z. They are ambiguous at a pitch of 90 degrees.
    """
    pitch = torch.asin(rotation[:, 2, 1].clamp(-1, 1))
    yaw = torch.atan2(-rotation[:, 2, 0], rotation[:, 2, 2])
    roll = torch.atan2(-rotation[:, 0, 1], rotation[:, 1, 1])
    return torch.stack([yaw, pitch, roll], 1).rad2deg()


def pose_distance(one: HeadPose, other: HeadPose) -> Tensor:
    """Mean absolute difference of yaw, pitch and roll in degrees, (N,)."""
    difference = euler_angles(one.rotation) - euler_angles(other.rotation)
    return ((difference + 180).remainder(360) - 180).abs().mean(1)


def expression_distance(one: HeadPose, other: HeadPose) -> Tensor:
    """Mean distance of points, (N,), between the expressions of the frames of two clips.

    The mean of a clip's expressions is subtracted first: it belongs to the person. So a clip that
    does not move has the expression 0.
    """
    moved = [pose.expression - pose.expression.mean(0) for pose in (one, other)]
    return (moved[0] - moved[1]).norm(dim=2).mean(1)
