"""Pictures and joints as VUNet takes them: drawn poses, body-part crops, values in [-1, 1]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nets import ops, skeletons
from nets.layers import signed


class Inputs:
    """Turns batches of uint8 pictures (N, 3, S, S) and joints (N, J, 2), in pixels of those
    pictures, into what the network takes, on their device.

    joint_order  names along the second axis of the joints that come in
    options      a run's options: spatial_size, box_factor, appearance, stickman, missing_part
    """

    def __init__(self, options: Mapping[str, Any], joint_order: Sequence[str]):
        self.size = options["spatial_size"]
        self.box_factor = options["box_factor"]
        self.crops = options["appearance"] == "crops"
        self.style = options["stickman"]
        self.fill = options["missing_part"]
        self.joint_order = joint_order

    def __call__(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Pose and appearance of a batch of a dataset: "target" and "joints", and "appearance" and
        "appearance_joints" where the appearance comes from another picture.
        """
        picture, joints = self.source(batch)
        return self.pose(batch["joints"]), self.appearance(picture, joints)

    @staticmethod
    def source(batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Picture and joints that the appearance of a batch comes from."""
        if "appearance" in batch:
            return batch["appearance"], batch["appearance_joints"]
        return batch["target"], batch["joints"]

    @torch.no_grad()
    def pose(self, joints: Tensor) -> Tensor:
        """The stick figures: (N, J, 2) -> (N, 3, S, S)."""
        return signed(skeletons.stickman(joints, self.size, self.style, self.joint_order))

    @torch.no_grad()
    def appearance(self, picture: Tensor, joints: Tensor) -> Tensor:
        """The 8 body-part crops (N, 24, s, s), s = S / 2^box_factor, or the picture itself.

        picture  uint8 (N, 3, S, S); joints say where the parts are and are not needed otherwise
        """
        picture = signed(picture)
        if not self.crops:
            return picture
        joints = skeletons.convert_joints(joints, self.joint_order, skeletons.JOINTS_15)
        where = skeletons.part_homographies(joints, self.size, self.box_factor)
        side = self.size >> self.box_factor
        return ops.perspective_crops(picture, where, (side, side), fill=self.fill).flatten(1, 2)
