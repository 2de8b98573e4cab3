"""Paints many textured, rounded, tapered boxes into many images at once.

Every shape has an axis: v runs along it, u across. Its half width is a parabola over the axis, and
its corners are rounded. It is shaded like a cylinder, and its texture is wrapped around it. Images
are cut into tiles of 8 x 8 pixels. A shape is evaluated only in the tiles that it touches, for all
images and shapes in one expression. The tiles are then blended from back to front. Distances are in
pixels, so edges are smooth at every size. Pixels are computed with + - * / sqrt, floor, clamp and
comparisons only, so an image does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

SIDE = 8  # side of a tile, in pixels
PIXELS = SIDE * SIDE

# The numbers of a shape, lengths in pixels:
#   cx cy, vx vy       centre, unit axis v (u is v turned by -90 degrees)
#   half               half length
#   width taper bulge  half width at the middle, its change towards the far end, bulge in the middle
#   round              roundness of the corners (1: a capsule)
#   cut, loose         where the cloth ends along v; its extra half width
#   shade              strength of the shading
#   a, c               colour of the cloth at the near end, second colour of its texture
#   opaque             value for the fourth channel
#   b                  plain colour of the far end, from `cut` on
#   turn ... dots      texture, see `texture`
#   depth              larger is nearer
FIELDS = (
    *("cx", "cy", "vx", "vy", "half", "width", "taper", "bulge", "round", "cut", "loose", "shade"),
    *("a0", "a1", "a2", "opaque", "b0", "b1", "b2", "c0", "c1", "c2"),
    *("turn", "fu", "fv", "pv", "along", "across", "both", "dots", "depth"),
)
_AT = {name: i for i, name in enumerate(FIELDS)}

Detail = tuple[int, Callable[[Tensor, "Local", Tensor], None], Tensor]


class Local:
    """Coordinates of the pixels of R tiles relative to their shapes, (R, 64) each, in pixels."""

    def __init__(self, u: Tensor, v: Tensor, across: Tensor) -> None:
        self.u, self.v, self.across = u, v, across  # across: u over the half width, in [-1, 1]

    def rows(self, chosen: Tensor) -> Local:
        """The rows with the given indices."""
        return Local(*(x.index_select(0, chosen) for x in (self.u, self.v, self.across)))

    def narrow(self, start: int, count: int) -> Local:
        """The rows start .. start + count - 1."""
        return Local(*(x.narrow(0, start, count) for x in (self.u, self.v, self.across)))


def axis_fields(near: Tensor, far: Tensor, reach: Tensor) -> dict[str, Tensor]:
    """Centre, axis and half length of shapes between two points (..., 2), longer by `reach` px."""
    delta = far - near
    length = delta.square().sum(-1).sqrt().clamp(min=1e-3)
    centre = (near + far) / 2
    return {
        "cx": centre[..., 0],
        "cy": centre[..., 1],
        "vx": delta[..., 0] / length,
        "vy": delta[..., 1] / length,
        "half": length / 2 + reach,
    }


def stack(fields: dict[str, Tensor]) -> Tensor:
    """The table of shapes, (N, P, F) float32 in the order of FIELDS, from (N, P) tensors."""
    return torch.stack([fields[name] for name in FIELDS], -1).float()


def soft(edge: Tensor) -> Tensor:
    """Coverage from a signed distance in pixels, positive inside; works in place."""
    return edge.add_(0.5).clamp_(0, 1)


def images_from_tiles(tiles: Tensor, size: int) -> Tensor:
    """Images (N, C, size, size) from tiles (N * tiles, C, 64) uint8; size a multiple of 8."""
    k = size // SIDE
    rows = tiles.view(torch.int64)  # eight pixels as one number: fewer copies
    n, c = rows.shape[0] // (k * k), rows.shape[1]
    rows = rows.reshape(n, k, k, c, SIDE).permute(0, 3, 1, 4, 2).contiguous()
    return rows.view(torch.uint8).reshape(n, c, size, size)


def _touching(table: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Whether a shape may reach a tile, and u and v of the tile's first pixel, (P, N, T) each."""
    cx, cy, vx, vy, half, width, taper, bulge, loose = (
        table[..., _AT[name], None].transpose(0, 1)
        for name in ("cx", "cy", "vx", "vy", "half", "width", "taper", "bulge", "loose")
    )
    first = torch.arange(0, size, SIDE, device=table.device, dtype=table.dtype)
    dx = first.repeat(len(first)) - cx
    dy = first.repeat_interleave(len(first)) - cy
    u, v = dx * vy - dy * vx, dx * vx + dy * vy
    middle = (SIDE - 1) / 2
    margin = middle * (vx.abs() + vy.abs()) + 1
    wide = width + taper.abs() + bulge.clamp(min=0) + loose
    near_u = (u + middle * (vy - vx)).abs() <= wide + margin
    near_v = (v + middle * (vx + vy)).abs() <= half + margin
    return near_u & near_v & (width > 0), u, v


