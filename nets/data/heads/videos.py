"""Datasets of heads in videos: for each frame an image, 68 points and a mask.

    ROOT/imgs/PHASE/PERSON/VIDEO/SEQUENCE/FRAME.jpg        square, any size
    ROOT/keypoints/PHASE/PERSON/VIDEO/SEQUENCE/FRAME.npy   (68, 2), pixels of that image
    ROOT/segs/PHASE/PERSON/VIDEO/SEQUENCE/FRAME.png        8 bits, white is the person

This command writes such a folder from the demo world:
python -m nets.worlds.heads.export --data_root ROOT
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nets.contracts import Place, Sample
from nets.data.heads.faces import (
    normalised_pose,
    read_keypoints,
    read_mask,
    resize_square,
    write_keypoints,
)
from nets.data.io.files import below
from nets.data.io.images import read_image, write_image
from nets.data.io.names import is_foreign
from nets.errors import BadSample, UserError

PHASES = ("train", "test")
KINDS = {"imgs": ".jpg", "keypoints": ".npy", "segs": ".png"}
_STEP = math.sqrt(5)  # step of the paper's sequence of frames


class HeadFrame(NamedTuple):
    """One frame of a dataset."""

    image: Tensor  # (3, S, S) uint8
    pose: Tensor  # (136,) float32 in [-1, 1]
    mask: Tensor | None  # (1, S, S) uint8


def paper_frames(count: int, many: int, start: float) -> list[int]:
    """The numbers of `many` frames out of `count`, chosen by the paper's sequence.

    A number c in [0, 1) begins at `start`. Each step takes frame round(c (count - 1)), half to
    even, then sets c = frac(c + sqrt 5).
    """
    frames, c = [], start
    for _ in range(many):
        frames.append(round(c * (count - 1)))
        c = math.modf(c + _STEP)[0]
    return frames


def frame_path(root: str | Path, kind: str, phase: str, name: str) -> Path:
    """The file of a frame.

    kind  imgs, keypoints or segs
    name  PERSON/VIDEO/SEQUENCE/FRAME
    """
    return Path(root) / kind / phase / f"{name}{KINDS[kind]}"


def read_frame(
    root: str | Path, phase: str, name: str, size: int, keypoints: int = 68, masks: bool = True
) -> HeadFrame:
    """A frame of a dataset folder. Raises BadSample that names the unusable file."""
    file = frame_path(root, "imgs", phase, name)
    image = read_image(file, None)
    height, width = image.shape[1:]
    if height != width:
        raise BadSample(file, f"must be square, is {width} x {height} pixels")
    points = read_keypoints(frame_path(root, "keypoints", phase, name), keypoints)
    mask = None
    if masks:
        mask_file = frame_path(root, "segs", phase, name)
        mask = read_mask(mask_file)
        if mask.shape[1:] != image.shape[1:]:
            h, w = mask.shape[1:]
            raise BadSample(
                mask_file, f"is {w} x {h} pixels, its image {file} is {width} x {height}"
            )
        mask = resize_square(mask, size)
    return HeadFrame(resize_square(image, size), normalised_pose(points, width), mask)


def write_frame(
    root: str | Path, phase: str, name: str, image: Tensor, points: Tensor, mask: Tensor | None
) -> None:
    """Write a frame into a dataset folder, all of its files or none.

    image   (3, S, S) uint8
    points  (68, 2), pixels of the image
    mask    (1, S, S) uint8, or None
    """
    files = {kind: frame_path(root, kind, phase, name) for kind in KINDS}
    try:
        write_keypoints(files["keypoints"], points)
        if mask is not None:
            write_image(files["segs"], mask)
        write_image(files["imgs"], image)  # last: a frame with an image is complete
    except BaseException:
        for file in files.values():
            file.unlink(missing_ok=True)
        raise


def sample_of(sources: Sequence[HeadFrame], targets: Sequence[HeadFrame], index: int) -> Sample:
    """A dataset's sample made of these frames.

    source_imgs, target_imgs    (T, 3, S, S) uint8
    source_poses, target_poses  (T, 136) float32 in [-1, 1]
    source_segs, target_segs    (T, 1, S, S) uint8, if the frames have masks
    indices                     (1,) int64
    """
    sample: Sample = {}
    for role, frames in (("source", sources), ("target", targets)):
        if not frames:
            continue
        sample[f"{role}_imgs"] = torch.stack([frame.image for frame in frames])
        sample[f"{role}_poses"] = torch.stack([frame.pose for frame in frames])
        masks = [frame.mask for frame in frames if frame.mask is not None]
        if masks:
            sample[f"{role}_segs"] = torch.stack(masks)
    return {**sample, "indices": torch.tensor([index])}


def sample_lines(files: str) -> list[str]:
    """The lines `source1: PATH` of a list of files, from a sample's entry "files"."""
    return files.split("\n")


