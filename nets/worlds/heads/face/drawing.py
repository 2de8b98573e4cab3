"""Faces as images: geometry, light and the rasteriser, with exact truth."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nets.ops import draw_mesh
from nets.worlds.heads.face import hair as hairs
from nets.worlds.heads.face.layers import cell_uv, cloth_share
from nets.worlds.heads.face.mesh import (
    EYES,
    LASHES,
    LOWER_TEETH,
    MASKS,
    SKIN,
    TONGUE,
    UPPER_TEETH,
    Face,
    face,
    normals,
)  # fmt: skip
from nets.worlds.heads.face.paint import textures
from nets.worlds.heads.face.person import Traits, shape_coefficients
from nets.worlds.heads.face.scenery import Scene

HALF, DOWN, FAR = 1.72, 0.2, 14.0  # dm: half the image's side, its centre, the camera's distance
BUST = (1.6, -0.05)  # half the side and centre of images of heads alone
NECK = -1.25  # dm: heads alone end here
BODY = 0.5  # share of the head's azimuth that the shoulders follow
_SPARK = 6  # corners of the light's reflection in an eye

Columns = tuple[Tensor, ...]  # x, y and z, (N, P) each


@functools.cache
def _constants() -> dict[str, Tensor]:
    """Triangles and constants of all parts: the face, the hair, the reflections in the eyes."""
    model, grid = face(), hairs.grid()
    v, g = len(model.corner_of), len(grid.row)
    fans = []
    for eye in range(2):
        first = v + g + eye * (_SPARK + 1)
        fans += [[first, first + 1 + (k + 1) % _SPARK, first + 1 + k] for k in range(_SPARK)]
    skin = model.group == SKIN
    at = model.points
    # The shirt lies over the body's skin.
    lies = skin & (at[:, 1] < -0.95)
    shirt = lies.nonzero()[:, 0]
    number = torch.full((len(at),), -1)
    number[shirt] = torch.arange(len(shirt))
    corners = model.corner_of[model.triangles]
    cloth = number[corners[lies[corners].all(1)]] + v + g + 2 * (_SPARK + 1)
    parts = [model.triangles, grid.triangles + v, torch.tensor(fans), cloth]
    whole, bare = torch.cat(parts).int(), torch.cat([parts[0], parts[2]]).int()
    return {"triangles": whole, "bare": bare, "skin": skin, "height": at[:, 1], "shirt": shirt,
            "shirt_uv": cell_uv("cloth", cloth_share(at[shirt])),
            "inner": skin.float() * model.masks[:, MASKS.index("inside-mouth")]}  # fmt: skip


def _rotate(p: Columns, azimuth: Tensor, elevation: Tensor) -> Columns:
    """Turns (N, P) columns: first up by the elevation, then to the right by the azimuth."""
    x, y, z = p
    ce, se, ca, sa = (
        f[:, None] for f in (elevation.cos(), elevation.sin(), azimuth.cos(), azimuth.sin())
    )
    y, z = y * ce + z * se, z * ce - y * se
    return x * ca + z * sa, y, z * ca - x * sa


def _harmonics(d: Tensor) -> Tensor:
    """As `pack.harmonics`, of (N, 3) unit vectors: (N, 9)."""
    x, y, z = d.unbind(1)
    return torch.stack(
        [torch.ones_like(x), x, y, z, x * y, y * z, z * x, x * x - y * y, 3 * z * z - 1], 1
    )


def _exact(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32, rounded to steps that make the sums exact."""
    return ((a * 1024).round().double() @ (b * 64).round().double()).float() / 65536


def _unit(columns: Columns) -> Columns:
    x, y, z = columns
    scale = (x * x + y * y + z * z).clamp(min=1e-12).sqrt()
    return x / scale, y / scale, z / scale


def _power(x: Tensor, squarings: int) -> Tensor:
    for _ in range(squarings):
        x = x * x
    return x


