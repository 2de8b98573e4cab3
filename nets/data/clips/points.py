"""Images with annotated points in a table: MAFL, AFLW, 300-W and the like, as CSV.

    file,split,lefteye_x,lefteye_y,righteye_x,righteye_y,nose_x,nose_y
    celeba/000001.jpg,train,69,109,106,113,77,142

`file` is relative to the table. Every pair of columns NAME_x, NAME_y is a point in pixels of the
image file; an empty cell or a negative number: not annotated. `split` is train or test. The four
columns x_min, y_min, x_max, y_max are optional: the box that is cut out, e.g. of the face.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from nets.contracts import Place, Sample
from nets.data.io.images import image_size, read_crop
from nets.data.scenes.factors import read_table
from nets.errors import UserError

BOX = ("x_min", "y_min", "x_max", "y_max")


class PointTable:
    """The images of one split of a table, squashed to squares, and their points.

    path   the table
    split  "train" or "test"
    size   side of the images, pixels

    [(epoch, i)] gives frame (3, S, S) uint8; joints (J, 2) float32 in its pixels, NaN where not
    annotated; sides (2,), width and height of the box in pixels of the file; index.
    Raises UserError for an unusable table, BadSample for an unusable image.
    """

    def __init__(self, path: str | Path, split: str, size: int):
        self.name, self.folder, self.size = str(path), Path(path).parent, size
        rows = read_table(path)
        self.joint_order = _point_names(self.name, list(rows[0]))
        if "split" not in rows[0]:
            raise UserError(f"{path}: must have a column split, of train and test")
        numbered = [(number, row) for number, row in enumerate(rows, 2) if row["split"] == split]
        if not numbered:
            raise UserError(f"{path}: has no row of the split {split}")
        columns = [f"{name}_{axis}" for name in self.joint_order for axis in "xy"]
        self.files = [row["file"] for _, row in numbered]
        points = np.array([_numbers(self.name, n, row, columns) for n, row in numbered])
        points = points.reshape(len(points), -1, 2)
        known = (points >= 0).all(-1, keepdims=True)
        self.points = np.where(known, points, np.nan)
        self.boxes = None
        if all(name in rows[0] for name in BOX):
            self.boxes = np.array([_numbers(self.name, n, row, BOX) for n, row in numbered])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: Place) -> Sample:
        index = place[1]
        file = self.folder / self.files[index]
        box = (0.0, 0.0, *image_size(file)) if self.boxes is None else self.boxes[index].round()
        corner, sides = np.array(box[:2], float), np.array(box[2:], float) - np.array(box[:2])
        frame = read_crop(file, tuple(box), self.size)
        joints = (self.points[index] - corner) / sides * self.size
        return {
            "frame": frame,
            "joints": torch.from_numpy(joints).float(),
            "sides": torch.from_numpy(sides),
            "index": index,
        }


def _point_names(name: str, columns: list[str]) -> tuple[str, ...]:
    """The names of the points that a table's columns give."""
    names = [c[:-2] for c in columns if c.endswith("_x") and f"{c[:-2]}_y" in columns]
    if len(names) < 2:
        raise UserError(f"{name}: must have the columns NAME_x and NAME_y of two points at least")
    return tuple(names)


def _numbers(name: str, line: int, row: dict[str, str], columns: Sequence[str]) -> list[float]:
    """The numbers of a row; NaN for an empty cell."""
    result = []
    for column in columns:
        text = row[column].strip()
        try:
            result.append(float(text) if text else float("nan"))
        except ValueError as error:
            message = f"{name}, line {line}: {column} must be a number, is {text!r}"
            raise UserError(message) from error
    return result
