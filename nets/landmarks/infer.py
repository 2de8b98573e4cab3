"""infer.py for landmarks: landmarks drawn on images and videos, or transfer from image to image."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from nets.data.io.frames import Frame, Frames
from nets.data.io.images import list_images, read_image, squash, write_image
from nets.data.io.names import unique_names
from nets.data.io.video import is_video
from nets.data.io.video_writer import FORMATS, VideoWriter
from nets.errors import UserError
from nets.landmarks import LandmarkModel
from nets.landmarks.data import Every, Images, LandmarkInputs, open_clips
from nets.landmarks.visuals import dotted, grey
from nets.landmarks.warm_start import load_network
from nets.layers import signed
from nets.onnx_files import ExportedGraphs, graphs_of
from nets.output import TILE, write_demo, write_grid
from nets.run import options
from nets.run.images import to_uint8
from nets.run.loader import fetched, in_order
from nets.run.precision import Precision, compile_methods
from nets.run.ranks import Ranks

AT_ONCE = 16  # frames in one forward pass, which bounds the memory


# fmt: off
def add_options(p: options.ArgumentParser) -> None:
    """Add a paragraph to --help; landmarks have no options of their own."""
    p.add_argument_group("landmarks: -d alone (an image, a folder, a video) draws its landmarks; "
                         "with -s: the appearance of one in the pose of the other")
# fmt: on


def infer(args: options.Namespace, content: dict[str, Any], path: Path, ranks: Ranks) -> None:
    """Write images or a video to --out.

    Without -s and -d: a demo, see `demo`. With both: the appearance of each source in the
    pose of the driving images. With one: its landmarks.
    """
    check(args)
    precision = Precision(args.precision, ranks.device, args.channels_last)
    model: Model
    if graphs := graphs_of(content):
        model, trained = ExportedLandmarks(graphs), content["options"]
        if trained["use_fg_bg_mask"]:
            print("an exported file gives neither masks nor backgrounds")
    else:
        net, trained = load_network(content, path, precision)
        if args.compile:
            compile_methods(net, "landmarks", "appearance", "render")
        model = Networks(net)
    size = trained["image_size"]
    with torch.no_grad(), precision.autocast():
        if not args.source and not args.driving:
            demo(args, model, trained, ranks)
        elif args.source and args.driving:
            transfer(args, model, size, ranks.device)
        else:
            inputs = args.driving or args.source
            if any(is_video(file) for file in inputs) or len(inputs) > 1:
                if len(inputs) > 1:
                    raise UserError("-d: one image, one folder or one video; several need -s")
                annotate_video(args, model, size, inputs[0], ranks.device)
            else:
                annotate_images(args, model, size, inputs[0], ranks.device)


class Looked(NamedTuple):
    """What a network sees in N images; mask and background only if it separates them."""

    means: Tensor  # (N, K, 2)
    mask: Tensor | None  # (N, 1, S, S)
    background: Tensor | None  # (N, 3, S, S)


class Model(Protocol):
    """Trained networks, in PyTorch or exported. Images are (N, 3, S, S) in [-1, 1]."""

    def look(self, images: Tensor) -> Looked:
        """Landmarks of images."""

    def mover(self, source: Tensor) -> Callable[[Tensor], Tensor]:
        """A function from driving images to the image `source` (1, 3, S, S) in their poses."""

    def transfer(self, driving: Tensor, source: Tensor) -> tuple[Tensor, Looked]:
        """Each source in the pose of its driving image, and what is seen on the way."""


class Networks:
    """A `Model` of the networks in PyTorch."""

    def __init__(self, net: LandmarkModel):
        self.net = net

    def look(self, images: Tensor) -> Looked:
        out = self.net.appearance(images)
        return Looked(out.landmarks.means, out.mask, out.background)

    def mover(self, source: Tensor) -> Callable[[Tensor], Tensor]:
        appearance, net = self.net.appearance(source), self.net
        return lambda driving: net.render(net.landmarks(driving), appearance).reconstruction

    def transfer(self, driving: Tensor, source: Tensor) -> tuple[Tensor, Looked]:
        out = self.net(driving, source)
        return out.reconstruction, Looked(out.means, out.mask, out.background)


class ExportedLandmarks:
    """A `Model` of the exported graphs, which give neither masks nor backgrounds."""

    def __init__(self, graphs: ExportedGraphs):
        self.graphs = graphs

    def look(self, images: Tensor) -> Looked:
        (means,) = self.graphs["landmarks"]({"image": images})
        return Looked(means, None, None)

    def mover(self, source: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda driving: self._render(driving, source.expand_as(driving))

    def transfer(self, driving: Tensor, source: Tensor) -> tuple[Tensor, Looked]:
        return self._render(driving, source), self.look(driving)

    def _render(self, driving: Tensor, source: Tensor) -> Tensor:
        (image,) = self.graphs["landmarks_transfer"]({"pose": driving, "appearance": source})
        return image


def check(args: options.Namespace) -> None:
    """Raise UserError for an option of videos where no video is read."""
    if not any(is_video(file) for file in args.driving or args.source):
        for option in ("start", "end", "fps", "concat"):
            if args[option]:
                raise UserError(f"--{option}: only with a driving video")
    elif args.concat and not (args.source and args.driving):
        raise UserError("--concat: only with -s, which gives the appearance")


DEMO_ROWS = 4


def demo(args: options.Namespace, model: Model, trained: dict[str, Any], ranks: Ranks) -> None:
    """Write a grid: the appearance of a source in the pose of a driving frame, and the truth.

    In the demo world each row has two people. In other data it has two frames of one clip.

    trained  options of the training. Published weights lack most of them
    """
    size, data = trained["image_size"], trained.get("data")
    if data and Path(data).exists():
        print("no -s and no -d: frames of the run's own test data")
        images = own_images(trained, ranks)
        source, driving, truth = images.appearance, images.pose, images.target
    else:
        reason = f", as {data} is missing" if data else ""
        print(f"no -s and no -d: people of the demo world{reason}")
        source, driving, truth = (signed(x.to(ranks.device)) for x in people(DEMO_ROWS, size))
    result, out = model.transfer(driving, source)
    columns = {
        "source": enlarged(source),
        "driving, landmarks": enlarged(driving),
        "result": enlarged(result),
        "ground truth": enlarged(truth),
    }
    pairs = zip(columns["driving, landmarks"], out.means, strict=True)
    columns["driving, landmarks"] = torch.stack([dotted(image, means) for image, means in pairs])
    if out.mask is not None and out.background is not None:
        columns["mask"] = enlarged(torch.stack([grey(mask) for mask in out.mask]))
        columns["background"] = enlarged(out.background)
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    write_demo(args.out, list(columns), rows)


def own_images(trained: dict[str, Any], ranks: Ranks) -> Images:
    """DEMO_ROWS validation frames of a run's data as pose and target, and their appearances."""
    missing: dict[str, Any] = {"val_path": "", "frame_cache": None}
    missing |= {"seed": 0, "on_bad_sample": "fail", "flip_probability": 0.0, "tps": "clean"}
    missing |= {"rot_lb": 0.0, "rot_ub": 0.0, "scale_lb": 1.0, "scale_ub": 1.0}
    missing |= {"trans_lb": 0.0, "trans_ub": 0.0, "use_temporal": True}
    settings = missing | trained
    settings |= {"color_jitter": False, "color_jitter_targets": False, "val_frac": 1.0}
    temporal = settings["use_temporal"]
    data = Every(open_clips(settings, "val", temporal), DEMO_ROWS)
    (batch,) = in_order(data, DEMO_ROWS, ranks)
    return LandmarkInputs(settings, data.joint_order)(batch, temporal, not temporal)


