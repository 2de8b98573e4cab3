"""The background of the demo images: a colour field, a floor, objects, grain."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from nets.random import uniform
from nets.worlds import shapes

_SHIFTS = 16  # largest shift of an image's grain in each direction, in tiles


def colour_field(background: dict[str, Tensor], size: int) -> Tensor:
    """A smooth colour field: tiles (N * tiles, 4, 64), 0 in the fourth channel."""
    field = background["field"].float()
    n, k = field.shape[0], size // shapes.SIDE
    # The colours at the tiles' corners, then bilinear interpolation inside of each tile.
    corners = F.interpolate(field, (k + 1, k + 1), mode="bilinear", align_corners=True)
    here = corners.permute(0, 2, 3, 1)[..., None]
    right, down = here[:, :-1, 1:], here[:, 1:, :-1]
    both, here = here[:, 1:, 1:], here[:, :-1, :-1]
    step = torch.arange(shapes.PIXELS, device=field.device)
    x = (step % shapes.SIDE + 0.5) / shapes.SIDE
    y = (step // shapes.SIDE + 0.5) / shapes.SIDE
    tiles = field.new_zeros(n, k, k, 4, shapes.PIXELS)
    rgb = tiles[..., :3, :]
    rgb.copy_(here).addcmul_(right - here, x).addcmul_(down - here, y)
    rgb.addcmul_(both - right - down + here, x * y)
    return tiles.reshape(-1, 4, shapes.PIXELS)


def objects(background: dict[str, Tensor], size: int) -> Tensor:
    """The table of the floor and the objects of a background, (N, P, F), for `shapes.paint`."""
    rows = background["shape"]
    middle, angle = rows[..., :2] * 1.2 - 0.1, rows[..., 2]
    along, across = 0.03 + 0.25 * rows[..., 3] ** 2, 0.02 + 0.12 * rows[..., 4] ** 2
    upright = rows[..., 5] < 0.6
    angle = torch.where(upright, (angle > 0.5) / 2, angle) * torch.pi
    step = torch.stack([angle.sin(), angle.cos()], -1) * along[..., None]
    # The floor is a box across the lower edge of the image.
    floor = background["floor"][:, None]
    centre = torch.full_like(floor, 0.5)
    near = torch.cat([torch.stack([centre, floor], -1), middle - step], 1) * size - 0.5
    far = torch.cat([torch.stack([centre, centre + 0.7], -1), middle + step], 1) * size - 0.5
    wide = torch.cat([centre + 0.25, across], 1) * size
    kind = torch.cat([centre + 0.4, rows[..., 6]], 1)
    corner = torch.cat([centre * 0, rows[..., 8]], 1)
    period = (0.04 + 0.08 * torch.cat([centre, rows[..., 7]], 1)) * size
    first = torch.cat([background["floor_colour"][:, None], background["shape_first"]], 1)
    second = torch.cat([background["floor_colour"][:, None], background["shape_second"]], 1)
    zero = torch.zeros_like(wide)
    zeros = ("taper", "bulge", "loose", "turn", "pv", "both", "opaque")
    fields = shapes.axis_fields(near, far, zero) | {
        **dict.fromkeys(zeros, zero),
        "width": wide,
        "round": torch.where(corner < 0.5, 0.5 + 0.1 * wide, wide) / wide,
        "cut": zero + 1e6,
        "shade": (corner > 0.8) * 0.6,
        "fu": wide / period,
        "fv": 1 / period,
        "along": (kind < 0.15).double(),
        "across": ((kind > 0.1) & (kind < 0.3)).double(),
        "dots": ((kind > 0.3) & (kind < 0.38)).double(),
        "depth": zero - 100 + torch.arange(wide.shape[1], device=zero.device),
    }
    for i in range(3):
        fields |= {f"a{i}": first[..., i], f"b{i}": first[..., i], f"c{i}": second[..., i]}
    return shapes.stack(fields)


@functools.lru_cache(maxsize=4)
def _noise(seed: int, side: int, device: str) -> Tensor:
    """Tiles of noise in [-0.5, 0.5), (side, side, 64) float32."""
    ids = torch.arange(side * side, device=device)
    noise = uniform(seed, "grain", ids, shapes.PIXELS).float() - 0.5
    return noise.reshape(side, side, shapes.PIXELS)


def add_grain(tiles: Tensor, background: dict[str, Tensor], size: int, seed: int) -> None:
    """Adds noise to the background, in place; the tiles' fourth channel covers the person."""
    k = size // shapes.SIDE
    bank = _noise(seed, k + _SHIFTS - 1, str(tiles.device))
    starts = (background["grain_at"] * _SHIFTS).long().tolist()
    grain = torch.stack([bank[y : y + k, x : x + k] for x, y in starts])
    grain *= background["grain"].float()[:, None, None, None]
    grain = grain.reshape(-1, 1, shapes.PIXELS)
    grain.addcmul_(grain, tiles[:, 3:], value=-1)
    tiles[:, :3] += grain
