"""From a batch as the workers hand it over to what the networks see: on the device, batched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nets.data.faces import pose_points
from nets.layers import signed
from nets.ops import draw_skeleton
from nets.skeletons import FACE_68


def prepare(batch: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """The networks' data dictionary, on the device of the batch, float32:

    source_imgs, target_imgs          (b, n, 3, S, S) in [-1, 1]
    source_poses, target_poses        (b, n, 136) in [-1, 1]
    source_segs, target_segs          (b, n, 1, S, S) in [0, 1], where the batch has masks
    source_stickmen, target_stickmen  (b, n, 3, S, S) in [-1, 1], with output_stickmen
    Roles that the batch lacks are absent.
    """
    data = {}
    for role in ("source", "target"):
        if f"{role}_poses" not in batch:
            continue
        poses = data[f"{role}_poses"] = batch[f"{role}_poses"]
        if f"{role}_imgs" in batch:
            data[f"{role}_imgs"] = signed(batch[f"{role}_imgs"])
        if f"{role}_segs" in batch:
            data[f"{role}_segs"] = batch[f"{role}_segs"].float() / 255
        if options["output_stickmen"]:
            size, thickness = options["image_size"], options["stickmen_thickness"]
            data[f"{role}_stickmen"] = stickmen(poses, size, thickness)
    if "indices" in batch:
        data["indices"] = batch["indices"]
    return data


def stickmen(poses: Tensor, size: int, thickness: int = 2) -> Tensor:
    """Stick figures of poses (..., 136) in [-1, 1]: (..., 3, size, size), float32 in [-1, 1].

    The background is 1/255, that is -0.992, as published weights know it.
    """
    points = pose_points(poses, size)
    style = FACE_68._replace(thickness=lambda _: thickness)
    drawn = draw_skeleton(points.flatten(0, -3), style, size)
    return signed(drawn).unflatten(0, poses.shape[:-1])
