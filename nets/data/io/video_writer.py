"""Videos written as H.264 with sound, and GIFs: each file whole or not at all."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nets.data.io.files import whole_file
from nets.data.io.video import EXACT, SOUND_RATE, read_sound
from nets.errors import UserError

if TYPE_CHECKING:  # at run time imported when a video is written: training does not need it
    import av

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
TICKS = 90_000  # ticks a second in written videos, as in MPEG
BT709, LIMITED = 1, 1  # colours, in the numbers of ITU-T H.273


class VideoWriter:
    """Writes a video as H.264 in yuv420p, which every player shows, whole or not at all.

        with VideoWriter("out.mp4", reader.fps, audio_from="in.mp4") as video:
            video.write(image)

    path         .mp4, .m4v, .mov or .mkv
    fps          images a second
    audio_from   a file whose sound is copied, up to the last image; it may have no sound
    audio_start  second of its sound that goes with the first image

    Images of odd width or height get their last column or row twice. Raises UserError if the
    ending is unknown, the file cannot be written, or no image was written.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float,
        audio_from: str | Path | None = None,
        audio_start: float = 0.0,
    ):
        self.path, self.fps = Path(path), fps
        if self.path.suffix.lower() not in FORMATS:
            raise UserError(f"{path}: videos are written as {', '.join(FORMATS)}")
        if not 0 < fps < math.inf:
            raise UserError(f"{path}: fps must be above 0, got {fps:g}")
        self._audio_from, self._audio_start = audio_from, audio_start
        self._shape: tuple[int, int, int] | None = None  # of the images
        self._last, self._time = -1, 0.0  # ticks of the last image; of the next one
        self._sound: av.AudioFrame | None = None  # the next frame of sound
        self._audio: av.AudioStream | None = None

    def __enter__(self) -> VideoWriter:
        self._file = self._whole()
        self._file.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return self._file.__exit__(kind, error, trace)

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        import av

        cause = None
        with self._errors(), contextlib.suppress(_GivenUp), whole_file(self.path) as file:
            self._container = av.open(file, "w", format=FORMATS[self.path.suffix.lower()])
            try:
                try:
                    yield
                except BaseException as error:
                    cause = error
                    raise _GivenUp from None  # not an OSError, which would name this file
                self._finish()
            except BaseException:
                with contextlib.suppress(Exception):  # the file is deleted in any case
                    self._container.close()
                raise
        if cause is not None:
            raise cause

    def write(self, image: Tensor, seconds: float | None = None) -> None:
        """Add an image, (3, H, W) uint8 RGB. All images have one size.

        seconds  time of the image on the clock of `audio_from`, later than the one before, for
                 sources of varying rate. None: 1/fps after the one before
        """
        import av

        if image.dtype != torch.uint8 or image.ndim != 3 or len(image) != 3:
            what = f"{list(image.shape)} {image.dtype}"
            raise ValueError(f"VideoWriter: image must be (3, H, W) uint8, got {what}")
        channels, height, width = image.shape
        shape = channels, height, width
        if self._shape is None:
            self._begin(shape)
        elif shape != self._shape:
            raise ValueError(
                f"VideoWriter: images must be of one size, {list(self._shape)}, got {list(shape)}"
            )
        if seconds is not None:
            self._time = (seconds - self._audio_start) * TICKS
        pixels = image.cpu().permute(1, 2, 0).numpy()
        pixels = np.pad(pixels, [(0, side % 2) for side in pixels.shape[:2]] + [(0, 0)], "edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = frame.reformat(
            format="yuv420p", dst_colorspace="itu709", dst_color_range="MPEG", interpolation=EXACT
        )
        frame.pts = self._last = max(round(self._time), self._last + 1)
        frame.time_base, frame.duration = Fraction(1, TICKS), round(TICKS / self.fps)
        self._time += TICKS / self.fps
        with self._errors():
            self._container.mux(self._video.encode(frame))
            self._carry_sound(self._time / TICKS)

    def _begin(self, shape: tuple[int, int, int]) -> None:
        """Set up all streams, before the first packet, when the size is known."""
        self._shape = shape
        rate = Fraction(self.fps).limit_denominator(1001)
        with self._errors():
            # Without B-frames, since with them MP4 says too short a duration for a varying rate.
            settings = {"crf": "18", "bf": "0"}
            video = self._container.add_stream("libx264", rate=rate, options=settings)
            video.width, video.height = (side + side % 2 for side in shape[:0:-1])
            video.pix_fmt = "yuv420p"
            video.codec_context.time_base = Fraction(1, TICKS)
            video.codec_context.colorspace = video.codec_context.color_primaries = BT709
            video.codec_context.color_trc, video.codec_context.color_range = BT709, LIMITED
            self._video = video
        if self._audio_from is not None:
            self._sounds = read_sound(Path(self._audio_from), self._audio_start)
            self._sound = next(self._sounds, None)
            if self._sound is not None:
                layout = self._sound.layout.name
                self._audio = self._container.add_stream("aac", rate=SOUND_RATE, layout=layout)
                self._audio.bit_rate = 160_000

    def _carry_sound(self, until: float) -> None:
        """Write the sound up to second `until`, so that neither sound nor images fill memory."""
        while self._audio is not None and self._sound is not None:
            assert self._sound.pts is not None  # read_sound sets it
            if self._sound.pts / SOUND_RATE >= until:
                return
            self._container.mux(self._audio.encode(self._sound))
            self._sound = next(self._sounds, None)

    def _finish(self) -> None:
        if self._shape is None:
            raise UserError(f"{self.path}: no image to write")
        self._container.mux(self._video.encode(None))
        if self._audio is not None:
            self._container.mux(self._audio.encode(None))
        self._container.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        import av

        try:
            yield
        except (OSError, av.FFmpegError) as error:
            why = (error.strerror or str(error)).lower()
            raise UserError(f"{self.path}: cannot be written: {why}") from error


class _GivenUp(Exception):
    """Ends the writing of a file that is to be deleted."""


def write_gif(path: str | Path, images: Iterable[Tensor], fps: float) -> None:
    """Write (3, H, W) uint8 images as a GIF that repeats for ever, whole or not at all.

    A GIF counts time in 1/100 s and has 256 colours an image. It plays at `fps` on average, at most
    50. Raises UserError if it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise UserError(f"{path}: a GIF must end in .gif")
    if not 0 < fps <= 50:
        raise UserError(f"{path}: fps of a GIF must be above 0 and at most 50, got {fps:g}")
    frames = [
        Image.fromarray(image.cpu().permute(1, 2, 0).numpy()).quantize(256) for image in images
    ]
    if not frames:
        raise UserError(f"{path}: no image to write")
    times = [round(100 * i / fps) * 10 for i in range(len(frames) + 1)]
    durations = [after - before for before, after in pairwise(times)]
    try:
        with whole_file(path) as file:
            frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], loop=0,
                           duration=durations)  # fmt: skip
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UserError(f"{path}: cannot be written: {why}") from error