def _files(names: Sequence[str], sources: int) -> str:
    roles = [f"source{i + 1}" for i in range(sources)]
    roles += [f"target{i + 1}" for i in range(len(names) - sources)]
    return "\n".join(f"{role}: {name}.jpg" for role, name in zip(roles, names, strict=True))


class AvatarFolder:
    """A dataset folder. Item `index` is one PERSON/VIDEO; a sample is some of its frames.

    sources, targets  frames of each kind in a sample
    paper             choose frames by `paper_frames`, in phase test with start 0; else uniformly
    with_names        add the frames' names as "files"
    Frames are drawn from (seed, epoch, index). An item without usable frames is replaced by the
    next one. Raises UserError if no item is usable.
    """

    shuffle = True

    def __init__(
        self,
        root: str | Path,
        phase: str,
        size: int,
        sources: int = 1,
        targets: int = 1,
        paper: bool = False,
        seed: int = 0,
        keypoints: int = 68,
        masks: bool = True,
        with_names: bool = False,
    ):
        self.root, self.phase, self.size = Path(root), phase, size
        self.sources, self.targets = sources, targets
        self.paper, self.seed = paper, seed
        self.keypoints, self.masks, self.with_names = keypoints, masks, with_names
        self.name = str(root)
        folder = self.root / "imgs" / phase
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; a dataset has ROOT/imgs/{phase}/PERSON/...")
        self.items = [
            f"{person}/{video}"
            for person in _folders(folder)
            for video in _folders(folder / person)
        ]
        try:
            self._usable(0)  # reports an unusable folder here instead of in a worker
        except BadSample as error:
            raise UserError(str(error)) from error

    def __len__(self) -> int:
        return len(self.items)

    def frames(self, item: str) -> list[str]:
        """Names of the frames of PERSON/VIDEO that have all their files, sorted by path part.

        The order is that of texts, as in the original: it decides which frames are chosen.
        """
        kinds = [kind for kind in KINDS if kind != "segs" or self.masks]
        names = []
        for kind in kinds:
            base = self.root / kind / self.phase / item
            names.append(
                {
                    (sequence, Path(file).stem)
                    for sequence in _folders(base)
                    for file in os.listdir(base / sequence)
                    if file.endswith(KINDS[kind]) and not file.startswith(".")
                }
            )
        return [f"{item}/{s}/{f}" for s, f in sorted(set.intersection(*names))]

    def _usable(self, index: int) -> list[str]:
        """The frames of item `index`, or of the next item that has any."""
        for shift in range(len(self.items)):
            if names := self.frames(self.items[(index + shift) % len(self.items)]):
                return names
        files = "image, keypoints and mask" if self.masks else "image and keypoints"
        raise BadSample(
            self.root / "imgs" / self.phase, f"holds no PERSON/VIDEO/SEQUENCE/FRAME with {files}"
        )

    def choose(self, epoch: int, index: int) -> list[str]:
        """The names of a sample's frames, sources first."""
        names = self._usable(index)
        many = self.sources + self.targets
        random = np.random.default_rng([self.seed, epoch if self.phase == "train" else 0, index])
        if self.paper:
            start = float(random.random()) if self.phase == "train" else 0.0
            return [names[i] for i in paper_frames(len(names), many, start)]
        return [names[i] for i in random.integers(len(names), size=many)]

    def __getitem__(self, place: Place) -> Sample:
        names = self.choose(*place)
        frames = [
            read_frame(self.root, self.phase, name, self.size, self.keypoints, self.masks)
            for name in names
        ]
        sample = sample_of(frames[: self.sources], frames[self.sources :], place[1])
        return {**sample, "files": _files(names, self.sources)} if self.with_names else sample


