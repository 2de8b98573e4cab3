"""The ellipsoids of a head, from twenty numbers and an expression, and its 68 face points.

The head's frame: x to the image's right, y up, z out of the face, the head's radius about 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nets.random import uniform
from nets.worlds.heads.ellipsoids import FAR, Ellipsoids
from nets.worlds.people.look import HAIR, SKIN, hsv

_EYES = ((74, 46, 28), (50, 90, 140), (70, 110, 70), (96, 84, 60), (90, 104, 116))


def colours(identity: Tensor, albedo: Tensor, colour: bool) -> Tensor:
    """The colour of each part, (N, P + 1, 1 or 3) in [0, 255]; the last row is the background's.

    identity  (N, 20)
    albedo    (N, P), the grey values
    colour    three channels, else one
    """
    white = torch.ones_like(albedo[:, :1])
    grey = torch.cat([albedo, white], 1)[..., None] * 255
    if not colour:
        return grey
    result = grey.repeat(1, 1, 3)
    number = (identity.double() * 4096).round().long() + (1 << 14)
    key = torch.zeros_like(number[:, 0])
    for column in number.unbind(1):
        key = (key * 1_000_003 + column) & 0x7FFFFFFF
    draw = uniform(0, "head colours", key, 10)
    skin_number, hair_number = (
        identity[:, PARAMETERS.index(name)].double() for name in ("skin", "hair")
    )
    tones = result.new_tensor(SKIN).flip(0)
    place = ((skin_number + 2) / 4 * (len(tones) - 1)).clamp(0, len(tones) - 1.001)
    low = place.long()
    skin = torch.lerp(tones[low], tones[low + 1], (place - low)[:, None])
    skin = (skin * (0.96 + 0.08 * draw[:, :3])).clamp(0, 255)
    hair = torch.as_tensor(HAIR, dtype=skin.dtype, device=skin.device)
    hair = hair[(draw[:, 3] * len(HAIR)).long()] * (1 + 0.12 * hair_number)[:, None]
    eyes = skin.new_tensor(_EYES)[(draw[:, 4] * len(_EYES)).long()]
    lips = skin * skin.new_tensor([0.86, 0.58, 0.58])
    lips = torch.lerp(lips, skin.new_tensor([168.0, 30.0, 52.0]), 0.5 * draw[:, 5:6].square())
    clothes = hsv(draw[:, 6], 0.15 + 0.75 * draw[:, 7], 0.25 + 0.65 * draw[:, 8])
    reflected = {
        "neck": 0.97 * skin, "rear": 0.95 * skin, "lear": 0.95 * skin, "rlid": 0.95 * skin,
        "llid": 0.95 * skin, "upper": lips, "lower": 1.05 * lips, "cap": hair,
        "rbrow": 0.8 * hair, "lbrow": 0.8 * hair, "riris": eyes, "liris": eyes,
        "shoulders": clothes, "mouth": skin.new_tensor([70.0, 18.0, 22.0]).expand_as(skin),
    }  # fmt: skip
    result[:, :SMOOTH] = skin[:, None]
    for name, value in reflected.items():
        result[:, PARTS.index(name)] = value.clamp(0, 255)
    return result


PARAMETERS = (
    *("head_w", "head_h", "head_d", "jaw_w", "chin", "cheek", "nose_len", "nose_w", "nose_y"),
    *("eye_gap", "eye_size", "eye_y", "brow_y", "brow_thick", "mouth_w", "lip", "ear"),
    *("skin", "hair", "hairline"),
)
EXPRESSION = ("mouth", "brows", "blink")  # open 0 to 1, lifted -1 to 1, closed 0 to 1
# In the order of painting: smooth skin first, parts cut by planes last.
PARTS = (
    *("skull", "jaw", "chin", "rcheek", "lcheek", "bridge", "tip", "rnostril", "lnostril"),
    *("neck", "reye", "leye", "riris", "liris", "rbrow", "lbrow", "mouth", "upper", "lower"),
    *("rear", "lear", "shoulders", "rlid", "llid", "cap"),
)
SMOOTH, CLIPPED = 9, 3
BODY = PARTS.index("shoulders")
_FOLLOWS = 0.3  # the shoulders turn by this share of the head's azimuth

Head = dict[str, tuple[Tensor, ...]]


def rotation(azimuth: Tensor, elevation: Tensor) -> Tensor:
    """Rotation from the head's frame to the camera's, (N, 3, 3): Rx(elevation) Ry(azimuth)."""
    (ca, sa), (ce, se) = ((t.cos(), t.sin()) for t in (azimuth, elevation))
    zero = torch.zeros_like(ca)
    rows = (ca, zero, sa, -se * sa, ce, se * ca, -ce * sa, -se, ce * ca)
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def head(identity: Tensor, expression: Tensor | None, shoulders: bool) -> Head:
    """The parts by name: (x, y, z, radius x, radius y, radius z, albedo, roll), each (N,).

    identity    (N, 20) numbers of PARAMETERS, about N(0, 1)
    expression  (N, 3) numbers of EXPRESSION; None: zeros
    shoulders   include the shoulders
    """
    v = dict(zip(PARAMETERS, identity.double().unbind(1), strict=True))
    zero = torch.zeros_like(v["skin"])
    rest = (zero, zero, zero) if expression is None else expression.double().unbind(1)
    opening, lift, blink = rest
    w, h = 0.72 * (1 + 0.06 * v["head_w"]), 0.80 * (1 + 0.05 * v["head_h"])
    d = 0.85 * (1 + 0.05 * v["head_d"])
    skin = (0.72 + 0.08 * v["skin"]).clamp(0.45, 0.95)
    hair = (0.25 + 0.12 * v["hair"]).clamp(0.03, 0.6)
    nw, nl = 0.075 * (1 + 0.15 * v["nose_w"]), 0.17 * (1 + 0.15 * v["nose_len"])
    ny, zf = -0.14 + 0.03 * v["nose_y"], 0.74 * d / 0.85
    ex, ey = 0.27 * (1 + 0.07 * v["eye_gap"]), 0.14 + 0.03 * v["eye_y"]
    es = 0.095 * (1 + 0.10 * v["eye_size"])
    ez = -0.105 + d * (1 - (ex / w) ** 2 - ((ey - 0.12) / h) ** 2).clamp(min=0.05).sqrt()
    mw, lt, my = 0.19 * (1 + 0.12 * v["mouth_w"]), 0.038 * (1 + 0.2 * v["lip"]), -0.46
    mz = 0.035 + 0.64 * (1 - ((my + 0.40) / 0.50) ** 2) ** 0.5
    er, ck = 0.17 * (1 + 0.12 * v["ear"]), 0.27 * (1 + 0.08 * v["cheek"])
    wide, chin = 1 + 0.08 * v["jaw_w"], 0.22 * (1 + 0.10 * v["jaw_w"])
    drop = 0.07 * opening
    above, below = my + 0.75 * lt + 0.3 * drop, my - 0.75 * lt - 2.1 * drop
    brow = ey + 0.16 + 0.025 * v["brow_y"] + 0.05 * lift
    thick = 0.032 * (1 + 0.25 * v["brow_thick"])
    parts: dict[str, tuple[Tensor | float, ...]] = {
        "skull": (0, 0.12, -0.05, w, h, d, skin),
        "jaw": (0, -0.40 - drop, 0.08, 0.54 * wide, 0.50, 0.64, skin),
        "chin": (0, -0.74 - 0.05 * v["chin"] - drop, 0.40, chin, 0.17, 0.22, skin),
        "bridge": (0, ny + 0.20, zf + 0.01, 0.73 * nw, 0.24, 0.10, skin),
        "tip": (0, ny, zf + 0.05, 1.05 * nw, 0.085, nl, skin),
        "neck": (0, -1.10, -0.20, 0.40, 0.60, 0.40, 0.97 * skin),
        "mouth": (0, my - 0.8 * drop, mz, 0.86 * mw, 0.1 * opening, 0.07 * (opening > 0), 0.12),
        "upper": (0, above, mz, mw, lt, 0.085, 0.62 * skin),
        "lower": (0, below, mz + 0.5 * drop, 0.85 * mw, 1.1 * lt, 0.09, 0.65 * skin),
        "shoulders": (0, -1.58, -0.30, 1.05 * shoulders, 0.56, 0.50, 0.5),
        "cap": (0, 0.14, -0.07, 1.06 * w, 1.06 * h, 1.05 * d, hair),
    }  # fmt: skip
    closes = (blink > 0).double()
    for side, sign in (("r", -1.0), ("l", 1.0)):  # the person's right is on the image's left
        x, roll = sign * ex, -sign * 0.12
        parts |= {
            f"{side}cheek": (sign * 0.33, -0.17, 0.40, ck, ck, ck, skin),
            f"{side}nostril": (sign * nw, ny - 0.015, zf + 0.02, 0.75 * nw, 0.06, 0.09, skin),
            f"{side}eye": (x, ey, ez, 1.25 * es, 0.72 * es, 1.1 * es, 0.95),
            f"{side}iris": (x, ey, ez + 0.80 * es, 0.42 * es, 0.42 * es, 0.40 * es, 0.08),
            f"{side}brow": (x, brow, ez + 0.02, 1.75 * es, thick, 0.09, 0.8 * hair, roll),
            f"{side}ear": (sign * (w + 0.01), -0.02, -0.08, 0.07, er, 0.62 * er, 0.95 * skin),
            f"{side}lid": (x, ey, ez, 1.35 * es * closes, 0.86 * es, 1.27 * es, 0.95 * skin),
        }  # fmt: skip
    filled = {
        name: tuple(torch.as_tensor(x, dtype=zero.dtype, device=zero.device) + zero for x in row)
        for name, row in parts.items()
    }
    # The heights from which lids and cap are visible: an open eye shows no lid, a closed one all.
    filled["limits"] = (ey + 0.86 * es * (1 - 1.9 * blink), 0.34 - 0.06 * v["hairline"])
    return filled


def in_camera(parts: Head, azimuth: Tensor, elevation: Tensor) -> tuple[Ellipsoids, Tensor]:
    """The parts in the camera's frame, and their albedo (N, P); angles (N,) in radians."""
    turn = rotation(azimuth.double(), elevation.double())
    zero = torch.zeros_like(turn[:, 0, 0])
    numbers = torch.stack(
        [torch.stack([*row, zero][:8], -1) for row in (parts[name] for name in PARTS)], 1
    )
    centre, radii, albedo, roll = numbers.split([3, 3, 1, 1], -1)
    each = turn[:, None].expand(-1, len(PARTS), -1, -1).clone()
    each[:, BODY] = rotation(_FOLLOWS * azimuth.double(), zero)
    cos, sin, none = roll.cos(), roll.sin(), torch.zeros_like(roll)
    rolled = torch.cat([cos, -sin, none, sin, cos, none, none, none, none + 1], -1)
    axes = each @ rolled.unflatten(-1, (3, 3)) * radii[..., None, :]
    lid, cap = parts["limits"]
    up = turn[:, :, 1]
    back = turn @ turn.new_tensor([0.0, 0.80, -0.60])
    lids = torch.cat([up, lid[:, None]], -1)
    plane = torch.stack([lids, lids, torch.cat([back, cap[:, None]], -1)], 1)
    seen = (each @ centre[..., None])[..., 0]
    return Ellipsoids(seen, axes, SMOOTH, CLIPPED, plane), albedo[..., 0]


