"""Contact sheets: small images of a dataset with their joints or points drawn in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from nets.data.detectors import Detector, finds_people, person_square
from nets.data.extraction import jobs
from nets.data.heads.faces import crop_square, face_crop_box, points_in_crop
from nets.data.io.images import list_images, read_image, write_image
from nets.skeletons import JOINTS_17

CELL, COLUMNS, MOST = 160, 8, 64
RIGHT, LEFT, MIDDLE = (255, 60, 60), (70, 130, 255), (60, 220, 60)
Drawing = tuple[Tensor, Tensor | None, str]  # image (3, H, W) uint8, points in its pixels, caption


def sample(count: int, most: int = MOST) -> list[int]:
    """Up to `most` numbers below `count`, evenly spaced."""
    step = max(1.0, count / most)
    return [int(i * step) for i in range(min(count, most))]


def contact_sheet(path: Path, count: int, read: Callable[[int], Drawing]) -> None:
    """Write an image file with up to 64 of `count` small images, given by `read`."""
    chosen = sample(count)
    if not chosen:
        return
    columns = min(COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    sheet = Image.new("RGB", (columns * CELL, rows * CELL), (30, 30, 30))
    for place, index in enumerate(chosen):
        image, points, caption = read(index)
        cell = _cell(image, points, caption)
        at = (place % columns * CELL, place // columns * CELL)
        sheet.paste(cell, at)
    pixels = torch.frombuffer(bytearray(sheet.tobytes()), dtype=torch.uint8)
    write_image(path, pixels.reshape(sheet.height, sheet.width, 3).permute(2, 0, 1), fast=True)


def fitted(image: Tensor, points: Sequence[Tensor], side: int) -> Image.Image:
    """An image in the middle of a square of that side, with points drawn in.

    image   (3, H, W) uint8
    points  sets of points (K, 2), pixels of the image
    """
    pillow = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    scale = side / max(pillow.size)
    w, h = (max(1, round(length * scale)) for length in pillow.size)
    square = Image.new("RGB", (side, side), (30, 30, 30))
    left, top = (side - w) // 2, (side - h) // 2
    square.paste(pillow.resize((w, h)), (left, top))
    draw = ImageDraw.Draw(square)
    for at in points:
        _draw(draw, (at * scale + torch.tensor([left, top])).tolist(), max(1, side // CELL))
    return square


def _cell(image: Tensor, points: Tensor | None, caption: str) -> Image.Image:
    cell = Image.new("RGB", (CELL, CELL), (30, 30, 30))
    cell.paste(fitted(image, [] if points is None else [points], CELL - 2), (1, 1))
    draw = ImageDraw.Draw(cell)
    shown = caption[:24].encode(errors="replace").decode()  # bytes that are no UTF-8
    draw.text((3, CELL - 13), shown, fill=(255, 255, 255), stroke_width=1, stroke_fill=0)
    return cell


def _draw(draw: ImageDraw.ImageDraw, points: Sequence[Sequence[float]], radius: int) -> None:
    if len(points) == len(JOINTS_17):
        at = dict(zip(JOINTS_17, points, strict=True))
        chain = ("ankle", "knee", "hip", "shoulder", "elbow", "wrist")
        lines = [("lshoulder", "rshoulder"), ("lhip", "rhip")]
        for side in "rl":
            lines += [(side + a, side + b) for a, b in pairwise(chain)]
            lines += [("cnose", f"{side}eye"), (f"{side}eye", f"{side}ear")]
        for a, b in lines:
            ends = [*at[a], *at[b]]
            colour = {"r": RIGHT, "l": LEFT}.get(a[0] if a[0] == b[0] else "", MIDDLE)
            if not any(math.isnan(v) for v in ends):  # NaN: missing
                draw.line(ends, colour, 2 * radius)
    for x, y in points:
        if not (math.isnan(x) or math.isnan(y)):
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=MIDDLE)


SIDE, GAP = 224, 4  # of a panel, pixels


def look(given: list[str], out: Path, backend: str) -> str:
    """Write an image with a row of panels for each given image; one line of text for each.

    The panels show the joints and 68 points of all people, the mask, and the squares that are cut
    out around the largest person and the largest face.
    """
    detector = jobs.detector(backend)
    files = list_images("look", given)
    rows, lines = [], []
    for file in files:
        row, line = _row(detector, read_image(file, None))
        rows.append(row)
        lines.append(f"{file}: {line}")
    sheet = np.full(
        (len(rows) * (SIDE + GAP) - GAP, 4 * (SIDE + GAP) - GAP, 3), 255, dtype=np.uint8
    )
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            y, x = i * (SIDE + GAP), j * (SIDE + GAP)
            sheet[y : y + SIDE, x : x + SIDE] = np.asarray(panel)
    write_image(out, torch.from_numpy(sheet.transpose(2, 0, 1).copy()))
    return "\n".join([*lines, f"written: {out}"])


def _row(detector: Detector, image: Tensor) -> tuple[list[Image.Image], str]:
    faces, people, mask = detector.faces(image), [], torch.ones(image.shape[1:])
    if finds_people(detector):
        people, mask = detector.people(image), detector.mask(image)
    dimmed = (image * (0.2 + 0.8 * mask)).round().to(torch.uint8)
    person = head = torch.full((3, SIDE, SIDE), 30, dtype=torch.uint8)
    joints = points = None
    if people:
        box = person_square(people[0].joints)
        person, joints = (
            crop_square(image, box, SIDE),
            points_in_crop(people[0].joints, box, SIDE),
        )
    if faces:
        box = face_crop_box(faces[0])
        head, points = crop_square(image, box, SIDE), points_in_crop(faces[0], box, SIDE)
    panels = [
        fitted(image, [*(one.joints for one in people), *faces], SIDE),
        fitted(dimmed, [], SIDE),
        fitted(person, [] if joints is None else [joints], SIDE),
        fitted(head, [] if points is None else [points], SIDE),
    ]
    count = [f"{len(faces)} faces"]
    if finds_people(detector):
        count = [f"{len(people)} persons", *count, f"mask {mask.mean():.0%}"]
    return panels, ", ".join(count)
