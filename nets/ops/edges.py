"""Which pixels of a row thin lines and edges cover, exactly as OpenCV and Pillow decide it.

All is integer arithmetic on int64 tensors, so that the compiled kernels give the same pixels.
Places are [N, 2], (x, y) in whole pixels or, "fixed", in 1 / 65536 of one as OpenCV counts; rows
is [H].
"""

from __future__ import annotations

import torch
from torch import Tensor

ONE, HALF = 1 << 16, 1 << 15  # a pixel in fixed-point places
NOWHERE = 1 << 30
Interval = tuple[Tensor, Tensor]  # first and last pixel in every row, [N, H]; empty if first > last


def bresenham(p: Tensor, q: Tensor, rows: Tensor) -> Interval:
    """OpenCV's thin line between whole pixels; half way it stays on the left end's side."""
    (x0, y0), (x1, y1) = map(_columns, ordered(p, q, 0))
    wide, high = x1 - x0, (y1 - y0).abs()
    down = torch.where(y1 < y0, y0 - rows, rows - y0)  # rows from the left end towards the other
    # The minor coordinate after k steps of b is ceil((2 k a - b) / (2 b)), a the minor extent.
    x = -floor_div(high - 2 * down * wide, 2 * high.clamp(min=1))
    first = (floor_div(wide * (2 * down - 1), 2 * high.clamp(min=1)) + 1).clamp(min=0)
    last = torch.minimum(floor_div(wide * (2 * down + 1), 2 * high.clamp(min=1)), wide)
    first, last = torch.where(high > 0, first, 0), torch.where(high > 0, last, wide)
    flat = wide > high
    there = (down >= 0) & (down <= high)
    return only(there, x0 + torch.where(flat, first, x), x0 + torch.where(flat, last, x))


def cut(p: Tensor, q: Tensor, rows: Tensor) -> Interval:
    """Where OpenCV's filling sees the edge p, q, fixed point, p above, from p's row to q's."""
    (x0, y0), (x1, y1) = _columns(p), _columns(q)
    y0, y1 = (y0 + HALF) >> 16, (y1 + HALF) >> 16
    high = (y1 - y0).clamp(min=1)
    x = (x0 + (rows - y0) * divide(2 * (x1 - x0) + high, 2 * high) + HALF) >> 16
    return only((rows >= y0) & (rows < y1), x, x)


def scan(p: Tensor, q: Tensor, rows: Tensor) -> Interval:
    """Where Pillow's filling sees the edge p, q of whole pixels, in all rows from end to end."""
    (x0, y0), (x1, y1) = map(_columns, ordered(p, q, 1))
    high = (y1 - y0).clamp(min=1)
    low, last = _rounded(x0 * high + (rows - y0) * (x1 - x0), high)
    low = torch.where(y0 == y1, torch.minimum(x0, x1), low)
    last = torch.where(y0 == y1, torch.maximum(x0, x1), last)
    return only((rows >= y0) & (rows <= y1), low, last)


def stepped(p: Tensor, q: Tensor, rows: Tensor) -> Interval:
    """OpenCV's thin line between fixed places: whole steps on one axis, slope on the other."""
    span = (q - p).abs()
    steep = (span[:, 0] <= span[:, 1])[:, None]
    (a, b), (c, d) = ordered(p, q, 0), ordered(p, q, 1)
    low, high = _run_flat(a, b, rows)
    x, there = _run_steep(c, d, rows)
    low, high = torch.where(steep, x, low), torch.where(steep, x, high)
    low, high = only(~steep | there, low, high)
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
