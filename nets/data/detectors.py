"""Detectors of people and faces: joints, 68 points and masks, by networks of other projects.

Packages and weights are loaded only when a detector is opened.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
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
from PIL import Image
from torch import Tensor

from nets.data.heads.faces import FaceBox
from nets.data.mediapipe_tasks import are_there, file_of
from nets.errors import UserError
from nets.skeletons import JOINTS_17, MEDIAPIPE_33, convert_joints, mesh_to_68

BACKENDS = ("mediapipe", "face-alignment", "dlib")
# For the help of options; docs/data.md has more.
ABOUT = (
    "detector of people and faces; dlib and face-alignment give iBUG's 68 points, on which "
    "published head avatars were trained; dlib's model of them is not for commerce (300-W)"
)
INSTALL = "pip install -e '.[{}]'"
FACE_WEIGHTS = ("s3fd-619a316812.pth", "2DFAN4-11f355bf06.pth.tar")  # of face-alignment
HEAD = ("cnose", "leye", "reye", "lear", "rear")
MIRROR = [JOINTS_17.index({"l": "r", "r": "l"}.get(n[0], n[0]) + n[1:]) for n in JOINTS_17]
SURE = 0.5  # joints with a lower probability of being visible are missing
SAME = 0.15  # of the extent: two detections with a smaller mean distance are one person
PART = 0.4  # of the extent: a smaller detection on top of a person is a part of that person
MOST_TILES = 48  # along the longer side; narrow strips get larger tiles
ALIKE = 0.15  # of the side: squares that are nearer to each other are searched once
AROUND = 2.2  # side of the square in which a face is looked for again, in extents of its points
SMALLEST = 32  # pixels; smaller detections are mostly hands or shadows


@dataclass
class Person:
    """A person in an image.

    joints  (17, 2) float32, pixels, in the order of JOINTS_17; NaN if not visible
    box     x0, y0, x1, y1 in pixels: around the joints, with a head's height above the eyes
    """

    joints: Tensor
    box: tuple[float, float, float, float]

    @property
    def extent(self) -> float:
        """The longer side of the box, pixels."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])


class Detector(Protocol):
    """Interface of the backends. Images are (3, H, W) uint8 RGB."""

    def people(self, image: Tensor, near: Person | None = None) -> list[Person]:
        """All people, the largest first.

        near  search only around this person of an earlier frame; the result may be empty
        """

    def faces(self, image: Tensor, near: Tensor | None = None) -> list[Tensor]:
        """The 68 points of all faces, (68, 2) float32 pixels in iBUG order; the largest first.

        near  points of an earlier frame; only a face near them is looked for, if that is faster
        """

    def mask(self, image: Tensor) -> Tensor:
        """Probability that a pixel belongs to a person: (H, W) float32 in [0, 1]."""


def open_detector(backend: str = "mediapipe") -> Detector:
    """The detector of a backend. Raises UserError with the remedy if it is not installed.

    "mediapipe"       joints, face points, masks; the package contains its networks
    "face-alignment"  face points as annotated in iBUG; prints a line and downloads its weights on
                      first use. Joints and masks are by mediapipe
    "dlib"            the same 68 points by dlib, for any Python; the package of its models holds
                      them. Joints and masks are by mediapipe, if it is installed
    """
    if backend == "mediapipe":
        return open_mediapipe()
    if backend == "face-alignment":
        return FaceAlignment()
    if backend == "dlib":
        return Dlib()
    raise UserError(f"detector: must be one of {', '.join(BACKENDS)}, got {backend!r}")


def open_mediapipe() -> MediaPipe | MediaPipeTasks:
    """The detector for the installed MediaPipe. Raises UserError with the remedy."""
    # MediaPipe prints many notes on stderr; its errors are exceptions.
    os.environ.setdefault("GLOG_minloglevel", "3")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    mediapipe = _import("mediapipe", "mediapipe==0.10.21", "extract")
    return MediaPipe(mediapipe) if hasattr(mediapipe, "solutions") else MediaPipeTasks(mediapipe)


