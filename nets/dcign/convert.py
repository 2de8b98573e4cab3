"""Writes batches of images from folders of scenes, or from the demo world of heads.

    python -m nets.dcign.convert --dataset_dir scenes/AZ --set_name AZ_VARIED --output_dir DATASET
    python -m nets.dcign.convert --heads --output_dir DATASET --torch7

Each sub-folder of --dataset_dir is a scene in which one variable changes. Its first images, in the
natural order of their names, become one batch. The first scenes become the test batches. A table
factors.csv in --dataset_dir, with a column `file` and columns of numbers, adds labels. Images
become grey (0.21 R + 0.72 G + 0.07 B) and are squashed to a square.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from nets.data.io.images import read_grey
from nets.data.scenes.batches import MIXED_FOLDERS, MODES, write_batch
from nets.data.scenes.factors import read_table
from nets.errors import UserError
from nets.listing import list_folder, list_folders, report_left_out
from nets.random import uniform
from nets.run.options import user_errors
from nets.worlds.heads.batches import HeadBatches

HEADS = {
    "azimuth": "AZ_VARIED",
    "elevation": "EL_VARIED",
    "light": "LIGHT_AZ_VARIED",
    "shape": "SHAPE_VARIED",
}


def scene(
    folder: Path, count: int, size: int, table: dict[str, dict[str, float]], pad: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """The images of a scene, (count, 1, size, size) uint8, and the labels of all of them.

    folder  the folder of the scene
    table   file -> its labels; see `labels_of`
    pad     add black images if the folder holds fewer than `count`; such a batch has no labels
    Raises UserError if the folder holds no images, or too few without `pad`.
    """
    files, left_out = list_folder(folder, lambda file: file.suffix.lower() == ".png")
    report_left_out(folder, left_out, "PNG")
    names = [file.name for file in files][:count]
    if not names or (len(names) < count and not pad):
        raise UserError(f"{folder}: holds {len(names)} PNG files, {count} are needed (or --pad)")
    image = torch.zeros(count, 1, size, size, dtype=torch.uint8)
    for i, name in enumerate(names):
        image[i] = read_grey(folder / name, size)
    known = [table.get(f"{folder.name}/{name}", {}) for name in names]
    shared = set.intersection(*(set(k) for k in known)) if len(names) == count else set()
    return image, {key: torch.tensor([k[key] for k in known]) for key in sorted(shared)}


def from_folders(args: argparse.Namespace) -> None:
    """Write a training and a test set of batches, one of each sub-folder of --dataset_dir."""
    root = Path(args.dataset_dir)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of scenes")
    names = [folder.name for folder in list_folders(root)]
    if args.seed is not None:
        order = uniform(args.seed, "scenes", torch.arange(len(names)), 1)[:, 0].argsort()
        names = [names[i] for i in order]
    tests = 350 if args.num_test_batches is None else args.num_test_batches
    expected = tests + (args.num_train_batches or 1)
    if len(names) < expected:
        raise UserError(
            f"{root}: holds {len(names)} scenes, {expected} are needed; --num_test_batches and "
            f"--num_train_batches set the number of batches"
        )
    trains = args.num_train_batches or len(names) - tests
    table = labels_of(root / "factors.csv")
    parts = {"test": names[:tests], "train": names[tests : tests + trains]}
    for split, chosen in parts.items():
        folder = Path(args.output_dir) / f"th_{args.set_name}" / MODES[split]
        for number, name in enumerate(chosen, 1):
            image, labels = scene(root / name, args.bsize, args.imwidth, table, args.pad)
            write_batch(folder / f"batch{number}{args.ending}", image, labels)
        print(f"{folder}: {len(chosen)} batches of {args.bsize}")


def labels_of(path: Path) -> dict[str, dict[str, float]]:
    """file -> {column: number} for the numeric columns of a table; empty if there is no table."""
    if not path.is_file():
        return {}
    rows = read_table(path)
    columns = [
        name for name in rows[0] if name != "file" and all(_is_number(r[name]) for r in rows)
    ]
    return {row["file"]: {name: float(row[name]) for name in columns} for row in rows}


def _is_number(text: str) -> bool:
    """True if `float` takes the text."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def from_heads(args: argparse.Namespace) -> None:
    """Write training and test batches of the demo world: of each type, and of type mixed."""
    limits = {"train": args.num_train_batches, "test": args.num_test_batches}
    for split, limit in limits.items():
        for sets in (HEADS, None):
            world = HeadBatches(split, sets, args.bsize, args.imwidth, limit, args.seed or 0)
            for kind, count in world.counts.items():
                folder = Path(args.output_dir) / (
                    MIXED_FOLDERS[split] if sets is None else f"th_{sets[kind]}/{MODES[split]}"
                )
                for number in range(count):
                    batch = world.read(kind, number)
                    image = batch.pop("image")
                    write_batch(folder / f"batch{number + 1}{args.ending}", image, batch)
                print(f"{folder}: {count} batches of {args.bsize}", flush=True)


@user_errors("convert")
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m nets.dcign.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--heads",
        action="store_true",
        help="write batches of the demo world, of all types and mixed",
    )
    add("--dataset_dir", help="folder with one sub-folder per scene")
    add("--output_dir", required=True, help="root folder of the new batches")
    add(
        "--set_name", default="AZ_VARIED", help="name of the set, which is written to th_<set_name>"
    )
    add("--bsize", type=int, default=20, help="images per batch")
    add("--imwidth", type=int, default=150, help="side of the images, pixels")
    trains = "training batches; default: all remaining scenes, or 200 of each type with --heads"
    add("--num_train_batches", type=int, help=trains)
    tests = "test batches; default: 350, or 8 of each type with --heads"
    add("--num_test_batches", type=int, help=tests)
    add("--seed", type=int, help="seed of a random order of scenes; default: the order of names")
    add("--pad", action="store_true", help="add black images to scenes with too few images")
    torch7 = "write Torch7 files without ending and labels, as the published program reads them"
    add("--torch7", dest="ending", action="store_const", const="", default=".npz", help=torch7)
    args = parser.parse_args(argv)
    if args.heads == bool(args.dataset_dir):
        parser.error("give either --dataset_dir or --heads")
    if min(args.bsize, args.imwidth, args.num_train_batches or 1) < 1:
        parser.error("--bsize, --imwidth and --num_train_batches must be above 0")
    (from_heads if args.heads else from_folders)(args)


if __name__ == "__main__":
    main()
