"""Avatars driven by images, folders and videos.

The embedding, texture and parameters of a person are computed once. Each driving frame needs only
its 68 points and a pass of the inference generator.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nets.bilayer import Bilayer, fold, published_modes, visuals
from nets.bilayer.data import open_avatars, prepare
from nets.bilayer.fitting import avatars_of
from nets.bilayer.motion import REGIONS, Motion, best_frame
from nets.bilayer.network.driver import Driver, Graph
from nets.bilayer.network.model import Avatar
from nets.bilayer.sources import Faces, SeenFace, keypoints_of_frames
from nets.bilayer.visuals import enhancing, full_pass, write_layers
from nets.bilayer.warm_start import Loaded, LoadedStudent, is_student, load_model, load_student
from nets.data.detectors import CLOSE, EVERY
from nets.data.heads.faces import FaceBox, hull_mask, pose_points, read_mask, stable_boxes
from nets.data.heads.videos import HeadFrame, sample_of
from nets.data.io.frames import Finder, Frame, Frames
from nets.data.io.images import list_images, read_image, write_image
from nets.data.io.names import Paths, distinct, pair_name
from nets.data.io.video import is_video
from nets.data.io.video_writer import FORMATS, VideoWriter
from nets.data.pasting import matched, paste_square
from nets.errors import BadSample, UserError
from nets.onnx_files import ExportedGraphs, graphs_of, refuse
from nets.output import write_demo, write_grid
from nets.run import options
from nets.run.images import to_uint8
from nets.run.loader import fetched, to_device
from nets.run.options import PositiveInt, add_flag
from nets.run.precision import Precision
from nets.run.ranks import Ranks


# fmt: off
def add_options(p: options.Parser) -> None:
    g = p.add_argument_group("bilayer: -s one person's images, -d images, folders or a video")
    add = g.add_argument
    add("--source_keypoints", type=str, nargs="+", default=[], metavar="FILE",
        help="68 points of each source, .npy or .json, pixels; default: by the detector")
    add("--driving_keypoints", type=str | None, default=None, metavar="FILE",
        help="68 points of each driving image, pixels: .npy or .json (T, 68, 2), or a folder of "
        "such files; default: by the detector")
    add("--source_masks", type=str, nargs="+", default=[], metavar="FILE",
        help="mask of each source, an image of its size, white is the person; default: by the "
        "detector")
    add("--crop", type=bool | Literal["stable"], nargs="?", const=True, default=True,
        help="cut out the square around the points; stable: in a driving video, squares of one "
        "size on a smooth path; false: images are square and used whole")
    add("--match_colour", type=bool | None, nargs="?", const=True, default=None,
        help="with --paste: give the face the colours of the driving face; default: true")
    add_flag(g, "--masks", False, "cut the head out by its predicted mask")
    add("--background", type=Literal["white", "black"], default="white",
        help="background with --masks")
    add("--enhancer", type=bool | None, default=None,
        help="fit the texture to the sources; default: if the checkpoint has an enhancer")
    add_flag(g, "--relative", False,
        "move the source's own points as the driving ones move from their first frame: the face "
        "keeps its proportions")
    add("--region", type=Literal[REGIONS], default="all",
        help="what of the motion to take, with --relative; expression: all but the head's; eyes, "
        "lips: those alone")
    add_flag(g, "--adapt_scale", False, "with --relative: scale motion to the source's face")
    add_flag(g, "--find_best_frame", False,
        "with --relative: from the driving frame most like the source, not the first; reads the "
        "video twice")
    add("--detect_every", type=PositiveInt, default=EVERY,
        help="frames of a driving video from one search for faces in the whole frame to the next; "
        f"in between they are looked for near the last place, if frames are at most {CLOSE:g} s "
        "apart; 1: always whole")
    add("--frames_at_once", type=PositiveInt, default=8, help="driving frames per batch")
    add_flag(g, "--cuda_graph", False,
        "replay the launches of a batch of frames as one CUDA graph; needs a GPU")
    add("--experiment_dir", type=str | None, default=None,
        help="instead of --checkpoint: EXPERIMENT_DIR/runs/EXPERIMENT_NAME")
    add("--experiment_name", type=str | None, default=None, help="see --experiment_dir")
    add("--which_epoch", type=str | int | None, default=None,
        help="epoch of its checkpoints/EPOCH_NETWORK.pth; default: the newest")
    published_modes.add_options(p)
# fmt: on


def infer(args: options.Namespace, content: dict[str, Any], path: Path, ranks: Ranks) -> None:
    """Write an image, a folder or a video of the source person in the driving poses.

    content, path  of the checkpoint
    """
    precision = Precision(args.precision, ranks.device, args.channels_last)
    if is_student(content):
        drive_student(args, load_student(content, path, precision), path)
        return
    if graphs := graphs_of(content):
        refuse(args, ("grid", "enhancer", "fit_steps"))
        if args.source and content["options"].get("fit_steps") and args.fit_steps is None:
            print("an exported file is not fitted to the source, as its checkpoint would be")
        args.fit_steps = 0
        if published_modes.asked_for(args) or not args.source:
            raise UserError(f"-s and -d: {path} needs both; other modes need the checkpoint")
        model = Loaded(ExportedBilayer(graphs), content["options"], precision)
    else:
        model = load_model(content, path, precision)
        fold(model.net)
    if published_modes.asked_for(args):
        published_modes.published_modes(args, model)
        return
    if not args.source and not args.driving:
        print("no -s and no -d: images of the run's own test data")
        own_data(args, model)
        return
    if not args.source or not args.driving:
        raise UserError("-s and -d: a bilayer avatar needs both")
    faces = open_faces(args, model)
    sources = source_frames(args, faces)
    if args.fit_steps is None:
        args.fit_steps = model.options["fit_steps"]
    drive_avatar(args, model, faces, sources, make_avatar(args, model, sample_of(sources, [], 0)))


def drive_student(args: options.Namespace, model: LoadedStudent, path: Path) -> None:
    """Write what -d drives of the person whom a student renders.

    Raises UserError on options that need the person's images or the layers of a frame.
    """
    if args.source or args.source_keypoints or args.source_masks:
        raise UserError(f"-s: {path} renders one person only, whom distil.py took; give -d alone")
    if args.grid or args.enhancer is not None or args.fit_steps or published_modes.asked_for(args):
        raise UserError(
            f"--grid, --enhancer, --fit_steps and published modes: not with a student, {path}"
        )
    if not args.driving:
        raise UserError(f"-d: must be given: {path} renders one person and has no test data")
    person = model.net
    source = HeadFrame(person.source_image.cpu(), person.source_pose.cpu(), None)
    inside = path.parent.name == "checkpoints"  # of a run, which names the results
    args.source = [path.parent.parent.name if inside else path.name]
    drive_avatar(args, model, open_faces(args, model), [source], person.avatar())


def open_faces(args: options.Namespace, model: Loaded | LoadedStudent) -> Faces:
    """The faces of images. Raises UserError on options of --relative that do not fit."""
    if not args.relative:
        for name, default in (
            ("region", "all"),
            ("adapt_scale", False),
            ("find_best_frame", False),
        ):
            if args[name] != default:
                raise UserError(f"--{name}: only with --relative")
    faces = Faces(model.options, bool(args.crop), args.detector)
    if args.relative and faces.count != 68:
        raise UserError(f"--relative: needs 68 points, this checkpoint has {faces.count}")
    return faces


def drive_avatar(
    args: options.Namespace,
    model: Loaded | LoadedStudent,
    faces: Faces,
    sources: list[HeadFrame],
    avatar: Avatar,
) -> None:
    """Write the images or the video of an avatar that -d drives."""
    paint = painter(args, model, avatar, opacity=args.paste)
    videos = [Path(file) for file in args.driving if is_video(file)]
    if videos and len(args.driving) > 1:
        raise UserError(f"-d: one video, or images; got {len(args.driving)} with {videos[0]}")
    if args.paste and not args.crop:
        raise UserError("--paste: goes with cropped faces only")
    if args.match_colour is not None and not args.paste:
        raise UserError("--match_colour: only with --paste")
    if args.crop == "stable" and not videos:
        raise UserError("--crop stable: only with a driving video; images have no path")
    points = None
    if args.driving_keypoints:
        points = keypoints_of_frames(args.driving_keypoints, faces.count)
    if videos:
        drive_video(args, videos[0], sources[0], faces, points, paint, model.device)
    else:
        drive_images(args, model, sources, faces, points, paint)


class ExportedBilayer(Bilayer):
    """The exported graphs of an avatar, with the methods of `Bilayer` that they can serve."""

    def __init__(self, graphs: ExportedGraphs):
        torch.nn.Module.__init__(self)
        self.names: list[str] = []  # no network of its own, and so no enhancer
        self._identity, self._frame = graphs["avatar_identity"], graphs["avatar_frame"]
        self.has_mask = "mask" in self._frame.outputs

    def create_avatar(
        self,
        source_image: Tensor,
        source_pose: Tensor | None = None,
        source_stickman: Tensor | None = None,
        source_mask: Tensor | None = None,
    ) -> Avatar:
        if source_image.shape[1] > 1:
            raise UserError("-s: an exported avatar takes one image; several need the checkpoint")
        given = {"image": source_image, "stickman": source_stickman, "mask": source_mask}
        inputs = {name: value[:, 0] for name, value in given.items() if value is not None}
        texture, *flat = self._identity(inputs)
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        return Avatar(texture, pairs, source_image, source_pose)

    def driver(self, avatar: Avatar) -> Callable[[Tensor], tuple[Tensor, Tensor | None]]:
        """A function from poses (N, 2 K) to images and masks, as a `Driver` is."""
        flat = [tensor for pair in avatar.pairs for tensor in pair]
        person = {f"adaptive_{i}": tensor for i, tensor in enumerate(flat)}
        person["texture"] = avatar.texture

        def frames(poses: Tensor) -> tuple[Tensor, Tensor | None]:
            image, *mask = self._frame({"pose": poses, **person})
            return image, mask[0] if mask else None

        return frames


def source_frames(args: options.Namespace, faces: Faces) -> list[HeadFrame]:
    """The frames of the images of -s, all of one person."""
    files = list_images("-s", args.source)
    for name in ("source_keypoints", "source_masks"):
        if args[name] and len(args[name]) != len(files):
            raise UserError(f"--{name}: must be {len(files)} files, one a source")
    frames = []
    for i, file in enumerate(files):
        points = mask = None
        if args.source_keypoints:
            points = keypoints_of_frames(args.source_keypoints[i], faces.count)[0]
        try:
            if args.source_masks:
                mask = read_mask(args.source_masks[i])
            frames.append(faces.frame(read_image(file, None), str(file), points, mask))
        except BadSample as error:
            raise UserError(str(error)) from error
    return frames


def make_avatar(args: options.Namespace, model: Loaded, sample: dict[str, Tensor]) -> Avatar:
    """The avatar of a sample's sources, enhanced and fitted as --enhancer and --fit_steps say."""
    batch = {name: value[None] for name, value in sample.items() if isinstance(value, Tensor)}
    data = prepare(to_device(batch, model.device), model.options)
    if args.fit_steps:
        count = data["source_imgs"].shape[1]
        print(
            f"fitting the avatar to {count} image{'s' * (count > 1)}: {args.fit_steps} steps; "
            "--fit_steps 0 leaves it out"
        )
    return avatars_of(model, data, args.fit_steps, enhancing(args, model))


