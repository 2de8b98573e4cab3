"""Hair: a grid of locks from the crown over the scalp, which may hang down from the hairline.

Column j of the grid runs from the crown in direction j around the head, 0 at the forehead. Its
first rows lie on the scalp. The others follow the skin below the hairline, or hang freely. A style
says how thick the hair is, how far it reaches, and where it hangs.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nets.worlds.heads.face.mesh import face
from nets.worlds.heads.face.person import Traits

COLUMNS, ROWS, SCALP = 56, 22, 11  # the first SCALP rows lie on the scalp
ORIGIN = np.array([0.0, 0.22, -0.25])  # dm, inside of the head
_TILT = 0.4  # radians from the vertical back to the crown
# The hairline and the end of what hair may cover, as points on the right half of the head.
HAIRLINE = ((0, 0.8, 0.96), (0.34, 0.77, 0.86), (0.54, 0.56, 0.74), (0.66, 0.32, 0.52),
             (0.72, 0.0, 0.25), (0.74, 0.0, -0.3), (0.6, -0.4, -0.6), (0.3, -0.66, -0.72),
             (0, -0.7, -0.75))  # fmt: skip
_REACH = ((0, 0.2, 1.0), (0.34, 0.2, 0.9), (0.56, 0.1, 0.76), (0.69, -0.3, 0.5),
          (0.72, -0.6, 0.1), (0.66, -0.75, -0.3), (0.55, -0.9, -0.5), (0.3, -1.0, -0.6),
          (0, -1.1, -0.62))  # fmt: skip
STYLES = (
    "bald", "buzz", "crop", "side", "quiff", "curls", "afro", "bob", "long", "waves", "bun",
    "fringe", "receding", "middle",
)  # fmt: skip
# Shares of the styles among women and men.
_WOMEN = (0.01, 0.02, 0.05, 0.06, 0.02, 0.05, 0.05, 0.15, 0.18, 0.16, 0.1, 0.08, 0.0, 0.07)
_MEN = (0.08, 0.17, 0.2, 0.16, 0.11, 0.08, 0.04, 0.01, 0.02, 0.02, 0.01, 0.02, 0.08, 0.0)


@dataclass(frozen=True)
class Grid:
    """The places of the grid's points, G = COLUMNS * ROWS, relative to points of the skin."""

    skin: Tensor  # (G, 4) numbers of points of the skin
    share: Tensor  # (4, G) their weights
    offset: Tensor  # (G, 3) from the weighted points to the place, dm
    out: Tensor  # (G, 3) unit vectors away from the head
    column: Tensor  # (G,) angle around the crown, radians: 0 at the forehead, +-pi at the nape
    row: Tensor  # (G,) 0 at the crown, 1 at the hairline, 2 at the end
    around: Tensor  # (4, G) neighbours
    triangles: Tensor  # (T, 3)
    uv: Tensor  # (G, 2) in [0, 1]: around and along


def angles(points: Any) -> tuple[np.ndarray, np.ndarray]:
    """Angles around the crown and away from it of places on the head."""
    d = np.array(points) - ORIGIN
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    up = np.array([0, math.cos(_TILT), -math.sin(_TILT)])
    front = np.array([0, math.sin(_TILT), math.cos(_TILT)])
    return np.arctan2(d[:, 0], d @ front), np.arccos(d @ up)


