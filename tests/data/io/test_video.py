"""Videos of many formats, read and written."""

import contextlib
import errno
import math
import re
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from PIL import Image

from nets.data.io import video as video_module
from nets.data.io import video_writer
from nets.data.io.video import is_video, open_video
from nets.data.io.video_writer import VideoWriter, write_gif
from nets.errors import UserError


def image(height=48, width=64, level=0):
    """An image: red top left, green top right, blue below, brightness `level` bottom left."""
    pixels = torch.zeros(3, height, width, dtype=torch.uint8)
    pixels[0, : height // 2, : width // 2] = 250
    pixels[1, : height // 2, width // 2 :] = 250
    pixels[2, height // 2 :] = 200
    pixels[:, height // 2 :, : width // 2] = level
    return pixels


def level(shown):
    """The brightness of the corner at the bottom left."""
    return shown[:, -shown.shape[1] // 4 :, : shown.shape[2] // 4].float().mean().item()


def write_clip(path, codec="libx264", kind="yuv420p", times=None, turn=None, sound=0.0,
               options=None, array=None, rate=25, aspect=None):  # fmt: skip
    """Write a video of ten frames, each 20 levels brighter than the last one; times in seconds."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, options=options or {})
        array = [image(level=20 * i).permute(1, 2, 0).numpy() for i in range(10)] \
            if array is None else array  # fmt: skip
        stream.height, stream.width = array[0].shape[:2]
        stream.pix_fmt = kind
        tick = 1000 if times else rate
        stream.codec_context.time_base = Fraction(1, tick)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if turn:
            stream.set_display_rotation(*turn)
        voice = out.add_stream("aac", rate=48000, layout="mono") if sound else None
        for i, pixels in enumerate(array):
            form = {2: "gray", 3: "rgb24", 4: "rgba"}[pixels.shape[2] if pixels.ndim == 3 else 2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=form)
            frame.pts = round(1000 * times[i]) if times else i
            frame.time_base = Fraction(1, tick)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if voice:
            tone = np.sin(np.arange(int(48000 * sound)) * 0.05).astype(np.float32)[None] * 0.5
            tone[:, : tone.shape[1] // 2] = 0  # silence in the first half
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate = 48000
            out.mux(voice.encode(frame))
            out.mux(voice.encode(None))
    return path


def loudness(path):
    """Seconds of sound, and its root mean square."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return 0.0, 0.0
        frames = [f.to_ndarray() for f in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    samples = np.concatenate(frames, 1)
    return samples.shape[1] / rate, float(np.sqrt((samples.astype(float) ** 2).mean()))


def test_frames_have_their_times_and_colours(tmp_path):
    reader = open_video(write_clip(tmp_path / "a.mp4"))
    assert reader.size == (48, 64) and reader.fps == 25 and reader.frames == 10
    assert not reader.has_audio
    for _ in range(2):  # each iteration reads again
        shown = list(reader)
        assert [s for s, _ in shown] == pytest.approx([i / 25 for i in range(10)], abs=1e-3)
        for i, (_, pixels) in enumerate(shown):
            assert pixels.shape == (3, 48, 64) and pixels.dtype == torch.uint8
            assert level(pixels) == pytest.approx(20 * i, abs=4)
        middle = shown[5][1][:, 12, 16].tolist()  # equal except for errors of the coding
        assert middle == pytest.approx([250, 0, 0], abs=12)


def test_a_range_and_another_rate(tmp_path):
    path = write_clip(tmp_path / "a.mp4")
    half = [level(p) for _, p in open_video(path, start=0.08, end=0.28)]
    assert half == pytest.approx([40, 60, 80, 100, 120], abs=4)
    reader = open_video(path, start=0.08, end=0.28, fps=12.5)
    assert reader.frames == len(list(reader))
    assert [(round(s, 3), round(level(p), -1)) for s, p in reader] == [
        (0.08, 40), (0.16, 80), (0.24, 120)]  # fmt: skip
    doubled = [round(level(p), -1) for _, p in open_video(path, end=0.12, fps=50)]
    assert doubled == [0, 0, 20, 20, 40, 40]


def test_a_late_start_seeks_and_is_exact(tmp_path):
    array = [image(level=i % 200).permute(1, 2, 0).numpy() for i in range(150)]
    for name in ("a.mp4", "a.avi", "a.mkv", "a.ts"):
        path = write_clip(tmp_path / name, array=array, options={"g": "12"})
        reader = open_video(path, start=4.0, end=4.2)
        shown = list(reader)
        assert [s for s, _ in shown] == pytest.approx([4 + i / 25 for i in range(5)], abs=2e-3)
        assert [level(p) for _, p in shown] == pytest.approx([100 + i for i in range(5)], abs=3)
        assert reader.damage is None


def test_a_varying_rate_is_kept_or_made_constant(tmp_path):
    times = [0, 0.04, 0.08, 0.5, 0.54, 0.6, 1.0, 1.04, 1.08, 1.2]
    path = write_clip(tmp_path / "phone.mp4", times=times)
    assert [s for s, _ in open_video(path)] == pytest.approx(times, abs=2e-3)
    even = [(round(s, 2), round(level(p), -1)) for s, p in open_video(path, fps=10)]
    assert even[:7] == [(0, 0), (0.1, 40), (0.2, 40), (0.3, 40), (0.4, 40), (0.5, 60), (0.6, 100)]
    with VideoWriter(tmp_path / "again.mp4", 25) as out:
        for seconds, pixels in open_video(path):
            out.write(pixels, seconds)
    again = open_video(tmp_path / "again.mp4")
    assert [s for s, _ in again] == pytest.approx(times, abs=2e-3)


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv"])
def test_a_varying_rate_does_not_shorten_the_duration(tmp_path, ending):
    path = tmp_path / f"slow{ending}"
    with VideoWriter(path, 10) as out:
        for i in range(20):
            out.write(image(level=10 * i), 0.04 * i if i < 12 else 0.5 * (i - 11))
    with av.open(str(path)) as file:
        assert file.duration / 1e6 == pytest.approx(4.0 + 1 / 10, abs=0.01)


@pytest.mark.parametrize("turn", [(90,), (180,), (-90,), (0, True), (90, True), (0, False, True)])
def test_rotation_and_mirroring_of_the_file_are_applied(tmp_path, turn):
    degrees, mirror, upside = (*turn, False, False)[:3]
    reader = open_video(write_clip(tmp_path / "a.mov", turn=turn))
    (_, pixels), truth = next(iter(reader)), image()
    truth = torch.rot90(truth, degrees // 90, (1, 2))  # counter-clockwise; mirrored after it
    truth = truth.flip(2) if mirror else truth
    truth = truth.flip(1) if upside else truth
    assert reader.size == tuple(pixels.shape[1:]) == tuple(truth.shape[1:])
    assert (pixels.float() - truth.float()).abs().mean() < 6


def test_pixels_become_square(tmp_path):
    reader = open_video(write_clip(tmp_path / "dv.mp4", aspect=Fraction(3, 2)))
    assert reader.size == (48, 96) and next(iter(reader))[1].shape == (3, 48, 96)


@pytest.mark.parametrize(
    ("name", "codec", "kind"),
    [
        ("ten.mp4", "libx264", "yuv420p10le"),
        ("full.mkv", "ffv1", "yuv444p16le"),
        ("grey.mkv", "ffv1", "gray"),
        ("grey16.mkv", "ffv1", "gray16le"),
        ("clear.mov", "qtrle", "argb"),
        ("clear.mkv", "ffv1", "yuva420p"),
        ("vp9.webm", "libvpx-vp9", "yuv420p"),
        ("old.avi", "mpeg4", "yuv420p"),
        ("palette.gif", "gif", "rgb8"),
    ],
)
def test_pixel_formats(tmp_path, name, codec, kind):
    clear = name.startswith("clear")
    array = [image(level=20 * i).permute(1, 2, 0).numpy() for i in range(10)]
    if clear:  # the right half is transparent
        array = [np.concatenate([a, np.full((48, 64, 1), 255, np.uint8)], 2) for a in array]
        for a in array:
            a[:, 32:, 3] = 0
    shown = [p for _, p in open_video(write_clip(tmp_path / name, codec, kind, array=array))]
    assert len(shown) == 10 and shown[9].shape == (3, 48, 64)
    assert level(shown[9]) - level(shown[0]) == pytest.approx(180, abs=20)
    if clear:
        assert (shown[5][:, 8:40, 40:56] > 240).all()  # white
    if kind.startswith("gray"):
        assert (shown[5][0] == shown[5][1]).all()


def test_odd_sizes_are_read_and_written(tmp_path):
    source = write_clip(tmp_path / "odd.mkv", "ffv1", "yuv444p",
                  array=[image(35, 51).permute(1, 2, 0).numpy()] * 3)  # fmt: skip
    reader = open_video(source)
    assert reader.size == (35, 51)
    with VideoWriter(tmp_path / "even.mp4", 25) as out:
        for _, pixels in reader:
            out.write(pixels)
    assert open_video(tmp_path / "even.mp4").size == (36, 52)
    with av.open(str(tmp_path / "even.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        assert container.streams.video[0].codec_context.name == "h264"
    last = next(iter(open_video(tmp_path / "even.mp4")))[1]
    assert (last[:, -1].float() - last[:, -2].float()).abs().mean() < 8  # repeated, not black


def test_sound_is_copied_up_to_the_last_image(tmp_path):
    source = write_clip(tmp_path / "loud.mp4", sound=2.0)
    assert open_video(source).has_audio
    with VideoWriter(tmp_path / "out.mp4", 25, audio_from=source, audio_start=1.0) as out:
        for _ in range(25):
            out.write(image())
    seconds, loud = loudness(tmp_path / "out.mp4")
    assert seconds == pytest.approx(1.0, abs=0.05)
    assert loud == pytest.approx(0.5 / math.sqrt(2), abs=0.05)
    with VideoWriter(tmp_path / "first.mp4", 25, audio_from=source) as out:
        for _ in range(20):
            out.write(image())
    assert loudness(tmp_path / "first.mp4") == pytest.approx((0.8, 0), abs=0.05)
    silent = write_clip(tmp_path / "silent.mp4")
    with VideoWriter(tmp_path / "quiet.mp4", 25, audio_from=silent) as out:
        out.write(image())
    assert not open_video(tmp_path / "quiet.mp4").has_audio


def test_colours_are_read_as_written(tmp_path):
    flat = [torch.full((3, 32, 32), v, dtype=torch.uint8) for v in (0, 64, 128, 192, 255)]
    coloured = torch.zeros(3, 32, 32, dtype=torch.uint8)
    coloured[0], coloured[1] = 200, 60
    with VideoWriter(tmp_path / "a.mp4", 10) as out:
        for one in [*flat, coloured]:
            out.write(one)
    colours = [p.float().mean((1, 2)) for _, p in open_video(tmp_path / "a.mp4")]
    for value, shown in zip((0, 64, 128, 192, 255), colours, strict=False):
        assert shown.tolist() == pytest.approx([value] * 3, abs=2)
    assert colours[5].tolist() == pytest.approx([200, 60, 0], abs=4)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "no such video"),
        (b"", "is empty, not a video"),
        (b"I am only text.\n" * 40, "is not a video"),
    ],
)
def test_files_that_are_not_videos_are_named(tmp_path, content, text):
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    assert is_video(path)
    with pytest.raises(UserError, match=f"a.mp4: {text}"):
        open_video(path)


def test_sound_without_images_and_ranges_without_frames(tmp_path):
    with av.open(str(tmp_path / "song.mp4"), "w") as out:
        voice = out.add_stream("aac", rate=48000, layout="mono")
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 9600), np.float32), "fltp", "mono")
        tone.sample_rate = 48000
        out.mux(voice.encode(tone))
        out.mux(voice.encode(None))
    with pytest.raises(UserError, match=r"song.mp4: has no video in it, only sound"):
        open_video(tmp_path / "song.mp4")
    path = write_clip(tmp_path / "a.mp4")
    with pytest.raises(UserError, match=r"no frame .* from second 7 on; it lasts 0\.40 s"):
        open_video(path, start=7)
    with pytest.raises(UserError, match="end: must be a second after start"):
        open_video(path, start=2, end=1)
    with pytest.raises(UserError, match="fps: must be"):
        open_video(path, fps=0)


def test_a_truncated_video_keeps_its_beginning_and_names_the_second(tmp_path, capsys):
    random = np.random.default_rng(0)  # noise, as bright on average as the frame's number
    array = [random.integers(0, 2 * i + 1, (48, 64, 3)).astype(np.uint8) for i in range(100)]
    whole = write_clip(tmp_path / "whole.ts", "mpeg4", array=array)
    fast = tmp_path / "fast.mp4"
    write_clip(fast, "mpeg4", array=array, options={})
    data = whole.read_bytes()
    broken = tmp_path / "broken.ts"
    broken.write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))
    reader = open_video(broken)
    assert 30 < len(list(reader)) < 70
    front = tmp_path / "front.mp4"  # its index at the front, so that a part of it can be read
    with (
        av.open(str(fast)) as given,
        av.open(str(front), "w", options={"movflags": "faststart"}) as out,
    ):
        stream = out.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    front.write_bytes(front.read_bytes()[: front.stat().st_size // 2])
    capsys.readouterr()
    reader = open_video(front)
    shown = list(reader)
    assert 30 < len(shown) < 95
    assert [p.float().mean().item() for _, p in shown] == pytest.approx(range(len(shown)), abs=10)
    line = capsys.readouterr().err
    assert re.search(r"front\.mp4: second [1-3]\.\d\d: the video", line)
    assert line.count("\n") == 1 and reader.damage in line


def test_a_full_disk_is_one_line_and_leaves_no_file(tmp_path, monkeypatch):
    real = video_writer.whole_file

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            if self.file.tell() + len(data) > 2000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

    @contextlib.contextmanager
    def full(path):
        with real(path) as file:
            yield Full(file)

    monkeypatch.setattr(video_writer, "whole_file", full)
    noise = [torch.randint(0, 255, (3, 48, 64), dtype=torch.uint8) for _ in range(80)]
    with (
        pytest.raises(UserError, match=r"out\.mp4: cannot be written: no space left"),
        VideoWriter(tmp_path / "out.mp4", 25) as out,
    ):
        for one in noise:
            out.write(one)
    with pytest.raises(UserError, match=r"out\.gif: cannot be written: no space left"):
        write_gif(tmp_path / "out.gif", noise, 10)
    assert list(tmp_path.iterdir()) == []


def test_an_error_between_writes_does_not_name_the_video(tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"the file before")
    with (
        pytest.raises(FileNotFoundError, match="other"),
        VideoWriter(tmp_path / "out.mp4", 25) as out,
    ):
        out.write(image())
        (tmp_path / "other").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"the file before"


def test_no_images_and_wrong_images(tmp_path):
    with pytest.raises(UserError, match="no image to write"), VideoWriter(tmp_path / "a.mp4", 5):
        pass
    with pytest.raises(UserError, match=r"written as \.mp4"):
        VideoWriter(tmp_path / "a.txt", 5)
    with (
        pytest.raises(ValueError, match="must be of one size"),
        VideoWriter(tmp_path / "a.mp4", 5) as out,
    ):
        out.write(image())
        out.write(image(32, 32))
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"file/a\.mp4: cannot be written"),
        VideoWriter(tmp_path / "file" / "a.mp4", 5) as out,
    ):
        out.write(image())
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_gif_keeps_its_rate_on_average(tmp_path):
    write_gif(tmp_path / "a.gif", (image(level=10 * i) for i in range(12)), 24)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 12 and gif.info["loop"] == 0
        lasting = []
        for i in range(12):
            gif.seek(i)
            lasting.append(gif.info["duration"])
        assert sum(lasting) == 500
        pixels = np.asarray(gif.convert("RGB")).astype(int)
    truth = image(level=110).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(pixels - truth).mean() < 3
    assert len(list(open_video(tmp_path / "a.gif"))) == 12
    with pytest.raises(UserError, match="at most 50"):
        write_gif(tmp_path / "b.gif", [image()], 60)


@pytest.mark.parametrize("name", ["12:30.mp4", "http:clip.mp4", "a%02d.mp4", "concat:a|b.mp4",
                                  "caf\udce9.mp4", "-.mp4", "a?b#c.mp4"])  # fmt: skip
def test_any_name_is_that_of_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_clip("plain.mp4")
    (tmp_path / "plain.mp4").rename(name)
    assert len(list(open_video(name))) == len(list(open_video(tmp_path / name))) == 10


LISTS = {
    "concat": "ffconcat version 1.0\nfile real.mp4\n",
    "mark": "\ufeffffconcat version 1.0\nfile real.mp4\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nreal.mp4\n#EXT-X-ENDLIST\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
    "<Period><AdaptationSet><BaseURL>real.mp4</BaseURL></AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("ending", [".mp4", ".ts", ".mkv"])
def test_a_text_does_not_open_other_files(tmp_path, monkeypatch, kind, ending):
    monkeypatch.chdir(tmp_path)
    write_clip("real.mp4")
    (tmp_path / f"list{ending}").write_text(LISTS[kind], encoding="utf-8")
    with pytest.raises(UserError, match=rf"list\{ending}: is a text that may name other files"):
        open_video(f"list{ending}")


def write_tracks(path, default, codecs=("aac", "aac", "aac")):
    """A video with three tracks of sound, of loudness 0.1, 0.3 and 0.6."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=10)
        video.width = video.height = 32
        voices = [out.add_stream(codec, rate=48000, layout="mono") for codec in codecs]
        for i, voice in enumerate(voices):
            voice.disposition = Disposition.default if i == default else Disposition(0)
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        for level, voice in zip((0.1, 0.3, 0.6), voices, strict=True):
            tone = level * np.sin(np.arange(48000) * 0.05).astype(np.float32)[None]
            kind = voice.codec_context.format.name
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate = 48000
            for part in av.AudioResampler(kind, "mono", 48000).resample(frame):
                out.mux(voice.encode(part))
            out.mux(voice.encode(None))
    return path


@pytest.fixture
def sound_of(tmp_path, capsys):
    """The loudness of a file's sound in a video that is written with it, and what is printed."""
    video_module._say.cache_clear()

    def read(path):
        with VideoWriter(tmp_path / "out.mp4", 10, path) as out:
            for _ in range(10):
                out.write(torch.zeros(3, 32, 32, dtype=torch.uint8))
        return loudness(tmp_path / "out.mp4")[1], capsys.readouterr().err

    return read


@pytest.mark.parametrize("default", [0, 1, 2])
def test_the_default_sound_track_is_taken(tmp_path, sound_of, default):
    level, printed = sound_of(write_tracks(tmp_path / "a.mkv", default))
    assert level == pytest.approx((0.1, 0.3, 0.6)[default] / math.sqrt(2), rel=0.1)
    said = f"a.mkv: sound track {default + 1} of 3 is taken, its default\n"
    assert printed.endswith(said) if default else not printed


def test_sound_without_a_decoder_leaves_the_video(tmp_path, sound_of):
    file = write_tracks(tmp_path / "a.mkv", 1, ("aac", "ac3", "aac"))
    content = file.read_bytes()
    file.write_bytes(content.replace(b"A_AC3", b"A_XY3"))
    level, printed = sound_of(file)
    assert level == pytest.approx(0.1 / math.sqrt(2), rel=0.1)
    assert (
        "a.mkv: sound track 2 of 3, its default, cannot be decoded here; sound track 1" in printed
    )
    file.write_bytes(content.replace(b"A_AC3", b"A_XY3").replace(b"A_AAC", b"A_XYZ"))
    level, printed = sound_of(file)
    assert level == 0 and "a.mkv: its sound cannot be decoded here and is left out" in printed
    assert not open_video(file).has_audio and len(list(open_video(file))) == 10
    file.write_bytes(content.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/XYZ"))
    with pytest.raises(UserError, match=r"a\.mkv: its video is of a codec that cannot be decoded"):
        open_video(file)


def test_pixels_of_absurd_shape_are_taken_for_square(tmp_path, capsys):
    write_clip(tmp_path / "a.mp4", aspect=Fraction(17, 1))
    assert open_video(tmp_path / "a.mp4").size == (48, 64)
    assert "a.mp4: states pixels 17 times as wide as high" in capsys.readouterr().err
