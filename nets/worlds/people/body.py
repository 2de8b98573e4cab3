"""Turns a pose and an outfit into the shapes that draw the person.

Lengths in this file are in body heights; `_table` converts them to pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nets.worlds import shapes
from nets.worlds.people.pose import chest_axis, field, skeleton

# Half widths near and far, bulge, depth relative to the hip centre; the joints (right, left) at
# both ends.
_LIMBS: dict[str, tuple[float, float, float, float, list[int], list[int] | str]] = {
    "upper_arm": (0.035, 0.029, 0.002, 0.02, [3, 10], [4, 11]),
    "forearm": (0.028, 0.02, 0.003, 0.03, [4, 11], [5, 12]),
    "thigh": (0.052, 0.041, 0.004, -0.06, [2, 9], [1, 8]),
    "shin": (0.039, 0.025, 0.006, -0.055, [1, 8], [0, 7]),
    "hand": (0.022, 0.018, 0.003, 0.04, [5, 12], "hands"),
    "shoe": (0.029, 0.025, 0.002, -0.03, [0, 7], "toes"),
}
# Indices of the shapes with painted details.
TORSO, HEAD = 0, 18


def _plain(colour: Tensor) -> Tensor:
    """A cloth (N, 13) without texture: first and second colour, texture."""
    return torch.cat([colour, colour, colour.new_zeros(len(colour), 7)], 1)


def _shape(
    near: Tensor,
    far: Tensor,
    widths: tuple[Tensor | float, Tensor | float, Tensor | float],
    cloth: Tensor,
    *,
    depth: Tensor,
    reach: Tensor | float,
    rest: Tensor | None = None,
    cut: Tensor | float = 9.0,
    corner: float = 1.0,
    loose: Tensor | float = 0.0,
    shade: float = 1.0,
) -> Tensor:
    """Numbers (N, k, 31) of k shapes of one kind, between the points near and far.

    near, far  (N, k, 3) pixels
    widths     half widths at both ends, bulge in the middle
    reach      length beyond both ends
    cloth      (N, 13)
    rest       (N, 3), the colour from the share `cut` of the axis on
    """
    blank = torch.zeros_like(near[..., 0])
    columns = [blank + x for x in (*widths, reach, depth, corner, loose, shade, cut)]
    colours = torch.cat([cloth, cloth[:, :3] if rest is None else rest], 1)[:, None]
    parts = [near, far, torch.stack(columns, -1), colours.expand(-1, near.shape[1], -1)]
    return torch.cat(parts, -1)


def _table(numbers: Tensor, unit: Tensor, yaw: Tensor) -> Tensor:
    """The table for `shapes.paint` from (N, P, 31), with `unit` (N, 1) pixels in a body height."""
    near, far, numbers = numbers[..., :3], numbers[..., 3:6], numbers[..., 6:]
    start, end, bulge, reach, depth, corner, loose, shade, cut = numbers[..., :9].unbind(-1)
    reach = reach * unit
    fields = shapes.axis_fields(near[..., :2], far[..., :2], reach)
    length = 2 * (fields["half"] - reach)
    # A foreshortened limb keeps the whole length of its texture.
    stretch = ((far - near).square().sum(-1).sqrt() / length.clamp(min=1e-3)).clamp(1, 3)
    width = (start + end) / 2
    fields |= {
        "width": width * unit,
        "taper": (end - start) / 2 * unit,
        "bulge": bulge * unit,
        "round": corner,
        "cut": torch.where(cut.abs() > 2, 1e6, (cut - 0.5) * length),
        "loose": torch.where(cut < -2, 0.0, loose * unit),
        "shade": shade,
        "turn": -yaw[:, None] * fields["vy"],
        "depth": depth,
        "opaque": torch.ones_like(depth),
    }
    colours = ("a0", "a1", "a2", "c0", "c1", "c2")
    texture = ("fu", "fv", "pv", "along", "across", "both", "dots")
    names = (*colours, *texture, "b0", "b1", "b2")
    fields |= dict(zip(names, numbers[..., 9:].unbind(-1), strict=True))
    # A bare limb: the near colour is the far one, without texture.
    bare = cut < -2
    for i in range(3):
        fields[f"a{i}"] = torch.where(bare, fields[f"b{i}"], fields[f"a{i}"])
    for name in texture[3:]:
        fields[name] = torch.where(bare, 0.0, fields[name])
    fields["fu"] = fields["fu"] * width
    fields["fv"] = fields["fv"] / unit * stretch
    return shapes.stack(fields)


def _middle_distance(pair: Tensor, unit: Tensor) -> Tensor:
    """Half of the distance of two points (N, 2, 3) in the image, (N, 1) in body heights."""
    return (pair[:, 0, :2] - pair[:, 1, :2]).square().sum(-1).sqrt()[:, None] / 2 / unit


def _along(start: Tensor, end: Tensor, unit: Tensor) -> Tensor:
    """The direction from start to end, (N, 1, 3), one body height long in the image."""
    delta = end - start
    return delta / delta[..., :2].square().sum(-1, keepdim=True).sqrt() * unit[..., None]


def figure(
    look: dict[str, Tensor], pose: Tensor, size: int
) -> tuple[Tensor, Tensor, list[shapes.Detail]]:
    """The joints (N, 15, 2) in pixels, the table of the figure's shapes, and their details."""
    unit = field(pose, "scale")[:, None] * size
    points = {
        name: torch.cat([x[..., :2] * size - 0.5, x[..., 2:] * size], -1)
        for name, x in skeleton(pose).items()
    }
    look = {k: v[:, None] if v.ndim == 1 else v for k, v in look.items()}
    joints = points["joints"]
    yaw = chest_axis(pose)
    skin, wide = look["skin"], look["width"]
    shirt, trousers = (
        torch.cat([look[f"{name}_{part}"] for part in ("first", "second", "texture")], 1)
        for name in ("shirt", "trousers")
    )
    has_skirt = look["skirt"] > 0
    lower = torch.where((look["dress"] > 0) & has_skirt, shirt, trousers)

    def limb(name: str, cloth: Tensor, rest: Tensor | None = None, cut: str = "") -> Tensor:
        start, end, bulge, depth, first, last = _LIMBS[name]
        near = joints[:, first]
        far = points[last] if isinstance(last, str) else joints[:, last]
        if name == "shoe":  # the heel
            near = near - 0.22 * (far - near)
        return _shape(
            near,
            far,
            (start * wide, end * wide, bulge * wide),
            cloth,
            depth=(near[..., 2] + far[..., 2]) / 2 / unit + depth,
            reach=0.75 * end * wide,
            rest=rest,
            cut=look[cut] if cut else 9.0,
            loose=look["loose"] if cut else 0.0,
        )

    # The trunk is as wide as the visible shoulders, and never thinner than the chest's depth.
    hips, neck = points["trunk"].split(1, 1)
    turned = yaw.sin().square()[:, None]
    top = _middle_distance(joints[:, [3, 10]], unit) + 0.018
    top = (top.square() + 0.07**2 * turned).sqrt() * (0.9 + 0.1 * wide)
    hip = _middle_distance(joints[:, [2, 9]], unit)
    bottom = ((hip + 0.044 * wide).square() + 0.075**2 * turned).sqrt()
    spine = _along(neck, hips, unit)
    z = (neck + hips)[..., 2] / 2 / unit
    torso = _shape(
        neck + spine * 0.03,
        hips - spine * 0.02,
        (top, bottom, look["waist"]),
        shirt,
        depth=z,
        reach=0.045,
        corner=0.5,
    )
    pelvis = _shape(
        hips - spine * 0.05,
        hips + spine * 0.005,
        (bottom * 0.9, bottom * 0.98, 0.0),
        lower,
        depth=z - 0.09,
        reach=0.035,
        corner=0.55,
    )
    thigh = limb("thigh", trousers, look["tights"], "upper_leg")
    knees = joints[:, [1, 8]]
    spread = (_middle_distance(knees, unit) - hip).clamp(min=0) * look["skirt"]
    skirt = _shape(
        hips - spine * 0.045,
        hips + (knees.mean(1, keepdim=True) - hips) * look["skirt"][..., None],
        (bottom * 0.95 * has_skirt, (bottom + spread + 0.03 * look["flare"]) * has_skirt, 0.0),
        lower,
        depth=thigh[..., 10].amax(1, keepdim=True) + 0.01,
        reach=0.02,
        corner=0.22,
    )

    # The head goes from the crown to the chin.
    middle, crown = points["head"][:, :1], points["head"][:, 1:2]
    big = field(pose, "head")[:, None]
    up = _along(middle, crown, unit * big)
    head_z = middle[..., 2] / unit
    head = _shape(
        middle + up * 0.03,
        middle - up * 0.03,
        (0.057 * big, 0.047 * big, 0.005 * big),
        _plain(skin),
        depth=head_z,
        reach=0.048 * big,
        corner=0.85,
    )
    throat = _shape(
        middle - up * 0.03,
        neck + spine * 0.02,
        (0.029 * wide, 0.036 * wide, 0.0),
        _plain(skin * 0.88),
        depth=z - 0.004,
        reach=0.02,
    )
    stands, hangs = look["hair_shape"][:, :1], look["hair_shape"][:, 1:2]
    hairy = big * (stands > 0)
    hair = _shape(
        middle + up * 0.03,
        middle - up * hangs[..., None],
        ((0.058 + stands) * hairy, (0.05 + stands) * hairy, 0.004),
        _plain(look["hair"]),
        depth=head_z - 0.08,
        reach=(0.048 + stands) * big,
        corner=0.9,
    )
    bun = _shape(
        middle + up * 0.095,
        middle + up * 0.105,
        (0.03 * look["bun"], 0.03 * look["bun"], 0.0),
        _plain(look["hair"]),
        depth=head_z - 0.07,
        reach=0.025,
    )
    numbers = [
        *(torso, skirt, pelvis),
        limb("upper_arm", shirt, skin, "upper_sleeve"),
        limb("forearm", shirt, skin, "lower_sleeve"),
        thigh,
        limb("shin", trousers, look["socks"], "lower_leg"),
        limb("hand", _plain(skin)),
        limb("shoe", _plain(look["shoes"])),
        *(throat, hair, bun, head),
    ]
    table = _table(torch.cat(numbers, 1), unit, yaw)
    details: list[shapes.Detail] = [
        (TORSO, paint_chest, chest_numbers(look, table[:, TORSO], unit, yaw)),
        (HEAD, paint_face, face_numbers(look, table[:, HEAD], points, big * unit)),
    ]
    return joints[..., :2].float(), table, details


