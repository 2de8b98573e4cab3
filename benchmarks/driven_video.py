"""The row of benchmarks/inference.py about a whole video: what `infer.py -d video` does, by parts.

The driving video is the demo world's head in motion, 512x512, 25 frames a second, its points given.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import infer
from benchmarks.video_rows import FPS, SIDE, drain, rate
from nets import systems
from nets.bilayer import DEFAULTS, Bilayer
from nets.bilayer.infer import drive_video, make_avatar, painter, source_frames
from nets.bilayer.sources import Faces, keypoints_of_frames
from nets.bilayer.warm_start import READING, Loaded
from nets.data.detectors import open_detector
from nets.data.heads.videos import sample_of
from nets.data.io.images import write_image
from nets.data.io.video import open_video
from nets.data.io.video_writer import VideoWriter
from nets.errors import UserError
from nets.run import options
from nets.run.precision import Precision
from nets.worlds.heads.export import motion
from nets.worlds.heads.videos import RANGES
from nets.worlds.heads.world import SPLITS, identities, render

LEVELS = 8.0  # of 255, that H.264 may change a pixel by on average


def row(nets: Callable[[], Bilayer], device: torch.device, quick: bool) -> dict[str, Any]:
    """{"row", "frames", "ways": {precision: frames a second and whether that keeps up with the
    clip}, "apart": what else there is to know}. `nets` makes the networks, on the device.
    """
    count = 25 if quick else 100
    result: dict[str, Any] = {"row": "video", "frames": count, "fps": FPS, "ways": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = write_clip(folder, count)
        for precision in ("fp32", "bf16"):
            result["ways"][precision] = drive(folder, nets(), precision, device, count)
        reading = rate(lambda: drain(open_video(folder / "clip.mp4")), count)
        made = list(open_video(folder / "fp32.mp4"))
        writing = rate(lambda: write(folder / "again.mp4", [p for _, p in made]), count)
    result["apart"] = {"read_frames_per_s": reading, "write_frames_per_s": writing}
    result["apart"] |= detection(images[:5] if quick else images[:40])
    print(f"video of {count} frames, {SIDE} px, points given, avatars of 256 px")
    for precision, way in result["ways"].items():
        keeps = "yes" if way["keeps_up"] else "no"
        print(
            f"  {precision}: {way['frames_per_s']:.1f} frames/s, keeps up with {FPS} fps: {keeps}; "
            f"before the first frame {way['begin_s']:.1f} s"
        )
    print("  apart, frames/s: " + ", ".join(f"{k}: {v}" for k, v in result["apart"].items()))
    return result


def write_clip(folder: Path, count: int) -> Tensor:
    """The frames of folder/clip.mp4, whose points are clip.npy; source.png, .npy and _mask.png are
    another person's.
    """
    who, other = (identities(torch.tensor([SPLITS["test"] + i])) for i in range(2))
    scene = motion(1, count, ranges=RANGES)
    behind = torch.full((count,), SPLITS["test"])
    made = render(who.expand(count, -1), size=SIDE, colour=True, background=behind, **scene)
    write(folder / "clip.mp4", made["image"])
    np.save(folder / "clip.npy", made["points"].numpy())
    at_rest = {name: torch.zeros_like(value[:1]) for name, value in scene.items()}
    one = render(other, size=SIDE, colour=True, background=behind[:1] + 1, **at_rest)
    write_image(folder / "source.png", one["image"][0])
    write_image(folder / "mask.png", one["mask"].byte() * 255)
    np.save(folder / "source.npy", one["points"].numpy())
    return made["image"]


def write(path: Path, images: Any) -> None:
    with VideoWriter(path, FPS) as out:
        for image in images:
            out.write(image)


def drive(
    folder: Path, net: Bilayer, precision: str, device: torch.device, count: int
) -> dict[str, Any]:
    parser = infer.parser()
    systems.add_options(parser, "infer")
    out = folder / f"{precision}.mp4"
    files = {"-s": "source.png", "--source_keypoints": "source.npy", "--source_masks": "mask.png",
             "-d": "clip.mp4", "--driving_keypoints": "clip.npy", "-o": out.name}  # fmt: skip
    argv = [word for flag, file in files.items() for word in (flag, str(folder / file))]
    args = options.parse(parser, [*argv, "--precision", precision])
    model = Loaded(net, {**DEFAULTS, **READING}, Precision(precision, device, args.channels_last))
    faces = Faces(model.options, args.crop, args.detector)
    start = time.perf_counter()
    sources = source_frames(args, faces)
    paint = painter(args, model, make_avatar(args, model, sample_of(sources, [], 0)))
    begin = time.perf_counter() - start
    points = keypoints_of_frames(args.driving_keypoints)
    moving = (Path(args.driving[0]), sources[0], faces, points, paint, device)
    with contextlib.redirect_stdout(io.StringIO()):
        speed = rate(lambda: drive_video(args, *moving), count)
    poses = torch.stack([faces.look(sources[0].image, "", p).pose for p in points])
    check(out, paint(poses).cpu())
    return {"frames_per_s": speed, "keeps_up": speed >= FPS, "begin_s": begin}


def check(video: Path, painted: Tensor) -> None:
    """Raises where a frame of the video is missing or not the one that was painted."""
    written = [image for _, image in open_video(video)]
    if len(written) != len(painted):
        raise AssertionError(f"{video.name}: {len(written)} frames, not {len(painted)}")
    error = (torch.stack(written).float() - painted.float()).abs().mean((1, 2, 3)).max().item()
    if not error < LEVELS:
        raise AssertionError(f"{video.name}: a frame is off by {error:g} levels")


def detection(images: Tensor) -> dict[str, Any]:
    """Frames a second that faces are looked for in; nothing, and a line why, without a detector."""
    try:
        find = open_detector()
    except UserError as error:
        print(f"no detection: {error}")
        return {}
    return {"detect_frames_per_s": rate(lambda: [find.faces(p) for p in images], len(images))}
