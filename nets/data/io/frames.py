"""Frames of a driving image, folder or video, and the handling of frames without a detection."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

from nets.data.io.images import list_images, read_image
from nets.data.io.names import pair_name
from nets.data.io.video import is_video, open_video
from nets.errors import UserError

__all__ = ["ON_MISSING", "Finder", "Frame", "Frames", "pair_name"]

ON_MISSING = ("skip", "fail", "hold")
Detection = TypeVar("Detection")


class Frame(NamedTuple):
    """One image of an input, with its name and time."""

    name: str  # for messages
    seconds: float | None  # in a video; None: a still image
    image: Tensor  # (3, H, W) uint8


class Frames:
    """The frames of an image, a folder or a video. Each iteration reads them again.

    start, end, fps  for videos only, see `open_video`
    Raises UserError or BadSample that names the file.
    """

    name: str  # the file's name without its ending
    fps: float | None  # frames a second; None: images
    count: int | None  # expected frames; None: unknown
    start: float  # second of the first frame

    def __init__(
        self,
        path: str | Path,
        start: float | None = None,
        end: float | None = None,
        fps: float | None = None,
    ):
        self.path = Path(path)
        self.name = self.path.stem
        self.is_video = is_video(path)
        if self.is_video:
            self._video = open_video(path, start, end, fps)
            self.fps, self.count, self.start = self._video.fps, self._video.frames, start or 0.0
            return
        for name, value in (("start", start), ("end", end), ("fps", fps)):
            if value is not None:
                raise UserError(f"--{name}: only for videos, {path} is not a video")
        self.images = list_images("", [path])
        self.fps, self.count, self.start = None, len(self.images), 0.0

    def __len__(self) -> int:
        """Number of frames to expect; 0 for a video of unknown length."""
        return self.count or 0

    def __iter__(self) -> Iterator[Frame]:
        if self.is_video:
            for seconds, image in self._video:
                yield Frame(f"{self.path}, second {seconds:.2f}", seconds, image)
            return
        for file in self.images:
            yield Frame(str(file), None, read_image(file, None))


class Finder(Generic[Detection]):
    """Runs a detector on every frame, and counts the frames without a detection.

        finder = Finder(face_points, "face", "hold")
        for frame, points in finder(frames): ...
        finder.report()

    find        image -> detection, or None
    what        name of the detected thing, for messages
    on_missing  for frames without a detection. "fail": UserError that names the frame; "skip":
                leave the frame out; "hold": use the last detection again, and leave out frames
                before the first one
    """

    def __init__(
        self, find: Callable[[Tensor], Detection | None], what: str, on_missing: str = "fail"
    ):
        if on_missing not in ON_MISSING:
            raise ValueError(f"Finder: on_missing must be {', '.join(ON_MISSING)}: {on_missing!r}")
        self.find, self.what, self.on_missing = find, what, on_missing
        self.frames = 0
        self.missing: list[str] = []  # names of the frames without a detection

    def __call__(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Detection]]:
        last = None
        for frame in frames:
            self.frames += 1
            detection = self.find(frame.image)
            if detection is None:
                self.missing.append(frame.name)
                if self.on_missing == "fail":
                    raise UserError(
                        f"{frame.name}: no {self.what} found; --on_missing skip leaves such frames "
                        "out, hold uses the last detection"
                    )
                if self.on_missing == "skip" or last is None:
                    continue
                detection = last
            last = detection
            yield frame, detection
        if self.frames and len(self.missing) == self.frames:
            raise UserError(f"{frame.name}: no {self.what} found, and none in any frame before")

    def report(self) -> None:
        """Print on stderr which frames had no detection, if any."""
        if self.missing:
            action = "left out" if self.on_missing == "skip" else "held the one before"
            names = "; ".join(self.missing[:10]) + ("; ..." if len(self.missing) > 10 else "")
            print(
                f"{len(self.missing)} of {self.frames} frames without a {self.what}, {action}: "
                f"{names}",
                file=sys.stderr,
                flush=True,
            )
