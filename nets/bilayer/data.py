"""The dataset of a run, and the networks' inputs from its batches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nets.contracts import Dataset, Place, Sample
from nets.data.heads.faces import pose_points
from nets.data.heads.videos import AvatarFolder, AvatarList
from nets.data.subset import First
from nets.errors import BadSample, UserError
from nets.layers import signed
from nets.ops import draw_skeleton
from nets.skeletons import FACE_68
from nets.worlds.heads.videos import HeadVideos


class FixedPairs(AvatarFolder):
    """The first frames of each video of a dataset folder, sources before targets: fixed pairs."""

    def choose(self, epoch: int, index: int) -> list[str]:
        names, many = self._usable(index), self.sources + self.targets
        if len(names) < many:
            place = self.root / "imgs" / self.phase / self.items[index]
            raise BadSample(place, f"must hold at least {many} frames, holds {len(names)}")
        return names[:many]


class Mixed:
    """Videos of one person or few, mixed with general ones: the first items are the former.

    sampled  an epoch has as many general videos as others, which are drawn from (seed, epoch,
             index); else all general videos
    """

    shuffle = True

    def __init__(self, own: AvatarFolder, general: AvatarFolder, sampled: bool):
        self.own, self.general, self.sampled = own, general, sampled
        self.root, self.name = own.root, f"{own.name} with {general.name}"

    def __len__(self) -> int:
        return len(self.own) + (len(self.own) if self.sampled else len(self.general))

    def __getitem__(self, place: Place) -> Sample:
        epoch, index = place
        if index < len(self.own):
            return self.own[place]
        other = index - len(self.own)
        if self.sampled:
            random = np.random.default_rng([self.own.seed, epoch, index])
            other = int(random.integers(len(self.general)))
        sample = {**self.general[epoch, other], "indices": torch.tensor([index])}
        if "files" in sample:  # lists name files of another folder by their whole path
            root = Path(self.general.root).absolute() / "imgs" / self.general.phase
            lines = (line.split(": ", 1) for line in sample["files"].splitlines())
            sample["files"] = "\n".join(f"{role}: {root / name}" for role, name in lines)
        return sample


Avatars = AvatarFolder | AvatarList | HeadVideos | Mixed  # the datasets that this system takes


def poses_of(data: Dataset, count: int = 512) -> Tensor:
    """The poses (N, 2 K) of up to `count` samples, evenly spaced in the first epoch.

    Samples that cannot be read are left out. Raises UserError if fewer than two poses are left.
    """
    count = min(count, len(data))
    poses = []
    for i in range(count):
        try:
            sample = data[0, i * len(data) // count]
        except BadSample:
            continue
        poses += [sample[f"{role}_poses"] for role in ("source", "target")]
    found = torch.cat(poses) if poses else torch.empty(0, 1)
    if len(found) < 2:
        raise UserError(f"{data.name}: pse_init whitened needs two poses at least")
    return found


def prepare(batch: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """The networks' inputs from a batch, float32, on the batch's device.

    source_imgs, target_imgs          (b, n, 3, S, S) in [-1, 1]
    source_poses, target_poses        (b, n, 136) in [-1, 1]
    source_segs, target_segs          (b, n, 1, S, S) in [0, 1], if the batch has masks
    source_stickmen, target_stickmen  (b, n, 3, S, S) in [-1, 1], with output_stickmen
    source_background                 (b, 3, S, S) in [-1, 1], with use_source_background: the first
                                      source, -1 where its mask is
    Entries that the batch lacks are absent. With mask_source_and_target, images are -1 outside of
    their masks. Raises UserError if it needs masks that the batch lacks.
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
    if options.get("use_source_background") and "source_imgs" in data:
        behind = data["source_imgs"][:, 0]
        if "source_segs" in data:
            mask = data["source_segs"][:, 0]
            behind = behind * (1 - mask) - mask
        data["source_background"] = behind
    if options.get("mask_source_and_target"):
        for role in ("source", "target"):
            if f"{role}_imgs" in data and f"{role}_segs" in data:
                mask = data[f"{role}_segs"]
                data[f"{role}_imgs"] = data[f"{role}_imgs"] * mask - (1 - mask)
            elif role == "source":  # a driving image needs none: no network reads it
                raise UserError("mask_source_and_target: the source has no mask")
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

    phase       "train" or "test"; for a folder also "unseen_test", other persons, and "metrics",
                fixed pairs
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
    if options["dataset_load_from_txt"] and phase in ("train", "test"):
        file = options[f"{phase}_load_from_filename"]
        return AvatarList(file, phase, options["data"], with_names=with_names, **settings)
    if options["data"]:
        paper, seed = options["frame_num_from_paper"], options["seed"]
        folder = {"paper": paper, "seed": seed, "with_names": with_names, **settings}
        if phase == "metrics":
            return FixedPairs(options.get("metrics_root") or options["data"], phase, **folder)
        own = AvatarFolder(options["data"], phase, **folder)
        if phase == "train" and options.get("augment_with_general"):
            general = AvatarFolder(options["general_data_root"], phase, **folder)
            return Mixed(own, general, options["sample_general_dataset"])
        return own
    if options["num_keypoints"] != 68:
        raise UserError("num_keypoints: the demo world of heads has 68 points; give --data")
    settings.pop("keypoints")
    return HeadVideos(phase, seed=options["seed"], length=options["demo_" + phase], **settings)


def further_tests(options: Mapping[str, Any]) -> dict[str, Dataset]:
    """The datasets of the phases unseen_test and metrics that a run has, by phase.

    Raises UserError if metrics_root is given and unusable.
    """
    root = options["data"]
    result: dict[str, Dataset] = {}
    if not root:
        return {}
    if not options["skip_test"] and (Path(root) / "imgs" / "unseen_test").is_dir():
        result["unseen_test"] = open_avatars(options, "unseen_test")
    there = options["metrics_root"] or (Path(root) / "imgs" / "metrics").is_dir()
    if there and not options["skip_metrics"]:
        pairs = open_avatars(options, "metrics")
        count = min(options["num_metrics_images"] or len(pairs), len(pairs))
        result["metrics"] = First(pairs, count)
    return result
