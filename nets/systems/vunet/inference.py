"""Transfers, and samples of appearances, by a VUNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nets.data.joints import read_joints
from nets.data.people import open_people
from nets.data.pictures import list_pictures, picture_size, read_letterboxed, read_picture
from nets.errors import UserError
from nets.run import options
from nets.run.loader import in_order, to_device
from nets.run.options import NonNegativeFloat, NonNegativeInt
from nets.run.precision import Precision
from nets.run.ranks import Ranks
from nets.skeletons import JOINTS_15
from nets.systems.output import write_grid
from nets.vunet import Inputs, VUNet, transfers

from . import load_network

Person = tuple[str, Tensor, Tensor | None]  # name, picture (3, S, S) uint8, joints (15, 2) pixels


# fmt: off
def add_options(p: options.ArgumentParser) -> None:
    g = p.add_argument_group("VUNet: joints are a JSON file {name: [x, y]} or "
                             "{picture: {name: [x, y]}}, or index.p:NUMBER or :PICTURE")
    add = g.add_argument
    add("--source_joints", type=str | None, default=None, help="joints of the sources")
    add("--driving_joints", type=str | None, default=None, help="joints of the drivings")
    add("--samples", type=NonNegativeInt, default=0,
        help="draw so many appearances for each driving pose, instead of a source")
    add("--noise", type=NonNegativeFloat, default=0.0,
        help="scale of the noise added to the appearance's latents; 0: deterministic")
# fmt: on


def infer(args: options.Namespace, content: dict[str, Any], path: Path, ranks: Ranks) -> None:
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
            nothing = [None] * args.samples
            write_grid(args, names, nothing, [d[0] for d in drivings], poses, made)
            return
        appearances = [
            inputs.appearance(picture[None], joints if joints is None else joints[None])
            for _, picture, joints in sources
        ]
        noise = generator(args, ranks) if args.noise else None
        made = transfers(net, poses, torch.cat(appearances), args.noise, noise)
    write_grid(args, [s[0] for s in sources], [s[1] for s in sources], [d[0] for d in drivings],
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
        for file in list_pictures(f"--{option}", files):
            if needed and joints is None:
                raise UserError(
                    f"{file}: where are the joints? give --{option}_joints FILE, JSON "
                    "{name: [x, y]} or index.p:NUMBER"
                )
            person = read_person(file, joints if needed else None, trained)
            found[-1].append(to_device(list(person), ranks.device))
    return found[0], found[1]


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
