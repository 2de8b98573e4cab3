"""The packed face: positions of its vertices for any identity and expression, and their normals.

Lengths are decimetres, x to the image's right, y up, z out of the face, the origin between the eyes
and the middle of the head. Coefficients are rounded to 1/4096 and offsets are whole numbers, so
that sums are exact in float64: an image depends neither on its batch nor on the processor.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nets.data.io.files import read_arrays

UNIT = 4000.0  # of a decimetre, as packed
STEPS = 4096  # of a coefficient
SKIN, EYES, UPPER_TEETH, LOWER_TEETH, TONGUE, LASHES = 0, (1, 2), 3, 4, 5, 6
# The brow from its inner end to its outer one: |x| and y of the neutral face, dm.
BROW = ((0.14, 0.225), (0.28, 0.265), (0.41, 0.275), (0.52, 0.245), (0.6, 0.175))
MASKS = ("lips", "face", "eyelids", "inside-mouth", "ears")


@dataclass(frozen=True)
class Face:
    """The arrays of face.npz as tensors: P points, V drawn vertices, T triangles."""

    points: Tensor  # (P, 3) float32, dm, neutral
    base: Tensor  # (3 P,) float64, in UNIT
    deltas: Tensor  # (K, 3 P) float64, in UNIT; identity targets first
    names: tuple[str, ...]  # of the K targets
    group: Tensor  # (P,) see SKIN ...
    corner_of: Tensor  # (V,) the point of each vertex
    triangles: Tensor  # (T, 3) of vertices
    uv: Tensor  # (V, 2) MakeHuman's
    masks: Tensor  # (P, 5) in [0, 1], see MASKS
    follow: Tensor  # (P,) share of the head's rotation
    visibility: Tensor  # (P, 10) nine harmonics and the mean
    landmarks: Tensor  # (68,)
    contour: Tensor  # (17, 16)
    around: Tensor  # (4, P) neighbours of each point, in a circle
    eyes: tuple[Tensor, Tensor]  # points of the left and the right eye
    pupils: tuple[int, int]  # their foremost points
    pivot: Tensor  # points of the joint about which the head turns

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the face units, in the order of an expression's coefficients."""
        return tuple(n.removeprefix("unit/") for n in self.names if n.startswith("unit/"))

    @property
    def shapes(self) -> tuple[str, ...]:
        """Names of the identity targets."""
        return tuple(n for n in self.names if not n.startswith("unit/"))

    def positions(self, shape: Tensor, expression: Tensor) -> Tensor:
        """Points (N, P, 3) float32 in dm, from coefficients of identity targets and face units."""
        weights = torch.cat([shape, expression], 1).double().mul(STEPS).round()
        whole = weights @ self.deltas + self.base * STEPS
        return (whole / (UNIT * STEPS)).float().view(len(weights), -1, 3)


def _circle(quads: np.ndarray, count: int) -> np.ndarray:
    """Four neighbours of each point, in the order of a walk around it; (4, count)."""
    following: list[dict[int, int]] = [{} for _ in range(count)]
    for quad in quads.tolist():
        for i in range(4):
            before, here, after = quad[i - 1], quad[i], quad[(i + 1) % 4]
            following[here][after] = before
    result = np.tile(np.arange(count), (4, 1))
    for point, step in enumerate(following):
        if not step:
            continue
        starts = set(step) - set(step.values())  # at a border the walk has a first neighbour
        walk = [min(starts) if starts else min(step)]
        while walk[-1] in step and step[walk[-1]] != walk[0] and len(walk) < 12:
            walk.append(step[walk[-1]])
        if len(walk) < 3:  # a corner: the point itself is the third
            walk.append(point)
        result[:, point] = [walk[i * len(walk) // 4] for i in range(4)]
        if len(walk) == 3:
            result[:, point] = [walk[0], walk[1], walk[2], walk[2]]
    return result


@functools.cache
def face() -> Face:
    """The packed face, read once in a process."""
    packed = read_arrays(Path(__file__).parent / "face.npz")
    assert isinstance(packed, dict)  # of an .npz
    points = packed["points"].astype(np.float64)
    deltas = np.zeros((len(packed["names"]), *points.shape))
    rows = packed["rows"].astype(np.int64)
    for k, (start, end) in enumerate(zip(packed["ends"][:-1], packed["ends"][1:], strict=True)):
        deltas[k, rows[start:end]] = packed["values"][start:end]
    names = tuple(packed["names"].tolist())
    order = sorted(range(len(names)), key=lambda k: names[k].startswith("unit/"))
    group = packed["group"].astype(np.int64)
    triangles, corner_of = (
        packed["triangles"].astype(np.int64),
        packed["corner_of"].astype(np.int64),
    )
    half = len(triangles) // 2  # each quad a, b, c, d was split into a, c, b and a, d, c
    a, c, b = triangles[:half].T
    quads = corner_of[np.stack([a, b, c, triangles[half:, 1]], 1)]
    eyes = tuple(np.nonzero(group == k)[0] for k in EYES)
    return Face(
        points=torch.tensor(points / UNIT, dtype=torch.float32),
        base=torch.tensor(points.reshape(-1)),
        deltas=torch.tensor(deltas[order].reshape(len(names), -1)),
        names=tuple(names[k] for k in order),
        group=torch.tensor(group),
        corner_of=torch.tensor(corner_of),
        triangles=torch.tensor(triangles),
        uv=torch.tensor(packed["uv"] / 65535, dtype=torch.float32),
        masks=torch.tensor(packed["masks"] / 255, dtype=torch.float32),
        follow=torch.tensor(packed["follow"] / 255, dtype=torch.float32),
        visibility=torch.tensor(packed["visibility"] / 64, dtype=torch.float32),
        landmarks=torch.tensor(packed["landmarks"].astype(np.int64)),
        contour=torch.tensor(packed["contour"].astype(np.int64)),
        around=torch.tensor(_circle(quads, len(points))),
        eyes=(torch.tensor(eyes[0]), torch.tensor(eyes[1])),
        pupils=tuple(int(e[points[e, 2].argmax()]) for e in eyes),  # type: ignore[arg-type]
        pivot=torch.tensor(np.nonzero(group == 7)[0]),
    )


def normals(points: tuple[Tensor, ...], around: Tensor) -> tuple[Tensor, ...]:
    """Unit normals (x, y, z), (N, P) each, from the differences of opposite neighbours.

    points  x, y and z, (N, P) each
    around  (4, P), see Face
    """
    ax, ay, az = (c.index_select(1, around[0]) - c.index_select(1, around[2]) for c in points)
    bx, by, bz = (c.index_select(1, around[1]) - c.index_select(1, around[3]) for c in points)
    x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    scale = (x * x + y * y + z * z).clamp_(min=1e-12).sqrt_()
    return x / scale, y / scale, z / scale
