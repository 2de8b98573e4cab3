"""The demo world of faces: people with expressions, in any pose and light, with ground truth.

    python -m nets.worlds.heads.face.export --out faces.png
        a sheet of people
    python -m nets.worlds.heads.face.export --data_root D --persons 20 --videos 2 --frames 16
        videos of people who talk as D/{imgs,keypoints,segs}/PHASE/PERSON/VIDEO/SEQUENCE/FRAME

Angles are in radians. Azimuth > 0 turns the face to the image's right, elevation > 0 lifts it, and
light > 0 lights it from the image's right. Pixels are (x, y), with (0, 0) the centre of the first
one. Everything is drawn on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nets.random import uniform
from nets.worlds.heads.batches import HeadBatches
from nets.worlds.heads.face import expression as expressions
from nets.worlds.heads.face import scenery
from nets.worlds.heads.face.drawing import render_people
from nets.worlds.heads.face.mesh import face
from nets.worlds.heads.face.person import identities, parameters
from nets.worlds.heads.videos import HeadVideos
from nets.worlds.heads.world import RANGES, Drawing, HeadsWorld

__all__ = [
    "FaceBatches",
    "FaceVideos",
    "FacesWorld",
    "contact_sheet",
    "identities",
    "render",
    "scenes",
]

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
    colour      else grey
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
        draws[:, 2], draws[:, 4] = 1.0, 0.0  # a studio: more of the key light, less of the sky
    else:
        coarse = scenery.backgrounds(ids)
        behind = scenery.enlarged(coarse, size)
    people = render_people(
        identity, azimuth, elevation, expression, scenery.Scene(light, draws), size, supersample
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


FACES = Drawing("faces", identities, scenes, render, 2)


class FacesWorld(HeadsWorld):
    """A dataset of clips of people with expressions, as `HeadsWorld`.

    Samples also hold mouth (T,) and lids (T, 2) in decimetres; expression is (T, 52).
    """

    name = "faces"
    drawing = FACES


class FaceVideos(HeadVideos):
    """A dataset of videos of people, as `HeadVideos`.

    Samples also hold target_mouth (t,) and target_lids (t, 2): how far they are open, decimetres.
    """

    name = "faces"
    world_type = FacesWorld
    openings = ("mouth", "lids")


class FaceBatches(HeadBatches):
    """Batches in which one factor varies, as `HeadBatches`; all faces are at rest."""

    name = "faces"
    drawing = FACES


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
