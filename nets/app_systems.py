"""What the page of app.py computes: a driver a system, clips, samples and latents.

A driver holds a source image. It shows each driving image, frame of a clip or frame of a camera
beside its result. Nothing here knows the page.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nets import published
from nets.api import LoadedBilayer, LoadedDCIGN, LoadedLandmarks, LoadedVUNet, Model
from nets.app_examples import KnownDetector
from nets.data.detectors import Follow, person_square
from nets.data.heads.faces import crop_square, face_crop_box, points_in_crop
from nets.data.io.frames import Frame, Frames
from nets.data.io.images import letterbox, squash
from nets.data.io.video import is_video
from nets.data.io.video_writer import VideoWriter
from nets.dcign.infer import GREY
from nets.errors import UserError
from nets.landmarks.infer import Networks, annotated
from nets.ops.skeleton import draw_skeleton
from nets.published import SYSTEMS
from nets.run import checkpoints
from nets.run.images import labelled_grid
from nets.skeletons import FACE_68, JOINTS_17, stickman

SIDE = 256  # pixels of an image that shows points
STUDENTS = "avatars"  # runs/avatars/: networks of one person, which only infer.py drives
INCLUDED = "guise"  # the name of the weights that come with guise
NAMES = {"vunet": "VUNet", "landmarks": "landmarks", "bilayer": "head avatar", "dcign": "DC-IGN"}
Cells = dict[str, Tensor]  # caption -> image (3, H, W) uint8; the last one is the result


class Checkpoints:
    """The checkpoints that the page may read: in `folders`, and those that come with guise."""

    def __init__(self, folders: Sequence[Path]):
        self.folders = [Path(folder).resolve() for folder in folders]

    def choices(self, system: str) -> list[tuple[str, str]]:
        """(label, value) of the runs of a system, the newest first."""
        runs: dict[Path, int] = {}
        for folder in self.folders:
            for file in checkpoints.below(folder):
                inside = file.relative_to(folder.parent).parts
                mine = system in inside or not set(SYSTEMS) & set(inside)
                if mine and STUDENTS not in inside:
                    run = file.parent.parent
                    runs[run] = max(runs.get(run, 0), file.stat().st_mtime_ns)
        names = [_shown(run) for run in sorted(runs, key=lambda run: -runs[run])]
        included = published.TRAINED / f"{system}.safetensors"
        first = [("weights that come with guise", INCLUDED)] if included.is_file() else []
        return first + [(name, name) for name in names]

    def resolve(self, system: str, name: str | None) -> Path:
        """The file or folder that a name of the page stands for.

        Raises UserError for a path outside of the folders.
        """
        if not name or not name.strip():
            raise UserError(f"no checkpoint is chosen; {how_to_get(system)}")
        if name == INCLUDED:
            return published.TRAINED / f"{system}.safetensors"
        path = Path(name.strip()).resolve()
        if not self._inside(path):
            where = ", ".join(_shown(folder) for folder in self.folders)
            raise UserError(f"{name}: not in a folder that this page reads ({where}); "
                            "--checkpoints DIR adds one")  # fmt: skip
        file = published.find(path, system)
        if not self._inside(file.resolve()):
            raise UserError(f"{name}: a link to a file outside of the folders of this page")
        return file

    def _inside(self, path: Path) -> bool:
        return any(path.is_relative_to(folder) for folder in self.folders)


def _shown(path: Path) -> str:
    """A path as shown on the page: relative to the working directory if it is in there."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def how_to_get(system: str) -> str:
    """How to get a checkpoint of a system, a phrase."""
    config = "demo.yaml" if system == "vunet" else f"demo_{system}.yaml"
    return f"`python train_{system}.py --config {config}` trains one on a demo world"


@dataclass
class SourceDriver:
    """A source image and a function that shows a driving image beside the result.

    source  images of the source, by caption
    drive   (image (3, H, W) uint8, its name) -> driving images and, last, the result; None where
            nobody is detected
    what    name of the detected thing, for messages
    """

    source: Cells
    drive: Callable[[Tensor, str], Cells | None]
    what: str

    def still(self, image: Tensor, name: str) -> Cells:
        """The cells of one driving image. Raises UserError if nothing is detected in it."""
        cells = self.drive(image, name)
        if cells is None:
            raise UserError(f"{name}: no {self.what} was detected")
        return self.source | cells


