"""Pairs of pose transfer: lists of source and target, as the papers score them.

A list is a CSV file with the columns `from` and `to`, names of images: the test lists for
Market-1501 and DeepFashion. The joints are in a file of annotations.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from nets.contracts import Place, Sample
from nets.data.io.images import (
    image_size,
    is_image,
    letterbox,
    read_image,
    read_letterboxed,
    squash,
)
from nets.data.io.names import is_windows_path, path_key
from nets.data.people.alpha import with_alpha
from nets.data.people.annotations import read_annotations
from nets.errors import UserError
from nets.listing import list_folder
from nets.skeletons import JOINTS_17

# The person in names of Market-1501 (0036_c6s1_003851_04) and of DeepFashion
# (fashionMENDenimid0000089001_1front).
PERSON = (re.compile(r"(-?\d+)_c\d"), re.compile(r"(?:fashion)?((?:WO)?MEN.*?id_?\d{8})"))
# Between both names of a result: FROM___TO, FROM_2_TO or FROM--TO, with or without `_vis`.
SEPARATORS = ("___", "_2_", "--")
PANELS = (3, 5)  # images side by side in the results of some programs, the generated one last


class TransferPairs:
    """The pairs of a list, with the images and, if given, their joints.

    file       the list
    images     the folder of the images, searched with its sub-folders; None: `images` or `test`
               beside the list, else the list's folder
    joints     annotations, see `read_annotations`; None: the list's name with "annotation" instead
               of "pairs", e.g. annotation.csv beside pairs.csv
    size       side of the network's square images, pixels
    letterbox  keep proportions with black borders, instead of squashing
    alpha      images have the opacity as a fourth channel
    columns    middle columns of the images that are scored; None: all

    [(0, i)] gives appearance and target (3 or 4, S, S) uint8, their joints appearance_joints and
    joints (17, 2) in pixels of the squares, NaN if missing, and the index i.
    `source(i)` and `truth(i)` are the images at the scored size, `shape`; `full` is their size
    before columns were cut off, which all have in common.
    Raises UserError for a list, image or annotation that is missing.
    """

    joint_order: tuple[str, ...] = JOINTS_17

    def __init__(
        self,
        file: str | Path,
        images: str | Path | None = None,
        joints: str | Path | None = None,
        size: int = 256,
        letterbox: bool = False,
        alpha: bool = False,
        columns: int | None = None,
    ):
        path = Path(file)
        self.name, self.size, self.letterbox, self.alpha = str(path), size, letterbox, alpha
        self.pairs = read_pairs(path)
        self.folder = _images_beside(path) if images is None else Path(images)
        self._files = _files_by_name(self.folder)
        self.files = [(self._file(first), self._file(second)) for first, second in self.pairs]
        self.people = [person_of(target, self.folder) for _, target in self.files]
        self.full = self._common_size()
        if columns is not None and columns > self.full[1]:
            raise UserError(
                f"--crop_width: must be at most {self.full[1]}, the width of the images"
            )
        self.shape = (self.full[0], columns or self.full[1])
        self._annotations = joints or path.with_name(path.name.replace("pairs", "annotation"))
        self._joints: dict[Path, Tensor] | None = None  # read when a network needs them

    def __len__(self) -> int:
        return len(self.pairs)

    def _file(self, name: str) -> Path:
        found = self._files.get(path_key(name), [])
        if len(found) != 1:
            what = "is not in" if not found else f"stands {len(found)} times in"
            raise UserError(f"{self.name}: {name} {what} {self.folder}")
        return found[0]

    def _common_size(self) -> tuple[int, int]:
        """Height and width that all images have in common. Raises UserError if they differ."""
        first = image_size(self.files[0][0])
        for file in dict.fromkeys(file for pair in self.files for file in pair):
            if (size := image_size(file)) != first:
                raise UserError(
                    f"{file}: is {size[0]}x{size[1]}, all images of {self.name} must have one "
                    f"size, the first has {first[0]}x{first[1]}"
                )
        return first[1], first[0]

    def select(self, places: Sequence[int]) -> None:
        """Keep the pairs at these places only."""
        self.pairs = [self.pairs[i] for i in places]
        self.files = [self.files[i] for i in places]
        self.people = [self.people[i] for i in places]

    def cropped(self, image: Tensor) -> Tensor:
        """The scored columns of an image (3, H, W) of the full size."""
        left = (self.full[1] - self.shape[1]) // 2
        return image[:, :, left : left + self.shape[1]]

    def source(self, index: int) -> Tensor:
        """The image that gives the appearance, (3, H, W) uint8 at the scored size."""
        return self.cropped(read_image(self.files[index][0], None))

    def truth(self, index: int) -> Tensor:
        """The true target, (3, H, W) uint8 at the scored size."""
        return self.cropped(read_image(self.files[index][1], None))

    def target_joints(self, index: int) -> Tensor:
        """The true target's joints (17, 2) in pixels of `truth`; NaN: missing."""
        left = (self.full[1] - self.shape[1]) // 2
        return self.read_joints()[self.files[index][1]] - torch.tensor([left, 0])

    def all_images(self) -> list[Path]:
        """Every image of the folder, in natural order."""
        return list(dict.fromkeys(file for files in self._files.values() for file in files))

    def read_joints(self) -> dict[Path, Tensor]:
        """The joints (17, 2) in pixels of every image in use; of several people the first ones."""
        if self._joints is None:
            known = read_annotations(self._annotations)
            files = list(dict.fromkeys(file for pair in self.files for file in pair))
            names = [file.relative_to(self.folder).as_posix() for file in files]
            people = known.match(files, names)
            for file, found in zip(files, people, strict=True):
                if not found:
                    raise UserError(f"{self._annotations}: has no joints of {file}")
            self._joints = {f: found[0] for f, found in zip(files, people, strict=True)}
        return self._joints

    def __getitem__(self, place: Place) -> Sample:
        index = place[1]
        appearance, appearance_joints = self._square(self.files[index][0])
        target, joints = self._square(self.files[index][1])
        return {
            "target": target,
            "joints": joints,
            "appearance": appearance,
            "appearance_joints": appearance_joints,
            "index": index,
        }

    def _square(self, file: Path) -> tuple[Tensor, Tensor]:
        """An image as the network sees it, and its joints in pixels of that square."""
        fractions = self.read_joints()[file] / torch.tensor(image_size(file))
        inside = ((fractions >= 0) & (fractions <= 1)).all(-1, keepdim=True)
        fractions = torch.where(inside, fractions, torch.nan)
        box = (0, 0, self.size, self.size)
        if self.letterbox:
            image, box = read_letterboxed(file, self.size)
        else:
            image = read_image(file, self.size)
        if self.alpha:
            image = with_alpha(image, file, box)
        return image, fractions * torch.tensor(box[2:]) + torch.tensor(box[:2])

    def unsquared(self, image: Tensor) -> Tensor:
        """A network's square (3, S, S) uint8 at the scored size: (3, H, W).

        Undoes squashing, or cuts off the borders of the letterbox; resized by Pillow's BILINEAR.
        """
        h, w = self.full
        if self.letterbox:
            x, y, width, height = letterbox(torch.zeros(3, h, w, dtype=torch.uint8), self.size).box
            image = image[:, y : y + height, x : x + width]
        return self.cropped(squash(image, None, (w, h)))


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """(source, target), names of images, of each line of a list. Raises UserError."""
    pairs: list[tuple[str, str]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            head = [cell.strip().lower() for cell in next(rows, [])]
            if not {"from", "to"} <= set(head):
                raise UserError(
                    f"{path}, line 1: must name the columns from,to, separated by commas, has "
                    f"{','.join(head)!r}"
                )
            columns = head.index("from"), head.index("to")
            for row in rows:
                if not any(cell.strip() for cell in row):
                    continue
                names = [row[c].strip() if c < len(row) else "" for c in columns]
                bad = next((n for n in names if not n or is_windows_path(n)), None)
                if bad is not None:
                    why = f"holds {bad!r}; write a/b.jpg, with slashes" if bad else "lacks a name"
                    raise UserError(f"{path}, line {rows.line_num}: {why}")
                pairs.append((names[0], names[1]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be read as a list of pairs: {why.lower()}") from error
    if not pairs:
        raise UserError(f"{path}: lists no pairs")
    return pairs


def person_of(file: Path, folder: Path) -> str:
    """The name of a person: the image's sub-folder of `folder`, or a part of the file's name.

    Names of other data sets than Market-1501 and DeepFashion: every file is a person of its own.
    """
    inside = file.relative_to(folder).parent.as_posix()
    if inside != ".":
        return inside
    found = next((m for p in PERSON if (m := p.match(file.name))), None)
    return found.group(1) if found else file.name


def result_name(source: str, target: str) -> str:
    """The name of a result's file as the field writes it: FROM___TO_vis.png, in one folder."""
    return "___".join(name.replace("/", "") for name in (source, target)) + "_vis.png"


class Results:
    """What a program generated for the pairs of a list: a folder of FROM___TO.png or .jpg.

    Both names may have their endings or not, and the file's `_vis` before its own. FROM_2_TO and
    FROM--TO are read as well.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            files = list_folder(self.folder, is_image).files
        except OSError as error:
            raise UserError(f"--reference {folder}: cannot be read: {error.strerror}") from error
        if not files:
            raise UserError(f"--reference {folder}: holds no images")
        self._files = {file.stem.removesuffix("_vis"): file for file in files}
        self.resized = 0  # number of images that had another size

    def file(self, pair: tuple[str, str]) -> Path | None:
        """The result of a pair, or None."""
        whole = [name.replace("/", "") for name in pair]
        bare = [str(PurePosixPath(name).with_suffix("")).replace("/", "") for name in pair]
        names = (separator.join(n) for separator in SEPARATORS for n in (whole, bare))
        return next((self._files[name] for name in names if name in self._files), None)

    def image(self, data: TransferPairs, index: int) -> Tensor:
        """The result of a pair (3, H, W) uint8 at the scored size; the last panel of 3 or 5.

        Images of the full size are cropped. Those of another one are resized by Pillow's BILINEAR,
        and counted.
        """
        file = self.file(data.pairs[index])
        if file is None:
            raise UserError(f"--reference {self.folder}: has no {' to '.join(data.pairs[index])}")
        image = read_image(file, None)
        h, w = data.shape
        for height, width in (data.shape, data.full):
            if image.shape[1] == height and image.shape[2] in [n * width for n in PANELS]:
                image = image[:, :, -width:]
        if image.shape[1:] == data.full:
            return data.cropped(image)
        if image.shape[1:] == data.shape:
            return image
        self.resized += 1
        return squash(image, None, (w, h))

    def example(self, data: TransferPairs) -> str:
        """A name that a result may have."""
        return result_name(*data.pairs[0])


def _images_beside(path: Path) -> Path:
    """The folder of the images of a list that lies in the usual place."""
    beside = [path.parent / name for name in ("images", "test")]
    return next((folder for folder in beside if folder.is_dir()), path.parent)


def _files_by_name(folder: Path) -> dict[str, list[Path]]:
    """The images of a folder and its sub-folders, by their names and by their paths below it."""
    try:
        files: Iterable[Path] = list_folder(folder, is_image, recursive=True).files
    except OSError as error:
        raise UserError(f"--data {folder}: cannot be read: {error.strerror}") from error
    result: dict[str, list[Path]] = {}
    for file in files:
        for key in {path_key(file.name), path_key(file.relative_to(folder).as_posix())}:
            result.setdefault(key, []).append(file)
    return result