def render_people(
    identity: Tensor,
    azimuth: Tensor,
    elevation: Tensor,
    expression: Tensor,
    scene: Scene,
    size: int,
    samples: int,
    alone: bool = False,
) -> dict[str, Tensor]:
    """People over black: image (N, 4, S, S) uint8 with coverage, and truth in pixels.

    identity    (N, D), see `person.identities`
    expression  (N, 52) coefficients of face units
    alone       the head alone, closer, without hair, shoulders and clothes, as renderings of face
                models are
    returns     image; points (N, 68, 2); mouth (N,) dm between the inner lips; lids (N, 2) dm
                between the lids of the right and the left eye
    """
    model, grid, const = face(), hairs.grid(), _constants()
    t = Traits(identity)
    whole = model.positions(shape_coefficients(t), expression)
    p = _centred(model, whole)
    locks = hairs.locks(t)
    h = _hair_points(p, model, grid, locks)
    a, e = azimuth.float(), elevation.float()
    pivot = _pivot(model, p)
    h = _posed(h, _hair_follow(grid, locks), pivot, a, e)
    p = _posed(p, model.follow, pivot, a, e)
    np_, nh = normals(p, model.around), normals(h, grid.around)
    shades = _shades(t, model, const, p, np_, a, e, scene, expression)
    hair_shades = _hair_shades(grid, locks, h, nh, scene)
    spark, spark_shades = _sparks(model, p, scene)
    shirt, shirt_shades = _shirt(t, model, const["shirt"], p, np_, shades)
    if alone:
        below = (NECK - const["height"]) * const["skin"].float()
        shades[..., 6] -= below.clamp(min=0) * 8

    corner = model.corner_of
    columns = [torch.cat([c.index_select(1, corner), d, f, s], 1)
               for c, d, f, s in zip(p, h, spark, shirt, strict=True)]  # fmt: skip
    points = _projected(columns, size, alone)
    all_shades = torch.cat(
        [shades.index_select(1, corner), hair_shades, spark_shades, shirt_shades], 1
    )
    texture, shared = textures(t, size > 96, shaven=alone)
    plain = shared.face_uv[(model.group == UPPER_TEETH).nonzero()[0]][:1]
    uv = torch.cat(
        [shared.face_uv, shared.hair_uv, plain.expand(2 * (_SPARK + 1), 2), const["shirt_uv"]]
    )
    image = draw_mesh(
        points, const["bare" if alone else "triangles"], all_shades, uv, texture, size, samples
    )
    first = torch.zeros(len(model.points), dtype=torch.int64)
    first[corner] = torch.arange(len(corner))
    at = _landmarks(model, points[..., :2].index_select(1, first))
    return {"image": image, "points": at} | _openings(model, whole)


def _hair_points(p: Columns, model: Face, grid: hairs.Grid, locks: dict[str, Tensor]) -> Columns:
    skin = [sum(c.index_select(1, grid.skin[:, k]) * grid.share[k] for k in range(4)) for c in p]
    out, hang = locks["out"], locks["hang"]
    place = [s + grid.offset[:, i] + out * grid.out[:, i] for i, s in enumerate(skin)]
    n = len(out)
    # What hangs starts at the hairline's point of its column.
    columns = [c.view(n, hairs.COLUMNS, hairs.ROWS) for c in place]
    start = [c[..., hairs.SCALP - 1 : hairs.SCALP].expand_as(c).reshape(n, -1) for c in columns]
    down, swing = locks["down"], locks["swing"]
    sideways = grid.out[:, [0, 2]]
    flat = sideways / sideways.norm(dim=1, keepdim=True).clamp(min=1e-3)
    # Away from the neck at first, then in front of or behind the shoulders.
    away = 0.17 * (down * 3).clamp(max=1) + swing
    free = [start[0] + flat[:, 0] * away, start[1] - down, start[2] + flat[:, 1] * away * 0.8]
    below = (grid.row > 1).float() * hang
    return tuple(a + (b - a) * below for a, b in zip(place, free, strict=True))


def _hair_follow(grid: hairs.Grid, locks: dict[str, Tensor]) -> Tensor:
    """Long hair stays with the shoulders at its end."""
    return 1 - 0.5 * (locks["hang"] * (locks["down"] - 0.5) * 0.9).clamp(0, 1)


