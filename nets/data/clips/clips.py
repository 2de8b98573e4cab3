"""Frames of clips, each with a partner frame of its clip: videos, folders of frames, or stills.

A video is decoded once, when a dataset is first opened. Its frames are kept at the images' size in
one file of plain pixels (3 S S bytes a frame), so that any frame is read directly.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from nets import plain_json
from nets.contracts import Place, Sample
from nets.data.io.files import whole_file
from nets.data.io.images import heif_hint, image_endings, is_image, read_crop, squash
from nets.errors import UserError
from nets.listing import list_folder, list_folders, natural_key, report_left_out
from nets.random import uniform

NEAREST, FARTHEST = 3, 40  # positions ahead, the upper end exclusive


def temporal_offset(count: Tensor, position: Tensor, drawn: Tensor) -> Tensor:
    """Offset of the partner in frames, (N,) int64; negative: before the frame.

    count     (N,) int64, frames of the clip
    position  (N,) int64, of the frame in its clip, from 0
    drawn     (N,) uniform in [0, 1)
    Uniform on 3 .. min(40, count - position) - 1. For the last three frames of a clip the same draw
    from 3 .. 39 goes backwards, at most to the first frame. So in a short clip the partner may be
    nearer than 3, and in a clip of one frame it is the frame itself.
    """
    left = count - position
    ahead = left.clamp(max=FARTHEST) - NEAREST
    forward = NEAREST + (drawn * ahead).long()
    backward = NEAREST + (drawn * (FARTHEST - NEAREST)).long()
    return torch.where(left > NEAREST, forward, -torch.minimum(position, backward))


BOXES = "boxes.json"
Box = tuple[float, float, float, float]  # x_min, y_min, x_max, y_max, pixels


class ClipSource(Protocol):
    """Clips of frames, by the numbers of clip and frame."""

    name: str
    counts: Sequence[int] | np.ndarray  # frames of each clip
    joint_order: tuple[str, ...]  # names of the joints of a JointSource; else empty

    def box(self, clip: int, frame: int) -> Box | None:
        """The part of the frame to use; None: all of it."""

    def read(self, clip: int, frame: int, box: Box | None, size: int) -> Tensor:
        """The box of a frame as (3, size, size) uint8."""

    def file(self, clip: int, frame: int) -> str:
        """Name of the frame, for files of results."""


class JointSource(ClipSource, Protocol):
    """Annotated clips: all frames have a box and joints."""

    def joints(self, clip: int, frame: int, box: Box, size: int) -> Tensor:
        """Joints (J, 2) float32 of a frame, in pixels of the image that `read` gives."""


class Clips:
    """A dataset of all frames of a source's clips, in order, with a partner frame each.

    pairs  add a partner, drawn by `temporal_offset` from (seed, epoch, index) and cut out with the
           box of the frame

    [(epoch, index)] gives frame (3, S, S) uint8; partner, the same; joints (J, 2) float32 in pixels
    of the frame if annotated; index; and draw, a number that is unique to sample and epoch.
    """

    def __init__(self, source: ClipSource, size: int, seed: int = 0, pairs: bool = False):
        self.source, self.size, self.seed, self.pairs = source, size, seed, pairs
        self.name, self.joint_order = source.name, source.joint_order
        self.starts = np.concatenate([[0], np.cumsum(source.counts)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def place(self, index: int) -> tuple[int, int]:
        """Clip and frame of a sample; clips without frames are skipped."""
        clip = int(np.searchsorted(self.starts, index, "right")) - 1
        return clip, index - int(self.starts[clip])

    def file(self, index: int) -> Path:
        """The source's name of a sample's frame."""
        return Path(self.source.file(*self.place(index)))

    def __getitem__(self, place: Place) -> Sample:
        epoch, index = place
        clip, frame = self.place(index)
        box = self.source.box(clip, frame)
        draw = epoch * len(self) + index
        sample: Sample = {"frame": self.source.read(clip, frame, box, self.size)}
        if self.pairs:
            count = torch.tensor([int(self.source.counts[clip])])
            drawn = uniform(self.seed, "partner", torch.tensor([draw]), 1)[0]
            other = frame + int(temporal_offset(count, torch.tensor([frame]), drawn))
            sample["partner"] = self.source.read(clip, other, box, self.size)
        if self.joint_order:
            source = cast(JointSource, self.source)
            assert box is not None  # all annotated frames have one
            sample["joints"] = source.joints(clip, frame, box, self.size)
        return {**sample, "index": index, "draw": draw}


class Folders:
    """Clips of a folder, each a video or a folder of frames, in natural order.

    path   may hold a boxes.json: {clip: [x_min, y_min, x_max, y_max]}, pixels, the part to cut out
           of all frames of that clip; default: the whole frame
    cache  folder for decoded videos; default: .frames in `path`
    chosen takes the name of a clip, and is True if the clip is used; default: all are
    Raises UserError if there is no clip, a clip has no frame or with `pairs` only one, a video
    cannot be read, or the cache cannot be written.
    """

    joint_order: tuple[str, ...] = ()

    def __init__(
        self,
        path: str | Path,
        size: int,
        cache: str | Path | None = None,
        pairs: bool = False,
        chosen: Callable[[str], bool] | None = None,
    ):
        from nets.data.io.video import is_video

        self.path, self.name = _folder(path), str(path)
        self.cache = Path(cache) if cache else self.path / ".frames"
        videos, others = list_folder(self.path, is_video)
        self.clips = sorted([*videos, *list_folders(self.path)], key=natural_key)
        if not self.clips:
            hint = "; --dataset images takes stills" if any(map(is_image, others)) else ""
            raise UserError(f"{path}: holds no clips, which are videos or folders of frames{hint}")
        report_left_out(path, [file for file in others if file.name != BOXES], "video or folder")
        self.boxes = _read_boxes(self.path, [clip.name for clip in self.clips])
        if chosen:
            self.clips = [clip for clip in self.clips if chosen(clip.name)]
        self._size = size
        self._frames = [self._video(p) if p.is_file() else _frame_names(p) for p in self.clips]
        self.counts = [len(frames) for frames in self._frames]
        self.clip_names = [clip.name for clip in self.clips]
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
        return read_crop(self.clips[clip] / os.fsdecode(frames[frame]), box, size)

    def _video(self, path: Path) -> _Decoded:
        """The frames of a video, decoded now if they are not in the cache."""
        box, facts = self.boxes.get(path.name), path.stat()
        key = repr((facts.st_size, facts.st_mtime_ns, self._size, box)).encode()
        cached = self.cache / f"{path.name}-{hashlib.blake2b(key, digest_size=6).hexdigest()}.rgb"
        if not cached.is_file():
            _decode(path, cached, box, self._size)
        return _Decoded(cached, self._size)


class Stills:
    """Images in a folder and the folders below, in natural order, each a clip of one frame.

    path  may hold a boxes.json as for `Folders`, with an image's path below the folder as key
    """

    joint_order: tuple[str, ...] = ()

    def __init__(self, path: str | Path):
        self.path, self.name = _folder(path), str(path)
        files, left_out = list_folder(self.path, is_image, recursive=True)
        if not files:
            raise UserError(f"{path}: holds no images ({', '.join(image_endings())})")
        left_out = [file for file in left_out if file.name != BOXES]
        report_left_out(path, left_out, "image", heif_hint(left_out))
        names = [file.relative_to(self.path).as_posix() for file in files]
        self.boxes = _read_boxes(self.path, names)
        self._names = np.array([os.fsencode(name) for name in names])
        self.counts = np.ones(len(names), np.int64)

    def box(self, clip: int, frame: int) -> Box | None:
        return self.boxes.get(os.fsdecode(self._names[clip]))

    def file(self, clip: int, frame: int) -> str:
        return os.fsdecode(self._names[clip])

    def read(self, clip: int, frame: int, box: Box | None, size: int) -> Tensor:
        return read_crop(self.path / self.file(clip, frame), box, size)


class _Decoded:
    """The frames in a file of decoded pixels. Each read opens the file, as workers need it."""

    def __init__(self, path: Path, size: int):
        self.path, self.size = path, size
        self._length = path.stat().st_size // (3 * size * size)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, frame: int) -> Tensor:
        count = 3 * self.size * self.size
        pixels = np.fromfile(self.path, np.uint8, count, offset=frame * count)
        return torch.from_numpy(pixels.reshape(3, self.size, self.size))


def _decode(path: Path, cached: Path, box: Box | None, size: int) -> None:
    from nets.data.io.video import open_video

    video = open_video(path)
    try:
        with whole_file(cached) as file:
            for _, image in video:
                file.write(squash(image, box, size).numpy().tobytes())
    except OSError as error:
        raise UserError(
            f"{cached.parent}: decoded videos cannot be written there ({error.strerror}); "
            "--frame_cache gives another folder"
        ) from error


def _folder(path: str | Path) -> Path:
    if not Path(path).is_dir():
        raise UserError(f"--dataset_path {path}: no such folder")
    return Path(path)


def _frame_names(folder: Path) -> np.ndarray:
    """Names of a folder's frames in natural order, as one array that workers share."""
    frames, left_out = list_folder(folder, is_image)
    report_left_out(folder, left_out, "image", heif_hint(left_out))
    return np.array([os.fsencode(frame.name) for frame in frames])


def _read_boxes(folder: Path, names: Container[str]) -> dict[str, Box]:
    file = folder / BOXES
    if not file.is_file():
        return {}
    try:
        boxes = plain_json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(boxes, dict):
        raise UserError(f"{file}: must hold {{clip: [x_min, y_min, x_max, y_max]}}")
    for name, box in boxes.items():
        if name not in names:
            raise UserError(f"{file}: {name} is not in {folder}")
        valid = isinstance(box, list) and len(box) == 4
        valid = valid and all(isinstance(edge, int | float) for edge in box)
        if not valid or not (box[0] < box[2] and box[1] < box[3]):
            raise UserError(
                f"{file}: {name}: must be [x_min, y_min, x_max, y_max] in pixels, is {box}"
            )
    return {name: (box[0], box[1], box[2], box[3]) for name, box in boxes.items()}