class MediaPipe:
    """Detector with the networks inside MediaPipe up to 0.10.21: pose, face mesh and selfies.

    The pose network handles one person. For several, MediaPipe's person detector runs over the
    image and over tiles of it, and the pose network over a crop around each person.
    """

    def __init__(self, package: Any) -> None:
        self._solutions = package.solutions
        self._networks: dict[str, Any] = {}  # by name, created on first use

    def people(self, image: Tensor, near: Person | None = None) -> list[Person]:
        if near is None:
            places = self._candidates(image)
        else:
            x0, y0, x1, y1 = near.box
            places = [((x0 + x1) / 2, (y0 + y1) / 2, 1.4 * near.extent)]
        people: list[Person] = []
        searched: list[tuple[float, float, float]] = []  # squares that showed somebody
        for place in places:
            if any(_alike(place, other) for other in searched):
                continue
            x, y, side = place
            crop, corner = _square(image, x, y, side)
            person = self._pose(crop, corner)
            searched += [place] if person is not None else []
            if person is None or any(_same(person, other) for other in people):
                continue
            if near is None or overlap(person.box, near.box) > 0:
                people.append(person)
        people.sort(key=lambda person: -person.extent)
        return [p for i, p in enumerate(people) if not any(_part(p, o) for o in people[:i])]

    def faces(self, image: Tensor, near: Tensor | None = None) -> list[Tensor]:
        if near is not None:
            return self._face_near(image, near)
        h, w = image.shape[1:]
        faces: list[Tensor] = []
        boxes = []
        for reach in ("near faces", "far faces"):
            for detection in self._run(reach, image).detections or []:
                box = detection.location_data.relative_bounding_box
                x0, y0 = box.xmin * w, box.ymin * h
                boxes.append((x0, y0, x0 + box.width * w, y0 + box.height * h))
        for x0, y0, x1, y1 in boxes:  # keep meshes that lie at the face's box
            middle = torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2])
            side = max(x1 - x0, y1 - y0, 1)
            if any((_middle(face) - middle).norm() < side / 3 for face in faces):
                continue
            x, y = middle.tolist()
            crop, corner = _square(image, x, y, 2.2 * side)
            for face in self._run("face_mesh", crop).multi_face_landmarks or []:
                points = mesh_to_68(_points(face.landmark, crop)) + torch.tensor(corner)
                if (_middle(points) - middle).norm() < side / 3:
                    faces.append(points)
        return _largest_first(faces)

    def _face_near(self, image: Tensor, near: Tensor) -> list[Tensor]:
        """The face whose mesh fits the place of earlier points, or none; without a search."""
        from mediapipe.framework.formats.rect_pb2 import NormalizedRect

        x, y, side, angle = mesh_square(near)
        h, w = image.shape[1:]
        place = NormalizedRect(
            x_center=x / w, y_center=y / h, width=side / w, height=side / h, rotation=angle
        )
        mesh = self._run("mesh at", image, place).landmarks
        return [] if mesh is None else [mesh_to_68(_points(mesh.landmark, image))]

    def mask(self, image: Tensor) -> Tensor:
        mask = self._run("selfie", image).segmentation_mask
        return torch.from_numpy(np.array(mask, np.float32)).clamp(0, 1)

    def _pose(self, image: Tensor, corner: tuple[int, int]) -> Person | None:
        """The person in a crop whose first pixel is at `corner` = (x, y) of the image."""
        marks = self._run("pose", image).pose_landmarks
        if marks is None:
            return None
        return _person(marks.landmark, image, corner)

    def _candidates(self, image: Tensor) -> list[tuple[float, float, float]]:
        """Squares that may contain people: middle x, y and side in pixels, likeliest first."""
        candidates = []
        for tile, (left, top) in _tiles(image):
            th, tw = tile.shape[1:]
            for detection in self._run("detect", tile).detections or []:
                (hx, hy), (ex, ey) = [
                    (left + p.x * tw, top + p.y * th)
                    for p in detection.location_data.relative_keypoints[:2]
                ]  # the middle of the hips, and a point of the circle around the body
                side_of_body = 2.5 * math.hypot(ex - hx, ey - hy)
                if side_of_body >= SMALLEST:
                    candidates.append((detection.score[0], (hx, hy, side_of_body)))
        return [square for _, square in sorted(candidates, key=lambda pair: -pair[0])]

    def _run(self, name: str, image: Tensor, place: Any = None) -> Any:
        """MediaPipe's own result of a network on an image, or at a place of it."""
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        with _quiet():  # MediaPipe's threads print their device at a network's first run
            if name not in self._networks:
                self._networks[name] = self._create(name)
            if name == "detect":
                return self._networks[name].process({"image": pixels})
            if name == "mesh at":
                return self._networks[name].process({"image": pixels, "place": place})
            return self._networks[name].process(pixels)

    def _create(self, name: str) -> Any:
        solutions = self._solutions
        if name == "pose":  # 1: the only pose network in the package
            return solutions.pose.Pose(static_image_mode=True, model_complexity=1)
        if name == "face_mesh":  # more than one: the crop may contain a neighbour
            return solutions.face_mesh.FaceMesh(static_image_mode=True, max_num_faces=3)
        if name in ("near faces", "far faces"):
            return solutions.face_detection.FaceDetection(model_selection=int(name == "far faces"))
        if name == "selfie":
            return solutions.selfie_segmentation.SelfieSegmentation(model_selection=0)
        text_format = importlib.import_module("google.protobuf.text_format")
        from mediapipe.framework import calculator_pb2
        from mediapipe.python.solution_base import PacketDataType, SolutionBase

        config = calculator_pb2.CalculatorGraphConfig()
        if name == "detect":
            text_format.Parse(DETECT, config)
            return SolutionBase(graph_config=config, outputs=["detections"])
        # The text names a message of this module.
        importlib.import_module("mediapipe.calculators.core.constant_side_packet_calculator_pb2")
        text_format.Parse(MESH_AT, config)
        kinds = {"place": PacketDataType.PROTO, "landmarks": PacketDataType.PROTO}
        return SolutionBase(graph_config=config, outputs=["landmarks"], stream_type_hints=kinds)


