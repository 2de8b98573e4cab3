"""Videos read as a stream of images with their times, and sound.

All formats of FFmpeg's decoders are read. Memory does not grow with the length.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
from collections.abc import Generator, Iterator
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nets.errors import UserError

if TYPE_CHECKING:  # at run time imported when a video is opened: training does not need it
    import av
    from av.video.reformatter import VideoReformatter

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".wmv",
          ".flv", ".3gp", ".ogv", ".gif")  # fmt: skip
SOUND_RATE = 48_000
UNKNOWN = 2  # colours, in the numbers of ITU-T H.273
NEAR = 1e-4  # seconds; files hold fractions, users type decimals
# Bilinear, accurate rounding, full chroma: FFmpeg's default darkens by more than a level each time.
EXACT = 0x2 | 0x40000 | 0x2000 | 0x4000
# Demuxers of media. Those of lists (concat, HLS, DASH, SDP, numbered images) open other files.
DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,live_flv,ogg,gif,apng,"
    "h264,hevc,m4v,mjpeg,mpjpeg,av1,obu,ivf,mxf,gxf,nut,nsv,rm,dv,vc1,amv,yuv4mpegpipe,wtv,roq,swf,"
    "cavsvideo,dirac,evc,vvc,webp,wav,w64,mp3,aac,flac,ac3,eac3,aiff,au,caf,amr"
)
OPENED = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
LISTS = (b"ffconcat", b"#EXTM3U", b"v=0", b"<?xml", b"<MPD", b"[playlist]", b"[reference]")
FLATTEST = 16.0  # largest ratio of a pixel's sides that is believed
MOST_DAMAGE = 50  # packets in a row that cannot be decoded before reading ends


def is_video(path: str | Path) -> bool:
    """True if a file's ending is that of a video, so that a damaged video is named as one.

    A folder of that name is no video.
    """
    return Path(path).suffix.lower() in VIDEOS and not Path(path).is_dir()


def open_video(
    path: str | Path,
    start: float | None = None,
    end: float | None = None,
    fps: float | None = None,
) -> VideoReader:
    """The images of a video from second `start` up to, not including, second `end`.

    fps  images a second, each the one that a player shows at that time. None: every frame of the
         file at its own time, also if the rate varies

    Raises UserError if the file is missing, empty, not a video, without video stream, or has no
    frame in the range.
    """
    if start is not None and not 0 <= start < math.inf:
        raise UserError(f"start: must be a second of the video, 0 or more, got {start:g}")
    if end is not None and not end > (start or 0):
        raise UserError(f"end: must be a second after start ({start or 0:g}), got {end:g}")
    if fps is not None and not 0 < fps < math.inf:
        raise UserError(f"fps: must be a number of images a second above 0, got {fps:g}")
    return VideoReader(Path(path), start or 0.0, math.inf if end is None else end, fps)


class VideoReader:
    """Yields (seconds, image (3, H, W) uint8 RGB); each iteration reads again. See open_video.

    Seconds count from the beginning of the file. Images are as a player shows them: rotated as the
    file says, with square pixels, transparent pixels white. Frames that cannot be decoded are left
    out; `damage` and one line on stderr then name the second at which that begins.
    """

    fps: float  # images a second; the average if the rate varies
    size: tuple[int, int]  # (height, width)
    frames: int | None  # frames to expect; None: the file does not state its length
    has_audio: bool
    damage: str | None = None  # of the last iteration

    def __init__(self, path: Path, start: float, end: float, fps: float | None):
        self.path, self.start, self.end, self._fps = path, start, end, fps
        with _open(path) as container:
            stream = _video_stream(path, container)
            rate = stream.average_rate or stream.guessed_rate or stream.base_rate
            self._rate = float(rate) if rate else 25.0
            self.fps = fps or self._rate
            self.has_audio = any(s.codec_context is not None for s in container.streams.audio)
            self._length = _length(container, stream)
            aspect = stream.sample_aspect_ratio
            self._aspect = float(aspect) if aspect else 1.0
            if not 1 / FLATTEST <= self._aspect <= FLATTEST:
                print(f"{path}: states pixels {self._aspect:g} times as wide as high, taken for "
                      "square", file=sys.stderr, flush=True)  # fmt: skip
                self._aspect = 1.0
        with contextlib.closing(self._shown()) as frames:
            first = next(frames, None)
        if first is None:
            length = "" if self._length is None else f"; it lasts {self._length:.2f} s"
            span = f" from second {start:g} on{length}" if start else ""
            raise UserError(f"{path}: has no frame that can be decoded{span}")
        height, width = _pixels(first[1], self._shape(first[1]), {}).shape[1:]
        self.size = height, width
        rest = min(end, self._length or math.inf) - start
        self.frames = max(1, math.ceil(rest * self.fps - 0.01)) if rest < math.inf else None

    def __iter__(self) -> Iterator[tuple[float, Tensor]]:
        self.damage, shape = None, None
        converters: Converters = {}
        last: tuple[av.VideoFrame, Tensor] | None = None
        for seconds, frame in self._shown():
            shape = shape or self._shape(frame)
            if last is None or frame is not last[0]:  # a higher rate repeats frames
                last = frame, _pixels(frame, shape, converters)
            yield seconds, last[1]
        if self.damage:
            print(f"{self.path}: {self.damage}", file=sys.stderr, flush=True)

    def _shape(self, frame: av.VideoFrame) -> tuple[int, int]:
        """(width, height) of a frame with square pixels, before its rotation."""
        return max(1, round(frame.width * self._aspect)), frame.height

    def _shown(self) -> Generator[tuple[float, av.VideoFrame], None, None]:
        """Yields the frames of the range at the chosen rate, each with its second."""
        if self._fps is None:
            for seconds, frame in self._decoded():
                if seconds > self.end - NEAR:
                    return
                if seconds > self.start - NEAR:
                    yield seconds, frame
            return
        tick, at, over = 0, self.start, 0.0
        shown: av.VideoFrame | None = None
        for seconds, frame in self._decoded():
            while shown is not None and at < min(seconds - NEAR, self.end - NEAR):
                yield at, shown
                tick += 1
                at = self.start + tick / self._fps
            if at > self.end - NEAR:
                return
            shown, over = frame, seconds + 1 / self._rate
        while shown is not None and at < min(over - NEAR, self.end - NEAR):
            yield at, shown
            tick += 1
            at = self.start + tick / self._fps

    def _decoded(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """Yields frames with their seconds, from the frame shown at `start` or an earlier one."""
        import av

        if self.start > 1:  # jump to the key frame before it, if the file allows that
            with _open(self.path) as container, contextlib.suppress(av.FFmpegError):
                container.seek(int((self.start + _zero(container)) * 1e6))
                frames = self._read(container)
                first = next(frames, None)
                if first and first[1].pts is not None and first[0] <= self.start:
                    yield first
                    yield from frames
                    return
        self.damage = None
        with _open(self.path) as container:
            yield from self._read(container)

    def _read(
        self, container: av.container.InputContainer
    ) -> Iterator[tuple[float, av.VideoFrame]]:
        import av

        stream = _video_stream(self.path, container)
        stream.thread_type = "AUTO"
        zero, step, last, bad = _zero(container), 1 / self._rate, -math.inf, 0
        packets = container.demux(stream)
        while bad < MOST_DAMAGE:
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                frames = packet.decode()
                bad = 0
            except av.FFmpegError as error:
                self._damaged(last, f"cannot be decoded ({error.strerror})")
                bad += 1
                continue
            for frame in frames:
                seconds = last + step if frame.time is None else frame.time - zero
                if not seconds > last:  # some files lack times, some repeat them
                    seconds = last + step
                last = max(seconds, 0.0) if last == -math.inf else seconds
                if frame.is_corrupt:
                    self._damaged(last, "has frames that its decoder guessed")
                else:
                    yield last, frame
        length = self._length
        if length is not None and last + step < length - max(0.5, 2 * step):
            self._damaged(last, f"ends early, its length should be {length:.2f} s")

    def _damaged(self, last: float, what: str) -> None:
        self.damage = self.damage or f"second {max(last, 0):.2f}: the video {what}; left out"


def _open(path: Path) -> av.container.InputContainer:
    import av

    if not path.exists():
        raise UserError(f"{path}: no such video")
    if path.is_file() and path.stat().st_size == 0:
        raise UserError(f"{path}: is empty, not a video")
    try:
        # As file:, since FFmpeg takes what stands before a colon for a protocol.
        return av.open(f"file:{path}", metadata_errors="ignore", container_options=OPENED)
    except (av.InvalidDataError, av.ArgumentError):
        if _is_list(path):
            raise UserError(
                f"{path}: is a text that may name other files, not a video; give the video itself"
            ) from None
        raise UserError(f"{path}: is not a video, or its beginning or end is missing") from None
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path}: cannot be read as a video ({error.strerror})") from error


def _is_list(path: Path) -> bool:
    """True if a file begins like a playlist or another text that names files."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return start.startswith(LISTS) or start.lower().startswith((b"file ", b"file:", b"http"))