def texture(local: Local, get: Callable[[str], Tensor]) -> Tensor:
    """Share of the second colour in [0, 1], (R, 64): plain, stripes both ways, checks or dots.

    fu, fv  cycles per radian around the shape and per pixel along it
    pv      phase in cycles
    along, across, both, dots  weights of stripes along v, stripes along u, their product, and dots
    Edges are one pixel soft. Textures finer than a pixel fade to their mean.
    """
    x = local.across
    angle = (x * x).mul_(0.42).add_(1.0).mul_(x)  # close to asin, cheaper: 1.42 at the outline
    fu, fv = get("fu"), get("fv")
    period_u = get("width").clamp(min=1) / fu.abs().clamp(min=1e-4)
    period_v = 1 / fv.abs().clamp(min=1e-4)
    s = angle.add_(get("turn")).mul_(fu)
    s.sub_(s.floor()).sub_(0.5).abs_()  # 0 at the middle of a stripe, 0.5 between stripes
    t = (local.v * fv).add_(get("pv"))
    t.sub_(t.floor()).sub_(0.5).abs_()
    dots = (s * s).addcmul_(t, t).sqrt_()
    dots.neg_().add_(0.3).mul_(torch.minimum(period_u, period_v))
    along = soft(s.neg_().add_(0.25).mul_(period_u))
    across = soft(t.neg_().add_(0.25).mul_(period_v))
    share = soft(dots).mul_(get("dots")).addcmul_(along, get("along"))
    share.addcmul_(across, get("across"))
    return share.addcmul_(along.mul_(across), get("both")).clamp_(0, 1)


