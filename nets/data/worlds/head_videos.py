"""The demo world of heads as videos of people: one person and one light a video, any pose."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nets.data.faces import normalised_pose
from nets.data.worlds import heads
from nets.data.worlds.counted import uniform

FIRST = {"train": 0, "test": 1 << 32}  # first identity of a phase
LENGTH = {"train": 2000, "test": 64}
AZIMUTH, ELEVATION, LIGHT = 0.9, 0.3, 0.8  # radians, to both sides


class HeadVideos:
    """An endless supply of heads in the form of `nets.data.avatars`: item `index` is a video of
    one identity under one light, its frames' poses are drawn from (seed, epoch, index).

    Samples also hold identity (1,), light (1,), source_angles (n, 2) and target_angles (t, 2),
    azimuth and elevation in radians, of which `truth` makes the picture of any other pose.
    The phases share no identity. Frames of phase test are the same in every epoch.
    """

    name = "heads"
    shuffle = True

    def __init__(
        self,
        phase: str = "train",
        size: int = 64,  # side of the pictures, pixels
        sources: int = 1,
        targets: int = 1,
        masks: bool = True,
        seed: int = 0,
        length: int = 0,  # videos; 0: 2000 to train, 64 to test
    ):
        self.phase, self.size, self.seed = phase, size, seed
        self.sources, self.targets, self.masks = sources, targets, masks
        self.length = length or LENGTH[phase]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Tensor]:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[tuple[int, int]]) -> list[dict[str, Tensor]]:
        many = self.sources + self.targets
        index = torch.tensor([index for _, index in places])
        identity = index + FIRST[self.phase]
        light = (uniform(self.seed, "video light", identity, 1)[:, 0] * 2 - 1) * LIGHT
        angles = torch.stack([self._angles(epoch, i, many) for epoch, i in places])
        each = (v.repeat_interleave(many) for v in (identity, light))
        frames = self.truth(*each, angles.flatten(0, 1))
        pose = normalised_pose(frames["points"], self.size).unflatten(0, (-1, many))
        image = frames["image"].unflatten(0, (-1, many))
        mask = (frames["mask"][:, None].to(torch.uint8) * 255).unflatten(0, (-1, many))
        samples = []
        for i in range(len(places)):
            sample: dict[str, Any] = {"indices": index[i : i + 1], "identity": identity[i : i + 1]}
            sample["light"] = light[i : i + 1].float()
            roles = {"source": slice(0, self.sources), "target": slice(self.sources, None)}
            for role, part in roles.items():
                if role == "source" and not self.sources:
                    continue
                sample[f"{role}_imgs"] = image[i, part]
                sample[f"{role}_poses"] = pose[i, part]
                sample[f"{role}_angles"] = angles[i, part].float()
                if self.masks:
                    sample[f"{role}_segs"] = mask[i, part]
            samples.append(sample)
        return samples

    def _angles(self, epoch: int, index: int, many: int) -> Tensor:
        drawn = np.random.default_rng([self.seed, epoch if self.phase == "train" else 0, index])
        at = torch.from_numpy(drawn.random((many, 2)) * 2 - 1)
        return at * torch.tensor([AZIMUTH, ELEVATION], dtype=at.dtype)

    def truth(self, identity: Tensor, light: Tensor, angles: Tensor) -> dict[str, Tensor]:
        """Pictures of identities (N,) int64 under a light (N,), at angles (N, 2), radians:
        image (N, 3, S, S) uint8, mask (N, S, S) bool, points (N, 68, 2) pixels.
        """
        azimuth, elevation = angles.double().unbind(1)
        return heads.render(
            heads.identities(identity), azimuth, elevation, light.double(), self.size, colour=True
        )


def write_videos(
    root: str | Path, phase: str, videos: int, frames: int, size: int, seed: int = 0
) -> None:
    """Write a dataset folder: `videos` identities with one video of `frames` frames each."""
    from nets.data.avatars import write_frame
    from nets.data.faces import pose_points

    world = HeadVideos(phase, size, sources=0, targets=frames, seed=seed, length=videos)
    for index in range(videos):
        sample = world[0, index]
        points = pose_points(sample["target_poses"], size)
        for i in range(frames):
            name = f"id{index:05d}/video/00000/{i}"
            picture, mask = sample["target_imgs"][i], sample["target_segs"][i]
            write_frame(root, phase, name, picture, points[i], mask)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the dataset's folder")
    parser.add_argument("--videos", type=int, default=8, help="people to train on; 1/4 to test")
    parser.add_argument("--frames", type=int, default=8, help="frames a video")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures, pixels")
    args = parser.parse_args()
    write_videos(args.out, "train", args.videos, args.frames, args.size)
    write_videos(args.out, "test", max(1, args.videos // 4), args.frames, args.size)
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
