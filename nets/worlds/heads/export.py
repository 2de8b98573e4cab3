"""Writes videos of people who talk as a folder of training data for few-shot avatars."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from torch import Tensor

from nets.data.heads.videos import write_frame
from nets.data.io.files import write_table
from nets.errors import UserError
from nets.random import uniform
from nets.run.options import user_errors
from nets.worlds.heads.face.expression import speech
from nets.worlds.heads.face.mesh import face
from nets.worlds.heads.world import RANGES, SPLITS, HeadsWorld, contact_sheet, identities, render

_AT_ONCE = 16  # frames rendered together


def wave(draw: Tensor, t: Tensor, slowest: float) -> Tensor:
    """Two sines of times t, of 1x to 2x and 2x to 4x the slowest frequency in Hz, within [-1, 1].

    draw  uniform numbers in [0, 1], of which the first five are used
    """
    share, one, two, p, q = draw[:5]
    share = 0.6 + 0.3 * share
    slow = (2 * math.pi * (slowest * (1 + one) * t + p)).sin()
    return share * slow + (1 - share) * (2 * math.pi * (2 * slowest * (1 + two) * t + q)).sin()


def motion(
    clip: int, frames: int, seed: int = 0, ranges: dict[str, float] = RANGES
) -> dict[str, Tensor]:
    """The scenes of a clip's frames, in the form of `scenes`: a person who talks, one light.

    clip    number of the clip, 0 or more
    frames  count of frames, 1/25 s each; frame k does not depend on the count
    """
    draw = uniform(seed, "faces motion", torch.tensor([clip]), 16)[0]
    t = torch.arange(frames, dtype=torch.float64) / 25

    spoken = speech(clip, t, seed)
    nod = spoken[:, face().units.index("browInnerUp")]  # the head nods where a word is stressed
    return {
        "azimuth": ranges["azimuth"] * wave(draw[0:], t, 0.15),
        "elevation": ranges["elevation"] * (0.8 * wave(draw[5:], t, 0.2) + 0.2 * nod),
        "light": ((2 * draw[15] - 1) * ranges["light"]).expand(frames),
        "expression": spoken,
    }


def rate(size: int, seconds: float = 4.0) -> tuple[float, float]:
    """Images of random people that one process draws, from batches of 32.

    returns  images per second, and per second of processor time: what a free core would do
    """
    world = HeadsWorld("train", size, frames=1)
    batch = [[(0, 32 * k + i) for i in range(32)] for k in range(8)]
    world.__getitems__(batch[0])  # the first one reads the mesh and compiles the operators
    count, start, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        world.__getitems__(batch[count // 32 % 8])
        count += 32
    return count / (time.perf_counter() - start), count / (time.process_time() - used)


def write_data_root(
    root: Path,
    persons: dict[str, int],  # count of persons per phase, "train" and "test"
    videos: int = 2,  # per person, each with its own background and light
    frames: int = 16,  # per video
    size: int = 256,
    seed: int = 0,
    ranges: dict[str, float] = RANGES,
) -> int:
    """Writes ROOT/{imgs,keypoints,segs}/PHASE/PERSON/VIDEO/SEQUENCE/FRAME; returns the frame count.

    imgs       *.jpg
    keypoints  *.npy, (68, 2) float32 in pixels of the jpg
    segs       *.png, white is the person
    ROOT/truth.csv has azimuth, elevation and light in radians, and the openings of mouth and lids
    in decimetres. The phases share no person. Existing files are overwritten.
    """
    rows: list[list[str]] = []
    for phase, count in persons.items():
        for number in range(count * videos):
            person, video = divmod(number, videos)
            clip = 2 * number + (phase == "test")
            scene = motion(clip, frames, seed, ranges)
            who = identities(torch.tensor([person + SPLITS[phase]]), seed).expand(frames, -1)
            background = torch.full((frames,), number + SPLITS[phase])
            place = f"person_{person:05d}/video_{video:02d}/00"
            for start in range(0, frames, _AT_ONCE):
                part = slice(start, start + _AT_ONCE)
                heads = render(
                    who[part],
                    scene["azimuth"][part],
                    scene["elevation"][part],
                    scene["light"][part],
                    size,
                    colour=True,
                    expression=scene["expression"][part],
                    background=background[part],
                )
                for i in range(len(heads["image"])):
                    mask = heads["mask"][i].byte()[None] * 255
                    name = f"{place}/{start + i:05d}"
                    write_frame(root, phase, name, heads["image"][i], heads["points"][i], mask)
                    truth = [scene[factor][start + i] for factor in RANGES]
                    truth += [heads["mouth"][i], *heads["lids"][i]]
                    rows.append([f"{phase}/{name}", *(f"{float(value):.6f}" for value in truth)])
    if not rows:
        raise UserError(f"{root}: nothing to write; persons, videos and frames must be 1 or more")
    columns = ("frame", *RANGES, "mouth", "right_lids", "left_lids")
    write_table(Path(root) / "truth.csv", columns, rows)
    return len(rows)


@user_errors("python -m nets.worlds.heads.export")
def main() -> None:
    parser = argparse.ArgumentParser(description="Write a sheet or a folder of heads.")
    add = parser.add_argument
    add("--out", default="heads.png", help="the sheet to write")
    add("--columns", type=int, default=8, help="columns of the sheet")
    add("--rows", type=int, default=5, help="rows of the sheet")
    add("--size", type=int, default=128, help="side of one image, pixels")
    add("--seed", type=int, default=0, help="seed of the world")
    add("--data_root", type=Path, help="write a folder of training data instead of a sheet")
    add("--persons", type=int, default=20, help="persons in the folder's train split")
    add("--test_persons", type=int, default=4, help="persons in the folder's test split")
    add("--videos", type=int, default=2, help="videos per person in the folder")
    add("--frames", type=int, default=16, help="frames per video in the folder")
    add("--benchmark", action="store_true", help="print images per second at 128 and 64 px instead")
    args = parser.parse_args()
    if args.benchmark:
        for size in (128, 64):
            real, core = rate(size)
            threads = torch.get_num_threads()
            print(
                f"{size} px: {real:.0f} images/s with {threads} threads, {core:.0f} a core-second"
            )
        return
    if args.data_root:
        persons = {"train": args.persons, "test": args.test_persons}
        sizes = (args.videos, args.frames, args.size, args.seed)
        count = write_data_root(args.data_root, persons, *sizes)
        print(f"{args.data_root}: {count} frames")
        return
    from PIL import Image  # only the sheet needs it

    sheet = contact_sheet(args.columns, args.rows, args.size, args.seed)
    image = Image.fromarray(sheet.permute(1, 2, 0).numpy())
    image.quantize(256, kmeans=4, dither=Image.Dither.FLOYDSTEINBERG).save(args.out, optimize=True)
    print(f"{args.out}: {args.columns * args.rows} people")


if __name__ == "__main__":
    main()
