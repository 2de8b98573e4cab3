"""DC-IGN in the scripts: its options, networks, pictures, inference and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nets.dcign import DCIGN, FACES, build
from nets.run import checkpoints
from nets.run.precision import Precision


def load_network(
    content: dict[str, Any], path: Path, precision: Precision
) -> tuple[DCIGN, dict[str, Any]]:
    """The network of a checkpoint in eval mode, with averaged weights where it has them, and the
    options it was trained with; of a published network those that its files do not say are null.
    """
    faces = [f"{g.name}={g.latents or 'rest'}" for g in FACES]
    absent = {"groups": faces, "regime": "disentangled", "datasetdir": None, "bsize": 20,
              "num_train_batches_per_type": None, "num_test_batches_per_type": None}  # fmt: skip
    trained = {**absent, **content["options"]}
    net = build(trained)
    checkpoints.load_weights(content, net, path)
    return precision.place(net.eval()), trained
