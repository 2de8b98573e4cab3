"""Images of a DC-IGN: sweeps of latents as sheets and movies, reconstructions, a face in another
face's pose and light.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nets.data.io.frames import Frames
from nets.data.io.images import list_images, read_image, write_image
from nets.data.io.video import is_video
from nets.data.io.video_writer import FORMATS, VideoWriter, write_gif
from nets.data.scenes.batches import unit
from nets.dcign.data import open_batches
from nets.dcign.latents import Latents, decode, encode
from nets.dcign.options import sets
from nets.dcign.visuals import sweep, sweep_values, to_bytes
from nets.dcign.warm_start import load_network
from nets.errors import UserError
from nets.output import distinct, write_grid
from nets.run import options
from nets.run.images import labelled_grid
from nets.run.options import PositiveInt, add_flag
from nets.run.precision import Precision
from nets.run.ranks import Ranks

GREY = (0.21, 0.72, 0.07)  # of red, green and blue, as the published data was made
CUSTOM = {"azimuth": (-4.0, 5.0), "elevation": (0.5, 6.0), "light": (-1.5, 4.0)}
SHOWN = 8  # faces in a generalisation sheet
MOVIE_FPS = 16
SHEETS = ("", ".png", ".jpg", ".jpeg")  # without an ending: a folder
MOVIES = (".gif", *FORMATS)
Face = tuple[str, Tensor]  # name, image (1, S, S) in [0, 1]


# fmt: off
def add_options(p: options.ArgumentParser) -> None:
    g = p.add_argument_group("DC-IGN: sweeps of -s, or -s with the pose and light of -d")
    add = g.add_argument
    add("--sweep", type=str, nargs="+", default=[], metavar="LATENT",
        help="azimuth, elevation, light, shape:K (the K-th of them) or z:K (of all), K from 1; "
        "default: all that own a factor. -o .png: a sheet, .gif or .mp4: a movie")
    add("--range", type=float, nargs=2, default=None, metavar=("LOW", "HIGH"),
        help="values of the latents; default: their 1st and 99th percentile on training data")
    add_flag(g, "--degrees", False,
        "LOW and HIGH are degrees of the factor, of which training data says the latent")
    add("--steps", type=PositiveInt | None, default=None,
        help="values in a sweep; default: 7, with --generalize 6, of a movie 48 there and back")
    add_flag(g, "--reconstruct", False, "each -s beside its reconstruction; without -s test data")
    add_flag(g, "--generalize", False,
        "the published sheet: of each factor and the first 8 of -s the face, its reconstruction "
        "and a sweep, by default from -20 to 20")
    add_flag(g, "--custom_bounds", False, "with it: azimuth -4 to 5, elevation 0.5 to 6, light "
        "-1.5 to 4")
# fmt: on


def infer(args: options.Namespace, content: dict[str, Any], path: Path, ranks: Ranks) -> None:
    """What the options ask for; without any, sweeps of two heads of the run's test data."""
    _check(args)
    precision = Precision(args.precision, ranks.device, args.channels_last)
    net, trained = load_network(content, path, precision)
    latents = Latents(net, trained, has_data="kind" not in content)
    with torch.no_grad(), precision.autocast():
        if args.source:
            files = list_images("--source", args.source)
            names = distinct([file.stem for file in files])
            faces = [
                (name, to_face(read_image(file, None), net.image_size))
                for name, file in zip(names, files, strict=True)
            ]
        else:
            print("no -s: images of the run's own test data")
            faces = own_faces(args, latents)
        if args.driving:
            transfer(args, latents, faces)
        elif args.reconstruct:
            reconstruct(args, latents, faces)
        else:
            sweeps(args, latents, faces[:SHOWN] if args.generalize else faces)


