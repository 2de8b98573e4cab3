"""Landmarks in the scripts: their options, data, pictures, inference and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nets.errors import UserError
from nets.landmarks import LandmarkModel, build, fold
from nets.run import checkpoints
from nets.run.precision import Precision


def load_network(
    content: dict[str, Any], path: Path, precision: Precision, landmarks: int | None = None
) -> tuple[LandmarkModel, dict[str, Any]]:
    """The networks of a checkpoint for inference, with averaged weights where it has them, and the
    options they were trained with.

    landmarks  how many are expected; UserError where the checkpoint has another number
    """
    trained = content["options"]
    if landmarks and landmarks != trained["n_landmarks"]:
        raise UserError(
            f"{path}: was trained with {trained['n_landmarks']} landmarks, not {landmarks}"
        )
    net = build(trained)
    checkpoints.load_weights(content, net, path)
    return precision.place(fold(net.eval())), dict(trained)
