"""What distil.py needs: its options, the teacher's avatar, driving poses, and the loss."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nets.bilayer.data import open_avatars
from nets.bilayer.fitting import jittered
from nets.bilayer.infer import driving_points, make_avatar, source_frames
from nets.bilayer.losses import feature_boxes
from nets.bilayer.network import Avatar, Driver, Student
from nets.bilayer.network.generators import Layers
from nets.bilayer.sources import Faces, keypoints_of_frames
from nets.bilayer.warm_start import Loaded
from nets.contracts import Place, Sample
from nets.data.detectors import AUTO, BACKENDS, EVERY
from nets.data.heads.faces import face_crop_box, normalised_pose, points_in_crop
from nets.data.heads.videos import HeadFrame, sample_of
from nets.data.io.frames import Frames
from nets.data.io.images import list_images
from nets.data.io.video import is_video
from nets.errors import UserError
from nets.ops import uv_sample
from nets.run import options
from nets.run.options import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from nets.run.seeds import generator
from nets.worlds.heads.face.drawing import landmarks
from nets.worlds.heads.videos import RANGES
from nets.worlds.heads.world import SPLITS, identities, scenes

PERSONS, EPOCH = 1000, 10000  # of the demo world: persons whose poses drive, poses in an epoch
SIDE = 256  # pixels in which the demo world's points are computed
KEPT = ("image_size", "num_keypoints", "output_segmentation", "eps", "bn_momentum")
WEIGHTS = {"image": 1.0, "features": 1.0, "low_frequency": 0.5, "offsets": 1.0, "mask": 0.5}


# fmt: off
def parser(description: str) -> options.Parser:
    """The parser of distil.py."""
    p = options.parser("bilayer", description)
    p.set_defaults(run_dir="runs/avatars", workers=0, ckpt_freq=500)
    g = p.add_argument_group("the person")
    add = g.add_argument
    add("--checkpoint", type=str | None, default=None,
        help="the teacher: a checkpoint or run of a head avatar; default: the newest under "
        "runs/bilayer/, or the weights that come with guise")
    add("-s", "--source", type=str, nargs="+", default=[], metavar="IMAGE",
        help="images of one person; default: a person of the teacher's test data, see --person")
    add("--person", type=PositiveInt, default=1, help="without -s: number in the test data")
    add("--source_keypoints", type=str, nargs="+", default=[], metavar="FILE",
        help="68 points of each source, .npy or .json, pixels; default: by the detector")
    add("--source_masks", type=str, nargs="+", default=[], metavar="FILE",
        help="mask of each source, white is the person; default: by the detector")
    add("--enhancer", type=bool | None, default=None,
        help="fit the texture to the sources; default: if the checkpoint has an enhancer")
    add("--fit_steps", type=NonNegativeInt | None, default=None,
        help="steps of fitting the avatar to its sources; 0: none; default: as the teacher's "
        "presets say, 0 for persons of the demo world")
    add("--detector", type=Literal[(AUTO, *BACKENDS)], default=AUTO,
        help="detector of faces, for images without points; auto: dlib if it is installed, else "
        "mediapipe")
    g = p.add_argument_group("driving poses")
    add = g.add_argument
    add("-d", "--driving", type=str, nargs="+", default=[], metavar="FILE",
        help="videos, images or folders of images of faces whose poses are learnt; default: the "
        "demo world's")
    add("--driving_keypoints", type=str, nargs="+", default=[], metavar="FILE",
        help="instead of -d: 68 points of T images, .npy or .json (T, 68, 2), or a folder")
    add("--jitter", type=NonNegativeFloat, default=1.0,
        help="strength of the random shift, turn and size of each pose; 0: none")
    g = p.add_argument_group("network and schedule")
    add = g.add_argument
    add("--inf_num_channels", type=PositiveInt | None, default=None,
        help="channels of the student's generator at full size; default: half of the teacher's")
    add("--inf_max_channels", type=PositiveInt | None, default=None,
        help="greatest number of channels; default: half of the teacher's")
    add("--num_steps", type=PositiveInt, default=3000, help="count of steps")
    add("--batch_size", type=PositiveInt, default=8, help="poses per step, of all ranks together")
    add("--lr", type=PositiveFloat, default=2e-3,
        help="learning rate at the start; falls to 0 by a cosine")
    p.add_argument("--teacher", type=dict | None, default=None, help=argparse.SUPPRESS)
    return p
# fmt: on


def complete(args: options.Namespace, model: Loaded, path: Path) -> None:
    """Set the options that depend on the teacher, so that a checkpoint describes its network.

    path  of the teacher
    Raises UserError on a teacher or options that cannot be distilled.
    """
    given = model.options
    if given.get("use_source_background"):
        raise UserError(f"{path}: its options put the source's background behind; not distilled")
    if args.driving and args.driving_keypoints:
        raise UserError("-d and --driving_keypoints: give one of them")
    if not args.source and (args.source_keypoints or args.source_masks):
        raise UserError("--source_keypoints and --source_masks: go with -s")
    if not (args.driving or args.driving_keypoints) and given["num_keypoints"] != 68:
        count = given["num_keypoints"]
        raise UserError(f"-d: must be given: {path} takes {count} points, the demo world has 68")
    args.checkpoint = str(path)
    args.inf_num_channels = args.inf_num_channels or max(1, given["inf_num_channels"] // 2)
    args.inf_max_channels = args.inf_max_channels or max(1, given["inf_max_channels"] // 2)
    args.teacher = {
        name: value
        for name, value in given.items()
        if name in KEPT or name.startswith(("pse_", "inf_"))
    }


def make_person(args: options.Namespace, model: Loaded, faces: Faces) -> tuple[HeadFrame, Avatar]:
    """The first source frame, and the avatar of all sources."""
    if args.source:
        frames = source_frames(args, faces)
        if args.fit_steps is None:
            args.fit_steps = model.options["fit_steps"]
        return frames[0], make_avatar(args, model, sample_of(frames, [], 0))
    data = open_avatars({**model.options, "num_target_frames": 1}, "test")
    if args.person > len(data):
        raise UserError(f"--person {args.person}: {data.name} has {len(data)} test videos")
    sample = data[0, args.person - 1]
    first = HeadFrame(sample["source_imgs"][0], sample["source_poses"][0], None)
    return first, make_avatar(args, model, sample)


@torch.no_grad()
def begin(student: Student, model: Loaded, source: HeadFrame, avatar: Avatar) -> None:
    """Give a new student the person's constants, and the teacher's keypoints embedder."""
    student.texture.copy_(avatar.texture)
    student.source_image.copy_(source.image)
    student.source_pose.copy_(source.pose)
    student.keypoints_embedder.load_state_dict(model.net.keypoints_embedder.state_dict())


class DrivingPoses:
    """A dataset of single poses: (136,) float32 in [-1, 1], as "pose".

    poses   (T, 2 K) of the user; None: persons of the demo world of heads, drawn anew in each epoch
    jitter  strength of the random shift, turn and size
    """

    shuffle = True

    def __init__(self, poses: Tensor | None, seed: int, jitter: float = 1.0, split: str = "train"):
        self.poses, self.seed, self.jitter, self.split = poses, seed, jitter, split
        self.name = "the demo world of heads" if poses is None else f"{len(poses)} given poses"

    def __len__(self) -> int:
        return EPOCH if self.poses is None else len(self.poses)

    def __getitem__(self, place: Place, /) -> Sample:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[Place]) -> list[Sample]:
        epochs, indices = (torch.tensor(column) for column in zip(*places, strict=True))
        poses = self._world(epochs, indices) if self.poses is None else self.poses[indices]
        draws = [generator(self.seed, "pose", *place) for place in places]
        noise = torch.stack([torch.randn(4, generator=draw) for draw in draws])
        return [{"pose": pose} for pose in jittered(poses, self.jitter * noise)[0]]

    def _world(self, epochs: Tensor, indices: Tensor) -> Tensor:
        """Poses of persons of the split, with the pose and expression of any moment.

        Those of every other index are as infer.py gives them: in the square around the face.
        """
        frame = epochs * EPOCH + indices
        person = indices % PERSONS + SPLITS[self.split]
        scene = scenes(frame, self.seed, f"{self.split} distil", RANGES)
        turned = scene["azimuth"], scene["elevation"], scene["expression"]
        points = landmarks(identities(person), *turned, SIDE)
        squares = [
            (face_crop_box(at) if i % 2 else None) for i, at in zip(indices, points, strict=True)
        ]
        return torch.stack([
            normalised_pose(at, SIDE) if box is None
            else normalised_pose(points_in_crop(at, box, 1), 1)
            for at, box in zip(points, squares, strict=True)
        ])  # fmt: skip


def open_poses(args: options.Namespace, faces: Faces) -> DrivingPoses:
    """The driving poses that the options name."""
    seen = []
    if args.driving_keypoints:
        blank = torch.empty(3, 0, 0)
        for file in args.driving_keypoints:
            points = keypoints_of_frames(file, faces.count)
            named = [(at, f"{file}, image {i + 1}") for i, at in enumerate(points)]
            seen += [faces.look(blank, name, at) for at, name in named]
    elif args.driving:
        finding = options.Namespace(person=1, detect_every=EVERY, on_missing="skip")
        videos = [Path(file) for file in args.driving if is_video(file)]
        others = [file for file in args.driving if not is_video(file)]
        images = list_images("-d", others) if others else []
        for file in [*videos, *images]:
            found = driving_points(finding, faces, Frames(file), None)
            seen += [faces.look(frame.image, frame.name, at) for frame, at in found]
        if not seen:
            raise UserError("-d: no face was detected in any frame")
    poses = torch.stack([one.pose for one in seen]) if seen else None
    return DrivingPoses(poses, args.seed, args.jitter)


def terms_of(image: Tensor, layers: Layers, teacher: Driver, poses: Tensor) -> dict[str, Tensor]:
    """The weighted losses of a student's frames: L1 to the teacher's frame and layers.

    `features` is that of the image in boxes around eyes and mouth, each with the same weight, if
    the poses have 68 points.
    """
    with torch.no_grad(), torch.autocast(poses.device.type, enabled=False):
        delta, low, mask = teacher.layers(poses)
        target = uv_sample(teacher.texture, delta, low)
    difference = (image.clamp(-1, 1) - target.clamp(-1, 1)).abs().mean(1)
    terms = {
        "image": difference.mean(),
        "low_frequency": F.l1_loss(layers.low_frequency, low),
        "offsets": F.l1_loss(layers.delta, delta),
    }
    if poses.shape[1] == 136:
        boxes = feature_boxes(poses, image.shape[-1])
        area = boxes.sum((0, 2, 3)).clamp_min(1)
        terms["features"] = ((difference[:, None] * boxes).sum((0, 2, 3)) / area).mean()
    if mask is not None:
        assert layers.logits is not None
        terms["mask"] = F.l1_loss(layers.logits.sigmoid(), mask)
    return {name: WEIGHTS[name] * value for name, value in terms.items()}


def learning_rate(args: options.Namespace, step: int) -> float:
    """The learning rate of a step: from --lr to 0 by half a cosine."""
    return args.lr * (1 + math.cos(math.pi * step / args.num_steps)) / 2
