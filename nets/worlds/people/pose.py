"""Poses of people: named angles and lengths, families of poses, and the joints.

A pose is a vector of the numbers in POSE_FIELDS. So two poses can be interpolated, and a sequence
of poses is a video. Joints depend on the pose alone, which includes the bone lengths: one pose has
the same joints with every outfit, so a transfer has an exact ground truth. Directions: x to the
right of the image, y down, z towards the viewer. A person who faces the viewer has the left hand at
larger x. Angles in the vector are in degrees, lengths in body heights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nets.random import uniform
from nets.skeletons import JOINTS_15

_SIDES = ("out", "forward", "elbow", "turn", "spread", "thigh", "knee")
_MIRRORED = ("yaw", "roll", "side", "twist", "head_yaw", "head_roll")
POSE_FIELDS = (
    # body: the direction it faces, sideways and forward lean; chest relative to the hips; head
    *("yaw", "roll", "pitch", "side", "twist", "bend", "head_yaw", "head_roll", "nod"),
    # arm: away from the body, forward, bend of the elbow, direction of the forearm's bend
    # (0 forward, 90 up and out, -90 in); leg: outward, forward, bend of the knee
    *(f"{side}_{name}" for side in "rl" for name in _SIDES),
    # lengths relative to the average
    *("head", "torso", "arm", "leg", "shoulders", "hips"),
    # the hip centre and the body's height, as fractions of the image's side
    *("x", "y", "scale"),
)
_AT = {name: i for i, name in enumerate(POSE_FIELDS)}

# Families: probability, then mean and half range of the numbers that differ from standing at ease.
# Written for one side; half of all poses are mirrored.
_STANDING = {
    "yaw": (0, 32),
    "roll": (0, 2),
    "pitch": (0, 3),
    "side": (0, 4),
    "twist": (0, 8),
    "bend": (2, 4),
    "head_yaw": (0, 22),
    "head_roll": (0, 9),
    "nod": (4, 8),
    "r_out": (12, 8),
    "l_out": (12, 8),
    "r_forward": (2, 12),
    "l_forward": (2, 12),
    "r_elbow": (18, 14),
    "l_elbow": (18, 14),
    "r_turn": (0, 25),
    "l_turn": (0, 25),
    "r_spread": (5, 4),
    "l_spread": (5, 4),
    "r_thigh": (0, 5),
    "l_thigh": (0, 5),
    "r_knee": (4, 4),
    "l_knee": (4, 4),
    "head": (1, 0.06),
    "torso": (1, 0.06),
    "arm": (1, 0.06),
    "leg": (1, 0.06),
    "shoulders": (1, 0.1),
    "hips": (1, 0.12),
    "scale": (0.86, 0.08),
}
_WALKING = {
    "yaw": (28, 30),
    "r_thigh": (24, 9),
    "r_knee": (8, 8),
    "l_thigh": (-16, 8),
    "l_knee": (24, 16),
    "r_forward": (-24, 12),
    "l_forward": (24, 12),
    "r_elbow": (22, 16),
    "l_elbow": (30, 18),
    "bend": (4, 4),
}
_WAVING = {"r_out": (84, 26), "r_elbow": (88, 34), "r_turn": (90, 22), "side": (3, 6)}
_FAMILIES: tuple[tuple[float, Mapping[str, tuple[float, float]]], ...] = (
    (0.16, {}),
    (0.20, _WALKING),
    (0.12, _WAVING),
    (0.05, _WALKING | {k: v for k, v in _WAVING.items() if k != "side"}),
    (
        0.10,
        {"r_out": (140, 28), "l_out": (140, 28), "r_elbow": (28, 26), "l_elbow": (28, 26)}
        | {"r_turn": (80, 25), "l_turn": (80, 25), "r_spread": (9, 7), "l_spread": (9, 7)},
    ),
    (
        0.09,
        {"r_out": (46, 6), "l_out": (46, 6), "r_elbow": (92, 10), "l_elbow": (92, 10)}
        | {"r_turn": (-82, 10), "l_turn": (-82, 10), "r_forward": (-12, 6), "l_forward": (-12, 6)}
        | {"r_spread": (9, 6), "l_spread": (9, 6)},
    ),
    (
        0.08,
        {"r_thigh": (72, 12), "l_thigh": (72, 12), "r_knee": (78, 14), "l_knee": (78, 14)}
        | {"r_spread": (10, 8), "l_spread": (10, 8), "r_forward": (26, 10), "l_forward": (26, 10)}
        | {"r_elbow": (48, 20), "l_elbow": (48, 20), "yaw": (24, 32), "pitch": (-4, 4)},
    ),
    (
        0.07,
        {"r_thigh": (56, 14), "r_knee": (68, 18), "l_thigh": (-18, 10), "l_knee": (26, 18)}
        | {"yaw": (38, 22), "bend": (10, 8), "r_elbow": (60, 30), "l_elbow": (60, 30)}
        | {"r_forward": (-30, 20), "l_forward": (42, 20)},
    ),
    (
        0.07,
        {"side": (16, 8), "roll": (5, 5), "r_out": (24, 16), "l_out": (40, 34)}
        | {"r_spread": (10, 7), "l_spread": (10, 7), "l_elbow": (30, 26)},
    ),
    (
        0.06,
        {"r_out": (84, 16), "l_out": (70, 34), "r_elbow": (12, 12), "l_elbow": (14, 14)}
        | {"r_spread": (8, 6), "l_spread": (8, 6)},
    ),
)


def pose_parameters(seed: int, ids: Tensor) -> Tensor:
    """Poses by id, (N, len(POSE_FIELDS)) float64, with the whole figure inside the image."""
    draw = uniform(seed, "pose", ids, len(POSE_FIELDS) + 2)
    base = torch.tensor([_STANDING.get(name, (0.0, 0.0)) for name in POSE_FIELDS])
    table = base.double().repeat(len(_FAMILIES), 1, 1)
    for row, (_, family) in zip(table, _FAMILIES, strict=True):
        for name, (mean, spread) in family.items():
            row[_AT[name]] = torch.tensor((mean, spread))
    table = table.to(ids.device)
    shares = torch.tensor([share for share, _ in _FAMILIES], dtype=torch.float64, device=ids.device)
    bounds = (shares / shares.sum()).cumsum(0)
    kind = torch.bucketize(draw[:, -1].contiguous(), bounds[:-1], right=True)
    pose = table[kind, :, 0] + table[kind, :, 1] * (2 * draw[:, :-2] - 1)
    pose = torch.where(draw[:, -2:-1] < 0.5, mirror(pose), pose)

    # Shrink to fit into the image, then move within the remaining room.
    low, high = extent(pose)
    fit = torch.minimum(pose[:, _AT["scale"]], 0.96 / (high - low).amax(1))
    return put(pose, fit, draw[:, [_AT["x"], _AT["y"]]] * 0.8 + 0.1, low, high)


def extent(pose: Tensor) -> tuple[Tensor, Tensor]:
    """Two corners (N, 2) of the figure's box relative to the hip centre, in body heights.

    The box includes hair and a margin.
    """
    pose = pose.clone()
    pose[:, _AT["x"]] = pose[:, _AT["y"]] = 0
    body = skeleton(pose)
    middle, crown = body["head"][:, :1], body["head"][:, 1:2]
    points = torch.cat([*body.values(), middle + (crown - middle) * 1.3], 1)[..., :2]  # with hair
    scale = pose[:, _AT["scale"]]
    low, high = points.amin(1) - 0.035, points.amax(1) + 0.035
    return low / scale[:, None], high / scale[:, None]


def put(pose: Tensor, scale: Tensor, place: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The poses, scaled and moved to a place in the image.

    scale      (N,) height of the body as a fraction of the image's side
    place      (N, 2) in [0, 1], the position within the room that the box leaves
    low, high  the corners of `extent`
    """
    room = 1 - (high - low) * scale[:, None]
    start = room * place - low * scale[:, None]
    pose = pose.clone()
    pose[:, _AT["scale"]] = scale
    pose[:, _AT["x"]], pose[:, _AT["y"]] = start[:, 0], start[:, 1]
    return pose


