"""Outfits and backgrounds: numbers drawn by id, as named float64 tensors.

Colours are (N, 3) in [0, 255], lengths in body heights, kinds one-hot or 0 and 1. Cloth has two
colours and a texture: {shirt,trousers}_{first,second,texture}. A texture is (N, 7): cycles per
radian and body height of radius around the body, cycles per body height along it, the phase along
it in cycles, and the four weights of `shapes.texture`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nets.random import uniform

SKIN = (
    (255, 219, 190),
    (240, 190, 150),
    (214, 160, 118),
    (172, 116, 78),
    (124, 80, 54),
    (84, 54, 40),
)
HAIR = ((28, 24, 26), (62, 42, 32), (104, 68, 40), (196, 150, 84), (150, 66, 34), (160, 160, 164))
_DYED = ((48, 88, 176), (206, 70, 130), (96, 160, 90), (120, 60, 150))
_NEUTRAL = (
    (24, 26, 32),
    (238, 236, 230),
    (128, 132, 138),
    (34, 46, 84),
    (70, 100, 150),
    (188, 168, 130),
)
_SHOES = ((26, 24, 26), (236, 236, 238), (104, 66, 40), (190, 44, 48), (52, 60, 92), (220, 190, 60))


class _Draws:
    """Returns the random numbers of each id one after the other."""

    def __init__(self, seed: int, stream: str, ids: Tensor, count: int) -> None:
        self.rest = uniform(seed, stream, ids, count)

    def take(self) -> Tensor:
        value, self.rest = self.rest[:, 0].contiguous(), self.rest[:, 1:]
        return value

    def block(self, count: int) -> Tensor:
        value, self.rest = self.rest[:, :count], self.rest[:, count:]
        return value

    def between(self, low: float, high: float) -> Tensor:
        return low + (high - low) * self.take()

    def chance(self, share: float) -> Tensor:
        return (self.take() < share).double()

    def choice(self, *shares: float) -> Tensor:
        """Indices (N,) drawn with the probabilities `shares`, which add up to one."""
        bounds = torch.tensor(shares[:-1], dtype=torch.float64, device=self.rest.device).cumsum(0)
        return torch.bucketize(self.take(), bounds, right=True)

    def pick(self, palette: tuple[tuple[int, int, int], ...]) -> Tensor:
        rows = torch.tensor(palette, dtype=torch.float64, device=self.rest.device)
        return rows[(self.take() * len(palette)).long()]


def hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Colours (..., 3) in [0, 255] from hue (cycles), saturation and value in [0, 1]."""
    shift = torch.tensor([5.0, 3.0, 1.0], dtype=hue.dtype, device=hue.device)
    k = (shift + hue[..., None] * 6) % 6
    fall = torch.minimum(k, 4 - k).clamp(0, 1)
    return 255 * value[..., None] * (1 - saturation[..., None] * fall)


def _cloth(draws: _Draws, colourful: float, textures: tuple[float, ...]) -> tuple[Tensor, ...]:
    """A cloth: first colour (N, 3), second colour (N, 3) and texture (N, 7)."""
    hue, saturation, value = draws.take(), draws.between(0.45, 0.95), draws.between(0.42, 0.98)
    first = torch.where(
        (draws.take() < colourful)[:, None], hsv(hue, saturation, value), draws.pick(_NEUTRAL)
    )
    luma = first.mean(1)
    light = hsv(draws.take(), draws.between(0.0, 0.45), draws.between(0.86, 1.0))
    dark = hsv(draws.take(), draws.between(0.2, 0.9), draws.between(0.1, 0.36))
    second = torch.where((luma < 132)[:, None], light, dark)
    second = first + 0.45 * (second - first)  # woven rather than printed
    kind = draws.choice(*textures)
    weights = torch.tensor(
        [  # stripes along, stripes across, both, dots
            [0.0, 0.0, 0.0, 0.0],  # plain
            [0.0, 1.0, 0.0, 0.0],  # hoops
            [1.0, 0.0, 0.0, 0.0],  # pinstripes
            [1.0, 1.0, -2.0, 0.0],  # chessboard
            [0.5, 0.5, 0.0, 0.0],  # gingham
            [0.0, 0.0, 0.0, 1.0],  # dots
        ],
        dtype=torch.float64,
        device=hue.device,
    )[kind]
    period = draws.between(0.08, 0.14)  # of body height
    around = 1 / period  # per radian and body height of the radius
    texture = torch.stack([around, 1 / period, draws.take()], 1)
    return first, second, torch.cat([texture, weights], 1)


