"""What is painted on the torso and the head, pixel by pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from nets.data.worlds import shapes


def chest_numbers(look: dict[str, Tensor], torso: Tensor, unit: Tensor, yaw: Tensor) -> Tensor:
    """What `paint_chest` needs of each picture, (N, 16)."""
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
    """What `paint_face` needs of each picture, (N, 24)."""
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
    """Paints beard, mouth, nose, brows, eyes and the hair line."""
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
