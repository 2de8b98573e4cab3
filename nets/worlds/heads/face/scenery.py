"""Light and backgrounds of portraits: walls, windows, shelves, trees, lamps, out of focus."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nets.random import uniform

_CELLS = 20  # side of the coarse image, which is blurred as it is enlarged
_THINGS = 9
# Walls and open air, as pairs of colours: above and below.
_PLACES = (
    (206, 202, 194, 170, 162, 150),
    (178, 186, 190, 120, 124, 126),
    (96, 100, 108, 60, 60, 66),
    (214, 196, 170, 150, 120, 92),
    (150, 186, 220, 96, 120, 74),
    (196, 214, 232, 130, 132, 128),
    (70, 92, 66, 46, 58, 40),
    (52, 58, 78, 30, 30, 40),
    (226, 226, 226, 206, 206, 206),
    (140, 100, 80, 84, 60, 48),
    (120, 150, 160, 70, 92, 100),
    (232, 210, 196, 190, 160, 150),
)


def backgrounds(ids: Tensor, seed: int = 0) -> Tensor:
    """Coarse images (N, 3, 20, 20) float32 in [0, 255], for `enlarged`.

    ids  (N,) int64, 0 or more
    """
    n = len(ids)
    draw = uniform(seed, "face background", ids, 12 + 9 * _THINGS).float()
    table = torch.tensor(_PLACES, dtype=torch.float32)
    place = table[(draw[:, 0] * len(table)).long()] * (0.75 + 0.4 * draw[:, 1:2])
    tint = 1 + 0.12 * (draw[:, 2:5] - 0.5)
    x = (torch.arange(_CELLS) + 0.5) / _CELLS
    level = 0.25 + 0.6 * draw[:, 5, None]
    sharp = torch.where(draw[:, 6, None] < 0.5, 1.0, 8.0)
    share = ((x - level) * sharp + 0.5).clamp(0, 1)[:, None, :, None]
    above, below = place[:, :3, None, None], place[:, 3:, None, None]
    image = (above + (below - above) * share).expand(n, 3, _CELLS, _CELLS) * tint[:, :, None, None]
    slope = (draw[:, 7, None] - 0.5) * 0.5 * (x - 0.5) + 1
    image = image * slope[:, None, None, :]
    things = draw[:, 12:].view(n, _THINGS, 9)
    count = (draw[:, 8, None] * (_THINGS + 1)).floor()
    for k in range(_THINGS):
        cx, cy, wide, high, round_, *rgb, strength = things[:, k].unbind(1)
        lamp = round_ < 0.25  # small bright discs
        wide = torch.where(lamp, 0.02 + 0.05 * wide, 0.03 + 0.22 * wide)[:, None, None]
        high = torch.where(lamp[:, None, None], wide, (0.06 + 0.4 * high)[:, None, None])
        dx = (x[None, None, :] - 1.2 * cx[:, None, None] + 0.1).abs()
        dy = (x[None, :, None] - 1.2 * cy[:, None, None] + 0.1).abs()
        box = torch.minimum((wide - dx) * _CELLS, (high - dy) * _CELLS)
        disc = (1 - ((dx / wide).square() + (dy / high).square())) * 2
        cover = torch.where((round_ < 0.5)[:, None, None], disc, box + 0.5).clamp(0, 1)
        cover = cover * ((k < count) * (0.35 + 0.6 * strength[:, None]))[..., None]
        colour = torch.stack(rgb, 1)
        grey = colour.mean(1, keepdim=True)
        colour = 255 * (grey + (colour - grey) * 0.55) * torch.where(lamp, 1.25, 0.8)[:, None]
        colour = 0.5 * colour + 0.5 * place[:, :3] * torch.where(lamp, 1.4, 0.85)[:, None]
        image = image + (colour[..., None, None] - image) * cover[:, None]
    return image.clamp(0, 255)


def enlarged(coarse: Tensor, size: int) -> Tensor:
    """Images (N, 3, size, size) float32 in [0, 255] of coarse ones."""
    fine = F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)
    return fine.clamp_(0, 255)


class Scene:
    """Light of N images: a key light, the sky and the ground, float32.

    Directions are the camera's. draws (N, 8) are uniform numbers of the background.
    """

    def __init__(self, light: Tensor, draws: Tensor) -> None:
        light, draws = light.float(), draws.float()
        height = 0.35 + 0.35 * draws[:, 0]
        self.key = tuple(
            c[:, None]
            for c in (light.sin() * height.cos(), height.sin(), light.cos() * height.cos())
        )
        warm = (draws[:, 1] - 0.5)[:, None] * torch.tensor([0.1, 0.0, -0.16])
        strength = 0.5 + 0.24 * draws[:, 2:3]
        self.key_colour = strength * (1 + warm)
        cold = (draws[:, 3] - 0.5)[:, None] * torch.tensor([0.08, 0.0, -0.1]) - 0.3 * warm
        self.sky = (0.22 + 0.14 * draws[:, 4:5]) * (1 + cold)
        self.ground = (0.1 + 0.07 * draws[:, 5:6]) * torch.tensor([1.06, 1.0, 0.94])
        self.fill = 0.1 + 0.08 * draws[:, 6]

    def studio(self) -> None:
        """One strong lamp, and little light from elsewhere."""
        self.key_colour, self.sky = 1.35 * self.key_colour, 0.35 * self.sky
        self.ground, self.fill = 0.5 * self.ground, 0.25 * self.fill
