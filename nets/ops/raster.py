"""Triangles drawn with a z-buffer: weights of the nearest triangle, and textured, shaded images.

A triangle is drawn if its points run clockwise in the image and all its coordinates are finite and
within 16383 px. A sample on an edge belongs to one of the two triangles. At equal depth the first
triangle is drawn. Positions are rounded to 1/256 of a sample, and attributes are interpolated
linearly in the image. No gradient flows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nets.ops._library import define

FAR = 16383.0  # px; a triangle with a coordinate beyond this is not drawn
UNITS = 256  # of a sample's side
SIDE, SAMPLES = 4096, 8  # the largest image in pixels, and samples per pixel and direction
_PAIRS = 1 << 22  # pairs of triangle and sample that the reference evaluates at once


def rasterise(
    points: Tensor, triangles: Tensor, size: int | tuple[int, int], samples: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest triangle of every sample, its weights, and its depth.

    points     [N, V, 3] float32: x and y in pixels, 0 the centre of the first pixel; z, larger is
               nearer
    triangles  [T, 3] int32, numbers of points, the same for all images
    size       (H, W) of the images, or one side, in pixels, at most 4096
    samples    S, 1 to 8: every pixel has S x S samples on a regular grid
    returns    number of the triangle [N, S H, S W] int32, -1 where there is none; weights of its
               second and third point [N, 2, S H, S W] float32, 0 where there is none; z
               [N, S H, S W] float32, -inf where there is none

    Raises TypeError or ValueError on a wrong type, shape, size or number of a point.
    """
    h, w = _checked("rasterise", points, triangles, size, samples)
    return _rasterise(points.detach(), triangles, h, w, samples)


def draw_mesh(
    points: Tensor,
    triangles: Tensor,
    shades: Tensor,
    uv: Tensor,
    texture: Tensor,
    size: int | tuple[int, int],
    samples: int = 1,
) -> Tensor:
    """Images of textured triangles: the mean of each pixel's samples, and their coverage.

    points, triangles, size, samples  as for `rasterise`
    shades   [N, V, 7] float32 of each point: gain (red, green, blue), gloss (red, green, blue) and
             opacity. A sample's level is texel * gain + gloss, clamped to [0, 255]
    uv       [V, 2] float32 in [0, 1]: place of each point in the texture, clamped at its border
    texture  [N, h, w, 4] uint8: red, green, blue, and how much opacity a texel adds. A sample is
             drawn where opacity + texel / 256 >= 1, so an opacity of 0 hides and 1 shows all
    returns  [N, 4, H, W] uint8: red, green, blue over black, and coverage, 255 is full

    Raises TypeError or ValueError on a wrong type, shape, size or number of a point.
    """
    h, w = _checked("draw_mesh", points, triangles, size, samples)
    n, v = points.shape[:2]
    expected = {
        "shades": (shades, torch.float32, [n, v, 7]),
        "uv": (uv, torch.float32, [v, 2]),
        "texture": (texture, torch.uint8, [n, *texture.shape[1:3], 4]),
    }
    for name, (value, dtype, shape) in expected.items():
        if value.dtype != dtype:
            raise TypeError(f"draw_mesh: {name} must be {dtype}, got {value.dtype}")
        if list(value.shape) != shape:
            raise ValueError(f"draw_mesh: {name} must be {shape}, got {list(value.shape)}")
    if not all(1 <= side <= SIDE for side in texture.shape[1:3]):
        raise ValueError(
            f"draw_mesh: texture must have 1 to {SIDE} texels a side, got {list(texture.shape)}"
        )
    return _draw(points.detach(), triangles, shades.detach(), uv.detach(), texture, h, w, samples)


def _checked(
    name: str, points: Tensor, triangles: Tensor, size: int | tuple[int, int], samples: int
) -> tuple[int, int]:
    if points.dtype != torch.float32:
        raise TypeError(f"{name}: points must be float32, got {points.dtype}")
    if triangles.dtype != torch.int32:
        raise TypeError(f"{name}: triangles must be int32, got {triangles.dtype}")
    if points.ndim != 3 or points.shape[2] != 3:
        raise ValueError(f"{name}: points must be [N, V, 3], got {list(points.shape)}")
    if triangles.ndim != 2 or triangles.shape[1] != 3:
        raise ValueError(f"{name}: triangles must be [T, 3], got {list(triangles.shape)}")
    h, w = (size, size) if isinstance(size, int) else size
    if not (1 <= h <= SIDE and 1 <= w <= SIDE):
        raise ValueError(f"{name}: size must be 1 to {SIDE} pixels, got {size}")
    if not 1 <= samples <= SAMPLES:
        raise ValueError(f"{name}: samples must be 1 to {SAMPLES}, got {samples}")
    if triangles.numel():
        low, high = (int(x) for x in triangles.aminmax())
        if low < 0 or high >= points.shape[1]:
            raise ValueError(
                f"{name}: triangles must be numbers of points, 0 to {points.shape[1] - 1}, "
                f"got {low} to {high}"
            )
    return h, w


