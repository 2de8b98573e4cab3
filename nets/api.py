"""Trained networks as Python objects: `load` a checkpoint, then call the methods of its system.

    vunet        model.transfer(source, pose)          one person in other poses
                 model.sample(pose, count)             random appearances in a pose
    landmarks    model.landmarks(image)                landmarks in pixels
                 model.transfer(source, driving)       one image's appearance in another's pose
    bilayer      avatar = model.avatar(image, points)  a head avatar of one person
                 avatar.drive(points)                  images of it
    dcign        model.encode(image), model.decode(code)

Images go in as files, or as uint8 tensors (3, H, W) in RGB, of any size. Images come out as uint8
(3, S, S), S the network's side; those of DC-IGN as grey values in [0, 1]. Everything returned is
on the CPU, without gradients. Points and joints are (x, y) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import nets.bilayer.infer as bilayer
import nets.dcign.infer as dcign
import nets.landmarks.infer as landmarks
import nets.vunet.infer as vunet
from nets import published
from nets.bilayer import fold
from nets.bilayer.sources import Faces
from nets.data.detectors import open_detector, person_square
from nets.data.heads.faces import crop_square, points_in_crop
from nets.data.heads.videos import sample_of
from nets.data.io.images import letterbox, read_image, squash
from nets.dcign.latents import Latents
from nets.dcign.published import is_published
from nets.errors import UserError
from nets.landmarks.visuals import places
from nets.layers import signed
from nets.run import checkpoints
from nets.run.images import to_uint8
from nets.run.options import Namespace
from nets.run.precision import Precision
from nets.skeletons import JOINTS_17, convert_joints, limb_lengths, valid_joints
from nets.skeletons import keep_proportions as fitted_limbs
from nets.vunet.data import PersonInputs
from nets.vunet.visuals import transfers

Image = str | Path | Tensor  # a file, or uint8 (3, H, W) in RGB


class LoadedNetwork:
    """What the models of all systems have in common.

    system      "vunet", "landmarks", "bilayer" or "dcign"
    checkpoint  the file or folder that was loaded
    step        finished steps of its training
    kind        whose weights these are if not of a run of this project, else None
    options     the options of its training
    device      torch.device of the network
    """

    system: str
    options: dict[str, Any]

    def __init__(self, content: dict[str, Any], path: Path, precision: Precision):
        self.checkpoint, self.precision, self.device = path, precision, precision.device
        self.step: int = content["step"]
        self.kind: str | None = content.get("kind")
        self._description = checkpoints.describe(content, path)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._description}>"


class LoadedVUNet(LoadedNetwork):
    """A VUNet: people in other poses; `size` is the side S of its images, in pixels."""

    system = "vunet"

    def __init__(self, content: dict[str, Any], path: Path, precision: Precision):
        super().__init__(content, path, precision)
        self.net, self.options = vunet.load_network(content, path, precision)
        self._inputs = PersonInputs(self.options, JOINTS_17)
        self.size: int = self._inputs.size

    @torch.no_grad()
    def transfer(
        self,
        source: Image,
        pose: Image,
        source_joints: Tensor | None = None,
        joint_order: Sequence[str] = JOINTS_17,
        keep_proportions: bool = False,
    ) -> Tensor:
        """The source's appearance in a pose: uint8 (3, S, S), or (N, 3, S, S) for N poses.

        source            the person whose appearance is taken
        pose              an image of a person, whose joints are detected; or joints (J, 2) or
                          (N, J, 2), floating point, in pixels of the S x S result
        source_joints     (J, 2) pixels of the source; None: detected, and the person is cut out
        joint_order       names of the joints given; missing joints are negative or NaN
        keep_proportions  limb lengths of the source, see `nets.skeletons.keep_proportions`; a limb
                          that the source does not show keeps the length of the pose
        Detection needs the extra `extract`; UserError where nobody is found, or no limb whose
        proportions could be kept.
        """
        image, joints, own = self._source(source, source_joints, joint_order, keep_proportions)
        at, single = self._joints("transfer", pose, joint_order)
        if keep_proportions:
            if limb_lengths(own).isnan().all():
                raise UserError(f"{_label(source)}: keep_proportions needs a limb, it shows none")
            at = fitted_limbs(own, at, (self.size, self.size))
        poses = self._inputs.pose(at.to(self.device))
        with self.precision.autocast():
            appearance = self._inputs.appearance(
                image[None].to(self.device), joints[None].to(self.device)
            )
            result = to_uint8(transfers(self.net, poses, appearance)[0]).cpu()
        return result[0] if single else result

    @torch.no_grad()
    def sample(
        self,
        pose: Image,
        count: int,
        seed: int = 0,
        joint_order: Sequence[str] = JOINTS_17,
    ) -> Tensor:
        """Random appearances in a pose: uint8 (count, 3, S, S); (count, N, 3, S, S) for N poses.

        pose, joint_order  as in `transfer`
        count              appearances, each drawn from the prior and the same in all poses
        seed               the same seed draws the same appearances
        """
        at, single = self._joints("sample", pose, joint_order)
        poses = self._inputs.pose(at.to(self.device))
        generator = torch.Generator(self.device).manual_seed(seed)
        with self.precision.autocast():
            result = to_uint8(vunet.sample(self.net, poses, count, generator)).cpu()
        return result[:, 0] if single else result

    def _source(
        self, source: Image, joints: Tensor | None, order: Sequence[str], limbs: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The image as the network takes it, (3, S, S) uint8, its joints, those in true proportion.

        limbs   the proportions are needed: they are detected where no joints are given
        Joints are (17, 2), the first ones in pixels of the square, which a network that squashes
        stretches; NaN where the network looks at the image as a whole.
        """
        pixels = _pixels("transfer", source)
        if joints is None and self._inputs.crops:
            square, at = self._person(pixels, _label(source))
            return square, at, at
        own = torch.full((len(JOINTS_17), 2), torch.nan)
        if joints is not None:
            _check_points("transfer", "source_joints", joints, len(order))
            own = convert_joints(joints, order, JOINTS_17)
            own = own.where(valid_joints(own)[:, None], torch.nan)  # before the square moves it
        elif limbs:
            own = self._largest(pixels, _label(source))
        if self.options["fit"] == "squash":
            square, (x, y, w, h) = squash(pixels, None, self.size), (0, 0, self.size, self.size)
        else:
            square, (x, y, w, h) = letterbox(pixels, self.size)
        if joints is None:  # this network looks at the image as a whole
            return square, torch.full_like(own, torch.nan), own
        scale = own.new_tensor([w / pixels.shape[2], h / pixels.shape[1]])
        return square, own * scale + own.new_tensor([x, y]), own

    def _joints(self, function: str, pose: Image, order: Sequence[str]) -> tuple[Tensor, bool]:
        """Joints (N, 17, 2) in pixels of the square, and whether `pose` was a single one."""
        if isinstance(pose, Tensor) and pose.is_floating_point():
            _check_points(function, "pose", pose, len(order), several=True)
            joints = convert_joints(pose, order, JOINTS_17)
        else:
            joints = self._person(_pixels(function, pose), _label(pose))[1]
        single = joints.ndim == 2
        return joints[None] if single else joints, single

    def _person(self, pixels: Tensor, label: str) -> tuple[Tensor, Tensor]:
        """The largest person of an image, detected and cut out: (3, S, S) uint8, joints (17, 2)."""
        joints = self._largest(pixels, label)
        box = person_square(joints)
        return crop_square(pixels, box, self.size), points_in_crop(joints, box, self.size)

    def _largest(self, pixels: Tensor, label: str) -> Tensor:
        """The joints (17, 2) of the largest person of an image, in its pixels."""
        people = open_detector().people(pixels)
        if not people:
            raise UserError(f"{label}: nobody was detected; joints can be given instead")
        return people[0].joints


