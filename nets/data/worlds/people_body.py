"""From a pose and an outfit to the shapes that draw the person.

Inside of this file lengths are in body heights until `_table` makes them pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nets.data.worlds import shapes
from nets.data.worlds.people_details import chest_numbers, face_numbers, paint_chest, paint_face
from nets.data.worlds.people_pose import chest_axis, field, skeleton

# Half widths near and far, bulge, depth over the hips' middle; joints, right and left, from and to.
_LIMBS = {
    "upper_arm": (0.035, 0.029, 0.002, 0.02, (3, 10), (4, 11)),
    "forearm": (0.028, 0.02, 0.003, 0.03, (4, 11), (5, 12)),
    "thigh": (0.052, 0.041, 0.004, -0.06, (2, 9), (1, 8)),
    "shin": (0.039, 0.025, 0.006, -0.055, (1, 8), (0, 7)),
    "hand": (0.022, 0.018, 0.003, 0.04, (5, 12), "hands"),
    "shoe": (0.029, 0.025, 0.002, -0.03, (0, 7), "toes"),
}
# Where the shapes are that more is painted on.
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
    """Numbers (N, k, 31) of shapes of one kind from near to far, (N, k, 3) in pixels.

    widths  half widths at both ends, bulge in the middle; reach is how far it goes beyond the ends
    cloth   (N, 13); rest (N, 3): the colour from the share `cut` of the axis on
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
    # A texture is as long as the limb is, not as long as it is seen.
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
    # Bare from end to end: the near colour is the far one, and no texture is left.
    bare = cut < -2
    for i in range(3):
        fields[f"a{i}"] = torch.where(bare, fields[f"b{i}"], fields[f"a{i}"])
    for name in texture[3:]:
        fields[name] = torch.where(bare, 0.0, fields[name])
    fields["fu"] = fields["fu"] * width
    fields["fv"] = fields["fv"] / unit * stretch
    return shapes.stack(fields)


def _middle_distance(pair: Tensor, unit: Tensor) -> Tensor:
    """Half of the distance on the picture of two points (N, 2, 3), (N, 1) in body heights."""
    return (pair[:, 0, :2] - pair[:, 1, :2]).square().sum(-1).sqrt()[:, None] / 2 / unit


def _along(start: Tensor, end: Tensor, unit: Tensor) -> Tensor:
    """From start to end (N, 1, 3), as long as one body height on the picture."""
    delta = end - start
    return delta / delta[..., :2].square().sum(-1, keepdim=True).sqrt() * unit[..., None]


def figure(
    look: dict[str, Tensor], pose: Tensor, size: int
) -> tuple[Tensor, Tensor, list[shapes.Detail]]:
    """Joints (N, 15, 2) in pixels, the table of the figure's shapes, what is painted on them."""
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
        start, end, bulge, depth, near, far = _LIMBS[name]
        near = joints[:, near]
        far = points[far] if isinstance(far, str) else joints[:, far]
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

    # The trunk is as wide as the shoulders are seen, and never thinner than a chest is deep.
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
    details = [
        (TORSO, paint_chest, chest_numbers(look, table[:, TORSO], unit, yaw)),
        (HEAD, paint_face, face_numbers(look, table[:, HEAD], points, big * unit)),
    ]
    return joints[..., :2].float(), table, details
