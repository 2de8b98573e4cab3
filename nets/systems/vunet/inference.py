"""Transfers, and samples of appearances, by a VUNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nets.data.frames import pair_name
from nets.data.people import open_people
from nets.data.pictures import list_pictures, write_picture
from nets.data.video import is_video
from nets.errors import UserError
from nets.run import options
from nets.run.loader import in_order, to_device
from nets.run.options import NonNegativeFloat, NonNegativeInt
from nets.run.precision import Precision
from nets.run.ranks import Ranks
from nets.skeletons import JOINTS_17
from nets.systems.output import distinct, write_grid
from nets.vunet import Inputs, VUNet, transfers

from . import load_network
from .driving import Seen, detector, drive, found, given, pasted


# fmt: off
def add_options(p: options.ArgumentParser) -> None:
    g = p.add_argument_group("VUNet: joints are a JSON file {name: [x, y]} or "
                             "{picture: {name: [x, y]}}, or index.p:NUMBER or :PICTURE")
    add = g.add_argument
    add("--source_joints", type=str | None, default=None,
        help="joints of the sources; default: found, and the largest person cut out")
    add("--driving_joints", type=str | None, default=None,
        help="joints of the driving pictures; default: found, and --person cut out")
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
        inputs = Inputs(trained, JOINTS_17)
        sources, drivings, videos = people(args, trained, inputs, ranks)
    else:
        print("no -s and no -d: pictures of the run's own test data")
        data = open_people(trained, "test", 8)
        inputs = Inputs(trained, data.joint_order)
        sources, drivings = demo_people(data, ranks)
        videos = []
    appearances = [
        inputs.appearance(s.picture[None], None if s.joints is None else s.joints[None])
        for s in sources
    ]

    def transfer(joints: Tensor) -> Tensor:
        noise = generator(args, ranks) if args.noise else None
        poses = inputs.pose(joints.to(ranks.device))
        return transfers(net, poses, torch.cat(appearances), args.noise, noise)

    with torch.no_grad(), precision.autocast():
        for video in videos:
            find = detector(args, "driving", video)
            drive(args, transfer, sources, video, find, trained["spatial_size"])
        if not drivings:
            return
        joints = torch.stack([driving.joints for driving in drivings])
        poses, columns = inputs.pose(joints), [driving.name for driving in drivings]
        if args.samples:
            made = sample(net, poses, args.samples, generator(args, ranks))
            names = [f"sample {i + 1}" for i in range(args.samples)]
            write_grid(args, names, [None] * args.samples, columns, poses, made)
            return
        made = transfer(joints)
    if args.paste:
        write_pasted(args, sources, drivings, made)
        return
    names, pictures = [s.name for s in sources], [s.picture for s in sources]
    write_grid(args, names, pictures, columns, poses, made)


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
) -> tuple[list[Seen], list[Seen], list[Path]]:
    """The sources, the driving pictures and the driving videos that the command line names."""
    if not args.driving:
        raise UserError("-d: a picture or video whose pose to take is needed")
    if args.source and args.samples:
        raise UserError("-s and --samples: give one of them")
    if not args.source and not args.samples:
        raise UserError("-s: a picture whose appearance to take is needed, or --samples")
    for file in args.source:
        if is_video(file) and not Path(file).is_dir():
            raise UserError(f"-s {file}: the appearance comes from a picture, not from a video")
    videos = [file for file in map(Path, args.driving) if is_video(file) and not file.is_dir()]
    if videos and (args.samples or args.driving_joints):
        option = "samples" if args.samples else "driving_joints"
        raise UserError(f"--{option}: for driving pictures, {videos[0]} is a video")
    if not videos:
        for option in ("start", "end", "fps", "concat"):
            if args[option]:
                raise UserError(f"--{option}: only with a driving video")
    seen = []
    for option, files, joints, needed, number in (
        ("source", args.source, args.source_joints, inputs.crops, 1),
        ("driving", args.driving, args.driving_joints, True, args.person),
    ):
        files = [file for file in files if Path(file) not in videos]
        files = list_pictures(f"--{option}", files)
        if files and needed and joints is None:
            find = detector(args, option, files[0])
            seen.append(found(args, find, files, number, trained["spatial_size"]))
        else:
            seen.append([given(file, joints if needed else None, trained) for file in files])
    sources, drivings = ([on_device(one, ranks) for one in some] for some in seen)
    if args.paste and any(driving.box is None for driving in drivings):
        raise UserError("--paste: only where the joints are found, without --driving_joints")
    return sources, drivings, videos


def on_device(seen: Seen, ranks: Ranks) -> Seen:
    picture, joints = to_device([seen.picture, seen.joints], ranks.device)
    return seen._replace(picture=picture, joints=joints)


def demo_people(data: Any, ranks: Ranks) -> tuple[list[Seen], list[Seen]]:
    """A person, and another one in another pose."""
    batch = next(iter(in_order(data, len(data), ranks)))
    picture, joints = Inputs.source(batch)
    source = Seen("source", picture[0], joints[0])
    return [source], [Seen("driving", batch["target"][-1], batch["joints"][-1])]


def write_pasted(
    args: options.Namespace, sources: list[Seen], drivings: list[Seen], made: Tensor
) -> None:
    """The driving pictures with every source in the person's place: --out, or a folder of them."""
    out, single = Path(args.out), made.shape[0] * made.shape[1] == 1
    rows, columns = distinct([s.name for s in sources]), distinct([d.name for d in drivings])
    for row, pictures in zip(rows, made, strict=True):
        for column, driving, picture in zip(columns, drivings, pictures, strict=True):
            name = pair_name(row, column, ".png")
            path = out if single and out.suffix else out.with_suffix("") / name
            write_picture(path, pasted(driving, picture))
            print(f"written: {path}")
