"""Heads cut out of videos, with 68 points and masks: a dataset folder for avatars."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from nets.contracts import Team
from nets.data.detectors import EVERY, FollowFace, require_masks
from nets.data.extraction import jobs
from nets.data.extraction.sheet import Drawing, contact_sheet
from nets.data.heads.faces import (
    FaceBox,
    crop_square,
    face_crop_box,
    points_in_crop,
    stable_boxes,
)
from nets.data.heads.videos import KINDS, PHASES, frame_path, read_frame, write_frame
from nets.data.io.images import read_image
from nets.data.io.names import unique_names
from nets.data.io.video import is_video, open_video
from nets.errors import UserError
from nets.listing import natural_key

HEAD_CROPS = ("frame", "stable")


@dataclass(frozen=True)
class HeadOptions:
    """Options that affect the frames. If one changes, all frames are extracted again."""

    sampling_rate: int = 1  # take every n-th frame of a video
    image_size: int = 256  # side of the images, pixels
    masks: bool = True
    start: float | None = None  # second of each video to begin at
    end: float | None = None  # second to stop before
    detector: str = "mediapipe"
    detect_every: int = EVERY  # search whole frames every n-th time, see `FollowFace`
    crop: str = "frame"  # the square around each frame's points; "stable": see `stable_boxes`


def extract_heads(
    given: Sequence[str | Path],
    out: str | Path,
    phase: str,
    options: HeadOptions,
    workers: int = 0,
    team: Team | None = None,
) -> str | None:
    """Write imgs/, keypoints/ and segs/ of a phase below `out`; a summary on rank 0.

    given  roots with PERSON/VIDEO/SEQUENCE.mp4, or single videos, whose name then is the name of
           person, video and sequence
    team   ranks that share the videos; default: this process alone
    A contact sheet and a list of frames left out are written too. FRAME is the number of the frame
    in the video. Finished frames are kept. Raises UserError if there is no video, or no face in
    any.
    """
    if phase not in PHASES:
        raise UserError(f"phase: must be one of {', '.join(PHASES)}, got {phase!r}")
    out = Path(out)
    detector = jobs.detector(options.detector)  # reports what is missing before the work begins
    if options.masks:
        require_masks(detector)
    team = team or jobs.Alone()
    videos = team.on_main(lambda: list_videos(given, out / jobs.RECORDS / phase))
    todo = [(video, name, out, phase, options) for video, name in videos]
    results = jobs.share(team, _heads_of, todo, lambda video: _count(video, options), workers)
    if results is None:
        return None
    left: list[str] = []
    names: list[str] = []
    border = 0
    for result in results:
        if "failed" in result:
            left.append(result["failed"])
            continue
        left += result["left_out"]
        names += result["names"]
        border += result["border"]
    jobs.report(out / f"left_out_{phase}.txt", left)
    if not names:
        raise UserError(f"no face in {len(videos)} videos; the first left out: {left[0]}")
    sheet = out / f"contact_sheet_{phase}.png"
    contact_sheet(sheet, len(names), lambda i: _shown(out, phase, names[i], options))
    people = len({name.split("/")[0] for name in names})
    lines = [
        f"{len(names)} frames of {people} persons in {len(videos)} videos: {out}/imgs/{phase}",
        f"look at {sheet}",
    ]
    if border:
        lines.append(f"{border} faces at the border of their frames: parts of those are black")
    if left:
        lines.append(f"{len(left)} frames or videos left out: {out / f'left_out_{phase}.txt'}")
    return "\n".join(lines)


def list_videos(given: Sequence[str | Path], records: Path | None = None) -> list[tuple[Path, str]]:
    """The videos, each with a unique name PERSON/VIDEO/SEQUENCE. Raises UserError.

    records  folder of the records; names of other videos in it are not used
    A video without folders is a person of its own.
    """
    places: dict[str, tuple[Path, list[str]]] = {}  # by absolute path
    for root in map(Path, given):
        videos = jobs.list_files([root], videos_only=True)
        if not is_video(videos[0]):
            raise UserError(f"{root}: is not a video")
        for video in videos:
            parts = list(video.relative_to(root).with_suffix("").parts) if root.is_dir() else []
            parts = (parts or [video.stem])[-3:]
            person = [parts[0] if len(parts) > 1 else f"{parts[0]}\0{os.path.abspath(video)}"]
            places.setdefault(os.path.abspath(video), (video, [*person, *parts[1:]]))
    files = [video for video, _ in places.values()]
    names = [""] * len(files)
    levels = [parts for _, parts in places.values()]

    def is_free(record: str, video: Path) -> bool:
        return records is None or not jobs.is_of_another(records / f"{record}.json", video)

    def name_below(folder: str, members: list[int], level: int) -> None:
        """Set the names of the videos in a folder, those with equal parts in one folder."""
        groups: dict[tuple[str, int], list[int]] = {}
        for i in members:
            last = level == len(levels[i]) - 1 and level > 0
            groups.setdefault((levels[i][level], i if last else -1), []).append(i)
        some = list(groups.values())
        labels = [levels[group[0]][level].partition("\0")[0] for group in some]

        def is_taken(place: int, name: str) -> bool:
            first = some[place][0]
            if level < len(levels[first]) - 1:
                return False  # a folder; what is in it may be taken
            return not is_free("/".join([folder, *[name] * (3 - level)]).lstrip("/"), files[first])

        for group, name in zip(some, unique_names(labels, is_taken=is_taken), strict=True):
            ends = [i for i in group if level == len(levels[i]) - 1]
            for i in ends:
                names[i] = "/".join([folder, *[name] * (3 - level)]).lstrip("/")
            more = [i for i in group if i not in ends]
            if more:
                name_below(f"{folder}/{name}", more, level + 1)

    name_below("", list(range(len(files))), 0)
    return sorted(zip(files, names, strict=True), key=lambda pair: natural_key(pair[1]))


def _heads_of(video: Path, name: str, out: Path, phase: str, options: HeadOptions) -> jobs.Record:
    """Write the frames of one video.

    The record has "names" of the frames, lines about those "left_out", and the number of heads that
    extend beyond the "border" of their frame.
    """
    key = jobs.record_key(video, asdict(options))
    path = out / jobs.RECORDS / phase / f"{name}.json"
    done = jobs.read_record(path, key)
    if done is not None and all(_is_complete(out, phase, n, options) for n in done["names"]):
        jobs.tick(_count(video, options))
        return done
    marker = path.with_suffix(".begun")  # marks a stopped run with these settings
    resumed = jobs.read_record(marker, key) is not None
    jobs.write_record(marker, video, {"key": key})
    detector = jobs.detector(options.detector)
    names: list[str] = []
    left: list[str] = []
    border = 0
    reader = open_video(video, options.start, options.end)
    first = round((options.start or 0) * reader.fps)
    ahead = _stable_faces(video, options, first) if options.crop == "stable" else None
    follow = FollowFace(detector, options.detect_every, options.sampling_rate / reader.fps)
    for number, (seconds, image) in enumerate(reader, first):
        if number % options.sampling_rate:
            continue
        jobs.tick()
        frame = f"{name}/{number}"
        if resumed and _is_complete(out, phase, frame, options):
            names.append(frame)
            border += _black_edge(read_image(frame_path(out, "imgs", phase, frame), None))
            if ahead is None:
                follow.skip(image)
            continue
        face = _face(follow(image)) if ahead is None else ahead.get(number, "no face")
        if isinstance(face, str):
            left.append(f"{video}, frame {number}, second {seconds:.2f}: {face}")
            continue
        at, box = face
        h, w = image.shape[1:]
        cx, cy, half = box
        border += min(cx - half, cy - half) < 0 or cx + half > w or cy + half > h
        head = crop_square(image, box, options.image_size)
        points = points_in_crop(at, box, options.image_size)
        mask = None
        if options.masks:
            share = detector.mask(head)
            share = share if share.max() >= 0.5 else torch.zeros_like(share)  # noise, no person
            mask = (share[None] * 255).round().to(torch.uint8)
        write_frame(out, phase, frame, head, points, mask)
        names.append(frame)
    if reader.damage:
        left.append(f"{video}, {reader.damage}")
    record = {"key": key, "names": names, "left_out": left, "border": int(border)}
    jobs.write_record(path, video, record)
    marker.unlink(missing_ok=True)
    return record


def _face(points: Tensor | None) -> tuple[Tensor, FaceBox] | str:
    """The points of a face and its square, or why there is none."""
    if points is None:
        return "no face"
    try:
        return points, face_crop_box(points)
    except ValueError:
        return "a face without extent"


def _stable_faces(
    video: Path, options: HeadOptions, first: int
) -> dict[int, tuple[Tensor, FaceBox] | str]:
    """What `_face` finds in each frame that is taken, with squares of one size on a smooth path."""
    reader = open_video(video, options.start, options.end)
    detector, every = jobs.detector(options.detector), options.detect_every
    follow = FollowFace(detector, every, options.sampling_rate / reader.fps)
    found: dict[int, tuple[Tensor, FaceBox] | str] = {}
    for number, (_, image) in enumerate(reader, first):
        if number % options.sampling_rate == 0:
            found[number] = _face(follow(image))
    places = {number: face[0] for number, face in found.items() if not isinstance(face, str)}
    if places:
        rate = reader.fps / options.sampling_rate
        boxes = stable_boxes(torch.stack(list(places.values())), rate)
        found.update(zip(places, zip(places.values(), boxes, strict=True), strict=True))
    return found


def _black_edge(head: Tensor) -> bool:
    """True if a cut-out head extends beyond the border of its frame: one of its edges is black."""
    edges = (head[:, 0], head[:, -1], head[:, :, 0], head[:, :, -1])
    return any(bool((edge < 8).all()) for edge in edges)


def _is_complete(out: Path, phase: str, name: str, options: HeadOptions) -> bool:
    kinds = [kind for kind in KINDS if kind != "segs" or options.masks]
    return all(frame_path(out, kind, phase, name).is_file() for kind in kinds)


def _count(video: Path, options: HeadOptions) -> int:
    try:
        frames = open_video(video, options.start, options.end).frames or 1
        return -(-frames // options.sampling_rate)
    except UserError:
        return 1  # its job reports the error


def _shown(out: Path, phase: str, name: str, options: HeadOptions) -> Drawing:
    frame = read_frame(out, phase, name, options.image_size, masks=options.masks)
    points = (frame.pose.reshape(-1, 2) + 1) / 2 * options.image_size
    image = frame.image
    if frame.mask is not None:  # dim the background
        share = 0.35 + 0.65 * frame.mask.float() / 255
        image = (image * share).round().to(torch.uint8)
    return image, points, "/".join(name.split("/")[-2:])
