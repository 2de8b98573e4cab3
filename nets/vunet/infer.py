"""Inference of a VUNet: transfers to images and videos, samples, and modes without training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate
from tqdm import tqdm

from nets.contracts import PeopleDataset
from nets.data.detectors import AUTO, Detector, Follow, open_detector, person_square
from nets.data.heads.faces import FaceBox, crop_square, points_in_crop
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
from nets.data.pasting import paste_square
from nets.data.people.alpha import with_alpha
from nets.data.people.joints import read_joints
from nets.data.subset import First
from nets.errors import UserError
from nets.onnx_files import ExportedGraphs, graphs_of, refuse
from nets.output import write_demo, write_grid
from nets.published import find, read_checkpoint
from nets.run import options
from nets.run.images import to_uint8
from nets.run.loader import fetched, in_order, loader, to_device
from nets.run.options import NonNegativeFloat, NonNegativeInt, add_flag
from nets.run.precision import Precision, compile_methods
from nets.run.ranks import Ranks
from nets.run.run import Run
from nets.skeletons import (
    JOINTS_17,
    LIMBS,
    keep_proportions,
    limb_lengths,
    valid_joints,
)
from nets.vunet import VUNet
from nets.vunet.data import (
    PersonInputs,
    has_truth,
    open_people,
    write_images,
    write_images_index,
)
from nets.vunet.fitting import fit
from nets.vunet.network import Pair
from nets.vunet.visuals import drawn_pose, show_samples, show_transfer, transfers
from nets.vunet.warm_start import load_network, require_data


# fmt: off
def add_options(p: options.ArgumentParser) -> None:
    """Add the options of infer.py that are VUNet's own."""
    g = p.add_argument_group("VUNet: joints are a JSON file {name: [x, y]} or "
                             "{image: {name: [x, y]}}, or index.p:NUMBER or :IMAGE")
    add = g.add_argument
    add("--source_joints", type=str | None, default=None,
        help="joints of the sources; default: detected, and the largest person is cut out")
    add("--driving_joints", type=str | None, default=None,
        help="joints of the driving images; default: detected, and --person is cut out")
    add("--samples", type=NonNegativeInt, default=0,
        help="number of random appearances for each driving pose, instead of a source")
    add("--noise", type=NonNegativeFloat, default=0.0,
        help="scale of the noise added to the appearance's latents; 0: deterministic")
    add_flag(g, "--keep_proportions", False,
        "give the driving figure the limb lengths of the source person")
# fmt: on