def renderer(args: options.Namespace, model: Loaded, avatar: Avatar) -> Callable[[Tensor], Tensor]:
    """A function from poses (N, 136) to images (N, 3, S, S) uint8 on the CPU."""
    paint = painter(args, model, avatar)
    return lambda poses: paint(poses).cpu()


def painter(
    args: options.Namespace,
    model: Loaded | LoadedStudent,
    avatar: Avatar,
    opacity: bool = False,
) -> Callable[[Tensor], Tensor]:
    """As `renderer`, but the images stay on the model's device.

    opacity  add the predicted mask as a fourth channel, 255 everywhere if there is none; the images
             are not masked then
    """
    driver: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    if isinstance(model.net, ExportedBilayer):
        driver, has_mask = model.net.driver(avatar), model.net.has_mask
    else:
        driver = folded = Driver(model.net, avatar, model.precision.dtype)
        has_mask = folded.has_mask
        if args.get("compile"):
            folded.compile()
        if args.get("cuda_graph"):
            if model.device.type != "cuda":
                raise UserError("--cuda_graph: needs a GPU, this network is on the CPU")
            driver = Graph(folded, args.frames_at_once)
    if args.masks and not has_mask:
        raise UserError("--masks: this checkpoint's network predicts no mask")
    behind = 1.0 if args.background == "white" else -1.0

    def render(poses: Tensor) -> Tensor:
        image, mask = driver(poses.to(model.device))
        if opacity:
            mask = torch.ones_like(image[:, :1]) if mask is None else mask
            return torch.cat([to_uint8(image), to_uint8(2 * mask - 1)], 1)
        if args.masks:
            assert mask is not None  # asked above
            image = image.clamp(-1, 1) * mask + behind * (1 - mask)
        elif avatar.background is not None and mask is not None:
            image = image * mask + avatar.background * (1 - mask)
        return to_uint8(image)

    return render