class LoadedLandmarks(LoadedNetwork):
    """Unsupervised landmarks; `size` is the side S of its images, in pixels."""

    system = "landmarks"

    def __init__(self, content: dict[str, Any], path: Path, precision: Precision):
        super().__init__(content, path, precision)
        self.net, self.options = landmarks.load_network(content, path, precision)
        self.size: int = self.options["image_size"]

    @torch.no_grad()
    def landmarks(self, image: Image) -> Tensor:
        """The K landmarks of an image, (K, 2) float32 in its pixels."""
        pixels = _pixels("landmarks", image)
        with self.precision.autocast():
            means = self.net.landmarks(self._input(pixels)).means[0]
        return places(means.float(), *pixels.shape[1:]).cpu()

    @torch.no_grad()
    def transfer(self, source: Image, driving: Image) -> Tensor:
        """The source's appearance in the pose of the driving image: uint8 (3, S, S)."""
        images = (self._input(_pixels("transfer", image)) for image in (source, driving))
        with self.precision.autocast():
            appearance, pose = self.net.appearance(next(images)), self.net.landmarks(next(images))
            return to_uint8(self.net.render(pose, appearance).reconstruction)[0].cpu()

    def _input(self, pixels: Tensor) -> Tensor:
        """An image squashed to the network's size, (1, 3, S, S) in [-1, 1], on the device."""
        return signed(squash(pixels, None, self.size)[None].to(self.device))