def make_driver(
    model: Model,
    image: Tensor,
    name: str,
    detector: KnownDetector,
    background: str | None = None,
    proportions: bool = False,
) -> SourceDriver:
    """The driver of a source image.

    image        (3, H, W) uint8
    name         of the image, for messages
    background   of a head avatar: "white", "black"; None: as it is
    proportions  of a person in other poses: keep the source's limb lengths
    """
    if isinstance(model, LoadedVUNet):
        return _person_driver(model, image, name, detector, proportions)
    if isinstance(model, LoadedLandmarks):
        return _landmarks_driver(model, image, name)
    if isinstance(model, LoadedBilayer):
        return _avatar_driver(model, image, name, detector, background)
    return _face_driver(model, image)


def _person_driver(
    model: LoadedVUNet, image: Tensor, name: str, detector: KnownDetector, proportions: bool
) -> SourceDriver:
    source: Cells = {}
    joints = None
    if model.options["appearance"] == "crops":
        person = see_person(model, image, Follow(detector, 1, videos=False), detector)
        if person is None:
            raise UserError(f"{name}: no person was detected")
        square, joints = person
        source = {"source": square, "joints": _with_joints(square, joints)}
        joints = joints * (model.size / SIDE)
    else:
        fitted = squash(image, None, SIDE), letterbox(image, SIDE).image
        square = fitted[model.options["fit"] != "squash"]
        source = {"source": square}
    given = squash(square, None, model.size)
    if proportions and joints is None:  # in the image itself: the square may have been stretched
        given, joints = image, detector.known(image).joints
        if joints is None:
            people = detector.people(image)
            if not people:
                raise UserError(f"{name}: no person was detected, whose proportions could be kept")
            joints = people[0].joints
    follow = Follow(detector)

    def drive(driving: Tensor, name: str) -> Cells | None:
        person = see_person(model, driving, follow, detector)
        if person is None:
            return None
        seen, at = person
        pose = at * (model.size / SIDE)
        if joints is None:
            result = model.transfer(given, pose)
        else:
            result = model.transfer(given, pose, joints, keep_proportions=proportions)
        return {"driving": seen, "pose": _with_joints(seen, at), "result": result}

    return SourceDriver(source, drive, "person")


def see_person(
    model: LoadedVUNet, image: Tensor, follow: Follow, detector: KnownDetector
) -> tuple[Tensor, Tensor] | None:
    """The person in an image: a square (3, SIDE, SIDE) and joints (17, 2) in it; None if nobody.

    Photos are cut to the person as by extract.py; examples of the demo world are used whole.
    """
    known = detector.known(image).joints
    if known is not None:
        return squash(image, None, SIDE), known * (SIDE / image.shape[-1])
    person = follow(image)
    if person is None:
        return None
    box = person_square(person.joints)
    return crop_square(image, box, SIDE), points_in_crop(person.joints, box, SIDE)


def sample_grid(
    model: LoadedVUNet, image: Tensor, name: str, detector: KnownDetector, count: int, seed: int
) -> tuple[Cells, list[Tensor]]:
    """The pose of an image by caption, and random appearances in it, `count` images."""
    person = see_person(model, image, Follow(detector, 1, videos=False), detector)
    if person is None:
        raise UserError(f"{name}: no person was detected")
    square, joints = person
    samples = model.sample(joints * (model.size / SIDE), count, seed)
    return {"driving": square, "pose": _with_joints(square, joints)}, list(samples)


