"""Frames in clips: folders of videos, of frames, or of stills; any frame, with a partner beside it.

A video is decoded once, when a dataset is first opened: its frames are kept at the size of the
images in one file of plain pixels (3 S S bytes a frame), so that any frame is read at once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nets.data.io.files import whole_file
from nets.data.io.images import SUFFIXES, read_crop, squash
from nets.errors import UserError
from nets.random import uniform

NEAREST, FARTHEST = 3, 40  # positions ahead, the upper end exclusive


def temporal_offset(count: Tensor, position: Tensor, drawn: Tensor) -> Tensor:
    """How many positions the partner lies ahead, (N,) int64; negative: behind.

    count     (N,) int64, frames of the clip; position  (N,) int64, of the frame, from 0
    drawn     (N,) uniform in [0, 1)
    Uniform on 3 .. min(40, count - position) - 1; for the last three frames of a clip the same
    draw from 3 .. 39 backwards, no farther than the first frame. So a partner of a short clip may
    be nearer than 3, and the frame itself in a clip of one frame.
    """
    left = count - position
    ahead = left.clamp(max=FARTHEST) - NEAREST
    forward = NEAREST + (drawn * ahead).long()
    backward = NEAREST + (drawn * (FARTHEST - NEAREST)).long()
    return torch.where(left > NEAREST, forward, -torch.minimum(position, backward))


BOXES = "boxes.json"
Box = tuple[float, float, float, float]  # x_min, y_min, x_max, y_max, pixels


class Clips:
    """Samples of a source's clips: every frame, in order, and another frame of its clip with it.

    source  has `name`, `counts` (frames of each clip), `box(clip, frame)`, a Box or None,
            `read(clip, frame, box, size)` -> (3, size, size) uint8, `file(clip, frame)`, and
            `joint_order`: names of what `joints(clip, frame, box, size)` gives, or none
    pairs   hand out a partner: `temporal_offset`, drawn from (seed, epoch, index), cut out with the
            box of the frame itself

    [(epoch, index)] gives frame (3, S, S) uint8, partner alike, joints (J, 2) float32 in pixels of
    the frame where they are known, index, and draw: a number that no other sample of any epoch has.
    """

    def __init__(self, source: Any, size: int, seed: int = 0, pairs: bool = False):
        self.source, self.size, self.seed, self.pairs = source, size, seed, pairs
        self.name, self.joint_order = source.name, source.joint_order
        self.starts = np.concatenate([[0], np.cumsum(source.counts)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def place(self, index: int) -> tuple[int, int]:
        """Clip and frame of a sample; clips without frames are passed over."""
        clip = int(np.searchsorted(self.starts, index, "right")) - 1
        return clip, index - int(self.starts[clip])

    def file(self, index: int) -> Path:
        """Where a sample comes from, for its name."""
        return Path(self.source.file(*self.place(index)))

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any]:
        epoch, index = place
        clip, frame = self.place(index)
        box = self.source.box(clip, frame)
        draw = epoch * len(self) + index
        sample = {"frame": self.source.read(clip, frame, box, self.size)}
        if self.pairs:
            count = torch.tensor([int(self.source.counts[clip])])
            drawn = uniform(self.seed, "partner", torch.tensor([draw]), 1)[0]
            other = frame + int(temporal_offset(count, torch.tensor([frame]), drawn))
            sample["partner"] = self.source.read(clip, other, box, self.size)
        if self.joint_order:
            sample["joints"] = self.source.joints(clip, frame, box, self.size)
        return {**sample, "index": index, "draw": draw}


class Folders:
    """Clips of a folder: each a video, or a folder with the frames of one, in the order of names.

    path   may hold a boxes.json: {clip: [x_min, y_min, x_max, y_max]}, pixels; what is cut out of
           every frame of that clip. Without: the whole frame.
    cache  folder for decoded videos; default: .frames in `path`
    Raises UserError: nothing there, a clip without frames, a clip of one frame where `pairs`, a
    video that cannot be read, a cache that cannot be written.
    """

    joint_order = ()

    def __init__(
        self, path: str | Path, size: int, cache: str | Path | None = None, pairs: bool = False
    ):
        from nets.data.io.video import is_video

        self.path, self.name = _folder(path), str(path)
        self.cache = Path(cache) if cache else self.path / ".frames"
        found = sorted(p for p in self.path.iterdir() if not p.name.startswith("."))
        self.clips = [p for p in found if p.is_dir() or is_video(p)]
        if not self.clips:
            hint = "; --dataset images takes stills" if any(map(_is_image, found)) else ""
            raise UserError(f"{path}: holds no clips, which are videos or folders of frames{hint}")
        self.boxes = _read_boxes(self.path, [clip.name for clip in self.clips])
        self._size = size
        self._frames = [self._video(p) if p.is_file() else _listing(p) for p in self.clips]
        self.counts = [len(frames) for frames in self._frames]
        for clip, count in zip(self.clips, self.counts, strict=True):
            if count < 1 + pairs:
                needed = "use_temporal needs two or more; use_warped works with one"
                raise UserError(
                    f"{clip}: holds one frame; {needed}" if count else f"{clip}: holds no frames"
                )

    def box(self, clip: int, frame: int) -> Box | None:
        return self.boxes.get(self.clips[clip].name)

    def file(self, clip: int, frame: int) -> str:
        return f"{self.clips[clip].stem}_{frame}.png"

    def read(self, clip: int, frame: int, box: Box | None, size: int) -> Tensor:
        frames = self._frames[clip]
        if isinstance(frames, _Decoded):
            return frames[frame]
        return read_crop(self.clips[clip] / frames[frame].decode(), box, size)

    def _video(self, path: Path) -> _Decoded:
        """The frames of a video, decoded now unless they are there."""
        box, facts = self.boxes.get(path.name), path.stat()
        key = repr((facts.st_size, facts.st_mtime_ns, self._size, box)).encode()
        kept = self.cache / f"{path.name}-{hashlib.blake2b(key, digest_size=6).hexdigest()}.rgb"
        if not kept.is_file():
            _decode(path, kept, box, self._size)
        return _Decoded(kept, self._size)


class Stills:
    """Images of a folder and its folders, each a clip of one frame; boxes.json as for `Folders`,
    by the path below the folder.
    """

    joint_order = ()

    def __init__(self, path: str | Path):
        self.path, self.name = _folder(path), str(path)
        files = sorted(p for p in self.path.rglob("*") if _is_image(p))
        if not files:
            raise UserError(f"{path}: holds no images ({', '.join(SUFFIXES)})")
        names = [file.relative_to(self.path).as_posix() for file in files]
        self.boxes = _read_boxes(self.path, names)
        self._names = np.array([name.encode() for name in names])
        self.counts = np.ones(len(names), np.int64)

    def box(self, clip: int, frame: int) -> Box | None:
        return self.boxes.get(self._names[clip].decode())

    def file(self, clip: int, frame: int) -> str:
        return self._names[clip].decode()

    def read(self, clip: int, frame: int, box: Box | None, size: int) -> Tensor:
        return read_crop(self.path / self.file(clip, frame), box, size)


class _Decoded:
    """A file of pixels, frame by frame; opened anew in each process that reads."""

    def __init__(self, path: Path, size: int):
        self.path, self.size = path, size
        self._length = path.stat().st_size // (3 * size * size)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, frame: int) -> Tensor:
        count = 3 * self.size * self.size
        pixels = np.fromfile(self.path, np.uint8, count, offset=frame * count)
        return torch.from_numpy(pixels.reshape(3, self.size, self.size))


def _decode(path: Path, kept: Path, box: Box | None, size: int) -> None:
    from nets.data.io.video import open_video

    video = open_video(path)
    try:
        with whole_file(kept) as file:
            for _, image in video:
                file.write(squash(image, box, size).numpy().tobytes())
    except OSError as error:
        raise UserError(
            f"{kept.parent}: decoded videos cannot be kept there ({error.strerror}); "
            "--frame_cache gives another folder"
        ) from error


def _folder(path: str | Path) -> Path:
    if not Path(path).is_dir():
        raise UserError(f"--dataset_path {path}: no such folder")
    return Path(path)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _listing(folder: Path) -> np.ndarray:
    """Names of a folder's frames, as one array that workers share: by number where they have one,
    so that 10.jpg comes after 9.jpg.
    """
    names = [p.name for p in folder.iterdir() if _is_image(p)]
    names.sort(key=lambda n: [int(t) if t.isdigit() else t for t in _digits(n)])
    return np.array([name.encode() for name in names])


def _digits(name: str) -> list[str]:
    """Alternating text and digits, beginning with text."""
    return re.split(r"(\d+)", name)


def _read_boxes(folder: Path, names: Sequence[str]) -> dict[str, Box]:
    file = folder / BOXES
    if not file.is_file():
        return {}
    try:
        boxes = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(boxes, dict):
        raise UserError(f"{file}: must hold {{clip: [x_min, y_min, x_max, y_max]}}")
    for name, box in boxes.items():
        if name not in names:
            raise UserError(f"{file}: {name} is not in {folder}")
        right = isinstance(box, list) and len(box) == 4
        right = right and all(isinstance(edge, int | float) for edge in box)
        if not right or not (box[0] < box[2] and box[1] < box[3]):
            raise UserError(
                f"{file}: {name}: must be [x_min, y_min, x_max, y_max] in pixels, is {box}"
            )
    return {name: tuple(box) for name, box in boxes.items()}
