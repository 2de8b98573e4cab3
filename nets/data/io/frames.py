"""What drives: an image, a folder of images, or a video, as frames; and what to do with frames
in which nothing is found.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from torch import Tensor

from nets.data.io.images import list_images, read_image
from nets.data.io.video import is_video, open_video
from nets.errors import UserError

ON_MISSING = ("skip", "fail", "hold")
Found = TypeVar("Found")


class Frame(NamedTuple):
    """An image on its way: how messages call it, its second in a video, (3, H, W) uint8."""

    name: str
    seconds: float | None  # None: an image of its own
    image: Tensor


class Frames:
    """The frames of an image, a folder or a video, streamed, every time anew.

    start, end, fps  of a video, see `open_video`
    Raises UserError or BadSample that names the file.
    """

    def __init__(
        self,
        path: str | Path,
        start: float | None = None,
        end: float | None = None,
        fps: float | None = None,
    ):
        self.path = Path(path)
        self.name = self.path.stem
        self.is_video = not self.path.is_dir() and is_video(path)
        if self.is_video:
            self._video = open_video(path, start, end, fps)
            self.fps, self.count, self.start = self._video.fps, self._video.frames, start or 0.0
            return
        for name, value in (("start", start), ("end", end), ("fps", fps)):
            if value is not None:
                raise UserError(f"--{name}: only for videos, {path} is none")
        self.images = list_images("", [path])
        self.fps, self.count, self.start = None, len(self.images), 0.0

    def __len__(self) -> int:
        """How many frames to expect; of a video that does not say it 0."""
        return self.count or 0

    def __iter__(self) -> Iterator[Frame]:
        if self.is_video:
            for seconds, image in self._video:
                yield Frame(f"{self.path}, second {seconds:.2f}", seconds, image)
            return
        for file in self.images:
            yield Frame(str(file), None, read_image(file, None))


class Finder:
    """Looks for something in every frame, and counts the frames that lack it.

        finder = Finder(face_points, "face", "hold")
        for frame, points in finder(frames): ...
        finder.report()

    find  image -> what is found in it, or None
    what  what it is called
    on_missing  "fail": UserError that names the frame; "skip": the frame is left out; "hold": what
                was found last serves again, and frames before the first find are left out
    """

    def __init__(self, find: Callable[[Tensor], Found | None], what: str, on_missing: str = "fail"):
        if on_missing not in ON_MISSING:
            raise ValueError(f"Finder: on_missing must be {', '.join(ON_MISSING)}: {on_missing!r}")
        self.find, self.what, self.on_missing = find, what, on_missing
        self.frames, self.missing = 0, []

    def __call__(self, frames: Iterator[Frame] | Frames) -> Iterator[tuple[Frame, Found]]:
        last = None
        for frame in frames:
            self.frames += 1
            found = self.find(frame.image)
            if found is None:
                self.missing.append(frame.name)
                if self.on_missing == "fail":
                    raise UserError(
                        f"{frame.name}: no {self.what} found; --on_missing skip leaves such frames "
                        "out, hold takes what was found before"
                    )
                if self.on_missing == "skip" or last is None:
                    continue
                found = last
            last = found
            yield frame, found
        if self.frames and len(self.missing) == self.frames:
            raise UserError(f"{frame.name}: no {self.what} found, nor in any frame before")

    def report(self) -> None:
        """Say on stderr which frames lacked it, if any did."""
        if self.missing:
            done = "left out" if self.on_missing == "skip" else "held the one before"
            names = "; ".join(self.missing[:10]) + ("; ..." if len(self.missing) > 10 else "")
            print(
                f"{len(self.missing)} of {self.frames} frames without a {self.what}, {done}: "
                f"{names}",
                file=sys.stderr,
                flush=True,
            )


def pair_name(source: str, driving: str, ending: str = "") -> str:
    """How the file of a transfer is called: SOURCE--DRIVING and the ending, without blanks."""
    return f"{source}--{driving}{ending}".replace(" ", "_")
