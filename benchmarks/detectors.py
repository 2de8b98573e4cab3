"""Detectors of faces and people: speed, agreement with each other, and what following costs.

    python benchmarks/detectors.py VIDEOS... [--people VIDEOS...] [--before NAME=FOLDER ...]

Rows about faces, for each video and detector:
    searched  faces are searched in every frame as a whole
    followed  every tenth frame is searched, the others near the last place (`FollowFace`)
Rows "command": all that `extract.py heads` and `people` do, from start to end: by earlier versions,
checkouts given by --before NAME=FOLDER, and by this one, with every frame searched as a whole and
by default, which follows. Each repeat runs them one after the other; ratios are those of a repeat,
so that other load on the machine falls on both.
Rows about people, by MediaPipe: every frame searched, as before squares that look alike were left
out, and as now; and every third and fifth frame searched (`FollowPeople`).

Speed is in frames a second of processor time, of all threads together, so that other programs on
the machine do not change it. Distances are means over points, in distances between the outer
corners of the eyes (faces) or in extents of the person. First comes agreement: a video in which
followed faces are off by more than BOUND on average ends the program with status 1.
"""

from __future__ import annotations

import argparse
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import write_report
from nets.data.detectors import (
    EVERY_PEOPLE,
    Detector,
    FollowFace,
    FollowPeople,
    Person,
    interface,
    marks,
    open_detector,
    overlap,
)
from nets.data.extraction import jobs
from nets.data.io.video import open_video
from nets.errors import UserError

BOUND = 0.02  # mean distance of followed from searched points: twice of what a shift of the image
# by five pixels does to MediaPipe's own points
PARTS = {"jaw": (0, 17), "brows": (17, 27), "nose": (27, 36), "eyes": (36, 48), "mouth": (48, 68)}
OUTPUT = Path(__file__).parent / "results" / "detectors-cpu.json"
Points = list[Tensor | None]


def frames_of(video: str, count: int, fps: float | None = None) -> list[Tensor]:
    frames = []
    for _, image in open_video(video, fps=fps):
        frames.append(image)
        if len(frames) == count:
            break
    return frames


def timed(call: Callable[[Tensor], Any], frames: Sequence[Tensor]) -> tuple[list[Any], float]:
    """The results, and the frames a second of processor time."""
    start = time.process_time()
    results = [call(frame) for frame in frames]
    return results, len(frames) / (time.process_time() - start)


