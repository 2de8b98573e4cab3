"""Which pixels the strokes of a skeleton cover, and the skeleton drawn with them in stock torch.

OpenCV and Pillow both draw whole pixels, without anti-aliasing, from whole coordinates; a stroke
here is drawn as the library that its skeleton names would draw it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nets.ops.edges import (
    HALF,
    NOWHERE,
    ONE,
    Interval,
    bresenham,
    cut,
    only,
    ordered,
    scan,
    stepped,
)

OPENCV, PILLOW = 0, 1
KINDS = ("line", "fill", "dot")
# When a point counts as there. A line that needs a point which is not there is left out.
RULES = (
    "positive",  # both coordinates >= 0
    "truncated",  # both >= 0 once truncated towards zero, so > -1
    "marked",  # both >= 0 and not both 0, which marks a missing point
    "finite",  # anywhere, on the picture or off it
)
FAR = 16383  # px; a point further from the first pixel than this counts as missing


def draw_skeleton_reference(
    points: Tensor, program: list[int], style: list[int], h: int, w: int
) -> Tensor:
    """The definition, in stock torch."""
    channels, background, raster, thickness, radius, corners = style
    canvas = points.new_full((len(points), channels, h, w), background, dtype=torch.uint8)
    rows = torch.arange(h, device=points.device)
    columns = torch.arange(w, device=points.device, dtype=torch.int16)
    words = 5 + channels + 2 * corners
    for start in range(0, len(program), words):
        kind, n, also, rule, partial, *rest = program[start : start + words]
        first, second = rest[channels::2][: n + also], rest[channels + 1 :: 2][: n + also]
        at = (points[:, first] + points[:, second]) * 0.5
        there = _there(at, RULES[rule])
        at = torch.where(there[..., None], at, 0).trunc().long()
        drawn = there.sum(1) >= 3 if partial else there.all(1)
        if partial:  # a missing corner falls on the one before it, where it changes nothing
            for i in (*range(n), *range(n)):
                at[:, i] = torch.where(there[:, i, None], at[:, i], at[:, i - 1])
                there[:, i] |= there[:, i - 1]
        if KINDS[kind] == "line":
            runs = line(at[:, :n], thickness, raster, rows)
        elif KINDS[kind] == "fill":
            runs = polygon(at[:, :n], raster, rows)
        else:
            square = radius * (radius + (raster == PILLOW))
            runs = disc(at[:, 0], square, rows)
        mask = torch.zeros(len(points), h, w, dtype=torch.bool, device=points.device)
        for low, high in runs:
            low = torch.where(drawn[:, None], low, NOWHERE)
            low, high = (edge.clamp(-1, w).short()[..., None] for edge in (low, high))
            mask |= (columns >= low) & (columns <= high)
        for channel, value in enumerate(rest[:channels]):
            if value >= 0:
                canvas[:, channel].masked_fill_(mask, value)
    return canvas


def _there(at: Tensor, rule: str) -> Tensor:
    near = at.abs().amax(-1) <= FAR  # NaN is not
    if rule == "finite":
        return near
    if rule == "truncated":
        return near & (at > -1).all(-1)
    return near & (at >= 0).all(-1) & ((rule != "marked") | (at != 0).any(-1))


def disc(centre: Tensor, square: int, rows: Tensor) -> list[Interval]:
    """Pixels within the square root of `square` of centre [N, 2]."""
    x, y = centre[:, :1], rows - centre[:, 1:]
    rest = square - y * y
    half = rest.clamp(min=0).double().sqrt().floor().long()
    return [only(rest >= 0, x - half, x + half)]


def line(ends: Tensor, thickness: int, raster: int, rows: Tensor) -> list[Interval]:
    """A thick line between ends [N, 2, 2]; OpenCV's has round ends, Pillow's is cut off."""
    if thickness == 1:  # Pillow's thin line is Bresenham's as well
        return [bresenham(ends[:, 0], ends[:, 1], rows)]
    corners = (_corners_opencv if raster == OPENCV else _corners_pillow)(ends, thickness)
    runs = []
    for i in range(4):
        p, q = corners[:, i - 1], corners[:, i]
        if raster == OPENCV:
            runs += [stepped(p, q, rows), cut(*ordered(p, q, 1), rows)]
        else:
            runs.append(scan(p >> 16, q >> 16, rows))
    low = torch.stack([run[0] for run in runs]).amin(0)
    high = torch.stack([run[1] for run in runs]).amax(0)
    if raster == PILLOW:
        return [(low, high)]
    square = ((thickness + 1) // 2) ** 2
    return [(low, high), *disc(ends[:, 0], square, rows), *disc(ends[:, 1], square, rows)]


def polygon(corners: Tensor, raster: int, rows: Tensor) -> list[Interval]:
    """A filled polygon [N, V, 2], even-odd where it crosses itself, its outline included."""
    outline, cuts = [], []
    for i in range(corners.shape[1]):
        p, q = corners[:, i - 1], corners[:, i]
        outline.append((bresenham if raster == OPENCV else scan)(p, q, rows))
        low, high = scan(p, q, rows)
        crossed = (rows >= torch.minimum(p, q)[:, 1:]) & (rows < torch.maximum(p, q)[:, 1:])
        # In half pixels, so that first and last pixels are sorted together.
        cuts.append(torch.where(crossed, low + high, 2 * NOWHERE))
    cuts = torch.stack(cuts).sort(0).values
    inside = [((a + 1) >> 1, b >> 1) for a, b in zip(cuts[0::2], cuts[1::2], strict=False)]
    return outline + inside


def _corners_opencv(ends: Tensor, thickness: int) -> Tensor:
    a, b = ends.unbind(1)
    d = (a - b) * torch.tensor([1, -1], device=ends.device)
    length = (d * d).sum(1, keepdim=True)
    half = (thickness + thickness % 2) * HALF
    scale = half / length.clamp(min=1).double().sqrt()
    n = (d.flip(1) * scale).round().long()  # to even, as cvRound
    return torch.stack([a * ONE + n, a * ONE - n, b * ONE - n, b * ONE + n], 1)


def _corners_pillow(ends: Tensor, thickness: int) -> Tensor:
    a, b = ends.unbind(1)
    d = b - a
    length = (d * d).sum(1, keepdim=True).clamp(min=1)

    def shift(half: int, up: bool) -> Tensor:  # half * d / |d|, rounded; `up`: ties outwards
        square = 4 * half * half * d * d
        twice = torch.div(square, length, rounding_mode="floor").double().sqrt().floor().long()
        tie = (twice * twice * length == square) & (twice % 2 == 1)
        return ((twice + 1) // 2 - (tie & (not up)).long()) * d.sign()

    small, large = (thickness - 1) // 2, thickness // 2
    x_low, x_high = (shift(half, False)[:, 1] for half in (small, large))
    y_low, y_high = (shift(half, True)[:, 0] for half in (small, large))
    low_high, high_low = torch.stack([-x_low, y_high], 1), torch.stack([x_high, -y_low], 1)
    return torch.stack([a + low_high, b + low_high, b + high_low, a + high_low], 1) * ONE
