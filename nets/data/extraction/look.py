"""What a detector sees in pictures, and what of it the networks would see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nets.data.detectors import Detector, person_square
from nets.data.extraction import jobs
from nets.data.extraction.sheet import fitted
from nets.data.heads.faces import crop_square, face_crop_box, points_in_crop
from nets.data.io.images import list_pictures, read_picture, write_picture

SIDE, GAP = 224, 4  # of a panel, pixels


def look(given: list[str], out: Path, backend: str) -> str:
    """Write a row of panels for each picture: joints and 68 points of everybody, the mask, and the
    squares that are cut out round the largest person and the largest face. A line for each.
    """
    detector = jobs.detector(backend)
    files = list_pictures("look", given)
    rows, lines = [], []
    for file in files:
        row, line = _row(detector, read_picture(file, None))
        rows.append(row)
        lines.append(f"{file}: {line}")
    sheet = np.full(
        (len(rows) * (SIDE + GAP) - GAP, 4 * (SIDE + GAP) - GAP, 3), 255, dtype=np.uint8
    )
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            y, x = i * (SIDE + GAP), j * (SIDE + GAP)
            sheet[y : y + SIDE, x : x + SIDE] = np.asarray(panel)
    write_picture(out, torch.from_numpy(sheet.transpose(2, 0, 1).copy()))
    return "\n".join([*lines, f"written: {out}"])


def _row(detector: Detector, picture: Tensor) -> tuple[list[Image.Image], str]:
    people, faces, mask = detector.people(picture), detector.faces(picture), detector.mask(picture)
    dimmed = (picture * (0.2 + 0.8 * mask)).round().to(torch.uint8)
    person = head = torch.full((3, SIDE, SIDE), 30, dtype=torch.uint8)
    joints = points = None
    if people:
        box = person_square(people[0].joints)
        person, joints = (
            crop_square(picture, box, SIDE),
            points_in_crop(people[0].joints, box, SIDE),
        )
    if faces:
        box = face_crop_box(faces[0])
        head, points = crop_square(picture, box, SIDE), points_in_crop(faces[0], box, SIDE)
    panels = [
        fitted(picture, [*(one.joints for one in people), *faces], SIDE),
        fitted(dimmed, [], SIDE),
        fitted(person, [] if joints is None else [joints], SIDE),
        fitted(head, [] if points is None else [points], SIDE),
    ]
    count = [f"{len(people)} persons", f"{len(faces)} faces", f"mask {mask.mean():.0%}"]
    return panels, ", ".join(count)
