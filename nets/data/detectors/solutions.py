"""MediaPipe up to 0.10.21, whose networks are inside the package."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nets.data.detectors.interface import Person
from nets.data.detectors.marks import (
    SMALLEST,
    distinct_people,
    face_of,
    people_at,
    person_of,
    quiet,
)
from nets.data.detectors.places import (
    Square,
    anchored,
    cut_square,
    extent,
    largest_first,
    middle,
    tiles,
)

Turned = tuple[float, float, float, float]  # a square: middle x, y, side in pixels; angle, radians


class MediaPipe:
    """Detector with the networks inside MediaPipe up to 0.10.21: pose, face mesh and selfies.

    The pose network handles one person. For several, MediaPipe's person detector runs over the
    image and over tiles of it, and the pose network over a crop around each person.
    """

    def __init__(self, package: Any) -> None:
        self._solutions = package.solutions
        self._networks: dict[str, Any] = {}  # by name, created on first use
        self._meshes: list[tuple[Tensor, Turned]] = []  # faces of the last search and their squares
        self._origin: tuple[Tensor, Turned] | None = None  # of the face that is followed

    def people(self, image: Tensor, near: Person | None = None) -> list[Person]:
        places = self._candidates(image) if near is None else [near.around]
        found = ((place, partial(self._pose, *cut_square(image, *place))) for place in places)
        return distinct_people(people_at(found), near)

    def places(self, image: Tensor) -> list[Square]:
        return [square for _, square in self._detected(image, (0, 0))]

    def faces(
        self, image: Tensor, near: Tensor | None = None, known: Tensor | None = None
    ) -> list[Tensor]:
        if near is not None:
            return self._face_near(image, near)
        faces: list[Tensor] = []
        self._meshes = []
        for reach in ("near faces", "far faces"):
            for box in self._face_boxes(reach, image):
                self._add_meshes(image, box, faces)
            if known is not None and any(_is_same_place(face, known) for face in faces):
                break
        return largest_first(faces)

    def _face_boxes(self, reach: str, image: Tensor) -> Iterator[tuple[float, float, float]]:
        """Yields middle x, y and longer side of the faces that a network detects, pixels."""
        h, w = image.shape[1:]
        for detection in self._run(reach, image).detections or []:
            box = detection.location_data.relative_bounding_box
            x, y = (box.xmin + box.width / 2) * w, (box.ymin + box.height / 2) * h
            yield x, y, max(box.width * w, box.height * h, 1)

    def _add_meshes(
        self, image: Tensor, box: tuple[float, float, float], faces: list[Tensor]
    ) -> None:
        """Add the points of the meshes that lie at a face's box, unless it is known."""
        x, y, side = box
        centre = torch.tensor([x, y])
        if any((middle(face) - centre).norm() < side / 3 for face in faces):
            return
        crop, corner = cut_square(image, x, y, 2.2 * side)
        found = self._run("face_mesh", crop)
        rects = found.face_rects_from_detections or []
        squares = [_pixels_of(rect, crop, corner) for rect in rects]
        for face in found.multi_face_landmarks or []:
            points = face_of(face.landmark, crop) + torch.tensor(corner)
            if (middle(points) - centre).norm() < side / 3:
                faces.append(points)
                x, y = middle(points).tolist()
                nearest = min(squares, key=lambda s: math.hypot(s[0] - x, s[1] - y))
                self._meshes.append((points, nearest))

    def _face_near(self, image: Tensor, near: Tensor) -> list[Tensor]:
        """The face near earlier points of the last search or of this method, or none.

        The mesh lies in the square of the face's last search, moved along: another square would
        change the points.
        """
        from mediapipe.framework.formats.rect_pb2 import NormalizedRect

        start = next((one for one in self._meshes if one[0] is near), None) or self._origin
        if start is None:
            return []
        self._origin = start
        x, y, side, angle = moved_square(*start, near)
        h, w = image.shape[1:]
        place = NormalizedRect(
            x_center=x / w, y_center=y / h, width=side / w, height=side / h, rotation=angle
        )
        mesh = self._run("mesh at", image, place).landmarks
        return [] if mesh is None else [face_of(mesh.landmark, image)]

    def mask(self, image: Tensor) -> Tensor:
        mask = self._run("selfie", image).segmentation_mask
        return torch.from_numpy(np.array(mask, np.float32)).clamp(0, 1)

    def _pose(self, image: Tensor, corner: tuple[int, int]) -> Person | None:
        """The person in a crop whose first pixel is at `corner` = (x, y) of the image."""
        marks = self._run("pose", image).pose_landmarks
        if marks is None:
            return None
        return person_of(marks.landmark, image, corner)

    def _candidates(self, image: Tensor) -> list[Square]:
        """Squares that may contain people: middle x, y and side in pixels, likeliest first."""
        candidates = [one for tile, corner in tiles(image) for one in self._detected(tile, corner)]
        return [square for _, square in sorted(candidates, key=lambda pair: -pair[0])]

    def _detected(self, tile: Tensor, corner: tuple[int, int]) -> list[tuple[float, Square]]:
        """Scores and squares of the people in a tile whose first pixel is at `corner` = (x, y)."""
        (left, top), (th, tw), detected = corner, tile.shape[1:], []
        for detection in self._run("detect", tile).detections or []:
            (hx, hy), (ex, ey) = [
                (left + p.x * tw, top + p.y * th)
                for p in detection.location_data.relative_keypoints[:2]
            ]  # the middle of the hips, and a point of the circle around the body
            side_of_body = 2.5 * math.hypot(ex - hx, ey - hy)
            if side_of_body >= SMALLEST:
                detected.append((detection.score[0], (hx, hy, side_of_body)))
        return detected

    def _run(self, name: str, image: Tensor, place: Any = None) -> Any:
        """MediaPipe's own result of a network on an image, or at a place of it."""
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        with quiet():  # MediaPipe's threads print their device at a network's first run
            if name not in self._networks:
                self._networks[name] = self._create(name)
            if name in ("detect", "face_mesh"):
                return self._networks[name].process({"image": pixels})
            if name == "mesh at":
                return self._networks[name].process({"image": pixels, "place": place})
            return self._networks[name].process(pixels)

    def _create(self, name: str) -> Any:
        solutions = self._solutions
        if name == "pose":  # 1: the only pose network in the package
            return solutions.pose.Pose(static_image_mode=True, model_complexity=1)
        if name in ("near faces", "far faces"):
            return solutions.face_detection.FaceDetection(model_selection=int(name == "far faces"))
        if name == "selfie":
            return solutions.selfie_segmentation.SelfieSegmentation(model_selection=0)
        text_format = importlib.import_module("google.protobuf.text_format")
        from mediapipe.framework import calculator_pb2
        from mediapipe.python.solution_base import PacketDataType, SolutionBase

        if name == "face_mesh":  # as solutions.face_mesh, with the squares of its meshes too
            return SolutionBase(
                binary_graph_path="mediapipe/modules/face_landmark/face_landmark_front_cpu.binarypb",
                side_inputs={  # more than one face: the crop may contain a neighbour
                    "num_faces": 3, "with_attention": False, "use_prev_landmarks": False,
                },
                outputs=["multi_face_landmarks", "face_rects_from_detections"],
            )  # fmt: skip
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


