"""The data sets of the landmarks system, and the images that the networks take from a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nets.contracts import Batch, Dataset, PeopleDataset, Place, Sample
from nets.data.clips import augment
from nets.data.clips.bbc_pose import BBCPose
from nets.data.clips.clips import Clips, Folders, Stills
from nets.data.subset import First
from nets.errors import UserError
from nets.layers import signed
from nets.run.ranks import Ranks


def open_data(options: Mapping[str, Any], ranks: Ranks) -> tuple[PeopleDataset, PeopleDataset]:
    """The frames to train on and those to validate on. All ranks must call it together."""

    def both() -> tuple[PeopleDataset, PeopleDataset]:
        train = open_clips(options, "train", options["use_temporal"])
        return train, open_clips(options, "val", options["val_partner"] == "temporal")

    ranks.on_main(lambda: both() and None)  # one rank decodes videos, then the others read them
    return both()


def open_clips(options: Mapping[str, Any], split: str, pairs: bool) -> PeopleDataset:
    """The dataset of a run's options; without a dataset, the demo world of clips.

    split    "train" or "val"; the latter is in `val_path`, or in the same folder, for clips and
             images
    pairs    add another frame of the clip to each sample, its partner
    returns  a dataset whose samples have frame (3, S, S) uint8; index; draw, a number unique to
             sample and epoch; with `pairs` partner, as frame; and joints (J, 2) in pixels unless
             `joint_order` is empty
    Raises UserError if a folder or file is missing or unusable.
    """
    kind, path = options["dataset"], options["data"]
    size, seed, fraction = options["image_size"], options["seed"], options["val_frac"]
    if split == "val" and kind in ("clips", "images"):
        path = options["val_path"] or path
    data: PeopleDataset
    if not kind:
        from nets.worlds.clips import ClipsWorld

        data = ClipsWorld("train" if split == "train" else "test", size, pairs=pairs)
        return data if split == "train" else share(data, fraction)
    if kind == "bbc_pose":
        strict = options["on_bad_sample"] == "fail"
        part = fraction if split == "val" else 1.0
        return _clips(BBCPose(path, split, part, strict), size, seed, pairs)
    if kind == "images":
        data = _clips(Stills(path), size, seed, pairs)
    else:
        data = open_folders(options, path, split == "val", pairs)
    return data if split == "train" else share(data, fraction)


def open_folders(
    options: Mapping[str, Any], path: str | Path, held_out: bool, pairs: bool
) -> Clips:
    """The clips of a folder: all, or with `hold_out` the held-out ones or the others.

    Raises UserError if a pattern of `hold_out` matches no clip, or all of them match.
    """
    patterns = options.get("hold_out") or []
    size, cache = options["image_size"], options["frame_cache"]
    if not patterns:
        return _clips(Folders(path, size, cache, pairs), size, options["seed"], pairs)
    seen: set[str] = set()
    used: list[str] = []

    def chosen(name: str) -> bool:
        matching = [pattern for pattern in patterns if fnmatch(name, pattern)]
        seen.update(matching)
        if bool(matching) == held_out:
            used.append(name)
        return bool(matching) == held_out

    source = Folders(path, size, cache, pairs, chosen)
    for pattern in patterns:
        if pattern not in seen:
            raise UserError(f"--hold_out {pattern}: no clip of {path} has such a name")
    if not used:
        raise UserError(f"--hold_out {' '.join(patterns)}: leaves no clip of {path} to train on")
    return _clips(source, size, options["seed"], pairs)


class Every(First):
    """At most `length` samples of a dataset, evenly spread, with all attributes of the dataset."""

    joint_order: tuple[str, ...]  # the dataset's

    def __init__(self, dataset: Dataset, length: int):
        super().__init__(dataset, min(len(dataset), length))

    def __getitem__(self, place: Place) -> Sample:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[Place]) -> list[Sample]:
        inner = [(epoch, i * len(self.dataset) // self.length) for epoch, i in places]
        if hasattr(self.dataset, "__getitems__"):
            return self.dataset.__getitems__(inner)
        return [self.dataset[place] for place in inner]


def share(dataset: PeopleDataset, part: float) -> Every:
    """A part of a dataset's samples, in (0, 1], but at least 16 of them, or all."""
    return Every(dataset, max(16, int(len(dataset) * part)))


class Images(NamedTuple):
    """The input of a step; images are (N, 3, S, S) float32 in [-1, 1]."""

    pose: Tensor  # the frame, with changed colours
    appearance: Tensor  # another frame, or a warp of the frame
    target: Tensor  # the frame
    joints: Tensor | None  # (N, J, 2) pixels of the target, not used in training; None: unknown


class LandmarkInputs:
    """Converts batches of uint8 frames to pose, appearance and target, on their device.

    options      a run's options; random numbers depend on the seed and each sample's `draw`
    joint_order  names of the joints, which mirroring needs; empty without joints
    """

    def __init__(self, options: Mapping[str, Any], joint_order: Sequence[str] = ()):
        self.options, self.seed, self.joint_order = options, options["seed"], joint_order
        self.warps = augment.Warps(
            options["image_size"],
            rot=(options["rot_lb"], options["rot_ub"]),
            scale=(options["scale_lb"], options["scale_ub"]),
            trans=(options["trans_lb"], options["trans_ub"]),
            mode=options["tps"],
        )

    @torch.no_grad()
    def __call__(self, batch: Batch, temporal: bool, warped: bool) -> Images:
        """The images of a batch of an `open_clips` dataset.

        temporal, warped  sources of the appearance: the partner, a warp of the frame. With both,
                          the result is twice as large: all poses with the warps, then all poses
                          with the partners
        Raises UserError if neither gives an appearance.
        """
        frame, draw = batch["frame"], batch["draw"]
        partner, joints = batch.get("partner") if temporal else None, batch.get("joints")
        if self.options["flip_probability"]:
            flipped = augment.flips(self.seed, draw, self.options["flip_probability"])
            frame = augment.flip_images(frame, flipped)
            partner = None if partner is None else augment.flip_images(partner, flipped)
            if joints is not None:
                size = frame.shape[-1]
                joints = augment.flip_joints(joints, flipped, size, self.joint_order)
        pose = frame
        if self.options["color_jitter"]:
            pose = augment.colour_jitter(frame, *augment.jitter_draws(self.seed, draw))
        plain = signed(frame)
        target = signed(pose) if self.options["color_jitter_targets"] else plain
        appearances = [self.warps(plain, self.seed, draw)] if warped else []
        appearances += [] if partner is None else [signed(partner)]
        if not appearances:
            raise UserError("the batch has no other frames; --use_warped works without them")
        count = len(appearances)
        pose, target = (x.repeat(count, 1, 1, 1) for x in (signed(pose), target))
        joints = None if joints is None else joints.repeat(count, 1, 1)
        return Images(pose, torch.cat(appearances), target, joints)


def _clips(source: BBCPose | Folders | Stills, size: int, seed: int, pairs: bool) -> Clips:
    # `ClipSource.counts` can be assigned to, so mypy accepts no narrower type than its own.
    return Clips(source, size, seed, pairs)  # type: ignore[arg-type]
