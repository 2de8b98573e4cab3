"""Persons of pictures and videos as a VUNet sees them, and videos of its transfers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from nets.data.detectors import Detector, Person, open_detector
from nets.data.faces import FaceBox, crop_square, paste_square, points_in_crop
from nets.data.frames import Finder, Frame, Frames, pair_name
from nets.data.joints import read_joints
from nets.data.persons import Follow, person_square
from nets.data.pictures import picture_size, read_letterboxed, read_picture
from nets.data.video_writer import FORMATS, VideoWriter
from nets.errors import UserError
from nets.run import options
from nets.run.images import to_uint8

AT_ONCE = 8  # frames in one pass of the network


class Seen(NamedTuple):
    """A person as the network sees it, and where it was cut from."""

    name: str
    picture: Tensor  # (3, S, S) uint8
    joints: Tensor | None  # (J, 2) pixels of it: 17, or as the demo world has them
    whole: Tensor | None = None  # (3, H, W) uint8
    box: FaceBox | None = None  # of the square in `whole`; None: all of it


def given(file: Path, joints: str | None, trained: dict[str, Any]) -> Seen:
    """All of a picture as training saw it, and the joints that a file names, if there is one."""
    size = trained["spatial_size"]
    points = None if joints is None else read_joints(joints, file, picture_size(file))
    if trained["fit"] == "squash":
        return Seen(file.stem, read_picture(file, size), None if points is None else points * size)
    picture, (x, y, w, h) = read_letterboxed(file, size)
    if points is not None:
        points = points * torch.tensor([w, h]) + torch.tensor([x, y])
    return Seen(file.stem, picture, points)


def cut_out(frame: Frame, person: Person, name: str, size: int) -> Seen:
    """A person that was found, cut out as `extract.py people` does."""
    box = person_square(person.joints)
    picture = crop_square(frame.picture, box, size)
    return Seen(name, picture, points_in_crop(person.joints, box, size), frame.picture, box)


def detector(args: options.Namespace, option: str, file: Path) -> Detector:
    """Opens the detector, or says how else the joints of a file may come."""
    try:
        return open_detector(args.detector)
    except UserError as error:
        raise UserError(
            f"{file}: where are the joints? give --{option}_joints FILE, JSON {{name: [x, y]}} or "
            f"index.p:NUMBER, or have them found: {error}"
        ) from error


def found(
    args: options.Namespace, find: Detector, files: list[Path], number: int, size: int
) -> list[Seen]:
    """The person of each picture, cut out; pictures without one as --on_missing says."""
    frames = (frame for file in files for frame in Frames(file))
    finder = Finder(Follow(find, number, videos=False), _called(number), args.on_missing)
    seen = [cut_out(f, person, Path(f.name).stem, size) for f, person in finder(frames)]
    finder.report()
    return seen


def _called(number: int) -> str:
    return "person" if number == 1 else f"person {number}"


def drive(
    args: options.Namespace,
    transfer: Callable[[Tensor], Tensor],
    sources: list[Seen],
    video: Path,
    find: Detector,
    size: int,
) -> None:
    """Write a video of every source in the poses of a video, frame by frame.

    transfer  joints (N, 17, 2) in pixels -> pictures (sources, N, 3, S, S) in [-1, 1]
    """
    frames = Frames(video, args.start, args.end, args.fps)
    finder = Finder(Follow(find, args.person), _called(args.person), args.on_missing)
    people = ((f, cut_out(f, person, "", size)) for f, person in finder(_watched(frames)))
    with contextlib.ExitStack() as stack:
        writers = {
            path: stack.enter_context(VideoWriter(path, frames.fps, video, frames.start))
            for name in (source.name for source in sources)
            for path in _paths(args, name, video, len(sources))
        }
        outs = list(writers.values())
        while part := list(islice(people, AT_ONCE)):
            made = to_uint8(transfer(torch.stack([seen.joints for _, seen in part]))).cpu()
            each = iter(outs)
            for source, row in zip(sources, made, strict=True):
                out, beside = next(each), next(each) if args.concat else None
                for (frame, seen), picture in zip(part, row, strict=True):
                    pasted = paste_square(seen.whole, picture, seen.box) if args.paste else picture
                    out.write(pasted, frame.seconds)
                    if beside is not None:
                        three = [source.picture.cpu(), seen.picture, picture]
                        beside.write(torch.cat(three, 2), frame.seconds)
    finder.report()
    for path in writers:
        print(f"written: {path}")


def _watched(frames: Frames) -> Iterator[Frame]:
    """With a bar of progress where somebody is looking."""
    return iter(tqdm(frames, frames.path.name, frames.count, unit="frame", disable=None))


def _paths(args: options.Namespace, source: str, video: Path, many: int) -> list[Path]:
    """The videos to write of a source: the result, and with --concat the one side by side."""
    out = Path(args.out)
    if out.suffix.lower() in FORMATS and many == 1:
        paths = [out, out.with_name(f"{out.stem}_concat{out.suffix}")]
    else:
        folder = out.with_suffix("")
        paths = [
            folder / pair_name(source, video.stem, ending) for ending in (".mp4", "_concat.mp4")
        ]
    return paths if args.concat else paths[:1]


def pasted(seen: Seen, made: Tensor) -> Tensor:
    """The driving picture with what was made in the person's place."""
    return paste_square(seen.whole, to_uint8(made).cpu(), seen.box)
