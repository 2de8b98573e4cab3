"""Choice of the image that gives the appearance for each target."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from nets.contracts import Place, Sample
from nets.errors import UserError

PAIRINGS = ("same", "identity", "any")


class Pairs:
    """Draws the appearance sample for each target sample, from (seed, epoch, index) only.

    pairing     "same": the target itself; "identity": another sample of the same person; "any":
                any other sample. If there is no other one, the target itself.
    identities  (length,) int; None: unknown
    name        of the dataset, for the UserError of "identity" with unknown identities
    """

    def __init__(
        self, pairing: str, length: int, identities: np.ndarray | None, seed: int, name: str
    ):
        if pairing not in PAIRINGS:
            raise ValueError(
                f"Pairs: pairing must be one of {', '.join(PAIRINGS)}, got {pairing!r}"
            )
        if pairing == "identity":
            if identities is None:
                raise UserError(
                    f"{name}: pairing by identity needs the key identities; --pairing any "
                    "or --pairing same works without"
                )
            self._order = np.argsort(identities, kind="stable")
            _, self._group, counts = np.unique(identities, return_inverse=True, return_counts=True)
            self._start = np.concatenate([[0], np.cumsum(counts)])
        self._pairing, self._length, self._seed = pairing, length, seed % 2**63

    def other(self, epoch: int, index: int) -> int | None:
        """The appearance sample for target `index`, or None for "same"."""
        if self._pairing == "same":
            return None
        if self._pairing == "any":
            first, count, position = 0, self._length, index
        else:
            group = self._group[index]
            first, last = self._start[group], self._start[group + 1]
            count = last - first
            position = int(np.searchsorted(self._order[first:last], index))
        if count == 1:
            return index
        other = int(np.random.default_rng([self._seed, epoch, index]).integers(count - 1))
        other += other >= position  # skips the target
        return other if self._pairing == "any" else int(self._order[first + other])


class Paired:
    """Base class of datasets whose samples are a target and an appearance.

    A subclass sets `_pairs` and defines `_read`.
    """

    _pairs: Pairs

    def _read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (3, S, S) uint8 and joints (J, 2) float32 in its pixels, of one index."""
        raise NotImplementedError

    def __getitem__(self, place: Place) -> Sample:
        epoch, index = place
        target, joints = self._read(index)
        sample: Sample = {"target": target, "joints": joints, "index": index}
        other = self._pairs.other(epoch, index)
        if other is not None:
            sample["appearance"], sample["appearance_joints"] = self._read(other)
        return sample
