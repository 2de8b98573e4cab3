"""People and faces in images: joints, 68 points, masks, by networks of other projects.

Nothing is imported or downloaded before a detector is asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import pickle
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from nets.data.heads.faces import FaceBox
from nets.errors import UserError
from nets.skeletons import JOINTS_17, MEDIAPIPE_33, convert_joints, mesh_to_68

BACKENDS = ("mediapipe", "face-alignment")
INSTALL = "pip install -e '.[{}]'"
FACE_WEIGHTS = ("s3fd-619a316812.pth", "2DFAN4-11f355bf06.pth.tar")  # of face-alignment
HEAD = ("cnose", "leye", "reye", "lear", "rear")
MIRROR = [JOINTS_17.index({"l": "r", "r": "l"}.get(n[0], n[0]) + n[1:]) for n in JOINTS_17]
SURE = 0.5  # a joint that its network holds for less likely to be visible is missing
SAME = 0.15  # of a person's extent: joints nearer than that on average are the same person twice
PART = 0.4  # of another's extent: what is smaller than that and on top of it is a part of it
SMALLEST = 32  # pixels; what is smaller is a hand or a shadow more often than a person


@dataclass
class Person:
    """A person in an image.

    joints  (17, 2) float32, pixels, in the order of JOINTS_17; NaN where not to be seen
    box     x0, y0, x1, y1 in pixels: around the joints, with a head's height above the eyes
    """

    joints: Tensor
    box: tuple[float, float, float, float]

    @property
    def extent(self) -> float:
        """The longer side of the box, pixels."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])


class Detector(Protocol):
    """What extraction and inference ask of a backend. Images are (3, H, W) uint8 RGB."""

    def people(self, image: Tensor, near: Person | None = None) -> list[Person]:
        """People, the largest first. With `near` whoever is where that person was, or nobody."""

    def faces(self, image: Tensor) -> list[Tensor]:
        """The 68 points of every face, (68, 2) float32 pixels in iBUG order; the largest first."""

    def mask(self, image: Tensor) -> Tensor:
        """How likely each pixel is a person: (H, W) float32 in [0, 1]."""


def open_detector(backend: str = "mediapipe") -> Detector:
    """A detector that is ready to work; UserError with the remedy where it is not installed.

    "mediapipe"       joints, face points, masks; its networks come inside its package
    "face-alignment"  face points as iBUG annotates them; loads its weights from the internet on
                      first use, and says so. Joints and masks are mediapipe's
    """
    if backend == "mediapipe":
        return MediaPipe()
    if backend == "face-alignment":
        return FaceAlignment()
    raise UserError(f"detector: must be one of {', '.join(BACKENDS)}, got {backend!r}")


