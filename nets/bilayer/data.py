"""The dataset of a run, and the networks' inputs from its batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nets.data.heads.faces import pose_points
from nets.data.heads.videos import AvatarFolder, AvatarList
from nets.errors import UserError
from nets.layers import signed
from nets.ops import draw_skeleton
from nets.skeletons import FACE_68
from nets.worlds.heads.videos import HeadVideos

Avatars = AvatarFolder | AvatarList | HeadVideos  # the datasets that this system takes


def prepare(batch: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """The networks' inputs from a batch, float32, on the batch's device.

    source_imgs, target_imgs          (b, n, 3, S, S) in [-1, 1]
    source_poses, target_poses        (b, n, 136) in [-1, 1]
    source_segs, target_segs          (b, n, 1, S, S) in [0, 1], if the batch has masks
    source_stickmen, target_stickmen  (b, n, 3, S, S) in [-1, 1], with output_stickmen
    Entries that the batch lacks are absent.
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
    """The stick figures of poses, (..., 3, size, size) float32 in [-1, 1].

    poses      (..., 136) in [-1, 1]
    thickness  width of the lines, pixels
    The background is 1 of 255, which is -0.992, as in the training of the published weights.
    """
    points = pose_points(poses, size)
    style = FACE_68._replace(thickness=lambda _: thickness)
    drawn = draw_skeleton(points.flatten(0, -3), style, size)
    return signed(drawn).unflatten(0, poses.shape[:-1])


def open_avatars(options: Mapping[str, Any], phase: str, with_names: bool = False) -> Avatars:
    """The dataset of a run's options: the folder `data`, a list of files, or the demo world.

    phase       "train" or "test"
    with_names  samples also hold "files", see `sample_lines`
    returns     a dataset of samples: source_imgs (n, 3, S, S) uint8, source_poses (n, 136) float32
                in [-1, 1], source_segs (n, 1, S, S) uint8 (with output_segmentation), the same
                three of t targets, and indices (1,) int64. With n = 0 sources are absent.
                Its attribute `shuffle` says whether an epoch is a permutation.
    Raises UserError if the data are missing or not usable.
    """
    settings = {
        "size": options["image_size"],
        "sources": options["num_source_frames"],
        "targets": options["num_target_frames"],
        "keypoints": options["num_keypoints"],
        "masks": options["output_segmentation"],
    }
    if options["dataset_load_from_txt"]:
        file = options[f"{phase}_load_from_filename"]
        return AvatarList(file, phase, options["data"], with_names=with_names, **settings)
    if options["data"]:
        paper, seed = options["frame_num_from_paper"], options["seed"]
        folder = {"paper": paper, "seed": seed, "with_names": with_names, **settings}
        return AvatarFolder(options["data"], phase, **folder)
    if options["num_keypoints"] != 68:
        raise UserError("num_keypoints: the demo world of heads has 68 points; give --data")
    settings.pop("keypoints")
    return HeadVideos(phase, seed=options["seed"], length=options["demo_" + phase], **settings)