def mirror(pose: Tensor) -> Tensor:
    """The mirrored pose: right and left are exchanged; x stays."""
    names = [
        {"r": "l", "l": "r"}[name[0]] + name[1:] if name[1:2] == "_" else name
        for name in POSE_FIELDS
    ]
    sign = torch.tensor([-1.0 if name in _MIRRORED else 1.0 for name in POSE_FIELDS])
    return pose[:, [_AT[name] for name in names]] * sign.to(pose)


def _turn(points: Tensor, axis: str, angle: Tensor) -> Tensor:
    """Points (N, K, 3) turned about x, y or z by angles (N,) in degrees."""
    c, s = torch.cos(torch.deg2rad(angle))[:, None], torch.sin(torch.deg2rad(angle))[:, None]
    x, y, z = points.unbind(-1)
    if axis == "x":
        return torch.stack([x, c * y - s * z, s * y + c * z], -1)
    if axis == "y":
        return torch.stack([c * x + s * z, y, c * z - s * x], -1)
    return torch.stack([c * x - s * y, s * x + c * y, z], -1)


def _axes(turns: list[tuple[str, Tensor]], axes: Tensor) -> Tensor:
    """Axes (N, 3, 3), one per row, after turns (axis, angles)."""
    for axis, angle in turns:
        axes = _turn(axes, axis, angle)
    return axes


