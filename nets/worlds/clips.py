"""The demo world of clips: one person who moves before one background, with all that is true of it.

Frames (columns) of clips (rows): python -m nets.worlds.clips --out clips.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nets.data.clips.clips import temporal_offset
from nets.random import uniform
from nets.skeletons import JOINTS_15
from nets.worlds.people.look import background_parameters, outfit_parameters
from nets.worlds.people.pose import POSE_FIELDS, extent, field, pose_parameters, put
from nets.worlds.people.world import SPLITS, render_backgrounds, render_parameters

FRAMES = 40  # of a clip
KEYS = 5  # poses that a person takes in a clip, one every _STEP frames
_STEP = FRAMES // (KEYS - 1)
_BODY = ("head", "torso", "arm", "leg", "shoulders", "hips")  # stays the same through a clip


def poses(seed: int, clip: Tensor, frame: Tensor) -> Tensor:
    """Poses of the people world, (N, len(POSE_FIELDS)), in frames of clips; (N,) int64 both.

    A person passes through KEYS poses drawn for the clip and never changes size; each stands where
    there is room for it, and so does what lies between two of them.
    """
    key = (clip[:, None] * KEYS + torch.arange(KEYS, device=clip.device)).flatten()
    pose = pose_parameters(seed, key)
    body = [POSE_FIELDS.index(name) for name in _BODY]
    pose[:, body] = pose[::KEYS, body].repeat_interleave(KEYS, 0)
    low, high = extent(pose)
    fit = torch.minimum(field(pose, "scale"), 0.96 / (high - low).amax(1))
    fit = fit.reshape(-1, KEYS).amin(1)
    place = 0.05 + 0.9 * uniform(seed, "clip place", key, 2)
    pose = put(pose, fit.repeat_interleave(KEYS), place, low, high)
    pose = pose.reshape(len(clip), KEYS, -1)
    at = (frame // _STEP)[:, None, None].expand(-1, 1, pose.shape[-1])
    share = (frame % _STEP).double()[:, None] / _STEP
    share = share * share * (3 - 2 * share)  # it comes to rest in each pose
    pose = torch.lerp(pose.gather(1, at)[:, 0], pose.gather(1, at + 1)[:, 0], share)
    low, high = extent(pose)
    scale = torch.minimum(field(pose, "scale"), 0.99 / (high - low).amax(1))
    room = 1 - (high - low) * scale[:, None]
    corner = torch.stack([field(pose, "x"), field(pose, "y")], 1) + low * scale[:, None]
    return put(pose, scale, (corner / room.clamp(min=1e-6)).clamp(0, 1), low, high)


def render(
    clip: Tensor, frame: Tensor, size: int, seed: int = 0, background: bool = False
) -> dict[str, Tensor]:
    """Frames of clips, the same on every call.

    clip, frame  (N,) int64, 0 or more and 0 to FRAMES - 1; size in pixels, 16 or more
    returns  image (N, 3, size, size) uint8, mask (N, size, size) bool (the person), joints
             (N, 15, 2) float32, pixels in the order of JOINTS_15; and with `background` the
             image without the person, background (N, 3, size, size) uint8
    """
    behind = background_parameters(seed, clip)
    made = render_parameters(
        outfit_parameters(seed, clip), poses(seed, clip, frame), behind, size, seed
    )
    if background:
        made["background"] = render_backgrounds(behind, size, seed)
    return made


class ClipsWorld:
    """An endless supply of people who move, as a dataset of clips of FRAMES frames.

    The splits share no person, no pose and no background. [(epoch, index)] is frame index % FRAMES
    of clip index // FRAMES: frame (3, S, S) uint8, joints (15, 2) float32 in pixels, index, draw
    (a number that no other sample of any epoch has); with `pairs` partner (3, S, S), another frame
    of the clip drawn from (seed, epoch, index); with `truth` mask (S, S) and background (3, S, S).
    """

    name = "clips world"
    joint_order = JOINTS_15

    def __init__(
        self,
        split: str = "train",  # "train" or "test"
        size: int = 128,  # side of the images, in pixels
        seed: int = 0,  # of everything
        clips: int | None = None,  # default: 2000 to train, 50 to test
        pairs: bool = False,
        truth: bool = False,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"ClipsWorld: split must be one of train, test, got {split!r}")
        self.split, self.size, self.seed, self.pairs, self.truth = split, size, seed, pairs, truth
        self.clips = clips if clips is not None else (2000 if split == "train" else 50)
        if self.clips < 1:
            raise ValueError(f"ClipsWorld: clips must be 1 or more, got {self.clips}")

    def __len__(self) -> int:
        return self.clips * FRAMES

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any]:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        epoch, index = torch.tensor(places, dtype=torch.int64).reshape(-1, 2).unbind(1)
        if ((index < 0) | (index >= len(self))).any():
            raise IndexError(
                f"ClipsWorld: index must be 0 to {len(self) - 1}, got {index.tolist()}"
            )
        n, draw = len(index), epoch * len(self) + index
        clip, frame = index // FRAMES + SPLITS[self.split], index % FRAMES
        clips, frames = clip, frame
        if self.pairs:
            drawn = uniform(self.seed, "partner", draw, 1)[:, 0]
            other = frame + temporal_offset(torch.full_like(frame, FRAMES), frame, drawn)
            clips, frames = clip.repeat(2), torch.cat([frame, other])
        made = render(clips, frames, self.size, self.seed)
        samples = {"frame": made["image"][:n], "joints": made["joints"][:n]}
        samples |= {"index": index, "draw": draw}
        if self.pairs:
            samples["partner"] = made["image"][n:]
        if self.truth:
            samples["mask"] = made["mask"][:n]
            behind = background_parameters(self.seed, clip)
            samples["background"] = render_backgrounds(behind, self.size, self.seed)
        return [{name: values[i] for name, values in samples.items()} for i in range(n)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a sheet of frames (columns) of clips.")
    parser.add_argument("--out", default="clips.png", help="the image to write")
    parser.add_argument("--clips", type=int, default=4, help="rows")
    parser.add_argument("--size", type=int, default=128, help="pixels a side of one image")
    parser.add_argument("--seed", type=int, default=0, help="another world")
    args = parser.parse_args()
    from PIL import Image  # only the sheet needs it

    frame = torch.arange(0, FRAMES, 5)
    clip = torch.arange(args.clips).repeat_interleave(len(frame))
    made = render(clip, frame.repeat(args.clips), args.size, args.seed, background=True)
    made["image"][:: len(frame)] = made["background"][:: len(frame)]
    rows = made["image"].reshape(args.clips, len(frame), 3, args.size, args.size)
    sheet = rows.permute(0, 3, 1, 4, 2).reshape(args.clips * args.size, -1, 3)
    Image.fromarray(sheet.numpy()).save(args.out, optimize=True)
    print(f"{args.out}: backgrounds, and every fifth frame, of {args.clips} clips")


if __name__ == "__main__":
    main()
