"""The code of DC-IGN: who owns which latents, and how the others are held during a training step.

In a mini-batch only one variable of the scene changes. The latents that own it vary and learn; of
the others every image gets one reference, and they receive no gradient from the image, but may
be drawn together (Kulkarni et al. 2015, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

CLAMPS = ("first", "mean", "off")


class Group(NamedTuple):
    """A variable of the scene: its name, its number of latents (None: the rest), and the name of
    its set of batches (the folder th_<set>).
    """

    name: str
    latents: int | None
    set: str


FACES = (
    Group("azimuth", 1, "AZ_VARIED"),
    Group("elevation", 1, "EL_VARIED"),
    Group("light", 1, "LIGHT_AZ_VARIED"),
    Group("shape", None, "SHAPE_VARIED"),
)


def parse_groups(texts: Sequence[str]) -> tuple[Group, ...]:
    """Groups from texts `name=latents` or `name=latents@set`; the last one's latents are `rest`.

    The set of one of the four names of `FACES` is known; else it is the name in capitals with
    _VARIED. Raises ValueError for anything else.
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
            raise ValueError(f"groups: entry {i + 1} must be {expected}, got {text!r}")
        groups.append(
            Group(
                name,
                None if last else int(count),
                folder or known.get(name) or f"{name.upper()}_VARIED",
            )
        )
    if len({group.name for group in groups}) < len(groups) or len(groups) < 2:
        raise ValueError(f"groups: must be two or more different names, got {list(texts)}")
    return tuple(groups)


def factor_slice(groups: Sequence[Group], name: str, latents: int) -> slice:
    """Where the latents of a group lie in a code of so many latents: counted from 0, in order.

    Raises ValueError for an unknown name and where nothing is left for the last group.
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
    """(latents,) bool: the active ones; none for None."""
    mask = torch.zeros(latents, dtype=torch.bool, device=device)
    if active is not None:
        mask[active] = True
    return mask


def hold(
    code: Tensor, active: Tensor, clamp: str = "first", gradient_filter: bool = True
) -> Tensor:
    """The output of a head as the decoder sees it: inactive latents are one vector for all.

    code    (N, D), output of the mu or of the log-variance head
    active  (D,) bool; all False: no active set, every latent is inactive
    clamp   what the inactive latents become: "first", those of the batch's first image, as the
            published program does; "mean", their average over the batch, as the paper says; "off"
    gradient_filter  the inactive latents receive no gradient; False: each gets its own, the clamp
            being the identity backwards
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
    """The loss whose gradient draws the inactive latents of a head to their mean over the batch.

    code   (N, D), output of a head, before `hold`
    sign   "repaired": 0.5 * strength * sum of squared deviations, which is to be minimised;
           "original": the published program's signal, which has the other sign, drives the latents
           apart, and enters twice a step
    """
    if sign not in ("repaired", "original"):
        raise ValueError(f"invariance: sign must be repaired or original, got {sign!r}")
    deviation = (code - code.mean(0, keepdim=True)).masked_fill(active, 0.0)
    factor = 0.5 * strength if sign == "repaired" else -strength
    return factor * deviation.square().sum()
