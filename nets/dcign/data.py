"""The batches that a run trains and tests on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from nets.data.scenes.batches import BatchFolder, Source
from nets.data.scenes.factors import FactorTable


def open_batches(options: Mapping[str, Any], sets: Mapping[str, str], split: str) -> Source:
    """The batches that the options describe: those of `data`, or of the demo world of heads.

    options  data (None: the demo world), regime ("disentangled" or "entangled"), batch_size,
             image_size, num_train_batches_per_type, num_test_batches_per_type (None: all); a
             batch_size of None takes batches of any size from a folder
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
        table = FactorTable(Path(root, "factors.csv"), split, kinds, count, size, limit)
        if table.note and split == "test" and os.environ.get("RANK", "0") == "0":
            print(f"{table.name}: {table.note}")
        return table
    return BatchFolder(root, split, kinds, count, size, limit)
