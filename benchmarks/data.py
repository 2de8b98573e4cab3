"""How fast data come: from JPEG files to batches on the device, and the demo world.

python benchmarks/data.py            writes benchmarks/results/data-cpu.json
python benchmarks/data.py --only videos     benchmarks/results/videos-cpu.json; see video_rows.py

JPEG files of 256x256 (quality 90) with an index.p, made in a temporary folder from the demo world;
in the clock: reading, decoding, resizing to 128 px, collating, the way to the main process, and, in
"with inputs", stick figures and body-part crops. Asserted first: the images are those that were
written, to JPEG's error. The median of three passes, the first of which is left out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import video_rows
from benchmarks.machine import write_report
from nets.data.io.images import write_image
from nets.data.people.index import IndexDataset, write_index
from nets.run.loader import loader
from nets.run.ranks import Ranks
from nets.vunet.data import PersonInputs
from nets.worlds.people.world import PeopleWorld

SIZE, BATCH = 128, 16
RESULTS = Path(__file__).parent / "results"
OPTIONS = {
    "image_size": SIZE,
    "box_factor": 1,
    "appearance": "crops",
    "stickman": "parts",
    "missing_part": 0.0,
}


def write_files(folder: Path, count: int) -> Path:
    world = PeopleWorld("train", 2 * SIZE, length=count)
    names, joints = [], []
    for start in range(0, count, 32):
        for sample in world.__getitems__([(0, i) for i in range(start, min(count, start + 32))]):
            names.append(f"images/{len(names)}.jpg")
            write_image(folder / names[-1], sample["target"])
            joints.append(sample["joints"] / (2 * SIZE))
    index = folder / "index.p"
    write_index(index, list(world.joint_order), names, torch.stack(joints).numpy(), [True] * count)
    return index


def agree(dataset: IndexDataset, count: int) -> None:
    """What comes out is what was written, shrunk."""
    world = PeopleWorld("train", 2 * SIZE, length=count)
    for index in (0, count - 1):
        written = world[0, index]["target"].float()
        small = torch.nn.functional.interpolate(written[None], scale_factor=0.5, mode="area")[0]
        error = (dataset[0, index]["target"].float() - small).abs().mean().item()
        if not error < 6:
            raise AssertionError(f"image {index} is off by {error:g} levels on average")


def rate(
    dataset: Any, workers: int, ranks: Ranks, inputs: PersonInputs | None, batches: int
) -> float:
    """Images a second, from the second pass on."""
    source = loader(dataset, BATCH, ranks, workers=workers)
    rates, step = [], 0
    for _ in range(4):
        start = time.perf_counter()
        for _ in range(batches):
            batch = source.batch(step)
            step += 1
            if inputs is not None:
                inputs(batch)
        rates.append(BATCH * batches / (time.perf_counter() - start))
    return statistics.median(rates[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="few batches")
    parser.add_argument("--only", choices=("images", "videos"), default="images")
    parser.add_argument("--output", type=Path, help="JSON")
    args = parser.parse_args()
    if args.only == "videos":
        with tempfile.TemporaryDirectory() as folder:
            rows = video_rows.rows(Path(folder), args.quick)
        write_report(args.output or RESULTS / "videos-cpu.json", {"rows": rows})
        return
    ranks, batches = Ranks(args.device), 4 if args.quick else 24
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        count = BATCH * batches
        files = IndexDataset(write_files(Path(folder), count), "train", SIZE)
        agree(files, count)
        for name, dataset in (("JPEG files", files), ("demo world", PeopleWorld("train", SIZE))):
            inputs = PersonInputs(OPTIONS, dataset.joint_order)
            for workers in (0, 1, 2):
                plain = rate(dataset, workers, ranks, None, batches)
                whole = rate(dataset, workers, ranks, inputs, batches)
                rows.append({"data": name, "workers": workers, "images_per_s": plain,
                             "images_per_s_with_inputs": whole})  # fmt: skip
                print(f"{name}, {workers} workers: {plain:7.0f} images/s, {whole:7.0f} with inputs")
    write_report(args.output or RESULTS / f"data-{args.device}.json", {"size": SIZE, "rows": rows})


if __name__ == "__main__":
    main()
