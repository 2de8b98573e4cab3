"""Joints of single images, from a JSON file or an entry of an index."""

from __future__ import annotations

import difflib
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nets import plain_json
from nets.data.io.names import find_by_path, is_windows_path, path_key
from nets.data.people.index import FARTHEST, read_index
from nets.errors import UserError
from nets.skeletons import JOINTS_17, ORDERS, convert_joints

NAMES = {name for order in ORDERS.values() for name in order}
REMEDY = '"normalised": true says that all are fractions, false that all are pixels'
FLAGS = ("normalised", "normalized")


def read_joints(where: str | Path, image: str | Path, size: tuple[int, int]) -> Tensor:
    """The joints of an image as fractions of its width and height: (17, 2) float32, JOINTS_17.

    where  a JSON file {name: [x, y]}, or {file: {name: [x, y]}} for several images; or
           "index.p:PATH" or "index.p:NUMBER", an entry of an index (.p, .json, .npz)
    image  file of the image, which selects one of several images
    size   (width, height) of the image, pixels

    Values in JSON are fractions if "normalised" is true, or if that key is absent and no value
    exceeds 1; else pixels. Without the key, a file with mostly fractions is an error. A joint is
    missing (NaN) if it is null, negative, not named, or has a third number (confidence) of 0.
    Names may be of any known joint order. Raises UserError.
    """
    where, image = str(where), Path(image)
    index, _, entry = where.rpartition(":")
    if index and Path(index).suffix in (".p", ".pkl", ".pickle", ".json", ".npz"):
        return _index_entry(Path(index), entry)
    if Path(where).suffix in (".p", ".pkl", ".pickle", ".npz"):
        return _index_entry(Path(where), str(image))
    content = _json(Path(where))
    if content and all(isinstance(value, dict) for value in content.values()):
        content = _of_image(where, content, image)
    return _parse(where, content, size)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = plain_json.load(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of joints") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is not JSON ({error})") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: must be {{name: [x, y]}} or {{file: {{name: [x, y]}}}}")
    return content


def _of_image(where: str, content: dict[str, Any], image: Path) -> dict[str, Any]:
    """The entry of an image: of the longest path that its own ends with, else of its name."""
    by_path: dict[str, str] = {}
    for file in content:
        if is_windows_path(file):
            raise UserError(f"{where}: {file}: is a path of Windows; write a/b.jpg, with slashes")
        if path_key(file) in by_path:
            raise UserError(f"{where}: {file} stands twice")
        by_path[path_key(file)] = file
    key = find_by_path(by_path, image)
    if key is not None:
        return content[by_path[key]]
    for match in (image.name, image.stem):
        matches = [value for file, value in content.items() if file == match]
        matches = matches or [value for file, value in content.items() if Path(file).name == match]
        if len(matches) == 1:
            other = next(file for file, value in content.items() if value is matches[0])
            if other not in (image.name, image.stem):
                print(f"{where}: {image}: takes the joints of {other}", file=sys.stderr, flush=True)
            return matches[0]
    raise UserError(f"{where}: has no joints of {image.name}, but of {', '.join(content)[:200]}")


def _parse(where: str, content: dict[str, Any], size: tuple[int, int]) -> Tensor:
    flag = next((content[key] for key in FLAGS if key in content), None)
    names: list[str] = []
    points: list[tuple[float, float]] = []
    for name, value in content.items():
        if name in FLAGS:
            continue
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, 1)
            hint = f"; is {near[0]} meant?" if near else ""
            raise UserError(f"{where}: no joint is called {name}{hint}")
        names.append(name)
        points.append(_point(where, name, value))
    if not names:
        raise UserError(f"{where}: names no joint")
    joints = torch.tensor(points, dtype=torch.float32)
    fractions = _are_fractions(where, joints, flag)
    if not fractions:
        joints = joints / torch.tensor(size, dtype=torch.float32)
    far = joints.nan_to_num(0) > FARTHEST
    if far.any():
        name = names[int(far.any(-1).nonzero()[0, 0])]
        unit = "a fraction" if fractions else f"pixels of an image of {size[0]} x {size[1]}"
        raise UserError(f"{where}: {name} at {content[name]} is far outside as {unit}; {REMEDY}")
    return convert_joints(joints, names, JOINTS_17)


def _are_fractions(where: str, joints: Tensor, flag: object) -> bool:
    """True if the joints are fractions. Raises UserError if neither values nor flag decide."""
    if flag is not None:
        if not isinstance(flag, bool):
            raise UserError(f"{where}: normalised must be true or false, is {flag!r}")
        return flag
    valid = joints[~joints.isnan().any(-1)]
    small = (valid <= 1).all(-1)
    if small.all():
        return True
    mixed = f"{where}: {int(small.sum())} of {len(small)} joints are at most 1"
    if small.float().mean() > 0.5:
        raise UserError(f"{mixed}, the others exceed it; {REMEDY}")
    if small.any() or valid.max() <= FARTHEST:
        print(f"{mixed}: all are taken for pixels; {REMEDY}", file=sys.stderr, flush=True)
    return False


def _point(where: str, name: str, value: Any) -> tuple[float, float]:
    if value is None:
        return math.nan, math.nan
    number = isinstance(value, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) for v in value
    )
    if not number or len(value) not in (2, 3):
        raise UserError(f"{where}: {name} must be [x, y] or null, is {json.dumps(value)[:80]}")
    x, y, confidence = (*value, 1)[:3]
    valid = math.isfinite(x) and math.isfinite(y) and x >= 0 and y >= 0 and confidence > 0
    return (x, y) if valid else (math.nan, math.nan)


def _index_entry(path: Path, entry: str) -> Tensor:
    index = read_index(path)
    if entry.isdecimal():
        number = int(entry)
        if number >= len(index["imgs"]):
            raise UserError(f"{path}: has {len(index['imgs'])} entries, none with number {number}")
    else:
        image, folder = Path(entry).resolve(), path.parent.resolve()
        relative = image.relative_to(folder) if image.is_relative_to(folder) else Path(entry)
        rows = np.flatnonzero(np.isin(index["imgs"], [os.fsencode(entry), os.fsencode(relative)]))
        if not len(rows):
            raise UserError(f"{path}: lists no image {entry}")
        if len(rows) > 1:
            numbers = ", ".join(map(str, rows[:5]))
            raise UserError(f"{path}: lists {entry} as entries {numbers}; give {path}:NUMBER")
        number = int(rows[0])
    return torch.from_numpy(index["joints"][number])
