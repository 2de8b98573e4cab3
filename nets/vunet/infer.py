"""Transfers, and samples of appearances, by a VUNet."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from nets.data.detectors import Detector, Follow, Person, open_detector, person_square
from nets.data.heads.faces import FaceBox, crop_square, paste_square, points_in_crop
from nets.data.io.frames import Finder, Frame, Frames
from nets.data.io.images import (
    image_size,
    list_images,
    read_image,
    read_letterboxed,
    write_image,
)
from nets.data.io.names import Paths, distinct, pair_name
from nets.data.io.video import is_video
from nets.data.io.video_writer import FORMATS, VideoWriter
from nets.data.people.joints import read_joints
from nets.errors import UserError
from nets.output import write_grid
from nets.published import find, read_checkpoint
from nets.run import options
from nets.run.images import to_uint8
from nets.run.loader import in_order, loader, to_device
from nets.run.options import NonNegativeFloat, NonNegativeInt
from nets.run.precision import Precision
from nets.run.ranks import Ranks
from nets.run.run import Run
from nets.skeletons import JOINTS_17
from nets.vunet import VUNet
from nets.vunet.data import PersonInputs, open_people, write_images, write_images_index
from nets.vunet.visuals import show_samples, show_transfer, transfers
from nets.vunet.warm_start import load_network


# fmt: off
def add_options(p: options.ArgumentParser) -> None:
    g = p.add_argument_group("VUNet: joints are a JSON file {name: [x, y]} or "
                             "{image: {name: [x, y]}}, or index.p:NUMBER or :IMAGE")
    add = g.add_argument
    add("--source_joints", type=str | None, default=None,
        help="joints of the sources; default: found, and the largest person cut out")
    add("--driving_joints", type=str | None, default=None,
        help="joints of the driving images; default: found, and --person cut out")
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
        inputs = PersonInputs(trained, JOINTS_17)
        sources, drivings, videos = people(args, trained, inputs, ranks)
    else:
        print("no -s and no -d: images of the run's own test data")
        data = open_people(trained, "test", 8)
        inputs = PersonInputs(trained, data.joint_order)
        sources, drivings = demo_people(data, ranks)
        videos = []
    appearances = [
        inputs.appearance(s.image[None], None if s.joints is None else s.joints[None])
        for s in sources
    ]

    def transfer(joints: Tensor) -> Tensor:
        noise = generator(args, ranks) if args.noise else None
        poses = inputs.pose(joints.to(ranks.device))
        return transfers(net, poses, torch.cat(appearances), args.noise, noise)

    with torch.no_grad(), precision.autocast():
        names, unused = [source.name for source in sources], Paths()
        for video in videos:
            find = detector(args, "driving", video)
            single = len(sources) * len(videos) == 1
            paths = [unused(path) for path in _paths(args, names, video, single)]
            drive(args, transfer, sources, video, find, trained["image_size"], paths)
        if not drivings:
            return
        joints = torch.stack([driving.joints for driving in drivings])
        poses, columns = inputs.pose(joints), [driving.name for driving in drivings]
        if args.samples:
            generated = sample(net, poses, args.samples, generator(args, ranks))
            names = [f"sample {i + 1}" for i in range(args.samples)]
            write_grid(args, names, [None] * args.samples, columns, poses, generated)
            return
        generated = transfer(joints)
    if args.paste:
        write_pasted(args, sources, drivings, generated)
        return
    names, images = [s.name for s in sources], [s.image for s in sources]
    write_grid(args, names, images, columns, poses, generated)


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
    args: options.Namespace, trained: dict[str, Any], inputs: PersonInputs, ranks: Ranks
) -> tuple[list[SeenPerson], list[SeenPerson], list[Path]]:
    """The sources, the driving images and the driving videos that the command line names."""
    if not args.driving:
        raise UserError("-d: an image or video whose pose to take is needed")
    if args.source and args.samples:
        raise UserError("-s and --samples: give one of them")
    if not args.source and not args.samples:
        raise UserError("-s: an image whose appearance to take is needed, or --samples")
    for file in args.source:
        if is_video(file) and not Path(file).is_dir():
            raise UserError(f"-s {file}: the appearance comes from an image, not from a video")
    videos = [file for file in map(Path, args.driving) if is_video(file) and not file.is_dir()]
    if videos and (args.samples or args.driving_joints):
        option = "samples" if args.samples else "driving_joints"
        raise UserError(f"--{option}: for driving images, {videos[0]} is a video")
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
        files = list_images(f"--{option}", files)
        if files and needed and joints is None:
            find = detector(args, option, files[0])
            seen.append(found(args, find, files, number, trained["image_size"]))
        else:
            seen.append([given(file, joints if needed else None, trained) for file in files])
    sources, drivings = ([on_device(one, ranks) for one in some] for some in seen)
    if args.paste and any(driving.box is None for driving in drivings):
        raise UserError("--paste: only where the joints are found, without --driving_joints")
    return sources, drivings, videos


def on_device(seen: SeenPerson, ranks: Ranks) -> SeenPerson:
    image, joints = to_device([seen.image, seen.joints], ranks.device)
    return seen._replace(image=image, joints=joints)


def demo_people(data: Any, ranks: Ranks) -> tuple[list[SeenPerson], list[SeenPerson]]:
    """A person, and another one in another pose."""
    batch = next(iter(in_order(data, len(data), ranks)))
    image, joints = PersonInputs.source(batch)
    source = SeenPerson("source", image[0], joints[0])
    return [source], [SeenPerson("driving", batch["target"][-1], batch["joints"][-1])]


def write_pasted(
    args: options.Namespace,
    sources: list[SeenPerson],
    drivings: list[SeenPerson],
    generated: Tensor,
) -> None:
    """The driving images with every source in the person's place: --out, or a folder of them."""
    out, single = Path(args.out), generated.shape[0] * generated.shape[1] == 1
    rows, columns = distinct([s.name for s in sources]), distinct([d.name for d in drivings])
    paths = Paths()
    for row, images in zip(rows, generated, strict=True):
        for column, driving, image in zip(columns, drivings, images, strict=True):
            name = pair_name(row, column, ".png")
            path = paths(out if single and out.suffix else out.with_suffix("") / name)
            write_image(path, pasted(driving, image))
            print(f"written: {path}")


