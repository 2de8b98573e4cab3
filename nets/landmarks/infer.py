"""Landmarks drawn on images and videos, their masks and backgrounds; and one image's
appearance in the pose of others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nets.data.io.frames import Frame, Frames
from nets.data.io.images import list_images, read_image, squash, write_image
from nets.data.io.names import unique_names
from nets.data.io.video import is_video
from nets.data.io.video_writer import FORMATS, VideoWriter
from nets.errors import UserError
from nets.landmarks import LandmarkModel
from nets.landmarks.data import Every, LandmarkInputs, open_clips
from nets.landmarks.visuals import dotted, final_rows
from nets.landmarks.warm_start import load_network
from nets.layers import signed
from nets.output import write_grid
from nets.run import options
from nets.run.images import labelled_grid, to_uint8
from nets.run.loader import in_order
from nets.run.precision import Precision
from nets.run.ranks import Ranks

AT_ONCE = 16  # frames of a video in one pass; what bounds the memory


# fmt: off
def add_options(p: options.ArgumentParser) -> None:
    p.add_argument_group("landmarks: -d alone (an image, a folder, a video) draws its landmarks; "
                         "with -s: the appearance of one in the pose of the other")
# fmt: on


def infer(args: options.Namespace, content: dict[str, Any], path: Path, ranks: Ranks) -> None:
    """What the arguments ask for, written to --out."""
    precision = Precision(args.precision, ranks.device, args.channels_last)
    net, trained = load_network(content, path, precision)
    size = trained["image_size"]
    with torch.no_grad(), precision.autocast():
        if not args.source and not args.driving:
            demo(args, net, trained, ranks)
        elif args.source and args.driving:
            transfer(args, net, size, ranks.device)
        else:
            given = args.driving or args.source
            if any(is_video(file) for file in given) or len(given) > 1:
                if len(given) > 1:
                    raise UserError("-d: one image, one folder or one video; several need -s")
                annotate_video(args, net, size, given[0], ranks.device)
            else:
                annotate_images(args, net, size, given[0], ranks.device)


def demo(
    args: options.Namespace, net: LandmarkModel, trained: dict[str, Any], ranks: Ranks
) -> None:
    """Frames of the run's own test data, of the demo world where that is not said."""
    print("no -s and no -d: frames of the run's own test data")
    known = {"dataset": "", "data": "", "val_path": "", "seed": 0, "val_frac": 1.0}
    known |= {"frame_cache": None, "on_bad_sample": "fail", "flip_probability": 0.0, "tps": "clean"}
    known |= {"rot_lb": 0.0, "rot_ub": 0.0, "scale_lb": 1.0, "scale_ub": 1.0}
    known |= {"trans_lb": 0.0, "trans_ub": 0.0, "use_temporal": True}
    trained = known | trained | {"color_jitter": False, "val_frac": 1.0}
    temporal = trained["use_temporal"]
    data = Every(open_clips(trained, "val", temporal), 8)
    (batch,) = in_order(data, 8, ranks)
    images = LandmarkInputs(trained, data.joint_order)(batch, temporal, not temporal)
    rows = final_rows(images, net(images.pose, images.appearance))
    # The appearance of each in the pose of the next.
    swapped = net(images.pose.roll(-1, 0), images.appearance)
    rows["in the next one's pose"] = list(to_uint8(swapped.reconstruction).cpu())
    out = image_file(args.out)
    grid = labelled_grid(list(rows.values()), list(rows))
    write_image(out, torch.from_numpy(grid.copy()).permute(2, 0, 1))
    print(f"written: {out}")


