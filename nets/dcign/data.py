"""The batches that a run trains and tests on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from nets.data.scenes.batches import BatchFolder, Source
from nets.data.scenes.factors import FactorTable


def open_batches(options: Mapping[str, Any], sets: Mapping[str, str], split: str) -> Source:
    """The batches that a run's options describe: of `data`, else of the demo world of heads.

    options  data, regime ("disentangled" or "entangled"), batch_size, image_size, seed, and
             num_train_batches_per_type, num_test_batches_per_type (None: all that are there)
    sets     type -> name of its set of batches
    Raises UserError where there is nothing, or nothing usable.
    """
    limit = options[f"num_{split}_batches_per_type"]
    count, size, root = options["batch_size"], options["image_size"], options["data"]
    kinds = sets if options["regime"] == "disentangled" else None
    if root is None:
        from nets.worlds.heads.batches import HeadBatches

        # A tuple of five labels is a tuple of labels, but mypy does not let an attribute narrow.
        return cast(Source, HeadBatches(split, kinds, count, size, limit, seed=0))
    if Path(root, "factors.csv").is_file():
        return FactorTable(Path(root, "factors.csv"), split, kinds, count, size, limit)
    return BatchFolder(root, split, kinds, count, size, limit)