def distances(one: Points, other: Points) -> Tensor:
    """(frames, 68) distances of points where both are found, in distances between the eyes."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    if not pairs:
        return torch.full((1, 68), torch.nan)
    return torch.stack([(a - b).norm(dim=-1) / (a[36] - a[45]).norm() for a, b in pairs])


def found(points: Sequence[Any]) -> float:
    return round(sum(one is not None for one in points) / len(points), 3)


def faces(name: str, detector: Detector, frames: list[Tensor]) -> tuple[dict[str, Any], Points]:
    def search(image: Tensor) -> Tensor | None:
        return next(iter(detector.faces(image)), None)

    FollowFace(detector)(frames[0])  # opens the networks
    searched, before = timed(search, frames)
    followed, after = timed(FollowFace(detector), frames)
    away = distances(searched, followed).mean(1)
    row = {
        "row": "faces", "detector": name,
        "found": found(searched), "found_followed": found(followed),
        "searched_per_s": round(before, 1), "followed_per_s": round(after, 1),
        "ratio": round(after / before, 2), "mean_distance": round(away.mean().item(), 4),
        "largest_of_a_frame": round(away.max().item(), 4),
    }  # fmt: skip
    return row, searched


def command(
    kind: str,
    detector: str,
    videos: Sequence[str],
    end: float,
    before: dict[str, Path],
    repeats: int,
) -> list[dict[str, Any]]:
    """Frames a second of `extract.py heads` or `people` by each version, and their ratios.

    "searched" is this version with every frame searched as a whole, "followed" its default.
    """
    here = Path(__file__).resolve().parents[1]
    versions = {name: (root, []) for name, root in before.items()}
    versions |= {"searched": (here, ["--detect_every", "1"]), "followed": (here, [])}
    fps = None if kind == "heads" else 2.0  # the default of `people`
    frames = sum(1 for video in videos for _ in open_video(video, end=end, fps=fps))
    seconds: dict[str, list[float]] = {name: [] for name in versions}
    for _ in range(repeats):
        for name, (root, more) in versions.items():
            with tempfile.TemporaryDirectory() as out:
                argv = [sys.executable, str(root / "extract.py"), kind, *videos, "-o", out]
                argv += ["--workers", "0", "--detector", detector, *more]
                argv += ["--end", str(end)] if kind == "heads" else []
                begun = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
                subprocess.run(argv, check=True, capture_output=True, cwd=out)
                ended = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
                seconds[name].append(ended - begun)
    rows = []
    for name, times in seconds.items():
        first = seconds[next(iter(versions))]
        ratios = [t / now for t, now in zip(first, times, strict=True)]
        rows.append({
            "row": "command", "command": kind, "detector": detector, "version": name,
            "videos": len(videos), "frames": frames,
            "seconds": round(statistics.median(times), 2),
            "per_s": round(frames / statistics.median(times), 1),
            "faster_than_first": round(statistics.median(ratios), 2),
            "ratios": [round(ratio, 2) for ratio in ratios],
        })  # fmt: skip
    return rows


def between(one: Points, other: Points) -> dict[str, Any]:
    """How far the points of two detectors are apart, part by part."""
    away = distances(one, other).mean(0)
    parts = {part: round(away[a:b].mean().item(), 4) for part, (a, b) in PARTS.items()}
    return {"row": "mediapipe and dlib", "all": round(away.mean().item(), 4), **parts}


def people(detector: Detector, frames: list[Tensor]) -> list[dict[str, Any]]:
    detector.people(frames[0])
    with mock.patch.object(marks, "alike", lambda one, other: False):
        reference, before = timed(detector.people, frames)
    rows = []
    for every in (1, EVERY_PEOPLE, 5):
        result, after = timed(FollowPeople(detector, every), frames)
        away = [
            nearest(p, others) for ps, others in zip(reference, result, strict=True) for p in ps
        ]
        there = [distance for distance in away if distance is not None]
        rows.append({
            "row": "people", "every": every, "before_per_s": round(before, 2),
            "now_per_s": round(after, 2), "ratio": round(after / before, 2),
            "people_before": len(away), "people_now": sum(map(len, result)),
            "of_before_found": len(there),
            "mean_distance": round(sum(there) / max(1, len(there)), 4),
        })  # fmt: skip
    return rows


def nearest(person: Person, others: list[Person]) -> float | None:
    """The mean distance of the joints of the person at the same place, in extents, or None."""
    here = [other for other in others if overlap(person.box, other.box) > 0]
    away = [
        ((person.joints - o.joints).norm(dim=-1) / person.extent).nanmean().item() for o in here
    ]
    return min((d for d in away if d < interface.SAME), default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("videos", nargs="*", help="videos of heads")
    parser.add_argument("--people", nargs="*", default=[], help="videos of people")
    parser.add_argument("--frames", type=int, default=60, help="frames of each video of a head")
    parser.add_argument("--people_frames", type=int, default=8, help="images of each other video")
    parser.add_argument("--fps", type=float, default=2.0, help="images a second of people")
    parser.add_argument(
        "--before",
        nargs="*",
        default=[],
        metavar="NAME=FOLDER",
        help="checkouts of earlier versions, timed too",
    )
    parser.add_argument("--end", type=float, default=4.0, help="seconds of each video for these")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each version")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="JSON file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    opened: dict[str, Detector] = {}
    for name in ("mediapipe", "dlib"):
        try:
            opened[name] = jobs.detector(name)
        except UserError as error:
            print(f"no {name}: {error}")
    rows: list[dict[str, Any]] = []
    wrong = []
    for video in args.videos:
        frames = frames_of(video, args.frames)
        facts = {"video": Path(video).name, "size": [*frames[0].shape[:0:-1]]}
        points = {}
        for name, detector in opened.items():
            row, points[name] = faces(name, detector, frames)
            rows.append({**facts, **row})
            print(rows[-1], flush=True)
            if row["mean_distance"] > BOUND:
                off = f"off by {row['mean_distance']} eye distances, more than {BOUND}"
                wrong.append(f"{facts['video']}, {name}: followed faces are {off}")
        if len(points) == 2:
            rows.append({**facts, **between(*points.values())})
            print(rows[-1], flush=True)
    faces_rows = len(rows)
    before = {name: Path(folder) for name, folder in (pair.split("=", 1) for pair in args.before)}
    for name in opened if args.videos and args.repeats and "mediapipe" in opened else []:
        rows += command("heads", name, args.videos, args.end, before, args.repeats)
    if args.people and args.repeats and "mediapipe" in opened:
        rows += command("people", "mediapipe", args.people, math.inf, before, args.repeats)
    for row in rows[faces_rows:]:
        print(row, flush=True)
    for video in args.people if "mediapipe" in opened else []:
        frames = frames_of(video, args.people_frames, args.fps)
        for row in people(open_detector(), frames):
            rows.append({"video": Path(video).name, "size": [*frames[0].shape[:0:-1]], **row})
            print(rows[-1], flush=True)
    write_report(args.output, {"bound": BOUND, "rows": rows})
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
