"""Who a person is: from a row of numbers to the coefficients of shapes, and to colours and styles.

A person's numbers are standard normal, clipped to [-2.5, 2.5], one for each of PARAMETERS. A person
is an adult: the youngest shape is MakeHuman's "young", of 25 years.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from nets.random import uniform
from nets.worlds.heads.face.mesh import face

LIMIT = 2.5  # of a person's numbers
_RACES, _SEXES, _AGES = ("african", "asian", "caucasian"), ("female", "male"), ("young", "old")
_WEIGHTS = ("min", "average", "max")
_OPPOSITES = (
    ("decr", "incr"), ("down", "up"), ("backward", "forward"), ("in", "out"),
    ("concave", "convex"), ("compress", "uncompress"),
)  # fmt: skip
# How far the shapes of a folder go, at one standard deviation.
_SPREAD = {
    "head": 0.28, "forehead": 0.3, "eyebrows": 0.3, "eyes": 0.26, "nose": 0.28, "mouth": 0.24,
    "ears": 0.3, "chin": 0.26, "cheek": 0.3, "neck": 0.2, "asym": 0.12,
}  # fmt: skip
# Where the middle of people lies; MakeHuman's neutral eyes are narrow.
_MIDDLE = {"eyes/eye-scale": 0.3, "eyes/eye-height2": 0.35, "eyes/eye-height1": 0.2,
           "eyes/eye-height3": 0.2, "eyebrows/eyebrows-angle": 0.15}  # fmt: skip
LOOKS = (
    *("tone", "undertone", "redness", "contrast", "blush", "freckles", "moles", "oil"),
    *("noise1", "noise2", "noise3", "noise4", "spots1", "spots2", "spots3"),
    *("lip_hue", "lip_dark", "make_up", "lip_gloss", "eye_shadow", "under_eyes", "lashes"),
    *("brow_style", "brow_thick", "brow_dark", "beard", "beard_kind", "stubble", "beard_shade"),
    *("iris_hue", "iris_light", "iris_rim", "sclera"),
    *("hair_style", "hair_shade", "hair_tint", "grey", "hair_volume", "hair_length", "hair_part"),
    *("hair_wave", "hair_fringe", "hair_line", "hair_shape1", "hair_shape2", "hair_sheen"),
    *(
        "cloth_hue",
        "cloth_saturation",
        "cloth_value",
        "cloth_pattern",
        "cloth_neck",
        "cloth_second",
    ),
    *("teeth", "wrinkles"),
)


@functools.cache
def _pairs() -> tuple[tuple[str, int, int], ...]:
    """(name, target of negative values or -1, target of positive values) of each detail."""
    names = list(face().shapes)
    result: list[tuple[str, int, int]] = []
    used: set[str] = set()
    for i, name in enumerate(names):
        if "/" not in name or name in used:
            continue
        for low, high in _OPPOSITES:
            for mine, other, sign in ((low, high, -1), (high, low, 1)):
                stem = name.removesuffix(f"-{mine}")
                if stem != name and f"{stem}-{other}" in names:
                    j = names.index(f"{stem}-{other}")
                    used |= {name, names[j]}
                    label = f"{stem}-{high}" if any(stem == row[0] for row in result) else stem
                    result.append((label, i, j) if sign < 0 else (label, j, i))
                    break
            if name in used:
                break
        else:
            result.append((name, -1, i))
    return tuple(result)


@functools.cache
def parameters() -> tuple[str, ...]:
    """Names of a person's numbers."""
    return (*_RACES, "sex", "age", "weight", *(name for name, _, _ in _pairs()), *LOOKS)


def identities(ids: Tensor, seed: int = 0) -> Tensor:
    """The numbers of persons, (N, D) float32, D = len(parameters()).

    ids  (N,) int64, 0 or more; those of a split start at SPLITS[split] of `world`
    """
    draw = uniform(seed, "face", ids, len(parameters()))
    return torch.special.ndtri(draw).clamp(-LIMIT, LIMIT).float()


class Traits:
    """A person's traits by name, (N,) float64 each."""

    def __init__(self, identity: Tensor) -> None:
        self._values = identity.double()
        self._at = {name: i for i, name in enumerate(parameters())}

    def __getitem__(self, name: str) -> Tensor:
        """The standard normal number."""
        return self._values[:, self._at[name]]

    def share(self, name: str) -> Tensor:
        """The number as a share in [0, 1], uniform among people."""
        return torch.special.ndtr(self[name])

    @functools.cached_property
    def male(self) -> Tensor:
        """0 for a woman's shape, 1 for a man's; few are between."""
        return (0.5 + 2.5 * self["sex"]).clamp(0.06, 0.94)

    @functools.cached_property
    def old(self) -> Tensor:
        """0 at 25 years, 1 at 90."""
        return 0.8 * self.share("age") ** 1.8

    @functools.cached_property
    def races(self) -> Tensor:
        """Shares (N, 3) of `_RACES`, which add up to one."""
        e = torch.stack([(self[name] + 0.9).clamp(min=0.02) ** 3 for name in _RACES], 1)
        return e / e.sum(1, keepdim=True)


def shape_coefficients(traits: Traits) -> Tensor:
    """Coefficients of the identity targets, (N, K) float64."""
    names = face().shapes
    one: Callable[[str], int] = names.index
    result = torch.zeros(len(traits["sex"]), len(names), dtype=torch.float64)
    sex, age = {"female": 1 - traits.male, "male": traits.male}, {}
    age = {"young": 1 - traits.old, "old": traits.old}
    heavy = (0.3 * traits["weight"]).clamp(-0.6, 0.8)
    weight = {"min": (-heavy).clamp(min=0), "max": heavy.clamp(min=0), "average": 1 - heavy.abs()}
    for s in _SEXES:
        for a in _AGES:
            both = sex[s] * age[a]
            for i, r in enumerate(_RACES):
                result[:, one(f"{r}-{s}-{a}")] = both * traits.races[:, i]
            for w in _WEIGHTS:
                result[:, one(f"{s}-{a}-{w}weight")] = both * weight[w]
    for name, low, high in _pairs():
        value = traits[name] * _SPREAD[name.split("/")[0]] + _MIDDLE.get(name, 0)
        if low < 0:  # a shape without an opposite: most people have little of it
            result[:, high] = (value - 0.1).clamp(0, 0.8) if "asym" not in name else value.clamp(0)
        else:
            result[:, low], result[:, high] = (-value).clamp(0, 1), value.clamp(0, 1)
    return result
