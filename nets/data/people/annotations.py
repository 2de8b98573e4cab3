"""Files of annotated joints: CSV of pose transfer (Market-1501, DeepFashion) and JSON.

JSON may be of COCO, of OpenPose, or {file name: {joint: [x, y]}}.
"""

from __future__ import annotations

import csv
import json
import math
import posixpath
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from nets import plain_json
from nets.data.io.names import find_by_path, is_windows_path, path_key
from nets.errors import UserError
from nets.listing import list_folder, report_left_out
from nets.skeletons import COCO_17, JOINTS_17, OPENPOSE_18, OPENPOSE_25, ORDERS, convert_joints

OPENPOSE = "_keypoints.json"
NAMES = {name for order in ORDERS.values() for name in order}


class Annotations(dict[str, list[Tensor]]):
    """The joints of each person, (17, 2) in pixels, by the path of the image in the annotations.

    source  file or folder of the annotations, for messages
    A path that ends in ".*" stands for images of all endings.
    """

    def __init__(self, source: Path, people: Mapping[str, list[Tensor]]):
        super().__init__(people)
        self.source = source

    def __missing__(self, name: str) -> list[Tensor]:
        """The people of the only path that ends in `name`."""
        shape = "/" + path_key(name)
        keys = [key for key in self if f"/{key}".endswith((shape, f"{_stem(shape)}.*"))]
        if len(keys) != 1:
            raise KeyError(name)
        return self[keys[0]]

    def match(self, files: Sequence[Path], names: Sequence[str]) -> list[list[Tensor]]:
        """The people of each file, none for files without annotations.

        names  of the files, relative to the folder that was given
        A file's path must end in the annotated path. If no file's does, the folder that all
        annotated paths share is not compared, and a line on stderr says so. Raises UserError if
        two files fit one annotated path.
        """
        keys = self._keys(files, names, self)
        shared = _shared_folder(self)
        if shared and not any(keys):
            bare = {key.removeprefix(shared): key for key in self}
            keys = [bare.get(key or "") for key in self._keys(files, names, bare)]
            if any(keys):
                where = f"{self.source}: annotates {shared}, no such folder holds the images"
                print(f"{where}; its names below are compared", file=sys.stderr, flush=True)
        return [[] if key is None else self[key] for key in keys]

    def _keys(
        self, files: Sequence[Path], names: Sequence[str], keys: Mapping[str, object]
    ) -> list[str | None]:
        result = [find_by_path(keys, file) for file in files]
        users: dict[str, list[int]] = {}
        for i, key in enumerate(result):
            if key is not None:
                users.setdefault(key, []).append(i)
        for key, several in users.items():
            exact = [i for i in several if path_key(names[i]) == key]
            if len(several) > 1 and len(exact) != 1:
                first, second = (files[i] for i in several[:2])
                raise UserError(
                    f"{self.source}: {key} may be {first} or {second}; annotations must name "
                    "images by their paths below the given folder"
                )
            for i in several:
                if exact and i not in exact:
                    result[i] = None
        return result


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _shared_folder(names: Iterable[str]) -> str:
    """The folder that all paths begin with, with a slash at its end; empty if there is none."""
    folders = {name.rpartition("/")[0] for name in names}
    if not folders or "" in folders:
        return ""
    return f"{posixpath.commonpath(folders)}/" if posixpath.commonpath(folders) else ""


def _named(path: Path, name: str) -> str:
    """The key of an annotated path. Raises UserError for one of Windows."""
    if is_windows_path(name):
        raise UserError(f"{path}: {name}: is a path of Windows; write a/b.jpg, with slashes")
    return path_key(name)


