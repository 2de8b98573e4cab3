"""The interface that the installed MediaPipe has."""

from __future__ import annotations

import importlib.util
import os

from nets.data.detectors.packages import import_package, imported_later
from nets.data.detectors.solutions import MediaPipe
from nets.data.detectors.tasks import MediaPipeTasks
from nets.data.mediapipe_tasks import are_there

# What MediaPipe imports for plots and for a microphone: half a second of every process.
UNUSED = ("matplotlib", "matplotlib.pyplot", "sounddevice")


def open_mediapipe() -> MediaPipe | MediaPipeTasks:
    """The detector for the installed MediaPipe. Raises UserError with the remedy."""
    # MediaPipe prints many notes on stderr; its errors are exceptions.
    os.environ.setdefault("GLOG_minloglevel", "3")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with imported_later(*UNUSED):
        mediapipe = import_package("mediapipe", "mediapipe", "extract")
    return MediaPipe(mediapipe) if hasattr(mediapipe, "solutions") else MediaPipeTasks(mediapipe)


def is_mediapipe_ready() -> bool:
    """True if MediaPipe is installed, with its networks."""
    if importlib.util.find_spec("mediapipe") is None:
        return False
    inside = importlib.util.find_spec("mediapipe.python") is not None  # up to 0.10.21
    return inside or are_there()
