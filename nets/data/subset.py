"""The first samples of a dataset, as a dataset."""

from __future__ import annotations

from typing import Any

from nets.contracts import Dataset, Place, Sample


class First:
    """The first `length` samples of a dataset, with all other attributes of the dataset."""

    name: str  # the dataset's

    def __init__(self, dataset: Dataset, length: int):
        self.dataset, self.length = dataset, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: Place) -> Sample:
        return self.dataset[place]

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # not set yet while a worker unpickles this
            raise AttributeError(name)
        return getattr(self.dataset, name)
