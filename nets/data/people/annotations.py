"""Files of annotated joints: CSV of pose transfer (Market-1501, DeepFashion) and JSON.

JSON may be of COCO, of OpenPose, or {file name: {joint: [x, y]}}.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nets import plain_json
from nets.errors import UserError
from nets.listing import list_folder
from nets.skeletons import COCO_17, JOINTS_17, OPENPOSE_18, OPENPOSE_25, ORDERS, convert_joints

NAMES = {name for order in ORDERS.values() for name in order}


def read_annotations(path: str | Path) -> dict[str, list[Tensor]]:
    """The joints of each person by file name, (17, 2) in pixels, NaN if missing.

    path  one of
          a .csv `name:keypoints_y:keypoints_x` with lists of 18, -1 missing: the annotations for
          pose transfer on Market-1501 and DeepFashion
          a .json of COCO: {"images": [...], "annotations": [{"image_id", "keypoints"}, ...]}
          a .json of OpenPose for one image, named *_keypoints.json; or a folder of such files
          a .json {file name: {joint: [x, y]}} in pixels
    Raises UserError that names the file, and the line or entry.
    """
    path = Path(path)
    if path.is_dir():
        files = list_folder(path, lambda file: file.name.endswith("_keypoints.json")).files
        if not files:
            raise UserError(f"{path}: holds no *_keypoints.json of OpenPose")
        return {key: value for file in files for key, value in read_annotations(file).items()}
    try:
        if path.suffix.lower() == ".csv":
            return _pose_transfer(path)
        content = plain_json.load(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {(error.strerror or '').lower()}") from error
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error})") from error
    if isinstance(content, dict) and "annotations" in content and "images" in content:
        return _coco(path, content)
    if isinstance(content, dict) and "people" in content:
        stem = path.stem.removesuffix("_keypoints")
        return {f"{stem}{end}": _openpose(path, content) for end in (".jpg", ".png", ".jpeg")}
    if isinstance(content, dict) and all(isinstance(v, dict) for v in content.values()):
        return {Path(name).name: [_named(path, name, v)] for name, v in content.items()}
    raise UserError(
        f"{path}: is none of COCO's, OpenPose's or {{file: {{joint: [x, y]}}}} annotations"
    )


def _pose_transfer(path: Path) -> dict[str, list[Tensor]]:
    people: dict[str, list[Tensor]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file, delimiter=":")
        head = [cell.strip() for cell in next(rows, [])]
        if head != ["name", "keypoints_y", "keypoints_x"]:
            raise UserError(f"{path}, line 1: must be name:keypoints_y:keypoints_x")
        for row in rows:
            if not row:
                continue
            where = f"{path}, line {rows.line_num}"
            if len(row) != 3:
                raise UserError(f"{where}: must be name: [18 y]: [18 x]")
            try:
                y, x = (json.loads(cell) for cell in row[1:])
                points = torch.tensor([x, y], dtype=torch.float32).T
            except (ValueError, TypeError) as error:
                raise UserError(f"{where}: must be name: [18 y]: [18 x]") from error
            if points.shape != (18, 2):
                raise UserError(f"{where}: must hold 18 joints, holds {len(x)} x and {len(y)} y")
            name = Path(row[0].strip()).name
            people.setdefault(name, []).append(_joints(points, OPENPOSE_18))
    return people


def _coco(path: Path, content: dict[str, Any]) -> dict[str, list[Tensor]]:
    try:
        names = {image["id"]: Path(image["file_name"]).name for image in content["images"]}
        people: dict[str, list[Tensor]] = {}
        for person in content["annotations"]:
            points = torch.tensor(person.get("keypoints", []), dtype=torch.float32)
            if not points.numel() or not person.get("num_keypoints", 1):
                continue
            points = points.reshape(17, 3)
            points[points[:, 2] <= 0] = math.nan
            people.setdefault(names[person["image_id"]], []).append(_joints(points[:, :2], COCO_17))
        return people
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: is not COCO's person_keypoints ({error})") from error


def _openpose(path: Path, content: dict[str, Any]) -> list[Tensor]:
    people = []
    for person in content["people"]:
        points = torch.tensor(person.get("pose_keypoints_2d", []), dtype=torch.float32)
        if points.numel() not in (54, 75):
            raise UserError(f"{path}: pose_keypoints_2d must hold 18 or 25 joints x, y, score")
        points = points.reshape(-1, 3)
        points[points[:, 2] <= 0] = math.nan
        people.append(_joints(points[:, :2], OPENPOSE_18 if len(points) == 18 else OPENPOSE_25))
    return people


def _named(path: Path, file: str, joints: dict[str, Any]) -> Tensor:
    unknown = [name for name in joints if name not in NAMES]
    if unknown or not joints:
        why = f"no joint is called {unknown[0]}" if unknown else "names no joint"
        raise UserError(f"{path}: {file}: {why}")
    try:
        points = [(math.nan,) * 2 if at is None else at[:2] for at in joints.values()]
        return _joints(torch.tensor(points, dtype=torch.float32), tuple(joints))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {file}: joints must be [x, y] or null") from error


def _joints(points: Tensor, order: tuple[str, ...]) -> Tensor:
    points = torch.where((points >= 0).all(-1, keepdim=True), points, torch.nan)
    return convert_joints(points, order, JOINTS_17)
