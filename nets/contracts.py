"""Types that the rooms share: samples, batches and datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

Place = tuple[int, int]  # (epoch, index) of a sample: both seed its random numbers
Sample = dict[str, Any]  # name -> tensor or number, as a dataset returns them
Result = TypeVar("Result")
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


class Team(Protocol):
    """The processes that share a work: one, or those of torchrun (`PatientRanks` of nets.run)."""

    rank: int  # 0 .. world_size - 1
    world_size: int

    def on_main(self, work: Callable[[], Result]) -> Result:
        """Run `work()` on rank 0 and return its result, or raise its error, on every rank."""

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in rank order, on every rank."""