AT_ONCE = 8  # frames in one pass of the network


class SeenPerson(NamedTuple):
    """A person as the network sees it, and where it was cut from."""

    name: str
    image: Tensor  # (3, S, S) uint8
    joints: Tensor | None  # (J, 2) pixels of it: 17, or as the demo world has them
    whole: Tensor | None = None  # (3, H, W) uint8
    box: FaceBox | None = None  # of the square in `whole`; None: all of it


def given(file: Path, joints: str | None, trained: dict[str, Any]) -> SeenPerson:
    """All of an image as training saw it, and the joints that a file names, if there is one."""
    size = trained["image_size"]
    points = None if joints is None else read_joints(joints, file, image_size(file))
    if trained["fit"] == "squash":
        return SeenPerson(
            file.stem, read_image(file, size), None if points is None else points * size
        )
    image, (x, y, w, h) = read_letterboxed(file, size)
    if points is not None:
        points = points * torch.tensor([w, h]) + torch.tensor([x, y])
    return SeenPerson(file.stem, image, points)


def cut_out(frame: Frame, person: Person, name: str, size: int) -> SeenPerson:
    """A person that was found, cut out as `extract.py people` does."""
    box = person_square(person.joints)
    image = crop_square(frame.image, box, size)
    return SeenPerson(name, image, points_in_crop(person.joints, box, size), frame.image, box)


def detector(args: options.Namespace, option: str, file: Path) -> Detector:
    """Opens the detector, or says how else the joints of a file may come."""
    try:
        return open_detector(args.detector)
    except UserError as error:
        raise UserError(
            f"{file}: where are the joints? give --{option}_joints FILE, JSON {{name: [x, y]}} or "
            f"index.p:NUMBER, or have them found: {error}"
        ) from error


def found(
    args: options.Namespace, find: Detector, files: list[Path], number: int, size: int
) -> list[SeenPerson]:
    """The person of each image, cut out; images without one as --on_missing says."""
    frames = (frame for file in files for frame in Frames(file))
    finder = Finder(Follow(find, number, videos=False), _called(number), args.on_missing)
    seen = [cut_out(f, person, Path(f.name).stem, size) for f, person in finder(frames)]
    finder.report()
    return seen