DETECT = """
input_stream: "image"
output_stream: "detections"
node {
  calculator: "PoseDetectionCpu"
  input_stream: "IMAGE:image"
  output_stream: "DETECTIONS:detections"
}
"""

MESH_AT = """
input_stream: "image"
input_stream: "place"
node {
  calculator: "ConstantSidePacketCalculator"
  output_side_packet: "PACKET:with_attention"
  node_options: {
    [type.googleapis.com/mediapipe.ConstantSidePacketCalculatorOptions]: {
      packet { bool_value: false }
    }
  }
}
node {
  calculator: "FaceLandmarkCpu"
  input_stream: "IMAGE:image"
  input_stream: "ROI:place"
  input_side_packet: "WITH_ATTENTION:with_attention"
  output_stream: "LANDMARKS:landmarks"
}
"""


class MediaPipeTasks:
    """Detector with MediaPipe from 1.0, whose networks are files, see nets/data/mediapipe_tasks.py.

    People are searched in the image and in tiles of it, at most five in each; faces in the image,
    and in its tiles if there is none.
    """

    MOST = 5  # in a tile

    def __init__(self, package: Any) -> None:
        self._package = package
        self._vision = importlib.import_module("mediapipe.tasks.python.vision")
        self._networks: dict[str, Any] = {}
        self._network("pose")  # reports missing files before the work begins

    def people(self, image: Tensor, near: Person | None = None) -> list[Person]:
        if near is None:
            tiles = list(_tiles(image))
        else:
            x0, y0, x1, y1 = near.box
            tiles = [_square(image, (x0 + x1) / 2, (y0 + y1) / 2, 1.4 * near.extent)]
        people: list[Person] = []
        for tile, corner in tiles:
            for marks in self._run("pose", tile).pose_landmarks:
                person = _person(marks, tile, corner)
                if person is None or any(_same(person, other) for other in people):
                    continue
                if near is None or overlap(person.box, near.box) > 0:
                    people.append(person)
        people.sort(key=lambda person: -person.extent)
        return [p for i, p in enumerate(people) if not any(_part(p, o) for o in people[:i])]

    def faces(self, image: Tensor, near: Tensor | None = None) -> list[Tensor]:
        if near is not None:
            x, y = _middle(near).tolist()
            return self._faces(*_square(image, x, y, AROUND * _extent(near)))
        faces: list[Tensor] = []
        for tile, corner in _tiles(image):
            for face in self._faces(tile, corner):
                if all((_middle(face) - _middle(f)).norm() > _extent(f) / 3 for f in faces):
                    faces.append(face)
            if tile.shape == image.shape and faces:
                break
        return _largest_first(faces)

    def mask(self, image: Tensor) -> Tensor:
        masks = self._run("masks", image).confidence_masks  # of a person, or of the rest and her
        mask = np.array(masks[-1].numpy_view(), np.float32).reshape(tuple(image.shape[1:]))
        return torch.from_numpy(mask).clamp(0, 1)

    def _faces(self, tile: Tensor, corner: tuple[int, int]) -> list[Tensor]:
        meshes = self._run("faces", tile).face_landmarks
        faces = [mesh_to_68(_points(mesh, tile)) + torch.tensor(corner) for mesh in meshes]
        return _largest_first(faces)

    def _run(self, part: str, image: Tensor) -> Any:
        """MediaPipe's own result of a network on an image."""
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        network = self._network(part)
        packed = self._package.Image(image_format=self._package.ImageFormat.SRGB, data=pixels)
        with _quiet():
            return network.segment(packed) if part == "masks" else network.detect(packed)

    def _network(self, part: str) -> Any:
        if part not in self._networks:
            vision = self._vision
            file = file_of(part)  # a missing one is named before anything else can fail
            core = importlib.import_module("mediapipe.tasks.python.core.base_options")
            base = core.BaseOptions(model_asset_buffer=file.read_bytes())
            kind, options = {
                "pose": (vision.PoseLandmarker, vision.PoseLandmarkerOptions),
                "faces": (vision.FaceLandmarker, vision.FaceLandmarkerOptions),
                "masks": (vision.ImageSegmenter, vision.ImageSegmenterOptions),
            }[part]
            more = {"pose": {"num_poses": self.MOST}, "faces": {"num_faces": self.MOST}}
            wanted = more.get(part, {"output_confidence_masks": True})
            try:
                with _quiet():
                    network = kind.create_from_options(options(base_options=base, **wanted))
            except (ValueError, RuntimeError, OSError) as error:
                raise UserError(
                    f"mediapipe {self._package.__version__} cannot use {file}: {error}"
                ) from error
            network.close = _nothing  # it would fail in the interpreter's last moments
            self._networks[part] = network
        return self._networks[part]


