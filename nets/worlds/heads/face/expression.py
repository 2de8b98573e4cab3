"""Expressions: coefficients of the 52 face units, as snapshots of people or over time.

The units have ARKit's names. An expression is a sum of a few plausible ones: a smile with its
cheeks, an open jaw with the shape of a vowel, brows, lids and a gaze that both eyes share.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from nets.random import uniform
from nets.worlds.heads.face.mesh import face

DRAWS = 24  # uniform numbers of a snapshot


class _Units:
    """Coefficients (N, 52) float64, filled by name; a name without a side fills both sides."""

    def __init__(self, count: int) -> None:
        self.values = torch.zeros(count, len(face().units), dtype=torch.float64)

    def add(self, name: str, value: Tensor) -> None:
        for column in _columns(name):
            self.values[:, column] += value


@functools.cache
def _columns(name: str) -> tuple[int, ...]:
    units = face().units
    names = [name] if name in units else [name + "Left", name + "Right"]
    return tuple(units.index(n) for n in names)


def _gaze(units: _Units, right: Tensor, up: Tensor) -> None:
    """Turns both eyes: `right` to the image's right and `up`, in [-1, 1]."""
    units.add("eyeLookOutLeft", right.clamp(min=0))
    units.add("eyeLookInRight", right.clamp(min=0))
    units.add("eyeLookInLeft", (-right).clamp(min=0))
    units.add("eyeLookOutRight", (-right).clamp(min=0))
    units.add("eyeLookUp", up.clamp(min=0))
    units.add("eyeLookDown", (-up).clamp(min=0))


def _above(draw: Tensor, share: float) -> Tensor:
    """0 for a `share` of people, then rising to 1."""
    return ((draw - share) / (1 - share)).clamp(min=0)


def snapshots(draw: Tensor) -> Tensor:
    """Expressions (N, 52) float64 in [0, 1] of people seen at any time.

    draw  (N, DRAWS) uniform numbers
    """
    d = draw.double().unbind(1)
    units = _Units(len(draw))
    smile = _above(d[0], 0.5) * (1 - 0.25 * d[1])
    lean = 0.3 * (d[2] - 0.5)
    units.add("mouthSmileLeft", 0.85 * smile * (1 + lean))
    units.add("mouthSmileRight", 0.85 * smile * (1 - lean))
    units.add("cheekSquint", 0.5 * smile)
    units.add("mouthUpperUp", 0.35 * _above(smile, 0.3))
    units.add("mouthDimple", 0.2 * smile)
    unsmiling = 1 - smile
    jaw = _above(d[3], 0.42) ** 1.3 * 0.75
    units.add("jawOpen", jaw * (0.45 + 0.55 * unsmiling))
    vowel = d[4]
    units.add("mouthFunnel", _above(1 - vowel, 0.7) * 0.7 * unsmiling * (jaw > 0))
    units.add("mouthPucker", _above(vowel, 0.78) * 0.75 * unsmiling)
    units.add("mouthStretch", _above(1 - (vowel - 0.5).abs() * 4, 0.2) * 0.35 * (jaw > 0))
    units.add("mouthLowerDown", 0.4 * jaw * d[5])
    units.add("mouthUpperUp", 0.3 * jaw * d[6])
    units.add("mouthFrown", _above(d[7], 0.85) * 0.6 * unsmiling)
    units.add("mouthPress", _above(d[8], 0.85) * 0.6 * (jaw == 0))
    units.add("mouthRollLower", _above(d[9], 0.9) * 0.5 * (jaw == 0))
    units.add("mouthShrugUpper", _above(d[10], 0.9) * 0.5 * unsmiling)
    units.add("cheekPuff", _above(d[11], 0.96) * 0.7 * (jaw == 0))
    units.add("noseSneer", _above(d[12], 0.9) * 0.6)
    aside = 0.25 * (d[13] - 0.5)
    units.add("mouthLeft", aside.clamp(min=0))
    units.add("mouthRight", (-aside).clamp(min=0))
    brows = 2 * d[14] - 1
    units.add("browInnerUp", 0.8 * _above(brows.clamp(min=0), 0.2))
    units.add("browOuterUpLeft", 0.7 * _above(brows.clamp(min=0), 0.3) * (0.6 + 0.4 * d[15]))
    units.add("browOuterUpRight", 0.7 * _above(brows.clamp(min=0), 0.3) * (1 - 0.4 * d[15]))
    units.add("browDown", 0.6 * _above((-brows).clamp(min=0), 0.35))
    blink = _above(d[16], 0.86)
    units.add("eyeBlink", 0.98 * blink.clamp(max=1) ** 0.6 + 0.04 * d[17] * (blink == 0))
    units.add("eyeWide", (0.15 + _above(d[18], 0.75) * 0.5) * (blink == 0))
    units.add("eyeSquint", (0.25 * smile + 0.35 * _above(1 - d[18], 0.75)) * (blink == 0))
    _gaze(units, 0.8 * (2 * d[19] - 1) ** 3, 0.7 * (2 * d[20] - 1) ** 3)
    return units.values.clamp_(0, 1)