def infer(args: options.Namespace, content: dict[str, Any], path: Path, ranks: Ranks) -> None:
    """Write transfers, or images of random appearances, to --out.

    content  of the checkpoint `path`
    """
    precision = Precision(args.precision, ranks.device, args.channels_last)
    net: VUNet
    if graphs := graphs_of(content):
        refuse(args, ("samples", "noise", "fit_steps"))
        net, trained = ExportedVUNet(graphs), {**content["options"], "fit_steps": 0}
        if args.source and content["options"].get("fit_steps") and args.fit_steps is None:
            print("an exported file is not fitted to the source, as its checkpoint would be")
    else:
        net, trained = load_network(content, path, precision)
    if args.fit_steps and not args.source:
        raise UserError("--fit_steps: only with -s, a person to fit the network to")
    if args.fit_steps is None:
        args.fit_steps = trained.get("fit_steps", 0)
    if args.compile and not graphs and not (args.source and args.fit_steps):
        compile_methods(net, "encode", "decode")
    if args.source or args.driving:
        inputs = PersonInputs(trained, JOINTS_17)
        sources, drivings, videos = people(args, trained, inputs, ranks)
    else:
        if args.paste:
            raise UserError("--paste: only with -d, images or videos to paste into")
        if args.keep_proportions:
            raise UserError("--keep_proportions: only with -s and -d, two people to compare")
        data = open_people(trained, "test")
        inputs = PersonInputs(trained, data.joint_order)
        name = "the demo world" if has_truth(data) else data.name
        print(f"no -s and no -d: people of the test data, {name}")
        if Path(args.out).suffix and not args.samples and not Path(args.out).is_dir():
            with torch.no_grad(), precision.autocast():
                demo(args, net, inputs, data, ranks)
            return
        sources, drivings = demo_people(data, ranks)
        videos = []
    cuts = [person for person in drivings if isinstance(person, CutPerson)] if args.paste else []
    appearances = [inputs.appearance(s.image[None], s.joints[None]) for s in sources]
    nets = [net] * len(sources)
    if args.source and args.fit_steps:
        nets = fitted_to(args, net, inputs, sources, precision)

    def poses_of(source: SeenPerson, joints: Tensor, aspects: Sequence[float]) -> Tensor:
        if args.keep_proportions:
            joints = in_proportion(source, joints.cpu(), aspects)
        return inputs.pose(joints.to(ranks.device))

    def transfer(joints: Tensor, aspects: Sequence[float]) -> Tensor:
        noise = generator(args, ranks) if args.noise else None
        rows = []
        for source, own, appearance in zip(sources, nets, appearances, strict=True):
            poses = poses_of(source, joints, aspects)
            rows.append(transfers(own, poses, appearance, args.noise, noise))
        return torch.cat(rows)

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
        shown = drawn_pose(poses)
        if args.samples:
            generated = sample(net, poses, args.samples, generator(args, ranks))
            names = [f"sample {i + 1}" for i in range(args.samples)]
            write_grid(args, names, [None] * args.samples, columns, shown, generated)
            return
        aspects = [driving.aspect for driving in drivings]
        generated = transfer(joints, aspects)
        if len(sources) == 1:
            shown = drawn_pose(poses_of(sources[0], joints, aspects))
    names = [source.name for source in sources]
    if args.paste:
        write_pasted(args, names, cuts, generated)
        return
    images: list[Tensor | None] = [source.image[:3] for source in sources]
    write_grid(args, names, images, columns, shown, generated)


def fitted_to(
    args: options.Namespace,
    net: VUNet,
    inputs: PersonInputs,
    sources: list[SeenPerson],
    precision: Precision,
) -> list[VUNet]:
    """A network for each source, fitted to it in --fit_steps steps."""
    count = f"{len(sources)} sources" if len(sources) > 1 else "the source"
    print(f"fitting the network to {count}: {args.fit_steps} steps; --fit_steps 0 leaves it out")
    nets = []
    for source in tqdm(sources, "fit", unit="source", disable=None, delay=5):
        own = fit(net, inputs, source.image, source.joints, args.fit_steps, precision)
        if args.compile:
            compile_methods(own, "encode", "decode")
        nets.append(own)
    return nets


class ExportedVUNet(VUNet):
    """The exported graph with the methods of `VUNet`, for transfers without noise.

    The graph computes an image from pose and appearance at once. What `encode` hands to `decode` as
    latents is therefore the appearance itself.
    """

    def __init__(self, graphs: ExportedGraphs):
        torch.nn.Module.__init__(self)
        self._graph = graphs["vunet"]

    def encode(self, appearance: Tensor, noise: Pair | None = None) -> tuple[Pair, Pair]:
        return (appearance, appearance), (appearance, appearance)

    def decode(
        self,
        pose: Tensor,
        latents: Pair | None = None,
        noise: Pair | None = None,
        priors_of: int | None = None,
    ) -> tuple[Tensor, Pair]:
        assert latents is not None  # samples are refused
        (image,) = self._graph({"pose": pose, "appearance": latents[0]})
        return image, latents