def people(count: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images of people of the demo world's test split, (count, 3, size, size) uint8 each.

    returns  sources; other people, who drive; the sources' people in the poses of those
    """
    from nets.worlds import clips
    from nets.worlds.people import look, world

    source = world.SPLITS["test"] + torch.arange(count)
    driving, frame = source + count, torch.full_like(source, clips.FRAMES // 2)
    truth = world.render_parameters(
        look.outfit_parameters(0, source),
        clips.poses(0, driving, frame),
        look.background_parameters(0, source),
        size,
    )
    shown, driver = (clips.render(clip, frame, size)["image"] for clip in (source, driving))
    return shown, driver, truth["image"]


def enlarged(images: Tensor) -> Tensor:
    """Images (N, 3, S, S) as uint8 on the CPU, of at least TILE pixels: dots on them stay sharp."""
    images = to_uint8(images).cpu()
    if images.shape[-1] >= TILE:
        return images
    large = F.interpolate(images.float(), (TILE, TILE), mode="bicubic")
    return large.round().clamp(0, 255).to(torch.uint8)


def transfer(args: options.Namespace, model: Model, size: int, device: torch.device) -> None:
    """Write the appearance of each source in the pose of each driving image, or of a video.

    Raises UserError if a source is a video, or a video comes with a second input.
    """
    for file in args.source:
        if is_video(file):
            raise UserError(f"-s {file}: the appearance comes from an image, not from a video")
    sources = list_images("-s", args.source)
    images = [read_image(file, size) for file in sources]
    movers = [model.mover(signed(image[None].to(device))) for image in images]
    if any(is_video(file) for file in args.driving):
        if len(args.driving) > 1 or len(movers) > 1:
            raise UserError("-d with a video: give one video, and one image with -s")
        frames = Frames(args.driving[0], args.start, args.end, args.fps)
        out = video_file(args.out)
        files = [out, beside(out, "concat")] if args.concat else [out]
        with contextlib.ExitStack() as stack:
            writers = [VideoWriter(f, rate(frames), args.driving[0], frames.start) for f in files]
            video, *concat = map(stack.enter_context, writers)

            def moved(part: list[Frame]) -> Tensor:
                return to_uint8(movers[0](squashed(part, size, device)))

            for part, generated in fetched(batches(frames), moved, int(device.type == "cuda")):
                for frame, image in zip(part, generated, strict=True):
                    video.write(image, frame.seconds)
                    three = [images[0], squash(frame.image, None, size), image]
                    for writer in concat:
                        writer.write(torch.cat(three, 2), frame.seconds)
        print(f"written: {', '.join(map(str, files))}")
        return
    drivings = list_images("-d", args.driving)
    poses = torch.stack([signed(read_image(file, size)) for file in drivings]).to(device)
    rows = [torch.cat([move(part) for part in poses.split(AT_ONCE)]) for move in movers]
    names = [[file.stem for file in files] for files in (sources, drivings)]
    write_grid(args, names[0], [*images], names[1], poses, torch.stack(rows))


def annotate_images(
    args: options.Namespace, model: Model, size: int, given: str, device: torch.device
) -> None:
    """Write an image, or all images of a folder, with landmarks; masks and backgrounds beside."""
    files = list_images("-d", [given])
    several = len(files) > 1 or Path(given).is_dir()
    names = unique_names([file.stem for file in files], ("", "_mask", "_background"))
    for file, stem in zip(files, names, strict=True):
        frame = Frame(str(file), None, read_image(file, None))
        out = Path(args.out)
        if several:
            folder = out.with_suffix("") if out.suffix else out
            out = folder / f"{stem}.png"
        drawn = next(annotated(model, [frame], size, device))
        for name, image in drawn.items():
            write_image(beside(image_file(str(out)), name), image)
    extra = " and ".join(("_" + name) for name in drawn if name)
    target = f"{len(files)} images in {folder}/" if several else str(out)
    print(f"written: {target}" + (f", with {extra} beside" if extra else ""))


def annotate_video(
    args: options.Namespace, model: Model, size: int, given: str, device: torch.device
) -> None:
    """Write a video with landmarks on its frames; masks and backgrounds as videos beside it."""
    frames, out = Frames(given, args.start, args.end, args.fps), video_file(args.out)
    with contextlib.ExitStack() as stack:
        videos: dict[str, VideoWriter] = {}
        for part in batches(frames):
            for frame, drawn in zip(part, annotated(model, part, size, device), strict=True):
                for name, image in drawn.items():
                    if name not in videos:
                        writer = VideoWriter(beside(out, name), rate(frames), given, frames.start)
                        videos[name] = stack.enter_context(writer)
                    videos[name].write(image, frame.seconds)
    print("written: " + ", ".join(str(beside(out, name)) for name in videos))


def annotated(
    model: Model, frames: list[Frame], size: int, device: torch.device
) -> Iterator[dict[str, Tensor]]:
    """Images of each frame by name, (3, H, W) uint8 in the frame's size.

    "" is the frame with its landmarks; with masks also "mask" and "background".
    """
    out = model.look(squashed(frames, size, device))
    for i, frame in enumerate(frames):
        drawn = {"": dotted(frame.image, out.means[i])}
        if out.mask is not None and out.background is not None:
            for name, image in (
                ("mask", grey(out.mask[i])),
                ("background", out.background[i]),
            ):
                whole = F.interpolate(image[None], frame.image.shape[1:], mode="bilinear")
                drawn[name] = to_uint8(whole)[0].cpu()
        yield drawn


def squashed(frames: list[Frame], size: int, device: torch.device) -> Tensor:
    """Frames as input of the networks, (N, 3, S, S) in [-1, 1], resized as `read_image` does."""
    images = torch.stack([squash(f.image, None, size) for f in frames])
    if device.type == "cuda":
        images = images.pin_memory()
    return signed(images.to(device, non_blocking=True))


def batches(frames: Frames) -> Iterator[list[Frame]]:
    """The frames in lists of AT_ONCE or, at the end, fewer; with a progress bar on a terminal."""
    each = iter(tqdm(frames, frames.path.name, frames.count, unit="frame", disable=None))
    while part := list(islice(each, AT_ONCE)):
        yield part


def rate(frames: Frames) -> float:
    """Frames a second of a video."""
    assert frames.fps is not None  # only images have none
    return frames.fps


def beside(path: Path, name: str) -> Path:
    """The path with _<name> before its ending; for "" the path itself."""
    return path.with_name(f"{path.stem}_{name}{path.suffix}") if name else path


def image_file(out: str) -> Path:
    """--out for an image. Raises UserError for another ending."""
    path = Path(out)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--out {out}: must end in .png or .jpg")
    return path


def video_file(out: str) -> Path:
    """--out for a video; out.mp4 if it has its default. Raises UserError for another ending."""
    path = Path("out.mp4" if out == "out.png" else out)
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--out {out}: a video is written as {', '.join(FORMATS)}")
    return path
