"""From a pose and an outfit to the shapes that draw the person."""

from __future__ import annotations

import torch
from torch import Tensor

from . import shapes
from .people_details import chest, face
from .people_pose import chest_axis, field, skeleton

# Half widths near and far, bulge (body heights), depth over the hips' middle.
_LIMBS = {
    "upper_arm": (0.035, 0.029, 0.002, 0.02),
    "forearm": (0.028, 0.02, 0.003, 0.03),
    "thigh": (0.057, 0.042, 0.002, -0.06),
    "shin": (0.039, 0.025, 0.006, -0.055),
    "hand": (0.022, 0.018, 0.003, 0.04),
    "shoe": (0.029, 0.025, 0.002, -0.03),
}
_ENDS = {  # joints that the two sides of a limb run between, right then left
    "upper_arm": ((3, 10), (4, 11)),
    "forearm": ((4, 11), (5, 12)),
    "thigh": ((2, 9), (1, 8)),
    "shin": ((1, 8), (0, 7)),
    "hand": ((5, 12), None),
    "shoe": ((0, 7), None),
}
TEXTURED = 11  # torso, skirt, pelvis, upper arms, forearms, thighs, shins
_HEAD = 18  # after hands, shoes, neck, hair and bun


def _colours(prefix: str, colour: Tensor) -> dict[str, Tensor]:
    """The fields a0 a1 a2 of (N, 3) colours, each (N, 1)."""
    return {f"{prefix}{i}": colour[:, i : i + 1] for i in range(3)}


def _group(
    near: Tensor,
    far: Tensor,
    widths: tuple[Tensor | float, Tensor | float, Tensor | float],
    unit: Tensor,
    first: Tensor,
    *,
    depth: Tensor | float,
    reach: Tensor | float,
    second: Tensor | None = None,
    texture: Tensor | None = None,
    yaw: Tensor | None = None,
    rest: Tensor | None = None,
    cut: Tensor | None = None,
    corner: Tensor | float = 1.0,
    loose: Tensor | float = 0.0,
    shade: float = 1.0,
) -> Tensor:
    """(N, k, F) table of shapes from near to far (N, k, 3) in pixels.

    widths  half widths at both ends and bulge, reach and loose: in units of `unit` (N, 1) pixels
    cut     share of the axis from which on the colour is `rest`; outside -2 .. 2: always or never
    texture (N, 9) as in people_look
    """
    start, end, bulge = (w * unit for w in widths)
    fields = shapes.axis_fields(near[..., :2], far[..., :2], reach * unit)
    length = (fields["half"] - reach * unit) * 2
    true = (far - near).square().sum(-1).sqrt()
    stretch = (true / length.clamp(min=1e-3)).clamp(1, 3)
    fields |= {
        "width": (start + end) / 2,
        "taper": (end - start) / 2,
        "bulge": bulge,
        "round": corner,
        "loose": loose * unit,
        "shade": shade,
        "depth": depth,
    }
    fields |= _colours("a", first) | _colours("b", first if rest is None else rest)
    fields |= _colours("c", first if second is None else second)
    if cut is None:
        fields["cut"] = 1e6
    else:
        fields["cut"] = torch.where(cut.abs() > 2, cut.sign() * 1e6, (cut - 0.5) * length)
    if texture is None:
        fields |= dict.fromkeys(
            ("turn", "fu", "fv", "pu", "pv", "flat", "along", "across", "both", "dots"), 0.0
        )
    else:
        names = ("pu", "pv", "flat", "along", "across", "both", "dots")
        fields |= {name: texture[:, 2 + i : 3 + i] for i, name in enumerate(names)}
        fields["fu"] = texture[:, :1] * fields["width"] / (0.11 * unit)
        fields["fv"] = texture[:, 1:2] / unit * stretch
        fields["turn"] = -yaw[:, None] * fields["vy"]
    blank = torch.zeros_like(fields["cx"])
    return shapes.stack({name: blank + value for name, value in fields.items()})