class MediaPipe:
    """MediaPipe's pose, face mesh and selfie segmentation, each image for itself.

    The pose network sees one person. Several are found by running the detector that comes before it
    over the image and over tiles of it, and the network over a crop round each.
    """

    def __init__(self) -> None:
        # It writes a page of notes on stderr; what matters comes as exceptions.
        os.environ.setdefault("GLOG_minloglevel", "3")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        mediapipe = _import("mediapipe", "mediapipe==0.10.21", "extract")
        if not hasattr(mediapipe, "solutions"):
            raise UserError(
                f"mediapipe {mediapipe.__version__}: lacks the networks that come inside of its "
                f"package; {INSTALL.format('extract')} installs 0.10.21, which has them"
            )
        self._solutions, self._made = mediapipe.solutions, {}

    def people(self, image: Tensor, near: Person | None = None) -> list[Person]:
        if near is None:
            places = self._candidates(image)
        else:
            x0, y0, x1, y1 = near.box
            places = [((x0 + x1) / 2, (y0 + y1) / 2, 1.4 * near.extent)]
        found: list[Person] = []
        for x, y, side in places:
            crop, corner = _square(image, x, y, side)
            person = self._pose(crop, corner)
            if person is None or any(_same(person, other) for other in found):
                continue
            if near is None or overlap(person.box, near.box) > 0:
                found.append(person)
        found.sort(key=lambda person: -person.extent)
        return [p for i, p in enumerate(found) if not any(_part(p, o) for o in found[:i])]

    def faces(self, image: Tensor) -> list[Tensor]:
        h, w = image.shape[1:]
        found: list[Tensor] = []
        boxes = []
        for reach in ("near faces", "far faces"):
            for detection in self._run(reach, image).detections or []:
                box = detection.location_data.relative_bounding_box
                x0, y0 = box.xmin * w, box.ymin * h
                boxes.append((x0, y0, x0 + box.width * w, y0 + box.height * h))
        for x0, y0, x1, y1 in boxes:  # a mesh that fits where the face was found
            middle = torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2])
            side = max(x1 - x0, y1 - y0, 1)
            if any((_middle(face) - middle).norm() < side / 3 for face in found):
                continue
            crop, corner = _square(image, *middle.tolist(), 2.2 * side)
            for face in self._run("face_mesh", crop).multi_face_landmarks or []:
                points = mesh_to_68(_points(face.landmark, crop)) + torch.tensor(corner)
                if (_middle(points) - middle).norm() < side / 3:
                    found.append(points)
        return _largest_first(found)

    def mask(self, image: Tensor) -> Tensor:
        made = self._run("selfie", image).segmentation_mask
        return torch.from_numpy(np.array(made, np.float32)).clamp(0, 1)

    def _pose(self, image: Tensor, corner: tuple[int, int]) -> Person | None:
        seen = self._run("pose", image).pose_landmarks
        if seen is None:
            return None
        points = _points(seen.landmark, image)
        sure = torch.tensor([mark.visibility >= SURE for mark in seen.landmark])
        h, w = image.shape[1:]
        inside = (points >= 0).all(-1) & (points < torch.tensor([w, h])).all(-1)
        points[~(sure & inside)] = math.nan
        joints = convert_joints(points, MEDIAPIPE_33, JOINTS_17) + torch.tensor(corner)
        if joints.isnan().all():
            return None
        person = Person(joints, person_box(joints))
        return person if person.extent >= SMALLEST else None

    def _candidates(self, image: Tensor) -> list[tuple[float, float, float]]:
        """Where people may be: middle x, y and side of a square, pixels, likeliest first."""
        h, w = image.shape[1:]
        found = []
        for side in dict.fromkeys([max(h, w), min(h, w), (min(h, w) + 1) // 2]):
            for top, left in product(_starts(h, side), _starts(w, side)):
                tile = image[:, top : top + side, left : left + side]
                th, tw = tile.shape[1:]
                for detection in self._run("detect", tile).detections or []:
                    (hx, hy), (ex, ey) = [
                        (left + p.x * tw, top + p.y * th)
                        for p in detection.location_data.relative_keypoints[:2]
                    ]  # the middle of the hips, and the end of the body's circle
                    whole = 2.5 * math.hypot(ex - hx, ey - hy)
                    if whole >= SMALLEST:
                        found.append((detection.score[0], (hx, hy, whole)))
        return [place for _, place in sorted(found, key=lambda pair: -pair[0])]

    def _run(self, what: str, image: Tensor) -> Any:
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        with _quiet():  # its threads note what they run on when a network first does
            if what not in self._made:
                self._made[what] = self._make(what)
            if what == "detect":
                return self._made[what].process({"image": pixels})
            return self._made[what].process(pixels)

    def _make(self, what: str) -> Any:
        at = self._solutions
        if what == "pose":  # 1: the only pose network that is inside of the package
            return at.pose.Pose(static_image_mode=True, model_complexity=1)
        if what == "face_mesh":  # more than one: a neighbour may be on the crop
            return at.face_mesh.FaceMesh(static_image_mode=True, max_num_faces=3)
        if what in ("near faces", "far faces"):
            return at.face_detection.FaceDetection(model_selection=int(what == "far faces"))
        if what == "selfie":
            return at.selfie_segmentation.SelfieSegmentation(model_selection=0)
        from google.protobuf import text_format
        from mediapipe.framework import calculator_pb2
        from mediapipe.python.solution_base import SolutionBase

        graph = text_format.Parse(DETECT, calculator_pb2.CalculatorGraphConfig())
        return SolutionBase(graph_config=graph, outputs=["detections"])


DETECT = """
input_stream: "image"
output_stream: "detections"
node {
  calculator: "PoseDetectionCpu"
  input_stream: "IMAGE:image"
  output_stream: "DETECTIONS:detections"
}
"""


class FaceAlignment:
    """Face points by the face-alignment package, with its flipped second look; the rest is
    MediaPipe's.
    """

    def __init__(self) -> None:
        package = _import("face_alignment", "face-alignment==1.5.0", "face-alignment")
        self._rest = MediaPipe()
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        lacking = [name for name in FACE_WEIGHTS if not (folder / name).is_file()]
        if lacking:
            print(
                f"face-alignment: loads {' and '.join(lacking)} from the internet into {folder}",
                file=sys.stderr,
                flush=True,
            )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:  # compiled, it would take minutes to begin, in each process
            self._net = package.FaceAlignment(
                package.LandmarksType.TWO_D, device=device, flip_input=True, compile=False
            )
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            why = " ".join(str(error).split())[:200]
            raise UserError(
                f"face-alignment: its weights cannot be loaded ({why}); they are "
                f"{' and '.join(FACE_WEIGHTS)} in {folder}. --detector mediapipe works without"
            ) from error

    def people(self, image: Tensor, near: Person | None = None) -> list[Person]:
        return self._rest.people(image, near)

    def faces(self, image: Tensor) -> list[Tensor]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No faces were detected")
            seen = self._net.get_landmarks_from_image(image.permute(1, 2, 0).numpy()) or []
        return _largest_first([torch.from_numpy(np.asarray(p, np.float32))[:, :2] for p in seen])

    def mask(self, image: Tensor) -> Tensor:
        return self._rest.mask(image)


def person_box(joints: Tensor) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 round the joints (17, 2) that are there, and up to the top of the head; where
    a shoulder is missing, round all of the head. Without the ears (15, 2) it does, too.
    """
    at = dict(zip(JOINTS_17, joints, strict=False))
    neck = (at["lshoulder"] + at["rshoulder"]) / 2
    reach = [neck + 2 * (at["cnose"] - neck)]  # as high above the nose as the neck below
    if reach[0].isnan().any():
        head = torch.stack([at[name] for name in HEAD if name in at])
        head = head[~head.isnan().any(-1)]
        if len(head) > 1:  # of one seen from the front, an ear's distance from the other one
            away = torch.pdist(head).max()
            reach = [head.mean(0) - away, head.mean(0) + away]
    there = torch.stack([*joints, *reach])
    there = there[~there.isnan().any(-1)]
    return (*there.amin(0).tolist(), *there.amax(0).tolist())


def _same(one: Person, other: Person) -> bool:
    """Whether two finds are one person, as it is or taken for its mirror image."""
    for joints in (other.joints, other.joints[MIRROR]):
        distance = (one.joints - joints).norm(dim=-1)
        near = distance[~distance.isnan()]
        if len(near) and near.mean() < SAME * max(one.extent, other.extent):
            return True
    return False


def _starts(length: int, side: int) -> list[int]:
    """Where tiles of a side begin that overlap by half or more and cover a length."""
    steps = max(0, math.ceil(2 * (length - side) / side))
    return [round(i * (length - side) / max(steps, 1)) for i in range(steps + 1)]


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Area that two boxes share, pixels."""
    w = min(one[2], other[2]) - max(one[0], other[0])
    h = min(one[3], other[3]) - max(one[1], other[1])
    return max(w, 0.0) * max(h, 0.0)


def _part(small: Person, large: Person) -> bool:
    """Whether a find is a hand or a bag of a much larger person: mostly on top of that one."""
    x0, y0, x1, y1 = large.box
    room = 0.15 * large.extent
    around = (x0 - room, y0 - room, x1 + room, y1 + room)
    w, h = small.box[2] - small.box[0], small.box[3] - small.box[1]
    return small.extent < PART * large.extent and overlap(small.box, around) > 0.5 * w * h


def _points(marks: Any, image: Tensor) -> Tensor:
    h, w = image.shape[1:]
    return torch.tensor([(mark.x * w, mark.y * h) for mark in marks], dtype=torch.float32)


def _middle(points: Tensor) -> Tensor:
    return (points.amin(0) + points.amax(0)) / 2


def _largest_first(faces: list[Tensor]) -> list[Tensor]:
    return sorted(faces, key=lambda points: -(points.amax(0) - points.amin(0)).max().item())


def _square(image: Tensor, x: float, y: float, side: float) -> tuple[Tensor, tuple[int, int]]:
    """The part of an image inside of a square, and its first pixel's place."""
    h, w = image.shape[1:]
    left, top = max(0, round(x - side / 2)), max(0, round(y - side / 2))
    right, bottom = min(w, round(x + side / 2)), min(h, round(y + side / 2))
    left, top = min(left, w - 1), min(top, h - 1)
    return image[:, top : max(bottom, top + 1), left : max(right, left + 1)], (left, top)


def _import(name: str, package: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{package} is needed to find people and faces, but cannot be imported ({error}): "
            f"{INSTALL.format(extra)}, with Python up to 3.12"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what C++ libraries write on stderr past Python."""
    sys.stderr.flush()
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


MARGIN = 0.15  # around a person, of the longer side of its box


def person_square(joints: Tensor, margin: float = MARGIN) -> FaceBox:
    """The square that is cut out around a person: its centre and half of its side, whole pixels.

    joints  (17, 2) pixels, in the order of JOINTS_17, NaN where missing but not all
    margin  on each side, as a fraction of the longer side of the box around the joints and head
    """
    x0, y0, x1, y1 = person_box(joints)
    half = math.ceil(max(x1 - x0, y1 - y0, 2) * (0.5 + margin))
    return FaceBox(round((x0 + x1) / 2), round((y0 + y1) / 2), half)


class Follow:
    """Finds the same person in frame after frame: image -> Person or None.

    number  which one to begin with: 1 is the largest in the first frame that shows so many
    videos  False: images have nothing to do with one another, each is searched anew
    """

    def __init__(self, detector: Detector, number: int = 1, videos: bool = True):
        self.detector, self.number, self.videos = detector, number, videos
        self._last: Person | None = None

    def __call__(self, image: Tensor) -> Person | None:
        last = self._last
        if last is None:
            everybody = self.detector.people(image)
            found = everybody[self.number - 1] if len(everybody) >= self.number else None
        else:  # first where it was; lost, whoever is there of all
            near = self.detector.people(image, near=last)
            found = self._again(near) or self._again(self.detector.people(image))
        if self.videos and found is not None:
            self._last = found
        return found

    def _again(self, people: list[Person]) -> Person | None:
        """Of those whoever is where the last one was, and no mere part of it, or nobody."""
        last = self._last
        for person in people:
            if overlap(person.box, last.box) and person.extent >= PART * last.extent:
                return person
        return None
