"""Images of people with joints, wherever they come from; reconstructions of them as a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nets import ops, skeletons
from nets.data.subset import First
from nets.errors import UserError
from nets.layers import signed


def open_people(options: Mapping[str, Any], split: str, length: int = 0, world: int = 0):
    """The dataset that a run's options describe: `data`, or without it the demo world.

    split    "train" or "test"
    length   the first so many samples; 0: all
    world    seed of the demo world: another one has other people, poses and backgrounds
    returns  a dataset: len(), [(epoch, index)] -> {"target", "joints", "index", ...}, `joint_order`
    Raises UserError where there is nothing, or nothing usable.
    """
    size, seed, pairing = options["image_size"], options["seed"], options["pairing"]
    path = options["data"]
    if path and not Path(path).is_dir():
        from nets.data.people.index import IndexDataset

        fit = options["fit"] == "letterbox"
        data = IndexDataset(path, split, size, pairing, seed, letterbox=fit)
    elif path:
        from nets.data.people.meta import PrjotiDataset

        if options["fit"] != "squash":
            raise UserError("--fit letterbox: only for an index, not for a folder")
        data = PrjotiDataset(path, split, size, pairing, seed)
    else:
        from nets.worlds.people.world import PeopleWorld

        if size < 16:
            raise UserError(f"image_size: must be 16 or more for the demo world, got {size}")
        data = PeopleWorld(split, size, world, pairing="same" if pairing == "same" else "identity")
    return First(data, length) if 0 < length < len(data) else data


def write_images(
    generated: Iterable[tuple[Mapping[str, Any], Tensor]], folder: Path
) -> list[tuple[str, list[list[float]]]]:
    """Write images into folder/images; their names below `folder`, and their joints as an
    `index.p` has them.

    generated  batches with "index" and "joints" (N, J, 2) in pixels, and their images
               (N, 3, S, S) in [-1, 1]
    """
    from nets.data.io.images import write_image

    written = []
    for batch, images in generated:
        size = images.shape[-1]
        for index, points, image in zip(
            batch["index"].tolist(), batch["joints"].cpu(), images.float().cpu(), strict=True
        ):
            name = f"images/{index:06d}.png"
            write_image(folder / name, ((image + 1) * 127.5).round().clamp(0, 255).byte())
            written.append((name, (points / size).nan_to_num(-1.0).tolist()))
    return written


def write_images_index(
    joint_order: Iterable[str], written: Iterable[tuple[str, list[list[float]]]], folder: Path
) -> None:
    """Write the `index.p` of what `write_images` wrote: a dataset with a test split only."""
    from nets.data.people.index import write_index

    written = sorted(written)
    names, joints = [name for name, _ in written], [points for _, points in written]
    write_index(folder / "index.p", list(joint_order), names, joints, [False] * len(names))


class PersonInputs:
    """Turns batches of uint8 images (N, 3, S, S) and joints (N, J, 2), in pixels of those
    images, into what the network takes, on their device.

    joint_order  names along the second axis of the joints that come in
    options      a run's options: image_size, box_factor, appearance, stickman, missing_part
    """

    def __init__(self, options: Mapping[str, Any], joint_order: Sequence[str]):
        self.size = options["image_size"]
        self.box_factor = options["box_factor"]
        self.crops = options["appearance"] == "crops"
        self.style = options["stickman"]
        self.fill = options["missing_part"]
        self.joint_order = joint_order

    def __call__(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Pose and appearance of a batch of a dataset: "target" and "joints", and "appearance" and
        "appearance_joints" where the appearance comes from another image.
        """
        image, joints = self.source(batch)
        return self.pose(batch["joints"]), self.appearance(image, joints)

    @staticmethod
    def source(batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Image and joints that the appearance of a batch comes from."""
        if "appearance" in batch:
            return batch["appearance"], batch["appearance_joints"]
        return batch["target"], batch["joints"]

    @torch.no_grad()
    def pose(self, joints: Tensor) -> Tensor:
        """The stick figures: (N, J, 2) -> (N, 3, S, S)."""
        return signed(skeletons.stickman(joints, self.size, self.style, self.joint_order))

    @torch.no_grad()
    def appearance(self, image: Tensor, joints: Tensor) -> Tensor:
        """The 8 body-part crops (N, 24, s, s), s = S / 2^box_factor, or the image itself.

        image  uint8 (N, 3, S, S); joints say where the parts are and are not needed otherwise
        """
        image = signed(image)
        if not self.crops:
            return image
        joints = skeletons.convert_joints(joints, self.joint_order, skeletons.JOINTS_15)
        where = skeletons.part_homographies(joints, self.size, self.box_factor)
        side = self.size >> self.box_factor
        return ops.perspective_crops(image, where, (side, side), fill=self.fill).flatten(1, 2)
