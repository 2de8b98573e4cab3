"""VUNet in the scripts: its options, images, inference and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nets.run import checkpoints
from nets.run.precision import Precision
from nets.vunet import VUNet, build
from nets.vunet.layers import fold


def load_network(
    content: dict[str, Any], path: Path, precision: Precision
) -> tuple[VUNet, dict[str, Any]]:
    """The network of a checkpoint for inference, with averaged weights where it has them, and the
    options it was trained with.
    """
    trained = content["options"]
    net = build(trained)
    checkpoints.load_weights(content, net, path)
    return precision.place(fold(net).eval()), dict(trained)
