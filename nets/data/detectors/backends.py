"""The backends by name."""

from __future__ import annotations

import sys

from nets.data.detectors.ibug import Dlib, FaceAlignment, has_dlib
from nets.data.detectors.interface import Detector
from nets.data.detectors.mediapipe import is_mediapipe_ready, open_mediapipe
from nets.data.detectors.packages import INSTALL
from nets.errors import UserError

BACKENDS = ("mediapipe", "face-alignment", "dlib")
AUTO = "auto"  # an option's value: the backend that suits what is looked for, see `for_heads`
# For the help of options; docs/data.md has more.
ABOUT = (
    "detector of people and faces; dlib and face-alignment give iBUG's 68 points, on which "
    "published head avatars were trained; dlib's model of them is not for commerce (300-W)"
)


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


def for_heads(backend: str) -> str:
    """The backend for head avatars: "auto" is dlib if it is installed, else mediapipe.

    Published weights were trained on iBUG's points, which dlib gives and mediapipe approximates. A
    line on stderr says if it is mediapipe; if that is not installed either, opening it says so.
    """
    if backend != AUTO:
        return backend
    if has_dlib():
        return "dlib"
    if is_mediapipe_ready():
        print(
            "detector: mediapipe, since dlib is not installed; published head avatars were trained "
            f"on iBUG's points, whose jaw differs: {INSTALL.format('dlib')}",
            file=sys.stderr,
            flush=True,
        )
    return "mediapipe"


def finds_people(detector: Detector) -> bool:
    """False for a detector of faces alone."""
    return not isinstance(detector, Dlib) or detector.has_mediapipe


def require_masks(detector: Detector) -> None:
    """Raises UserError with the remedy if a detector finds no masks: dlib without MediaPipe."""
    if finds_people(detector):
        return
    try:
        open_mediapipe()
    except UserError as error:
        raise UserError(
            f"--detector dlib finds no masks, which mediapipe does: {error}. Or "
            "--output_segmentation false writes none"
        ) from error