def driving_points(
    args: options.Namespace, faces: Faces, frames: Frames, points: Tensor | None
) -> Iterator[tuple[Frame, Tensor]]:
    """The driving frames with their points, which are given or detected.

    points  (T, 68, 2), pixels; None: by the detector
    Raises UserError if a frame has no points.
    """
    if points is None:
        find = faces.find(args.person, args.detect_every, frames.fps)
        finder = Finder(find, "face", args.on_missing)
        yield from finder(frames)
        finder.report()
        return
    for number, frame in enumerate(frames):
        if number >= len(points):
            raise UserError(f"{frame.name}: --driving_keypoints has {len(points)} frames only")
        yield frame, points[number]


def motion_of(
    args: options.Namespace, source: HeadFrame, driving: Tensor
) -> Callable[[Tensor], Tensor]:
    """A function from driving poses (N, 136) to the poses that the avatar takes.

    driving  (M, 136), the poses among which --find_best_frame looks; the first is the reference
             otherwise
    """
    if not args.relative:
        return lambda poses: poses
    own, others = source.pose.view(68, 2), driving.view(-1, 68, 2)
    best = best_frame(own, others) if args.find_best_frame else 0
    motion = Motion(own, others[best], args.region, args.adapt_scale)
    return lambda poses: motion(poses.view(-1, 68, 2)).flatten(1)


