"""Pixels that the strokes of a skeleton cover, and the skeleton drawn with them in stock torch.

OpenCV and Pillow both draw whole pixels, without anti-aliasing, from whole coordinates. A skeleton
names the library whose pixels its strokes have. All is integer arithmetic on int64 tensors, so that
the compiled kernels give the same pixels.

Positions are [N, 2], (x, y) in whole pixels. "Fixed-point" positions are in 1 / 65536 of a pixel,
as in OpenCV. `rows` is [H].
"""

from __future__ import annotations

import torch
from torch import Tensor

OPENCV, PILLOW = 0, 1
KINDS = ("line", "fill", "dot")
# When a point counts as present. A stroke that needs a missing point is left out.
RULES = (
    "positive",  # both coordinates >= 0
    "truncated",  # both >= 0 once truncated towards zero, so > -1
    "marked",  # both >= 0 and not both 0, which marks a missing point
    "finite",  # anywhere, inside the image or outside
)
FAR = 16383  # px; a point further from the first pixel than this counts as missing
ONE, HALF = 1 << 16, 1 << 15  # a pixel in fixed-point positions
NOWHERE = 1 << 30
Interval = tuple[Tensor, Tensor]  # first and last pixel in every row, [N, H]; empty if first > last


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
        present = _present(at, RULES[rule])
        at = torch.where(present[..., None], at, 0).trunc().long()
        at, present, others = at[:, :n], present[:, :n], present[:, n:]
        drawn = (present.sum(1) >= 3 if partial else present.all(1)) & others.all(1)
        if partial:  # a missing corner moves to the one before it, where it changes nothing
            for i in (*range(n), *range(n)):
                at[:, i] = torch.where(present[:, i, None], at[:, i], at[:, i - 1])
                present[:, i] |= present[:, i - 1]
        if KINDS[kind] == "line":
            runs = line(at, thickness, raster, rows)
        elif KINDS[kind] == "fill":
            runs = polygon(at, raster, rows)
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


def _present(at: Tensor, rule: str) -> Tensor:
    near = at.abs().amax(-1) <= FAR  # False for NaN
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
    outline: list[Interval] = []
    crossings: list[Tensor] = []
    for i in range(corners.shape[1]):
        p, q = corners[:, i - 1], corners[:, i]
        outline.append((bresenham if raster == OPENCV else scan)(p, q, rows))
        low, high = scan(p, q, rows)
        crossed = (rows >= torch.minimum(p, q)[:, 1:]) & (rows < torch.maximum(p, q)[:, 1:])
        # In half pixels, so that first and last pixels are sorted together.
        crossings.append(torch.where(crossed, low + high, 2 * NOWHERE))
    ordered_crossings = torch.stack(crossings).sort(0).values
    pairs = zip(ordered_crossings[0::2], ordered_crossings[1::2], strict=False)
    inside = [((a + 1) >> 1, b >> 1) for a, b in pairs]
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


def bresenham(p: Tensor, q: Tensor, rows: Tensor) -> Interval:
    """OpenCV's thin line between whole pixels; ties stay on the side of the left end."""
    (x0, y0), (x1, y1) = map(_columns, ordered(p, q, 0))
    wide, high = x1 - x0, (y1 - y0).abs()
    down = torch.where(y1 < y0, y0 - rows, rows - y0)  # rows from the left end towards the other
    # The minor coordinate after k steps of b is ceil((2 k a - b) / (2 b)), a the minor extent.
    x = -floor_div(high - 2 * down * wide, 2 * high.clamp(min=1))
    first = (floor_div(wide * (2 * down - 1), 2 * high.clamp(min=1)) + 1).clamp(min=0)
    last = torch.minimum(floor_div(wide * (2 * down + 1), 2 * high.clamp(min=1)), wide)
    first, last = torch.where(high > 0, first, 0), torch.where(high > 0, last, wide)
    flat = wide > high
    within = (down >= 0) & (down <= high)
    return only(within, x0 + torch.where(flat, first, x), x0 + torch.where(flat, last, x))


