"""Writes a demo world as a dataset with ground truth.

    python -m nets.worlds people OUT    OUT/index.p, pairs.csv, images/, masks/
    python -m nets.worlds clips OUT     OUT/frames/CLIP/, joints.csv, masks/, backgrounds/
    python -m nets.worlds faces OUT     OUT/imgs/, keypoints/, segs/, truth.csv
    python -m nets.worlds scenes OUT    OUT/factors.csv and images of faces

The training scripts read what it writes: --data OUT/index.p, OUT/frames, OUT, OUT. Other programs
can be tested on it too. Files that exist are overwritten.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nets.data.io.files import write_table
from nets.data.io.images import write_image
from nets.data.people.index import write_index
from nets.data.scenes.factors import FACTORS
from nets.errors import UserError
from nets.run.options import user_errors
from nets.skeletons import JOINTS_15
from nets.worlds import clips
from nets.worlds.heads.batches import HeadBatches
from nets.worlds.heads.export import write_data_root
from nets.worlds.people.world import SPLITS, render

PROG = "python -m nets.worlds"
_AT_ONCE = 32  # images rendered together


def coordinates(joints: Tensor) -> list[str]:
    """x and y of points, (K, 2) pixels, as texts with two decimals."""
    return [f"{value:.2f}" for value in joints.flatten().tolist()]


def write_people(out: Path, persons: dict[str, int], poses: int, size: int, seed: int) -> int:
    """Writes persons in several poses each; returns the number of images.

    persons  persons per split; the splits share no person, no pose and no background
    poses    images per person, 2 or more for pairs

    pairs.csv lists all pairs (from, to) of a test person: the ground truth of the transfer is the
    image `to`. The columns pose and background of truth.csv are numbers: equal ones look the same.
    """
    images, joints, train, people, rows, pairs = [], [], [], [], [], []
    for split, count in persons.items():
        for person in range(count):
            place = torch.arange(poses)
            ids = place + person * poses + SPLITS[split]
            outfit = torch.full_like(ids, person + SPLITS[split])
            drawn = render(outfit, ids, ids, size, seed)
            names = [f"{split}/person_{person:05d}/{i:03d}.png" for i in range(poses)]
            for i, name in enumerate(names):
                write_image(out / "images" / name, drawn["image"][i])
                write_image(out / "masks" / name, drawn["mask"][i].byte()[None] * 255)
                rows.append([f"images/{name}", split, person, int(ids[i] - SPLITS[split])])
            images += [f"images/{name}" for name in names]
            joints += [*(drawn["joints"] / size)]
            train += [split == "train"] * poses
            people += [f"{split}_{person}"] * poses
            if split == "test":
                pairs += [(f"images/{a}", f"images/{b}") for a in names for b in names if a != b]
    fractions = torch.stack(joints).numpy()
    write_index(out / "index.p", JOINTS_15, images, fractions, train, people)
    write_table(out / "truth.csv", ("file", "split", "person", "pose_and_background"), rows)
    write_table(out / "pairs.csv", ("from", "to"), pairs)
    return len(images)


def write_clips(out: Path, count: int, size: int, seed: int, split: str) -> int:
    """Writes clips of one person who moves, with joints, masks and backgrounds; returns frames."""
    rows = []
    frame = torch.arange(clips.FRAMES)
    for number in range(count):
        clip = torch.full_like(frame, number + SPLITS[split])
        drawn = clips.render(clip, frame, size, seed, background=True)
        name = f"clip_{number:05d}"
        write_image(out / "backgrounds" / f"{name}.png", drawn["background"][0])
        for i in range(clips.FRAMES):
            file = f"{name}/{i:03d}.png"
            write_image(out / "frames" / file, drawn["image"][i])
            write_image(out / "masks" / file, drawn["mask"][i].byte()[None] * 255)
            rows.append([f"frames/{file}", *coordinates(drawn["joints"][i])])
    names = [f"{joint}_{axis}" for joint in JOINTS_15 for axis in "xy"]
    write_table(out / "joints.csv", ("file", *names), rows)
    return len(rows)


def write_scenes(out: Path, batches: dict[str, int], count: int, size: int, seed: int) -> int:
    """Writes grey faces in which one factor changes, with a factors.csv; returns the images."""
    rows: list[list[object]] = []
    kinds = dict.fromkeys((*FACTORS, "shape"), "")
    for split, number in batches.items():
        world = HeadBatches(split, kinds, count, size, number, seed)
        for kind in kinds:
            for batch in range(number):
                drawn = world.read(kind, batch)
                for i in range(count):
                    name = f"{split}/{kind}_{batch:04d}/{i:03d}.png"
                    write_image(out / name, drawn["image"][i])
                    factors = [
                        f"{float(drawn[f][i]):.6f}" for f in ("azimuth", "elevation", "light")
                    ]
                    rows.append([name, *factors, int(drawn["person"][i]), split])
    write_table(out / "factors.csv", ("file", *FACTORS, "shape", "split"), rows)
    return len(rows)


# fmt: off
def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog=PROG, description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    worlds = p.add_subparsers(dest="world", required=True, metavar="WORLD")
    for name, what in (("people", "people in poses"), ("clips", "clips of moving people"),
                       ("faces", "videos of people who talk"), ("scenes", "faces by factors")):
        sub = worlds.add_parser(name, help=what, description=what)
        add = sub.add_argument
        add("out", type=Path, metavar="OUT", help="folder to write")
        add("--size", type=int, default=128, help="side of the images, pixels")
        add("--seed", type=int, default=0, help="seed of the world")
        if name == "clips":
            add("--clips", type=int, default=50, help=f"clips of {clips.FRAMES} frames")
            add("--split", choices=tuple(SPLITS), default="train",
                help="split of the world; the two share no person")
        elif name == "scenes":
            add("--batches", type=int, default=20, help="batches of each type to train on")
            add("--test_batches", type=int, default=4, help="batches of each type for testing")
            add("--batch_size", type=int, default=20, help="images of a batch")
        else:
            add("--persons", type=int, default=20, help="persons to train on")
            add("--test_persons", type=int, default=4, help="persons for testing")
        if name == "people":
            add("--poses", type=int, default=8, help="images of a person")
        elif name == "faces":
            add("--videos", type=int, default=2, help="videos of a person")
            add("--frames", type=int, default=16, help="frames of a video")
    return p
# fmt: on


def write(args: argparse.Namespace) -> int:
    """Writes the world of the command line; returns the number of images."""
    for name, value in vars(args).items():
        least = {"seed": 0, "size": 16, "test_persons": 0, "test_batches": 0}.get(name, 1)
        if isinstance(value, int) and value < least:
            raise UserError(f"--{name}: must be {least} or more, got {value}")
    out, size, seed = args.out, args.size, args.seed
    if args.world == "clips":
        return write_clips(out, args.clips, size, seed, args.split)
    if args.world == "scenes":
        counts = {"train": args.batches, "test": args.test_batches}
        counts = {split: count for split, count in counts.items() if count}
        return write_scenes(out, counts, args.batch_size, size, seed)
    persons = {"train": args.persons, "test": args.test_persons}
    if args.world == "people":
        return write_people(out, persons, args.poses, size, seed)
    return write_data_root(out, persons, args.videos, args.frames, size, seed)


@user_errors(PROG)
def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    count = write(args)
    print(f"written: {count} images in {args.out}")


if __name__ == "__main__":
    main()