def chest_numbers(look: dict[str, Tensor], torso: Tensor, unit: Tensor, yaw: Tensor) -> Tensor:
    """The numbers of `paint_chest` for each image, (N, 16)."""
    half = torso[:, shapes.FIELDS.index("half"), None]
    return torch.cat(
        [
            *(look["print"][:, :1], look["print"][:, 1:2] * unit, look["print"][:, 2:4]),
            *(look["print_ring"], look["print_colour"], look["skin"]),
            *(-yaw[:, None], -half * 0.32, -half, look["neckline"] * unit),
            0.05 * unit * yaw.sin()[:, None],
        ],
        1,
    ).float()


def paint_chest(colour: Tensor, local: shapes.Local, own: Tensor) -> None:
    """Paints the neckline and the print on the chest."""
    across, along, ellipse, present, ring = own[:, :5].unbind(1)
    turn, centre, top, neckline, shift = own[:, 11:].unbind(1)
    x = local.across
    angle = (x * x).mul_(0.42).add_(1.0).mul_(x).add_(turn).div_(across).abs_()
    y = (local.v - centre).div_(along).abs_()
    boxed, round_ = torch.maximum(angle, y), (angle * angle).addcmul_(y, y).sqrt_()
    reach = boxed.add_((round_ - boxed) * ellipse)
    pixels = torch.minimum(along, torch.full_like(along, 6.0))
    cover = shapes.soft((1 - reach) * pixels).mul_(present)
    cover.mul_(shapes.soft((reach - ring) * pixels))
    colour.addcmul_(own[:, 5:8] - colour, cover[:, None])
    du, dv = (local.u - shift).square_(), (local.v - top).square_()
    cover = shapes.soft(neckline - du.add_(dv).sqrt_())
    colour.addcmul_(own[:, 8:11] - colour, cover[:, None])