def _shades(
    t: Traits,
    model: Face,
    const: dict[str, Tensor],
    p: Columns,
    n: tuple[Tensor, ...],
    a: Tensor,
    e: Tensor,
    scene: Scene,
    expression: Tensor,
) -> Tensor:
    """Gain, gloss and opacity of the face's points, (N, P, 7)."""
    kx, ky, kz = scene.key
    nx, ny, nz = n
    count = len(a)
    # The light's direction as the head sees it: for what shades it from itself.
    back: Columns = (kx, ky, kz)
    ca, sa, ce, se = (f[:, None] for f in (a.cos(), a.sin(), e.cos(), e.sin()))
    lx, lz = back[0] * ca - back[2] * sa, back[2] * ca + back[0] * sa
    ly, lz = back[1] * ce - lz * se, lz * ce + back[1] * se
    local = torch.cat([lx, ly, lz], 1)
    seen = _exact(_harmonics(local), model.visibility[:, :9].t()).clamp_(0, 1)
    around = model.visibility[:, 9].clamp(0, 1)
    jaw = expression[:, [face().units.index("jawOpen")]].float().clamp(0, 1)
    inside = const["inner"] + ((model.group == TONGUE) | (model.group == UPPER_TEETH)
                               | (model.group == LOWER_TEETH)).float()  # fmt: skip
    around = around + inside * (0.12 + 0.3 * jaw)
    seen = seen + inside * 0.35 * jaw
    eye = (model.group == EYES[0]) | (model.group == EYES[1])
    raw = nx * kx + ny * ky + nz * kz
    up = 0.5 + 0.5 * ny
    skin = (model.group == SKIN).float()
    shades = torch.empty(count, len(model.points), 7)
    wraps = (0.3, 0.18, 0.14)  # light that goes through the skin, most of it red
    half = _unit((kx, ky, kz + 1.0))
    shine = (nx * half[0] + ny * half[1] + nz * half[2]).clamp(min=0)
    broad, sharp = _power(shine, 3), _power(shine, 5)
    rim = _power((1 - nz).clamp(0, 1), 2)
    oil = (0.7 + 0.35 * t["oil"].float()).clamp(0.1, 1.6)[:, None]
    lips = model.masks[:, 0] * skin
    wet = lips * (0.5 + 0.5 * t.share("lip_gloss").float()[:, None])
    gloss = seen * (broad * 13 + sharp * 16 * (oil + 1.6 * wet)) * skin + rim * 7 * around * skin
    gloss = gloss + eye.float() * sharp * 20
    tint = _tints(t, model)
    for c in range(3):
        w = wraps[c] * skin
        diffuse = ((raw + w) / (1 + w)).clamp_(min=0) * seen
        light = diffuse * scene.key_colour[:, c : c + 1]
        ambient = scene.ground[:, c : c + 1] + (scene.sky - scene.ground)[:, c : c + 1] * up
        ambient = ambient + scene.fill[:, None] * nz.clamp(min=0)
        light = light + ambient * (around if c else around + (1 - around) * 0.12)
        shades[..., c] = light.clamp_(min=0).sqrt_() * tint[c]
        shades[..., 3 + c] = gloss * scene.key_colour[:, c : c + 1]
    # Lids shade the upper part of the eyeball.
    for k in range(2):
        where = model.eyes[k]
        top = p[1].index_select(1, where)
        low = (top - top.mean(1, keepdim=True)) / 0.11
        shades[:, where, :3] *= (1.12 - 0.34 * (low - 0.1).clamp(0, 1))[..., None]
    shades[..., 6] = 1
    lash = (model.group == LASHES).nonzero()[:, 0]
    shades[:, lash, 6] = _lash_opacity(t, model, lash)
    return shades


@functools.cache
def _lash_tips() -> Tensor:
    """0 at a lash's root and 1 at its tip, by the distance from the skin."""
    model = face()
    lash = (model.group == LASHES).nonzero()[:, 0]
    skin = (model.group == SKIN) & (model.masks[:, 2] > 0.1)
    away = torch.cdist(model.points[lash], model.points[skin]).amin(1)
    tips = (away / 0.05).clamp(0, 1)
    return tips


def _lash_opacity(t: Traits, model: Face, lash: Tensor) -> Tensor:
    full = (0.55 + 0.1 * t["lashes"] + 0.16 * t["make_up"].clamp(-1, 1) - 0.3 * t.male).float()
    lower = (model.points[lash, 1] < 0.08).float() * 0.4
    return (full[:, None] + 0.15 - lower - 0.75 * _lash_tips()).clamp(0, 0.95)


def _tints(t: Traits, model: Face) -> list[Tensor]:
    """Factors (N, P) of red, green and blue for what has no texture of its own."""
    group = model.group
    teeth = ((group == UPPER_TEETH) | (group == LOWER_TEETH)).float()
    tongue = (group == TONGUE).float()
    yellow = (0.03 * t["teeth"]).float()[:, None]
    return [
        1 + teeth * (tooth - 1 - yellow * c) + tongue * (flesh - 1)
        for c, (tooth, flesh) in enumerate(((0.94, 0.72), (0.9, 0.32), (0.8, 0.33)))
    ]


