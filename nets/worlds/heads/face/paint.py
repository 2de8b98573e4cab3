"""The texture of each person: their colours as weights of the shared layers."""

from __future__ import annotations

import torch
from torch import Tensor

from nets.worlds.heads.face.hair import STYLES, styles
from nets.worlds.heads.face.layers import ALPHA, TextureLayers, layers
from nets.worlds.heads.face.person import Traits

# Skin from the lightest to the darkest, as sRGB levels under white light.
SKIN = ((238, 200, 178), (228, 180, 152), (212, 158, 124), (184, 130, 95), (146, 97, 68),
        (108, 70, 49), (76, 50, 38))  # fmt: skip
_TONE = (4.3, 1.4, 0.6)  # mean place in SKIN of each of person._RACES
_HAIR = ((26, 22, 22), (44, 31, 25), (70, 46, 33), (104, 70, 44), (150, 108, 66), (196, 158, 104))
_IRIS = ((58, 36, 22), (84, 54, 30), (112, 84, 48), (98, 106, 66), (94, 118, 128), (104, 134, 160))
_STEPS = 1020  # a weight of 1: layers have 255 levels, texels too
FIXED = 4  # weights are whole numbers of 1/4 of a level


def _between(table: tuple[tuple[int, int, int], ...], place: Tensor) -> Tensor:
    """Colours (N, 3) between the rows of a table."""
    rows = torch.tensor(table, dtype=torch.float64)
    place = place.clamp(0, len(table) - 1.001)
    low = place.long()
    return torch.lerp(rows[low], rows[low + 1], (place - low)[:, None])


def hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Colours (N, 3) in [0, 255] from hue (cycles), saturation and value in [0, 1]."""
    k = (torch.tensor([5.0, 3.0, 1.0], dtype=hue.dtype) + hue[:, None] * 6) % 6
    fall = torch.minimum(k, 4 - k).clamp(0, 1)
    return 255 * value[:, None] * (1 - saturation[:, None] * fall)


def colours(t: Traits) -> dict[str, Tensor]:
    """Colours of skin, hair, brows, iris and cloth of each person, (N, 3) float64 levels."""
    mean = (t.races * t.races.new_tensor(_TONE)).sum(1)
    skin = _between(SKIN, mean + 0.45 * t["tone"])
    skin = skin * (
        1 + torch.stack([0.012 * t["redness"], 0 * t["tone"], -0.03 * t["undertone"]], 1)
    )
    fair = t.races[:, 2].clamp(0, 1)
    shade = (0.4 + 0.45 * t["hair_shade"]).clamp(0, 1.6) + fair * (1.6 + 1.3 * t["hair_shade"])
    hair = _between(_HAIR, shade.clamp(min=0))
    red = ((t["hair_tint"] - 1.3) * 1.2).clamp(0, 0.7) * fair
    hair = torch.lerp(hair, hair.new_tensor([142.0, 66, 30]), red[:, None])
    grey = ((t.old - 0.36) * 2.4 + 0.25 * t["grey"]).clamp(0, 0.95) * (t.old > 0.2)
    hair = torch.lerp(hair, hair.new_tensor([176.0, 174, 172]), grey[:, None])
    dyed = (t["hair_tint"] < -2.2)[:, None]
    hair = torch.where(dyed, hsv(t.share("hair_sheen"), 0.5 + 0 * shade, 0.5 + 0 * shade), hair)
    brow = torch.lerp(hair * 0.7, hair.new_tensor([46.0, 34, 28]), 0.45)
    light = fair * (0.9 + 2.2 * t["iris_hue"] + 1.0).clamp(0, 5) + (1 - fair) * 0.5
    iris = _between(_IRIS, light) * (1 + 0.12 * t["iris_light"])[:, None]
    plain = t["cloth_saturation"] < 0.3
    saturation = torch.where(plain, 0.08 + 0 * t["cloth_hue"], 0.75 * t.share("cloth_saturation"))
    cloth = hsv(t.share("cloth_hue"), saturation, 0.12 + 0.75 * t.share("cloth_value"))
    return {"skin": skin, "hair": hair, "brow": brow, "iris": iris, "cloth": cloth}


def textures(t: Traits, fine: bool, shaven: bool = False) -> tuple[Tensor, TextureLayers]:
    """Textures (N, h, w, 4) uint8, and the layers that they are sums of.

    shaven  without beard and without hair painted on the scalp
    """
    shared = layers(fine)
    n, own = len(t["tone"]), colours(t)
    weight = torch.zeros(n, len(shared.names), 4, dtype=torch.float64)
    skin, hair, brow = own["skin"], own["hair"], own["brow"]

    def add(name: str, amount: Tensor | float, change: Tensor) -> None:
        """Adds `amount` of a change of colour (N, 3) where the layer is."""
        if isinstance(amount, Tensor):
            amount = amount[:, None]
        weight[:, shared.names.index(name), :3] += amount * change

    male, old = t.male, t.old
    dark = 1 - skin.mean(1) / 255
    add("skin", 1.0, skin)
    red = skin * skin.new_tensor([0.02, -0.16, -0.14])
    make_up = ((t["make_up"] - 0.1) * (1 - male)).clamp(0, 1.3)
    rosy = skin * skin.new_tensor([0.93, 0.68, 0.68])
    natural = torch.lerp(rosy, skin.new_tensor([176.0, 96, 96]), 0.25)
    natural = natural * (1 - 0.1 * t.share("lip_dark") * (0.4 + dark))[:, None]
    stick = hsv(
        0.93 + 0.09 * t.share("lip_hue"),
        0.62 + 0.2 * t.share("lip_dark"),
        0.45 + 0.3 * t.share("lip_gloss"),
    )
    lips = torch.lerp(natural, stick, (0.75 * make_up).clamp(0, 0.9)[:, None])
    lips = torch.lerp(lips, skin * 0.88, (0.45 * male + 0.2 * old)[:, None])
    add("lips", 1.0, lips - skin)
    add("lip_line", 0.4, -lips)
    pale = 1.15 - 0.75 * dark
    add("blush", (0.25 + 0.25 * t.share("blush") + 0.4 * make_up) * pale, red)
    add("redness", (0.35 + 0.35 * t.share("redness")) * pale, red)
    add(
        "under_eyes",
        0.2 + 0.3 * t.share("under_eyes") + 0.3 * old,
        skin * skin.new_tensor([-0.16, -0.2, -0.14]),
    )
    shadow = torch.lerp(
        skin * -0.18, stick * 0.5 - skin * 0.5, (0.25 * t.share("eye_shadow") * make_up)[:, None]
    )
    add("shadow", 0.22 + 0.65 * make_up, shadow)
    add("lid_line", 0.32 + 0.35 * make_up.clamp(max=1) - 0.2 * male, -0.72 * skin)
    add("inner", 1.0, skin.new_tensor([96.0, 34, 34]) - skin)

    kind = t.share("beard_kind")
    grown = (((t["beard"] - 0.1) * 1.4).clamp(0, 1)) * (male > 0.6)
    stubble = (0.1 + 0.22 * t.share("stubble")) * (male > 0.6) * (1 - 0.5 * old)
    hairs = torch.lerp(brow, hair, 0.3) - skin
    full = grown * (kind < 0.5)
    if not shaven:
        add("beard", 0.75 * full + stubble * (1 - full), hairs)
        moustache = (0.7 * grown * (kind < 0.82) + 0.8 * stubble).clamp(max=0.8)
        add("moustache", moustache, hairs)
        add("goatee", 0.75 * grown * ((kind >= 0.5) & (kind < 0.75)), hairs)

    style = (t.share("brow_style") * 4).long().clamp(max=3)
    style = torch.where((male > 0.5) & (style == 0), 3, style)
    strength = (0.72 + 0.18 * t["brow_dark"]).clamp(0.4, 1) * (1 - 0.35 * old)
    for k in range(4):
        add(f"brow{k}", strength * (style == k), brow - skin)

    speckled = (t["freckles"] - 0.6).clamp(0, 1.4) * t.races[:, 2]
    for k in range(3):
        own_spots = t.share(f"spots{k + 1}")
        add(
            f"freckles{k}", speckled * own_spots * 0.6, skin * skin.new_tensor([-0.2, -0.32, -0.36])
        )
        add(f"moles{k}", (own_spots > 0.6) * 0.7 * (t["moles"] > 0), skin * -0.5)
    for k, name in enumerate(("blotches_a", "blotches_b", "blotches_c")):
        add(name, 0.2 * t[f"noise{k + 1}"], skin * skin.new_tensor([0.05, 0.13, 0.12]))
    add("pores", 0.045 + 0.03 * old, skin)
    add("body", 1.0, skin * 0.97)
    add("body_mottle", 0.05, skin)
    add("mottle", 0.06 + 0.06 * old, skin * skin.new_tensor([0.5, 1.0, 1.0]))
    add("wrinkles", (0.06 + 0.75 * (old - 0.1)).clamp(0.04, 0.5), skin * -0.35)

    cut = styles(t)
    bald, buzz, receding = (cut == STYLES.index(s) for s in ("bald", "buzz", "receding"))
    scalp = torch.where(bald, 0.14 + 0.25 * t.share("hair_length"), 0.85)
    scalp = torch.where(buzz, 0.7, torch.where(receding, 0.35, scalp))
    if not shaven:
        add("scalp", scalp, hair * 0.9 - skin)

    iris = own["iris"]
    add("sclera", 1.0, skin.new_tensor([224.0, 218, 214]).expand(n, 3) * (1 - 0.04 * dark)[:, None])
    add(
        "veins",
        0.3 + 0.3 * t.share("sclera") + 0.3 * old,
        skin.new_tensor([-30.0, -74, -74]).expand(n, 3),
    )
    add("iris", 1.0, iris - skin.new_tensor([224.0, 218, 214]))
    add("rim", 0.35 + 0.35 * t.share("iris_rim"), -iris)
    add("inner_iris", 0.3, skin.new_tensor([90.0, 70, 40]).expand(n, 3) * 0.6)
    add("fibres", 0.5, iris * 0.5)
    add("pupil", 1.0, 8 - iris * 1.35)

    curly = torch.zeros_like(bald)
    for name in ("curls", "afro"):
        curly |= cut == STYLES.index(name)
    add("hair", 1.0, hair)
    add("strands", 0.5 - 0.3 * curly, hair + 12)
    add("locks", 0.3, hair + 10)
    add("curls", 0.1 + 0.5 * curly, hair + 10)
    add("tips", 0.25 * t.share("hair_sheen"), hair * hair.new_tensor([0.6, 0.5, 0.4]))

    cloth = own["cloth"]
    second = torch.where((t["cloth_second"] > 0)[:, None], cloth * 0.35, 255 - (255 - cloth) * 0.3)
    pattern = t.share("cloth_pattern")
    add("cloth", 1.0, cloth)
    add("stripes", (pattern > 0.78) & (pattern < 0.9), second - cloth)
    add("checks", pattern >= 0.9, second - cloth)
    add("knit", 0.1, cloth + 10)
    add("folds", 0.12, cloth + 10)
    add("lash", 1.0, skin.new_tensor([34.0, 25, 22]).expand(n, 3))
    add("plain", 1.0, skin.new_full((n, 3), 255.0))
    for name in ALPHA:
        weight[:, shared.names.index(name), 3] = 255

    # Whole numbers, whose sums are exact in float32: at most 2^24.
    whole = (weight * FIXED).round().clamp(-1023, 1023).float()
    table = whole.permute(1, 0, 2).reshape(len(shared.names), -1)  # (K, 4 N)
    levels = (shared.values.t() @ table).mul_(1 / _STEPS).add_(0.5).clamp_(0, 255).byte()
    height, width = shared.size
    texels = levels.view(torch.int32).t().contiguous()  # four bytes of a texel as one number
    return texels.view(torch.uint8).view(n, height, width, 4), shared
