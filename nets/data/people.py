"""Pictures of people with joints, wherever they come from; reconstructions of them as a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nets.errors import UserError


def open_people(options: Mapping[str, Any], split: str, length: int = 0, world: int = 0):
    """The dataset that a run's options describe: `data_index`, `data_root`, or the demo world.

    split    "train" or "test"
    length   the first so many samples; 0: all
    world    seed of the demo world: another one has other people, poses and backgrounds
    returns  a dataset: len(), [(epoch, index)] -> {"target", "joints", "index", ...}, `joint_order`
    Raises UserError where there is nothing, or nothing usable.
    """
    if options["data_index"] and options["data_root"]:
        raise UserError("--data_index and --data_root: give one of them")
    size, seed, pairing = options["spatial_size"], options["seed"], options["pairing"]
    if options["data_index"]:
        from .index import IndexDataset

        fit = options["fit"] == "letterbox"
        data = IndexDataset(options["data_index"], split, size, pairing, seed, letterbox=fit)
    elif options["data_root"]:
        from .meta import PrjotiDataset

        if options["fit"] != "squash":
            raise UserError("--fit letterbox: only for --data_index")
        data = PrjotiDataset(options["data_root"], split, size, pairing, seed)
    else:
        from .worlds.people import PeopleWorld

        if size < 16:
            raise UserError(f"spatial_size: must be 16 or more for the demo world, got {size}")
        data = PeopleWorld(split, size, world, pairing="same" if pairing == "same" else "identity")
    return First(data, length) if 0 < length < len(data) else data


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


def write_pictures(
    made: Iterable[tuple[Mapping[str, Any], Tensor]], folder: Path
) -> list[tuple[str, list[list[float]]]]:
    """Write pictures into folder/images; their names below `folder`, and their joints as an
    `index.p` has them.

    made     batches with "index" and "joints" (N, J, 2) in pixels, and their pictures (N, 3, S, S)
             in [-1, 1]
    """
    from nets.data.pictures import write_picture

    written = []
    for batch, pictures in made:
        size = pictures.shape[-1]
        for index, points, picture in zip(
            batch["index"].tolist(), batch["joints"].cpu(), pictures.float().cpu(), strict=True
        ):
            name = f"images/{index:06d}.png"
            write_picture(folder / name, ((picture + 1) * 127.5).round().clamp(0, 255).byte())
            written.append((name, (points / size).nan_to_num(-1.0).tolist()))
    return written


def write_pictures_index(
    joint_order: Iterable[str], written: Iterable[tuple[str, list[list[float]]]], folder: Path
) -> None:
    """Write the `index.p` of what `write_pictures` wrote: a dataset with a test split only."""
    from nets.data.index import write_index

    written = sorted(written)
    names, joints = [name for name, _ in written], [points for _, points in written]
    write_index(folder / "index.p", list(joint_order), names, joints, [False] * len(names))