class FaceAlignment:
    """Detector of face points with the face-alignment package; people and masks by MediaPipe.

    Each face is evaluated twice, also as its mirror image.
    """

    def __init__(self) -> None:
        package = _import("face_alignment", "face-alignment==1.5.0", "face-alignment")
        self._rest = open_mediapipe()
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        missing = [name for name in FACE_WEIGHTS if not (folder / name).is_file()]
        if missing:
            print(
                f"face-alignment: downloads {' and '.join(missing)} from the internet to {folder}",
                file=sys.stderr,
                flush=True,
            )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:  # compilation would take minutes in each process
            self._net = package.FaceAlignment(
                package.LandmarksType.TWO_D, device=device, flip_input=True, compile=False
            )
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            why = " ".join(str(error).split())[:200]
            raise UserError(
                f"face-alignment: its weights cannot be loaded ({why}); they are "
                f"{' and '.join(FACE_WEIGHTS)} in {folder}. --detector mediapipe needs no download"
            ) from error

    def people(self, image: Tensor, near: Person | None = None) -> list[Person]:
        return self._rest.people(image, near)

    def faces(self, image: Tensor, near: Tensor | None = None) -> list[Tensor]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No faces were detected")
            faces = self._net.get_landmarks_from_image(image.permute(1, 2, 0).numpy()) or []
        return _largest_first([torch.from_numpy(np.asarray(p, np.float32))[:, :2] for p in faces])

    def mask(self, image: Tensor) -> Tensor:
        return self._rest.mask(image)


