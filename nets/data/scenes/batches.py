"""Mini-batches in which one factor of a scene changes: files, folders, and order in training.

    ROOT/th_AZ_VARIED/FT_training/batch1 ...    ROOT/th_AZ_VARIED/FT_test/batch1 ...
    ROOT/th_EL_VARIED/...    ROOT/th_LIGHT_AZ_VARIED/...    ROOT/th_SHAPE_VARIED/...
    ROOT/th_training/batch1 ...    ROOT/th_test/batch1 ...       everything changes in a batch

A batch is a Torch7 file without ending or with .t7, a float tensor (B, 1, S, S) in [0, 1]; or a
.npz of guise with `image` uint8 and optional labels by name, (B, ...).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from nets.contracts import Place, Sample
from nets.data.io import torch7
from nets.data.io.files import read_arrays, whole_file
from nets.data.scenes.factors import MIXED
from nets.errors import BadSample, UserError
from nets.listing import list_folder
from nets.random import uniform

MODES = {"train": "FT_training", "test": "FT_test"}
MIXED_FOLDERS = {"train": "th_training", "test": "th_test"}
FILE = re.compile(r"batch(\d+)(|\.t7|\.npz)")


class Source(Protocol):
    """Batches by type and number, counted from 0."""

    name: str
    counts: dict[str, int]  # batches of each type
    labels: tuple[str, ...]  # names of the labels that read() gives for all batches

    def read(self, kind: str, number: int) -> dict[str, Tensor]:
        """A batch: "image" (B, 1, S, S) uint8, or float32 in [0, 1]; and labels (B, ...).

        Raises BadSample if the file cannot be used.
        """


def unit(image: Tensor) -> Tensor:
    """Images as float32 in [0, 1], from uint8 or floating point in [0, 1]."""
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def read_batch(path: Path, count: int | None, size: int) -> dict[str, Tensor]:
    """A batch file as in `Source.read`. Raises BadSample.

    count, size  number of its images and their side in pixels, which are checked; None: any number
    """
    labels: dict[str, Tensor] = {}
    image: object
    if path.suffix == ".npz":
        labels = _read_npz(path)
        image = labels.pop("image", None)
    else:
        try:
            image = torch7.read(path)
        except UserError as error:
            raise BadSample(path, str(error).removeprefix(f"{path}: ")) from error
    if count is None and isinstance(image, Tensor) and image.ndim == 4 and len(image):
        count = len(image)
    shape = (count, 1, size, size)
    if not isinstance(image, Tensor) or tuple(image.shape) != shape:
        what = list(image.shape) if isinstance(image, Tensor) else f"a {type(image).__name__}"
        expected = str(list(shape)).replace("None", "N")
        raise BadSample(path, f"must be a batch of {expected}, is {what}")
    if image.dtype != torch.uint8:
        image = image.float()
        if not (image >= 0).all() or not (image <= 1).all():  # "not": NaN is refused
            low, high = image.min().item(), image.max().item()
            raise BadSample(path, f"must hold values in [0, 1], holds {low:g} to {high:g}")
    return {"image": image, **labels}


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        arrays = read_arrays(path)
        return {name: torch.from_numpy(array) for name, array in dict(arrays).items()}
    except FileNotFoundError as error:
        raise BadSample(path, "is missing") from error
    except (OSError, ValueError, TypeError) as error:  # also a single array, or texts
        raise BadSample(path, f"is not a whole .npz of numbers ({error})") from error


def write_batch(path: Path, image: Tensor, labels: Mapping[str, Tensor] | None = None) -> None:
    """Write a batch, whole or not at all.

    path   .npz: uint8 images and labels; .t7 or no ending: Torch7 floats without labels
    image  (B, 1, S, S) uint8, or float32 in [0, 1]
    """
    if path.suffix == ".npz":
        if image.dtype != torch.uint8:
            image = (image * 255).round().clamp(0, 255).to(torch.uint8)
        arrays = {name: value.numpy() for name, value in {"image": image, **(labels or {})}.items()}
        with whole_file(path) as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # not allow_pickle
        return
    with whole_file(path) as file:
        torch7.write(file, unit(image).contiguous())


class BatchFolder:
    """A `Source` of the batches below a root in the layout above, in the order of their numbers."""

    def __init__(
        self,
        root: str | Path,
        split: str,  # "train" or "test"
        sets: Mapping[str, str] | None,  # type -> name of its set; None: everything changes
        count: int | None,  # images in a batch; None: any number
        size: int,  # their side in pixels
        limit: int | None = None,  # batches of each type; fewer are an error
    ):
        """Raises UserError if the folder of a type is missing or holds too few batches."""
        self.name, self.count, self.size = str(root), count, size
        if not Path(root).is_dir():
            raise UserError(f"{root}: no such folder of batches")
        if sets is None:
            folders = {MIXED: Path(root) / MIXED_FOLDERS[split]}
        else:
            folders = {t: Path(root) / f"th_{s}" / MODES[split] for t, s in sets.items()}
        self.files = {kind: _files(folder, limit) for kind, folder in folders.items()}
        self.counts = {kind: len(files) for kind, files in self.files.items()}
        self.labels = self._common_labels()

    def _common_labels(self) -> tuple[str, ...]:
        """The labels that the first batches of all types have in common."""
        labels = []
        for files in self.files.values():
            names: set[str] = set()
            if files[0].suffix == ".npz":
                try:
                    names = set(dict(read_arrays(files[0]))) - {"image"}
                except (OSError, ValueError, TypeError):
                    names = set()  # `read` reports the error
            labels.append(names)
        return tuple(sorted(set.intersection(*labels)))

    def read(self, kind: str, number: int) -> dict[str, Tensor]:
        path = self.files[kind][number]
        batch = read_batch(path, self.count, self.size)
        missing = [name for name in self.labels if name not in batch]
        if missing:
            raise BadSample(path, f"lacks the labels {', '.join(missing)}")
        return {name: batch[name] for name in ("image", *self.labels)}


def _files(folder: Path, limit: int | None) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of batches")
    files: dict[int, Path] = {}
    for path in list_folder(folder, lambda file: True).files:
        match = FILE.fullmatch(path.name)
        if match:
            if int(match[1]) in files:
                raise UserError(f"{path}: batch {match[1]} is there twice")
            files[int(match[1])] = path
    if not files:
        raise UserError(f"{folder}: holds no batches (files batch1, batch2, ...)")
    if limit and len(files) < limit:
        raise UserError(f"{folder}: holds {len(files)} batches, {limit} are asked for")
    return [files[number] for number in sorted(files)][:limit]


class Drawn:
    """A dataset of whole batches for training: sample (epoch, index) is one batch of a source.

    how  "draws": each sample is drawn from (seed, epoch, index), first a type, then a batch of it,
         with replacement; so some batches may not occur in an epoch. "passes": each batch of each
         type once an epoch, in random order. "order": each batch once, in the source's order
    """

    def __init__(
        self,
        source: Source,
        length: int | None = None,  # draws in an epoch; None: the number of all batches
        seed: int = 0,
        bias: int = 0,  # extra weight of the last type: 1 + bias, all other types 1
        how: str = "draws",  # or "passes", "order"
        shuffle: bool = True,  # the images inside a batch, because the first one is the clamp
    ):
        if how not in ("draws", "passes", "order"):
            raise ValueError(f"Drawn: how must be one of draws, passes, order, got {how!r}")
        self.source, self.seed, self.how, self.shuffle = source, seed, how, shuffle
        self.kinds = list(source.counts)
        self.weights = [1] * (len(self.kinds) - 1) + [1 + bias]
        self.all = [(i, n) for i, kind in enumerate(self.kinds) for n in range(source.counts[kind])]
        self.name = source.name
        self.length = (length or len(self.all)) if how == "draws" else len(self.all)

    def __len__(self) -> int:
        return self.length

    def place(self, epoch: int, index: int) -> tuple[int, int]:
        """The type and its batch at a place of an epoch, both counted from 0."""
        if self.how == "order":
            return self.all[index]
        if self.how == "passes":
            keys = uniform(self.seed, f"pass {epoch}", torch.arange(len(self.all)), 1)[:, 0]
            return self.all[int(keys.argsort(stable=True)[index])]
        u, v = uniform(self.seed, f"draw {epoch}", torch.tensor([index]), 2)[0].tolist()
        share = int(u * sum(self.weights))
        kind = min(share, len(self.kinds) - 1)  # the last type has all further weight
        return kind, int(v * self.source.counts[self.kinds[kind]])

    def __getitem__(self, key: Place) -> Sample:
        """A whole batch: image, labels, "kind" (number of the type) and "batch" (its number)."""
        epoch, index = key
        if not 0 <= index < self.length:
            raise IndexError(f"Drawn: index must be 0 to {self.length - 1}, got {index}")
        kind, number = self.place(epoch, index)
        batch = self.source.read(self.kinds[kind], number)
        if self.shuffle:
            count = len(batch["image"])
            keys = uniform(self.seed, f"inside {epoch} {index}", torch.arange(count), 1)[:, 0]
            order = keys.argsort(stable=True)
            batch = {name: value[order] for name, value in batch.items()}
        return {**batch, "kind": kind, "batch": number}


def in_file_order(source: Source) -> Drawn:
    """A dataset of each batch once, type after type, images unshuffled: for tests."""
    return Drawn(source, how="order", shuffle=False)