def _stack(parts: Head, names: Sequence[str]) -> Tensor:
    """Centres and radii of the named parts, (N, P, 6)."""
    return torch.stack([torch.stack(parts[name][:6], -1) for name in names], 1)


def _height(rows: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """z of the front of ellipsoids (..., 6) at points (x, y); FAR outside of their outline."""
    cx, cy, cz, rx, ry, rz = rows.unbind(-1)
    inside = 1 - ((x - cx) / rx).square() - ((y - cy) / ry).square()
    return torch.where(inside >= 0, cz + rz * inside.clamp(min=0).sqrt(), FAR)


def _front(rows: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """z of the nearest of parts (N, P, 6), seen from the front, at points (N, K)."""
    return _height(rows[:, :, None], x[:, None], y[:, None]).amax(1)


def _rim(skin: Tensor, own: Tensor, dx: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """x and y (N, K) where the parts `own` (N, K, 6) emerge from the skin.

    dx, dy  (K,) the direction from each part's centre, in its radii
    """
    dx, dy = dx * own[..., 3], dy * own[..., 4]
    low, high = torch.zeros_like(dx), torch.ones_like(dx)
    for _ in range(12):  # bisection, to 2e-4 of the radius
        t = (low + high) / 2
        x, y = own[..., 0] + t * dx, own[..., 1] + t * dy
        out = _height(own, x, y) > _front(skin, x, y)
        low, high = torch.where(out, t, low), torch.where(out, high, t)
    return own[..., 0] + low * dx, own[..., 1] + low * dy


def _jaw(skin: Tensor) -> Tensor:
    """Points 0 to 16 on the skin, in a plane through ears and chin, (N, 17, 3)."""
    origin = skin.new_tensor([0.0, -0.06, 0.0])
    down = skin.new_tensor([0.0, -0.80, 0.42])
    turn = torch.linspace(-0.06, 1.06, 17, dtype=skin.dtype, device=skin.device) * torch.pi
    across = skin.new_tensor([-1.0, 0.0, 0.0])
    ray = turn.cos()[:, None] * across + turn.sin()[:, None] * down / down.norm()
    rows = skin[:, :3, None]  # skull, jaw and chin
    start, step = (origin - rows[..., :3]) / rows[..., 3:], ray / rows[..., 3:]
    a, b = step.square().sum(-1), (start * step).sum(-1)
    disc = b * b - a * (start.square().sum(-1) - 1)
    far = torch.where(disc >= 0, (-b + disc.clamp(min=0).sqrt()) / a, 0.0).amax(1)
    return origin + far[..., None] * ray


# Directions from a part's centre to the points on its outline, in radii: eye, upper and lower lip.
_EYE = ([-1, -0.45, 0.45, 1, 0.45, -0.45], [0, 0.89, 0.89, 0, -0.89, -0.89])
_UPPER = ([-1, -0.72, -0.3, 0, 0.3, 0.72, 1], [-0.2, 0.7, 0.95, 0.9, 0.95, 0.7, -0.2])
_LOWER = ([0.75, 0.35, 0, -0.35, -0.75], [-0.66, -0.94, -1, -0.94, -0.66])
_RIMS = ("reye",) * 6 + ("leye",) * 6 + ("upper",) * 7 + ("lower",) * 5


def points(parts: Head, blink: Tensor | None = None) -> Tensor:
    """The 68 points of iBUG 300-W in the head's frame, (N, 68, 3), all on its surface.

    parts  as returned by `head`
    blink  (N,) closing of the eyes, 0 to 1; None: open
    0-16 jaw, 17-26 brows, 27-35 nose, 36-47 eyes, 48-67 lips; the person's right before the left.
    """
    skin = _stack(parts, PARTS[:SMOOTH])
    solid = torch.cat([skin, _stack(parts, ("reye", "leye", "upper", "lower"))], 1)
    jaw = _jaw(skin)
    brows = []
    u = skin.new_tensor([-0.92, -0.46, 0, 0.46, 0.92])
    for name in ("rbrow", "lbrow"):
        cx, cy, cz, rx, _, rz, _, roll = (number[:, None] for number in parts[name])
        x, y = cx + roll.cos() * u * rx, cy + roll.sin() * u * rx
        brows.append(torch.stack([x, y, cz + (1 - u * u).sqrt() * rz], -1))
    _, ny, _, nw, high, _ = (number[:, None] for number in parts["tip"][:6])
    share = ny.new_tensor([0, 1 / 3, 2 / 3, 1])
    bridge = parts["reye"][1][:, None] * (1 - share) + ny * share
    base_x = nw / 1.05 * nw.new_tensor([-1.5, -0.75, 0, 0.75, 1.5])
    base_y = ny - high * nw.new_tensor([0.45, 0.75, 0.92, 0.75, 0.45])
    towards = [skin.new_tensor(a + a + b + c) for a, b, c in zip(_EYE, _UPPER, _LOWER, strict=True)]
    rim_x, rim_y = _rim(skin, _stack(parts, _RIMS), *towards)
    if blink is not None:  # the lid's edge, where it is below the eye's upper rim
        limit = parts["limits"][0][:, None]
        for top, bottom in ((slice(1, 3), slice(4, 6)), (slice(7, 9), slice(10, 12))):
            edge = torch.minimum(rim_y[:, top], torch.maximum(limit, rim_y[:, bottom].flip(1)))
            rim_y[:, top] = torch.where(blink[:, None] > 0, edge, rim_y[:, top])
    upper, lower = parts["upper"], parts["lower"]
    # Lips that touch hide their inner edges: both edges are then the line between the lips.
    line = (upper[1] - 0.5 * upper[4] + lower[1] + 0.5 * lower[4])[:, None] / 2
    in_x, in_y = [], []
    for lip, sign, at in ((upper, -1, (-0.82, -0.4, 0, 0.4, 0.82)), (lower, 1, (0.4, 0, -0.4))):
        v = skin.new_tensor(at)
        edge = lip[1][:, None] + sign * (1 - v * v).sqrt() * lip[4][:, None]
        in_y.append(torch.maximum(edge, line) if sign < 0 else torch.minimum(edge, line))
        in_x.append(lip[0][:, None] + v * lip[3][:, None])
    x = torch.cat([torch.zeros_like(bridge), base_x, rim_x, *in_x], 1)
    y = torch.cat([bridge, base_y, rim_y, *in_y], 1)
    face = torch.stack([x, y, _front(solid, x, y)], -1)
    return torch.cat([jaw, *brows, face], 1)