def _landmarks_driver(model: LoadedLandmarks, image: Tensor, name: str) -> SourceDriver:
    def seen(image: Tensor, name: str) -> Cells:
        frame = Frame(name, None, squash(image, None, SIDE))
        with torch.no_grad(), model.precision.autocast():
            return next(annotated(Networks(model.net), [frame], model.size, model.device))

    of_source = seen(image, name)
    source = {"source": squash(image, None, SIDE), "landmarks": of_source.pop("")}

    def drive(driving: Tensor, name: str) -> Cells:
        cells = seen(driving, name)
        return {
            "driving": squash(driving, None, SIDE),
            "pose": cells[""],
            "result": model.transfer(image, driving),
        }

    return SourceDriver(source | of_source, drive, "person")


def _avatar_driver(
    model: LoadedBilayer, image: Tensor, name: str, detector: KnownDetector, background: str | None
) -> SourceDriver:
    faces = detector.faces(image)
    if not faces:
        raise UserError(f"{name}: no face was detected")
    cut, points, mask = _cut_face(image, faces[0], name, detector)
    source = {"source": cut, "points": _with_points(cut, points)}
    if model.options["emb_apply_masks"]:
        mask = detector.mask(cut) if mask is None else mask
        given = (mask[None] * 255).round().to(torch.uint8)
        source["mask"] = given.expand(3, -1, -1)
        avatar = model.avatar(cut, points, given)
    else:
        avatar = model.avatar(cut, points)
    behind: Any = background

    def drive(driving: Tensor, name: str) -> Cells | None:
        found = detector.faces(driving)
        if not found:
            return None
        seen, at, _ = _cut_face(driving, found[0], name, detector)
        result = avatar.drive(at, behind)
        return {"driving": seen, "pose": _with_points(seen, at), "result": result}

    return SourceDriver(source, drive, "face")