def _check(args: options.Namespace) -> None:
    modes = [name for name in ("sweep", "reconstruct", "generalize", "driving") if args[name]]
    if len(modes) > 1:
        raise UserError(f"--{modes[0]} and --{modes[1]}: give one of them")
    if args.custom_bounds and not args.generalize:
        raise UserError("--custom_bounds: needs --generalize")
    if args.degrees and args.range is None:
        raise UserError("--degrees: needs --range")
    if args.driving and not args.source:
        raise UserError("-s: a face whose shape to take is needed with -d")
    ending = Path(args.out).suffix.lower()
    if ending not in (*SHEETS, *MOVIES):
        raise UserError(f"--out {args.out}: must end in {', '.join((*SHEETS[1:], *MOVIES))}")
    if ending in MOVIES and (args.reconstruct or args.generalize):
        raise UserError(f"--out {args.out}: a sheet is written as .png or .jpg")


def to_face(image: Tensor, size: int) -> Tensor:
    """(1, S, S) float32 in [0, 1]: an image (3, H, W) uint8 of any size, grey, in the middle of a
    white square, which is what faces are on in the training data.
    """
    grey = (image.float() / 255 * torch.tensor(GREY)[:, None, None]).sum(0)
    shrink = max(grey.shape) // (16 * size)
    if shrink > 1 and max(grey.shape) > 8192:  # the square of a narrow strip would fill the memory
        grey = F.avg_pool2d(grey[None, None], shrink, ceil_mode=True)[0, 0]
    h, w = grey.shape
    side = max(h, w)
    left, top = (side - w) // 2, (side - h) // 2
    square = F.pad(grey, (left, side - w - left, top, side - h - top), value=1.0)
    fitted = F.interpolate(square[None, None], (size, size), mode="bilinear", antialias=True)
    return fitted[0].clamp(0, 1)


def own_faces(args: options.Namespace, latents: Latents) -> list[Face]:
    """Test images: the first batch of each type to reconstruct, else two different heads, or
    one that moves.
    """
    if not latents.has_data:
        raise UserError("-s: a face is needed, a published network's data is not here")
    data = open_batches(latents.trained, sets(latents.trained), "test")
    kinds = list(data.counts) if args.reconstruct else list(data.counts)[-1:]
    faces = []
    for kind in kinds:
        image = unit(data.read(kind, 0)["image"])
        if not args.reconstruct:
            several = SHOWN if args.generalize else 1 if Path(args.out).suffix in MOVIES else 2
            for number in range(1, data.counts[kind]):
                if len(image) < several:
                    image = torch.cat([image, unit(data.read(kind, number)["image"])])
            image = image[:several]
        faces += [(f"{kind} {i + 1}", face) for i, face in enumerate(image)]
    return faces


def transfer(args: options.Namespace, latents: Latents, faces: Sequence[Face]) -> None:
    """The shape of each source with all other latents of each driving."""
    size = latents.net.image_size
    shape = latents.intrinsic
    codes = encode(latents.net, torch.stack([face for _, face in faces]))
    videos = [file for file in args.driving if is_video(file)]
    if videos:
        if len(args.driving) > 1 or len(faces) > 1:
            raise UserError(f"-d {videos[0]}: a video is for one source, and alone")
        if Path(args.out).suffix.lower() not in MOVIES:
            raise UserError(f"--out {args.out}: of a video must end in {', '.join(MOVIES)}")
        frames = Frames(videos[0], *(args.get(name) for name in ("start", "end", "fps")))

        def driven() -> Iterator[Tensor]:
            for frame in frames:
                code = encode(latents.net, to_face(frame.image, size)[None])
                code[:, shape] = codes[:, shape]
                yield to_bytes(decode(latents.net, code))[0].expand(3, -1, -1)

        write_movie(args.out, driven(), frames.fps)
        return
    files = list_images("--driving", args.driving)
    poses = torch.stack([to_face(read_image(file, None), size) for file in files])
    generated = []
    for code in codes:
        other = encode(latents.net, poses)
        other[:, shape] = code[shape]
        generated.append(to_bytes(decode(latents.net, other)))
    sources = [to_bytes(face) for _, face in faces]
    names = [name for name, _ in faces]
    write_grid(
        args, names, sources, [f.stem for f in files], to_bytes(poses), torch.stack(generated)
    )


def reconstruct(args: options.Namespace, latents: Latents, faces: Sequence[Face]) -> None:
    """A sheet, a face and its reconstruction a row."""
    image = torch.stack([face for _, face in faces])
    seen = to_bytes(decode(latents.net, encode(latents.net, image)))
    error = (unit(seen) - image).square().mean().item()
    rows = [list(pair) for pair in zip(to_bytes(image), seen, strict=True)]
    print(f"mean squared error {error:.5f} of grey values in [0, 1]")
    write_sheet(args.out, rows, [name for name, _ in faces], ["input", "reconstructed"])


