"""Datasets of people, the inputs of the network, and reconstructions written as a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeGuard

import numpy as np
import torch
from torch import Tensor

from nets import ops, skeletons
from nets.contracts import Batch, PeopleDataset
from nets.data.clips import augment
from nets.data.people.own import OwnDataset, is_own
from nets.data.subset import First
from nets.errors import UserError
from nets.layers import signed


class DemoWorld(PeopleDataset, Protocol):
    """A dataset that can render the ground truth of a transfer."""

    split: str  # "train" or "test"
    outfits: int  # number of outfits in the split

    def transfer_truth(self, outfit: Tensor, pose: Tensor, background: Tensor) -> dict[str, Tensor]:
        """Image (N, 3, S, S) uint8 and mask (N, S, S) bool, from ids (N,) int64 on the CPU."""


def has_truth(data: PeopleDataset) -> TypeGuard[DemoWorld]:
    """True if the dataset is the demo world, which knows the ground truth of a transfer."""
    return hasattr(data, "transfer_truth")


def open_people(
    options: Mapping[str, Any], split: str, length: int = 0, world: int = 0
) -> PeopleDataset:
    """The dataset that a run's options describe: `data`, or the demo world without it.

    split    "train" or "test"
    length   number of samples, the first ones; 0: all
    world    seed of the demo world; each seed has its own people, poses and backgrounds
    returns  a dataset of samples {"target", "joints", "index", ...}, with "appearance" and
             "appearance_joints" unless the pairing is "same", and "stickman" if a class gives it
    Raises UserError if there is no usable data.
    """
    size, seed, pairing = options["image_size"], options["seed"], options["pairing"]
    path, alpha = options["data"], options.get("img_channels", 3) == 4
    letterbox = options["fit"] == "letterbox"
    folds, fold = options.get("folds", 0), options.get("fold", 0)
    if folds and (not path or is_own(path) or Path(path).is_dir()):
        raise UserError("--folds: works with an index; others have their own split")
    data: PeopleDataset
    if path and is_own(path):
        if letterbox:
            raise UserError("--fit letterbox: works with an index, not with a class")
        crops, channels = options["appearance"] == "crops", options.get("pose_channels", 3)
        data = OwnDataset(path, split, size, pairing, seed, channels, crops)
    elif path and Path(path).suffix == ".py":
        raise UserError(f"--data {path}: which class of it? {path}:CLASS names one")
    elif path and not Path(path).is_dir():
        from nets.data.people.index import IndexDataset

        data = IndexDataset(path, split, size, pairing, seed, letterbox, alpha, folds, fold)
    elif path:
        from nets.data.people.meta import PrjotiDataset

        if letterbox:
            raise UserError("--fit letterbox: works with an index, not with a folder")
        data = PrjotiDataset(path, split, size, pairing, seed, alpha)
    else:
        from nets.worlds.people.world import PeopleWorld

        if size < 16:
            raise UserError(f"image_size: must be at least 16 for the demo world, got {size}")
        data = PeopleWorld(split, size, world, pairing="same" if pairing == "same" else "identity")
    return First(data, length) if 0 < length < len(data) else data


# Name of an image relative to the folder of its index, and its joints (J, 2) as fractions of the
# image's side, -1 if missing.
Entry = tuple[str, list[list[float]]]


def write_images(generated: Iterable[tuple[Batch, Tensor]], folder: Path) -> list[Entry]:
    """Write images into folder/images and return their entries of an index.

    generated  batches with "index" and "joints" (N, J, 2) in pixels, and the images (N, 3, S, S)
               in [-1, 1] that were generated from them
    """
    from nets.data.io.images import write_image

    entries = []
    for batch, images in generated:
        size = images.shape[-1]
        for index, points, image in zip(
            batch["index"].tolist(), batch["joints"].cpu(), images.float().cpu(), strict=True
        ):
            name = f"images/{index:06d}.png"
            write_image(folder / name, ((image + 1) * 127.5).round().clamp(0, 255).byte())
            entries.append((name, (points / size).nan_to_num(-1.0).tolist()))
    return entries


def write_images_index(joint_order: Iterable[str], entries: Iterable[Entry], folder: Path) -> None:
    """Write folder/index.p, which lists the entries of `write_images` as a test split."""
    from nets.data.people.index import write_index

    entries = sorted(entries)
    names = [name for name, _ in entries]
    joints = np.array([points for _, points in entries], np.float32)
    write_index(folder / "index.p", list(joint_order), names, joints, [False] * len(names))


SIGMA = 1 / 64  # standard deviation of a joint's heatmap, as a fraction of the image's side


def joint_heatmaps(joints: Tensor, size: int, order: Sequence[str]) -> Tensor:
    """One heatmap a joint, (N, 18, S, S) in [-1, 1], in the order of OPENPOSE_18.

    joints  (N, len(order), 2) pixels; missing: negative or NaN
    A map is a Gaussian, 1 at its joint. The map of a missing joint is -1 everywhere.
    """
    joints = skeletons.convert_joints(joints, order, skeletons.OPENPOSE_18).float()
    known = skeletons.valid_joints(joints)
    mean = torch.where(known[..., None], 2 * joints / size - 1, 0.0)
    covariance = (2 * SIGMA) ** 2 * torch.eye(2, device=joints.device)
    maps = ops.gaussian_heatmaps(mean, covariance[None, None], (size, size), "exponential")
    return 2 * maps * known[..., None, None] - 1


class PersonInputs:
    """The network's inputs, from batches of uint8 images (N, 3, S, S) and joints (N, J, 2).

    options      of a run: image_size, image_width, box_factor, appearance, stickman, missing_part,
                 img_channels, pose_channels, and those of `augmented` are used
    joint_order  names along the second axis of the joints
    Joints are in pixels of the images; missing ones are NaN. Inputs are on the batch's device.
    Images may have their opacity as a fourth channel; networks with 4 channels see it.
    """

    def __init__(self, options: Mapping[str, Any], joint_order: Sequence[str]):
        self.size = options["image_size"]
        self.width = options.get("image_width") or self.size
        self.box_factor = options["box_factor"]
        self.crops = options["appearance"] == "crops"
        self.style = options["stickman"]
        self.fill = options["missing_part"]
        self.image_channels = options.get("img_channels", 3)
        self.pose_channels = options.get("pose_channels", 3)
        self.joint_order = joint_order
        self.seed = options.get("seed", 0)
        self.flip = options.get("flip_probability", 0.0)
        self.recolour = options.get("color_jitter", False)

    @torch.no_grad()
    def augmented(self, batch: Batch, draw: Tensor) -> Batch:
        """A training batch in which each sample is mirrored and recoloured at random.

        draw  (N,) int64, a number of its own for each sample of a run; with the seed it alone
              decides about the sample
        Target and appearance of a sample change alike, so they still show one person. Which samples
        are mirrored: `flip_probability`; whether colours change: `color_jitter`. Raises UserError
        if poses that a data set draws itself would be mirrored.
        """
        result, images = dict(batch), [name for name in ("target", "appearance") if name in batch]
        if self.flip:
            if "stickman" in batch:
                raise UserError(
                    "--flip_probability: must be 0 for data that draws its poses itself"
                )
            flipped = augment.flips(self.seed, draw, self.flip)
            for name in images:
                result[name] = augment.flip_images(result[name], flipped)
                place = "joints" if name == "target" else "appearance_joints"
                points = result[place]
                result[place] = augment.flip_joints(points, flipped, self.size, self.joint_order)
            if "mask" in batch:
                result["mask"] = augment.flip_images(batch["mask"][:, None], flipped)[:, 0]
        if self.recolour:
            draws = augment.jitter_draws(self.seed, draw)
            for name in images:
                colours, opacity = result[name][:, :3], result[name][:, 3:]
                result[name] = torch.cat([augment.colour_jitter(colours, *draws), opacity], 1)
        return result

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Pose and appearance of a batch, as `poses` and `appearance` return them.

        batch  has "target" and "joints", and "appearance" and "appearance_joints" if the appearance
               comes from another image
        """
        image, joints = self.source(batch)
        return self.poses(batch), self.appearance(image, joints)

    @staticmethod
    def target(batch: Batch) -> Tensor:
        """Images (N, 3, S, S) uint8 that the network is to generate."""
        image: Tensor = batch["target"]
        return image[:, :3]

    @staticmethod
    def source(batch: Batch) -> tuple[Tensor, Tensor]:
        """Images and joints that give the appearance of a batch."""
        if "appearance" in batch:
            return batch["appearance"], batch["appearance_joints"]
        return batch["target"], batch["joints"]

    def person(self, batch: Batch) -> Tensor:
        """The pixels of the targets' people, (N, S, S) bool: the data's mask, or drawn joints."""
        if "mask" in batch:
            mask: Tensor = batch["mask"]
            return mask
        return skeletons.silhouette(batch["joints"], self.size, self.joint_order)

    def poses(self, batch: Batch) -> Tensor:
        """Poses (N, C, S, S) in [-1, 1]: the dataset's own images of them, or drawn joints."""
        if "stickman" not in batch:
            return self.pose(batch["joints"])
        own: Tensor = batch["stickman"]
        return signed(own) if own.dtype == torch.uint8 else own

    @torch.no_grad()
    def pose(self, joints: Tensor) -> Tensor:
        """Stick figures (N, 3, S, S) in [-1, 1], from joints (N, J, 2); or heatmaps (N, 18, S, S).

        Raises UserError if the network's poses have another number of channels.
        """
        if self.pose_channels == len(skeletons.OPENPOSE_18):
            return joint_heatmaps(joints, self.size, self.joint_order)
        if self.pose_channels != 3:
            raise UserError(
                f"pose_channels {self.pose_channels}: only a class of your own that gives a "
                "stickman has these poses; joints are drawn with 3 or 18 channels"
            )
        return signed(skeletons.stickman(joints, self.size, self.style, self.joint_order))

    @torch.no_grad()
    def appearance(self, image: Tensor, joints: Tensor) -> Tensor:
        """The appearance in [-1, 1]: 8 body-part crops (N, 8 C, s, s), or the image (N, C, S, S).

        With an `image_width` W, crops have the width s W / S, and of the image its middle is taken.

        image   uint8 (N, 3 or 4, S, S); without a fourth channel it is opaque
        joints  (N, J, 2), the places of the parts; ignored if the appearance is the image
        C is 3, or 4 for networks that see the opacity. Crops have side s = S / 2^box_factor.
        """
        if self.image_channels == 4 and image.shape[1] == 3:
            image = torch.cat([image, torch.full_like(image[:, :1], 255)], 1)
        image = signed(image[:, : self.image_channels])
        if not self.crops:
            border = (self.size - self.width) // 2
            return image[..., border : self.size - border]
        joints = skeletons.convert_joints(joints, self.joint_order, skeletons.JOINTS_15)
        where = skeletons.part_homographies(joints, self.size, self.box_factor)
        h, w = self.size >> self.box_factor, self.width >> self.box_factor
        where = where * where.new_tensor([h / w, 1, 1])  # all of a part in fewer columns
        return ops.perspective_crops(image, where, (h, w), fill=self.fill).flatten(1, 2)
