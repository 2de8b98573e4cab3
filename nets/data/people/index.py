"""People in images: an index of files, joints and a split, the format of VUNet's datasets."""

from __future__ import annotations

import difflib
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch

from nets import plain_json
from nets.data.io.files import read_arrays, whole_file
from nets.data.io.images import read_image, read_letterboxed
from nets.data.io.names import is_foreign
from nets.data.io.pickles import read_pickle
from nets.data.people.alpha import with_alpha
from nets.data.people.pairs import Paired, Pairs
from nets.errors import UserError
from nets.skeletons import JOINTS_15, JOINTS_17

KEYS = ("joint_order", "imgs", "train", "joints")
SPLITS = {"train": True, "test": False}
TRUNK = ("lshoulder", "rshoulder", "lhip", "rhip")
FARTHEST = 1.5  # largest fraction of width or height; joints beyond it are in another unit


class Index(TypedDict):
    """All entries of an index file, checked."""

    imgs: np.ndarray  # (N,) bytes, UTF-8: paths relative to the file's folder
    train: np.ndarray  # (N,) bool
    joints: np.ndarray  # (N, 17, 2) float32, order of JOINTS_17, fractions; NaN: missing
    identities: np.ndarray | None  # (N,) int64; None: unknown


class IndexDataset(Paired):
    """A dataset of images of people with their joints, listed in an `index.p`.

    path       a pickle (.p, .pkl, .pickle), .json or .npz file with the keys `joint_order` (names),
               `imgs` (paths relative to the file's folder), `train` (booleans: the split) and
               `joints` (x, y as fractions of width and height; negative or NaN: missing).
               `joint_order` names the 15 of JOINTS_15, and may name the ears (JOINTS_17) and
               others. Optional: `identities` (name or number of the person). Or a folder with an
               index.p.
    split      "train" or "test": entries whose flag is true or false. Entries without both
               shoulders and both hips are left out, as in the original.
    size       side of the square images, pixels; images are squashed to it
    pairing    source of the appearance: the "same" image, another of the same "identity", or "any"
               other of the split, drawn from (seed, epoch, index)
    letterbox  keep the aspect ratio with black borders instead of squashing; joints move along
    alpha      images have the opacity as a fourth channel
    folds      number of folds of whole people, of which `fold` is the test split; 0: the split is
               that of the index

    [(epoch, index)] gives target (3 or 4, S, S) uint8; joints (17, 2) float32 in pixels, NaN if
    missing; index; and unless the pairing is "same", appearance and appearance_joints of the same
    shapes.
    Raises UserError for an unusable index, BadSample for an unusable image.
    """

    joint_order: tuple[str, ...] = JOINTS_17

    def __init__(
        self,
        path: str | Path,
        split: str = "train",
        size: int = 256,
        pairing: str = "same",
        seed: int = 0,
        letterbox: bool = False,
        alpha: bool = False,
        folds: int = 0,
        fold: int = 0,
    ):
        if split not in SPLITS:
            raise ValueError(f"IndexDataset: split must be train or test, got {split!r}")
        path = _index_file(Path(path))
        index = read_index(path)
        self.name, self.folder = str(path), path.parent
        self.size, self.letterbox, self.alpha = size, letterbox, alpha
        train = index["train"]
        if folds:
            train = folds_of(index["identities"], folds, str(path)) != fold
        of_split = train == SPLITS[split]
        trunk = index["joints"][:, [JOINTS_15.index(name) for name in TRUNK]]
        usable = of_split & (trunk >= 0).all((1, 2))
        if not usable.any():
            raise UserError(
                f"{path}: no usable entry for {split!r}: {of_split.sum()} of {len(of_split)} "
                "entries are of this split, and none of those has both shoulders and both hips"
            )
        self.files, self.joints = index["imgs"][usable], index["joints"][usable]
        people = index["identities"]
        self.identities = None if people is None else people[usable]
        self._pairs = Pairs(pairing, len(self.files), self.identities, seed, self.name)

    def __len__(self) -> int:
        return len(self.files)

    def file(self, index: int) -> Path:
        """The image of a sample."""
        return self.folder / os.fsdecode(self.files[index])

    def _read(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        joints = torch.from_numpy(self.joints[index].copy())
        if self.letterbox:
            image, (x, y, w, h) = read_letterboxed(self.file(index), self.size)
            if self.alpha:
                image = with_alpha(image, self.file(index), (x, y, w, h))
            return image, joints * torch.tensor([w, h]) + torch.tensor([x, y])
        image = read_image(self.file(index), self.size)
        if self.alpha:
            image = with_alpha(image, self.file(index))
        return image, joints * self.size


def folds_of(identities: np.ndarray | None, folds: int, name: str) -> np.ndarray:
    """The fold of each entry, (N,) from 0: people are dealt to `folds` folds in a fixed order.

    identities  (N,) int64; None: unknown
    name        of the index, for the UserError if people are unknown or fewer than the folds
    """
    if identities is None:
        raise UserError(f"{name}: --folds needs the key identities")
    count = int(identities.max()) + 1
    if not 2 <= folds <= count:
        raise UserError(f"--folds: must be 2 to {count}, the people of {name}, got {folds}")
    fold_of_person = np.random.default_rng(0).permutation(count) % folds
    fold: np.ndarray = fold_of_person[identities]
    return fold


def read_index(path: Path) -> Index:
    """All entries of an index file. Raises UserError."""
    raw = _load(path)
    lacking = [key for key in KEYS if key not in raw] if isinstance(raw, dict) else list(KEYS)
    if lacking:
        raise UserError(f"{path}: is not an index: it lacks {', '.join(lacking)}")
    for key in (*KEYS, "identities"):
        if raw.get(key) is not None and not hasattr(raw[key], "__len__"):
            raise UserError(f"{path}: {key} must be a list, is {raw[key]!r}")
    lengths = {key: len(raw[key]) for key in ("imgs", "train", "joints")}
    if raw.get("identities") is not None:
        lengths["identities"] = len(raw["identities"])
    if len(set(lengths.values())) != 1:
        counts = ", ".join(f"{n} {key}" for key, n in lengths.items())
        raise UserError(f"{path}: all lists must have one length, it has {counts}")
    if not lengths["imgs"]:
        raise UserError(f"{path}: is empty, it lists no images")
    people = raw.get("identities")
    if people is not None:
        people = [p.decode("latin1") if isinstance(p, bytes) else p for p in people]
        if not all(isinstance(p, str | int | np.number) for p in people):
            raise UserError(f"{path}: identities must be names or numbers, one for every entry")
        people = np.unique([str(p) for p in people], return_inverse=True)[1]
    return {
        "imgs": _paths(path, raw["imgs"]),
        "train": _flags(path, raw["train"]),
        "joints": _joints(path, raw["joints"], _order(path, raw["joint_order"])),
        "identities": people,
    }


def write_index(
    path: str | Path,
    joint_order: Sequence[str],
    imgs: Sequence[str],
    joints: np.ndarray,
    train: Sequence[bool],
    identities: Sequence[int | str] | None = None,
) -> None:
    """Write an index.p, whole or not at all. See IndexDataset for the keys.

    imgs    N paths relative to the folder of `path`
    joints  (N, len(joint_order), 2), fractions of width and height; negative: missing
    """
    index: dict[str, Any] = {"joint_order": list(joint_order), "imgs": list(imgs)}
    index |= {"joints": np.asarray(joints, np.float32), "train": [bool(t) for t in train]}
    if identities is not None:
        index["identities"] = list(identities)
    with whole_file(path) as file:
        pickle.dump(index, file, protocol=2)


def _index_file(path: Path) -> Path:
    if path.is_dir():
        for name in ("index.p", "index.json", "index.npz"):
            if (path / name).is_file():
                return path / name
        raise UserError(f"{path}: holds no index.p, index.json or index.npz")
    return path


def _load(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such index file")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: is empty, not an index")
    try:
        if path.suffix == ".json":
            return plain_json.load(path)
        if path.suffix == ".npz":
            return read_arrays(path)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as an index ({error})") from error
    return read_pickle(path)


def _order(path: Path, names: Any) -> list[str]:
    names = [n.decode() if isinstance(n, bytes) else str(n) for n in names]
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise UserError(f"{path}: joint_order names {twice} twice")
    for name in JOINTS_15:
        if name not in names:
            near = difflib.get_close_matches(name, set(names) - set(JOINTS_15), 1)
            hint = f"; is {near[0]} meant?" if near else ""
            raise UserError(f"{path}: joint_order must name the joint {name}{hint}")
    return names


def _paths(path: Path, files: Any) -> np.ndarray:
    """Paths as one array of bytes, which workers share; a list would be copied to each worker.

    Names that are not UTF-8 stay as they are.
    """
    encoded = []
    for file in files:
        file = file if isinstance(file, bytes) else os.fsencode(str(file))
        if b"\\" in file or file[1:2] == b":":
            shown = os.fsdecode(file)
            if is_foreign(path.parent, shown):
                raise UserError(
                    f"{path}: imgs holds a path of Windows, {shown!r}; write paths below the "
                    "index's folder with slashes, as a/b.jpg"
                )
        if file[:1] in (b"/", b"\\", b"") or b".." in file or b"\0" in file:
            parts = file.replace(b"\\", b"/").split(b"/")
            if b".." in parts or not parts[0] or b"\0" in file:
                shown = file.decode(errors="replace")
                raise UserError(f"{path}: imgs must lie below the index's folder, has {shown!r}")
        encoded.append(file)
    return np.array(encoded)


def _flags(path: Path, flags: Any) -> np.ndarray:
    flags = np.asarray(flags)
    if flags.ndim != 1 or flags.dtype.kind not in "biuf" or not np.isin(flags, (0, 1)).all():
        raise UserError(f"{path}: train must hold true or false for every entry")
    return flags.astype(bool)


def _joints(path: Path, joints: Any, order: list[str]) -> np.ndarray:
    shape = (len(order), 2)
    try:
        joints = np.asarray(joints, dtype=np.float32)
    except (ValueError, TypeError):
        joints = np.empty(0)
    if joints.shape[1:] != shape:
        raise UserError(f"{path}: joints must be {shape[0]} pairs x, y for every entry")
    place = [order.index(name) if name in order else len(order) for name in JOINTS_17]
    joints = np.pad(joints, ((0, 0), (0, 1), (0, 0)), constant_values=np.nan)[:, place]
    far = joints > FARTHEST  # missing joints may have any negative value
    if far.any():
        i, j, _ = np.argwhere(far)[0]
        x, y = joints[i, j]
        raise UserError(
            f"{path}: joints must be fractions of width and height, entry {i} has "
            f"{JOINTS_17[j]} at ({x:g}, {y:g}), above {FARTHEST}; divide pixels by the image's size"
        )
    return np.where((joints >= 0).all(-1, keepdims=True), joints, np.float32("nan"))
