"""Motion of one face given to another: relative motion, and motion of a region alone.

Points are 68 in iBUG's order, (x, y). Head motion in an image is a similarity: a rotation, a scale
and a shift. It is estimated from the nose and the corners of the eyes, which expressions hardly
move. What is left of the motion is the expression.

Siarohin et al. 2019 (first-order motion model) for relative motion, the adapted scale and the best
frame; Guo et al. 2024 (LivePortrait) for regions.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Region = Literal["all", "expression", "pose", "eyes", "lips"]
REGIONS = ("all", "expression", "pose", "eyes", "lips")
RIGID = [*range(27, 36), 36, 39, 42, 45]  # nose, corners of the eyes
EYES = slice(36, 48)
LIPS = slice(48, 68)


class Similarity(NamedTuple):
    """The map p -> turn p + shift of points as complex numbers x + i y; tensors (..., 1)."""

    turn: Tensor
    shift: Tensor

    def __call__(self, points: Tensor) -> Tensor:
        return self.turn * points + self.shift

    def inverse(self, points: Tensor) -> Tensor:
        return (points - self.shift) / self.turn


class Motion:
    """Turns the driving face's points into points of the source's face.

    source       (68, 2), the points of the source
    reference    (68, 2), the driving face in a pose and expression like the source's: its first
                 frame, or the best one (`best_frame`)
    region       "all": the points move as the driving ones do; "expression": as without the head's
                 motion; "pose": only as the head does; "eyes", "lips": those alone, as in
                 "expression"
    adapt_scale  scale motion by the ratio of the faces' sizes
    Returns (N, 68, 2) for driving points (N, 68, 2). The reference itself gives the source.
    """

    def __init__(
        self,
        source: Tensor,
        reference: Tensor,
        region: Region = "all",
        adapt_scale: bool = False,
    ):
        for name, points in (("source", source), ("reference", reference)):
            if points.shape != (68, 2):
                raise ValueError(f"Motion: {name} must be [68, 2], got {list(points.shape)}")
        if region not in REGIONS:
            raise ValueError(f"Motion: region must be one of {', '.join(REGIONS)}, got {region!r}")
        self.region = region
        self.source, self.reference = _complex(source), _complex(reference)
        self.scale = (area(source) / area(reference)).sqrt() if adapt_scale else torch.tensor(1.0)
        between = similarity(self.reference[RIGID], self.source[RIGID])
        turn = between.turn / between.turn.abs() * self.scale
        self.between = Similarity(turn, between.shift)

    def __call__(self, driving: Tensor) -> Tensor:
        points = _complex(driving)
        if self.region == "all":
            return _real(self.source + self.scale * (points - self.reference))
        head = similarity(self.reference[RIGID].expand(len(points), -1), points[:, RIGID])
        if self.region == "pose":
            return _real(self.between(head(self.between.inverse(self.source))))
        moved = self.source + self.between.turn * (head.inverse(points) - self.reference)
        if self.region == "expression":
            return _real(moved)
        part = EYES if self.region == "eyes" else LIPS
        result = self.source.expand(len(points), -1).clone()
        result[:, part] = moved[:, part]
        return _real(result)


def similarity(points: Tensor, targets: Tensor) -> Similarity:
    """The similarity with the least squared distance of the moved `points` to `targets`.

    points, targets  (..., K) complex; K >= 2 different points
    """
    middle, aim = points.mean(-1, keepdim=True), targets.mean(-1, keepdim=True)
    away = points - middle
    size = away.abs().square().sum(-1, keepdim=True).clamp_min(1e-12)
    turn = (away.conj() * (targets - aim)).sum(-1, keepdim=True) / size
    return Similarity(turn, aim - turn * middle)


def best_frame(source: Tensor, driving: Tensor) -> int:
    """The number of the driving frame that is most like the source in pose and expression.

    source (68, 2), driving (N, 68, 2); faces are compared about their middles, at one size.
    """

    def normal(points: Tensor) -> Tensor:
        middle = points.mean(-2, keepdim=True)
        return (points - middle) / area(points)[..., None, None].sqrt()

    return int((normal(driving) - normal(source)).square().sum((-2, -1)).argmin())


def area(points: Tensor) -> Tensor:
    """The area that the jaw and the brows enclose, (...,) for points (..., 68, 2)."""
    ring = torch.cat([points[..., :17, :], points[..., 17:27, :].flip(-2)], -2)  # jaw, brows back
    after = ring.roll(-1, -2)
    doubled = ring[..., 0] * after[..., 1] - ring[..., 1] * after[..., 0]
    return (doubled.sum(-1).abs() / 2).clamp_min(1e-12)


def _complex(points: Tensor) -> Tensor:
    return torch.complex(points[..., 0].double(), points[..., 1].double())


def _real(points: Tensor) -> Tensor:
    return torch.stack([points.real, points.imag], -1).float()