def _cut_face(
    image: Tensor, points: Tensor, name: str, detector: KnownDetector
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The square around a face, (3, s, s) in the image's pixels, its points, and a known mask."""
    try:
        box = face_crop_box(points)
    except ValueError as error:
        raise UserError(f"{name}: {str(error).partition(': ')[2]}") from error
    side = 2 * box.size
    mask = detector.known(image).mask
    if mask is not None:
        mask = crop_square((mask[None] * 255).to(torch.uint8), box, side)[0] / 255
    return crop_square(image, box, side), points_in_crop(points, box, side), mask


def _face_driver(model: LoadedDCIGN, image: Tensor) -> SourceDriver:
    code = model.encode(image)
    taken = torch.zeros(len(code), dtype=torch.bool)
    for name in model._latents.factors:  # pose and light; the rest is the shape
        taken[model.owners[name]] = True
    source = {"source": _grey(image), "reconstruction": _bytes(model.decode(code))}

    def drive(driving: Tensor, name: str) -> Cells:
        moved = torch.where(taken, model.encode(driving), code)
        return {"driving": _grey(driving), "result": _bytes(model.decode(moved))}

    return SourceDriver(source, drive, "face")


def latent_names(model: LoadedDCIGN, shapes: int) -> list[str]:
    """The names of the latents that get a slider: those of factors, and the first `shapes` others.

    A factor of several latents gets a slider for each: azimuth:1, azimuth:2.
    """
    latents = model._latents
    group = latents.groups[-1].name
    names = []
    for name in (*latents.factors, group):
        own = model.owners[name]
        several = own.stop - own.start
        count = min(shapes, several) if name == group else several
        single = name != group and several == 1
        names += [name] if single else [f"{name}:{k + 1}" for k in range(count)]
    return names


def latent_range(model: LoadedDCIGN, name: str, value: float) -> tuple[float, float]:
    """Low and high end of a latent's slider: its range on training data, widened to `value`."""
    low, high = model._latents.bounds(latent_index(model, name))
    room = 0.25 * (high - low) + 1e-3
    return min(low - room, value), max(high + room, value)


def short_scale(low: float, high: float, value: float) -> tuple[float, float, float, float]:
    """Ends, value and step of a slider with few digits: 100 to 1000 steps of a power of ten."""
    digits = 2 - math.floor(math.log10(high - low))
    unit = 10.0**-digits
    ends = math.floor(low / unit) * unit, math.ceil(high / unit) * unit
    first, last, at, step = (round(number, digits) for number in (*ends, value, unit))
    return first, last, at, step


def latent_index(model: LoadedDCIGN, name: str) -> int:
    """The place of a latent in a code."""
    return model._latents.indices(name)[0]


def drive_clip(
    driver: SourceDriver,
    clip: Path,
    out: Path,
    beside: bool,
    limit: float,
) -> Iterator[tuple[int, int]]:
    """Write a video with the clip's sound; yields (frames so far, frames to expect) after each.

    beside  source and driving frame beside the result
    limit   seconds of the clip that are used
    A frame without a detection shows the result before it. Closing the iterator deletes the video.
    """
    if not is_video(clip):
        raise UserError(f"{clip.name}: not a video that guise reads")
    frames = Frames(clip, None, limit)
    assert frames.fps is not None  # only images have none
    last: Cells | None = None
    count = 0
    with VideoWriter(out, frames.fps, clip) as video:
        for number, frame in enumerate(frames):
            cells = driver.drive(frame.image, f"second {frame.seconds:.2f}")
            if cells is None and last is not None:
                cells = last | {"driving": frame.image}
            if cells is not None:
                last = cells
                result = cells["result"]
                if beside:
                    shown = [next(iter(driver.source.values())), cells["driving"], result]
                    result = torch.cat([squash(image, None, SIDE) for image in shown], 2)
                video.write(result, frame.seconds)
                count += 1
            yield number + 1, max(len(frames), number + 1)
        if not count:
            raise UserError(f"{clip.name}: no {driver.what} was detected in any frame")


def grid(cells: Cells) -> Any:
    """The cells in one image with captions, uint8 (H, W, 3)."""
    images = [squash(image, None, SIDE) for image in cells.values()]
    return labelled_grid([images], (), list(cells), gap=6, height=SIDE)


def rows(images: Sequence[Tensor], columns: int, side: int = SIDE // 2) -> Any:
    """Images in rows, each of a side in pixels: uint8 (H, W, 3)."""
    large = [squash(image, None, side) for image in images]
    return labelled_grid([large[i : i + columns] for i in range(0, len(large), columns)], gap=4)


class Speed:
    """Frames per second over the last frames of a camera."""

    KEPT = 20  # frames

    def __init__(self) -> None:
        self._ends: list[float] = []

    def frame(self) -> float | None:
        """Count a frame; returns the frames per second, or None after the first one."""
        now = time.perf_counter()
        if self._ends and now - self._ends[-1] > 5:  # the camera was off
            self._ends.clear()
        self._ends = [*self._ends[-self.KEPT :], now]
        if len(self._ends) < 2:
            return None
        return (len(self._ends) - 1) / max(now - self._ends[0], 1e-6)


def _with_joints(image: Tensor, joints: Tensor) -> Tensor:
    """A stick figure on a darkened image, (3, S, S) uint8; joints in pixels of the image."""
    return torch.maximum(image // 2, stickman(joints[None], image.shape[-1], order=JOINTS_17)[0])


def _with_points(image: Tensor, points: Tensor) -> Tensor:
    """The lines of a face on a darkened image, (3, SIDE, SIDE) uint8."""
    drawn = draw_skeleton((points * (SIDE / image.shape[-1]))[None], FACE_68, SIDE)[0]
    return torch.maximum(squash(image, None, SIDE) // 2, drawn)


def _grey(image: Tensor) -> Tensor:
    """An image as DC-IGN sees it: grey, in a white square."""
    weights = torch.tensor(GREY)[:, None, None]
    grey = (image * weights).sum(0).round().clamp(0, 255).to(torch.uint8).expand(3, -1, -1)
    h, w = grey.shape[1:]
    side = max(h, w)
    square = torch.full((3, side, side), 255, dtype=torch.uint8)
    square[:, (side - h) // 2 :, (side - w) // 2 :][:, :h, :w] = grey
    return square


def _bytes(face: Tensor) -> Tensor:
    """A face (1, S, S) in [0, 1] as an image, (3, S, S) uint8."""
    return (face * 255).round().clamp(0, 255).to(torch.uint8).expand(3, -1, -1)
