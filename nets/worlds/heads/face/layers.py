"""The layers of the texture: where brows, lips, freckles, stubble, irises, strands and cloth lie.

A person's texture is a sum of layers that all people share, each in a colour of their own. The
layers are drawn once in a process, from the places of the texels on the neutral head.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nets.ops import rasterise
from nets.worlds.heads.face import hair
from nets.worlds.heads.face.mesh import BROW, EYES, LASHES, SKIN, face

# Cells of the texture at full size: left, top, width, height in texels.
SIZE = (256, 360)  # width, height
CELLS = {
    "head": (2, 2, 186, 356),
    "hair": (190, 2, 64, 160),
    "eye": (190, 164, 64, 64),
    "cloth": (190, 230, 64, 64),
    "lash": (190, 296, 64, 16),
    "plain": (190, 316, 64, 12),
    "body": (190, 332, 64, 26),
}
_HEAD = (0.635, 0.17, 1.0, 0.86)  # the part of MakeHuman's texture that shows the head
IRIS = 0.46  # radius of the iris in radii of the eyeball


@dataclass(frozen=True)
class TextureLayers:
    """TextureLayers of one size: levels in [0, 255] or [-127, 127], whole numbers."""

    values: Tensor  # (K, h * w) float32
    names: tuple[str, ...]
    size: tuple[int, int]  # height, width
    face_uv: Tensor  # (V, 2) of the face's vertices
    hair_uv: Tensor  # (G, 2) of the hair's grid


def noise(p: np.ndarray, frequency: float, seed: int) -> np.ndarray:
    """Smooth noise at places (..., 3), roughly normal with a deviation of 1."""
    table = np.random.default_rng(seed).standard_normal((32, 32, 32))
    q = p * frequency + seed * 7.3
    cell = np.floor(q).astype(int)
    share = q - cell
    share = share * share * (3 - 2 * share)
    total = np.zeros(p.shape[:-1])
    for corner in np.ndindex(2, 2, 2):
        at = (cell + corner) % 32
        weight = np.where(np.array(corner) == 1, share, 1 - share).prod(-1)
        total += weight * table[at[..., 0], at[..., 1], at[..., 2]]
    return total * 1.7


def _step(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between."""
    t = ((x - low) / (high - low)).clip(0, 1)
    return t * t * (3 - 2 * t)


def _spread(values: np.ndarray, known: np.ndarray, rounds: int) -> np.ndarray:
    """Fills texels that are not known with the mean of those that touch them."""
    values, known = values.copy(), known.copy()
    for _ in range(rounds):
        total, count = np.zeros_like(values), np.zeros(known.shape)
        for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            there = np.roll(known, (dy, dx), (0, 1))
            total += np.where(there[..., None], np.roll(values, (dy, dx), (0, 1)), 0)
            count += there
        new = ~known & (count > 0)
        values[new] = total[new] / count[new][:, None]
        known |= new
    return values