def look_ahead(
    args: options.Namespace, faces: Faces, video: Path, points: Tensor | None
) -> dict[float | None, tuple[SeenFace, Tensor]]:
    """The faces of a whole video, without its images, and their points, by the frames' seconds."""
    frames = Frames(video, args.start, args.end, args.fps)
    blank = torch.zeros((), dtype=torch.uint8)
    track: dict[float | None, tuple[SeenFace, Tensor]] = {}
    for frame, at in driving_points(args, faces, frames, points):
        track[frame.seconds] = faces.look(blank.expand(frame.image.shape), frame.name, at), at
    if args.crop == "stable" and track:
        assert frames.fps is not None
        seen, ats = zip(*track.values(), strict=True)
        boxes = stable_boxes(torch.stack(ats), frames.fps)
        steady = [
            faces.look(s.whole, "", at, box) for s, at, box in zip(seen, ats, boxes, strict=True)
        ]
        track = dict(zip(track, zip(steady, ats, strict=True), strict=True))
    return track


def drive_video(
    args: options.Namespace,
    video: Path,
    source: HeadFrame,
    faces: Faces,
    points: Tensor | None,
    paint: Callable[[Tensor], Tensor],
    device: torch.device,
) -> None:
    """Write a video of the avatar with the driving video's sound, frame by frame."""
    frames = Frames(video, args.start, args.end, args.fps)
    assert frames.fps is not None  # only images have none
    out = Path(args.out)
    if out.suffix.lower() not in FORMATS:
        out = out.with_suffix("") / pair_name(Path(args.source[0]).stem, video.stem, ".mp4")
    beside = out.with_name(f"{out.stem}_concat{out.suffix}")
    moving = driving_points(args, faces, frames, points)
    take: Callable[[Tensor], Tensor] | None = None
    boxes: dict[float | None, FaceBox | None] = {}
    if args.find_best_frame or args.crop == "stable":  # the points of all frames are kept
        track = look_ahead(args, faces, video, points)
        if track:
            take = motion_of(args, source, poses_of([seen for seen, _ in track.values()]))
        boxes = {seconds: seen.box for seconds, (seen, _) in track.items()}
        moving = ((f, track[f.seconds][1]) for f in frames if f.seconds in track)
    count, ahead = 0, int(device.type == "cuda")
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(VideoWriter(out, frames.fps, video, frames.start))
        three = None
        if args.concat:
            three = stack.enter_context(VideoWriter(beside, frames.fps, video, frames.start))

        def batches() -> Iterator[list[tuple[Frame, SeenFace, Tensor]]]:
            nonlocal take
            while part := list(itertools.islice(moving, args.frames_at_once)):
                seen = [faces.look(f.image, f.name, at, boxes.get(f.seconds)) for f, at in part]
                take = take or motion_of(args, source, poses_of(seen))
                poses = take(poses_of(seen))
                yield [(f, one, pose) for (f, _), one, pose in zip(part, seen, poses, strict=True)]

        def painted(part: list[tuple[Frame, SeenFace, Tensor]]) -> Tensor:
            return paint(torch.stack([pose for _, _, pose in part]))

        for part, results in fetched(batches(), painted, ahead):
            for (frame, one, pose), generated in zip(part, results, strict=True):
                writer.write(pasted(args, faces, one, pose, generated), frame.seconds)
                if three is not None:
                    row = [source.image, faces.cut(one.whole, one.box), generated[:3]]
                    three.write(torch.cat(row, 2), frame.seconds)
            count += len(part)
    print(f"written: {out}, {count} frames" + (f"; {beside}" if args.concat else ""))