class LoadedBilayer(LoadedNetwork):
    """Head avatars; `size` is the side S of its images, in pixels."""

    system = "bilayer"

    def __init__(self, content: dict[str, Any], path: Path, precision: Precision):
        super().__init__(content, path, precision)
        self._model = bilayer.load_model(content, path, precision)
        fold(self._model.net)
        self.net, self.options = self._model.net, self._model.options
        self._faces = Faces(self.options)
        self.size: int = self._faces.size

    def avatar(
        self,
        image: Image | Sequence[Image],
        points: Tensor | None = None,
        mask: Tensor | None = None,
        fit_steps: int | None = None,
    ) -> LiveAvatar:
        """An avatar of one person, of one image or several, to be driven by face points.

        image   one image, or several of the same person
        points  (68, 2) face points in iBUG order, pixels of the image, or (n, 68, 2) for n images;
                None: detected, which needs the extra `extract`
        mask    (1, H, W) uint8, 255 on the person, or (n, 1, H, W); None: detected, or the hull
                of the points where the detector is not installed
        fit_steps  steps of fitting the avatar to the images, which makes it look like the person;
                   0: none; None: as the checkpoint's presets say
        """
        images = [image] if isinstance(image, str | Path | Tensor) else list(image)
        several = not isinstance(image, str | Path | Tensor)
        for name, value, ndim in (("points", points, 2), ("mask", mask, 3)):
            if value is not None and (
                value.ndim != ndim + several or (several and len(value) != len(images))
            ):
                raise ValueError(
                    f"avatar: {name} must have {ndim} dimensions for one image and {ndim + 1} for "
                    f"several, one entry an image; got {list(value.shape)} for {len(images)}"
                )
        frames = [
            self._faces.frame(
                _pixels("avatar", one),
                _label(one),
                points if points is None or not several else points[i],
                mask if mask is None or not several else mask[i],
            )
            for i, one in enumerate(images)
        ]
        sample = {k: v for k, v in sample_of(frames, [], 0).items() if isinstance(v, Tensor)}
        steps = self.options["fit_steps"] if fit_steps is None else fit_steps
        args = Namespace(enhancer=None, fit_steps=steps)
        avatar = bilayer.make_avatar(args, self._model, sample)
        return LiveAvatar(self, avatar)


class LiveAvatar:
    """One person's avatar; `drive` makes images of it."""

    def __init__(self, model: LoadedBilayer, avatar: bilayer.Avatar):
        self.model, self.tensors = model, avatar

    def drive(self, points: Tensor, background: Literal["white", "black"] | None = None) -> Tensor:
        """The avatar in the pose of face points: uint8 (3, S, S), or (T, 3, S, S) for T frames.

        points      (68, 2) or (T, 68, 2) in iBUG order, pixels of any image; the square around
                    each frame's points is what the result shows
        background  cut the head out by the predicted mask, before this; None: the image as it is
        """
        _check_points("drive", "points", points, 68, several=True)
        single = points.ndim == 2
        faces, empty = self.model._faces, torch.empty(3, 0, 0)
        frames = points[None] if single else points
        poses = [faces.look(empty, f"frame {i}", at.cpu()).pose for i, at in enumerate(frames)]
        args = Namespace(masks=background is not None, background=background or "white")
        result = bilayer.renderer(args, self.model._model, self.tensors)(torch.stack(poses))
        return result[0] if single else result