def _places(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (h, w, 3) and masks (h, w, 5) of the head cell's texels."""
    model = face()
    at = _in_head(model.uv) * torch.tensor([width, height]) - 0.5
    skin = model.group[model.corner_of] == SKIN
    chosen = model.triangles[(skin & (model.uv[:, 0] > _HEAD[0]))[model.triangles].all(1)]
    both = torch.cat([chosen, chosen.flip(1)]).int()
    flat = torch.cat([at, torch.zeros(len(at), 1)], 1)[None]
    index, weights, _ = rasterise(flat, both, (height, width))
    corners = model.corner_of[both[index[0].clamp(min=0)].long()]
    w = torch.stack([1 - weights[0].sum(0), *weights[0]], -1)[..., None]
    table = torch.cat([model.points, model.masks], 1)
    drawn = (table[corners] * w).sum(2).numpy().astype(np.float64)
    values = _spread(drawn, index[0].numpy() >= 0, 6)
    return values[..., :3], values[..., 3:]


def _in_head(uv: Tensor) -> Tensor:
    """MakeHuman's texture coordinates as shares of the head cell."""
    left, top, right, bottom = _HEAD
    x = ((uv[:, 0] - left) / (right - left)).numpy()
    y = ((1 - uv[:, 1] - top) / (bottom - top)).numpy()
    # The face gets most of the cell.
    x, y = (
        np.interp(x, [0, 0.5, 1], [0, 0.22, 1]),
        np.interp(y, [0, 0.27, 0.73, 1], [0, 0.12, 0.88, 1]),
    )
    return torch.tensor(np.stack([x, y], 1), dtype=torch.float32)


def _brow(ax: np.ndarray, y: np.ndarray, lift: float) -> tuple[np.ndarray, np.ndarray]:
    """Share along the brow (0 at the inner end) and height above its middle line, dm."""
    line = np.array(BROW)
    share = ((ax - line[0, 0]) / (line[-1, 0] - line[0, 0])).clip(-0.2, 1.2)
    middle = np.interp(ax, line[:, 0], line[:, 1] + lift * np.array([0, 0.5, 1, 0.9, 0.3]))
    return share, y - middle


def _head(width: int, height: int) -> dict[str, np.ndarray]:
    """TextureLayers of the head cell, (h, w) each, in [0, 1] or [-1, 1]."""
    p, masks = _places(width, height)
    x, y, z = p[..., 0], p[..., 1], p[..., 2]
    ax, front = np.abs(x), _step(z, 0.2, 0.5)
    lips, lids = masks[..., 0], masks[..., 2]
    fine = noise(p, 40, 1)
    blend = {name: noise(p, f, s) for name, f, s in (("a", 2.2, 2), ("b", 3.1, 3), ("c", 5.0, 4))}

    def spot(cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
        return np.exp(-(((ax - cx) / rx) ** 2) - ((y - cy) / ry) ** 2) * front

    layers = {"skin": np.ones_like(x)}
    layers["lips"] = _step(lips, 0.25, 0.75) * front
    layers["lip_line"] = np.exp(-(((y + 0.565) / 0.02) ** 2)) * (ax < 0.3) * layers["lips"]
    layers["blush"] = spot(0.44, -0.3, 0.2, 0.2)
    layers["redness"] = (
        spot(0, -0.3, 0.14, 0.12) + 0.8 * masks[..., 4] + 0.5 * spot(0, -0.95, 0.2, 0.15)
    )
    layers["under_eyes"] = spot(0.3, -0.06, 0.17, 0.06)
    layers["shadow"] = spot(0.33, 0.145, 0.2, 0.05)
    layers["lid_line"] = _step(lids, 0.35, 0.9) * front
    layers["inner"] = _step(masks[..., 3], 0.4, 0.8)
    cheek = np.interp(ax, [0, 0.2, 0.3, 0.45, 0.62, 0.7], [-0.44, -0.46, -0.6, -0.6, -0.3, 0.1])
    hairy = (0.85 + 0.16 * fine).clip(0.3, 1.2)
    region = _step(cheek - y, -0.05, 0.1) * _step(y, -1.3, -1.0) * _step(z, -0.35, 0.1)
    region *= 1 - _step(lips, 0.2, 0.5)
    moustache = _step(-y, 0.43, 0.475) * _step(y, -0.66, -0.56) * _step(-ax, -0.33, -0.24)
    chin = _step(-ax, -0.3, -0.2) * _step(-y, 0.6, 0.72)
    out = 1 - _step(lips, 0.2, 0.5)
    layers["beard"] = region * hairy
    layers["moustache"] = moustache * out * hairy * front
    layers["goatee"] = chin * region * hairy
    for k, (thick, lift, rough) in enumerate(
        ((0.016, 0.03, 0.25), (0.03, 0.0, 0.3), (0.026, 0.02, 0.35), (0.042, 0.005, 0.5))
    ):
        share, above = _brow(ax, y, lift)
        strands = noise(np.stack([x * 9 + above * 22, y * 16, z * 4], -1), 2.6, 20 + k)
        half = thick * np.interp(share, [-0.1, 0.08, 0.35, 0.7, 1.05], [0.35, 0.95, 1.0, 0.7, 0.15])
        edge = _step(half - np.abs(above + 0.012 * strands * rough), -0.012, 0.018)
        ends = _step(share, -0.06, 0.1) * _step(-share, -1.08, -0.85)
        layers[f"brow{k}"] = edge * ends * front * (0.85 + rough * 0.45 * strands).clip(0.25, 1.2)
    for k in range(3):
        spots = _step(noise(p, 17 + 3 * k, 30 + k), 1.35, 2.0)
        near = _step(noise(p, 2, 40 + k) + 1.2 * spot(0.25, -0.2, 0.4, 0.28), 0.2, 1.4)
        layers[f"freckles{k}"] = spots * near
        layers[f"moles{k}"] = (
            _step(noise(p, 17, 50 + k), 3.7, 4.1) * (1 - lips) * _step(ax, 0.1, 0.2)
        )
    for name, value in blend.items():
        layers[f"blotches_{name}"] = (value / 2.5).clip(-1, 1)
    layers["pores"] = (fine / 2.5).clip(-1, 1)
    layers["mottle"] = (noise(p, 16, 5) / 2.5).clip(-1, 1)
    folds = np.exp(-(((ax - np.interp(y, [-0.62, -0.36], [0.33, 0.16])) / 0.014) ** 2))
    folds *= _step(y, -0.72, -0.6) * _step(-y, 0.3, 0.38)
    lines = sum(np.exp(-(((y - c - 0.03 * np.cos(ax * 5) - 0.012 * blend["c"]) / 0.01) ** 2))
                for c in (0.42, 0.53, 0.64)) * _step(-ax, -0.5, -0.3)  # fmt: skip
    crow = np.exp(-(((((y - 0.08) / (ax - 0.44).clip(0.02) * 2.2 + 0.3) % 1 - 0.5) / 0.16) ** 2))
    crow *= _step(ax, 0.52, 0.55) * _step(-ax, -0.68, -0.6) * _step(-np.abs(y - 0.08), -0.1, -0.04)
    layers["wrinkles"] = (0.8 * folds + 0.8 * lines + 0.7 * crow) * front
    column, away = hair.angles(p.reshape(-1, 3))
    line = np.interp(np.abs(column), *hair.angles(hair.HAIRLINE)).reshape(x.shape)
    scalp = _step(line + 0.05 * blend["c"] - away.reshape(x.shape), 0.0, 0.14)
    layers["scalp"] = (
        scalp * (0.8 + 0.25 * fine).clip(0.2, 1.2) * (1 - _step(masks[..., 4], 0.3, 0.6))
    )
    return layers


def _eye(width: int, height: int) -> dict[str, np.ndarray]:
    """TextureLayers of an eyeball, seen along its axis."""
    y, x = (np.mgrid[:height, :width] + 0.5) / [[[height]], [[width]]] * 2 - 1
    r, angle = np.hypot(x, y), np.arctan2(y, x)
    ring = np.stack([np.cos(angle), np.sin(angle), r * 0.3], -1)
    soft = 2.5 / width
    iris = _step(IRIS - r, -soft, soft)
    return {
        "sclera": np.ones_like(r),
        "veins": _step(r, 0.5, 0.95) * (0.6 + 0.4 * noise(ring, 4, 60)).clip(0, 1),
        "iris": iris,
        "rim": iris * _step(r, IRIS * 0.72, IRIS),
        "inner_iris": iris * _step(-r, -IRIS * 0.72, -IRIS * 0.35),
        "fibres": iris * (noise(ring, 11, 61) / 2.5).clip(-1, 1),
        "pupil": _step(IRIS * 0.4 - r, -soft, soft),
    }


def _hair(width: int, height: int) -> dict[str, np.ndarray]:
    """TextureLayers of hair: across it runs x, along it y. Also how ragged its edges are."""
    y, x = (np.mgrid[:height, :width] + 0.5) / [[[height]], [[width]]]

    def strand(across: float, along: float, seed: int) -> np.ndarray:
        return noise(np.stack([x * across, y * along, 0 * x], -1), 1, seed)

    return {
        "hair": np.ones_like(x),
        "strands": (strand(30, 5, 70) / 2.5).clip(-1, 1),
        "locks": (strand(9, 3, 71) / 2.5).clip(-1, 1),
        "curls": (strand(12, 36, 72) / 2.5).clip(-1, 1),
        "tips": _step(y, 0.3, 1.0),
        "edge": (0.5 + 0.3 * strand(22, 4, 73)).clip(0, 0.99),
    }


def _cloth(width: int, height: int) -> dict[str, np.ndarray]:
    y, x = (np.mgrid[:height, :width] + 0.5) / [[[height]], [[width]]]
    stripes, bars = (
        _step(np.sin(y * 2 * np.pi * 7), -0.3, 0.3),
        _step(np.sin(x * 2 * np.pi * 7), -0.3, 0.3),
    )
    place = np.stack([x, y, 0 * x], -1)
    return {
        "cloth": np.ones_like(x),
        "stripes": stripes,
        "checks": 0.5 * (stripes + bars),
        "knit": (noise(place, 30, 80) / 2.5).clip(-1, 1),
        "folds": (noise(place * [1.6, 1, 1], 5, 81) / 2.5).clip(-1, 1),
    }


def _body(width: int, height: int) -> dict[str, np.ndarray]:
    y, x = np.mgrid[:height, :width] / [[[width]], [[width]]]
    place = np.stack([x, y, 0 * x], -1)
    return {"body": np.ones_like(x), "body_mottle": (noise(place, 24, 82) / 2.5).clip(-1, 1)}


def _lash(width: int, height: int) -> dict[str, np.ndarray]:
    x = (np.mgrid[:height, :width][1] + 0.5) / width
    lines = noise(np.stack([x * 40, 0 * x, 0 * x], -1), 1, 90)
    return {"lash": np.ones_like(x), "lash_gaps": (0.5 + 0.35 * lines).clip(0, 0.99)}


ALPHA = ("edge", "lash_gaps")  # layers of the fourth channel


@functools.cache
def layers(fine: bool) -> TextureLayers:
    """All layers, at full size or at half of it."""
    shrink = 1 if fine else 2
    width, height = SIZE[0] // shrink, SIZE[1] // shrink
    makers = {
        "head": _head,
        "eye": _eye,
        "hair": _hair,
        "cloth": _cloth,
        "lash": _lash,
        "body": _body,
    }
    values, names = [], []
    for cell, maker in makers.items():
        left, top, w, h = (n // shrink for n in CELLS[cell])
        for name, layer in maker(w, h).items():
            padded = np.pad(layer, 1, mode="edge")  # bilinear samples reach over the border
            whole = np.zeros((height, width))
            whole[top - 1 : top + h + 1, left - 1 : left + w + 1] = padded
            names.append(name)
            values.append(np.round(whole * (255 if layer.min() >= 0 else 127)).reshape(-1))
    left, top, w, h = (n // shrink for n in CELLS["plain"])
    whole = np.zeros((height, width))
    whole[top : top + h, left : left + w] = 255
    names.append("plain")
    values.append(whole.reshape(-1))
    stacked = torch.tensor(np.stack(values).clip(-255, 255), dtype=torch.float32)
    return TextureLayers(
        stacked, tuple(names), (height, width), _face_uv(), cell_uv("hair", hair.grid().uv)
    )


def cell_uv(cell: str, share: Tensor) -> Tensor:
    """Texture coordinates of shares (M, 2) of a cell."""
    left, top, width, height = CELLS[cell]
    at = torch.tensor([left, top]) + share.clamp(0, 1) * torch.tensor([width, height])
    return at / torch.tensor(SIZE, dtype=torch.float32)


def cloth_share(at: Tensor) -> Tensor:
    """Shares of the cells of cloth and body for points (M, 3) of the neutral body."""
    return torch.stack([(at[:, 0] + 2.4) / 4.8, -at[:, 1] / 3.2], 1)


def _face_uv() -> Tensor:
    """Texture coordinates of the face's vertices, (V, 2)."""
    model = face()
    group, at = model.group[model.corner_of], model.points[model.corner_of]
    uv = cell_uv("plain", torch.full((len(at), 2), 0.5))
    skin = group == SKIN
    head = skin & (model.uv[:, 0] > _HEAD[0])
    uv[head] = cell_uv("head", _in_head(model.uv[head]))
    cloth = cloth_share(at)
    uv[skin & ~head] = cell_uv("body", cloth[skin & ~head])
    for k, points in zip(EYES, model.eyes, strict=True):
        middle = model.points[points].mean(0)
        radius = (model.points[points] - middle).norm(dim=1).mean()
        chosen = group == k
        flat = (at[chosen, :2] - middle[:2]) / radius * torch.tensor([1.0, -1.0])
        uv[chosen] = cell_uv("eye", (flat + 1) / 2)
    lash = group == LASHES
    uv[lash] = cell_uv("lash", torch.stack([at[lash, 0].abs() * 3 - 0.5, 0.5 + 0 * at[lash, 0]], 1))
    return uv
