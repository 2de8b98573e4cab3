"""Relative motion and regions, against motions that are known."""

import math

import pytest
import torch

from nets.bilayer.motion import EYES, LIPS, REGIONS, Motion, area, best_frame


def face(seed=0):
    """A face like iBUG's mean: jaw, brows, nose, eyes, lips, with some noise."""
    t = torch.linspace(0, math.pi, 17)
    jaw = torch.stack([-torch.cos(t), 1.2 * torch.sin(t)], 1)
    brows = torch.stack([torch.linspace(-0.8, 0.8, 10), torch.full((10,), -0.4)], 1)
    nose = torch.stack([torch.tensor([0.0] * 4 + [-0.2, -0.1, 0, 0.1, 0.2]),
                        torch.tensor([-0.2, 0, 0.2, 0.3] + [0.4] * 5)], 1)  # fmt: skip
    eye = torch.tensor(
        [[-0.2, 0], [-0.07, -0.1], [0.07, -0.1], [0.2, 0], [0.07, 0.1], [-0.07, 0.1]]
    )
    a = torch.linspace(0, 2 * math.pi, 21)[:20]
    lips = torch.stack([0.4 * torch.cos(a), 0.75 + 0.15 * torch.sin(a)], 1)
    whole = torch.cat([jaw, brows, nose, eye + torch.tensor([-0.45, -0.15]),
                       eye + torch.tensor([0.45, -0.15]), lips])  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    return whole + 0.03 * torch.randn(68, 2, generator=generator)


def moved(points, angle=0.2, scale=1.1, shift=(0.3, -0.1)):
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return scale * points @ turn + torch.tensor(shift)


def talking(points):
    """The lips and one eye open; nothing else moves."""
    points = points.clone()
    points[48:68, 1] += 0.2 * (points[48:68, 1] > 0.75)
    points[37:39, 1] -= 0.05
    return points


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("adapt_scale", [False, True])
def test_the_reference_gives_the_source(region, adapt_scale):
    source, reference = face(1), 1.4 * face(2)
    (result,) = Motion(source, reference, region, adapt_scale)(reference[None])
    assert (result - source).abs().max() < 1e-5


def test_all_moves_as_the_driving_points_do():
    source, reference = face(1), face(2)
    driving = moved(talking(reference))
    (result,) = Motion(source, reference)(driving[None])
    assert (result - (source + driving - reference)).abs().max() < 1e-5
    twice = Motion(2 * source, reference, adapt_scale=True)(driving[None])[0]
    ratio = float((area(2 * source) / area(reference)).sqrt())
    assert (twice - (2 * source + ratio * (driving - reference))).abs().max() < 1e-5


def test_expression_is_without_the_heads_motion():
    source, reference = face(1), face(2)
    still = talking(reference)[None]
    motion = Motion(source, reference, "expression")
    assert (motion(moved(still)) - motion(still)).abs().max() < 1e-4
    assert (motion(still)[0] - source).norm(dim=-1).max() > 0.1


def test_pose_is_without_the_expression():
    source = face(1)
    motion = Motion(source, source, "pose")
    assert (motion(moved(source)[None])[0] - moved(source)).abs().max() < 1e-4
    assert (motion(moved(talking(source))[None])[0] - moved(source)).abs().max() < 1e-4
    other = Motion(moved(source), source, "pose", adapt_scale=True)  # in the source's own frame
    assert (other(moved(source)[None])[0] - moved(moved(source))).abs().max() < 1e-4


@pytest.mark.parametrize(("region", "part"), [("eyes", EYES), ("lips", LIPS)])
def test_a_region_moves_alone(region, part):
    source, reference = face(1), face(2)
    (result,) = Motion(source, reference, region)(moved(talking(reference))[None])
    expression = Motion(source, reference, "expression")(moved(talking(reference))[None])[0]
    others = torch.ones(68, dtype=torch.bool)
    others[part] = False
    assert (result[others] - source[others]).abs().max() < 1e-5
    assert (result[part] - expression[part]).abs().max() < 1e-6
    assert (result[part] - source[part]).norm(dim=-1).max() > 0.04


def test_the_best_frame_has_the_sources_pose_and_expression():
    source = face(1)
    driving = torch.stack([moved(talking(source), 0.5), moved(source, 0.4),
                           moved(source, 0, 1.7), talking(source)])  # fmt: skip
    assert best_frame(source, driving) == 2


def test_wrong_shapes_and_regions_are_named():
    with pytest.raises(ValueError, match=r"reference must be \[68, 2\], got \[67, 2\]"):
        Motion(face(), face()[:67])
    with pytest.raises(ValueError, match="region must be one of all, expression"):
        Motion(face(), face(), "nose")
