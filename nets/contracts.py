"""Types that the rooms share: samples, batches and datasets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

Place = tuple[int, int]  # (epoch, index) of a sample: both seed its random numbers
Sample = dict[str, Any]  # name -> tensor or number, as a dataset returns them
Batch = dict[str, Any]  # the same names; values stacked along a new first axis, on the device


class Dataset(Protocol):
    """Samples by (epoch, index); the same place always gives the same sample."""

    name: str  # for messages: the file or folder, or the name of a demo world

    def __len__(self) -> int: ...

    def __getitem__(self, place: Place, /) -> Sample:
        """The sample at a place. Raises BadSample, which names the file, if it is unreadable."""


class PeopleDataset(Dataset, Protocol):
    """Images of people or clips of them, with joints."""

    joint_order: tuple[str, ...]  # names along the first axis of "joints"; empty without joints


Batches = Iterator[Batch]