def transfer(args: options.Namespace, net: LandmarkModel, size: int, device: torch.device) -> None:
    """The appearance of each source in the pose of each driving image, or of a video's frames."""
    for file in args.source:
        if is_video(file):
            raise UserError(f"-s {file}: the appearance comes from an image, not from a video")
    sources = list_images("-s", args.source)
    seen = [read_image(file, size) for file in sources]
    looks = [net.appearance(signed(image[None].to(device))) for image in seen]
    if any(is_video(file) for file in args.driving):
        if len(args.driving) > 1 or len(looks) > 1:
            raise UserError("-d with a video: give one video, and one image with -s")
        frames = Frames(args.driving[0], args.start, args.end, args.fps)
        out = video_file(args.out)
        with VideoWriter(out, frames.fps, args.driving[0], frames.start) as video:
            for some in batches(frames):
                pose = net.landmarks(squashed(some, size, device))
                generated = to_uint8(net.render(pose, looks[0]).reconstruction).cpu()
                for frame, image in zip(some, generated, strict=True):
                    video.write(image, frame.seconds)
        print(f"written: {out}")
        return
    drivings = list_images("-d", args.driving)
    poses = torch.stack([signed(read_image(file, size)) for file in drivings]).to(device)
    generated = []
    for look in looks:
        some = (net.render(net.landmarks(part), look) for part in poses.split(AT_ONCE))
        generated.append(torch.cat([out.reconstruction for out in some]))
    names = [[file.stem for file in files] for files in (sources, drivings)]
    write_grid(args, names[0], seen, names[1], poses, torch.stack(generated))


def annotate_images(
    args: options.Namespace, net: LandmarkModel, size: int, given: str, device: torch.device
) -> None:
    """Landmarks on an image, or on all of a folder; masks and backgrounds beside them."""
    files = list_images("-d", [given])
    several = len(files) > 1 or Path(given).is_dir()
    names = unique_names([file.stem for file in files], ("", "_mask", "_background"))
    for file, stem in zip(files, names, strict=True):
        frame = Frame(str(file), None, read_image(file, None))
        out = Path(args.out)
        if several:
            folder = out.with_suffix("") if out.suffix else out
            out = folder / f"{stem}.png"
        drawn = next(annotated(net, [frame], size, device))
        for name, image in drawn.items():
            write_image(beside(image_file(str(out)), name), image)
    what = " and ".join(("_" + name) for name in drawn if name)
    where = f"{len(files)} images in {folder}/" if several else str(out)
    print(f"written: {where}" + (f", with {what} beside" if what else ""))


def annotate_video(
    args: options.Namespace, net: LandmarkModel, size: int, given: str, device: torch.device
) -> None:
    """Landmarks on a video's frames; masks and backgrounds as videos beside it."""
    frames, out = Frames(given, args.start, args.end, args.fps), video_file(args.out)
    with contextlib.ExitStack() as stack:
        videos: dict[str, VideoWriter] = {}
        for some in batches(frames):
            for frame, drawn in zip(some, annotated(net, some, size, device), strict=True):
                for name, image in drawn.items():
                    if name not in videos:
                        writer = VideoWriter(beside(out, name), frames.fps, given, frames.start)
                        videos[name] = stack.enter_context(writer)
                    videos[name].write(image, frame.seconds)
    print("written: " + ", ".join(str(beside(out, name)) for name in videos))


def annotated(
    net: LandmarkModel, frames: list[Frame], size: int, device: torch.device
) -> Iterator[dict[str, Tensor]]:
    """For each frame, in its own size and uint8: "" with its landmarks; with masks also "mask" and
    "background".
    """
    seen = net.appearance(squashed(frames, size, device))
    for i, frame in enumerate(frames):
        drawn = {"": dotted(frame.image, seen.landmarks.means[i])}
        if seen.mask is not None:
            for name, image in (
                ("mask", seen.mask[i].float().expand(3, -1, -1) * 2 - 1),
                ("background", seen.background[i]),
            ):
                whole = F.interpolate(image[None], frame.image.shape[1:], mode="bilinear")
                drawn[name] = to_uint8(whole)[0].cpu()
        yield drawn


def squashed(frames: list[Frame], size: int, device: torch.device) -> Tensor:
    """Frames as the networks take them, (N, 3, S, S) in [-1, 1]: like images that are read."""
    return signed(torch.stack([squash(f.image, None, size) for f in frames]).to(device))


def batches(frames: Iterable[Frame]) -> Iterator[list[Frame]]:
    """The frames, AT_ONCE at a time."""
    frames = iter(frames)
    while some := list(islice(frames, AT_ONCE)):
        yield some


def beside(path: Path, name: str) -> Path:
    return path.with_name(f"{path.stem}_{name}{path.suffix}") if name else path


def image_file(out: str) -> Path:
    path = Path(out)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--out {out}: must end in .png or .jpg")
    return path


def video_file(out: str) -> Path:
    """--out for a video; out.mp4 where it was left as it is."""
    path = Path("out.mp4" if out == "out.png" else out)
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--out {out}: a video is written as {', '.join(FORMATS)}")
    return path