def face_numbers(
    look: dict[str, Tensor], head: Tensor, points: dict[str, Tensor], unit: Tensor
) -> Tensor:
    """The numbers of `paint_face` for each image, (N, 24)."""
    at = {name: head[:, i] for i, name in enumerate(shapes.FIELDS)}
    vx, vy = at["vx"][:, None], at["vy"][:, None]
    spots = torch.cat([points["joints"][:, [6, 13, 14]], points["head"][:, 2:3]], 1)[..., :2]
    delta = spots.float() - torch.stack([at["cx"], at["cy"]], 1)[:, None]
    u, v = delta[..., 0] * vy - delta[..., 1] * vx, delta[..., 0] * vx + delta[..., 1] * vy
    half, width = at["half"][:, None], at["width"][:, None]
    shape = look["hair_shape"]
    return torch.cat(
        [
            *(u, v, half, width, unit, shape[:, 2:4], look["parting"]),
            *(look["beard"], look["hair"], look["skin"], look["iris"]),
        ],
        1,
    ).float()


def paint_face(colour: Tensor, local: shapes.Local, own: Tensor) -> None:
    """Paints beard, mouth, nose, brows, eyes and the hairline."""
    u4, v4 = own[:, :4], own[:, 4:8]
    half, width, unit, forehead, sides, parting, beard = own[:, 8:15].unbind(1)
    hair, skin, iris = own[:, 15:18], own[:, 18:21], own[:, 21:24]

    def blend(target: Tensor, cover: Tensor) -> None:
        colour.addcmul_(target - colour, cover[:, None])

    x = (local.u - u4[:, 2] * 0.6).div_(width)
    below = (x * x).mul_(-0.5).add_(0.5).mul_(half).neg_().add_(local.v)
    blend(hair, shapes.soft(below).mul_(beard))
    mouth = ((local.u - u4[:, 3]) / (0.02 * unit)).square_()
    mouth.add_(((local.v - v4[:, 3]) / (0.0075 * unit)).square_()).sqrt_()
    blend(skin * skin.new_tensor([0.72, 0.42, 0.42])[:, None], shapes.soft((1 - mouth) * 1.2))
    nose = ((local.u - u4[:, 2]) / (0.009 * unit)).square_()
    nose.add_(((local.v - v4[:, 2]) / (0.013 * unit)).square_()).sqrt_()
    blend(skin * 0.8, shapes.soft((1 - nose) * 1.2))
    for i in (0, 1):
        du, dv = local.u - u4[:, i], local.v - v4[:, i]
        brow = torch.maximum(du.abs() - 0.014 * unit, (dv + 0.02 * unit).abs_() - 0.004 * unit)
        blend(hair * 0.8, shapes.soft(-brow).mul_(0.8))
        far = (du * du).mul_(0.55).addcmul_(dv, dv).sqrt_()
        blend(torch.full_like(skin, 245.0), shapes.soft(0.0105 * unit - far))
        blend(iris, shapes.soft(0.0075 * unit - du.square_().addcmul_(dv, dv).sqrt_()))
    line = (x - parting * 0.3).square_().mul_(sides).add_(forehead).mul_(half)
    blend(hair, shapes.soft(line.sub_(local.v)))