def _noise(seed: int, stream: str, clip: int, t: Tensor, rate: float) -> Tensor:
    """Smooth noise over time in [0, 1]: a uniform number `rate` times a second, blended."""
    place = t * rate
    first = place.floor()
    share = place - first
    share = share * share * (3 - 2 * share)
    ids = clip * (1 << 20) + first.long()
    low, high = (uniform(seed, f"face {stream}", ids + k, 1)[:, 0] for k in (0, 1))
    return low + (high - low) * share


def speech(clip: int, t: Tensor, seed: int = 0) -> Tensor:
    """Expressions (N, 52) float64 of a person who talks, at times t (N,) in seconds.

    Phrases and pauses, about four syllables a second with shapes of vowels, lips that close between
    them, blinks of 0.3 s, jumps of the gaze, brows that stress a word, and a mood.
    """
    units = _Units(len(t))
    draw = uniform(seed, "face speech", torch.tensor([clip]), 8)[0]
    talks = ((_noise(seed, "phrase", clip, t, 0.5) - 0.3) * 6).clamp(0, 1)
    beat = _noise(seed, "beat", clip, t, 0.7) * 0.6 + t * (3.2 + 1.4 * draw[0])
    open_ = (0.5 - 0.5 * (2 * math.pi * beat).cos()) * (
        0.35 + 0.65 * _noise(seed, "loud", clip, t, 3)
    )
    syllable = talks * open_
    vowel = _noise(seed, "vowel", clip, t, 4)
    units.add("jawOpen", 0.62 * syllable)
    units.add("mouthFunnel", talks * 0.7 * _above(vowel, 0.62))
    units.add("mouthPucker", talks * 0.7 * _above(1 - vowel, 0.72))
    units.add("mouthStretch", talks * 0.35 * _above(1 - 2 * (vowel - 0.45).abs(), 0.5))
    units.add("mouthLowerDown", 0.5 * syllable)
    units.add("mouthUpperUp", 0.25 * syllable)
    units.add("mouthClose", 0.1 * talks * (1 - open_))
    units.add("mouthPress", 0.3 * talks * _above(1 - open_, 0.9))
    smile = _above(0.55 * draw[1] + 0.6 * _noise(seed, "smile", clip, t, 0.25), 0.5)
    units.add("mouthSmile", 0.8 * smile * (1 - 0.4 * talks))
    units.add("cheekSquint", 0.4 * smile)
    units.add("eyeSquint", 0.15 * smile)
    brows = 2 * _noise(seed, "brows", clip, t, 0.9) - 1
    units.add("browInnerUp", 0.8 * _above(brows.clamp(min=0), 0.25))
    units.add("browOuterUp", 0.6 * _above(brows.clamp(min=0), 0.3))
    units.add("browDown", 0.4 * _above((-brows).clamp(min=0), 0.4))
    period = 2.2 + 3 * draw[2]
    turn = t / period + draw[3]
    wait = 0.6 * uniform(seed, "face blink", clip * (1 << 20) + turn.floor().long(), 1)[:, 0]
    since = (turn % 1 - wait) * period
    lids = (1 - (since / 0.15 - 1).abs()).clamp(min=0)
    units.add("eyeBlink", (1.6 * lids).clamp(max=1) * 0.98 + 0.05)
    hold = (t * 0.9 + draw[4]).floor().long() + clip * (1 << 20)
    right, up, moved = uniform(seed, "face gaze", hold, 3).unbind(1)
    units.add("eyeWide", 0.12 + 0.2 * _above(brows.clamp(min=0), 0.3))
    _gaze(units, 0.7 * (2 * right - 1) * (moved < 0.5), 0.45 * (2 * up - 1) * (moved < 0.5))
    return units.values.clamp_(0, 1)
