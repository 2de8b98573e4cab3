"""The demo world of heads: people with expressions, in any pose and light, with ground truth.

    python -m nets.worlds.heads.export --out heads.png
        a sheet of people
    python -m nets.worlds.heads.export --data_root D --persons 20 --videos 2 --frames 16
        videos of people who talk as D/{imgs,keypoints,segs}/PHASE/PERSON/VIDEO/SEQUENCE/FRAME

Angles are in radians. Azimuth > 0 turns the face to the image's right, elevation > 0 lifts it, and
light > 0 lights it from the image's right. Pixels are (x, y), with (0, 0) the centre of the first
one. Everything is drawn on the CPU. `nets.worlds.heads.face` holds the geometry and the colours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nets.contracts import Place, Sample
from nets.random import uniform
from nets.worlds.heads.face import expression as expressions
from nets.worlds.heads.face import scenery
from nets.worlds.heads.face.drawing import render_people
from nets.worlds.heads.face.mesh import face
from nets.worlds.heads.face.person import identities, parameters

__all__ = ["RANGES", "SPLITS", "HeadsWorld", "contact_sheet", "identities", "render", "scenes"]

SPLITS = {"train": 0, "test": 1 << 32}  # first id of a split's persons and backgrounds
RANGES = {"azimuth": 1.5, "elevation": 0.4, "light": math.radians(80)}  # +- radians, uniform
_AT_ONCE = (32, 16)  # images per pass, up to 96 px and above: small calls cost more than caches
_LUMA = (0.299, 0.587, 0.114)


def render(
    identity: Tensor,
    azimuth: Tensor,
    elevation: Tensor,
    light: Tensor,
    size: int,
    *,
    colour: bool = False,
    supersample: int = 2,
    expression: Tensor | None = None,
    background: Tensor | None = None,
) -> dict[str, Tensor]:
    """Images of people with ground truth, the same on every call and in every batch.

    identity    (N, D), see `identities`
    azimuth, elevation, light  (N,) radians
    size        side S of the images in pixels, 16 or more
    colour      else grey, the head alone, without hair, shoulders and clothes
    supersample  samples per pixel and direction
    expression  (N, 52) coefficients of face units in [0, 1], in the order of `face().units`;
                None: a face at rest
    background  (N,) int64, numbers of backgrounds and of their light, only in colour; None: white
    returns     image (N, 1 or 3, S, S) uint8; mask (N, S, S) bool, the person; points (N, 68, 2)
                float32 pixels in the order of iBUG 300-W, those of the jaw on its visible contour;
                mouth (N,) and lids (N, 2) float32: how far the inner lips and the lids of the right
                and the left eye are apart, in decimetres
    Raises ValueError for arguments of another shape or range.
    """
    n = len(identity)
    expected: dict[str, tuple[Tensor, tuple[int, ...]]] = {
        "identity": (identity, (n, len(parameters()))),
        "azimuth": (azimuth, (n,)),
        "elevation": (elevation, (n,)),
        "light": (light, (n,)),
    }
    if expression is not None:
        expected["expression"] = (expression, (n, len(face().units)))
    if background is not None:
        expected["background"] = (background, (n,))
    for name, (value, shape) in expected.items():
        if tuple(value.shape) != shape:
            raise ValueError(
                f"render: {name} must be {list(shape)}, N as in identity, got {list(value.shape)}"
            )
    if size < 16 or not 1 <= supersample <= 8:
        raise ValueError(
            "render: size must be 16 pixels or more and supersample 1 to 8, "
            f"got {size} and {supersample}"
        )
    if background is not None and not colour:
        raise ValueError("render: background needs colour=True; grey heads are on white")
    if expression is None:
        expression = torch.zeros(n, len(face().units))
    parts, many = [], _AT_ONCE[size > 96]
    with torch.autocast("cpu", enabled=False), torch.no_grad():  # exact, whatever the caller does
        for start in range(0, max(n, 1), many):
            chosen = slice(start, start + many)
            behind = None if background is None else background[chosen]
            parts.append(
                _render(identity[chosen], azimuth[chosen], elevation[chosen], light[chosen],
                        expression[chosen], behind, size, colour, supersample)
            )  # fmt: skip
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _render(
    identity: Tensor,
    azimuth: Tensor,
    elevation: Tensor,
    light: Tensor,
    expression: Tensor,
    background: Tensor | None,
    size: int,
    colour: bool,
    supersample: int,
) -> dict[str, Tensor]:
    """`render` of a few checked arguments."""
    n = len(identity)
    ids = torch.zeros(n, dtype=torch.int64) if background is None else background
    draws = uniform(0, "face light", ids, 8)
    behind = torch.full((n, 3, 1, 1), 255.0)
    if background is None:
        draws = torch.full_like(draws, 0.5)
        draws[:, 2], draws[:, 4] = 1.0, 0.0
    else:
        coarse = scenery.backgrounds(ids)
        behind = scenery.enlarged(coarse, size)
    scene = scenery.Scene(light, draws)
    if background is None:
        scene.studio()
    people = render_people(
        identity, azimuth, elevation, expression, scene, size, supersample, alone=not colour
    )
    drawn = people.pop("image")
    cover = drawn[:, 3:].float() / 255
    image = drawn[:, :3].float() + behind * (1 - cover)
    if not colour:
        image = sum(image[:, c : c + 1] * share for c, share in enumerate(_LUMA))  # type: ignore[assignment]
    pixels = (image + 0.5).clamp_(0, 255).byte()
    return {"image": pixels, "mask": drawn[:, 3] >= 128, **people}


def scenes(
    ids: Tensor, seed: int = 0, stream: str = "scene", ranges: Mapping[str, float] = RANGES
) -> dict[str, Tensor]:
    """Random poses, lights and expressions, as the arguments of `render`.

    ids      (N,) int64, 0 or more
    stream   a name; the same ids draw other numbers in another stream
    ranges   the largest azimuth, elevation and light in radians; each is uniform in +- its range
    returns  azimuth, elevation, light (N,) and expression (N, 52), float64
    """
    draw = uniform(seed, f"faces {stream}", ids, 3 + expressions.DRAWS)
    result = {name: (2 * draw[:, i] - 1) * ranges[name] for i, name in enumerate(RANGES)}
    return result | {"expression": expressions.snapshots(draw[:, 3:])}


class HeadsWorld:
    """A dataset of `length` clips of talking heads.

    Clip `index` shows person index % persons with one light and one background, both drawn from
    (seed, index). Poses and expressions are drawn from (seed, epoch, index, frame). The splits
    share no person and no background.
    """

    name = "heads"

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
        supersample: int = 2,  # samples per pixel and direction
    ) -> None:
        kind = type(self).__name__
        if split not in SPLITS:
            raise ValueError(f"{kind}: split must be one of train, test, got {split!r}")
        self.split, self.size, self.seed = split, size, seed
        self.persons = persons if persons is not None else (1000 if split == "train" else 64)
        self.length = length if length is not None else 4 * self.persons
        self.frames, self.colour, self.cluttered = frames, colour, cluttered and colour
        self.ranges = RANGES | (ranges or {})
        self.supersample = supersample
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
        return render(
            identities(person, self.seed),
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

        image (T, C, S, S) uint8, mask (T, S, S) bool, points (T, 68, 2) pixels, mouth (T,) and
        lids (T, 2) decimetres; azimuth, elevation, light (T,) and expression (T, 52); person,
        background and index, integers.
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


def contact_sheet(columns: int, rows: int, size: int, seed: int = 0) -> Tensor:
    """A sheet of people, each in a pose, a light and an expression: (3, H, W) uint8."""
    ids = torch.arange(columns * rows)
    scene = scenes(ids, seed, "sheet", {"azimuth": 0.7, "elevation": 0.22, "light": 0.9})
    people = render(
        identities(ids, seed),
        scene["azimuth"],
        scene["elevation"],
        scene["light"],
        size,
        colour=True,
        supersample=3,
        expression=scene["expression"],
        background=ids,
    )
    grid = people["image"].reshape(rows, columns, 3, size, size)
    return grid.permute(2, 0, 3, 1, 4).reshape(-1, rows * size, columns * size)
