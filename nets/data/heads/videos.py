"""Heads in videos: images, 68 points and masks of frames that belong to one person's video.

    ROOT/imgs/PHASE/PERSON/VIDEO/SEQUENCE/FRAME.jpg        square, any size
    ROOT/keypoints/PHASE/PERSON/VIDEO/SEQUENCE/FRAME.npy   (68, 2), pixels of that image
    ROOT/segs/PHASE/PERSON/VIDEO/SEQUENCE/FRAME.png        8 bits, white is the person

A folder of that form, of the demo world: python -m nets.worlds.heads.export --data_root ROOT
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nets.data.heads.faces import (
    normalised_pose,
    read_keypoints,
    read_mask,
    resize_square,
    write_keypoints,
)
from nets.data.io.files import below
from nets.data.io.images import read_image, write_image
from nets.errors import BadSample, UserError

PHASES = ("train", "test")
KINDS = {"imgs": ".jpg", "keypoints": ".npy", "segs": ".png"}
_STEP = math.sqrt(5)  # of the paper's running number


class HeadFrame(NamedTuple):
    """One frame as it is read: uint8 (3, S, S), float32 (136,) in [-1, 1], uint8 (1, S, S)."""

    image: Tensor
    pose: Tensor
    mask: Tensor | None


def paper_frames(count: int, many: int, start: float) -> list[int]:
    """`many` of `count` frames by the paper's running number c in [0, 1), which begins at `start`:
    frame round(c (count - 1)), half to even, then c = frac(c + sqrt 5).
    """
    taken, c = [], start
    for _ in range(many):
        taken.append(round(c * (count - 1)))
        c = math.modf(c + _STEP)[0]
    return taken


def frame_path(root: str | Path, kind: str, phase: str, name: str) -> Path:
    """The file of frame `name` = PERSON/VIDEO/SEQUENCE/FRAME; kind: imgs, keypoints or segs."""
    return Path(root) / kind / phase / f"{name}{KINDS[kind]}"


def read_frame(
    root: str | Path, phase: str, name: str, size: int, keypoints: int = 68, masks: bool = True
) -> HeadFrame:
    """A frame of a dataset folder. Raises BadSample that names the file that is wrong."""
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
    """Write a frame into a dataset folder: image (3, S, S) uint8, points (68, 2) in its pixels,
    mask (1, S, S) uint8 or None. Nothing of it stays where a file cannot be written.
    """
    files = {kind: frame_path(root, kind, phase, name) for kind in KINDS}
    try:
        write_keypoints(files["keypoints"], points)
        if mask is not None:
            write_image(files["segs"], mask)
        write_image(files["imgs"], image)  # the last one: a frame is there if its image is
    except BaseException:
        for file in files.values():
            file.unlink(missing_ok=True)
        raise


def sample_of(
    sources: Sequence[HeadFrame], targets: Sequence[HeadFrame], index: int
) -> dict[str, Tensor | str]:
    """The dictionary that datasets give, from frames."""
    sample: dict[str, Any] = {}
    for role, frames in (("source", sources), ("target", targets)):
        if not frames:
            continue
        sample[f"{role}_imgs"] = torch.stack([frame.image for frame in frames])
        sample[f"{role}_poses"] = torch.stack([frame.pose for frame in frames])
        if frames[0].mask is not None:
            sample[f"{role}_segs"] = torch.stack([frame.mask for frame in frames])
    return {**sample, "indices": torch.tensor([index])}


def sample_lines(files: str) -> list[str]:
    """The lines of one sample in a list of files, `source1: PATH`, from its "files"."""
    return files.split("\n")


def _files(names: Sequence[str], sources: int) -> str:
    roles = [f"source{i + 1}" for i in range(sources)]
    roles += [f"target{i + 1}" for i in range(len(names) - sources)]
    return "\n".join(f"{role}: {name}.jpg" for role, name in zip(roles, names, strict=True))


class AvatarFolder:
    """A dataset folder: an item is one PERSON/VIDEO, a sample is frames of it, drawn anew in every
    epoch from (seed, epoch, item).

    paper  frames by the paper's rule, `paper_frames`, from 0 in phase test; else each uniformly
    An item without a usable frame gives the next item's.
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
            self._usable(0)  # an unusable folder is told here, not by a worker
        except BadSample as error:
            raise UserError(str(error)) from error

    def __len__(self) -> int:
        return len(self.items)

    def frames(self, item: str) -> list[str]:
        """Names of the frames of PERSON/VIDEO that have all their files, sorted by path part."""
        kinds = [kind for kind in KINDS if kind != "segs" or self.masks]
        found = []
        for kind in kinds:
            base = self.root / kind / self.phase / item
            found.append(
                {
                    (sequence, Path(file).stem)
                    for sequence in _folders(base)
                    for file in os.listdir(base / sequence)
                    if file.endswith(KINDS[kind])
                }
            )
        return [f"{item}/{s}/{f}" for s, f in sorted(set.intersection(*found))]

    def _usable(self, index: int) -> list[str]:
        """The frames of the item, or of the next one that has any."""
        for shift in range(len(self.items)):
            if names := self.frames(self.items[(index + shift) % len(self.items)]):
                return names
        wanted = "image, keypoints and mask" if self.masks else "image and keypoints"
        raise BadSample(
            self.root / "imgs" / self.phase, f"holds no PERSON/VIDEO/SEQUENCE/FRAME with {wanted}"
        )

    def choose(self, epoch: int, index: int) -> list[str]:
        """The names of a sample's frames, sources first."""
        names = self._usable(index)
        many = self.sources + self.targets
        drawn = np.random.default_rng([self.seed, epoch if self.phase == "train" else 0, index])
        if self.paper:
            start = float(drawn.random()) if self.phase == "train" else 0.0
            return [names[i] for i in paper_frames(len(names), many, start)]
        return [names[i] for i in drawn.integers(len(names), size=many)]

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any]:
        names = self.choose(*place)
        frames = [
            read_frame(self.root, self.phase, name, self.size, self.keypoints, self.masks)
            for name in names
        ]
        sample = sample_of(frames[: self.sources], frames[self.sources :], place[1])
        return {**sample, "files": _files(names, self.sources)} if self.with_names else sample


