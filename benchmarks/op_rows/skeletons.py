"""Rows of draw_skeleton against OpenCV and Pillow: the limit is one write of the images."""

import numpy as np
import torch
from PIL import Image, ImageDraw

from benchmarks.op_rows.row import Row
from nets import ops, skeletons
from nets.ops.strokes import KINDS, draw_skeleton_reference

N, S = 16, 256


def make(joints):
    # Limbs as long as those of a person that fills the image.
    start = torch.rand(N, 1, 2, generator=torch.Generator().manual_seed(0)) * S / 2 + S / 4
    steps = torch.randn(N, joints, 2, generator=torch.Generator().manual_seed(1)) * S / 6
    return lambda device: ((start + steps).clamp(2, S - 3).to(device),)


def formula(drawn):
    style = [drawn.channels, drawn.background, drawn.raster]
    style += [drawn.thickness(S), drawn.radius(S), drawn.corners]
    return lambda points: draw_skeleton_reference(points, list(drawn.program), style, S, S)


def decoded(drawn):
    """kind, pairs of joints, colour of every stroke."""
    words = 5 + drawn.channels + 2 * drawn.corners
    for i in range(0, len(drawn.program), words):
        kind, n, _, _, _, *rest = drawn.program[i : i + words]
        colour, pairs = rest[: drawn.channels], rest[drawn.channels :]
        yield KINDS[kind], pairs[0 : 2 * n : 2], pairs[1 : 2 * n : 2], colour


def opencv(drawn):
    import cv2

    strokes, thickness = list(decoded(drawn)), drawn.thickness(S)

    def draw(points):
        out = np.full((len(points), drawn.channels, S, S), drawn.background, np.uint8)
        for canvas, at in zip(out, points.cpu().numpy(), strict=True):
            for kind, first, second, colour in strokes:
                places = ((at[first] + at[second]) * 0.5).astype(np.int32)
                for channel, value in zip(canvas, colour, strict=True):
                    if value < 0:
                        continue
                    if kind == "fill":
                        cv2.fillPoly(channel, [places], value)
                    else:
                        cv2.line(channel, places[0], places[1], value, thickness)
        return out

    return draw


def pillow(drawn):
    strokes = list(decoded(drawn))
    thickness, r = drawn.thickness(S), drawn.radius(S)

    def draw(points):
        out = []
        for at in points.cpu().numpy():
            image = Image.new("RGB", (S, S))
            pen = ImageDraw.Draw(image)
            for kind, first, _, colour in strokes:
                places, colour = [tuple(p) for p in at[first].tolist()], tuple(colour)
                if kind == "fill":
                    pen.polygon(places, fill=colour)
                elif kind == "line":
                    pen.line(places, fill=colour, width=thickness)
                else:
                    x, y = places[0]
                    pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
            out.append(np.asarray(image))
        return out

    return draw


def row(name, drawn, library, draw):
    return Row(
        name=f"draw_skeleton {name}",
        size=f"{N}x{S}x{S}",
        make=make(drawn.joints),
        ours=lambda points: ops.draw_skeleton(points, drawn, S),
        formula=formula(drawn),
        others={library: draw(drawn)},
        reads=N * drawn.joints * 8,
        writes=N * drawn.channels * S * S,
        exact=True,
        compiled=False,  # the reference is a Python loop over the program
    )


ROWS = [
    row("parts", skeletons.PARTS_STYLE, "OpenCV", opencv),
    row("image", skeletons.IMAGE_STYLE, "Pillow", pillow),
    row("face", skeletons.FACE_68, "OpenCV", opencv),
]