def _is_same_place(face: Tensor, known: Tensor) -> bool:
    """True if no other face can be nearer to a known one."""
    return (middle(face) - middle(known)).norm().item() < extent(known) / 4


def _pixels_of(rect: Any, crop: Tensor, corner: tuple[int, int]) -> Turned:
    """A square of MediaPipe's in a crop whose first pixel is at `corner` of the image."""
    h, w = crop.shape[1:]
    x, y = corner[0] + rect.x_center * w, corner[1] + rect.y_center * h
    return x, y, max(rect.width * w, rect.height * h), rect.rotation


def moved_square(start: Tensor, square: Turned, now: Tensor) -> Turned:
    """The square around a face, moved, scaled and turned as its points (68, 2) since `start`."""
    (u, v, before), (x, y, after) = anchored(start), anchored(now)
    growth = after / before
    turn = _tilt(now) - _tilt(start)
    right, down = growth * (square[0] - u), growth * (square[1] - v)
    return (
        x + right * math.cos(turn) - down * math.sin(turn),
        y + right * math.sin(turn) + down * math.cos(turn),
        growth * square[2],
        square[3] + turn,
    )


def _tilt(points: Tensor) -> float:
    """The angle of the line through the eyes, radians."""
    x, y = (points[42:48].mean(0) - points[36:42].mean(0)).tolist()
    return math.atan2(y, x)
