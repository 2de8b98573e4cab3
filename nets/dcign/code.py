"""The code of DC-IGN: groups of latents, and the clamp of inactive latents in a training step.

In a mini-batch only one variable of the scene changes. The latents of its group are active: they
vary and learn. The other latents are inactive. They get one value for the whole batch and no
gradient from the image, and they may be drawn together (Kulkarni et al. 2015, section 3.1).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

CLAMPS = ("first", "mean", "off")


class Group(NamedTuple):
    """A variable of the scene and the latents that stand for it."""

    name: str
    latents: int | None  # number of latents; None: all remaining ones
    set: str  # name of its set of batches, which lie in the folder th_<set>


FACES = (
    Group("azimuth", 1, "AZ_VARIED"),
    Group("elevation", 1, "EL_VARIED"),
    Group("light", 1, "LIGHT_AZ_VARIED"),
    Group("shape", None, "SHAPE_VARIED"),
)


EXAMPLE = "for example --groups azimuth=1 light=1 shape=rest"  # ends the messages on --groups


def split_groups(value: str | Sequence[str]) -> list[str]:
    """The texts of single groups, for `parse_groups`, from the value of --groups.

    value  a text or a list of texts; commas, spaces and square brackets separate groups
    """
    texts = [value] if isinstance(value, str) else value
    return [group for text in texts for group in re.split(r"[\s,\[\]]+", str(text)) if group]


def parse_groups(texts: Sequence[str]) -> tuple[Group, ...]:
    """Groups from texts `name=latents` or `name=latents@set`; the last one is `name=rest`.

    Without @set, the names of `FACES` have the sets given there. The set of any other name is the
    name in capitals with _VARIED.
    Raises ValueError for any other text, a repeated name, or fewer than two groups.
    """
    known = {group.name: group.set for group in FACES}
    groups = []
    for i, text in enumerate(texts):
        name, _, rest = str(text).partition("=")
        count, _, folder = rest.partition("@")
        last = i + 1 == len(texts)
        if not name.isidentifier() or not (
            count == "rest" if last else count.isdigit() and int(count)
        ):
            expected = "name=rest" if last else "name=number of latents"
            raise ValueError(f"groups: entry {i + 1} must be {expected}, got {text!r}; {EXAMPLE}")
        groups.append(
            Group(
                name,
                None if last else int(count),
                folder or known.get(name) or f"{name.upper()}_VARIED",
            )
        )
    if len({group.name for group in groups}) < len(groups) or len(groups) < 2:
        raise ValueError(
            f"groups: must be two or more different names, got {' '.join(texts)}; {EXAMPLE}"
        )
    return tuple(groups)


def factor_slice(groups: Sequence[Group], name: str, latents: int) -> slice:
    """The places of a group's latents in the code, from 0, in the order of the groups.

    latents  length of the code
    Raises ValueError for an unknown name, and if the code is too short for all groups.
    """
    start = 0
    for group in groups:
        stop = latents if group.latents is None else start + group.latents
        if stop <= start or stop > latents:
            raise ValueError(f"groups: {latents} latents are too few for {group.name}")
        if group.name == name:
            return slice(start, stop)
        start = stop
    raise ValueError(f"groups: must be one of {[g.name for g in groups]}, got {name!r}")


def active_mask(active: slice | None, latents: int, device: torch.device | None = None) -> Tensor:
    """(latents,) bool, True at the active latents; None: all False."""
    mask = torch.zeros(latents, dtype=torch.bool, device=device)
    if active is not None:
        mask[active] = True
    return mask


def hold(
    code: Tensor, active: Tensor, clamp: str = "first", gradient_filter: bool = True
) -> Tensor:
    """The output of a head, (N, D), with its inactive latents set to one value for the batch.

    code    (N, D), output of the mean head or of the log-variance head
    active  (D,) bool; all False: every latent is inactive
    clamp   value of the inactive latents. "first": those of the batch's first image, as in the
            published program; "mean": their mean over the batch, as in the paper; "off": their own
    gradient_filter  True: inactive latents receive no gradient. False: the clamp is the identity in
            the backward pass, so each inactive latent receives its own gradient
    Raises ValueError for another clamp, or another shape or dtype of `active`.
    """
    if clamp not in CLAMPS:
        raise ValueError(f"hold: clamp must be one of {CLAMPS}, got {clamp!r}")
    if active.dtype != torch.bool or active.shape != code.shape[1:]:
        raise ValueError(
            f"hold: active must be bool {list(code.shape[1:])}, got {list(active.shape)} "
            f"{active.dtype}"
        )
    fixed = code.detach()
    if clamp == "first":
        fixed = fixed[:1]
    elif clamp == "mean":
        fixed = fixed.mean(0, keepdim=True)
    held = torch.where(active, code, fixed)
    # code - code.detach() is exactly 0, with a gradient of 1.
    return held if gradient_filter else held.detach() + (code - code.detach())


def invariance(code: Tensor, active: Tensor, strength: float, sign: str = "repaired") -> Tensor:
    """Loss that draws the inactive latents of a head to their mean over the batch.

    code      (N, D), output of a head, before `hold`
    active    (D,) bool
    strength  weight of the loss
    sign      "repaired": 0.5 * strength * sum of squared deviations. "original": -strength * that
              sum, as in the published program, whose signal has the wrong sign and is added twice;
              it drives the latents apart
    Raises ValueError for another sign.
    """
    if sign not in ("repaired", "original"):
        raise ValueError(f"invariance: sign must be repaired or original, got {sign!r}")
    deviation = (code - code.mean(0, keepdim=True)).masked_fill(active, 0.0)
    factor = 0.5 * strength if sign == "repaired" else -strength
    return factor * deviation.square().sum()
