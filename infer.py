"""Pictures from a trained network: the appearance of one in the pose of another.

    python infer.py                                       the newest run, demo pictures
    python infer.py -s me.jpg -d dancer.jpg -o out.png --source_joints me.json \\
                    --driving_joints dancer.json          one picture out of two
    python infer.py -s me.jpg -d poses/ -o out/ ...       several: a grid and single pictures
    python infer.py -d dancer.jpg --samples 8 -o out/ ... appearances drawn for a pose

Joints: a JSON file {name: [x, y]} or {picture: {name: [x, y]}}, or index.p:NUMBER or :PICTURE.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nets.data.joints import read_joints
from nets.data.people import open_people
from nets.data.pictures import picture_size, read_letterboxed, read_picture, write_picture
from nets.errors import UserError
from nets.run import checkpoints, options
from nets.run.images import labelled_grid, to_uint8
from nets.run.loader import in_order, to_device
from nets.run.options import NonNegativeFloat, NonNegativeInt, add_flag
from nets.run.precision import Precision
from nets.run.ranks import Ranks
from nets.skeletons import JOINTS_15
from nets.vunet import Inputs, VUNet, transfers
from train_vunet import load_network

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
Person = tuple[str, Tensor, Tensor | None]  # name, picture (3, S, S) uint8, joints (15, 2) pixels


# fmt: off
def parser() -> options.ArgumentParser:
    p = options.tool_parser(__doc__.split("\n\n")[0])
    g = p.add_argument_group("inference")
    add = g.add_argument
    add("--checkpoint", type=str | None, default=None,
        help="a checkpoint or run folder; default: the newest under runs/")
    add("-s", "--source", type=str, nargs="+", default=[], metavar="PICTURE",
        help="where the appearance comes from: pictures or folders of them")
    add("-d", "--driving", type=str, nargs="+", default=[], metavar="PICTURE",
        help="where the pose comes from: pictures or folders of them")
    add("-o", "--out", type=str, default="out.png",
        help="a picture; of several transfers a grid, with the single ones in a folder beside it")
    add("--source_joints", type=str | None, default=None, help="joints of the sources")
    add("--driving_joints", type=str | None, default=None, help="joints of the drivings")
    add_flag(g, "--grid", False, "also of one pair: poses above, sources to the left")
    add("--samples", type=NonNegativeInt, default=0,
        help="draw so many appearances for each driving pose, instead of a source")
    add("--noise", type=NonNegativeFloat, default=0.0,
        help="scale of the noise added to the appearance's latents; 0: deterministic")
    return p
# fmt: on


def vunet(args: options.Namespace, content: dict[str, Any], path: Path, ranks: Ranks) -> None:
    """Transfers, or samples of appearances, by a VUNet."""
    precision = Precision(args.precision, ranks.device, args.channels_last)
    net, trained = load_network(content, path, precision)
    if args.source or args.driving:
        inputs = Inputs(trained, JOINTS_15)
        sources, drivings = people(args, trained, inputs, ranks)
    else:
        print("no -s and no -d: pictures of the run's own test data")
        data = open_people(trained, "test", 8)
        inputs = Inputs(trained, data.joint_order)
        sources, drivings = demo_people(data, ranks)
    poses = inputs.pose(torch.stack([joints for _, _, joints in drivings]))
    with torch.no_grad(), precision.autocast():
        if args.samples:
            made = sample(net, poses, args.samples, generator(args, ranks))
            names = [f"sample {i + 1}" for i in range(args.samples)]
            write(args, names, [None] * args.samples, [d[0] for d in drivings], poses, made)
            return
        appearances = [
            inputs.appearance(picture[None], joints if joints is None else joints[None])
            for _, picture, joints in sources
        ]
        noise = generator(args, ranks) if args.noise else None
        made = transfers(net, poses, torch.cat(appearances), args.noise, noise)
    write(args, [s[0] for s in sources], [s[1] for s in sources], [d[0] for d in drivings],
          poses, made)  # fmt: skip


def generator(args: options.Namespace, ranks: Ranks) -> torch.Generator:
    return torch.Generator(ranks.device).manual_seed(args.seed)


def sample(net: VUNet, poses: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count, P, 3, S, S): each row one draw of the noise, the same for all poses."""
    rows = []
    for _ in range(count):
        noise = net.noise(1, poses.device, generator).prior
        shared = tuple(n.expand(len(poses), -1, -1, -1) for n in noise)
        rows.append(net.decode(poses, None, shared)[0].float())
    return torch.stack(rows)


