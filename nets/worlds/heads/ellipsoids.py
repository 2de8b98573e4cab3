"""Paints many shaded ellipsoids into many images at once: orthographic, exact, with hard edges.

Seen along z, the front of an ellipsoid is  depth(x, y) = d0 - b.(x, y) + s,  s = sqrt(K),  with K a
quadratic form. Its normal is proportional to (k.(x, y) + b s, s). So a pixel costs one product of a
row of coefficients with the basis (1, x, y, x^2, x y, y^2), a square root and a dozen
multiplications. As in `shapes`, images are cut into tiles of 8 x 8 pixels. A part is evaluated only
in the tiles that it reaches, for all images and parts in one expression.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nets.worlds.shapes import PIXELS, SIDE

AMBIENT, DIFFUSE = 0.25, 0.75
SHARPNESS = 14.0  # of the blend of the smooth parts' normals, per unit of depth
FAR = -1e9  # depth of the background


@dataclass
class Ellipsoids:
    """Parts of N heads in the camera's frame (x right, y up, z to the viewer), float64.

    The normals of the first `smooth` parts are blended where they overlap. The last `clipped` parts
    are cut by a plane. A part with a radius of 0 is skipped.
    """

    centre: Tensor  # (N, P, 3)
    axes: Tensor  # (N, P, 3, 3): columns are the half axes (radius times direction)
    smooth: int
    clipped: int
    plane: Tensor  # (N, clipped, 4): keeps the points p with plane[:3].p >= plane[3]

    def rows(self, chosen: slice) -> Ellipsoids:
        """The heads of a slice."""
        centre, axes, plane = self.centre[chosen], self.axes[chosen], self.plane[chosen]
        return Ellipsoids(centre, axes, self.smooth, self.clipped, plane)


def _coefficients(parts: Ellipsoids) -> dict[str, Tensor]:
    """Coefficients of each part's front relative to its centre, (N, P) each."""
    exists = parts.axes.square().sum(-2).amin(-1) > 0
    safe = torch.where(exists[..., None, None], parts.axes, torch.eye(3).to(parts.axes))
    spread = safe @ safe.transpose(-1, -2)
    xx, xy, yy = spread[..., 0, 0], spread[..., 0, 1], spread[..., 1, 1]
    xz, yz, zz = spread[..., 0, 2], spread[..., 1, 2], spread[..., 2, 2]
    det = xx * yy - xy * xy
    exx, exy, eyy = yy / det, -xy / det, xx / det  # the outline: e.(x, y)^2 = 1
    bx, by = -(exx * xz + exy * yz), -(exy * xz + eyy * yz)
    top = zz + bx * xz + by * yz  # K over the centre
    return {
        "exists": exists, "bx": bx, "by": by, "top": top, "exx": exx, "exy": exy, "eyy": eyy,
        "kxx": exx * top, "kxy": exy * top, "kyy": eyy * top,
        "cx": parts.centre[..., 0], "cy": parts.centre[..., 1], "cz": parts.centre[..., 2],
    }  # fmt: skip


def _touching(part: dict[str, Tensor], left: float, top: float, step: float, k: int) -> Tensor:
    """Whether a part may reach a tile of the k x k, (P, N, k * k) bool."""
    middle = (torch.arange(k, device=part["cx"].device) * SIDE + (SIDE - 1) / 2) * step
    half = (SIDE - 1) / 2 * step
    x = left + middle - part["cx"][..., None]
    y = top - middle - part["cy"][..., None]
    e = {name: part[name][..., None] for name in ("exx", "exy", "eyy")}
    # |tile's middle| <= 1 + |tile's corner - middle| in the norm whose unit circle is the outline.
    reach = 1 + half * (e["exx"] + e["eyy"] + 2 * e["exy"].abs()).sqrt()
    norm = (e["exx"] * x * x)[..., None, :] + (e["eyy"] * y * y)[..., :, None]
    norm += 2 * (e["exy"] * y)[..., :, None] * x[..., None, :]
    near = (norm <= (reach * reach)[..., None]) & part["exists"][..., None, None]
    return near.flatten(2).transpose(0, 1)


def _basis(step: float, device: torch.device) -> Tensor:
    """1, x, y, x^2, x y, y^2 of a tile's pixels relative to its first one, (6, 64)."""
    index = torch.arange(PIXELS, device=device, dtype=torch.float64)
    x, y = index % SIDE * step, -(index // SIDE) * step
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])