def poses_of(seen: list[SeenFace]) -> Tensor:
    """The poses of N faces, (N, 136) in [-1, 1]."""
    return torch.stack([one.pose for one in seen])


def pasted(
    args: options.Namespace, faces: Faces, seen: SeenFace, pose: Tensor, generated: Tensor
) -> Tensor:
    """The generated image; with --paste the driving image, with the generated head on it.

    pose       (136,) of the generated face
    generated  (3, S, S) uint8, with --paste (4, S, S): its fourth channel is the head's mask
    """
    if not args.paste or seen.box is None:
        return generated
    image, mask = generated[:3], generated[3:].float() / 255
    if args.match_colour is not False:
        inside = faces.cut(torch.full_like(seen.whole[:1], 255), seen.box) > 127
        where = [hull_mask(pose_points(p, faces.size), faces.size, 0) for p in (pose, seen.pose)]
        image = matched(image, faces.cut(seen.whole, seen.box), where[0], where[1] * inside)
    return paste_square(seen.whole, image, seen.box, mask)


def drive_images(
    args: options.Namespace,
    model: Loaded | LoadedStudent,
    sources: list[HeadFrame],
    faces: Faces,
    points: Tensor | None,
    paint: Callable[[Tensor], Tensor],
) -> None:
    """Write the images: one image, or a grid with single images, or a video if --out is one."""
    files = list_images("-d", args.driving)
    if points is not None and len(points) != len(files):
        raise UserError(
            f"--driving_keypoints: must hold points of {len(files)} images, holds {len(points)}"
        )
    names, seen = [], []
    for i, file in enumerate(files):
        given = None if points is None else points[i : i + 1]
        for frame, at in driving_points(args, faces, Frames(file), given):
            names.append(file.stem)
            seen.append(faces.look(frame.image, frame.name, at))
    if args.relative and len(seen) == 1:
        raise UserError("--relative: needs a video or several images, one image shows no motion")
    poses = motion_of(args, sources[0], poses_of(seen))(poses_of(seen))
    generated = torch.cat([paint(part).cpu() for part in poses.split(args.frames_at_once)])
    out = Path(args.out)
    if out.suffix.lower() in FORMATS:
        with VideoWriter(out, args.fps or 25.0) as writer:
            for one, pose, image in zip(seen, poses, generated, strict=True):
                writer.write(pasted(args, faces, one, pose, image))
        print(f"written: {out}, {len(generated)} frames")
        return
    if args.grid:
        assert isinstance(model, Loaded)  # of a student there are no layers
        targets = [HeadFrame(faces.cut(one.whole, one.box), one.pose, None) for one in seen]
        data = full_pass(args, model, sample_of(sources, targets, 0))
        write_layers(out.with_name(f"{out.stem}_layers.png"), data, model)
    if args.paste:
        columns, source, paths = distinct(names), Path(args.source[0]).stem, Paths()
        for name, one, pose, image in zip(columns, seen, poses, generated, strict=True):
            single = len(seen) == 1 and out.suffix and not out.is_dir()
            path = out if single else out.with_suffix("") / pair_name(source, name, ".png")
            path = paths(path)
            write_image(path, pasted(args, faces, one, pose, image))
            print(f"written: {path}")
        return
    cut = torch.stack([faces.cut(one.whole, one.box) for one in seen])
    plain = options.Namespace(out=args.out, grid=False)
    source = Path(args.source[0]).stem
    write_grid(plain, [source], [sources[0].image], names, cut, generated[None])


def own_data(args: options.Namespace, model: Loaded) -> None:
    """Write results on the run's test data: four persons, and the layers of their targets.

    Each row is a person: source, points of the target as a stick figure, result, ground truth. They
    are cut out on white, by predicted and true masks. If --out is a .gif, an animation of three
    people of the demo world replaces the rows.
    """
    data = open_avatars({**model.options, "num_target_frames": 1}, "test")
    samples = [data[0, i] for i in range(min(4, len(data)))]
    masks = bool(args.masks or model.options["inf_pred_segmentation"])
    cut = options.Namespace(**{**args.as_dict(), "masks": masks, "background": "white"})
    renderers = [renderer(cut, model, make_avatar(args, model, sample)) for sample in samples]
    if Path(args.out).suffix.lower() == ".gif":
        visuals.animation(Path(args.out), data, renderers[:3], samples[:3])
    else:
        rows = [visuals.demo_row(*pair) for pair in zip(renderers, samples, strict=True)]
        write_demo(args.out, ["source", "pose", "result", "ground truth"], rows)
    passes = [full_pass(args, model, sample) for sample in samples]
    visuals.layers(Path(args.out).with_suffix(""), passes, model.options["networks_test"])