def cut(p: Tensor, q: Tensor, rows: Tensor) -> Interval:
    """Pixels where OpenCV's filling crosses the edge p, q; fixed-point, p above q."""
    (x0, y0), (x1, y1) = _columns(p), _columns(q)
    y0, y1 = (y0 + HALF) >> 16, (y1 + HALF) >> 16
    high = (y1 - y0).clamp(min=1)
    x = (x0 + (rows - y0) * divide(2 * (x1 - x0) + high, 2 * high) + HALF) >> 16
    return only((rows >= y0) & (rows < y1), x, x)


def scan(p: Tensor, q: Tensor, rows: Tensor) -> Interval:
    """Pixels where Pillow's filling crosses the edge p, q; whole pixels, both end rows included."""
    (x0, y0), (x1, y1) = map(_columns, ordered(p, q, 1))
    high = (y1 - y0).clamp(min=1)
    low, last = _rounded(x0 * high + (rows - y0) * (x1 - x0), high)
    low = torch.where(y0 == y1, torch.minimum(x0, x1), low)
    last = torch.where(y0 == y1, torch.maximum(x0, x1), last)
    return only((rows >= y0) & (rows <= y1), low, last)


def stepped(p: Tensor, q: Tensor, rows: Tensor) -> Interval:
    """OpenCV's thin line between fixed-point positions: whole steps on its longer axis."""
    span = (q - p).abs()
    steep = (span[:, 0] <= span[:, 1])[:, None]
    (a, b), (c, d) = ordered(p, q, 0), ordered(p, q, 1)
    low, high = _run_flat(a, b, rows)
    x, within = _run_steep(c, d, rows)
    low, high = torch.where(steep, x, low), torch.where(steep, x, high)
    low, high = only(~steep | within, low, high)
    end = (torch.where(steep, d, b) + HALF) >> 16  # the far end is drawn on its own
    at_end = rows == end[:, 1:]
    low = torch.where(at_end, torch.minimum(low, end[:, :1]), low)
    return low, torch.where(at_end, torch.maximum(high, end[:, :1]), high)


def _run_steep(p: Tensor, q: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    (x0, y0), (x1, y1) = _columns(p), _columns(q)
    k = rows - ((y0 + HALF) >> 16)
    step = divide((x1 - x0) * ONE, (y1 - y0) | 1)
    return (x0 + HALF + k * step) >> 16, (k >= 0) & (k <= (y1 - y0) >> 16)


def _run_flat(p: Tensor, q: Tensor, rows: Tensor) -> Interval:
    (x0, y0), (x1, y1) = _columns(p), _columns(q)
    step = divide((y1 - y0) * ONE, (x1 - x0) | 1)
    steps = (x1 - x0) >> 16
    # Column k lies in row (y0 + HALF + k step) >> 16: solved for the columns of a row.
    below = rows * ONE - y0 - HALF  # k step >= below and k step < below + ONE
    size = step.abs().clamp(min=1)
    rising = (-floor_div(-below, size), -floor_div(-below - ONE, size) - 1)
    falling = (floor_div(-below - ONE, size) + 1, floor_div(-below, size))
    level = (torch.where((below <= 0) & (below > -ONE), 0, NOWHERE), steps)
    first, last = (
        torch.where(step > 0, r, torch.where(step < 0, f, s))
        for r, f, s in zip(rising, falling, level, strict=True)
    )
    first, last = first.clamp(min=0), torch.minimum(last, steps)
    x = (x0 + HALF) >> 16
    return only(first <= last, x + first, x + last)


def ordered(p: Tensor, q: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    swap = (q[:, axis] < p[:, axis])[:, None]
    return torch.where(swap, q, p), torch.where(swap, p, q)


def _columns(p: Tensor) -> tuple[Tensor, Tensor]:
    return p[:, :1], p[:, 1:]


def _rounded(top: Tensor, bottom: Tensor) -> Interval:
    """top / bottom to the nearest integer, halves up for a first and down for a last pixel."""
    return floor_div(2 * top + bottom, 2 * bottom), -floor_div(bottom - 2 * top, 2 * bottom)


def floor_div(top: Tensor, bottom: Tensor) -> Tensor:
    return torch.div(top, bottom, rounding_mode="floor")


def divide(top: Tensor, bottom: Tensor) -> Tensor:
    return torch.div(top, bottom, rounding_mode="trunc")


def only(where: Tensor, low: Tensor, high: Tensor) -> Interval:
    return torch.where(where, low, NOWHERE), torch.where(where, high, -NOWHERE)
