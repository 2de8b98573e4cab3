"""What the rooms promise each other: the types of samples, batches and datasets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

Place = tuple[int, int]  # (epoch, index) of a sample: randomness is counted from both
Sample = dict[str, Any]  # names to tensors and numbers, as a dataset hands them out
Batch = dict[str, Any]  # the same names, stacked along a first axis, on the device


class Dataset(Protocol):
    """Samples by (epoch, index); the same place always gives the same sample."""

    name: str  # for messages: the file or folder, or "the demo world of ..."

    def __len__(self) -> int: ...

    def __getitem__(self, place: Place, /) -> Sample:
        """One sample. Raises BadSample, which names the file, if it cannot be read."""


class PeopleDataset(Dataset, Protocol):
    """Images of people or clips of them, with joints."""

    joint_order: tuple[str, ...]  # names along the joints' first axis; empty without joints


Batches = Iterator[Batch]
