"""Inference with a DC-IGN: sweeps of latents, reconstructions, and transfer of pose and light."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
from nets.data.scenes.factors import FACTORS
from nets.dcign import DCIGN, demo_metrics
from nets.dcign.data import open_batches
from nets.dcign.latents import Latents, decode, encode
from nets.dcign.metrics import TURN
from nets.dcign.options import sets
from nets.dcign.published import is_published
from nets.dcign.visuals import sweep, sweep_values, to_bytes
from nets.dcign.warm_start import load_network
from nets.errors import UserError
from nets.onnx_files import ExportedGraphs, graphs_of
from nets.output import distinct, write_demo, write_grid
from nets.run import options
from nets.run.images import labelled_grid
from nets.run.options import PositiveInt, add_flag
from nets.run.precision import Precision, compile_methods
from nets.run.ranks import Ranks
from nets.worlds.heads.world import RANGES

GREY = (0.21, 0.72, 0.07)  # weights of red, green and blue, as in the published data
CUSTOM = {"azimuth": (-4.0, 5.0), "elevation": (0.5, 6.0), "light": (-1.5, 4.0)}  # as published
SHOWN = 8  # faces in a generalisation sheet
DEMO = 4  # rows of the demo
MOVIE_FPS = 16
SHEETS = ("", ".png", ".jpg", ".jpeg")  # no ending: a folder
MOVIES = (".gif", *FORMATS)
Face = tuple[str, Tensor]  # name, image (1, S, S) in [0, 1]


# fmt: off
def add_options(p: options.ArgumentParser) -> None:
    """Add the options of infer.py for DC-IGN."""
    g = p.add_argument_group("DC-IGN: sweeps of -s, or -s with the pose and light of -d")
    add = g.add_argument
    add("--sweep", type=str, nargs="+", default=[], metavar="LATENT",
        help="latents to sweep: azimuth, elevation, light, shape:K (the K-th shape latent) or z:K "
        "(the K-th of all), K from 1; default: the latent of each factor. -o .png: a sheet, .gif "
        "or .mp4: a movie")
    add_flag(g, "--together", False,
        "sweep the latents of --sweep at once, in one row or column, each over its own range")
    add("--range", type=float, nargs=2, default=None, metavar=("LOW", "HIGH"),
        help="range of the latent; default: its 1st to 99th percentile on training data")
    add_flag(g, "--degrees", False,
        "LOW and HIGH in degrees of the factor, converted by a map fitted on training data")
    add("--steps", type=PositiveInt | None, default=None,
        help="values in a sweep; default: 7, 6 with --generalize, 48 in a movie")
    add_flag(g, "--reconstruct", False, "each -s beside its reconstruction; default: test data")
    add_flag(g, "--generalize", False,
        "the published sheet: for each factor and each of the first 8 of -s the face, its "
        "reconstruction and a sweep, from -20 to 20 by default")
    add_flag(g, "--custom_bounds", False, "the published ranges for --generalize: azimuth -4 to 5, "
        "elevation 0.5 to 6, light -1.5 to 4")
# fmt: on


def infer(args: options.Namespace, content: dict[str, Any], path: Path, ranks: Ranks) -> None:
    """Write the images that the options ask for.

    Without -s, -d and other options, a run on the demo world gives a demo, see `demo`, and any
    other run sweeps of two test images.
    content  of the checkpoint at `path`
    Raises UserError for options that contradict, and for files that cannot be used.
    """
    _check(args)
    precision = Precision(args.precision, ranks.device, args.channels_last)
    net: DCIGN
    if graphs := graphs_of(content):
        net, trained = ExportedDCIGN(graphs), content["options"]
    else:
        net, trained = load_network(content, path, precision)
        if args.compile:
            compile_methods(net, "encode", "decode")
    latents = Latents(net, trained, has_data=not is_published(content))
    with torch.no_grad(), precision.autocast():
        if _is_demo(args, latents):
            demo(args, latents)
            return
        if args.source:
            files = list_images("--source", args.source)
            names = distinct([file.stem for file in files])
            faces = [
                (name, to_face(read_image(file, None), net.image_size, latents.squashed))
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


class ExportedDCIGN(DCIGN):
    """The exported encoder and decoder, with the methods of `DCIGN`."""

    def __init__(self, graphs: ExportedGraphs):
        torch.nn.Module.__init__(self)
        encoder, decoder = graphs["dcign_encoder"], graphs["dcign_decoder"]
        self._encoder, self._decoder = encoder, decoder
        self.image_size = int(encoder.shapes["image"][-1])
        self.latents = int(decoder.shapes["code"][-1])
        self.place = torch.nn.Parameter(torch.empty(0))  # the device of the codes is asked of it

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self._encoder({"image": image})
        return mean, log_variance

    def decode(self, z: Tensor) -> Tensor:
        (image,) = self._decoder({"code": z})
        return image


def _check(args: options.Namespace) -> None:
    """Raise UserError if options contradict."""
    modes = [name for name in ("sweep", "reconstruct", "generalize", "driving") if args[name]]
    if len(modes) > 1:
        raise UserError(f"--{modes[0]} and --{modes[1]}: give one of them")
    if args.custom_bounds and not args.generalize:
        raise UserError("--custom_bounds: needs --generalize")
    if args.together and len(args.sweep) < 2:
        raise UserError("--together: needs two or more latents in --sweep")
    if args.degrees and args.range is None:
        raise UserError("--degrees: needs --range")
    if args.driving and not args.source:
        raise UserError("-s: -d needs a source image, which gives the shape")
    ending = Path(args.out).suffix.lower()
    if ending not in (*SHEETS, *MOVIES):
        raise UserError(f"--out {args.out}: must end in {', '.join((*SHEETS[1:], *MOVIES))}")
    if ending in MOVIES and (args.reconstruct or args.generalize):
        raise UserError(f"--out {args.out}: a sheet must end in .png or .jpg")


def to_face(image: Tensor, size: int, squash: bool = False) -> Tensor:
    """The network's input: (1, S, S) float32 grey in [0, 1], padded with white to a square.

    image   (3, H, W) uint8 of any size
    size    S, side in pixels
    squash  squash it to a square instead, as a table's images are
    The background of the published training data is white.
    """
    grey = (image.float() / 255 * torch.tensor(GREY)[:, None, None]).sum(0)
    shrink = max(grey.shape) // (16 * size)
    if shrink > 1 and max(grey.shape) > 8192:  # the square of a narrow strip would fill the memory
        grey = F.avg_pool2d(grey[None, None], shrink, ceil_mode=True)[0, 0]
    h, w = grey.shape
    side = max(h, w)
    if squash:
        fitted = F.interpolate(grey[None, None], (size, size), mode="bilinear", antialias=True)
        return fitted[0].clamp(0, 1)
    left, top = (side - w) // 2, (side - h) // 2
    square = F.pad(grey, (left, side - w - left, top, side - h - top), value=1.0)
    fitted = F.interpolate(square[None, None], (size, size), mode="bilinear", antialias=True)
    return fitted[0].clamp(0, 1)


def own_faces(args: options.Namespace, latents: Latents) -> list[Face]:
    """Test images of the run's own data, with names.

    With --reconstruct the first batch of each type; with --generalize the first 8 images of the
    last type; else its first two images, or for a movie one.
    Raises UserError for a published network, which has no data.
    """
    if not latents.has_data:
        raise UserError("-s: a published network has no data of its own; give an image")
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


def _is_demo(args: options.Namespace, latents: Latents) -> bool:
    """True if no option asks for other images than the demo, and the demo world can draw it."""
    asked = ("source", "driving", "sweep", "reconstruct", "generalize", "range", "steps")
    return (
        not any(args[name] for name in asked)
        and latents.has_data
        and latents.trained["data"] is None
        and Path(args.out).suffix.lower() in SHEETS[1:]
    )


def demo(args: options.Namespace, latents: Latents) -> None:
    """Write unseen heads of the demo world in the pose and light of others, beside the truth."""
    print("no -s: heads of the demo world that were not trained on")
    world = open_batches(latents.trained, sets(latents.trained), "test")
    if not isinstance(world, demo_metrics.Renderer):
        raise UserError("-s: give an image; the run's data cannot be drawn")
    views = demo_metrics.views("test", 2 * DEMO, 1, RANGES, args.seed)  # all of different persons
    source = {name: value[:DEMO] for name, value in views.items()}
    driving = {name: value[DEMO:] for name, value in views.items()}
    truth = {**source, **{name: driving[name] for name in FACTORS}}
    images = [demo_metrics.draw(world, scene) for scene in (source, driving, truth)]
    codes, others = (encode(latents.net, image) for image in images[:2])
    others[:, latents.intrinsic] = codes[:, latents.intrinsic]
    images.insert(2, decode(latents.net, others))
    rows: list[list[Tensor | None]] = [
        list(row) for row in zip(*map(to_bytes, images), strict=True)
    ]
    write_demo(args.out, ["source", "driving", "result", "ground truth"], rows)


def transfer(args: options.Namespace, latents: Latents, faces: Sequence[Face]) -> None:
    """Write each source in the pose and light of each driving image or frame.

    The shape latents come from the source, all others from the driving image.
    """
    size = latents.net.image_size
    shape = latents.intrinsic
    codes = encode(latents.net, torch.stack([face for _, face in faces]))
    videos = [file for file in args.driving if is_video(file)]
    if videos:
        if len(args.driving) > 1 or len(faces) > 1:
            raise UserError(f"-d {videos[0]}: a video must be the only -d, with one -s")
        if Path(args.out).suffix.lower() not in MOVIES:
            raise UserError(f"--out {args.out}: a video must end in {', '.join(MOVIES)}")
        frames = Frames(videos[0], *(args.get(name) for name in ("start", "end", "fps")))

        def driven() -> Iterator[Tensor]:
            for frame in frames:
                code = encode(latents.net, to_face(frame.image, size, latents.squashed)[None])
                code[:, shape] = codes[:, shape]
                yield to_bytes(decode(latents.net, code))[0].expand(3, -1, -1)

        write_movie(args.out, driven(), frames.fps or MOVIE_FPS)
        return
    files = list_images("--driving", args.driving)
    poses = torch.stack([to_face(read_image(file, None), size, latents.squashed) for file in files])
    generated = []
    for code in codes:
        other = encode(latents.net, poses)
        other[:, shape] = code[shape]
        generated.append(to_bytes(decode(latents.net, other)))
    sources: list[Tensor | None] = [to_bytes(face) for _, face in faces]
    names = [name for name, _ in faces]
    write_grid(
        args, names, sources, [f.stem for f in files], to_bytes(poses), torch.stack(generated)
    )


def reconstruct(args: options.Namespace, latents: Latents, faces: Sequence[Face]) -> None:
    """Write a sheet with one row per face: the face and its reconstruction. Print the error."""
    image = torch.stack([face for _, face in faces])
    reconstructed = to_bytes(decode(latents.net, encode(latents.net, image)))
    error = (unit(reconstructed) - image).square().mean().item()
    rows = [list(pair) for pair in zip(to_bytes(image), reconstructed, strict=True)]
    print(f"mean squared error {error:.5f} of grey values in [0, 1]")
    write_sheet(args.out, rows, [name for name, _ in faces], ["input", "reconstructed"])


def sweeps(args: options.Namespace, latents: Latents, faces: Sequence[Face]) -> None:
    """Write a sheet with a row per latent and face, or a movie with a column per latent.

    With --together all latents share a row or column.
    """
    names = args.sweep or [n for n in latents.factors if latents.is_single(n) or n in latents.maps]
    chosen = [(name, latents.indices(name), ends(args, latents, name)) for name in names]
    image = torch.stack([face for _, face in faces])
    code = encode(latents.net, image).to(next(latents.net.parameters()).device)
    moving = Path(args.out).suffix.lower() in MOVIES
    steps = args.steps or (48 if moving else 6 if args.generalize else 7)
    reconstructed = decode(latents.net, code)
    inputs = to_bytes(image)
    shown = [[one] for one in chosen]
    if args.together:
        shown = [chosen]
    titles = [" + ".join(name for name, _, _ in several) for several in shown]
    swept = []
    for several in shown:
        indices = [index for _, own, _ in several for index in own]
        values = torch.cat([of(steps, moving) for _, _, of in several], 1).to(code)
        generated = sweep(latents.net, code, indices, values)
        swept.append(to_bytes(generated.flatten(0, 1)).view(len(image), steps, *image.shape[1:]))
    for name, _, of in chosen:
        low, high = (", ".join(f"{value:.3g}" for value in row) for row in of(2, False).tolist())
        print(f"{name}: {low} to {high}")
    if moving:

        def frames() -> Iterator[Tensor]:
            for k in range(steps):
                rows = [[inputs[n], *(s[n, k] for s in swept)] for n in range(len(image))]
                sheet = labelled_grid(rows, [], ["input", *titles])
                yield torch.from_numpy(sheet.copy()).permute(2, 0, 1)

        write_movie(args.out, frames(), args.get("fps") or MOVIE_FPS)
        return
    rows, captions = [], []
    for name, generated in zip(titles, swept, strict=True):
        for n, (face, _) in enumerate(faces):
            rows.append([inputs[n], to_bytes(reconstructed[n]), *generated[n]])
            captions.append(f"{name}, {face}" if len(faces) > 1 else name)
    ends_ = ["low", *[""] * (steps - 2), "high"] if steps > 1 else ["middle"]
    write_sheet(args.out, rows, captions, ["input", "reconstructed", *ends_])


def ends(args: options.Namespace, latents: Latents, name: str) -> Callable[[int, bool], Tensor]:
    """A function that gives the (steps, n) values of the n latents of a name in their sweep.

    Its arguments are the number of steps, and whether the sweep returns to its start (a movie).
    Several latents of a factor move along its map, by default over its whole range.
    Raises UserError for --degrees of a latent without a map, and for other ranges of several.
    """
    own = latents.indices(name)
    low: float
    high: float
    knots = None
    if args.degrees or len(own) > 1:
        if name not in latents.maps:
            raise UserError(
                f"--degrees: {name} has no degrees; give one of {', '.join(latents.maps)}"
            )
        knots = latents.maps[name]
    if args.degrees:
        low, high = (math.radians(end) for end in args.range)
    elif knots:
        if args.range:
            raise UserError(f"--range: {name} has {len(own)} latents; give --degrees as well")
        low, high = (0.0, TURN) if knots.turns else knots.factor[[0, -1]].tolist()
    elif args.custom_bounds:
        low, high = CUSTOM.get(name, (-20.0, 20.0))
    elif args.range:
        low, high = args.range
    elif args.generalize:
        low, high = -20.0, 20.0
    else:
        low, high = latents.bounds(own[0])

    def values(steps: int, back: bool) -> Tensor:
        result = sweep_values(low, high, steps)
        if back and knots and knots.turns and not args.range:  # a whole turn ends where it began
            result = sweep_values(low, high, steps + 1)[:-1]
        elif back:  # a period of a cosine, so that the movie loops without a jump
            turn = torch.arange(steps) * (2 * math.pi / steps)
            result = (low + high) / 2 - (high - low) / 2 * turn.cos()
        return result[:, None] if knots is None else knots(result)

    return values


def write_sheet(
    out: str, rows: Sequence[Sequence[Tensor]], names: Sequence[str], columns: Sequence[str]
) -> None:
    """Write rows of images (C, S, S) uint8 as a labelled sheet; a folder gets sheet.png."""
    path = Path(out) if Path(out).suffix else Path(out, "sheet.png")
    sheet = labelled_grid(rows, names, columns)
    write_image(path, torch.from_numpy(sheet.copy()).permute(2, 0, 1))
    print(f"written: {path}")


def write_movie(out: str, frames: Iterator[Tensor], fps: float) -> None:
    """Write images (3, H, W) uint8 as a GIF or a video, by the ending of `out`."""
    if Path(out).suffix.lower() == ".gif":  # with 64 grey levels a file has half its size
        write_gif(out, (frame // 4 * 4 + (frame >> 6) for frame in frames), min(fps, 50))
    else:
        with VideoWriter(out, fps) as video:
            for frame in frames:
                video.write(frame)
    print(f"written: {out}")