class AvatarList:
    """The samples that a list of files names, in its order:

        data-root: ROOT
        source1: PERSON/VIDEO/SEQUENCE/FRAME.jpg
        target1: PERSON/VIDEO/SEQUENCE/FRAME.jpg

    Paths are below ROOT/imgs/PHASE or absolute; blanks around the number and the colon are free.
    root  instead of the list's
    Raises UserError that names the line that is wrong.
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
            lines = self.file.read_text(encoding="utf-8").splitlines()
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
            wanted = roles[len(places) % len(roles)]
            if key != wanted or not colon or not value:
                raise UserError(
                    f"{self.file}, line {number}: must be `{wanted}: PATH`, is `{line.strip()}`"
                )
            places.append(self._place(number, value))
        if len(places) % len(roles):
            raise UserError(
                f"{self.file}, line {len(lines)}: the last sample ends before its "
                f"{roles[len(places) % len(roles)]}"
            )
        return [places[i : i + len(roles)] for i in range(0, len(places), len(roles))]

    def _place(self, number: int, value: str) -> tuple[Path, str, str]:
        """(root, phase, name) of a line's path, whose files are there."""
        path, root, phase = Path(value), self.root, self.phase
        if path.is_absolute():
            parts = path.parts
            cut = max((i for i, part in enumerate(parts[:-2]) if part == "imgs"), default=0)
            if not cut:
                raise UserError(f"{self.file}, line {number}: {value} lies below no folder imgs")
            root, phase, path = Path(*parts[:cut]), parts[cut + 1], Path(*parts[cut + 2 :])
        elif root is None:
            raise UserError(
                f"{self.file}, line {number}: a relative path, and neither a line `data-root: "
                "ROOT` above it nor --data_root"
            )
        if not below(path.as_posix()):
            raise UserError(
                f"{self.file}, line {number}: must lie below ROOT/imgs/{phase}, is {value}"
            )
        name = path.with_suffix("").as_posix()
        for kind in KINDS:
            there = frame_path(root, kind, phase, name)
            if (kind != "segs" or self.masks) and not there.is_file():
                raise UserError(f"{self.file}, line {number}: {there} is missing")
        return root, phase, name

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any]:
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
    """Names of the folders in a folder, sorted; none where it is missing."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())