def _nothing() -> None:
    """Closes a network of MediaPipe, whose memory the system takes back."""


def is_mediapipe_ready() -> bool:
    """True if MediaPipe is installed, with its networks."""
    if importlib.util.find_spec("mediapipe") is None:
        return False
    inside = importlib.util.find_spec("mediapipe.python") is not None  # up to 0.10.21
    return inside or are_there()


def finds_people(detector: Detector) -> bool:
    """False for a detector of faces alone."""
    return not isinstance(detector, Dlib) or detector.has_mediapipe


class Dlib:
    """Detector of face points with dlib; people and masks by MediaPipe, if it is installed.

    The 68 points are those of iBUG's annotations, jaw included. Faces are searched at a width that
    suits dlib's window of 80 pixels, then at twice that; points are placed in the whole image.
    The models lie in the package face_recognition_models.
    """

    SIDES = (640, 1280)  # pixels of the longer side in which faces are searched
    SIDE_NEAR = 240  # the same around a face, which then is somewhat larger than the window

    def __init__(self) -> None:
        package = _import("dlib", "dlib-bin", "dlib")
        file = dlib_model("shape_predictor_68_face_landmarks.dat")
        self._box = package.rectangle
        self._find = package.get_frontal_face_detector()
        self._place = package.shape_predictor(str(file))
        self._boxes: list[tuple[Tensor, Sequence[float]]] = []  # of the last search, with points
        self._origin: tuple[Tensor, Sequence[float]] | None = None  # of the face that is followed
        self._others: MediaPipe | MediaPipeTasks | None = None
        self.has_mediapipe = is_mediapipe_ready()

    def people(self, image: Tensor, near: Person | None = None) -> list[Person]:
        return self._rest("people").people(image, near)

    def faces(self, image: Tensor, near: Tensor | None = None) -> list[Tensor]:
        if near is not None:
            return self._face_near(image, near)
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        for side in self.SIDES:
            scale = min(side / max(pixels.shape[:2]), 2.0)
            found = self._find(_scaled(pixels, scale))
            if found or scale == 2.0:
                break
        boxes = [
            tuple(edge / scale for edge in (box.left(), box.top(), box.right(), box.bottom()))
            for box in found
        ]
        self._boxes = [(self._points(pixels, box), box) for box in boxes]
        return _largest_first([points for points, _ in self._boxes])

    def _face_near(self, image: Tensor, near: Tensor) -> list[Tensor]:
        """The face near earlier points, in the box of their face moved along, or none.

        A new box would differ by the steps in which dlib searches, and the points with it.
        """
        start = next(((points, box) for points, box in self._boxes if points is near), None)
        if start is None:
            start = self._origin
        else:
            self._origin = start
        (x, y), extent = _middle(near).tolist(), _extent(near)
        square, _ = _square(image, x, y, AROUND * extent)
        part = np.ascontiguousarray(square.permute(1, 2, 0).numpy())
        scale = min(self.SIDE_NEAR / max(part.shape[:2]), 2.0)
        if start is None or not self._find(_scaled(part, scale)):
            return []
        points, box = start
        u, v = _anchor(points).tolist()
        x, y = _anchor(near).tolist()
        growth = _reach(near) / _reach(points)
        moved = [
            x + growth * (box[0] - u), y + growth * (box[1] - v),
            x + growth * (box[2] - u), y + growth * (box[3] - v),
        ]  # fmt: skip
        return [self._points(np.ascontiguousarray(image.permute(1, 2, 0).numpy()), moved)]

    def _points(self, pixels: np.ndarray, box: Sequence[float]) -> Tensor:
        marks = self._place(pixels, self._box(*map(round, box)))
        points = [(marks.part(i).x, marks.part(i).y) for i in range(68)]
        return torch.tensor(points, dtype=torch.float32)

    def mask(self, image: Tensor) -> Tensor:
        return self._rest("masks").mask(image)

    def _rest(self, what: str) -> MediaPipe | MediaPipeTasks:
        if self._others is None:
            try:
                self._others = open_mediapipe()
            except UserError as error:
                raise UserError(f"dlib finds no {what}, which mediapipe does: {error}") from error
        return self._others


