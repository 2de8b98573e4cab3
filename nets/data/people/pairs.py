"""Which image lends its appearance to which."""

from __future__ import annotations

from typing import Any

import numpy as np

from nets.errors import UserError

PAIRINGS = ("same", "identity", "any")


class Pairs:
    """Draws the appearance's sample for a target's, from (seed, epoch, index) alone.

    pairing     "same": the target itself; "identity": another sample of the same person; "any":
                any other sample. Where there is no other one, the target itself.
    identities  (length,) int, or None where they are not known
    name        of the dataset, for the error that "identity" raises where they are not known
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
        """The sample whose appearance goes with `index`, or None for "same"."""
        if self._pairing == "same":
            return None
        if self._pairing == "any":
            first, count, here = 0, self._length, index
        else:
            group = self._group[index]
            first, last = self._start[group], self._start[group + 1]
            count = last - first
            here = int(np.searchsorted(self._order[first:last], index))
        if count == 1:
            return index
        drawn = int(np.random.default_rng([self._seed, epoch, index]).integers(count - 1))
        drawn += drawn >= here
        return drawn if self._pairing == "any" else int(self._order[first + drawn])


class Paired:
    """Samples of a target and what lends it its appearance: a dataset's `[(epoch, index)]`.

    A subclass sets `_pairs`, and `_read(index)` gives the image and the joints of one index.
    """

    _pairs: Pairs

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any]:
        epoch, index = place
        target, joints = self._read(index)
        sample = {"target": target, "joints": joints, "index": index}
        other = self._pairs.other(epoch, index)
        if other is not None:
            sample["appearance"], sample["appearance_joints"] = self._read(other)
        return sample