def demo(
    args: options.Namespace, net: VUNet, inputs: PersonInputs, data: PeopleDataset, ranks: Ranks
) -> None:
    """Write four people, each in the pose of another, with the ground truth if it is known."""
    first, second = pair_people(data, 4)
    batch = to_device(default_collate([data[0, index] for index in first + second]), ranks.device)
    n = len(first)
    poses, appearances = inputs(batch)
    poses, shown = poses[n:], drawn_pose(poses[n:])
    noise = generator(args, ranks) if args.noise else None
    rows: list[list[Tensor | None]] = []
    for i in range(n):
        one = slice(i, i + 1)
        image = transfers(net, poses[one], appearances[one], args.noise, noise)[0, 0]
        rows.append([inputs.source(batch)[0][i, :3], to_uint8(shown[i]), to_uint8(image)])
    columns = ["source", "pose", "result"]
    if has_truth(data):
        columns.append("ground truth")
        ids = (batch["outfit"][:n], batch["pose"][n:], batch["background"][n:])
        truth = data.transfer_truth(*(numbers.cpu() for numbers in ids))["image"]
        for row, image in zip(rows, truth, strict=True):
            row.append(image)
    write_demo(args.out, columns, rows)


def pair_people(data: PeopleDataset, count: int) -> tuple[list[int], list[int]]:
    """Places of up to `count` sources, and of as many images that give them poses.

    The sources are of different people where the dataset knows the people and has that many. Both
    are spread over the dataset.
    """
    spread = [i * len(data) // (2 * count) for i in range(2 * count)]
    people = getattr(data, "identities", None)
    sources: dict[object, int] = {}  # person -> place
    for place in [*spread, *range(len(data))]:
        if len(sources) < count:
            sources.setdefault(place if people is None else int(people[place]), place)
    first = list(sources.values())
    for place in spread:  # fewer people: several images of each
        if len(first) < count and place not in first:
            first.append(place)
    others = [place for place in dict.fromkeys([*spread[::-1], *range(len(data))])]
    second = [place for place in others if place not in first][: len(first)]
    second += first[len(second) - len(first) :] if len(second) < len(first) else []
    return first, second


def generator(args: options.Namespace, ranks: Ranks) -> torch.Generator:
    """A generator seeded with --seed, on the device."""
    return torch.Generator(ranks.device).manual_seed(args.seed)


def sample(net: VUNet, poses: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Images (count, P, 3, S, S) of P poses; the poses of a row share one draw of the noise."""
    rows = []
    for _ in range(count):
        noise = net.noise(1, poses.device, generator).prior
        coarse, fine = (n.expand(len(poses), -1, -1, -1) for n in noise)
        rows.append(net.decode(poses, None, (coarse, fine))[0].float())
    return torch.stack(rows)


def people(
    args: options.Namespace, trained: dict[str, Any], inputs: PersonInputs, ranks: Ranks
) -> tuple[list[SeenPerson], list[SeenPerson], list[Path]]:
    """The sources, the driving images and the driving videos that the command line names.

    Raises UserError for options that do not go together.
    """
    if not args.driving:
        raise UserError("-d: an image or video that gives the pose is needed")
    if args.source and args.samples:
        raise UserError("-s and --samples: only one of them can be given")
    if args.keep_proportions and not args.source:
        raise UserError("--keep_proportions: needs -s, the person whose proportions are kept")
    if not args.source and not args.samples:
        raise UserError("-s: an image that gives the appearance is needed, or --samples")
    for file in args.source:
        if is_video(file):
            raise UserError(f"-s {file}: the appearance comes from an image, not from a video")
    videos = [file for file in map(Path, args.driving) if is_video(file)]
    if videos and (args.samples or args.driving_joints):
        option = "samples" if args.samples else "driving_joints"
        raise UserError(f"--{option}: only with driving images, {videos[0]} is a video")
    if not videos:
        for option in ("start", "end", "fps", "concat"):
            if args[option]:
                raise UserError(f"--{option}: only with a driving video")
    seen: list[list[SeenPerson]] = []
    for option, files, joints, needed, number in (
        ("source", args.source, args.source_joints, inputs.crops or args.fit_steps > 0, 1),
        ("driving", args.driving, args.driving_joints, True, args.person),
    ):
        files = [file for file in files if Path(file) not in videos]
        files = list_images(f"--{option}", files)
        if files and needed and joints is None:
            find = detector(args, option, files[0])
            seen.append([*detected_people(args, find, files, number, trained["image_size"])])
        elif args.paste and option == "driving":
            seen.append([annotated_cut(file, joints, trained["image_size"]) for file in files])
        else:
            find = None
            if args.keep_proportions and joints is None and files:
                find = detector(args, option, files[0])
            joints = joints if needed or args.keep_proportions else None
            seen.append([annotated_person(file, joints, trained, find) for file in files])
    if args.keep_proportions:
        for source in seen[0]:
            say_unknown_limbs(source)
    sources, drivings = ([on_device(person, ranks) for person in group] for group in seen)
    return sources, drivings, videos


def say_unknown_limbs(source: SeenPerson) -> None:
    """Print which limbs a source does not show. Raises UserError if it shows none."""
    unknown = limb_lengths(source.joints).isnan()
    if unknown.all():
        raise UserError(f"{source.name}: --keep_proportions needs a limb, the source shows none")
    if unknown.any():
        limbs = ["trunk", *(f"{a} to {b}" for a, b in LIMBS)]
        names = ", ".join(name for name, bad in zip(limbs, unknown, strict=True) if bad)
        print(f"{source.name}: does not show {names}, which keep the driving person's length")


def in_proportion(source: SeenPerson, joints: Tensor, aspects: Sequence[float]) -> Tensor:
    """Driving joints (N, 17, 2) with the source's limb lengths, in pixels of the network's square.

    aspects  width over height of what each driving square shows
    """
    side = source.image.shape[-1]
    own = source.joints.cpu() * torch.tensor([source.aspect, 1.0])
    fitted = []
    for aspect, pose in zip(aspects, joints, strict=True):
        wide = torch.tensor([aspect, 1.0])
        fitted.append(keep_proportions(own, (pose * wide)[None], (side * aspect, side))[0] / wide)
    return torch.stack(fitted)


def on_device(seen: SeenPerson, ranks: Ranks) -> SeenPerson:
    """The person with image and joints on the device."""
    image, joints = to_device([seen.image, seen.joints], ranks.device)
    return replace(seen, image=image, joints=joints)


def demo_people(data: PeopleDataset, ranks: Ranks) -> tuple[list[SeenPerson], list[SeenPerson]]:
    """One source and one driving person: the first and the last of a dataset."""
    data = First(data, min(8, len(data)))
    batch = next(iter(in_order(data, len(data), ranks)))
    if "stickman" in batch:
        raise UserError("-d: needed here, since the data set draws its poses itself")
    image, joints = PersonInputs.source(batch)
    source = SeenPerson("source", image[0], joints[0])
    return [source], [SeenPerson("driving", batch["target"][-1], batch["joints"][-1])]


def write_pasted(
    args: options.Namespace, sources: list[str], drivings: list[CutPerson], generated: Tensor
) -> None:
    """Write the driving images with the result in the person's place, to --out or a folder of it.

    sources    names
    generated  (sources, drivings, 3, S, S) in [-1, 1]
    """
    out, single = Path(args.out), generated.shape[0] * generated.shape[1] == 1
    rows, columns = distinct(sources), distinct([driving.name for driving in drivings])
    paths = Paths()
    for row, images in zip(rows, generated, strict=True):
        for column, driving, image in zip(columns, drivings, images, strict=True):
            name = pair_name(row, column, ".png")
            path = paths(out if single and out.suffix else out.with_suffix("") / name)
            write_image(path, driving.pasted(to_uint8(image).cpu()))
            print(f"written: {path}")


AT_ONCE = 8  # frames in one pass of the network


@dataclass(frozen=True)
class SeenPerson:
    """A person as the network sees it."""

    name: str
    image: Tensor  # (3, S, S) uint8
    joints: Tensor  # (J, 2) in its pixels, order of JOINTS_17 or of the dataset; NaN: unknown
    aspect: float = field(default=1.0, kw_only=True)  # width / height of what was squashed to it


@dataclass(frozen=True)
class CutPerson(SeenPerson):
    """A person that was cut out of a larger image."""

    whole: Tensor  # (3, H, W) uint8, the larger image
    box: FaceBox  # the square of `image` in `whole`

    def pasted(self, image: Tensor) -> Tensor:
        """The larger image with another one, (3, S, S) uint8, in the person's place."""
        return paste_square(self.whole, image, self.box)


def annotated_cut(file: Path, joints: str, size: int) -> CutPerson:
    """A person with given joints, cut out of a file's image as a detected one is.

    joints  see `read_joints`. Raises UserError if all are unknown.
    """
    whole = read_image(file, None)
    h, w = whole.shape[1:]
    points = read_joints(joints, file, (w, h)) * torch.tensor([w, h])
    if not valid_joints(points).any():
        raise UserError(f"{joints}: all joints of {file} are missing")
    return cut_out(Frame(str(file), None, whole), points, file.stem, size)


def annotated_person(
    file: Path, joints: str | None, trained: dict[str, Any], find: Detector | None = None
) -> SeenPerson:
    """A whole image resized as in training, with the joints that a file holds.

    joints  see `read_joints`; None: those that `find` sees in the image, or all are unknown
    """
    size, extent = trained["image_size"], image_size(file)
    points = torch.full((len(JOINTS_17), 2), torch.nan)
    if joints is not None:
        points = read_joints(joints, file, extent)
    elif find is not None:
        if not (people := find.people(read_image(file, None))):
            raise UserError(f"{file}: no person found, whose proportions could be kept")
        points = people[0].joints / torch.tensor(extent)
    alpha = trained.get("img_channels", 3) == 4
    if trained["fit"] == "squash":
        image = read_image(file, size)
        image = with_alpha(image, file) if alpha else image
        return SeenPerson(file.stem, image, points * size, aspect=extent[0] / extent[1])
    image, (x, y, w, h) = read_letterboxed(file, size)
    image = with_alpha(image, file, (x, y, w, h)) if alpha else image
    return SeenPerson(file.stem, image, points * torch.tensor([w, h]) + torch.tensor([x, y]))


def cut_out(frame: Frame, joints: Tensor, name: str, size: int) -> CutPerson:
    """The person with these joints (17, 2), cut out of its frame as `extract.py people` does."""
    box = person_square(joints)
    image = crop_square(frame.image, box, size)
    return CutPerson(name, image, points_in_crop(joints, box, size), frame.image, box)


def detector(args: options.Namespace, option: str, file: Path) -> Detector:
    """The detector. Raises UserError that names the other ways to give the joints of a file."""
    try:
        return open_detector("mediapipe" if args.detector == AUTO else args.detector)
    except UserError as error:
        raise UserError(
            f"{file}: joints are needed; give --{option}_joints FILE, JSON {{name: [x, y]}} or "
            f"index.p:NUMBER, or install a detector: {error}"
        ) from error


def detected_people(
    args: options.Namespace, find: Detector, files: list[Path], number: int, size: int
) -> list[CutPerson]:
    """Person `number` of each image, cut out; --on_missing decides about images without one."""
    frames = (frame for file in files for frame in Frames(file))
    finder = Finder(Follow(find, number, videos=False), _label(number), args.on_missing)
    people = [cut_out(f, person.joints, Path(f.name).stem, size) for f, person in finder(frames)]
    finder.report()
    return people


def _label(number: int) -> str:
    """The name of a person in messages."""
    return "person" if number == 1 else f"person {number}"


def drive(
    args: options.Namespace,
    transfer: Callable[[Tensor, Sequence[float]], Tensor],
    sources: list[SeenPerson],
    video: Path,
    find: Detector,
    size: int,
    paths: list[Path],
) -> None:
    """Write, for each source, a video of it in the poses of a driving video.

    transfer  joints (N, 17, 2) in pixels, and width over height of what each square shows ->
              images (sources, N, 3, S, S) in [-1, 1]
    find      the detector
    size      side S, pixels
    paths     of the result of each source, with --concat followed by the side-by-side video
    """
    frames = Frames(video, args.start, args.end, args.fps)
    fps = frames.fps
    assert fps is not None  # only images have no frame rate
    finder = Finder(Follow(find, args.person), _label(args.person), args.on_missing)
    frames_with_people = finder(_with_progress(frames))
    people = ((f, cut_out(f, person.joints, "", size)) for f, person in frames_with_people)
    ahead = int(sources[0].image.is_cuda)

    def paint(part: list[tuple[Frame, CutPerson]]) -> Tensor:
        joints = torch.stack([cut.joints for _, cut in part])
        return to_uint8(transfer(joints, [1.0] * len(part)))  # each shows a square

    with contextlib.ExitStack() as stack:
        writers = {
            path: stack.enter_context(VideoWriter(path, fps, video, frames.start)) for path in paths
        }
        outs = list(writers.values())

        def parts() -> Iterator[list[tuple[Frame, CutPerson]]]:
            while part := list(islice(people, AT_ONCE)):
                yield part

        for part, generated in fetched(parts(), paint, ahead):
            each = iter(outs)
            for source, row in zip(sources, generated, strict=True):
                out, beside = next(each), next(each) if args.concat else None
                for (frame, driving), image in zip(part, row, strict=True):
                    result = driving.pasted(image) if args.paste else image
                    out.write(result, frame.seconds)
                    if beside is not None:
                        three = [source.image[:3].cpu(), driving.image, image]
                        beside.write(torch.cat(three, 2), frame.seconds)
    finder.report()
    for path in writers:
        print(f"written: {path}")


def _with_progress(frames: Frames) -> Iterator[Frame]:
    """The frames, with a progress bar on a terminal."""
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


@torch.no_grad()
def without_training(run: Run, args: options.Namespace, precision: Precision) -> None:
    """Run --mode test, transfer or add_reconstructions with the options of the checkpoint."""
    run.stop_listening()
    path = find(args.checkpoint)
    net, trained = load_network(read_checkpoint(path, "vunet"), path, precision)
    require_data(trained, args.data, path)
    if args.data:
        trained |= {"data": args.data, "pairing": "same"}  # other data may have no identities
    on_bad_sample, workers = args.on_bad_sample, args.workers
    if args.mode == "add_reconstructions":
        data = open_people({**trained, "pairing": "same"}, "test")
        inputs = PersonInputs(trained, data.joint_order)
        folder = run.folder / "reconstructions"
        batches = in_order(data, args.batch_size, run.ranks, workers, on_bad_sample, run.print)
        with precision.autocast():
            generated = ((batch, net(*inputs(batch), "transfer").image) for batch in batches)
            of_ranks = run.ranks.gather(write_images(generated, folder))
        entries = [entry for of_rank in of_ranks for entry in of_rank]
        run.ranks.on_main(lambda: write_images_index(data.joint_order, entries, folder))
        run.print(f"{len(entries)} reconstructions and their index: {folder}")
        return
    data = open_people(trained, "test")
    inputs = PersonInputs(trained, data.joint_order)
    count = min(args.batch_size, len(data))
    shuffled = loader(
        data, count, run.ranks, seed=args.seed, on_bad_sample=on_bad_sample, workers=workers
    )
    show = show_transfer if args.mode == "transfer" else show_samples
    for number in range(10):
        batch = shuffled.batch(number)
        with precision.autocast():
            show(run, number, net, inputs, batch, numbered=True)
    run.print(f"images: {run.folder / 'images'}")
