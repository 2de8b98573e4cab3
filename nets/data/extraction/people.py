"""Images of people with their joints, cut out of photos and videos: an `index.p` for VUNet."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nets.contracts import Team
from nets.data.detectors import (
    EVERY_PEOPLE,
    MARGIN,
    FollowPeople,
    Person,
    overlap,
    person_box,
    person_square,
)
from nets.data.extraction import jobs
from nets.data.extraction.sheet import Drawing, contact_sheet
from nets.data.heads.faces import crop_square, points_in_crop
from nets.data.io.images import read_image, write_image
from nets.data.io.names import relative_names, unique_names
from nets.data.io.video import VideoReader, is_video, open_video
from nets.data.people.annotations import read_annotations
from nets.data.people.index import TRUNK, write_index
from nets.errors import UserError
from nets.skeletons import JOINTS_17

CROPS = ("square", "aspect", "none")
IDENTITIES = ("file", "folder")
FRAME_NUMBER = re.compile(r"_[0-9]{5,}$")  # of a video, see `_images`


@dataclass(frozen=True)
class PeopleOptions:
    """Options that affect the images. If one changes, all images are extracted again."""

    size: int = 256  # longer side of the images, pixels
    crop: str = "square"  # "aspect": the person's box; "none": the whole image
    margin: float = MARGIN  # around the person, of the longer side of its box
    min_size: int = 64  # of a person in the photo, pixels; smaller ones are left out
    fps: float = 2.0  # images a second of videos
    detector: str = "mediapipe"
    joints: str | None = None  # file of annotated joints, used instead of the detector
    detect_every: int = EVERY_PEOPLE  # search videos' frames every n-th time, see `FollowPeople`


class Entry(TypedDict):
    """One image of a person, as it is recorded."""

    file: str  # below the dataset's folder
    joints: list[list[float]]  # fractions in the order of JOINTS_17; -1: missing
    identity: str


def extract_people(
    given: Sequence[str | Path],
    out: str | Path,
    options: PeopleOptions,
    test: float = 0.1,
    identity: str = "file",
    workers: int = 0,
    team: Team | None = None,
) -> str | None:
    """Write images/, index.p, contact_sheet.png and left_out.txt below `out`; a summary on rank 0.

    test      fraction of the identities in the test split; with one identity, of its images
    identity  "file": each person of a photo or video has an identity of its own; "folder": all
              people in a folder have one identity
    team      ranks that share the files; default: this process alone
    Finished files are kept. The index also has the people of earlier runs into `out` whose photos
    and videos still exist. Raises UserError if there is no person in any file.
    """
    out, team = Path(out), team or jobs.Alone()
    if options.joints is None:
        jobs.detector(options.detector)  # reports missing packages before the work begins
    todo = team.on_main(lambda: _jobs(given, out, options))
    results = jobs.share(
        team, _people_of, todo, lambda file: frame_count(file, options.fps), workers
    )
    if results is None:
        return None
    files = [job[0] for job in todo]
    earlier, gone = _earlier(out, todo)
    entries: list[Entry] = []
    left: list[str] = []
    for file, result in [*zip(files, results, strict=True), *earlier]:
        if "failed" in result:
            left.append(result["failed"])
            continue
        left += result["left_out"]
        for entry in result["entries"]:
            who = str(file.parent) if identity == "folder" else entry["identity"]
            entries.append(Entry(file=entry["file"], joints=entry["joints"], identity=who))
    jobs.report(out / "left_out.txt", left)
    if not entries:
        why = f"; {len(left)} left out, the first: {left[0]}" if left else ""
        raise UserError(f"no person in {len(files)} files{why}")
    train = split([entry["identity"] for entry in entries], test)
    joints = np.array([entry["joints"] for entry in entries], np.float32)
    imgs = [entry["file"] for entry in entries]
    identities = [entry["identity"] for entry in entries]
    write_index(out / "index.p", JOINTS_17, imgs, joints, train, identities)
    contact_sheet(out / "contact_sheet.png", len(entries), lambda i: _shown(out, entries[i]))
    reasons = Counter(line.rpartition(": ")[2].partition(",")[0] for line in left)
    counts = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common(5))
    lines = [
        f"{len(entries)} images of {len(set(identities))} identities, {sum(train)} to train and "
        f"{len(train) - sum(train)} to test: {out / 'index.p'}",
        f"look at {out / 'contact_sheet.png'}",
    ]
    if earlier:
        count = sum(len(record["entries"]) for _, record in earlier)
        lines.insert(1, f"{count} of these images are of earlier runs into {out}")
    if gone:
        lines.append(f"{gone} images of earlier runs left out: their photos or videos are gone")
    if left:
        lines.append(f"left out: {counts}; all of them: {out / 'left_out.txt'}")
    return "\n".join(lines)


def _jobs(
    given: Sequence[str | Path], out: Path, options: PeopleOptions
) -> list[tuple[Path, str, Path, PeopleOptions, list[list[list[float]]] | None]]:
    """The arguments of `_people_of` for each given photo and video. Raises UserError."""
    files = jobs.list_files(given)
    records = jobs.all_records(out / jobs.RECORDS)
    sources = {name: jobs.source_of(record) for name, record in records.items()}
    names = file_names(files, {name: path for name, path in sources.items() if path})
    people_of = None
    if options.joints is not None:
        people_of = read_annotations(options.joints).match(files, relative_names(files, given))
    result = []
    for i, (file, name) in enumerate(zip(files, names, strict=True)):
        known = None if people_of is None else [p.tolist() for p in people_of[i]]
        result.append((file, name, out, options, known))
    return result


def _earlier(out: Path, todo: Sequence[tuple[Any, ...]]) -> tuple[list[tuple[Path, Any]], int]:
    """Sources and records of earlier runs, and the number of images whose sources are gone."""
    given = {os.path.abspath(job[0]) for job in todo}
    names = {job[1] for job in todo}
    earlier, gone = [], 0
    for name, record in jobs.all_records(out / jobs.RECORDS).items():
        source = jobs.source_of(record)
        if name in names or str(source) in given or "entries" not in record:
            continue
        there = [entry for entry in record["entries"] if (out / entry["file"]).is_file()]
        if source is None:
            gone += len(there)
        else:
            record["entries"] = there
            earlier.append((Path(record["key"]["source"]), record))
    return earlier, gone


def split(identities: Sequence[str], test: float) -> list[bool]:
    """The flags of the training split, one for each entry.

    Whole identities are in one split, chosen by a hash of their names. A single identity is
    divided: its first entries are for training. With two or more entries and `test` above 0, both
    splits have at least one.
    """
    people = sorted(set(identities), key=lambda n: hashlib.blake2b(n.encode()).digest())
    parts = len(people) if len(people) > 1 else len(identities)
    count = round(test * parts)
    count = min(max(count, 1), parts - 1) if test > 0 else 0
    if len(people) > 1:
        held = set(people[len(people) - count :])
        return [name not in held for name in identities]
    return [i < len(identities) - count for i in range(len(identities))]


def _people_of(
    file: Path, name: str, out: Path, options: PeopleOptions, known: list[list[list[float]]] | None
) -> jobs.Record:
    """Write the people of one photo or video.

    known  annotated joints of each person, pixels; None: use the detector
    The record has the "entries", and lines about people "left_out".
    """
    key = jobs.record_key(file, {**asdict(options), "known": known, "order": [*JOINTS_17]})
    path = out / jobs.RECORDS / f"{name}.json"
    done = jobs.read_record(path, key)
    if done is not None and all((out / e["file"]).is_file() for e in done["entries"]):
        jobs.tick(frame_count(file, options.fps))
        return done
    entries: list[Entry] = []
    left: list[str] = []
    followed: list[tuple[int, Person]] = []  # people of the frame before, with their numbers
    many = 0  # people so far
    follow = None
    if known is None:
        detector = jobs.detector(options.detector)
        follow = FollowPeople(detector, options.detect_every, 1 / options.fps)
    source = open_video(file, fps=options.fps) if is_video(file) else None
    for where, stem, image in _images(file, name, source):
        if follow is not None:
            people = follow(image)
        else:
            people = [Person(p, person_box(p)) for p in map(torch.tensor, known or [])]
        if not people:
            left.append(f"{where}: no person")
        numbered: list[tuple[int, Person]] = []
        for person in people:
            match = [n for n, before in followed if overlap(person.box, before.box) > 0]
            number = next((n for n in match if n not in [m for m, _ in numbered]), many)
            many += number == many
            numbered.append((number, person))
            why = _unusable(person, options)
            if why:
                left.append(f"{where}: {why}")
                continue
            part, joints = _cut(image, person.joints, options)
            target = f"images/{stem}_{number}.jpg"
            write_image(out / target, part)
            h, w = part.shape[1:]
            fractions = (joints / torch.tensor([w, h])).nan_to_num(-1.0)
            inside = ((fractions >= 0) & (fractions <= 1)).all(-1, keepdim=True)
            fractions = torch.where(inside, fractions, -1.0)
            who = f"{name}_{number}"
            entries.append({"file": target, "joints": fractions.tolist(), "identity": who})
        followed = numbered
        jobs.tick()
    if source is not None and source.damage:
        left.append(f"{file}, {source.damage}")
    record = {"key": key, "entries": entries, "left_out": left}
    jobs.write_record(path, file, record)
    return record


def _unusable(person: Person, options: PeopleOptions) -> str | None:
    """The reason to leave a person out, or None."""
    if person.extent < options.min_size:
        return f"too small, {person.extent:.0f} pixels"
    lacking = [n for n in TRUNK if person.joints[JOINTS_17.index(n)].isnan().any()]
    if lacking:
        return f"truncated or hidden, without {' and '.join(lacking)}"
    return None


def _cut(image: Tensor, joints: Tensor, options: PeopleOptions) -> tuple[Tensor, Tensor]:
    """The image of a person, and the joints in its pixels."""
    if options.crop == "square":
        box = person_square(joints, options.margin)
        side = options.size
        return crop_square(image, box, side), points_in_crop(joints, box, side)
    h, w = image.shape[1:]
    x0, y0, x1, y1 = 0, 0, w, h
    if options.crop == "aspect":
        left, top, right, bottom = person_box(joints)
        room = options.margin * max(right - left, bottom - top)
        x0, y0 = max(0, math.floor(left - room)), max(0, math.floor(top - room))
        x1, y1 = min(w, math.ceil(right + room)), min(h, math.ceil(bottom + room))
    part = image[:, y0:y1, x0:x1]
    scale = options.size / max(part.shape[1:])
    size = (max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale)))
    pillow = Image.fromarray(part.permute(1, 2, 0).contiguous().numpy())
    pixels = np.array(pillow.resize(size, Image.Resampling.BICUBIC))
    resized = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    stretch = torch.tensor([size[0] / (x1 - x0), size[1] / (y1 - y0)])
    return resized, (joints - torch.tensor([x0, y0])) * stretch


def _images(file: Path, name: str, video: VideoReader | None) -> Iterator[tuple[str, str, Tensor]]:
    """Yields (name for messages, name of the file to write, image) of a photo or video."""
    if video is None:
        yield str(file), name, read_image(file, None)
        return
    for number, (seconds, image) in enumerate(video):
        yield f"{file}, second {seconds:.2f}", f"{name}_{number:05d}", image


def frame_count(file: Path, fps: float) -> int:
    """Number of frames to expect of a photo or video."""
    if not is_video(file):
        return 1
    try:
        return open_video(file, fps=fps).frames or 1
    except UserError:
        return 1  # its job reports the error


def file_names(files: Sequence[Path], earlier: Mapping[str, Path] | None = None) -> list[str]:
    """A unique name for each photo or video, without blanks.

    earlier  names of earlier runs and their files: a file keeps its name, and no other gets it
    The names of a video's frames, NAME_00000 and so on, are names of no photo.
    """
    earlier = earlier or {}
    kept = {str(path): name for name, path in earlier.items()}
    names = {i: kept[path] for i, f in enumerate(files) if (path := os.path.abspath(f)) in kept}
    new = [i for i in range(len(files)) if i not in names]
    videos = [i for i in new if is_video(files[i])]
    photos = [i for i in new if not is_video(files[i])]
    frames_of = {_without_number(name) for name, path in earlier.items() if not is_video(path)}
    folded = {name.casefold() for name, path in earlier.items() if is_video(path)}

    def has_photos(place: int, name: str) -> bool:
        return name.casefold() in frames_of

    def is_frame(place: int, name: str) -> bool:
        return _without_number(name) in folded

    of_videos = unique_names([files[i].stem for i in videos], is_taken=has_photos, used=earlier)
    folded |= {name.casefold() for name in of_videos}
    of_photos = unique_names(
        [files[i].stem for i in photos], is_taken=is_frame, used=[*earlier, *of_videos]
    )
    names |= dict(zip([*videos, *photos], [*of_videos, *of_photos], strict=True))
    return [names[i] for i in range(len(files))]


def _without_number(name: str) -> str:
    return FRAME_NUMBER.sub("", name).casefold()


def _shown(out: Path, entry: Entry) -> Drawing:
    image = read_image(out / entry["file"], None)
    points = torch.tensor(entry["joints"])
    points = torch.where(points < 0, torch.nan, points) * torch.tensor(image.shape[:0:-1])
    return image, points, Path(entry["file"]).stem