class AvatarList:
    """The samples of a list of files, in the order of the list.

        data-root: ROOT
        source1: PERSON/VIDEO/SEQUENCE/FRAME.jpg
        target1: PERSON/VIDEO/SEQUENCE/FRAME.jpg

    Paths are below ROOT/imgs/PHASE or absolute. Blanks around the number and the colon are ignored.
    root  replaces the ROOT of the list
    Raises UserError that names the wrong line.
    """

    shuffle = False

    def __init__(
        self,
        file: str | Path,
        phase: str,
        root: str | Path | None,
        size: int,
        sources: int = 1,
        targets: int = 1,
        keypoints: int = 68,
        masks: bool = True,
        with_names: bool = False,
    ):
        self.file, self.phase, self.size = Path(file), phase, size
        self.sources, self.targets = sources, targets
        self.keypoints, self.masks, self.with_names = keypoints, masks, with_names
        self.name = str(file)
        try:
            lines = self.file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: cannot be read as a list of frames: {error}") from error
        self.root = Path(root) if root else None
        self.samples = self._parse(lines)
        if not self.samples:
            raise UserError(f"{file}: names no sample")

    def _parse(self, lines: list[str]) -> list[list[tuple[Path, str, str]]]:
        roles = [f"source{i + 1}" for i in range(self.sources)]
        roles += [f"target{i + 1}" for i in range(self.targets)]
        places: list[tuple[Path, str, str]] = []
        for number, line in enumerate(lines, 1):
            key, colon, value = line.partition(":")
            key, value = "".join(key.split()), value.strip()
            if not line.strip():
                continue
            if key == "data-root" and colon:
                self.root = self.root or Path(value)
                continue
            role = roles[len(places) % len(roles)]
            if key != role or not colon or not value:
                raise UserError(
                    f"{self.file}, line {number}: must be `{role}: PATH`, is `{line.strip()}`"
                )
            places.append(self._place(number, value))
        if len(places) % len(roles):
            raise UserError(
                f"{self.file}, line {len(lines)}: the last sample ends before its "
                f"{roles[len(places) % len(roles)]}"
            )
        return [places[i : i + len(roles)] for i in range(0, len(places), len(roles))]

    def _place(self, number: int, value: str) -> tuple[Path, str, str]:
        """(root, phase, name) of a line's path. Raises UserError if a file of it is missing."""
        path, root, phase = Path(value), self.root, self.phase
        if is_foreign(".", value):
            raise UserError(
                f"{self.file}, line {number}: {value}: is a path of Windows; write a/b.jpg, with "
                "slashes"
            )
        if path.is_absolute():
            parts = path.parts
            cut = max((i for i, part in enumerate(parts[:-2]) if part == "imgs"), default=0)
            if not cut:
                raise UserError(f"{self.file}, line {number}: {value} is not below a folder imgs")
            root, phase, path = Path(*parts[:cut]), parts[cut + 1], Path(*parts[cut + 2 :])
        elif root is None:
            raise UserError(
                f"{self.file}, line {number}: a relative path needs a line `data-root: ROOT` above "
                "it, or --data"
            )
        if not below(path.as_posix()):
            raise UserError(
                f"{self.file}, line {number}: must lie below ROOT/imgs/{phase}, is {value}"
            )
        name = path.with_suffix("").as_posix()
        for kind in KINDS:
            file = frame_path(root, kind, phase, name)
            if (kind != "segs" or self.masks) and not file.is_file():
                raise UserError(f"{self.file}, line {number}: {file} is missing")
        return root, phase, name

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: Place) -> Sample:
        chosen = self.samples[place[1]]
        frames = [
            read_frame(root, phase, name, self.size, self.keypoints, self.masks)
            for root, phase, name in chosen
        ]
        sample = sample_of(frames[: self.sources], frames[self.sources :], place[1])
        if self.with_names:
            sample["files"] = _files([name for _, _, name in chosen], self.sources)
        return sample


def _folders(folder: Path) -> list[str]:
    """Sorted names of the folders in a folder; none if it is missing."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
