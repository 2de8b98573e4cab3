"""Detectors of the 68 points as iBUG annotated them: dlib, and the package face-alignment."""

from __future__ import annotations

import importlib.util
import pickle
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nets.data.detectors.interface import Person
from nets.data.detectors.mediapipe import is_mediapipe_ready, open_mediapipe
from nets.data.detectors.packages import INSTALL, import_package
from nets.data.detectors.places import (
    AROUND,
    Square,
    anchored,
    cut_square,
    extent,
    largest_first,
    middle,
)
from nets.data.detectors.solutions import MediaPipe
from nets.data.detectors.tasks import MediaPipeTasks
from nets.errors import UserError

FACE_WEIGHTS = ("s3fd-619a316812.pth", "2DFAN4-11f355bf06.pth.tar")  # of face-alignment
POINTS_68 = "shape_predictor_68_face_landmarks.dat"  # of face_recognition_models


class FaceAlignment:
    """Detector of face points with the face-alignment package; people and masks by MediaPipe.

    Each face is evaluated twice, also as its mirror image.
    """

    def __init__(self) -> None:
        package = import_package("face_alignment", "face-alignment==1.5.0", "face-alignment")
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

    def places(self, image: Tensor) -> list[Square]:
        return self._rest.places(image)

    def faces(
        self, image: Tensor, near: Tensor | None = None, known: Tensor | None = None
    ) -> list[Tensor]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No faces were detected")
            faces = self._net.get_landmarks_from_image(image.permute(1, 2, 0).numpy()) or []
        return largest_first([torch.from_numpy(np.asarray(p, np.float32))[:, :2] for p in faces])

    def mask(self, image: Tensor) -> Tensor:
        return self._rest.mask(image)


class Dlib:
    """Detector of face points with dlib; people and masks by MediaPipe, if it is installed.

    The 68 points are those of iBUG's annotations, jaw included. Faces are searched at a width that
    suits dlib's window of 80 pixels, then at twice that; points are placed in the whole image.
    The models lie in the package face_recognition_models.
    """

    SIDES = (640, 1280)  # pixels of the longer side in which faces are searched
    SIDE_NEAR = 240  # the same around a face, which then is somewhat larger than the window

    def __init__(self) -> None:
        package = import_package("dlib", "dlib-bin", "dlib")
        file = dlib_model(POINTS_68)
        self._box = package.rectangle
        self._find = package.get_frontal_face_detector()
        self._place = package.shape_predictor(str(file))
        self._boxes: list[tuple[Tensor, Sequence[float]]] = []  # of the last search, with points
        self._origin: tuple[Tensor, Sequence[float]] | None = None  # of the face that is followed
        self._others: MediaPipe | MediaPipeTasks | None = None
        self.has_mediapipe = is_mediapipe_ready()

    def people(self, image: Tensor, near: Person | None = None) -> list[Person]:
        return self._rest("people").people(image, near)

    def places(self, image: Tensor) -> list[Square]:
        return self._rest("people").places(image)

    def faces(
        self, image: Tensor, near: Tensor | None = None, known: Tensor | None = None
    ) -> list[Tensor]:
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
        return largest_first([points for points, _ in self._boxes])

    def _face_near(self, image: Tensor, near: Tensor) -> list[Tensor]:
        """The face near earlier points, in the box of their face moved along, or none.

        A new box would differ by the steps in which dlib searches, and the points with it.
        """
        start = next(((points, box) for points, box in self._boxes if points is near), None)
        if start is None:
            start = self._origin
        else:
            self._origin = start
        x, y = middle(near).tolist()
        square, _ = cut_square(image, x, y, AROUND * extent(near))
        part = np.ascontiguousarray(square.permute(1, 2, 0).numpy())
        scale = min(self.SIDE_NEAR / max(part.shape[:2]), 2.0)
        if start is None or not self._find(_scaled(part, scale)):
            return []
        points, box = start
        (u, v, before), (x, y, now) = anchored(points), anchored(near)
        growth = now / before
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


def has_dlib() -> bool:
    """True if dlib is installed, with the model of the 68 points."""
    return importlib.util.find_spec("dlib") is not None and _model(POINTS_68).is_file()


def _model(name: str) -> Path:
    """Where the package face_recognition_models has a file, if it is installed."""
    # The package itself imports pkg_resources, which new versions of setuptools lack.
    spec = importlib.util.find_spec("face_recognition_models")
    folders = list(spec.submodule_search_locations or []) if spec else []
    return Path(folders[0]) / "models" / name if folders else Path(name)


def dlib_model(name: str) -> Path:
    """A file of the package face_recognition_models. Raises UserError if it is not installed."""
    file = _model(name)
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
