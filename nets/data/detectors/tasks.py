"""MediaPipe from 1.0, whose networks are files, see nets/data/mediapipe_tasks.py."""

from __future__ import annotations

import importlib
from collections.abc import Callable
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
    points_of,
    quiet,
)
from nets.data.detectors.places import (
    AROUND,
    AROUND_BODY,
    Square,
    cut_square,
    extent,
    largest_first,
    middle,
    tiles,
)
from nets.data.mediapipe_tasks import file_of
from nets.errors import UserError


class MediaPipeTasks:
    """Detector with MediaPipe from 1.0, whose networks are files, see nets/data/mediapipe_tasks.py.

    People are searched in the image and in tiles of it, at most five in each; one that a tile cuts
    off once more, in a square around the whole body. Faces are searched in the image, and in its
    tiles if there is none.
    """

    MOST = 5  # in a tile

    def __init__(self, package: Any) -> None:
        self._package = package
        self._vision = importlib.import_module("mediapipe.tasks.python.vision")
        self._networks: dict[str, Any] = {}
        self._network("pose")  # reports missing files before the work begins

    def people(self, image: Tensor, near: Person | None = None) -> list[Person]:
        if near is None:
            return distinct_people(people_at(self._candidates(image)), near)
        crop, corner = cut_square(image, *near.around)
        seen = (person_of(marks, crop, corner) for marks in self._poses(crop))
        return distinct_people((person for person in seen if person is not None), near)

    def places(self, image: Tensor) -> list[Square]:
        points = [points_of(marks, image) for marks in self._poses(image)]
        squares = [(*middle(p).tolist(), AROUND_BODY * extent(p)) for p in points]
        return [square for square in squares if square[2] >= AROUND_BODY * SMALLEST]

    def _poses(self, image: Tensor) -> Any:
        """The marks of the people in an image, the surest person first."""
        return self._run("pose", image).pose_landmarks

    def _pose(self, crop: Tensor, corner: tuple[int, int]) -> Person | None:
        """The surest person in a crop whose first pixel is at `corner` = (x, y) of the image."""
        poses = self._poses(crop)
        return person_of(poses[0], crop, corner) if poses else None

    def _candidates(self, image: Tensor) -> list[tuple[Square, Callable[[], Person | None]]]:
        """Squares that may contain people, likeliest first, and what finds the person in each."""
        candidates: list[tuple[float, Square, Callable[[], Person | None]]] = []
        h, w = image.shape[1:]
        for tile, corner in tiles(image):
            at = torch.tensor(corner)
            end = at + torch.tensor(tile.shape[:0:-1])
            for marks in self._poses(tile):
                points = points_of(marks, tile) + at
                if extent(points) < SMALLEST:
                    continue
                square = (*middle(points).tolist(), AROUND_BODY * extent(points))
                within = points.clamp(torch.zeros(2), torch.tensor([w, h]).float())
                if ((within >= at) & (within <= end)).all():
                    find = partial(person_of, marks, tile, corner)
                else:  # the tile cuts the body off
                    find = partial(self._pose, *cut_square(image, *square))
                candidates.append((sum(mark.visibility for mark in marks), square, find))
        candidates.sort(key=lambda candidate: -candidate[0])
        return [(square, find) for _, square, find in candidates]

    def faces(
        self, image: Tensor, near: Tensor | None = None, known: Tensor | None = None
    ) -> list[Tensor]:
        if near is not None:
            x, y = middle(near).tolist()
            return self._faces(*cut_square(image, x, y, AROUND * extent(near)))
        faces: list[Tensor] = []
        for tile, corner in tiles(image):
            for face in self._faces(tile, corner):
                if all((middle(face) - middle(f)).norm() > extent(f) / 3 for f in faces):
                    faces.append(face)
            if tile.shape == image.shape and faces:
                break
        return largest_first(faces)

    def mask(self, image: Tensor) -> Tensor:
        masks = self._run("masks", image).confidence_masks  # of a person, or of the rest and her
        mask = np.array(masks[-1].numpy_view(), np.float32).reshape(tuple(image.shape[1:]))
        return torch.from_numpy(mask).clamp(0, 1)

    def _faces(self, tile: Tensor, corner: tuple[int, int]) -> list[Tensor]:
        meshes = self._run("faces", tile).face_landmarks
        faces = [face_of(mesh, tile) + torch.tensor(corner) for mesh in meshes]
        return largest_first(faces)

    def _run(self, part: str, image: Tensor) -> Any:
        """MediaPipe's own result of a network on an image."""
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        network = self._network(part)
        packed = self._package.Image(image_format=self._package.ImageFormat.SRGB, data=pixels)
        with quiet():
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
                with quiet():
                    network = kind.create_from_options(options(base_options=base, **wanted))
            except (ValueError, RuntimeError, OSError) as error:
                raise UserError(
                    f"mediapipe {self._package.__version__} cannot use {file}: {error}"
                ) from error
            network.close = _nothing  # it would fail in the interpreter's last moments
            self._networks[part] = network
        return self._networks[part]


def _nothing() -> None:
    """Closes a network of MediaPipe, whose memory the system takes back."""
