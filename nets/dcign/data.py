"""The batches that a run trains and tests on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from nets.data.scenes.batches import BatchFolder, Source
from nets.data.scenes.factors import FactorTable
from nets.random import uniform


def open_batches(options: Mapping[str, Any], sets: Mapping[str, str], split: str) -> Source:
    """The batches that the options describe: those of `data`, or of the demo world of heads.

    options  data (None: the demo world), regime ("disentangled" or "entangled"), batch_size,
             image_size, num_train_batches_per_type, num_test_batches_per_type (None: all); a
             batch_size of None takes batches of any size from a folder. Test batches of a table
             hold all images that differ in one factor only
    sets     type -> name of its set of batches
    split    "train" or "test"
    Raises UserError if a folder, a table or enough batches are missing.
    """
    limit = options[f"num_{split}_batches_per_type"]
    count, size, root = options["batch_size"], options["image_size"], options["data"]
    kinds = sets if options["regime"] == "disentangled" else None
    if root is None:
        from nets.worlds.heads.batches import HeadBatches

        # mypy infers a tuple of five for its labels, and Source declares one of any length.
        return cast(Source, HeadBatches(split, kinds, count, size, limit, options.get("seed", 0)))
    if Path(root, "factors.csv").is_file():
        whole = split == "test" and kinds is not None
        table = FactorTable(
            Path(root, "factors.csv"), split, kinds, None if whole else count, size, limit
        )
        if table.note and split == "test" and os.environ.get("RANK", "0") == "0":
            print(f"{table.name}: {table.note}")
        return table
    return BatchFolder(root, split, kinds, count, size, limit)


def is_squashed(options: Mapping[str, Any]) -> bool:
    """True if a run's images were squashed to a square, as those of a table are.

    False for the demo world and for batches; inputs are then padded to a square.
    """
    root = options.get("data")
    return root is not None and not any(Path(root).glob("th_*"))


def augment(image: Tensor, mirror: bool, jitter: float, seed: int, number: int) -> Tensor:
    """The images of a batch (N, 1, S, S) in [0, 1], all changed in the same way, like new persons.

    mirror  mirror half of the batches; azimuth and light then go the other way, in all images alike
    jitter  largest change, as a share, of width, height and brightness, and of position as a share
            of half the side; edges are repeated beyond the border
    number  of the batch in training; with `seed` it decides on the change
    """
    turned, *draws = uniform(seed, "augment", torch.tensor([number]), 6)[0].tolist()
    if mirror and turned < 0.5:
        image = image.flip(-1)
    if jitter:
        width, height, gain, x, y = (jitter * (2 * draw - 1) for draw in draws)
        theta = image.new_tensor([[1 / (1 + width), 0, x], [0, 1 / (1 + height), y]])
        grid = F.affine_grid(theta[None], [1, *image.shape[1:]], align_corners=False)
        grid = grid.expand(len(image), -1, -1, -1)
        image = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
        image = (image * (1 + gain)).clamp(0, 1)
    return image
