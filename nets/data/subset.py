"""The first samples of a dataset, as a dataset."""

from __future__ import annotations

from typing import Any


class First:
    """The first `length` samples of a dataset, and everything else that it has."""

    def __init__(self, dataset: Any, length: int):
        self.dataset, self.length = dataset, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any]:
        return self.dataset[place]

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # not there yet: a worker is unpickling this
            raise AttributeError(name)
        return getattr(self.dataset, name)