def _called(number: int) -> str:
    return "person" if number == 1 else f"person {number}"


def drive(
    args: options.Namespace,
    transfer: Callable[[Tensor], Tensor],
    sources: list[SeenPerson],
    video: Path,
    find: Detector,
    size: int,
    paths: list[Path],
) -> None:
    """Write a video of every source in the poses of a video, frame by frame.

    transfer  joints (N, 17, 2) in pixels -> images (sources, N, 3, S, S) in [-1, 1]
    paths     of the result of each source, with --concat followed by the one side by side
    """
    frames = Frames(video, args.start, args.end, args.fps)
    finder = Finder(Follow(find, args.person), _called(args.person), args.on_missing)
    people = ((f, cut_out(f, person, "", size)) for f, person in finder(_watched(frames)))
    with contextlib.ExitStack() as stack:
        writers = {
            path: stack.enter_context(VideoWriter(path, frames.fps, video, frames.start))
            for path in paths
        }
        outs = list(writers.values())
        while part := list(islice(people, AT_ONCE)):
            generated = to_uint8(transfer(torch.stack([seen.joints for _, seen in part]))).cpu()
            each = iter(outs)
            for source, row in zip(sources, generated, strict=True):
                out, beside = next(each), next(each) if args.concat else None
                for (frame, seen), image in zip(part, row, strict=True):
                    pasted = paste_square(seen.whole, image, seen.box) if args.paste else image
                    out.write(pasted, frame.seconds)
                    if beside is not None:
                        three = [source.image.cpu(), seen.image, image]
                        beside.write(torch.cat(three, 2), frame.seconds)
    finder.report()
    for path in writers:
        print(f"written: {path}")


def _watched(frames: Frames) -> Iterator[Frame]:
    """With a bar of progress where somebody is looking."""
    return iter(tqdm(frames, frames.path.name, frames.count, unit="frame", disable=None))


def _paths(args: options.Namespace, sources: list[str], video: Path, single: bool) -> list[Path]:
    """The videos to write: of each source the result, and with --concat the one side by side.

    single  True if --out may name the only result
    """
    out, folder = Path(args.out), Path(args.out).with_suffix("")
    endings = ("", "_concat") if args.concat else ("",)
    if out.suffix.lower() in FORMATS and single:
        return [out.with_name(f"{out.stem}{ending}{out.suffix}") for ending in endings]
    return [
        folder / pair_name(source, video.stem, f"{ending}.mp4")
        for source in distinct(sources)
        for ending in endings
    ]


def pasted(seen: SeenPerson, generated: Tensor) -> Tensor:
    """The driving image with what was made in the person's place."""
    return paste_square(seen.whole, to_uint8(generated).cpu(), seen.box)


@torch.no_grad()
def without_training(run: Run, args: options.Namespace, precision: Precision) -> None:
    """The modes test, transfer and add_reconstructions, with the options of the checkpoint."""
    run.stop_listening()
    path = find(args.checkpoint)
    net, trained = load_network(read_checkpoint(path, "vunet"), path, precision)
    if args.data:
        trained |= {"data": args.data, "pairing": "same"}  # other data need not know identities
    bad, workers = args.on_bad_sample, args.workers
    if args.mode == "add_reconstructions":
        data = open_people({**trained, "pairing": "same"}, "test")
        inputs = PersonInputs(trained, data.joint_order)
        with precision.autocast():
            generated = (
                (batch, net(*inputs(batch), "transfer").image)
                for batch in in_order(data, args.batch_size, run.ranks, workers, bad, run.print)
            )
            folder = run.folder / "reconstructions"
            written = [w for of in run.ranks.gather(write_images(generated, folder)) for w in of]
        run.ranks.on_main(lambda: write_images_index(data.joint_order, written, folder))
        run.print(f"{len(written)} reconstructions and their index: {folder}")
        return
    data = open_people(trained, "test")
    inputs = PersonInputs(trained, data.joint_order)
    count = min(args.batch_size, len(data))
    batches = loader(data, count, run.ranks, seed=args.seed, on_bad_sample=bad, workers=workers)
    images = show_transfer if args.mode == "transfer" else show_samples
    for number in range(10):
        batch = batches.batch(number)
        with precision.autocast():
            images(run, number, net, inputs, batch, alone=True)
    run.print(f"images: {run.folder / 'images'}")