def paint(
    parts: Ellipsoids, light: Tensor, size: int, left: float, top: float, step: float
) -> tuple[Tensor, Tensor]:
    """The shade and the visible part of each pixel, both (N * tiles, 64) float32.

    light            (N, 3) unit vectors towards the light, in the camera's frame
    size             side of the images, a multiple of 8
    left, top, step  x and y of the first pixel's centre, and the distance of two pixels
    shade            AMBIENT + DIFFUSE max(0, normal.light); 1 on the background
    part             number of the nearest part; -1 on the background. Smooth parts count as 0.
    """
    n, p = parts.centre.shape[:2]
    k = size // SIDE
    tiles = k * k
    device = light.device
    own = _coefficients(parts)
    touching = _touching(own, left, top, step, k)
    which, image, tile = touching.nonzero(as_tuple=True)
    ends = torch.bincount(which, minlength=p).cumsum(0).tolist()
    place = image * tiles + tile
    table = torch.stack(list(own.values())[1:], -1).transpose(0, 1).reshape(n * p, -1)
    rows = table.index_select(0, which * n + image).unbind(1)
    bx, by, k0, _, _, _, kxx, kxy, kyy, cx, cy, cz = rows
    x = left + (tile % k) * (SIDE * step) - cx
    y = top - (tile // k) * (SIDE * step) - cy
    gx, gy = kxx * x + kxy * y, kxy * x + kyy * y
    zero = torch.zeros_like(x)
    numbers = torch.stack(
        [
            *(k0 - gx * x - gy * y, -2 * gx, -2 * gy, -kxx, -2 * kxy, -kyy),
            *(cz - bx * x - by * y, -bx, -by, zero, zero, zero),
            *(gx, kxx, kxy, zero, zero, zero),
            *(gy, kxy, kyy, zero, zero, zero),
        ]
    )
    numbers = numbers.view(4, 6, -1).transpose(1, 2).reshape(-1, 6)
    basis = _basis(step, device)
    inside, depth, nx, ny = (numbers.float() @ basis.float()).view(4, -1, PIXELS)
    hit = inside > 0
    s = inside.clamp_(min=0).sqrt_()
    depth.add_(s)
    slope_x, slope_y = bx.float()[:, None], by.float()[:, None]
    nx.add_(slope_x * s)
    ny.add_(slope_y * s)
    nz = s
    if parts.clipped:
        start = ends[p - parts.clipped - 1]
        chosen = slice(start, None)
        _clip(parts, which[chosen] - (p - parts.clipped), image[chosen], tile[chosen],
              (left, top, step, k), basis, (hit[chosen], depth[chosen], nx[chosen], ny[chosen],
              nz[chosen]), slope_x[chosen], slope_y[chosen])  # fmt: skip
    length = (nx * nx).addcmul_(ny, ny).addcmul_(nz, nz).clamp_(min=1e-20).rsqrt_()
    length.mul_(hit)
    depth.masked_fill_(~hit, FAR)

    # The smooth parts: depth is the nearest one's, the normal a sum weighted by exp(depth).
    skin = ends[parts.smooth - 1] if parts.smooth else 0
    front = torch.full((n * tiles, PIXELS), FAR, device=device)
    total = torch.zeros(3, n * tiles, PIXELS, device=device)
    weight = (depth[:skin] * SHARPNESS).exp_().mul_(length[:skin])
    for axis, normal in zip(total, (nx, ny, nz), strict=True):
        axis.index_add_(0, place[:skin], normal[:skin] * weight)
    start = 0
    for end in ends[: parts.smooth]:
        where = place[start:end]
        nearest = torch.maximum(front.index_select(0, where), depth[start:end])
        front.index_copy_(0, where, nearest)
        start = end
    lights = light.float().repeat_interleave(tiles, 0)
    shade = total[0] * lights[:, 0:1]
    shade.addcmul_(total[1], lights[:, 1:2]).addcmul_(total[2], lights[:, 2:3])
    square = total.square_().sum(0).clamp_(min=1e-20)
    shade.mul_(square.rsqrt_()).clamp_(min=0).mul_(DIFFUSE).add_(AMBIENT)
    shown = torch.where(front > FAR, 0.0, -1.0)
    shade.masked_fill_(front == FAR, 1)

    # The other parts, one after the other: each replaces farther pixels.
    rest = slice(skin, None)
    lit = light.float().index_select(0, image[rest])
    value = nx[rest] * lit[:, 0:1]
    value.addcmul_(ny[rest], lit[:, 1:2]).addcmul_(nz[rest], lit[:, 2:3]).mul_(length[rest])
    value.clamp_(min=0).mul_(DIFFUSE).add_(AMBIENT)
    for number in range(parts.smooth, p):
        end = ends[number]
        if end == start:
            continue
        where = place[start:end]
        below = front.index_select(0, where)
        nearer = depth[start:end] > below
        front.index_copy_(0, where, torch.where(nearer, depth[start:end], below))
        seen = torch.where(nearer, value[start - skin : end - skin], shade.index_select(0, where))
        shade.index_copy_(0, where, seen)
        shown.index_copy_(0, where, shown.index_select(0, where).masked_fill_(nearer, number))
        start = end
    return shade, shown


def _clip(
    parts: Ellipsoids,
    which: Tensor,
    image: Tensor,
    tile: Tensor,
    raster: tuple[float, float, float, int],
    basis: Tensor,
    surface: tuple[Tensor, ...],
    slope_x: Tensor,
    slope_y: Tensor,
) -> None:
    """Cuts rows by their planes, in place; where the front is cut off, the back becomes visible."""
    left, top, step, k = raster
    hit, depth, nx, ny, nz = surface
    plane = parts.plane[image, which]
    x, y = left + (tile % k) * (SIDE * step), top - (tile // k) * (SIDE * step)
    a, b, c, limit = plane.unbind(1)
    numbers = torch.stack([a * x + b * y - limit, a, b], 1).float()
    rest = numbers @ basis[:3].float()
    c = c.float()[:, None]
    front = torch.addcmul(rest, depth, c) >= 0
    behind = depth - 2 * nz
    back = torch.addcmul(rest, behind, c) >= 0
    inner = back & ~front
    # At the back s has the other sign, and the normal points inwards.
    depth.copy_(torch.where(inner, behind, depth))
    for normal, slope in ((nx, slope_x), (ny, slope_y)):
        normal.copy_(torch.where(inner, 2 * slope * nz - normal, normal))
    hit.logical_and_(front | back)