def _shirt(
    t: Traits, model: Face, where: Tensor, p: Columns, n: tuple[Tensor, ...], shades: Tensor
) -> tuple[Columns, Tensor]:
    """Points and shades of the shirt: above its neckline it is left out."""
    x, y, z = model.points[where].unbind(1)
    kind = t.share("cloth_neck").float()[:, None]
    front = ((z + 0.1) * 2.5).clamp(0, 1)
    narrow = (1 - x.abs() / 0.45).clamp(min=0) * front
    # A crew neck is lower in front than behind, and the shoulders are covered.
    line = -1.6 - 0.33 * z + 0.9 * (x.abs() - 0.35).clamp(min=0)
    line = line - 0.14 * (kind > 0.4) - narrow * 0.5 * (kind > 0.65)  # a wide neck, a V neck
    line = line + 0.5 * (kind < 0.13) + 0.3 * (kind > 0.93)  # a polo neck, a collar
    cover = (line - y) * 6
    thick = 0.035 + 0.05 * (kind > 0.88) + 0.03 * (kind < 0.15)
    points: Columns = tuple(
        c.index_select(1, where) + thick * d.index_select(1, where)
        for c, d in zip(p, n, strict=True)
    )
    cloth = shades.index_select(1, where)
    cloth[..., 3:6] *= 0.12
    cloth[..., 6] = 1 + cover
    return points, cloth


def _hair_shades(
    grid: hairs.Grid, locks: dict[str, Tensor], h: Columns, n: tuple[Tensor, ...], scene: Scene
) -> Tensor:
    """As `_shades`, of the hair's grid: strands shine across their direction."""
    kx, ky, kz = scene.key
    nx, ny, nz = n
    along = [c.index_select(1, grid.around[3]) - c.index_select(1, grid.around[1]) for c in h]
    tx, ty, tz = _unit(tuple(along))
    half = _unit((kx, ky, kz + 1.0))
    across = (1 - _power(tx * half[0] + ty * half[1] + tz * half[2], 1)).clamp(0, 1)
    lit = (nx * kx + ny * ky + nz * kz + 0.25).clamp(min=0) / 1.25
    front = (nx * half[0] + ny * half[1] + nz * half[2]).clamp(min=0)
    sheen = _power(across, 3) * front * front
    gloss = sheen * 16
    # Hair that lies under other hair is darker.
    deep = (0.55 + 0.45 * (grid.row * 2.2).clamp(max=1)) * (1 - 0.25 * locks["hang"] * (nz < 0))
    shades = torch.empty(*h[0].shape, 7)
    up = 0.5 + 0.5 * ny
    for c in range(3):
        light = lit * scene.key_colour[:, c : c + 1]
        light = light + scene.ground[:, c : c + 1] + (scene.sky - scene.ground)[:, c : c + 1] * up
        light = light + scene.fill[:, None] * nz.clamp(min=0)
        shades[..., c] = (light * deep).clamp_(min=0).sqrt_() * (0.86 + 0.6 * sheen)
        shades[..., 3 + c] = gloss * scene.key_colour[:, c : c + 1]
    shades[..., 6] = locks["opacity"]
    return shades


def _sparks(model: Face, p: Columns, scene: Scene) -> tuple[Columns, Tensor]:
    """Reflections of the key light in the eyes: points (N, 14) and shades (N, 14, 7)."""
    half = _unit((scene.key[0], scene.key[1], scene.key[2] + 1.2))
    columns: list[list[Tensor]] = [[], [], []]
    for eye, pupil in zip(model.eyes, model.pupils, strict=True):
        middle = [c.index_select(1, eye).mean(1, keepdim=True) for c in p]
        gaze = [c[:, pupil : pupil + 1] - m for c, m in zip(p, middle, strict=True)]
        radius = (gaze[0] ** 2 + gaze[1] ** 2 + gaze[2] ** 2).sqrt()
        d = _unit(tuple(0.62 * g / radius + 0.38 * k for g, k in zip(gaze, half, strict=True)))
        at = [m + x * radius * 1.03 for m, x in zip(middle, d, strict=True)]
        for i in range(3):
            columns[i].append(at[i])
        for k in range(_SPARK):
            turn = 2 * math.pi * k / _SPARK
            columns[0].append(at[0] + 0.017 * math.cos(turn))
            columns[1].append(at[1] + 0.017 * math.sin(turn))
            columns[2].append(at[2] + 0 * at[2])
    points: Columns = tuple(torch.cat(c, 1) for c in columns)
    shades = torch.zeros(*points[0].shape, 7)
    shades[..., 3:6] = 235
    shades[..., 6] = 1
    return points, shades