@functools.cache
def grid() -> Grid:
    """The grid on the packed head."""
    model = face()
    up = np.array([0, math.cos(_TILT), -math.sin(_TILT)])
    front = np.array([0, math.sin(_TILT), math.cos(_TILT)])
    column = (np.arange(COLUMNS) / COLUMNS * 2 - 1) * np.pi
    ends = [np.interp(np.abs(column), *angles(line)) for line in (HAIRLINE, _REACH)]
    row = np.concatenate([np.linspace(0.0, 1, SCALP), 1 + np.arange(1, ROWS - SCALP + 1) /
                          (ROWS - SCALP)])  # fmt: skip
    phi, r = np.repeat(column, ROWS), np.tile(row, COLUMNS)
    line, reach = (np.repeat(e, ROWS) for e in ends)
    theta = np.where(r <= 1, 0.03 + (line - 0.03) * r, line + (reach - line) * (r - 1))
    d = np.cos(theta)[:, None] * up + np.sin(theta)[:, None] * (
        np.cos(phi)[:, None] * front + np.sin(phi)[:, None] * [1.0, 0, 0]
    )
    points = model.points.numpy().astype(np.float64)
    outer = (model.group.numpy() == 0) & (model.masks[:, 4].numpy() < 0.3) & (points[:, 1] > -1.3)
    outer &= model.masks[:, 3].numpy() < 0.3
    numbers = np.nonzero(outer)[0]
    away = points[numbers] - ORIGIN
    radius = np.linalg.norm(away, axis=1)
    angle = d @ (away / radius[:, None]).T
    best = np.argsort(-angle, axis=1)[:, :4]
    near = np.take_along_axis(angle, best, 1)
    weight = 1 / (np.arccos(near.clip(-1, 1)) + 0.02)
    weight /= weight.sum(1, keepdims=True)
    place = ORIGIN + d * (weight * radius[best]).sum(1, keepdims=True)
    skin = numbers[best]
    mean = (weight[..., None] * points[skin]).sum(1)
    number = np.arange(COLUMNS * ROWS).reshape(COLUMNS, ROWS)
    left, right = np.roll(number, 1, 0), np.roll(number, -1, 0)
    above = np.concatenate([number[:, :1], number[:, :-1]], 1)
    below = np.concatenate([number[:, 1:], number[:, -1:]], 1)
    a, b = number[:, :-1].reshape(-1), number[:, 1:].reshape(-1)
    c, e = right[:, 1:].reshape(-1), right[:, :-1].reshape(-1)
    outside = np.concatenate([np.stack([a, c, b], 1), np.stack([a, e, c], 1)])
    hanging = outside[(r[outside] > 0.9).all(1)]  # seen from both sides
    triangles = np.concatenate([outside, hanging[:, ::-1]])
    fold = COLUMNS // 8  # columns across the texture, which runs back and forth around the head
    turn = np.repeat(np.arange(COLUMNS), ROWS) / fold
    uv = np.stack([1 - np.abs(1 - turn % 2), r / 2], 1)

    def tensor(x: np.ndarray) -> Tensor:
        return torch.tensor(x, dtype=torch.float32)

    return Grid(
        skin=torch.tensor(skin),
        share=tensor(weight.T),
        offset=tensor(place - mean),
        out=tensor(d),
        column=tensor(phi),
        row=tensor(r),
        around=torch.tensor(np.stack([x.reshape(-1) for x in (right, above, left, below)])),
        triangles=torch.tensor(np.ascontiguousarray(triangles)),
        uv=tensor(uv),
    )


def styles(traits: Traits) -> Tensor:
    """The number in STYLES of each person's hair, (N,) int64."""
    women = torch.tensor(_WOMEN, dtype=torch.float64).cumsum(0)
    men = torch.tensor(_MEN, dtype=torch.float64).cumsum(0)
    share = traits.share("hair_style")[:, None]
    bounds = torch.where((traits.male > 0.5)[:, None], men / men[-1], women / women[-1])
    return (share > bounds).sum(1).clamp(max=len(STYLES) - 1)


def _bump(x: Tensor, width: float) -> Tensor:
    """1 at 0, 0 from `width` on, smooth."""
    return (1 - (x / width).square()).clamp(min=0).square()


