"""Stick figures: points drawn as lines, filled polygons and dots, into the channels of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nets.ops._library import define
from nets.ops.strokes import FAR, KINDS, OPENCV, RULES, draw_skeleton_reference

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
WORDS = 1800  # of a skeleton's program, at most: the arguments of a CUDA kernel hold 4 kB


class Stroke(NamedTuple):
    """One thing to draw. A point is the number of a joint, or a pair of them for their middle."""

    kind: str  # "line" through 2 points, "fill" of 3 to 6, "dot" on 1
    points: tuple[int | tuple[int, int], ...]
    colour: tuple[int | None, ...]  # 0 to 255 for each channel, None leaves the channel as it is
    rule: str = "positive"
    also: tuple[int, ...] = ()  # joints that must be present as well, but are not drawn
    partial: bool = False  # "fill" only: through the points that are present, at least three


class Skeleton(NamedTuple):
    """What to draw through `joints` points, in order: later strokes lie over earlier ones."""

    joints: int
    channels: int
    background: int
    raster: int  # OPENCV or PILLOW of nets.ops.strokes: the library whose pixels are drawn
    thickness: Callable[[int], int]  # of lines, in pixels, from the image's height
    radius: Callable[[int], int]  # of dots, likewise
    program: tuple[int, ...]  # the strokes, encoded by `skeleton`
    corners: int  # points a stroke takes in the program


def skeleton(
    joints: int,
    channels: int,
    strokes: list[Stroke],
    thickness: Callable[[int], int],
    radius: Callable[[int], int] = int,
    background: int = 0,
    raster: int = OPENCV,
) -> Skeleton:
    """An immutable description for draw_skeleton. Raises ValueError where a stroke is wrong."""
    corners = max((len(s.points) + len(s.also) for s in strokes), default=1)
    program: list[int] = []
    for s in strokes:
        pairs = [(p, p) if isinstance(p, int) else p for p in (*s.points, *s.also)]
        fits = {"line": len(s.points) == 2, "dot": len(s.points) == 1}
        good = fits.get(s.kind, 3 <= len(s.points) <= 6) and len(s.colour) == channels
        if not good or any(not 0 <= i < joints for pair in pairs for i in pair):
            raise ValueError(
                f"skeleton: strokes must fit {joints} joints and {channels} channels, got {s}"
            )
        pairs += [(0, 0)] * (corners - len(pairs))
        program += [KINDS.index(s.kind), len(s.points), len(s.also), RULES.index(s.rule)]
        program += [int(s.partial), *(-1 if c is None else c for c in s.colour)]
        program += [i for pair in pairs for i in pair]
    if len(program) > WORDS:
        raise ValueError(f"skeleton: strokes must take at most {WORDS} words, got {len(program)}")
    return Skeleton(
        joints, channels, background, raster, thickness, radius, tuple(program), corners
    )


def draw_skeleton(points: Tensor, skeleton: Skeleton, size: int | tuple[int, int]) -> Tensor:
    """Images of stick figures, pixel for pixel as OpenCV or Pillow draws them.

    points    [N, joints, 2]  (x, y) in pixels, any floating type; the first pixel's centre is 0.
              Points are truncated towards zero before they are drawn. A point is missing if it is
              NaN, infinite or more than 16383 pixels out, or by the stroke's rule. Lines and dots
              with a missing point are left out.
    skeleton  what to draw, from `skeleton()`
    size      (H, W) of the images, or one side, in pixels
    returns   [N, C, H, W] uint8 on the device of `points`; no gradient flows to the points

    float64 points are rounded to float32 first. Raises TypeError or ValueError on a wrong type,
    shape or size.
    """
    if points.dtype not in FLOATS:
        raise TypeError(f"draw_skeleton: points must be a floating tensor, got {points.dtype}")
    if points.ndim != 3 or points.shape[1:] != (skeleton.joints, 2):
        want = f"[N, {skeleton.joints}, 2]"
        raise ValueError(f"draw_skeleton: points must be {want}, got {list(points.shape)}")
    h, w = (size, size) if isinstance(size, int) else size
    if not (1 <= h <= FAR and 1 <= w <= FAR):
        raise ValueError(f"draw_skeleton: size must be 1 to {FAR} pixels, got {size}")
    style = [skeleton.channels, skeleton.background, skeleton.raster]
    style += [max(1, skeleton.thickness(h)), skeleton.radius(h), skeleton.corners]
    return _draw(points.detach().float(), list(skeleton.program), style, h, w)


_draw = define(
    "draw_skeleton(Tensor points, int[] program, int[] style, int h, int w) -> Tensor",
    draw_skeleton_reference,
    lambda points, program, style, h, w: points.new_empty(
        points.shape[0], style[0], h, w, dtype=torch.uint8
    ),
)
