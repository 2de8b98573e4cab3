"""The demo world of heads: images, masks and 68 points of any person in any pose and light.

    python -m nets.worlds.heads.export --out heads.png --colour
        a sheet of persons (columns) in poses, lights and expressions (rows)
    python -m nets.worlds.heads.export --data_root D --persons 20 --videos 2 --frames 16 --size 256
        videos of moving heads as D/{imgs,keypoints,segs}/PHASE/PERSON/VIDEO/SEQUENCE/FRAME

Angles are in radians. Azimuth > 0 turns the face to the image's right, elevation > 0 lifts it, and
light > 0 lights it from the image's right. Pixels are (x, y), with (0, 0) the centre of the first
one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nets.contracts import Place, Sample
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
from nets.worlds.people.backdrop import add_grain, colour_field, objects
from nets.worlds.people.look import background_parameters

SPLITS = {"train": 0, "test": 1 << 32}  # first id of a split's persons and backgrounds
RANGES = {"azimuth": 1.5, "elevation": 0.4, "light": math.radians(80)}  # +- radians, uniform
_HEIGHT = 0.35  # elevation of the light, radians
_VIEW, _DOWN = 1.15, 0.06  # half the image's side; its centre is this far below the head's
_AT_ONCE = 1 << 17  # pixels per pass; intermediate results then stay in the processor's caches


def identities(ids: Tensor, seed: int = 0) -> Tensor:
    """The numbers of PARAMETERS of persons, (N, 20) float32: N(0, 1) clipped to [-2, 2].

    ids  (N,) int64, 0 or more; those of a split start at SPLITS[split]
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
    """Images of heads with ground truth, the same on every call and in every batch.

    identity    (N, 20), see `identities`
    azimuth, elevation, light  (N,) radians
    size        side S of the images in pixels, 16 or more
    colour      with shoulders, and coloured hair, eyes, lips and clothes; else grey
    supersample  rays per pixel and direction
    expression  (N, 3): mouth open 0 to 1, brows lifted -1 to 1, eyes closed 0 to 1; None: zeros
    background  (N,) int64, numbers of cluttered backgrounds, only in colour; None: white
    returns     image (N, 1 or 3, S, S) uint8; mask (N, S, S) bool, the foreground; points
                (N, 68, 2) float32 pixels in the order of iBUG 300-W: places on the surface,
                also of hidden points
    Raises ValueError for arguments of another shape or range.
    """
    n = len(identity)
    expected: dict[str, tuple[Tensor, tuple[int, ...]]] = {
        "identity": (identity, (n, len(PARAMETERS))),
        "azimuth": (azimuth, (n,)),
        "elevation": (elevation, (n,)),
        "light": (light, (n,)),
    }
    if expression is not None:
        expected["expression"] = (expression, (n, len(EXPRESSION)))
    if background is not None:
        expected["background"] = (background, (n,))
    for name, (value, shape) in expected.items():
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
    with torch.autocast(
        identity.device.type, enabled=False
    ):  # exact, also if the caller computes in bf16
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
    """`render` of checked arguments."""
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
        some = None if background is None else background[chosen]
        image[chosen], mask[chosen] = _paint(
            solids.rows(chosen), reflected[chosen], lamp[chosen], some, size, supersample
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
        images = shapes.images_from_tiles(tiles.add_(0.5).to(torch.uint8), whole)
        images = images[..., :size, :size]
        return images[:, :-1], images[:, -1] > 0
    k = whole // shapes.SIDE
    grid = tiles.view(n, k, k, -1, shapes.SIDE, shapes.SIDE).permute(0, 3, 1, 4, 2, 5)
    images = F.avg_pool2d(grid.reshape(n, -1, whole, whole)[..., :fine, :fine], supersample)
    return (images[:, :-1] + 0.5).to(torch.uint8), images[:, -1] >= 0.5


def _backdrop(background: Tensor, whole: int) -> Tensor:
    """Cluttered backgrounds as tiles (N * tiles, 4, 64), 0 in the last channel."""
    scenery = background_parameters(0, background)
    tiles = colour_field(scenery, whole)
    shapes.paint(tiles, objects(scenery, whole), whole)
    add_grain(tiles, scenery, whole, 0)
    tiles[:, :3].clamp_(0, 255)
    tiles[:, 3] = 0
    return tiles


def scenes(
    ids: Tensor, seed: int = 0, stream: str = "scene", ranges: dict[str, float] = RANGES
) -> dict[str, Tensor]:
    """Random poses, lights and expressions, as the arguments of `render`.

    ids      (N,) int64, 0 or more
    stream   a name; the same ids draw other numbers in another stream
    ranges   the largest azimuth, elevation and light in radians; each is uniform in +- its range
    returns  azimuth, elevation, light (N,) and expression (N, 3), float64
    """
    draw = uniform(seed, f"heads {stream}", ids, 6)
    result = {name: (2 * draw[:, i] - 1) * ranges[name] for i, name in enumerate(RANGES)}
    mouth, brows, blink = draw[:, 3:].unbind(1)
    # A third of the mouths are closed and three quarters of the eyes open, as at rest.
    mouth, blink = (1.5 * mouth - 0.5).clamp(min=0), (4 * blink - 3).clamp(min=0)
    return result | {"expression": torch.stack([mouth, 2 * brows - 1, blink], 1)}


class Drawing(NamedTuple):
    """The functions of a world of heads, which datasets draw by: see those of this module."""

    name: str
    identities: Callable[..., Tensor]
    scenes: Callable[..., dict[str, Tensor]]
    render: Callable[..., dict[str, Tensor]]
    supersample: int  # by default


HEADS = Drawing("heads", identities, scenes, render, 1)


class HeadsWorld:
    """A dataset of `length` clips of talking heads.

    Clip `index` shows person index % persons with one light and one background, both drawn from
    (seed, index). Poses and expressions are drawn from (seed, epoch, index, frame). The splits
    share no person and no background.
    """

    name = "heads"
    drawing = HEADS

    def __init__(
        self,
        split: str = "train",  # "train" or "test"
        size: int = 128,  # side of the images, in pixels
        seed: int = 0,  # of the world
        length: int | None = None,  # clips; default: 4 per person
        persons: int | None = None,  # default: 1000 to train, 64 to test
        frames: int = 2,  # per clip
        colour: bool = True,  # else grey on white
        cluttered: bool = True,  # cluttered backgrounds; else white
        ranges: dict[str, float] | None = None,  # see `scenes`; default: RANGES
        supersample: int | None = None,  # rays per pixel and direction; default: the world's
    ) -> None:
        kind = type(self).__name__
        if split not in SPLITS:
            raise ValueError(f"{kind}: split must be one of train, test, got {split!r}")
        self.split, self.size, self.seed = split, size, seed
        self.persons = persons if persons is not None else (1000 if split == "train" else 64)
        self.length = length if length is not None else 4 * self.persons
        self.frames, self.colour, self.cluttered = frames, colour, cluttered and colour
        self.ranges = RANGES | (ranges or {})
        self.supersample = self.drawing.supersample if supersample is None else supersample
        for key in ("length", "persons", "frames"):
            if getattr(self, key) < 1:
                raise ValueError(f"{kind}: {key} must be 1 or more, got {getattr(self, key)}")
        self.identities = torch.arange(self.length) % self.persons

    def __len__(self) -> int:
        return self.length

    def truth(
        self, person: Tensor, scene: Mapping[str, Tensor], background: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Ground truth of persons (N,) in N scenes, as returned by `render`.

        person, background  (N,) int64, ids as in a sample
        scene               as returned by `scenes`
        """
        return self.drawing.render(
            self.drawing.identities(person, self.seed),
            scene["azimuth"],
            scene["elevation"],
            scene["light"],
            self.size,
            colour=self.colour,
            supersample=self.supersample,
            expression=scene.get("expression"),
            background=background if self.cluttered else None,
        )

    def __getitem__(self, place: Place, /) -> Sample:
        return self.__getitems__([place])[0]

    def __getitems__(self, keys: Sequence[Place]) -> list[Sample]:
        """Samples at (epoch, index) places, of T frames each.

        image (T, C, S, S) uint8, mask (T, S, S) bool, points (T, 68, 2) pixels and what else the
        world renders; azimuth, elevation, light (T,) and expression (T, E); person, background and
        index, integers.
        """
        index = torch.tensor([index for _, index in keys], dtype=torch.int64)
        epoch = torch.tensor([epoch for epoch, _ in keys], dtype=torch.int64)
        if ((index < 0) | (index >= self.length)).any():
            raise IndexError(
                f"{type(self).__name__}: index must be 0 to {self.length - 1}, got {index.tolist()}"
            )
        first, f = SPLITS[self.split], self.frames
        person, background = index % self.persons + first, index + first
        clip = epoch * self.length + index
        frame = (clip[:, None] * f + torch.arange(f)).reshape(-1)
        scenes = self.drawing.scenes
        scene = scenes(frame, self.seed, self.split, self.ranges)
        lit = scenes(index, self.seed, f"{self.split} light", self.ranges)["light"]
        scene["light"] = lit.repeat_interleave(f)
        truth = self.truth(person.repeat_interleave(f), scene, background.repeat_interleave(f))
        values = truth | scene
        samples = []
        for i, (_, number) in enumerate(keys):
            sample: Sample = {name: value[i * f : (i + 1) * f] for name, value in values.items()}
            ids = {"person": int(person[i]), "background": int(background[i]), "index": number}
            samples.append(sample | ids)
        return samples


def contact_sheet(persons: int, poses: int, size: int, colour: bool, seed: int = 0) -> Tensor:
    """A sheet of persons (columns) in poses, lights and expressions (rows), (1 or 3, H, W) uint8.

    The first row is frontal, with a neutral expression.
    """
    scene = scenes(torch.arange(poses), seed, "sheet")
    for value in scene.values():
        value[:1] = 0
    row = torch.arange(poses).repeat_interleave(persons)
    person = identities(torch.arange(persons), seed).repeat(poses, 1)
    heads = render(
        person,
        scene["azimuth"][row],
        scene["elevation"][row],
        scene["light"][row],
        size,
        colour=colour,
        supersample=2,
        expression=scene["expression"][row],
        background=row if colour else None,
    )
    rows = heads["image"].reshape(poses, persons, -1, size, size)
    return rows.permute(2, 0, 3, 1, 4).reshape(-1, poses * size, persons * size)
