"""Examples of the page of app.py: people and heads of the demo worlds, with known points.

They are drawn at the start and written to a folder. Their joints, face points and masks are known,
so that no detector needs to be installed for them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from nets.data.detectors import (
    AUTO,
    Detector,
    Person,
    for_heads,
    open_detector,
    person_box,
)
from nets.data.detectors.places import Square
from nets.data.io.images import write_image
from nets.data.io.video import open_video
from nets.data.io.video_writer import VideoWriter
from nets.skeletons import JOINTS_15, JOINTS_17, convert_joints
from nets.worlds import clips
from nets.worlds.heads.export import motion
from nets.worlds.heads.videos import HeadVideos
from nets.worlds.heads.world import HeadsWorld
from nets.worlds.people.world import PeopleWorld

SIDE = 192  # pixels of an example
FPS = 12.5
FRAMES = 25  # of a clip
EVERY = 2  # the worlds move with 25 frames a second


@dataclass(frozen=True)
class KnownImage:
    """What is known of an image: joints (17, 2), face points (68, 2), mask (H, W) in [0, 1]."""

    joints: Tensor | None = None
    points: Tensor | None = None
    mask: Tensor | None = None


class KnownDetector:
    """A detector that knows the example images; others go to the backend, opened when needed."""

    def __init__(self, backend: str = AUTO):
        self._backend = backend
        self._images: dict[str, KnownImage] = {}
        self._detector: Detector | None = None

    def add(self, image: Tensor, known: KnownImage) -> None:
        """Remember an image, (3, H, W) uint8; it is recognised by its pixels."""
        self._images[_digest(image)] = known

    def known(self, image: Tensor) -> KnownImage:
        """What is known of an image; all None if it is not an example."""
        return self._images.get(_digest(image), KnownImage())

    def people(self, image: Tensor, near: Person | None = None) -> list[Person]:
        joints = self.known(image).joints
        if joints is not None:
            return [Person(joints, person_box(joints))]
        return self._opened().people(image, near)

    def places(self, image: Tensor) -> list[Square]:
        if self.known(image).joints is not None:
            return [person.around for person in self.people(image)]
        return self._opened().places(image)

    def faces(
        self, image: Tensor, near: Tensor | None = None, known: Tensor | None = None
    ) -> list[Tensor]:
        points = self.known(image).points
        return self._opened().faces(image, near, known) if points is None else [points]

    def mask(self, image: Tensor) -> Tensor:
        mask = self.known(image).mask
        return self._opened().mask(image) if mask is None else mask

    def _opened(self) -> Detector:
        if self._detector is None:
            self._detector = open_detector(for_heads(self._backend))
        return self._detector


def _digest(image: Tensor) -> str:
    shape = str(tuple(image.shape)).encode()
    return hashlib.sha256(shape + image.contiguous().numpy().tobytes()).hexdigest()


@dataclass
class Examples:
    """Files of examples for a system: photos and a driving clip."""

    photos: list[Path] = field(default_factory=list)
    clip: Path | None = None


def draw_examples(folder: Path, detector: KnownDetector) -> dict[str, Examples]:
    """Write the examples into a folder and tell the detector what is in them; by system."""
    people = _people(folder, detector)
    moving = Examples(people.photos, _person_clip(folder, detector))
    return {
        "vunet": moving,
        "landmarks": Examples(_frames(folder), moving.clip),
        "bilayer": _heads(folder, detector),
        "dcign": _grey_heads(folder),
    }


def _people(folder: Path, detector: KnownDetector) -> Examples:
    """Four people, each in another outfit and pose."""
    world, examples = PeopleWorld("test", SIDE), Examples()
    for i, sample in enumerate(world.__getitems__([(0, index) for index in range(4)])):
        examples.photos.append(folder / f"person_{i + 1}.png")
        write_image(examples.photos[-1], sample["target"])
        joints = convert_joints(sample["joints"], JOINTS_15, JOINTS_17)
        detector.add(sample["target"], KnownImage(joints, mask=sample["mask"].float()))
    return examples


def _frames(folder: Path) -> list[Path]:
    """Four people of the world of clips, on which the demo of the landmarks is trained."""
    first = clips.SPLITS["test"]
    ids, moments = torch.arange(4) + first, torch.arange(4) * 5
    files = []
    for i, image in enumerate(clips.render(ids, moments, SIDE)["image"]):
        files.append(folder / f"dancer_{i + 1}.png")
        write_image(files[-1], image)
    return files


def _person_clip(folder: Path, detector: KnownDetector) -> Path:
    moments = torch.arange(min(FRAMES, clips.FRAMES))
    scene = clips.render(torch.full_like(moments, clips.SPLITS["test"] + 5), moments, SIDE)
    joints = convert_joints(scene["joints"], JOINTS_15, JOINTS_17)
    known = [KnownImage(joints=at) for at in joints]
    return _write_clip(folder / "dance.mp4", scene["image"], known, detector)


def _heads(folder: Path, detector: KnownDetector) -> Examples:
    """Four heads, and a clip of a fifth that moves."""
    videos, examples = HeadVideos("test", SIDE, targets=0), Examples()
    for i in range(4):
        sample = videos[0, i]
        image, mask = sample["source_imgs"][0], sample["source_segs"][0, 0] / 255
        examples.photos.append(folder / f"head_{i + 1}.png")
        write_image(examples.photos[-1], image)
        points = (sample["source_poses"][0].unflatten(-1, (-1, 2)) + 1) / 2 * SIDE
        detector.add(image, KnownImage(points=points, mask=mask))
    scene = {name: value[::EVERY] for name, value in motion(1, FRAMES * EVERY).items()}
    driver = videos[0, len(videos) - 1]
    person, behind = (driver[name].expand(FRAMES) for name in ("person", "background"))
    truth = videos.truth(person, behind, scene)
    known = [
        KnownImage(points=at, mask=mask.float())
        for at, mask in zip(truth["points"], truth["mask"], strict=True)
    ]
    examples.clip = _write_clip(folder / "talk.mp4", truth["image"], known, detector)
    return examples


def _grey_heads(folder: Path) -> Examples:
    """Four grey heads on white, as DC-IGN is trained on, and a clip of a fifth that turns."""
    world, examples = HeadsWorld("test", SIDE, frames=1, colour=False), Examples()
    for i in range(4):
        examples.photos.append(folder / f"grey_head_{i + 1}.png")
        write_image(examples.photos[-1], world[0, i]["image"][0].expand(3, -1, -1))
    scene = {name: value[::EVERY] for name, value in motion(2, FRAMES * EVERY).items()}
    person = torch.full((FRAMES,), len(world.identities.unique()) - 1)
    images = world.truth(person, scene)["image"].expand(-1, 3, -1, -1)
    examples.clip = _write_clip(folder / "turn.mp4", images, [], KnownDetector())
    return examples


def _write_clip(
    path: Path, images: Tensor, known: list[KnownImage], detector: KnownDetector
) -> Path:
    """Write a clip of images (T, 3, H, W); the detector learns its frames as they are decoded."""
    with VideoWriter(path, FPS) as video:
        for image in images:
            video.write(image)
    if known:
        for (_, image), one in zip(open_video(path), known, strict=True):
            detector.add(image, one)
    return path
