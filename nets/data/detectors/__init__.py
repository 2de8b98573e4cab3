"""Detectors of people and faces: joints, 68 points and masks, by networks of other projects.

Packages and weights are loaded only when a detector is opened.
"""

from nets.data.detectors.backends import (
    ABOUT,
    AUTO,
    BACKENDS,
    finds_people,
    for_heads,
    open_detector,
    require_masks,
)
from nets.data.detectors.following import (
    CLOSE,
    CLOSE_PEOPLE,
    EVERY,
    EVERY_PEOPLE,
    Follow,
    FollowFace,
    FollowPeople,
)
from nets.data.detectors.ibug import FACE_WEIGHTS, dlib_model
from nets.data.detectors.interface import (
    MARGIN,
    Detector,
    Person,
    overlap,
    person_box,
    person_square,
)
from nets.data.detectors.solutions import MediaPipe
from nets.data.detectors.tasks import MediaPipeTasks

__all__ = [
    "ABOUT", "AUTO", "BACKENDS", "CLOSE", "CLOSE_PEOPLE", "EVERY", "EVERY_PEOPLE", "FACE_WEIGHTS",
    "MARGIN", "Detector", "Follow", "FollowFace", "FollowPeople", "MediaPipe", "MediaPipeTasks",
    "Person", "dlib_model", "finds_people", "for_heads", "open_detector", "overlap", "person_box",
    "person_square", "require_masks",
]  # fmt: skip