def figure(look: dict[str, Tensor], pose: Tensor, size: int) -> tuple[Tensor, Tensor, list]:
    """Joints (N, 15, 2) in pixels, the table of the figure's shapes, and what details need."""
    unit = field(pose, "scale")[:, None] * size
    points = {
        name: torch.cat([x[..., :2] * size - 0.5, x[..., 2:] * size], -1)
        for name, x in skeleton(pose).items()
    }
    joints, trunk = points["joints"], points["trunk"]
    yaw = chest_axis(pose)
    wide = look["width"][:, None]

    def cloth(name: str) -> dict[str, Tensor]:
        return {
            "first": look[f"{name}_first"],
            "second": look[f"{name}_second"],
            "texture": look[f"{name}_texture"],
            "yaw": yaw,
        }

    def limb(name: str, **colours: Tensor) -> Tensor:
        start, end, bulge, depth = _LIMBS[name]
        near_at, far_at = _ENDS[name]
        near = joints[:, near_at]
        tips = {"hand": "hands", "shoe": "toes"}
        far = points[tips[name]] if far_at is None else joints[:, far_at]
        if name == "shoe":  # the heel
            near = near - 0.22 * (far - near)
        z = (near[..., 2] + far[..., 2]) / 2 / unit + depth
        widths = (start * wide, end * wide, bulge * wide)
        return _group(near, far, widths, unit, depth=z, reach=0.75 * end * wide, **colours)

    skin, tights = look["skin"], look["tights"]
    loose = look["loose"][:, None]
    cuts = {
        name: look[name][:, None]
        for name in ("upper_sleeve", "lower_sleeve", "upper_leg", "lower_leg")
    }
    shirt, trousers = cloth("shirt"), cloth("trousers")
    has_skirt = (look["skirt"] > 0)[:, None]
    dress = (look["dress"] > 0)[:, None]
    skirt = {
        name: value if name == "yaw" else torch.where(dress & has_skirt, shirt[name], value)
        for name, value in trousers.items()
    }

    # Trunk: as wide as the shoulders are seen, but never thinner than a chest is deep.
    side = (joints[:, 3, :2] - joints[:, 10, :2]).square().sum(-1).sqrt()[:, None] / 2 / unit
    turned = yaw.sin().square()[:, None]
    top = ((side + 0.018).square() + 0.07**2 * turned).sqrt() * (0.9 + 0.1 * wide)
    hip = (joints[:, 2, :2] - joints[:, 9, :2]).square().sum(-1).sqrt()[:, None] / 2 / unit
    bottom = ((hip + 0.028 * wide).square() + 0.075**2 * turned).sqrt()
    neck, hips = trunk[:, 1:], trunk[:, :1]
    spine = (hips - neck) / (hips - neck)[..., :2].square().sum(-1, keepdim=True).sqrt()
    long = unit[..., None]
    z = ((neck + hips)[..., 2] / 2) / unit
    torso = _group(
        neck + spine * 0.03 * long,
        hips - spine * 0.02 * long,
        (top, bottom, look["waist"][:, None]),
        unit,
        depth=z,
        reach=0.045,
        corner=0.5,
        rest=look["shirt_first"],
        **shirt,
    )
    pelvis = _group(
        hips - spine * 0.05 * long,
        hips + spine * 0.005 * long,
        (bottom * 0.94, bottom * 0.97, 0.0),
        unit,
        depth=z - 0.09,
        reach=0.035,
        corner=0.55,
        **skirt,
    )
    upper_arm = limb("upper_arm", rest=skin, cut=cuts["upper_sleeve"], loose=loose, **shirt)
    forearm = limb("forearm", rest=skin, cut=cuts["lower_sleeve"], loose=loose, **shirt)
    thigh = limb("thigh", rest=tights, cut=cuts["upper_leg"], loose=loose, **trousers)
    shin = limb("shin", rest=look["socks"], cut=cuts["lower_leg"], loose=loose, **trousers)
    knees = joints[:, [1, 8]]
    hem = hips + (knees.mean(1, keepdim=True) - hips) * look["skirt"][:, None, None]
    spread = (knees[:, 0, :2] - knees[:, 1, :2]).square().sum(-1).sqrt()[:, None] / 2 / unit
    ends = bottom + (spread - hip).clamp(min=0) * look["skirt"][:, None]
    ends = ends + 0.03 * look["flare"][:, None]
    at = shapes.FIELDS.index("depth")
    over = thigh[..., at].amax(1, keepdim=True) + 0.01
    skirt_shape = _group(
        hips - spine * 0.045 * long,
        hem,
        (bottom * 0.9 * has_skirt, ends * has_skirt, 0.0),
        unit,
        depth=over,
        reach=0.02,
        corner=0.22,
        **skirt,
    )

    # Head: from the crown to the chin.
    middle, crown = points["head"][:, :1], points["head"][:, 1:2]
    big = field(pose, "head")[:, None]
    up = (crown - middle) / (crown - middle)[..., :2].square().sum(-1, keepdim=True).sqrt()
    size_up = big[..., None] * long * up
    head_z = middle[..., 2] / unit
    head = _group(
        middle + size_up * 0.03,
        middle - size_up * 0.03,
        (0.057 * big, 0.047 * big, 0.005 * big),
        unit,
        skin,
        depth=head_z,
        reach=0.048 * big,
        corner=0.85,
    )
    throat = _group(
        middle - size_up * 0.03,
        neck + spine * 0.02 * long,
        (0.029 * wide, 0.036 * wide, 0.0),
        unit,
        skin,
        depth=z - 0.004,
        reach=0.02,
        shade=1.3,
    )
    stands, hangs = look["hair_shape"][:, :1], look["hair_shape"][:, 1:2]
    hairy = stands > 0
    hair = _group(
        middle + size_up * 0.03,
        middle - size_up * hangs[..., None],
        ((0.058 + stands) * big * hairy, (0.05 + stands) * big * hairy, 0.004),
        unit,
        look["hair"],
        depth=head_z - 0.08,
        reach=(0.048 + stands) * big,
        corner=0.9,
    )
    bun = _group(
        middle + size_up * 0.095,
        middle + size_up * 0.105,
        (0.03 * look["bun"][:, None], 0.03 * look["bun"][:, None], 0.0),
        unit,
        look["hair"],
        depth=head_z - 0.07,
        reach=0.025,
    )
    hand = limb("hand", first=skin)
    shoe = limb("shoe", first=look["shoes"])
    table = torch.cat(
        [
            *(torso, skirt_shape, pelvis, upper_arm, forearm, thigh, shin),
            *(hand, shoe, throat, hair, bun, head),
        ],
        1,
    )
    details = [
        (0, chest(look, torso[:, 0], unit, yaw)),
        (_HEAD, face(look, head[:, 0], points, (big * unit))),
    ]
    return joints[..., :2].float(), table, details