def outfit_parameters(seed: int, ids: Tensor) -> dict[str, Tensor]:
    """The looks of persons by id: build, skin, hair, face, clothes."""
    d = _Draws(seed, "outfit", ids, 96)
    look: dict[str, Tensor] = {}
    for part, colourful, textures in (
        ("shirt", 0.78, (0.52, 0.15, 0.09, 0.05, 0.1, 0.09)),
        ("trousers", 0.5, (0.8, 0.02, 0.06, 0.03, 0.05, 0.04)),
    ):
        first, second, texture = _cloth(d, colourful, textures)
        look |= {f"{part}_first": first, f"{part}_second": second, f"{part}_texture": texture}

    tone = d.take() * (len(SKIN) - 1)
    skin = torch.tensor(SKIN, dtype=torch.float64, device=ids.device)
    low = tone.long().clamp(max=len(SKIN) - 2)
    look["skin"] = skin[low] + (skin[low + 1] - skin[low]) * (tone - low)[:, None]
    look["hair"] = torch.where((d.take() < 0.12)[:, None], d.pick(_DYED), d.pick(HAIR))
    look["shoes"] = d.pick(_SHOES)
    look["socks"] = torch.where((d.take() < 0.5)[:, None], look["skin"], d.pick(_SHOES))

    look["width"] = d.between(0.9, 1.2)
    look["waist"] = d.between(-0.018, 0.012)
    # Sleeves and trouser legs: the covered share of upper and lower limb; or a skirt.
    sleeves = d.choice(0.12, 0.42, 0.46)
    covered = torch.tensor([0.12, 0.62, 9.0], dtype=torch.float64, device=ids.device)
    look["upper_sleeve"] = covered[sleeves]
    look["lower_sleeve"] = torch.where(sleeves == 2, d.between(0.55, 1.0), -9.0)
    legs = d.choice(0.56, 0.2, 0.24)
    shorts = torch.where(legs == 1, d.between(0.5, 0.95), -9.0)
    look["upper_leg"] = torch.where(legs == 0, 9.0, shorts)
    look["lower_leg"] = torch.where(legs == 0, d.between(0.8, 0.98), -9.0)
    look["skirt"] = (legs == 2).double() * d.between(0.45, 0.95)
    look["dress"] = d.chance(0.45)
    look["tights"] = torch.where((d.take() < 0.3)[:, None], d.pick(_SHOES), look["skin"])
    look["flare"] = d.between(0.2, 1.0)
    look["loose"] = d.between(0.001, 0.007)
    look["neckline"] = d.between(0.018, 0.05)

    # A print: half extents across (radians) and along (body heights), 1 for an ellipse.
    prints = d.choice(0.62, 0.14, 0.09, 0.08, 0.07)  # none, disc, box, chest band, open front
    across, along = d.between(0.3, 0.5), d.between(0.032, 0.055)
    look["print"] = torch.stack(
        [
            torch.where(prints == 3, 9.0, torch.where(prints == 4, 0.2, across)),
            torch.where(prints == 4, 9.0, along),
            (prints == 1).double(),
            (prints > 0).double(),
        ],
        1,
    )
    ring = d.chance(0.4) * (prints < 3)
    look["print_ring"] = ring * 0.55
    luma = look["shirt_first"].mean(1)
    bright = hsv(d.take(), d.between(0.1, 0.9), d.between(0.85, 1.0))
    deep = hsv(d.take(), d.between(0.3, 1.0), d.between(0.15, 0.45))
    look["print_colour"] = torch.where((luma < 132)[:, None], bright, deep)

    # Hair: distance from the head, length, hairline on the face.
    style = d.choice(0.08, 0.3, 0.2, 0.26, 0.16)  # bald, short, bob, long, curls
    table = torch.tensor(
        [  # stands off, hangs below the head's middle, forehead, sides
            [-0.03, 0.0, -1.5, 0.0],
            [0.008, 0.0, -0.5, 0.25],
            [0.014, 0.062, -0.42, 0.9],
            [0.012, 0.145, -0.45, 0.9],
            [0.03, 0.03, -0.45, 0.7],
        ],
        dtype=torch.float64,
        device=ids.device,
    )[style]
    look["hair_shape"] = table * (1 + 0.2 * (d.take() - 0.5))[:, None]
    look["parting"] = d.between(-0.5, 0.5)
    look["bun"] = torch.where((style == 1) | (style == 2), d.chance(0.3), 0.0)
    look["beard"] = torch.where(style < 2, d.chance(0.45), 0.0)
    look["iris"] = d.pick(((40, 26, 20), (30, 40, 60), (44, 50, 30)))
    return look


def background_parameters(seed: int, ids: Tensor) -> dict[str, Tensor]:
    """Backgrounds by id: a colour field, a floor, objects, grain."""
    d = _Draws(seed, "background", ids, 256)
    n, shapes = len(ids), 7
    base = hsv(d.take(), d.between(0.02, 0.5), d.between(0.25, 0.95))
    light = (d.block(25).reshape(n, 1, 5, 5) - 0.5) * d.between(30, 170)[:, None, None, None]
    tint = (d.block(75).reshape(n, 3, 5, 5) - 0.5) * d.between(10, 70)[:, None, None, None]
    look = {
        "field": (base[:, :, None, None] + light + tint).clamp(0, 255),
        "floor": d.between(0.62, 0.9),
        "floor_colour": hsv(d.take(), d.between(0.0, 0.5), d.between(0.2, 0.85)),
        "grain": d.between(0, 26),
        "grain_at": d.block(2),
    }
    rows = d.block(shapes * 13).reshape(n, shapes, 13)
    first = hsv(rows[..., 0], rows[..., 1] * 0.8, 0.15 + 0.8 * rows[..., 2])
    second = (first + (rows[..., 3:4] - 0.5) * 220).clamp(0, 255)
    return look | {"shape_first": first, "shape_second": second, "shape": rows[..., 4:]}