def people(
    args: options.Namespace, trained: dict[str, Any], inputs: Inputs, ranks: Ranks
) -> tuple[list[Person], list[Person]]:
    """The pictures and joints that the command line names."""
    if not args.driving:
        raise UserError("-d: a picture whose pose to take is needed")
    if args.source and args.samples:
        raise UserError("-s and --samples: give one of them")
    if not args.source and not args.samples:
        raise UserError("-s: a picture whose appearance to take is needed, or --samples")
    found = []
    for option, files, joints, needed in (
        ("source", args.source, args.source_joints, inputs.crops),
        ("driving", args.driving, args.driving_joints, True),
    ):
        found.append([])
        for file in pictures(option, files):
            if needed and joints is None:
                raise UserError(
                    f"{file}: where are the joints? give --{option}_joints FILE, JSON "
                    "{name: [x, y]} or index.p:NUMBER"
                )
            person = read_person(file, joints if needed else None, trained)
            found[-1].append(to_device(list(person), ranks.device))
    return found[0], found[1]


def pictures(option: str, files: list[str]) -> list[Path]:
    """The files themselves, and the pictures in those that are folders, by name."""
    result = []
    for file in map(Path, files):
        inside = sorted(p for p in file.iterdir() if p.suffix.lower() in PICTURES) \
            if file.is_dir() else [file]  # fmt: skip
        if not inside:
            raise UserError(f"--{option} {file}: no pictures in this folder")
        result += inside
    return result


def read_person(file: Path, joints: str | None, trained: dict[str, Any]) -> Person:
    """A picture as training saw it, and its joints in pixels of that."""
    size = trained["spatial_size"]
    points = None if joints is None else read_joints(joints, file, picture_size(file))
    if trained["fit"] == "squash":
        picture = read_picture(file, size)
        return file.stem, picture, None if points is None else points * size
    picture, (x, y, w, h) = read_letterboxed(file, size)
    if points is not None:
        points = points * torch.tensor([w, h]) + torch.tensor([x, y])
    return file.stem, picture, points


def demo_people(data: Any, ranks: Ranks) -> tuple[list[Person], list[Person]]:
    """A person, and another one in another pose."""
    batch = next(iter(in_order(data, len(data), ranks)))
    picture, joints = Inputs.source(batch)
    source = ("source", picture[0], joints[0])
    return [source], [("driving", batch["target"][-1], batch["joints"][-1])]


def write(
    args: options.Namespace,
    rows: list[str],
    sources: list[Tensor | None],
    columns: list[str],
    poses: Tensor,
    made: Tensor,
) -> None:
    """One picture, or a grid and a folder of single pictures."""
    out = Path(args.out)
    rows, columns = distinct(rows), distinct(columns)
    folder = out.with_suffix("")
    if not out.suffix or out.is_dir() or args.out.endswith("/"):
        folder, out = out, out / "grid.png"
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--out {out}: must end in .png or .jpg, or be a folder")
    made = to_uint8(made).cpu()
    if made.shape[:2] == (1, 1) and not args.grid:
        write_picture(out, made[0, 0])
        print(f"written: {out}")
        return
    cells = [[None, *to_uint8(poses).cpu()]]
    cells += [[s if s is None else s.cpu(), *row] for s, row in zip(sources, made, strict=True)]
    grid = labelled_grid(cells, ["", *rows], ["", *columns])
    write_picture(out, torch.from_numpy(grid.copy()).permute(2, 0, 1))
    for (i, row), (j, column) in product(enumerate(rows), enumerate(columns)):
        write_picture(folder / f"{row}--{column}.png".replace(" ", "_"), made[i, j])
    print(f"written: {out} and {len(rows) * len(columns)} pictures in {folder}/")


def distinct(names: list[str]) -> list[str]:
    """The names, numbered where one comes twice: each is that of a file."""
    return [f"{n}_{i + 1}" if names.count(n) > 1 else n for i, n in enumerate(names)]


SYSTEMS = {"vunet": vunet}


@options.user_errors()
def main(argv: list[str] | None = None) -> None:
    args = options.parse(parser(), argv)
    path = checkpoints.find(args.checkpoint)
    content = checkpoints.read(path)
    print(f"{path}: {content['system']}, step {content['step']}")
    SYSTEMS[content["system"]](args, content, path, Ranks(args.device))


if __name__ == "__main__":
    main()
