"""The demo world of heads: images, masks and 68 points, any person in any pose and light.

    python -m nets.worlds.heads.export --out heads.png --colour
        a sheet of persons (columns) in poses, lights and expressions (rows)
    python -m nets.worlds.heads.export --data_root D --persons 20 --videos 2 --frames 16 --size 256
        videos of moving heads as D/{imgs,keypoints,segs}/PHASE/PERSON/VIDEO/SEQUENCE/FRAME

Coordinates: azimuth > 0 turns the face to the image's right, elevation > 0 lifts it, light
azimuth > 0 lights it from the image's right; all in radians. Pixels (x, y), (0, 0) the middle of
the first one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nets.random import uniform
from nets.worlds import shapes
from nets.worlds.heads import ellipsoids
from nets.worlds.heads.shape import (
    EXPRESSION,
    PARAMETERS,
    colours,
    head,
    in_camera,
    points,
    rotation,
)
from nets.worlds.people.backdrop import add_grain, colour_field, things
from nets.worlds.people.look import background_parameters

SPLITS = {"train": 0, "test": 1 << 32}  # first id of a split's persons and backgrounds
RANGES = {"azimuth": 1.5, "elevation": 0.4, "light": math.radians(80)}  # +- radians, uniform
_HEIGHT = 0.35  # of the light, radians above the horizon
_VIEW, _DOWN = 1.15, 0.06  # half the image's side, and how far its middle is below the head's
_AT_ONCE = 1 << 17  # pixels; what is on the way then stays in the processor's caches


def identities(ids: Tensor, seed: int = 0) -> Tensor:
    """(N, 20) float32, the numbers of PARAMETERS of persons `ids`: N(0, 1) clipped to [-2, 2].

    ids  (N,) int64, 0 or more; of a split from SPLITS[split] on
    """
    draw = uniform(seed, "head", ids, len(PARAMETERS))
    return torch.special.ndtri(draw).clamp(-2, 2).float()


def render(
    identity: Tensor,
    azimuth: Tensor,
    elevation: Tensor,
    light: Tensor,
    size: int,
    *,
    colour: bool = False,
    supersample: int = 1,
    expression: Tensor | None = None,
    background: Tensor | None = None,
) -> dict[str, Tensor]:
    """Heads under a light, with exact truth, the same on every call and in every batch.

    identity    (N, 20), see `identities`; azimuth, elevation, light  (N,) radians
    size        pixels a side, 16 or more; supersample  rays a pixel and direction
    colour      of hair, eyes, lips and clothes, given by the identity, with shoulders; else grey
    expression  (N, 3): mouth open 0..1, brows lifted -1..1, eyes closed 0..1; None: at rest
    background  (N,) int64, a cluttered one by its number, only in colour; None: white
    returns  image (N, 1 or 3, size, size) uint8; mask (N, size, size) bool, of all that is not
             background; points (N, 68, 2) float32 pixels in the order of iBUG 300-W: the true
             places on the surface, also of those that the head hides
    Raises ValueError for arguments of another shape or range.
    """
    n = len(identity)
    wanted = {"identity": (identity, (n, len(PARAMETERS))), "azimuth": (azimuth, (n,)),
              "elevation": (elevation, (n,)), "light": (light, (n,))}  # fmt: skip
    if expression is not None:
        wanted["expression"] = (expression, (n, len(EXPRESSION)))
    if background is not None:
        wanted["background"] = (background, (n,))
    for name, (value, shape) in wanted.items():
        if tuple(value.shape) != shape:
            raise ValueError(
                f"render: {name} must be {list(shape)}, N as in identity, got {list(value.shape)}"
            )
    if size < 16 or supersample < 1:
        raise ValueError(
            "render: size must be 16 pixels or more and supersample 1 or more, "
            f"got {size} and {supersample}"
        )
    if background is not None and not colour:
        raise ValueError("render: background needs colour=True; grey heads are on white")
    with torch.autocast(identity.device.type, enabled=False):  # exact wherever it is called
        return _render(
            *(identity, azimuth, elevation, light, expression, background),
            *(size, colour, supersample),
        )


def _render(
    identity: Tensor,
    azimuth: Tensor,
    elevation: Tensor,
    light: Tensor,
    expression: Tensor | None,
    background: Tensor | None,
    size: int,
    colour: bool,
    supersample: int,
) -> dict[str, Tensor]:
    n = len(identity)
    parts = head(identity, expression, colour)
    solids, albedo = in_camera(parts, azimuth, elevation)
    reflected = colours(identity, albedo, colour).float()
    phi = light.double()
    up = torch.full_like(phi, math.sin(_HEIGHT))
    lamp = torch.stack([phi.sin() * math.cos(_HEIGHT), up, phi.cos() * math.cos(_HEIGHT)], -1)
    seen = points(parts, None if expression is None else expression[:, 2])
    seen = (seen @ rotation(azimuth.double(), elevation.double()).transpose(1, 2))[..., :2]
    seen = (seen + seen.new_tensor([0.0, _DOWN])) * seen.new_tensor([1.0, -1.0])
    image = torch.empty(n, 3 if colour else 1, size, size, dtype=torch.uint8, device=phi.device)
    mask = torch.empty(n, size, size, dtype=torch.bool, device=phi.device)
    many = max(1, _AT_ONCE // (size * supersample) ** 2)
    for start in range(0, n, many):
        chosen = slice(start, start + many)
        behind = None if background is None else background[chosen]
        image[chosen], mask[chosen] = _paint(
            solids.rows(chosen), reflected[chosen], lamp[chosen], behind, size, supersample
        )
    return {
        "image": image,
        "mask": mask,
        "points": ((seen / _VIEW + 1) / 2 * size - 0.5).float(),
    }


def _paint(
    solids: ellipsoids.Ellipsoids,
    reflected: Tensor,
    lamp: Tensor,
    background: Tensor | None,
    size: int,
    supersample: int,
) -> tuple[Tensor, Tensor]:
    """Image and mask of a few heads, see `render`."""
    fine = size * supersample
    whole = -(-fine // shapes.SIDE) * shapes.SIDE
    step = 2 * _VIEW / fine
    shade, part = ellipsoids.paint(
        solids, lamp, whole, step / 2 - _VIEW, _VIEW - step / 2 - _DOWN, step
    )
    n, count, channels = reflected.shape  # the last row is the background's
    first = torch.arange(n, device=part.device).mul(count).repeat_interleave(len(part) // n)
    nothing = part < 0
    rows = part.masked_fill(nothing, count - 1).long().add_(first[:, None]).view(-1)
    tiles = shade.new_empty(len(part), channels + 1, shapes.PIXELS)
    for channel in range(channels):
        flat = reflected[..., channel].reshape(-1)
        torch.mul(flat.index_select(0, rows).view_as(shade), shade, out=tiles[:, channel])
    tiles[:, -1] = ~nothing
    if background is not None:
        tiles = torch.where(nothing[:, None], _backdrop(background, whole), tiles)
    if supersample == 1:
        made = shapes.images_from_tiles(tiles.add_(0.5).to(torch.uint8), whole)
        made = made[..., :size, :size]
        return made[:, :-1], made[:, -1] > 0
    k = whole // shapes.SIDE
    grid = tiles.view(n, k, k, -1, shapes.SIDE, shapes.SIDE).permute(0, 3, 1, 4, 2, 5)
    made = F.avg_pool2d(grid.reshape(n, -1, whole, whole)[..., :fine, :fine], supersample)
    return (made[:, :-1] + 0.5).to(torch.uint8), made[:, -1] >= 0.5


def _backdrop(background: Tensor, whole: int) -> Tensor:
    """Cluttered backgrounds as tiles (N * tiles, 4, 64), 0 in the last channel."""
    behind = background_parameters(0, background)
    tiles = colour_field(behind, whole)
    shapes.paint(tiles, things(behind, whole), whole)
    add_grain(tiles, behind, whole, 0)
    tiles[:, :3].clamp_(0, 255)
    tiles[:, 3] = 0
    return tiles


def scenes(
    ids: Tensor, seed: int = 0, stream: str = "scene", ranges: dict[str, float] = RANGES
) -> dict[str, Tensor]:
    """Poses, lights and expressions by number, as the arguments of `render`.

    ids     (N,) int64, 0 or more; stream  a name: the same ids draw others under another one
    ranges  the largest azimuth, elevation and light in radians; each is uniform, both ways
    returns  azimuth, elevation, light (N,) and expression (N, 3), float64
    """
    draw = uniform(seed, f"heads {stream}", ids, 6)
    made = {name: (2 * draw[:, i] - 1) * ranges[name] for i, name in enumerate(RANGES)}
    mouth, brows, blink = draw[:, 3:].unbind(1)
    # A third of the mouths and three quarters of the eyes are as they are at rest.
    mouth, blink = (1.5 * mouth - 0.5).clamp(min=0), (4 * blink - 3).clamp(min=0)
    return made | {"expression": torch.stack([mouth, 2 * brows - 1, blink], 1)}


class HeadsWorld:
    """An endless supply of talking heads, as a dataset of `length` clips of some frames each.

    Clip `index` shows person index % persons under one light and before one background, both drawn
    from (seed, index), in poses and expressions drawn from (seed, epoch, index, frame). The splits
    share no person and no background.
    """

    name = "heads"

    def __init__(
        self,
        split: str = "train",  # "train" or "test"
        size: int = 128,  # side of the images, in pixels
        seed: int = 0,  # of everything
        length: int | None = None,  # clips; default: 4 of each person
        persons: int | None = None,  # default: 1000 to train, 64 to test
        frames: int = 2,  # of a clip
        colour: bool = True,  # else grey on white
        cluttered: bool = True,  # backgrounds; else white
        ranges: dict[str, float] | None = None,  # see `scenes`; default: RANGES
        supersample: int = 1,  # rays a pixel and direction
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"HeadsWorld: split must be one of train, test, got {split!r}")
        self.split, self.size, self.seed = split, size, seed
        self.persons = persons if persons is not None else (1000 if split == "train" else 64)
        self.length = length if length is not None else 4 * self.persons
        self.frames, self.colour, self.cluttered = frames, colour, cluttered and colour
        self.ranges, self.supersample = RANGES | (ranges or {}), supersample
        for key in ("length", "persons", "frames"):
            if getattr(self, key) < 1:
                raise ValueError(f"HeadsWorld: {key} must be 1 or more, got {getattr(self, key)}")
        self.identities = torch.arange(self.length) % self.persons

    def __len__(self) -> int:
        return self.length

    def truth(
        self, person: Tensor, scene: dict[str, Tensor], background: Tensor | None = None
    ) -> dict[str, Tensor]:
        """What persons (N,) look like in scenes of N, see `scenes` and `render`.

        person, background  int64, as a sample names them
        """
        return render(
            identities(person, self.seed),
            size=self.size,
            colour=self.colour,
            supersample=self.supersample,
            background=background if self.cluttered else None,
            **scene,
        )

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor | int]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[dict[str, Tensor | int]]:
        """Samples for (epoch, index) pairs.

        Each: image (F, C, S, S) uint8, mask (F, S, S) bool, points (F, 68, 2) pixels; azimuth,
        elevation, light (F,) and expression (F, 3); person, background, index.
        """
        index = torch.tensor([index for _, index in keys], dtype=torch.int64)
        epoch = torch.tensor([epoch for epoch, _ in keys], dtype=torch.int64)
        if ((index < 0) | (index >= self.length)).any():
            raise IndexError(
                f"HeadsWorld: index must be 0 to {self.length - 1}, got {index.tolist()}"
            )
        first, f = SPLITS[self.split], self.frames
        person, background = index % self.persons + first, index + first
        clip = epoch * self.length + index
        frame = (clip[:, None] * f + torch.arange(f)).reshape(-1)
        scene = scenes(frame, self.seed, self.split, self.ranges)
        lit = scenes(index, self.seed, f"{self.split} light", self.ranges)["light"]
        scene["light"] = lit.repeat_interleave(f)
        each = (person.repeat_interleave(f), scene, background.repeat_interleave(f))
        made = self.truth(*each) | scene
        samples = []
        for i, (_, number) in enumerate(keys):
            sample = {name: value[i * f : (i + 1) * f] for name, value in made.items()}
            whose = {"person": int(person[i]), "background": int(background[i]), "index": number}
            samples.append(sample | whose)
        return samples


def contact_sheet(persons: int, poses: int, size: int, colour: bool, seed: int = 0) -> Tensor:
    """Persons (columns) in poses, lights and expressions (rows): (1 or 3, H, W) uint8.

    The first row is frontal and at rest.
    """
    scene = scenes(torch.arange(poses), seed, "sheet")
    for value in scene.values():
        value[:1] = 0
    row = torch.arange(poses).repeat_interleave(persons)
    person = identities(torch.arange(persons), seed).repeat(poses, 1)
    chosen = {name: value[row] for name, value in scene.items()}
    behind = row if colour else None
    image = render(person, size=size, colour=colour, supersample=2, background=behind, **chosen)
    rows = image["image"].reshape(poses, persons, -1, size, size)
    return rows.permute(2, 0, 3, 1, 4).reshape(-1, poses * size, persons * size)
