"""Where a run's clips come from, and what the networks see of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nets.data.clips import augment
from nets.data.clips.clips import Clips, Folders, Stills
from nets.data.subset import First
from nets.errors import UserError
from nets.layers import signed


def open_clips(options: Mapping[str, Any], split: str, pairs: bool) -> Any:
    """The dataset that a run's options describe, the demo world of clips if none is named.

    split   "train" or "val"; for clips and images the latter is val_path, or the same folder
    pairs   hand out a temporal partner with each frame
    returns a dataset: len(), [(epoch, index)] -> {"frame", "partner", "index", "draw", ...},
            `joint_order`, empty where no joints are known
    Raises UserError where there is nothing, or nothing usable.
    """
    kind, path = options["dataset"], options["data"]
    size, seed, fraction = options["image_size"], options["seed"], options["val_frac"]
    if split == "val" and kind in ("clips", "images"):
        path = options["val_path"] or path
    if not kind:
        from nets.worlds.clips import ClipsWorld

        data = ClipsWorld("train" if split == "train" else "test", size, pairs=pairs)
        return data if split == "train" else share(data, fraction)
    if kind == "bbc_pose":
        from nets.data.clips.bbc_pose import BBCPose

        strict = options["on_bad_sample"] == "fail"
        part = fraction if split == "val" else 1.0
        return Clips(BBCPose(path, split, part, strict), size, seed, pairs)
    cache = options["frame_cache"]
    source = Folders(path, size, cache, pairs) if kind == "clips" else Stills(path)
    data = Clips(source, size, seed, pairs)
    return data if split == "train" else share(data, fraction)


class Every(First):
    """At most `length` samples of a dataset, evenly spread over it, and everything else it has."""

    def __init__(self, dataset: Any, length: int):
        super().__init__(dataset, min(len(dataset), length))

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any]:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        inner = [(epoch, i * len(self.dataset) // self.length) for epoch, i in places]
        if hasattr(self.dataset, "__getitems__"):
            return self.dataset.__getitems__(inner)
        return [self.dataset[place] for place in inner]


def share(dataset: Any, part: float) -> Every:
    """A share of a dataset's samples; at least 16 of them, or all."""
    return Every(dataset, max(16, int(len(dataset) * part)))


class Images(NamedTuple):
    """What a step works on; images are (N, 3, S, S) float32 in [-1, 1]."""

    pose: Tensor  # with other colours
    appearance: Tensor  # another frame, or the same warped
    target: Tensor
    joints: (
        Tensor | None
    )  # (N, J, 2) pixels of the target where they are known; nothing learns them


class LandmarkInputs:
    """Batches of uint8 frames as pose, appearance and target, on their device.

    options  a run's options; everything is drawn from their seed and each sample's `draw`
    """

    def __init__(self, options: Mapping[str, Any], joint_order: Sequence[str] = ()):
        self.options, self.seed, self.joint_order = options, options["seed"], joint_order
        ranges = (
            (options[f"{name}_lb"], options[f"{name}_ub"]) for name in ("rot", "scale", "trans")
        )
        self.warps = augment.Warps(options["image_size"], *ranges, mode=options["tps"])

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Any], temporal: bool, warped: bool) -> Images:
        """Of a batch of a dataset of `open_clips`; with both, the batch is twice as large: each
        pose with its warped frame, then with the other frame.
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
        seen = [self.warps(plain, self.seed, draw)] if warped else []
        seen += [] if partner is None else [signed(partner)]
        if not seen:
            raise UserError("a batch without another frame needs use_warped")
        pose, target = (x.repeat(len(seen), 1, 1, 1) for x in (signed(pose), target))
        joints = None if joints is None else joints.repeat(len(seen), 1, 1)
        return Images(pose, torch.cat(seen), target, joints)