def _video_stream(path: Path, container: av.container.InputContainer) -> av.VideoStream:
    from av.stream import Disposition

    moving = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic  # a cover
        and stream.codec_context is not None
    ]
    if not moving:
        if any(stream.codec_context is None for stream in container.streams.video):
            raise UserError(f"{path}: its video is of a codec that cannot be decoded here")
        sound = ", only sound" if container.streams.audio else ""
        raise UserError(f"{path}: has no video in it{sound}")
    best = container.streams.best("video")
    return best if best in moving else moving[0]


def _zero(container: av.container.InputContainer) -> float:
    """The file's time of second 0, for both images and sound."""
    return (container.start_time or 0) / 1e6


def _length(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """Seconds from the beginning to the end of the last frame, as stated by the file."""
    if stream.duration is not None and stream.time_base is not None:
        start = (stream.start_time or 0) * stream.time_base
        return float(stream.duration * stream.time_base + start) - _zero(container)
    if container.duration is not None and not container.streams.audio:
        return container.duration / 1e6
    return None


# Kind of frame -> its converter, which holds tables that take longer to prepare than to use.
Converters = dict[tuple[object, ...], "VideoReformatter"]


def _pixels(frame: av.VideoFrame, shape: tuple[int, int], converters: Converters) -> Tensor:
    """A frame as a player shows it, (3, H, W) uint8 RGB; `shape` is (width, height) unrotated.

    converters  of the frames before, or empty; a new kind of frame adds its own
    """
    from av.video.reformatter import Colorspace, VideoReformatter

    width, height = shape
    clear = frame.format.name == "pal8" or any(c.is_alpha for c in frame.format.components)
    space = None
    if not frame.format.is_rgb and frame.colorspace == UNKNOWN:
        space = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601  # as players do
    kind = "rgba" if clear else "rgb24"
    of = (frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range)
    converter = converters.setdefault(of, VideoReformatter())
    pixels = converter.reformat(
        frame, width, height, kind, src_colorspace=space, interpolation=EXACT
    ).to_ndarray()
    if clear:
        alpha = pixels[..., 3:].astype(np.uint16)
        pixels = ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    # A view: most readers want the pixels in this order and get it without a copy.
    return torch.from_numpy(np.ascontiguousarray(_rotated(frame, pixels))).permute(2, 0, 1)


def _rotated(frame: av.VideoFrame, pixels: np.ndarray) -> np.ndarray:
    """Pixels rotated by multiples of 90 degrees and mirrored, by the frame's display matrix."""
    side = frame.side_data.get("DISPLAYMATRIX")
    if side is None:
        return pixels
    data = bytes(side)  # type: ignore[call-overload]  # PyAV's stub lacks the buffer protocol
    matrix = np.frombuffer(data, np.int32)
    a, b, _, c, d = matrix[:5]  # x' = a x + c y, y' = b x + d y
    if abs(int(b)) > abs(int(a)):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _audio_stream(path: Path, container: av.container.InputContainer) -> av.AudioStream | None:
    """The default sound track if it can be decoded, else the first that can; None: no sound."""
    from av.stream import Disposition

    tracks = list(container.streams.audio)
    if not tracks:
        return None
    default = next((s for s in tracks if s.disposition & Disposition.default), tracks[0])
    best = [s for s in (default, *tracks) if s.codec_context is not None]
    number = f"sound track {tracks.index(default) + 1} of {len(tracks)}"
    if not best:
        _say(f"{path}: its sound cannot be decoded here and is left out")
        return None
    taken = f"sound track {tracks.index(best[0]) + 1}"
    if best[0] is not default:
        _say(f"{path}: {number}, its default, cannot be decoded here; {taken} is taken")
    elif default is not tracks[0]:
        _say(f"{path}: {number} is taken, its default")
    return best[0]


@lru_cache(maxsize=1000)
def _say(text: str) -> None:
    """Print a line on stderr, once: a file's sound is read for each video that it goes to."""
    print(text, file=sys.stderr, flush=True)


def read_sound(path: Path, start: float) -> Iterator[av.AudioFrame]:
    """Yields the sound of a file from second `start` on, nothing if it has no sound.

    The sound is the file's default track. A line on stderr says if another track than the first is
    taken, or that the sound cannot be decoded.
    Frames are planar float with SOUND_RATE samples a second; their pts count samples from `start`.
    """
    import av

    with _open(path) as container:
        stream = _audio_stream(path, container)
        if stream is None:
            return
        layout = "mono" if stream.codec_context.channels == 1 else "stereo"
        resample = av.AudioResampler("fltp", layout, SOUND_RATE, frame_size=1024).resample
        zero = _zero(container) + start
        if start > 1:
            with contextlib.suppress(av.FFmpegError):
                container.seek(int((_zero(container) + start) * 1e6))
        end = 0  # of the sound so far, in samples
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                # None flushes the resampler.
                decoded: list[av.AudioFrame | None] = (
                    [None] if packet is None else list(packet.decode())
                )
            except av.FFmpegError:
                continue  # a click is better than no sound
            for frame in itertools.chain(*map(resample, decoded)):
                at = end if frame.time is None else round((frame.time - zero) * SOUND_RATE)
                if at + frame.samples // 2 < 0:
                    continue  # before the start
                frame.pts, frame.time_base = max(at, end), Fraction(1, SOUND_RATE)
                end = frame.pts + frame.samples
                yield frame
            if packet is None:
                return
