"""The demo world of people: images, joints and masks of any outfit in any pose.

Draw outfits (columns) in poses (rows): python -m nets.worlds.people.world --out people.png
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from nets.contracts import Place, Sample
from nets.random import uniform
from nets.skeletons import JOINTS_15
from nets.worlds import shapes
from nets.worlds.people.backdrop import add_grain, colour_field, objects
from nets.worlds.people.body import figure
from nets.worlds.people.look import background_parameters, outfit_parameters
from nets.worlds.people.pose import pose_parameters

_AT_ONCE = 1 << 17  # pixels per pass; intermediate results then stay in the processor's caches
_KEPT = 1 << 15  # largest count of outfits or poses whose numbers are cached
SPLITS = {"train": 0, "test": 1 << 32}  # first id of a split's outfits, poses and backgrounds


def render(
    outfit: Tensor, pose: Tensor, background: Tensor, size: int, seed: int = 0
) -> dict[str, Tensor]:
    """Images of people with ground truth, the same on every call.

    outfit, pose, background  (N,) int64, ids, 0 or more
    size     side S of the images in pixels, 16 or more
    returns  image (N, 3, S, S) uint8; mask (N, S, S) bool, the person; joints (N, 15, 2) float32,
             pixels in the order of JOINTS_15, all inside the image
    The joints depend on the pose alone. Raises ValueError for ids of another shape or type.
    """
    for name, ids in (("outfit", outfit), ("pose", pose), ("background", background)):
        if ids.ndim != 1 or ids.dtype != torch.int64 or ids.shape != pose.shape:
            raise ValueError(
                f"render: {name} must be an (N,) int64 tensor, N as in pose {list(pose.shape)}, "
                f"got {list(ids.shape)} {ids.dtype}"
            )
    if size < 16:
        raise ValueError(f"render: size must be 16 pixels or more, got {size}")
    return render_parameters(
        outfit_parameters(seed, outfit),
        pose_parameters(seed, pose),
        background_parameters(seed, background),
        size,
        seed,
    )


def render_parameters(
    look: dict[str, Tensor], pose: Tensor, scenery: dict[str, Tensor], size: int, seed: int = 0
) -> dict[str, Tensor]:
    """Images of people from parameters, with ground truth as in `render`."""
    joints, person, details = figure(look, pose, size)
    images = _paint(scenery, size, seed, person, details)
    return {"image": images[:, :3], "mask": images[:, 3] > 0, "joints": joints}


def render_backgrounds(scenery: dict[str, Tensor], size: int, seed: int = 0) -> Tensor:
    """The images of `render_parameters` without the people, (N, 3, size, size) uint8."""
    return _paint(scenery, size, seed, None, [])[:, :3]


def _paint(
    scenery: dict[str, Tensor],
    size: int,
    seed: int,
    person: Tensor | None,
    details: list[shapes.Detail],
) -> Tensor:
    """Images (N, 4, size, size) uint8, the person's coverage in the fourth channel."""
    whole = -(-size // shapes.SIDE) * shapes.SIDE
    table = objects(scenery, size)
    first = table.shape[1]
    if person is not None:
        table = torch.cat([table, person], 1)
    images = []
    many = max(1, _AT_ONCE // whole**2)
    for start in range(0, len(table), many):
        part = slice(start, start + many)
        some = {name: value[part] for name, value in scenery.items()}
        tiles = colour_field(some, whole)
        own = [(first + index, paint, numbers[part]) for index, paint, numbers in details]
        shapes.paint(tiles, table[part], whole, own)
        add_grain(tiles, some, whole, seed)
        tiles.add_(0.5)
        tiles[:, :3].clamp_(0, 255)
        images.append(shapes.images_from_tiles(tiles.to(torch.uint8), whole)[..., :size, :size])
    return torch.cat(images)


class PeopleWorld:
    """A dataset of `length` images of people.

    Image `index` shows an outfit, a pose and a background drawn from (seed, index), the same in
    every epoch. The splits share no outfit, no pose and no background.
    """

    name = "people"
    joint_order = JOINTS_15

    def __init__(
        self,
        split: str = "train",  # "train" or "test"
        size: int = 128,  # side of the images, in pixels
        seed: int = 0,  # of the world
        length: int | None = None,  # images; default: 20000 to train, 512 to test
        pairing: str = "same",  # source of the appearance: the target, or "identity": another image
        outfits: int | None = None,  # default: 2000 to train, 64 to test
        poses: int | None = None,  # default: 10000 to train, 512 to test
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"PeopleWorld: split must be one of train, test, got {split!r}")
        if pairing not in ("same", "identity"):
            raise ValueError(f"PeopleWorld: pairing must be one of same, identity, got {pairing!r}")
        train = split == "train"
        self.split, self.size, self.seed, self.pairing = split, size, seed, pairing
        self.length = length if length is not None else (20000 if train else 512)
        self.outfits = outfits if outfits is not None else (2000 if train else 64)
        self.poses = poses if poses is not None else (10000 if train else 512)
        for key in ("length", "outfits", "poses"):
            if getattr(self, key) < 1:
                raise ValueError(f"PeopleWorld: {key} must be 1 or more, got {getattr(self, key)}")
        self.identities = self._ids(torch.arange(self.length))[0] - SPLITS[split]

    def __len__(self) -> int:
        return self.length

    def _ids(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Ids of samples: outfit, pose, background, and the appearance's pose and background."""
        draw = uniform(self.seed, f"people {self.split}", index, 3)
        first = SPLITS[self.split]
        outfit = (draw[:, 0] * self.outfits).long()
        pose = (draw[:, 1] * self.poses).long()
        other = (pose + 1 + (draw[:, 2] * max(self.poses - 1, 1)).long()) % self.poses
        return outfit + first, pose + first, 2 * index + first, other + first, 2 * index + 1 + first

    @functools.cached_property
    def _looks(self) -> dict[str, Tensor]:
        return outfit_parameters(self.seed, torch.arange(self.outfits) + SPLITS[self.split])

    @functools.cached_property
    def _poses(self) -> Tensor:
        return pose_parameters(self.seed, torch.arange(self.poses) + SPLITS[self.split])

    def _look(self, outfit: Tensor) -> dict[str, Tensor]:
        if self.outfits > _KEPT:
            return outfit_parameters(self.seed, outfit)
        return {name: x[outfit - SPLITS[self.split]] for name, x in self._looks.items()}

    def _pose(self, pose: Tensor) -> Tensor:
        if self.poses > _KEPT:
            return pose_parameters(self.seed, pose)
        return self._poses[pose - SPLITS[self.split]]

    def transfer_truth(self, outfit: Tensor, pose: Tensor, background: Tensor) -> dict[str, Tensor]:
        """The ground truth of a transfer: `render` with this world's size and seed."""
        return render(outfit, pose, background, self.size, self.seed)

    def __getitem__(self, place: Place, /) -> Sample:
        return self.__getitems__([place])[0]

    def __getitems__(self, keys: Sequence[Place]) -> list[Sample]:
        """Samples at (epoch, index) places; images are the same in every epoch."""
        index = torch.tensor([index for _, index in keys], dtype=torch.int64)
        if ((index < 0) | (index >= self.length)).any():
            raise IndexError(
                f"PeopleWorld: index must be 0 to {self.length - 1}, got {index.tolist()}"
            )
        outfit, pose, background, other_pose, other_background = self._ids(index)
        if self.pairing == "identity":
            outfit = outfit.repeat(2)
            pose = torch.cat([pose, other_pose])
            background = torch.cat([background, other_background])
        scenery = background_parameters(self.seed, background)
        images = render_parameters(
            self._look(outfit), self._pose(pose), scenery, self.size, self.seed
        )
        samples = []
        for i, (_, number) in enumerate(keys):
            sample: Sample = {
                "target": images["image"][i],
                "joints": images["joints"][i],
                "mask": images["mask"][i],
                "outfit": int(outfit[i]),
                "pose": int(pose[i]),
                "background": int(background[i]),
                "index": number,
            }
            if self.pairing == "identity":
                j = i + len(keys)
                sample["appearance"] = images["image"][j]
                sample["appearance_joints"] = images["joints"][j]
            samples.append(sample)
        return samples


def contact_sheet(outfits: int, poses: int, size: int, seed: int = 0) -> Tensor:
    """A sheet of outfits (columns) in poses (rows), one background per row, (3, H, W) uint8."""
    pose = torch.arange(poses).repeat_interleave(outfits)
    outfit = torch.arange(outfits).repeat(poses)
    image = render(outfit, pose, pose, size, seed)["image"]
    rows = image.reshape(poses, outfits, 3, size, size)
    return rows.permute(2, 0, 3, 1, 4).reshape(3, poses * size, outfits * size)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a sheet of people: outfits x poses.")
    parser.add_argument("--out", default="people.png", help="the image to write")
    parser.add_argument("--outfits", type=int, default=7, help="columns")
    parser.add_argument("--poses", type=int, default=4, help="rows")
    parser.add_argument("--size", type=int, default=128, help="side of one image, pixels")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world")
    args = parser.parse_args()
    from PIL import Image  # only the sheet needs it

    sheet = contact_sheet(args.outfits, args.poses, args.size, args.seed)
    Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(args.out, optimize=True)
    print(f"{args.out}: {args.outfits} outfits x {args.poses} poses")


if __name__ == "__main__":
    main()