class LoadedDCIGN(LoadedNetwork):
    """A DC-IGN: faces to codes of D numbers and back; `size` is the side S of its images."""

    system = "dcign"

    def __init__(self, content: dict[str, Any], path: Path, precision: Precision):
        super().__init__(content, path, precision)
        self.net, self.options = dcign.load_network(content, path, precision)
        self.size: int = self.net.image_size
        self._latents = Latents(self.net, self.options, has_data=not is_published(content))

    @property
    def owners(self) -> dict[str, slice]:
        """The places of each factor's latents in a code, e.g. {"azimuth": slice(0, 1), ...}.

        In the entangled regime they are taken from the training data, which must be available.
        """
        return self._latents.owners

    @torch.no_grad()
    def encode(self, image: Image) -> Tensor:
        """The code of a face, (D,) float32: the means of its latents.

        The image is made grey and put in the middle of a white square; for a run on a table of
        images it is squashed to a square, as in training.
        """
        face = dcign.to_face(_pixels("encode", image), self.size, self._latents.squashed)
        with self.precision.autocast():
            return dcign.encode(self.net, face[None])[0].float()

    @torch.no_grad()
    def decode(self, code: Tensor) -> Tensor:
        """The face of a code (D,): float32 (1, S, S) in [0, 1]; (N, 1, S, S) of codes (N, D)."""
        if code.ndim not in (1, 2) or code.shape[-1] != self.net.latents:
            raise ValueError(
                f"decode: code must be (D,) or (N, D) with D = {self.net.latents}, "
                f"got {list(code.shape)}"
            )
        with self.precision.autocast():
            faces = dcign.decode(self.net, code[None] if code.ndim == 1 else code).float()
        return faces[0] if code.ndim == 1 else faces


Model = LoadedVUNet | LoadedLandmarks | LoadedBilayer | LoadedDCIGN
MODELS: tuple[type[Model], ...] = (LoadedVUNet, LoadedLandmarks, LoadedBilayer, LoadedDCIGN)


def load(
    checkpoint: str | Path | None = None,
    device: str | torch.device = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32",
    system: str | None = None,
) -> Model:
    """The trained network of a checkpoint, ready for inference; its methods depend on its system.

    checkpoint  a checkpoint, a run folder (its newest checkpoint), what a published program wrote,
                or "hf://OWNER/NAME", which is downloaded; None: the newest run under runs/ of the
                working directory, or the weights that come with guise if there is none
    device      "auto": cuda where available
    precision   of convolutions and products; "auto" as in infer.py: bf16 where the device is
                fast in it
    system      without a checkpoint: "vunet", "landmarks", "bilayer" or "dcign"; default: any
    Raises UserError, one line that names the file, if there is no checkpoint or it is damaged.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    path = published.find(checkpoint, system)
    content = published.read_checkpoint(path, system)
    for model in MODELS:
        if model.system == content["system"]:
            return model(content, path, Precision(precision, torch.device(device)))
    raise UserError(f"{path}: a checkpoint of {content['system']}, which this version cannot load")


def _pixels(function: str, image: Image) -> Tensor:
    """An image as a uint8 tensor (3, H, W) on the CPU."""
    if not isinstance(image, Tensor):
        return read_image(image, None)
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
        raise ValueError(
            f"{function}: an image must be a file or uint8 [3, H, W], "
            f"got {list(image.shape)} {image.dtype}"
        )
    return image.cpu()


def _label(image: Image) -> str:
    """The image's name in messages."""
    return "the image" if isinstance(image, Tensor) else str(image)


def _check_points(
    function: str, name: str, points: Tensor, count: int, several: bool = False
) -> None:
    shape = f"[{count}, 2]" + (f" or [N, {count}, 2]" if several else "")
    if (
        points.ndim not in ((2, 3) if several else (2,))
        or tuple(points.shape[-2:]) != (count, 2)
        or not points.is_floating_point()
    ):
        raise ValueError(
            f"{function}: {name} must be floating point {shape}, "
            f"got {list(points.shape)} {points.dtype}"
        )