def locks(traits: Traits) -> dict[str, Tensor]:
    """How each grid point lies, float32: offsets in dm and opacities, (N, G) each.

    out      distance from the skin
    down     how far it hangs below the hairline of its column; 0: it lies on the skin
    hang     0: on the skin, 1: hangs freely
    swing    sideways offset of a wave, along x and z
    opacity  see `ops.draw_mesh`
    """
    g = grid()
    style = styles(traits)
    phi, row = g.column, g.row

    def is_a(*names: str) -> Tensor:
        chosen = torch.zeros_like(style, dtype=torch.bool)
        for name in names:
            chosen |= style == STYLES.index(name)
        return chosen[:, None].float()

    def number(name: str) -> Tensor:
        return traits[name].float()[:, None]

    volume, length = number("hair_volume"), number("hair_length")
    part = number("hair_part").clamp(-1.5, 1.5)
    part = torch.where(part >= 0, part.clamp(min=0.4), part.clamp(max=-0.4))
    front = _bump(phi, 1.2)
    back = _bump(phi.abs() - math.pi, 2.0)
    side = (1 - front - back).clamp(min=0)
    top = (1.15 - row).clamp(0, 0.65)
    rise = (row * 5).clamp(max=1)  # thin at the crown's pole, where all columns meet
    wave1 = (phi * 3 + row * 4 + number("hair_shape1") * 2).sin()
    wave2 = (phi * 7 - row * 9 + number("hair_shape2") * 3).sin()
    curl = (phi * 13 + row * 3 + number("hair_shape1")).sin() * (row * 16 - phi * 5).sin()
    uneven = 1 + 0.12 * wave1 + 0.08 * wave2

    thick = is_a("buzz") * 0.025 + is_a("receding") * 0.05
    thick = thick + is_a("crop") * (0.06 + 0.1 * top * (1 + 0.4 * volume))
    swept = 1 + 0.45 * (part.sign() * (phi + 0.3 * part)).clamp(-1, 1) * (front + 0.4 * side)
    thick = thick + is_a("side") * (0.07 + 0.17 * top * swept * (1 + 0.3 * volume))
    thick = thick + is_a("quiff") * (
        0.05 + 0.06 * top + 0.34 * front * _bump(row - 0.65, 0.6) * (1 + 0.3 * volume)
    )
    thick = thick + is_a("curls") * (0.16 + 0.05 * volume + 0.06 * curl)
    thick = thick + is_a("afro") * (0.42 + 0.12 * volume + 0.04 * curl)
    lean = 0.12 + 0.035 * volume + 0.09 * top + 0.06 * back
    thick = thick + is_a("bob", "long", "waves", "fringe", "middle") * lean
    thick = thick + is_a("bun") * 0.05
    knot = _bump((row - 0.35) * 2.2, 1.0) * _bump((phi.abs() - math.pi) * 0.8, 1.0)
    thick = thick + is_a("bun") * 0.42 * knot
    thick = thick * uneven * (0.35 + 0.65 * rise)
    # The edges lie closer to the skin: the hair does not stand off the forehead.
    edge = ((1.05 - row) * 2.2).clamp(0, 1)
    falls = ((phi.abs() - 0.8) * 2.5).clamp(0, 1)  # the forehead stays free of what hangs
    long = is_a("bob", "long", "waves", "fringe", "middle")
    thick = (
        0.012
        + 0.03 * ((1 - row) * 5).clamp(0, 1)
        + thick * torch.lerp(edge * edge * (1.6 - 0.6 * edge), torch.ones_like(edge), long * falls)
    )

    # How far the hair reaches, in rows: 1 is the hairline.
    line = 1 + 0.05 * wave2 + 0.04 * number("hair_line") * front
    swoop = (0.5 + 0.5 * part.sign() * (phi + 0.25 * part.sign())).clamp(0, 1)
    fringe = is_a("fringe") * front * (0.75 + 0.15 * number("hair_fringe"))
    sided = is_a("side", "bob", "waves", "long") * front * 0.42 * swoop
    parted = (phi.abs() * 2.2).clamp(max=1) * front * 0.42
    sided = sided + is_a("middle", "long") * parted * (number("hair_fringe") > -0.3)
    reach = line + fringe + sided.clamp(max=0.5)
    sideburn = is_a("crop", "side", "quiff", "curls", "buzz", "receding") * _bump(
        phi.abs() - 1.75, 0.3
    )
    reach = reach + 0.3 * sideburn * (traits.male.float()[:, None] > 0.5)
    receding = is_a("receding") * (_bump(phi.abs() - 0.5, 0.7) * 0.5 + front * 0.3)
    reach = reach - receding - 0.05 * is_a("afro", "curls") * front

    hang = long * falls
    full = is_a("bob") * (1.0 + 0.12 * length) + is_a("fringe") * (1.2 + 0.25 * length)
    full = (
        full + is_a("long", "middle") * (1.9 + 0.3 * length) + is_a("waves") * (1.75 + 0.3 * length)
    )
    below = (row - 1).clamp(min=0)
    down = below * full * (1 + 0.05 * wave1)
    # Not clamped, so that edges run straight through the triangles.
    opacity = torch.where(hang > 0.5, (0.98 - below) * 3.5, 0.6 + (reach - row) * 11)
    opacity = opacity - 99 * is_a("bald")
    ends = 2 - 1.45 * is_a("buzz") - 1.0 * is_a("receding")
    waviness = (
        is_a("waves") * (0.06 + 0.02 * number("hair_wave"))
        + is_a("long", "bob", "fringe", "middle") * 0.015
    )
    swing = waviness * below * (row * 9 + 2 * number("hair_shape1") + 3 * phi.cos()).sin()
    return {
        "out": thick,
        "down": down,
        "hang": hang,
        "swing": swing,
        "opacity": torch.minimum(opacity, ends),
        "line": reach,
    }
