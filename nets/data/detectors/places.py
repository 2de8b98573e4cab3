"""Tiles and squares of an image in which people and faces are searched, and their measures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

from torch import Tensor

MOST_TILES = 48  # along the longer side; narrow strips get larger tiles
ALIKE = 0.15  # of the side: squares that are nearer to each other are searched once
AROUND = 2.2  # side of the square in which a face is looked for again, in extents of its points
AROUND_BODY = 1.4  # the same of a person, in extents
Square = tuple[float, float, float]  # middle x, y and side, pixels


def tiles(image: Tensor) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """The tiles in which people are searched, the whole image first, and their first pixels."""
    h, w = image.shape[1:]
    for side in tile_sides(h, w):
        for top, left in product(tile_starts(h, side), tile_starts(w, side)):
            yield image[:, top : top + side, left : left + side], (left, top)


def tile_sides(h: int, w: int) -> list[int]:
    """Sides of the tiles in which people are searched, at most MOST_TILES along an image."""
    least = -(-2 * max(h, w) // MOST_TILES)  # tiles overlap by half
    sides = [max(h, w), min(h, w), (min(h, w) + 1) // 2]
    return list(dict.fromkeys(max(side, least) for side in sides))


def tile_starts(length: int, side: int) -> list[int]:
    """Starts of tiles that cover a length and overlap by at least half."""
    steps = max(0, math.ceil(2 * (length - side) / side))
    return [round(i * (length - side) / max(steps, 1)) for i in range(steps + 1)]


def cut_square(image: Tensor, x: float, y: float, side: float) -> tuple[Tensor, tuple[int, int]]:
    """The part of an image inside a square, and the x, y of its first pixel."""
    h, w = image.shape[1:]
    left, top = max(0, round(x - side / 2)), max(0, round(y - side / 2))
    right, bottom = min(w, round(x + side / 2)), min(h, round(y + side / 2))
    left, top = min(left, w - 1), min(top, h - 1)
    return image[:, top : max(bottom, top + 1), left : max(right, left + 1)], (left, top)


def alike(one: Square, other: Square) -> bool:
    """True if two squares x, y, side show nearly the same."""
    (x, y, side), (u, v, length) = one, other
    near = math.hypot(x - u, y - v) < ALIKE * min(side, length)
    return near and abs(side - length) < 2 * ALIKE * min(side, length)


def middle(points: Tensor) -> Tensor:
    return (points.amin(0) + points.amax(0)) / 2


def extent(points: Tensor) -> float:
    return (points.amax(0) - points.amin(0)).max().item()


def anchored(points: Tensor) -> tuple[float, float, float]:
    """Middle x, y and mean radius of eyes and nose, which stay where they are when a mouth opens.

    points  (68, 2)
    """
    part = points[27:48]
    centre = part.mean(0)
    return (*centre.tolist(), (part - centre).norm(dim=-1).mean().item())


def largest_first(faces: list[Tensor]) -> list[Tensor]:
    return sorted(faces, key=lambda points: -extent(points))