def dlib_model(name: str) -> Path:
    """A file of the package face_recognition_models. Raises UserError if it is not installed."""
    # The package itself imports pkg_resources, which new versions of setuptools lack.
    spec = importlib.util.find_spec("face_recognition_models")
    folders = list(spec.submodule_search_locations or []) if spec else []
    file = Path(folders[0]) / "models" / name if folders else Path(name)
    if not file.is_file():
        raise UserError(
            f"face_recognition_models is needed, but {file.name} is not there: "
            f"{INSTALL.format('dlib')}"
        )
    return file


def _scaled(pixels: np.ndarray, scale: float) -> np.ndarray:
    """An image (H, W, 3) uint8 of another size."""
    h, w = (max(1, round(side * scale)) for side in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((w, h), Image.Resampling.BILINEAR))


def person_box(joints: Tensor) -> tuple[float, float, float, float]:
    """The box x0, y0, x1, y1 around a person's joints, extended to the top of the head.

    joints  (17, 2), or (15, 2) without ears, pixels; NaN if missing
    If a shoulder is missing, the box is extended around the head's joints instead.
    """
    at = dict(zip(JOINTS_17, joints, strict=False))
    neck = (at["lshoulder"] + at["rshoulder"]) / 2
    reach = [neck + 2 * (at["cnose"] - neck)]  # as far above the nose as the neck is below it
    if reach[0].isnan().any():
        head = torch.stack([at[name] for name in HEAD if name in at])
        head = head[~head.isnan().any(-1)]
        if len(head) > 1:  # in front view the distance between the ears
            away = torch.pdist(head).max()
            reach = [head.mean(0) - away, head.mean(0) + away]
    points = torch.stack([*joints, *reach])
    points = points[~points.isnan().any(-1)]
    return (*points.amin(0).tolist(), *points.amax(0).tolist())


def _same(one: Person, other: Person) -> bool:
    """True if two detections are one person, also if one has left and right exchanged."""
    for joints in (other.joints, other.joints[MIRROR]):
        distance = (one.joints - joints).norm(dim=-1)
        near = distance[~distance.isnan()]
        if len(near) and near.mean() < SAME * max(one.extent, other.extent):
            return True
    return False


