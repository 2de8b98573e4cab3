"""Clips of one moving person or object, cut out of videos: folders of frames for landmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from nets.contracts import Team
from nets.data.detectors import MARGIN, Follow
from nets.data.extraction import jobs
from nets.data.extraction.people import frame_count
from nets.data.extraction.sheet import Drawing, contact_sheet
from nets.data.heads.faces import FaceBox, crop_square
from nets.data.io.images import read_image, write_image
from nets.data.io.names import unique_names
from nets.data.io.video import is_video, open_video
from nets.errors import UserError

CLIP_CROPS = ("person", "centre")


@dataclass(frozen=True)
class ClipOptions:
    """Options that affect the frames. If one changes, all frames are extracted again."""

    size: int = 256  # side of the frames, pixels
    fps: float = 10.0  # frames a second
    crop: str = "person"  # around the path of the largest person; "centre": the middle square
    margin: float = MARGIN
    detector: str = "mediapipe"


def extract_clips(
    given: Sequence[str | Path],
    out: str | Path,
    options: ClipOptions,
    workers: int = 0,
    team: Team | None = None,
) -> str | None:
    """Write a folder of frames below `out` for each video, and a contact sheet; a summary.

    All frames of a clip are cut out with one square, so that motion is kept. The square surrounds
    all places of the largest person of the first frame, or is the middle of the video. Finished
    clips are kept. Raises UserError if there is no video, or no person in any.

    team  ranks that share the videos; default: this process alone. Only rank 0 has a summary
    """
    out, team = Path(out), team or jobs.Alone()
    if options.crop == "person":
        jobs.detector(options.detector)
    named = team.on_main(lambda: _named_videos(given, out))
    todo = [(video, name, out, options) for video, name in named]
    passes = 2 if options.crop == "person" else 1

    def count(video: Path) -> int:
        return passes * frame_count(video, options.fps)

    results = jobs.share(team, _clip_of, todo, count, workers)
    if results is None:
        return None
    left = [line for r in results for line in (r.get("left_out") or [r.get("failed", "")]) if line]
    files = [file for result in results for file in result.get("files", [])]
    jobs.report(out.parent / f"{out.name}_left_out.txt", left)
    if not files:
        raise UserError(f"no clip from {len(named)} videos; the first left out: {left[0]}")
    sheet = out.parent / f"{out.name}_contact_sheet.png"
    contact_sheet(sheet, len(files), lambda i: _shown(out, files[i]))
    clips = sum(1 for result in results if result.get("files"))
    lines = [f"{len(files)} frames in {clips} clips: {out}", f"look at {sheet}"]
    if left:
        lines.append(f"{len(left)} left out: {out.parent / f'{out.name}_left_out.txt'}")
    return "\n".join(lines)


def _named_videos(given: Sequence[str | Path], out: Path) -> list[tuple[Path, str]]:
    """The videos, each with a unique name. Raises UserError."""
    videos = jobs.list_files(given, videos_only=True)
    for file in videos:
        if not is_video(file):
            raise UserError(f"{file}: is not a video")
    records = out.parent / jobs.RECORDS / out.name

    def is_taken(place: int, name: str) -> bool:
        return jobs.is_of_another(records / f"{name}.json", videos[place])

    names = unique_names([video.stem for video in videos], is_taken=is_taken)
    return list(zip(videos, names, strict=True))


def _clip_of(video: Path, name: str, out: Path, options: ClipOptions) -> jobs.Record:
    """Write the frames of one video; the record with its "files" and what was "left_out"."""
    key = jobs.record_key(video, asdict(options))
    path = out.parent / jobs.RECORDS / out.name / f"{name}.json"
    done = jobs.read_record(path, key)
    if done is not None and all((out / file).is_file() for file in done["files"]):
        jobs.tick(frame_count(video, options.fps) * (2 if options.crop == "person" else 1))
        return done
    reader = open_video(video, fps=options.fps)
    h, w = reader.size
    left: list[str] = []
    if options.crop == "person":
        box = _path_of(video, options, left)
        if box is None:
            return {"left_out": [f"{video}: no person"]}
    else:
        box = FaceBox(w // 2, h // 2, min(h, w) // 2)
    files = []
    for number, (_, image) in enumerate(reader):
        file = f"{name}/{number:06d}.jpg"
        write_image(out / file, crop_square(image, box, options.size))
        files.append(file)
        jobs.tick()
    if reader.damage:
        left.append(f"{video}, {reader.damage}")
    record = {"key": key, "files": files, "left_out": left}
    jobs.write_record(path, video, record)
    return record


def _path_of(video: Path, options: ClipOptions, left: list[str]) -> FaceBox | None:
    """The square around all places of the first frame's largest person; None: no person.

    left  gets a line about frames without the person
    """
    follow = Follow(jobs.detector(options.detector))
    boxes: list[tuple[float, float, float, float]] = []
    missing = 0
    for _, image in open_video(video, fps=options.fps):
        person = follow(image)
        jobs.tick()
        if person is None:
            missing += 1
        else:
            boxes.append(person.box)
    if not boxes:
        return None
    if missing:
        left.append(f"{video}: no person in {missing} frames, which are kept")
    at = torch.tensor(boxes)
    x0, y0 = at[:, :2].amin(0).tolist()
    x1, y1 = at[:, 2:].amax(0).tolist()
    half = round(max(x1 - x0, y1 - y0, 2) * (0.5 + options.margin))
    return FaceBox(round((x0 + x1) / 2), round((y0 + y1) / 2), half)


def _shown(out: Path, file: str) -> Drawing:
    return read_image(out / file, None), None, file
