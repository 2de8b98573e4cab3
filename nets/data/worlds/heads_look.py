"""Colours of heads: of skin, hair, eyes, lips and clothes, all from the identity's own numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from nets.data.worlds.counted import uniform
from nets.data.worlds.heads_shape import PARAMETERS, PARTS, SMOOTH
from nets.data.worlds.people_look import HAIR, SKIN, hsv

_EYES = ((74, 46, 28), (50, 90, 140), (70, 110, 70), (96, 84, 60), (90, 104, 116))


def colours(identity: Tensor, albedo: Tensor, colour: bool) -> Tensor:
    """(N, P + 1, 1 or 3) in [0, 255]: what each part reflects; the last row is the background.

    identity  (N, 20); albedo  (N, P), the grey ones
    """
    white = torch.ones_like(albedo[:, :1])
    grey = torch.cat([albedo, white], 1)[..., None] * 255
    if not colour:
        return grey
    made = grey.repeat(1, 1, 3)
    number = (identity.double() * 4096).round().long() + (1 << 14)
    key = torch.zeros_like(number[:, 0])
    for column in number.unbind(1):
        key = (key * 1_000_003 + column) & 0x7FFFFFFF
    draw = uniform(0, "head colours", key, 10)
    skin_number, hair_number = (
        identity[:, PARAMETERS.index(name)].double() for name in ("skin", "hair")
    )
    tones = made.new_tensor(SKIN).flip(0)
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
    made[:, :SMOOTH] = skin[:, None]
    for name, value in reflected.items():
        made[:, PARTS.index(name)] = value.clamp(0, 255)
    return made