def _sides(h: int, w: int) -> list[int]:
    """Sides of the tiles in which people are searched, at most MOST_TILES along an image."""
    least = -(-2 * max(h, w) // MOST_TILES)  # tiles overlap by half
    sides = [max(h, w), min(h, w), (min(h, w) + 1) // 2]
    return list(dict.fromkeys(max(side, least) for side in sides))


def _starts(length: int, side: int) -> list[int]:
    """Starts of tiles that cover a length and overlap by at least half."""
    steps = max(0, math.ceil(2 * (length - side) / side))
    return [round(i * (length - side) / max(steps, 1)) for i in range(steps + 1)]


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Area of the intersection of two boxes, in square pixels."""
    w = min(one[2], other[2]) - max(one[0], other[0])
    h = min(one[3], other[3]) - max(one[1], other[1])
    return max(w, 0.0) * max(h, 0.0)


def _part(small: Person, large: Person) -> bool:
    """True if a detection is a part of a much larger person, like a hand: mostly on top of it."""
    x0, y0, x1, y1 = large.box
    room = 0.15 * large.extent
    around = (x0 - room, y0 - room, x1 + room, y1 + room)
    w, h = small.box[2] - small.box[0], small.box[3] - small.box[1]
    return small.extent < PART * large.extent and overlap(small.box, around) > 0.5 * w * h


def _tiles(image: Tensor) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """The tiles in which people are searched, the whole image first, and their first pixels."""
    h, w = image.shape[1:]
    for side in _sides(h, w):
        for top, left in product(_starts(h, side), _starts(w, side)):
            yield image[:, top : top + side, left : left + side], (left, top)


def _person(marks: Any, image: Tensor, corner: tuple[int, int]) -> Person | None:
    """The person of MediaPipe's 33 marks in a crop whose first pixel is at `corner`, or None."""
    points = _points(marks, image)
    sure = torch.tensor([mark.visibility >= SURE for mark in marks])
    h, w = image.shape[1:]
    inside = (points >= 0).all(-1) & (points < torch.tensor([w, h])).all(-1)
    points[~(sure & inside)] = math.nan
    joints = convert_joints(points, MEDIAPIPE_33, JOINTS_17) + torch.tensor(corner)
    if joints.isnan().all():
        return None
    person = Person(joints, person_box(joints))
    return person if person.extent >= SMALLEST else None


def _points(marks: Any, image: Tensor) -> Tensor:
    h, w = image.shape[1:]
    return torch.tensor([(mark.x * w, mark.y * h) for mark in marks], dtype=torch.float32)


def _middle(points: Tensor) -> Tensor:
    return (points.amin(0) + points.amax(0)) / 2


def _extent(points: Tensor) -> float:
    return (points.amax(0) - points.amin(0)).max().item()


def _anchor(points: Tensor) -> Tensor:
    """The middle of eyes and nose, which stay where they are when the mouth opens."""
    return points[27:48].mean(0)


def _reach(points: Tensor) -> float:
    return (points[27:48] - _anchor(points)).norm(dim=-1).mean().item()


def mesh_square(points: Tensor) -> tuple[float, float, float, float]:
    """The square that MediaPipe's mesh network takes around a face: x, y, side, angle in radians.

    points  (68, 2) pixels. The proportions are the means of the squares that MediaPipe's own search
    gives; x and y are the middle.
    """
    right, left, mouth = (points[a:b].mean(0) for a, b in ((36, 42), (42, 48), (48, 60)))
    eyes, across = (left + right) / 2, left - right
    down = (mouth - eyes).norm().item()
    angle = math.atan2(across[1].item(), across[0].item())
    x, y = eyes.tolist()
    x, y = x - 0.553 * down * math.sin(angle), y + 0.553 * down * math.cos(angle)
    return x, y, 3.25 * max(across.norm().item(), down), angle


def _alike(one: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    """True if two squares x, y, side show nearly the same."""
    (x, y, side), (u, v, length) = one, other
    near = math.hypot(x - u, y - v) < ALIKE * min(side, length)
    return near and abs(side - length) < 2 * ALIKE * min(side, length)


def _largest_first(faces: list[Tensor]) -> list[Tensor]:
    return sorted(faces, key=lambda points: -_extent(points))


def _square(image: Tensor, x: float, y: float, side: float) -> tuple[Tensor, tuple[int, int]]:
    """The part of an image inside a square, and the x, y of its first pixel."""
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
            f"{package} is needed to detect people and faces, but cannot be imported ({error}): "
            f"{INSTALL.format(extra)}"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides the output of C++ libraries on stderr."""
    sys.stderr.flush()
    saved = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nothing)


MARGIN = 0.15  # on each side of a person, as a fraction of the longer side of its box


def person_square(joints: Tensor, margin: float = MARGIN) -> FaceBox:
    """The square to cut out around a person: centre and half of its side, whole pixels.

    joints  (17, 2) pixels, in the order of JOINTS_17, NaN if missing; at least one is present
    margin  on each side, as a fraction of the longer side of the box around joints and head
    """
    x0, y0, x1, y1 = person_box(joints)
    half = math.ceil(max(x1 - x0, y1 - y0, 2) * (0.5 + margin))
    return FaceBox(round((x0 + x1) / 2), round((y0 + y1) / 2), half)


class Follow:
    """Follows one person through frames: maps an image to a Person or None.

    number  person to follow: 1 is the largest in the first frame with at least `number` people
    videos  False: search each image independently of the others
    """

    def __init__(self, detector: Detector, number: int = 1, videos: bool = True):
        self.detector, self.number, self.videos = detector, number, videos
        self._last: Person | None = None

    def __call__(self, image: Tensor) -> Person | None:
        last = self._last
        if last is None:
            people = self.detector.people(image)
            person = people[self.number - 1] if len(people) >= self.number else None
        else:  # search near the last place, then the whole image
            person = _match(self.detector.people(image, near=last), last)
            person = person or _match(self.detector.people(image), last)
        if self.videos and person is not None:
            self._last = person
        return person


def _match(people: list[Person], last: Person) -> Person | None:
    """The first person that overlaps `last` and is not just a part of it, or None."""
    for person in people:
        if overlap(person.box, last.box) and person.extent >= PART * last.extent:
            return person
    return None


EVERY = 10  # frames from one search for faces in a whole frame to the next
CLOSE = 0.2  # seconds between frames in which a face stays about where it was
STAYS = 0.25  # of its extent: a face that moves or grows by more is searched anew


class FollowFace:
    """Follows the largest face through frames: maps an image to its points (68, 2) or None.

    every    number of frames from one search in the whole frame to the next; between them the face
             is looked for near its last place, and in the whole frame if it is not there. 1: always
             in the whole frame
    seconds  time from one frame to the next; frames that are too far apart are searched whole

    The points depend on the frames since the last multiple of `every` alone.
    """

    def __init__(self, detector: Detector, every: int = EVERY, seconds: float = 0.0):
        self.detector = detector
        self.every = every if seconds <= CLOSE else 1
        self._count = 0
        self._skipped: list[Tensor] = []
        self._last: Tensor | None = None

    def skip(self, image: Tensor) -> None:
        """Pass over a frame. Later frames get the points that they get if it is not skipped."""
        if self._count % self.every == 0:
            self._skipped, self._last = [], None
        self._skipped.append(image)
        self._count += 1

    def __call__(self, image: Tensor) -> Tensor | None:
        self.skip(image)
        for one in self._skipped:
            self._last = self._find(one, self._last)
        self._skipped = []
        return self._last

    def _find(self, image: Tensor, last: Tensor | None) -> Tensor | None:
        if last is not None:
            for points in self.detector.faces(image, near=last):
                if _stays(points, last):
                    return points
        return next(iter(self.detector.faces(image)), None)


def _stays(points: Tensor, last: Tensor) -> bool:
    room = STAYS * _extent(last)
    moved = (_middle(points) - _middle(last)).norm().item()
    return moved < room and abs(_extent(points) - _extent(last)) < room


class FollowPeople:
    """Follows all people through frames: maps an image to a list of Person, the largest first.

    every  number of frames from one search in the whole frame to the next; between them people are
           looked for near their last places, and in the whole frame if one is not there. Who comes
           in between is found at the next search. 1: always in the whole frame
    """

    def __init__(self, detector: Detector, every: int = 1):
        self.detector, self.every = detector, every
        self._count = 0
        self._last: list[Person] = []

    def __call__(self, image: Tensor) -> list[Person]:
        again = self._count % self.every == 0
        self._count += 1
        followed = [] if again else self._near(image)
        self._last = followed or self.detector.people(image)
        return self._last

    def _near(self, image: Tensor) -> list[Person]:
        """The people near their last places; none if anybody is lost."""
        people: list[Person] = []
        for last in self._last:
            person = _match(self.detector.people(image, near=last), last)
            if person is None or any(_same(person, other) for other in people):
                return []
            people.append(person)
        return sorted(people, key=lambda person: -person.extent)