def _seen(axes: Tensor, points: Tensor) -> Tensor:
    """Points (N, K, 3) in the image's directions, from coordinates along `axes` (N, 3, 3)."""
    x, y, z = points.split(1, -1)
    return x * axes[:, :1] + y * axes[:, 1:2] + z * axes[:, 2:]


def _hinged(out: Tensor, forward: Tensor, bend: Tensor, turn: Tensor, side: int) -> Tensor:
    """Directions (N, 3, 3) of the upper and lower bone of a limb, and across the lower one."""
    a, f, e, t = (torch.deg2rad(x) for x in (out, forward, bend, turn))
    zero = torch.zeros_like(a)
    upper = torch.stack([a.sin() * side, a.cos() * f.cos(), a.cos() * f.sin()], -1)
    front = torch.stack([zero, -f.sin(), f.cos()], -1)
    outer = torch.stack([a.cos() * side, -a.sin() * f.cos(), -a.sin() * f.sin()], -1)
    to = t.cos()[:, None] * front + t.sin()[:, None] * outer
    c, s = e.cos()[:, None], e.sin()[:, None]
    return torch.stack([upper, c * upper + s * to, c * to - s * upper], 1)


def skeleton(pose: Tensor) -> dict[str, Tensor]:
    """Points of the body by name, (N, k, 3) float64, as fractions of the image's side.

    `joints` are those of JOINTS_15. The others serve to draw the body: tips of `hands` and `toes`
    (right, left), `trunk` (hip centre, neck), `head` (centre, top, mouth).
    """
    n = pose.shape[0]

    def p(name: str) -> Tensor:
        return pose[:, _AT[name]]

    def points(*rows: tuple[float | Tensor, float | Tensor, float | Tensor]) -> Tensor:
        flat = [pose.new_zeros(n) + value for row in rows for value in row]
        return torch.stack(flat, -1).reshape(n, len(rows), 3)

    # The camera looks down a little.
    to_view = [("x", -p("pitch")), ("y", p("yaw")), ("z", p("roll")), ("x", -8 + 0 * p("roll"))]
    to_body = [("x", -p("bend")), ("y", p("twist")), ("z", p("side"))]
    to_chest = [("x", -p("nod")), ("y", p("head_yaw")), ("z", p("head_roll"))]
    still = torch.eye(3).to(pose).expand(n, 3, 3)
    body = _axes(to_view, still)
    chest = _axes(to_view, _axes(to_body, still))
    skull = _axes(to_view, _axes(to_body, _axes(to_chest, still)))

    hip, long, big = 0.062 * p("hips"), 0.3 * p("torso"), p("head")
    wide = 0.105 * p("shoulders")
    hips = _seen(body, points((-hip, 0, 0), (hip, 0, 0)))
    neck = _seen(body, points((0, -0.4 * long, 0))) + _seen(chest, points((0, -0.6 * long, 0)))
    shoulders = neck + _seen(chest, points((-wide, 0.012, 0), (wide, 0.012, 0)))
    middle = (
        neck
        + _seen(chest, points((0, -0.036, 0.004)))
        + _seen(skull, points((0, -0.072 * big, 0.008)))
    )
    face = middle + _seen(
        skull,
        points(
            (-0.024 * big, -0.004, 0.048 * big),
            (0.024 * big, -0.004, 0.048 * big),
            (0, 0.018 * big, 0.06 * big),
            (0, 0.042 * big, 0.05 * big),
            (0, -0.085 * big, 0),
        ),
    )
    ends = {}
    for i, side in enumerate("rl"):
        sign = 2 * i - 1
        out, forward, bend, turn = (
            p(f"{side}_{name}") for name in ("out", "forward", "elbow", "turn")
        )
        bones = _seen(chest, _hinged(out, forward, bend, turn, sign))
        elbow = shoulders[:, i] + bones[:, 0] * (0.162 * p("arm"))[:, None]
        wrist = elbow + bones[:, 1] * (0.142 * p("arm"))[:, None]
        ends[f"{side}_arm"] = torch.stack([elbow, wrist, wrist + bones[:, 1] * 0.045], 1)
        straight = torch.zeros_like(p("yaw"))
        bones = _seen(
            body,
            _hinged(p(f"{side}_spread"), p(f"{side}_thigh"), -p(f"{side}_knee"), straight, sign),
        )
        knee = hips[:, i] + bones[:, 0] * (0.235 * p("leg"))[:, None]
        ankle = knee + bones[:, 1] * (0.225 * p("leg"))[:, None]
        outward = _seen(body, points((0.3 * sign, 0, 0)))[:, 0]
        toe = ankle + (bones[:, 2] + 0.28 * bones[:, 1] + outward) * 0.062
        ends[f"{side}_leg"] = torch.stack([knee, ankle, toe], 1)

    arms, legs = [ends["r_arm"], ends["l_arm"]], [ends["r_leg"], ends["l_leg"]]
    named = {"cnose": face[:, 2]}
    for i, side in enumerate("rl"):
        named |= {f"{side}ankle": legs[i][:, 1], f"{side}knee": legs[i][:, 0]}
        named |= {f"{side}hip": hips[:, i], f"{side}shoulder": shoulders[:, i]}
        named |= {f"{side}elbow": arms[i][:, 0], f"{side}wrist": arms[i][:, 1]}
        named |= {f"{side}eye": face[:, i]}
    scale, move = p("scale")[:, None, None], torch.stack([p("x"), p("y"), p("x") * 0], -1)[:, None]
    placed = {
        "joints": torch.stack([named[name] for name in JOINTS_15], 1),
        "hands": torch.stack([arm[:, 2] for arm in arms], 1),
        "toes": torch.stack([leg[:, 2] for leg in legs], 1),
        "trunk": torch.cat([hips.mean(1, keepdim=True), neck], 1),
        "head": torch.cat([middle, face[:, 4:], face[:, 3:4]], 1),
    }
    return {name: x * scale + move for name, x in placed.items()}


def chest_axis(pose: Tensor) -> Tensor:
    """The angle of the chest away from the viewer, (N,) in radians; positive to the right."""
    return torch.deg2rad(pose[:, _AT["yaw"]] + pose[:, _AT["twist"]])


def field(pose: Tensor, name: str) -> Tensor:
    """The named column of poses, (N,)."""
    return pose[:, _AT[name]]