def _evaluate(
    get: Callable[[str], Tensor], u0: Tensor, v0: Tensor
) -> tuple[Tensor, Local, Tensor, Tensor]:
    """Coverage, coordinates, shade and share of the far colour, (R, 64) each."""
    step = torch.arange(PIXELS, device=u0.device)
    sx, sy = (step % SIDE).to(u0.dtype), (step // SIDE).to(u0.dtype)
    vx, vy = get("vx"), get("vy")
    u = (sx * vy).add_(u0).sub_(sy * vx)
    v = (sx * vx).add_(v0).add_(sy * vy)
    half = get("half")
    far = soft(v - get("cut"))
    t = (v / half).clamp_(-1, 1)
    width = (t * get("taper")).add_(get("width") + get("bulge")).addcmul_(t * t, -get("bulge"))
    width.sub_(far * get("loose")).add_(get("loose"))
    radius = width * get("round")
    # A rounded box: distance to its inner box, minus the radius (of 0.5 px or more inside).
    du = u.abs().sub_(width).add_(radius).clamp_(min=0)
    dv = v.abs().sub_(half).add_(radius).clamp_(min=0)
    cover = soft(du.square_().addcmul_(dv, dv).sqrt_().neg_().add_(radius))
    x = (u / width).clamp_(-1, 1)
    # A cylinder lit from the upper left, in front: normal (x, sqrt(1 - x^2)) in (u, out).
    shade = (x * x).neg_().add_(1.0).sqrt_().sub_(1.0).mul_(0.62)
    shade.addcmul_(x, (vx * 0.2 - vy * 0.16)).mul_(get("shade")).add_(1.0)
    return cover, Local(u, v, x), shade, far


def paint(tiles: Tensor, table: Tensor, size: int, details: Sequence[Detail] = ()) -> None:
    """Paints shapes over images, in place, each image's shapes from back to front.

    tiles    (N * tiles, 4, 64) float32: red, green, blue in [0, 255], and the shapes' `opaque`
    table    (N, P, F) float32, columns as in FIELDS; shapes of zero width are skipped
    details  painted on single shapes: the shape's index, a function, and numbers (N, k) of each
             image. The function gets colour (R, 3, 64), which it changes in place, the local
             coordinates, and the rows' numbers (R, k, 1)
    """
    n, p, _ = table.shape
    touching, u0, v0 = _touching(table, size)
    depth = table[..., _AT["depth"]]
    rank = depth.argsort(dim=1, stable=True).argsort(1).t()  # (P, N), 0 is the farthest
    shape, image, tile = touching.nonzero(as_tuple=True)
    if not len(shape):
        return
    params = table.transpose(0, 1).reshape(n * p, -1).index_select(0, shape * n + image)

    def get(name: str) -> Tensor:
        return params[:, _AT[name], None]

    cover, local, shade, far = _evaluate(get, u0[touching][:, None], v0[touching][:, None])
    colour = params[:, _AT["a0"] : _AT["a0"] + 4, None].expand(-1, -1, PIXELS).contiguous()
    rgb = colour[:, :3]
    weights = params[:, _AT["along"] : _AT["dots"] + 1]
    rows = (weights != 0).any(1).nonzero()[:, 0]
    own = params.index_select(0, rows)
    share = texture(local.rows(rows), lambda name: own[:, _AT[name], None])
    mixed = colour.index_select(0, rows)
    second = own[:, _AT["c0"] : _AT["c0"] + 3, None] - own[:, _AT["a0"] : _AT["a0"] + 3, None]
    mixed[:, :3].addcmul_(second, share[:, None])
    colour.index_copy_(0, rows, mixed)
    ends = torch.bincount(shape, minlength=p).cumsum(0).tolist()
    for index, detail, numbers in details:
        start = ends[index - 1] if index else 0
        count = ends[index] - start
        own = numbers.index_select(0, image.narrow(0, start, count))[..., None]
        detail(rgb.narrow(0, start, count), local.narrow(start, count), own)
    rows = (get("cut") < get("half")).nonzero()[:, 0]
    mixed = colour.index_select(0, rows)
    other = params.index_select(0, rows)[:, _AT["b0"] : _AT["b0"] + 3, None] - mixed[:, :3]
    mixed[:, :3].addcmul_(other, far.index_select(0, rows)[:, None])
    colour.index_copy_(0, rows, mixed)
    rgb.mul_(shade[:, None])

    # Blend in rounds: the k-th round blends the k-th shape from the back of every tile.
    place = image * (size // SIDE) ** 2 + tile
    order = torch.argsort(rank[shape, image] + place * p)
    place = place[order]
    new = torch.ones_like(place, dtype=torch.bool)
    new[1:] = place[1:] != place[:-1]
    position = torch.arange(len(place), device=place.device)
    turn = position - torch.where(new, position, 0).cummax(0).values
    rounds = torch.bincount(turn).tolist()
    by_turn = torch.argsort(turn, stable=True)
    for chosen in by_turn.split(rounds):
        where, row = place[chosen], order[chosen]
        below = tiles.index_select(0, where)
        above = colour.index_select(0, row).sub_(below)
        tiles.index_copy_(0, where, below.addcmul_(above, cover.index_select(0, row)[:, None]))