def sweeps(args: options.Namespace, latents: Latents, faces: Sequence[Face]) -> None:
    """A sheet with a row for each latent and face, or a movie with a column for each latent."""
    names = args.sweep or latents.factors
    chosen = [(name, latents.index(name), ends(args, latents, name)) for name in names]
    image = torch.stack([face for _, face in faces])
    code = encode(latents.net, image).to(next(latents.net.parameters()).device)
    moving = Path(args.out).suffix.lower() in MOVIES
    steps = args.steps or (48 if moving else 6 if args.generalize else 7)
    seen = decode(latents.net, code)
    inputs = to_bytes(image)
    swept = []
    for _, index, values in chosen:
        generated = sweep(latents.net, code, index, values(steps, moving).to(code))
        swept.append(to_bytes(generated.flatten(0, 1)).view(len(image), steps, *image.shape[1:]))
    for (name, _, _), (low, high) in zip(chosen, (v(2, False) for _, _, v in chosen), strict=True):
        print(f"{name}: {low:.3g} to {high:.3g}")
    if moving:

        def frames() -> Iterator[Tensor]:
            for k in range(steps):
                rows = [[inputs[n], *(s[n, k] for s in swept)] for n in range(len(image))]
                sheet = labelled_grid(rows, [], ["input", *names])
                yield torch.from_numpy(sheet.copy()).permute(2, 0, 1)

        write_movie(args.out, frames(), args.get("fps") or MOVIE_FPS)
        return
    rows, captions = [], []
    for (name, _, _), generated in zip(chosen, swept, strict=True):
        for n, (face, _) in enumerate(faces):
            rows.append([inputs[n], to_bytes(seen[n]), *generated[n]])
            captions.append(f"{name}, {face}" if len(faces) > 1 else name)
    ends_ = ["low", *[""] * (steps - 2), "high"] if steps > 1 else ["middle"]
    write_sheet(args.out, rows, captions, ["input", "reconstructed", *ends_])


def ends(args: options.Namespace, latents: Latents, name: str) -> Any:
    """A function of (steps, there and back): (steps,) values of a latent in its sweep."""
    index = latents.index(name)
    low, high = args.range or (None, None)
    knots = None
    if args.degrees:
        if name not in latents.maps:
            raise UserError(f"--degrees: {name} has no degrees; {', '.join(latents.maps)} have")
        knots = latents.maps[name]
        low, high = math.radians(low), math.radians(high)
    elif args.custom_bounds:
        low, high = CUSTOM.get(name, (-20.0, 20.0))
    elif low is None:
        low, high = (-20.0, 20.0) if args.generalize else latents.bounds(index)

    def values(steps: int, back: bool) -> Tensor:
        result = sweep_values(low, high, steps)
        if back:  # a sine, so that the movie plays on without a jump
            turn = torch.arange(steps) * (2 * math.pi / steps)
            result = (low + high) / 2 - (high - low) / 2 * turn.cos()
        return result if knots is None else knots(result)

    return values


def write_sheet(
    out: str, rows: Sequence[Sequence[Tensor]], names: Sequence[str], columns: Sequence[str]
) -> None:
    path = Path(out) if Path(out).suffix else Path(out, "sheet.png")
    sheet = labelled_grid(rows, names, columns)
    write_image(path, torch.from_numpy(sheet.copy()).permute(2, 0, 1))
    print(f"written: {path}")


def write_movie(out: str, frames: Iterator[Tensor], fps: float) -> None:
    """Write images (3, H, W) uint8 as a GIF or, by its ending, as a video."""
    if Path(out).suffix.lower() == ".gif":  # 64 levels of grey are half the file of 256
        write_gif(out, (frame // 4 * 4 + (frame >> 6) for frame in frames), min(fps, 50))
    else:
        with VideoWriter(out, fps) as video:
            for frame in frames:
                video.write(frame)
    print(f"written: {out}")