def rasterise_reference(
    points: Tensor, triangles: Tensor, h: int, w: int, samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The definition of `rasterise`, in stock torch."""
    found = [_visible(p, triangles.long(), h, w, samples, None) for p in points]
    shape = (len(points), h * samples, w * samples)
    if not found:
        empty = points.new_zeros(shape)
        return empty.int(), points.new_zeros(0, 2, *shape[1:]), empty.clone()
    index, second, third, depth = (torch.stack(x).view(shape) for x in zip(*found, strict=True))
    return index.int(), torch.stack([second, third], 1), depth


def draw_mesh_reference(
    points: Tensor,
    triangles: Tensor,
    shades: Tensor,
    uv: Tensor,
    texture: Tensor,
    h: int,
    w: int,
    samples: int,
) -> Tensor:
    """The definition of `draw_mesh`, in stock torch."""
    image = torch.zeros(len(points), 4, h, w, dtype=torch.uint8, device=points.device)
    corners = triangles.long()
    for i in range(len(points)):
        surface = (corners, shades[i], uv, texture[i])
        index, second, third, _ = _visible(points[i], corners, h, w, samples, surface)
        covered = index >= 0
        levels = torch.zeros(4, len(index), dtype=torch.int64, device=points.device)
        levels[3] = covered
        t, w1, w2 = index[covered], second[covered], third[covered]
        texel = _texels(surface, t, w1, w2)
        shade = _blend(shades[i][corners[t]], w1, w2).double()
        fine = shade[:, 3:6] + shade[:, :3] * (texel[:, :3].double() / 65536)
        fine = torch.where(fine.isnan(), 0, (fine * 64 + 0.5).floor()).clamp(0, 255 * 64)
        levels[:3, covered] = fine.long().t()
        sums = levels.view(4, h, samples, w, samples).sum((2, 4))
        whole = samples * samples
        image[i, :3] = ((sums[:3] + 32 * whole) // (64 * whole)).byte()
        image[i, 3] = ((255 * sums[3] + whole // 2) // whole).byte()
    return image


_Surface = tuple[Tensor, Tensor, Tensor, Tensor]  # triangles, shades, uv, texture of one image


def _blend(corners: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """Values [M, C] float32 between those of three points [M, 3, C]."""
    d1, d2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    w1, w2 = w1[:, None].double(), w2[:, None].double()
    return (corners[:, 0].double() + w1 * d1.double() + w2 * d2.double()).float()


def _texels(surface: _Surface, t: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """Bilinear samples [M, 4] of the texture in 1/65536 of a level, int64."""
    corners, _, uv, texture = surface
    at = _blend(uv[corners[t]], w1, w2).double()
    sides = at.new_tensor([texture.shape[1], texture.shape[0]])
    at = ((at * sides - 0.5) * 256).floor()
    at = torch.where(at > 0, at, 0).minimum((sides - 1) * 256).long()
    first, share = at >> 8, at & 255
    second = torch.minimum(first + 1, sides.long() - 1)
    texture = texture.long()

    def row(y: Tensor) -> Tensor:
        x = share[:, :1]
        return texture[y, first[:, 0]] * (256 - x) + texture[y, second[:, 0]] * x

    y = share[:, 1:]
    return row(first[:, 1]) * (256 - y) + row(second[:, 1]) * y


def _visible(
    points: Tensor, corners: Tensor, h: int, w: int, samples: int, surface: _Surface | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Triangle, its two weights and depth of every sample of one image, [S H * S W] each."""
    rows, columns = h * samples, w * samples
    count = rows * columns
    depth = points.new_full((count,), -torch.inf)
    index = torch.full((count,), -1, dtype=torch.int64, device=points.device)
    weights = points.new_zeros(2, count)
    good = (points.abs() <= FAR).all(-1)
    place = torch.where(good[:, None], points[:, :2], 0).double()
    place = ((place + 0.5) * (samples * UNITS) + 0.5).floor().long()
    p = place[corners]  # [T, 3, 2]
    drawn = good[corners].all(1) & (_edge(p[:, 0], p[:, 1], p[:, 2]) > 0)
    half = UNITS // 2
    limit = place.new_tensor([columns - 1, rows - 1])
    low = ((p.amin(1) + half - 1) >> 8).clamp(min=0)
    high = torch.minimum((p.amax(1) - half) >> 8, limit)
    span = (high - low + 1).clamp(min=0)
    pairs = torch.where(drawn, span[:, 0] * span[:, 1], 0)
    start = 0
    while start < len(corners):
        # As many triangles as fit, at least one.
        fits = int((pairs[start:].cumsum(0) <= _PAIRS).sum())
        chosen = torch.arange(start, start + max(1, fits), device=points.device)
        start += len(chosen)
        t = chosen.repeat_interleave(pairs[chosen])
        first = pairs[chosen].cumsum(0) - pairs[chosen]
        number = torch.arange(len(t), device=points.device) - first.repeat_interleave(pairs[chosen])
        wide = span[t, 0]
        x, y = low[t, 0] + number % wide, low[t, 1] + number // wide
        q = torch.stack([x, y], 1) * UNITS + half
        a, b, c = p[t].unbind(1)
        values = [_edge(b, c, q), _edge(c, a, q), _edge(a, b, q)]
        sides = [_owned(b, c), _owned(c, a), _owned(a, b)]
        inside = torch.stack([v + o >= 0 for v, o in zip(values, sides, strict=True)]).all(0)
        t, at = t[inside], (y * columns + x)[inside]
        inverse = 1 / _edge(a, b, c)[inside].float()
        w1, w2 = values[1][inside].float() * inverse, values[2][inside].float() * inverse
        z = _blend(points[corners[t], 2][..., None], w1, w2)[:, 0]
        if surface is not None:
            opacity = _blend(surface[1][corners[t], 6][..., None], w1, w2)[:, 0].double()
            solid = (surface[1][corners[t], 6] >= 1).all(1)
            keep = opacity + _texels(surface, t, w1, w2)[:, 3] / 16777216 >= 1
            keep |= solid
            t, at, w1, w2, z = (value[keep] for value in (t, at, w1, w2, z))
        nearest = depth.clone().scatter_reduce_(0, at, z, "amax")
        new = (z == nearest[at]) & (z > depth[at])
        winner = torch.full_like(index, len(corners)).scatter_reduce_(0, at[new], t[new], "amin")
        new &= winner[at] == t
        index[at[new]], depth[at[new]] = t[new], z[new]
        weights[0, at[new]], weights[1, at[new]] = w1[new], w2[new]
    return index, weights[0], weights[1], depth


def _edge(a: Tensor, b: Tensor, q: Tensor) -> Tensor:
    """Twice the area of a, b, q [M, 2]; positive if they run clockwise in the image."""
    d, e = b - a, q - a
    return d[:, 0] * e[:, 1] - d[:, 1] * e[:, 0]


def _owned(a: Tensor, b: Tensor) -> Tensor:
    """0 for an upper or a left edge, whose samples count, else -1."""
    d = b - a
    return ((d[:, 1] < 0) | ((d[:, 1] == 0) & (d[:, 0] > 0))).long() - 1


_rasterise = define(
    "rasterise(Tensor points, Tensor triangles, int h, int w, int samples)"
    " -> (Tensor, Tensor, Tensor)",
    rasterise_reference,
    lambda points, triangles, h, w, s: (
        points.new_empty(points.shape[0], h * s, w * s, dtype=torch.int32),
        points.new_empty(points.shape[0], 2, h * s, w * s),
        points.new_empty(points.shape[0], h * s, w * s),
    ),
    autocast=False,
    vmap=False,
)
_draw = define(
    "draw_mesh(Tensor points, Tensor triangles, Tensor shades, Tensor uv, Tensor texture,"
    " int h, int w, int samples) -> Tensor",
    draw_mesh_reference,
    lambda points, triangles, shades, uv, texture, h, w, s: points.new_empty(
        points.shape[0], 4, h, w, dtype=torch.uint8
    ),
    autocast=False,
    vmap=False,
)
