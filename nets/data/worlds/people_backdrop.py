"""What is behind the people: a colour field, a floor, shapes before it, grain."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from . import shapes
from .counted import uniform


@functools.lru_cache(maxsize=8)
def _grain(seed: int, side: int, device: str) -> Tensor:
    """Noise in [-0.5, 0.5), (side, side) float32."""
    ids = torch.arange(side * side, device=device)
    return uniform(seed, "grain", ids, 1).float().reshape(side, side) - 0.5


def backdrop(behind: dict[str, Tensor], size: int, seed: int) -> Tensor:
    """The backgrounds as tiles (N * tiles, 4, 64), nothing in the fourth channel."""
    field_ = behind["field"].float()
    n, device = field_.shape[0], field_.device
    pictures = torch.zeros(n, 4, size, size, device=device)
    pictures[:, :3] = F.interpolate(field_, (size, size), mode="bilinear", align_corners=True)
    tiles = shapes.tiles_from_pictures(pictures)
    rows = behind["shape"]
    middle, angle = rows[..., :2] * 1.2 - 0.1, rows[..., 2] * torch.pi
    along, across = 0.03 + 0.25 * rows[..., 3] ** 2, 0.02 + 0.12 * rows[..., 4] ** 2
    level = (rows[..., 5] < 0.6).double()  # most things are upright
    angle = angle * (1 - level) + level * (angle > torch.pi / 2) * torch.pi / 2
    step = torch.stack([angle.sin(), angle.cos()], -1) * along[..., None]
    floor = behind["floor"]
    ends = torch.stack([floor * 0 + 0.5, floor], -1)[:, None]
    near = torch.cat([ends, middle - step], 1) * size - 0.5
    far = torch.cat([ends * torch.tensor([1.0, 0.0]).to(ends) + 0.0, middle + step], 1)
    far[:, 0, 1] = 1.2
    far = far * size - 0.5
    wide = torch.cat([floor[:, None] * 0 + 0.75, across], 1) * size
    kind = torch.cat([floor[:, None] * 0 + 0.9, rows[..., 6]], 1)
    period = (0.04 + 0.08 * torch.cat([rows[:, :1, 7], rows[..., 7]], 1)) * size
    first = torch.cat([behind["floor_colour"][:, None], behind["shape_first"]], 1)
    second = torch.cat([behind["floor_colour"][:, None], behind["shape_second"]], 1)
    corner = torch.cat([floor[:, None] * 0 + 0.01, rows[..., 8]], 1)
    zero = torch.zeros_like(wide)
    fields = shapes.axis_fields(near, far, zero + 0.01 * size) | {
        **dict.fromkeys(
            ("taper", "bulge", "loose", "turn", "pu", "pv", "flat", "both", "dots"), zero
        ),
        "width": wide,
        "round": torch.where(corner < 0.5, 0.1, 1.0) * (corner > 0.02) + 0.01,
        "cut": zero + 1e6,
        "shade": (corner > 0.8) * 0.6,
        "fu": wide / period,
        "fv": 1 / period,
        "along": (kind < 0.15).double(),
        "across": ((kind > 0.1) & (kind < 0.3)).double(),
        "dots": ((kind > 0.3) & (kind < 0.38)).double(),
        "depth": torch.arange(wide.shape[1], device=device).to(wide) + zero,
    }
    for i in range(3):
        fields |= {f"a{i}": first[..., i], f"b{i}": first[..., i], f"c{i}": second[..., i]}
    shapes.paint(tiles, shapes.stack(fields), size, 0.0, wide.shape[1])
    bank = _grain(seed, size + 32, str(device))
    corner_at = (behind["grain_at"] * 32).long().tolist()
    grain = torch.stack([bank[y : y + size, x : x + size] for x, y in corner_at])
    strength = behind["grain"].float()[:, None, None, None]
    tiles[:, :3] += shapes.tiles_from_pictures(grain[:, None] * strength)
    return tiles
