"""The demo world of clips: one person who moves before one background, with ground truth.

Draw frames (columns) of clips (rows): python -m nets.worlds.clips --out clips.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from nets.contracts import Place, Sample
from nets.data.clips.clips import temporal_offset
from nets.random import uniform
from nets.skeletons import JOINTS_15
from nets.worlds.people.look import background_parameters, outfit_parameters
from nets.worlds.people.pose import POSE_FIELDS, extent, field, pose_parameters, put
from nets.worlds.people.world import SPLITS, render_backgrounds, render_parameters

FRAMES = 40  # per clip
KEYS = 5  # poses of a clip, one every _STEP frames; the frames between are interpolated
_STEP = FRAMES // (KEYS - 1)
_BODY = ("head", "torso", "arm", "leg", "shoulders", "hips")  # constant in a clip


def poses(seed: int, clip: Tensor, frame: Tensor) -> Tensor:
    """Poses of clips' frames, (N, len(POSE_FIELDS)), as in the people world.

    clip, frame  (N,) int64
    A person passes through KEYS poses drawn for the clip and keeps their size. All poses, also
    the interpolated ones, fit into the image.
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
    before = (frame // _STEP)[:, None, None].expand(-1, 1, pose.shape[-1])
    share = (frame % _STEP).double()[:, None] / _STEP
    share = share * share * (3 - 2 * share)  # the speed is 0 in each of the KEYS poses
    pose = torch.lerp(pose.gather(1, before)[:, 0], pose.gather(1, before + 1)[:, 0], share)
    low, high = extent(pose)
    scale = torch.minimum(field(pose, "scale"), 0.99 / (high - low).amax(1))
    room = 1 - (high - low) * scale[:, None]
    corner = torch.stack([field(pose, "x"), field(pose, "y")], 1) + low * scale[:, None]
    return put(pose, scale, (corner / room.clamp(min=1e-6)).clamp(0, 1), low, high)


def render(
    clip: Tensor, frame: Tensor, size: int, seed: int = 0, background: bool = False
) -> dict[str, Tensor]:
    """Frames of clips with ground truth, the same on every call.

    clip         (N,) int64, 0 or more
    frame        (N,) int64, 0 to FRAMES - 1
    size         side S in pixels, 16 or more
    background   also render the images without the person
    returns      image (N, 3, S, S) uint8; mask (N, S, S) bool, the person; joints (N, 15, 2)
                 float32, pixels in the order of JOINTS_15; with `background` also background
                 (N, 3, S, S) uint8
    """
    scenery = background_parameters(seed, clip)
    result = render_parameters(
        outfit_parameters(seed, clip), poses(seed, clip, frame), scenery, size, seed
    )
    if background:
        result["background"] = render_backgrounds(scenery, size, seed)
    return result


class ClipsWorld:
    """A dataset of clips of people who move, FRAMES frames each.

    The splits share no person, no pose and no background. The sample at (epoch, index) is frame
    index % FRAMES of clip index // FRAMES:

    frame       (3, S, S) uint8
    joints      (15, 2) float32 in pixels
    index       as given
    draw        an integer that is unique among the samples of all epochs
    partner     (3, S, S) with `pairs`: another frame of the clip, drawn from (seed, epoch, index)
    mask        (S, S) with `truth`
    background  (3, S, S) with `truth`
    """

    name = "clips world"
    joint_order = JOINTS_15

    def __init__(
        self,
        split: str = "train",  # "train" or "test"
        size: int = 128,  # side of the images, in pixels
        seed: int = 0,  # of the world
        clips: int | None = None,  # default: 2000 to train, 50 to test
        pairs: bool = False,  # add a partner to each sample
        truth: bool = False,  # add mask and background
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"ClipsWorld: split must be one of train, test, got {split!r}")
        self.split, self.size, self.seed, self.pairs, self.truth = split, size, seed, pairs, truth
        self.clips = clips if clips is not None else (2000 if split == "train" else 50)
        if self.clips < 1:
            raise ValueError(f"ClipsWorld: clips must be 1 or more, got {self.clips}")

    def __len__(self) -> int:
        return self.clips * FRAMES

    def __getitem__(self, place: Place, /) -> Sample:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[Place]) -> list[Sample]:
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
        images = render(clips, frames, self.size, self.seed)
        samples = {"frame": images["image"][:n], "joints": images["joints"][:n]}
        samples |= {"index": index, "draw": draw}
        if self.pairs:
            samples["partner"] = images["image"][n:]
        if self.truth:
            samples["mask"] = images["mask"][:n]
            scenery = background_parameters(self.seed, clip)
            samples["background"] = render_backgrounds(scenery, self.size, self.seed)
        return [{name: values[i] for name, values in samples.items()} for i in range(n)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a sheet of frames (columns) of clips.")
    parser.add_argument("--out", default="clips.png", help="the image to write")
    parser.add_argument("--clips", type=int, default=4, help="rows")
    parser.add_argument("--size", type=int, default=128, help="side of one image, pixels")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world")
    args = parser.parse_args()
    from PIL import Image  # only the sheet needs it

    frame = torch.arange(0, FRAMES, 5)
    clip = torch.arange(args.clips).repeat_interleave(len(frame))
    images = render(clip, frame.repeat(args.clips), args.size, args.seed, background=True)
    images["image"][:: len(frame)] = images["background"][:: len(frame)]
    rows = images["image"].reshape(args.clips, len(frame), 3, args.size, args.size)
    sheet = rows.permute(0, 3, 1, 4, 2).reshape(args.clips * args.size, -1, 3)
    Image.fromarray(sheet.numpy()).save(args.out, optimize=True)
    print(f"{args.out}: backgrounds and every fifth frame of {args.clips} clips")


if __name__ == "__main__":
    main()