def landmarks(
    identity: Tensor, azimuth: Tensor, elevation: Tensor, expression: Tensor, size: int
) -> Tensor:
    """The 68 points (N, 68, 2) in pixels of people with shoulders, as in `render_people`.

    Nothing is drawn, which is many times as fast. The arguments are those of `render_people`.
    """
    model = face()
    p = _centred(model, model.positions(shape_coefficients(Traits(identity)), expression))
    p = _posed(p, model.follow, _pivot(model, p), azimuth.float(), elevation.float())
    return _landmarks(model, _projected(p, size)[..., :2])


def _centred(model: Face, whole: Tensor) -> Columns:
    """Vertices (N, V, 3) with the pupils' middle at one place, whatever the head's size."""
    p: Columns = whole.unbind(2)
    pupils = torch.tensor(model.pupils)
    middle = [c.index_select(1, pupils).mean(1, keepdim=True) for c in p]
    return (p[0] - middle[0], p[1] - middle[1] + 0.08, p[2] - middle[2] + 1.09)


def _pivot(model: Face, p: Columns) -> Columns:
    """The point that heads turn about, (N, 1) each."""
    pivot: Columns = tuple(c.index_select(1, model.pivot).mean(1, keepdim=True) for c in p)
    return pivot


def _posed(
    columns: Columns, follow: Tensor, pivot: Columns, azimuth: Tensor, elevation: Tensor
) -> Columns:
    """Points (N, V) that are turned as far as they `follow` the head, from 0 to 1."""
    moved: Columns = tuple(c - q for c, q in zip(columns, pivot, strict=True))
    head = _rotate(moved, azimuth, elevation)
    body = _rotate(moved, azimuth * BODY, 0 * elevation)
    return tuple(b + (f - b) * follow + q for f, b, q in zip(head, body, pivot, strict=True))


def _projected(columns: Sequence[Tensor], size: int, alone: bool = False) -> Tensor:
    """Points (N, V, 3) in the image: x and y in pixels and the depth."""
    half, down = BUST if alone else (HALF, DOWN)
    scale = FAR * size / (2 * half) / (FAR - columns[2])
    x = columns[0] * scale + (size / 2 - 0.5)
    y = (columns[1] + down) * -scale + (size / 2 - 0.5)
    return torch.stack([x, y, columns[2]], 2)


def _landmarks(model: Face, points: Tensor) -> Tensor:
    """The 68 points (N, 68, 2) of vertices in pixels, (N, V, 2)."""
    at = points.index_select(1, model.landmarks)
    # The jaw: of each line's points, the one that lies outermost in the image.
    lines = points.index_select(1, model.contour.reshape(-1))
    lines = lines.view(len(points), *model.contour.shape, 2)
    angle = torch.tensor([158, 171, 184, 197, 210, 225, 240, 255, 270, 285, 300, 315, 330, 343, 356,
                          369, 382], dtype=torch.float32) * (math.pi / 180)  # fmt: skip
    outwards = torch.stack([angle.cos(), -angle.sin()], 1)
    score = (lines * outwards[:, None]).sum(-1)
    chosen = score.argmax(2)
    at[:, :17] = lines.gather(2, chosen[..., None, None].expand(-1, -1, 1, 2))[:, :, 0]
    return at


def _openings(model: Face, whole: Tensor) -> dict[str, Tensor]:
    """How far mouth and lids of vertices (N, V, 3) are open, decimetres."""
    marks = whole.index_select(1, model.landmarks)

    def gap(upper: list[int], lower: list[int]) -> Tensor:
        return (marks[:, upper, 1] - marks[:, lower, 1]).mean(1)

    lids = torch.stack([gap([37, 38], [41, 40]), gap([43, 44], [47, 46])], 1)
    return {"mouth": gap([61, 62, 63], [67, 66, 65]), "lids": lids}
