"""Pictures of people with joints, wherever they come from; reconstructions of them as a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nets.errors import UserError


def open_people(options: Mapping[str, Any], split: str, length: int = 0):
    """The dataset that a run's options describe: `data_index`, `data_root`, or the demo world.

    split    "train" or "test"
    length   the first so many samples; 0: all
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

        data = PrjotiDataset(options["data_root"], split, size, seed=seed)
    else:
        from .worlds.people import PeopleWorld

        data = PeopleWorld(split, size, pairing="same" if pairing == "same" else "identity")
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


def write_reconstructions(
    joint_order: Iterable[str], made: Iterable[tuple[Mapping[str, Any], Tensor]], folder: Path
) -> int:
    """Write pictures and an `index.p` of them, a dataset like the one they were made from.

    made     batches with "index" and "joints" (N, J, 2) in pixels, and their pictures (N, 3, S, S)
             in [-1, 1]
    returns  how many pictures were written
    """
    from nets.data.index import write_index
    from nets.data.pictures import write_picture

    names, joints = [], []
    for batch, pictures in made:
        size = pictures.shape[-1]
        for index, points, picture in zip(
            batch["index"].tolist(), batch["joints"].cpu(), pictures.float().cpu(), strict=True
        ):
            names.append(f"images/{index:06d}.png")
            joints.append((points / size).nan_to_num(-1.0))
            write_picture(folder / names[-1], ((picture + 1) * 127.5).round().clamp(0, 255).byte())
    train = [False] * len(names)
    write_index(folder / "index.p", list(joint_order), names, torch.stack(joints).numpy(), train)
    return len(names)