def read_annotations(path: str | Path) -> Annotations:
    """The joints of each person by the path of the image, see `Annotations`.

    path  one of
          a .csv `name:keypoints_y:keypoints_x` with lists of 18, -1 missing: the annotations for
          pose transfer on Market-1501 and DeepFashion
          a .json of COCO: {"images": [...], "annotations": [{"image_id", "keypoints"}, ...]}
          a .json of OpenPose for one image, named *_keypoints.json; or a folder of such files,
          in folders as the images
          a .json {file name: {joint: [x, y]}} in pixels
    Raises UserError that names the file, and the line or entry.
    """
    path = Path(path)
    if path.is_dir():
        files, others = list_folder(path, lambda file: file.name.endswith(OPENPOSE), True)
        if not files:
            raise UserError(f"{path}: holds no *{OPENPOSE} of OpenPose")
        report_left_out(path, others, f"*{OPENPOSE}")
        people = {}
        for file in files:
            for key, value in read_annotations(file).items():
                people[path_key((file.relative_to(path).parent / key).as_posix())] = value
        return Annotations(path, people)
    try:
        if path.suffix.lower() == ".csv":
            return Annotations(path, _pose_transfer(path))
        content = plain_json.load(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {(error.strerror or '').lower()}") from error
    except UserError:
        raise
    except (ValueError, csv.Error) as error:
        kind = "a CSV file in UTF-8" if path.suffix.lower() == ".csv" else "JSON"
        raise UserError(f"{path}: is not {kind} ({error})") from error
    if isinstance(content, dict) and "annotations" in content and "images" in content:
        return Annotations(path, _coco(path, content))
    if isinstance(content, dict) and "people" in content:
        image = f"{path.stem.removesuffix('_keypoints')}.*"
        return Annotations(path, {image: _openpose(path, content)})
    if isinstance(content, dict) and all(isinstance(v, dict) for v in content.values()):
        named = {}
        for name, joints in content.items():
            if _named(path, name) in named:
                raise UserError(f"{path}: {name} stands twice")
            named[_named(path, name)] = [_by_name(path, name, joints)]
        return Annotations(path, named)
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
            if len(row) == 4:  # the colon of a drive?
                _named(path, ":".join(row[:2]))
            if len(row) != 3:
                raise UserError(f"{where}: must be name: [18 y]: [18 x]")
            try:
                y, x = (json.loads(cell) for cell in row[1:])
                points = torch.tensor([x, y], dtype=torch.float32).T
            except (ValueError, TypeError) as error:
                raise UserError(f"{where}: must be name: [18 y]: [18 x]") from error
            if points.shape != (18, 2):
                raise UserError(f"{where}: must hold 18 joints, holds {len(x)} x and {len(y)} y")
            name = _named(path, row[0].strip())
            people.setdefault(name, []).append(_joints(points, OPENPOSE_18))
    return people


def _coco(path: Path, content: dict[str, Any]) -> dict[str, list[Tensor]]:
    try:
        names: dict[Any, str] = {}
        known: set[str] = set()
        for image in content["images"]:
            name = _named(path, image["file_name"])
            if image["id"] in names or name in known:
                raise UserError(f"{path}: images: {name} or its id stands twice")
            known.add(name)
            names[image["id"]] = name
        people: dict[str, list[Tensor]] = {}
        for person in content["annotations"]:
            points = torch.tensor(person.get("keypoints", []), dtype=torch.float32)
            if not points.numel() or not person.get("num_keypoints", 1):
                continue
            points = points.reshape(17, 3)
            points[points[:, 2] <= 0] = math.nan
            people.setdefault(names[person["image_id"]], []).append(_joints(points[:, :2], COCO_17))
        return people
    except UserError:
        raise
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


def _by_name(path: Path, file: str, joints: dict[str, Any]) -> Tensor:
    unknown = [name for name in joints if name not in NAMES]
    if unknown or not joints:
        why = f"no joint is called {unknown[0]}" if unknown else "names no joint"
        raise UserError(f"{path}: {file}: {why}")
    try:
        points = [(math.nan,) * 2 if at is None else at[:2] for at in joints.values()]
        pixels = torch.tensor(points, dtype=torch.float32)
        if (pixels.nan_to_num(0) <= 1).all() and (pixels > 0).any():
            raise UserError(f"{path}: {file}: joints must be pixels, they are fractions")
        return _joints(pixels, tuple(joints))
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {file}: joints must be [x, y] or null") from error


def _joints(points: Tensor, order: tuple[str, ...]) -> Tensor:
    points = torch.where((points >= 0).all(-1, keepdim=True), points, torch.nan)
    return convert_joints(points, order, JOINTS_17)
