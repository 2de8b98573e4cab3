"""Rows of benchmarks/data.py about videos: decoding, detecting, cropping, writing, and memory.

The video is the demo world's people at 512x512, 25 images a second; the long one is the same
packets over and over for ten minutes, read and written again frame by frame. Detectors are timed
where they are installed (the extra `extract`). Asserted first: frames come out at their times and
look like what was written.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from nets.data.detectors import open_detector, person_square
from nets.data.heads.faces import crop_square
from nets.data.io.video import open_video
from nets.data.io.video_writer import VideoWriter
from nets.errors import UserError
from nets.worlds.people.world import PeopleWorld

FPS, SIDE = 25, 512


def rows(folder: Path, quick: bool) -> list[dict[str, Any]]:
    """One row a measure: {"video": what, "frames_per_s": median of three passes} and the memory."""
    count = 25 if quick else 100
    world = PeopleWorld("test", SIDE, length=count)
    samples = [sample for i in range(count) for sample in world.__getitems__([(0, i)])]
    images = [sample["target"] for sample in samples]
    clip = folder / "clip.mp4"

    def write() -> None:
        with VideoWriter(clip, FPS) as out:
            for image in images:
                out.write(image)

    measured = [("write, H.264", rate(write, count))]
    agree(clip, images)
    measured.append(("decode", rate(lambda: drain(open_video(clip)), count)))
    boxes = [person_square(sample["joints"]) for sample in samples]

    def crop() -> None:
        for image, box in zip(images, boxes, strict=True):
            crop_square(image, box, 256)

    measured.append(("crop to 256", rate(crop, count)))
    try:
        find = open_detector()
    except UserError as error:
        print(f"no rows for detectors: {error}")
    else:
        some = images[:10] if quick else images[:40]
        people = [find.people(image) for image in some]
        seen = [(p, found[0]) for p, found in zip(some, people, strict=True) if found]
        for name, look, frames in (
            ("people, the whole image searched", lambda: [find.people(p) for p in some], some),
            ("people, followed", lambda: [find.people(p, near=one) for p, one in seen], seen),
            ("faces", lambda: [find.faces(p) for p in some], some),
            ("mask", lambda: [find.mask(p) for p in some], some),
        ):
            measured.append((f"detect: {name}", rate(look, len(frames))))
    result = [{"video": name, "frames_per_s": value} for name, value in measured]
    for row in result:
        print(f"{row['video']}: {row['frames_per_s']:.1f} frames/s")
    result.append(memory(clip, folder, seconds=20 if quick else 600))
    return result


def rate(work: Callable[[], Any], frames: int) -> float:
    times = []
    for _ in range(4):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return frames / statistics.median(times[1:])


def drain(frames: Any) -> None:
    for _ in frames:
        pass


def agree(clip: Path, images: list[Tensor]) -> None:
    for i, (seconds, image) in enumerate(open_video(clip)):
        error = (image.float() - images[i].float()).abs().mean().item()
        if abs(seconds - i / FPS) > 0.002 or not error < 8:
            raise AssertionError(f"frame {i}: at {seconds:g} s, off by {error:g} levels")


def memory(clip: Path, folder: Path, seconds: int) -> dict[str, Any]:
    """Resident memory at a tenth of a long video, which is read and written again, and its peak
    after that.
    """
    long = folder / "long.mp4"
    loop(clip, long, seconds)
    frames, early, peak = 0, 0.0, 0.0
    start = time.perf_counter()
    with VideoWriter(folder / "again.mp4", FPS) as out:
        for at, image in open_video(long):
            out.write(image[:, ::2, ::2], at)
            frames += 1
            if frames % 50 == 0:
                held = resident()
                if at < seconds / 10:
                    early = max(early, held)
                else:
                    peak = max(peak, held)
    took = time.perf_counter() - start
    if abs(frames - seconds * FPS) > FPS:
        raise AssertionError(f"the long video gave {frames} frames, not {seconds * FPS}")
    print(
        f"{seconds} s of video read and written: {frames / took:.1f} frames/s, {early:.0f} MB "
        f"resident in its first tenth, at most {peak:.0f} MB after"
    )
    return {
        "video": f"{seconds} s read and written at half the size",
        "frames_per_s": frames / took,
        "resident_mb_first_tenth": early,
        "resident_mb_peak_after": peak,
    }


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def loop(clip: Path, long: Path, seconds: int) -> None:
    """The packets of a clip over and over, without coding them again."""
    import av

    with av.open(str(clip)) as given:
        source = given.streams.video[0]
        packets = [p for p in given.demux(source) if p.dts is not None]
        step = min(b.dts - a.dts for a, b in itertools.pairwise(packets))
        length = step * len(packets)
        data = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in packets]
        with av.open(str(long), "w") as out:
            stream = out.add_stream_from_template(source)
            for turn in itertools.count():
                shift = turn * length
                if (shift * source.time_base) >= seconds:
                    return
                for content, pts, dts, key in data:
                    packet = av.Packet(content)
                    packet.pts, packet.dts = pts + shift, dts + shift
                    packet.time_base, packet.is_keyframe = source.time_base, key
                    packet.stream = stream
                    out.mux(packet)
