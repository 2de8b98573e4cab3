"""Bilayer head avatars in the scripts: options, the experiment folder, inference, evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nets.bilayer import DEFAULTS, Bilayer, build
from nets.run import checkpoints
from nets.run.precision import Precision

READING = {  # options that inference asks for beside those of the networks
    "num_target_frames": 1, "num_keypoints": 68, "output_segmentation": True,
    "output_stickmen": True, "stickmen_thickness": 2, "data_root": None,
    "dataset_load_from_txt": False, "train_load_from_filename": "train_filenames.txt",
    "test_load_from_filename": "test_filenames.txt", "frame_num_from_paper": True, "seed": 0,
    "demo_train": 0, "demo_test": 0,
}  # fmt: skip


class Loaded(NamedTuple):
    """A model for inference, in evaluation mode, and the options it was trained with."""

    net: Bilayer
    options: dict[str, Any]
    precision: Precision

    @property
    def device(self) -> torch.device:
        return self.precision.device


def load_model(content: Mapping[str, Any], path: Path, precision: Precision) -> Loaded:
    """The networks of a checkpoint, with averaged weights where it has them."""
    trained = {**DEFAULTS, **READING, **content["options"]}
    names = {key.partition(".")[0] for key in content["parts"]["model"]}
    net = build(trained, sorted(names))
    checkpoints.load_weights(content, net, path)
    return Loaded(precision.place(net.eval()), trained, precision)
