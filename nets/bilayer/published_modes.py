"""The modes of the published test program, by its option names.

    preprocess  from_video  source and target
    true        true        frames source_frame_num and target_frame_num of video_path, cut out
    true        false       images source_img_path and target_img_path, cut out
    false       false       stored frames dataset_root/{imgs,keypoints,segs}/PATH, where PATH is
                            source_relative_path or target_relative_path, e.g.
                            train/id00012/abc/00110/0
    false       true        prints a line, then as false, false

They write results/NAME_{preprocess}_{from_video}.png. If --out is given, it is the folder.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from nets.bilayer import NETWORKS
from nets.bilayer.experiment import epochs, network_file
from nets.bilayer.sources import Faces, keypoints_of_frames
from nets.bilayer.visuals import full_pass
from nets.bilayer.warm_start import Loaded
from nets.data.heads.videos import HeadFrame, read_frame, sample_of
from nets.data.io.images import read_image, write_image
from nets.data.io.video import open_video
from nets.errors import BadSample, UserError
from nets.run import options
from nets.run.images import to_uint8
from nets.run.options import NonNegativeInt, add_flag

Image = tuple[str, Tensor]
ROLES = ("source", "target")
PATHS = {
    "source_img_path": "source image", "target_img_path": "driving image", "video_path": "video",
    "dataset_root": "folder with imgs/, keypoints/, segs/",
    "source_relative_path": "source frame, PHASE/PERSON/VIDEO/SEQUENCE/FRAME",
    "target_relative_path": "driving frame, PHASE/PERSON/VIDEO/SEQUENCE/FRAME",
}  # fmt: skip


# fmt: off
def add_options(p: options.Parser) -> None:
    """Add the options of the published test program."""
    g = p.hidden
    add = g.add_argument
    add("--preprocess", type=bool | None, default=None,
        help="true: cut faces out of images or a video; false: read stored frames")
    add_flag(g, "--from_video", False, "with preprocess: two frames of video_path")
    for name, text in PATHS.items():
        add(f"--{name}", type=str | None, default=None, help=text)
    add("--source_frame_num", type=NonNegativeInt, default=0,
        help="source frame of the video, counted from 0")
    add("--target_frame_num", type=NonNegativeInt, default=1,
        help="driving frame of the video, counted from 0")
# fmt: on


def experiment(args: options.Namespace) -> str | None:
    """The checkpoint of experiment_dir, experiment_name and which_epoch; None if not given.

    returns  the run folder; with which_epoch, a file of this epoch. With which_epoch, a folder of
             --checkpoint is replaced by such a file as well
    Raises UserError if the name is missing, or the epoch has no networks.
    """
    if args.checkpoint and (args.experiment_name or args.experiment_dir):
        raise UserError("--checkpoint and --experiment_name: give only one of them")
    if args.checkpoint:
        if args.which_epoch is not None:
            args.checkpoint = file_of_epoch(Path(args.checkpoint), args.which_epoch)
        return None
    if not args.experiment_name:
        if args.experiment_dir or args.which_epoch is not None:
            raise UserError(
                "--experiment_dir and --which_epoch: need --experiment_name, or --checkpoint FOLDER"
            )
        return None
    folder = Path(args.experiment_dir or ".") / "runs" / args.experiment_name
    if args.which_epoch is None:
        return str(folder)
    return file_of_epoch(folder, args.which_epoch)


def file_of_epoch(folder: Path, epoch: str | int) -> str:
    """A network's file of an epoch in an experiment's folder, which stands for all of them.

    epoch  a number, or "latest"
    """
    if not folder.is_dir():
        raise UserError(f"--which_epoch: needs the folder of an experiment, {folder} is none")
    folder = folder.parent if folder.name == "checkpoints" else folder
    available = {name: epochs(folder, name) for name in NETWORKS}
    if epoch == "latest":
        epoch = max((numbers[-1] for numbers in available.values() if numbers), default=epoch)
    for name, numbers in available.items():
        if int_or_none(epoch) in numbers:
            return str(network_file(folder, epoch, name))
    known = ", ".join(map(str, sorted({n for numbers in available.values() for n in numbers})))
    raise UserError(
        f"{folder / 'checkpoints'}: holds no networks of epoch {epoch}; epochs: {known or 'none'}"
    )


def int_or_none(value: str | int) -> int | None:
    """The number of an epoch; None if it is no number."""
    return int(value) if str(value).isdigit() else None


def asked_for(args: options.Namespace) -> bool:
    """True if the options select one of these modes."""
    return args.preprocess is not None or any(args[name] for name in PATHS)


def published_modes(args: options.Namespace, model: Loaded) -> None:
    """Write the images of the selected mode; see the table above."""
    preprocess = bool(args.preprocess)
    from_video = args.from_video
    if from_video and not preprocess:
        print("from_video needs preprocess: from_video is set to false")
        from_video = False
    if not preprocess:
        source, target = (stored_frame(args, model, role) for role in ("source", "target"))
    else:
        faces = Faces(model.options, bool(args.crop), args.detector)
        if from_video:
            numbers = (args.source_frame_num, args.target_frame_num)
            images = frames_of_video(needed(args, "video_path"), numbers)
        else:
            images = [read_named(needed(args, f"{role}_img_path")) for role in ROLES]
        files = [next(iter(args.source_keypoints), None), args.driving_keypoints]
        points = [keypoints_of_frames(f, faces.count)[0] if f else None for f in files]
        source, target = (
            faces.frame(image, name, at) for (name, image), at in zip(images, points, strict=True)
        )
    data = full_pass(args, model, sample_of([source], [target], 0))
    folder = Path("results" if args.out == "out.png" else args.out)
    suffix = f"{preprocess}_{from_video}"
    driven = "pred_enh_target_imgs" if "pred_enh_target_imgs" in data else "pred_target_imgs"
    shown = {f"pred_target_{suffix}.jpg": data[driven]}
    for name in ("target_stickmen", "source_stickmen", "source_imgs", "target_imgs"):
        kept = "target_imgs_unmasked" if name == "target_imgs" else name
        if name in data:
            shown[f"{name}_{suffix}.png"] = data.get(kept, data[name])
    for name in ("source_segs", "target_segs"):
        if name in data:
            shown[f"{name}_{suffix}.png"] = data[name] * 2 - 1
    for name, value in shown.items():
        write_image(folder / name, to_uint8(value[0, 0]).cpu())
    print(f"written: {folder}/: {', '.join(shown)}")


def stored_frame(args: options.Namespace, model: Loaded, role: str) -> HeadFrame:
    """A frame of a dataset folder, by its path under imgs/.

    role  source or target
    Raises UserError that names the unusable file.
    """
    name = needed(args, f"{role}_relative_path")
    phase, _, rest = name.strip("/").partition("/")
    o = model.options
    try:
        return read_frame(
            needed(args, "dataset_root"),
            phase,
            rest.removesuffix(".jpg"),
            o["image_size"],
            o["num_keypoints"],
            Faces(o).masks,
        )
    except BadSample as error:
        raise UserError(str(error)) from error


def frames_of_video(path: str, numbers: tuple[int, int]) -> list[Image]:
    """Frames of a video by their numbers. Raises UserError if the video is too short."""
    result: dict[int, Tensor] = {}
    count = 0
    for number, (_, image) in enumerate(open_video(path)):
        count = number + 1
        if number in numbers:
            result[number] = image
        if number >= max(numbers):
            break
    for role, number in zip(ROLES, numbers, strict=True):
        if number not in result:
            raise UserError(f"--{role}_frame_num {number}: {path} has {count} frames")
    return [(f"{path}, frame {number}", result[number]) for number in numbers]


def read_named(path: str) -> Image:
    """An image and its path. Raises UserError that names an unusable file."""
    try:
        return path, read_image(path, None)
    except BadSample as error:
        raise UserError(str(error)) from error


def needed(args: options.Namespace, name: str) -> str:
    """The value of an option. Raises UserError if it is not given."""
    if not args[name]:
        raise UserError(f"--{name}: must be given in this mode")
    return args[name]
