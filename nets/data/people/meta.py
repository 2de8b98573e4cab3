"""Folders of labels with a meta.yaml, and a dataset of one moving person in that format.

    root/meta.yaml                                   description, loaders, loader_kwargs
    root/labels/<name>[:<loader>]-*-<shape>-*-<dtype>.npy    raw memory, despite its ending

Label folders may be nested; their names are joined with "/". A label with a loader holds the
loader's input (a path or a number). It is kept as <name>_; <name> is the output of the loader.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import ArrayLike

from nets import plain_yaml
from nets.data.io.files import below, read_arrays
from nets.data.io.images import read_image
from nets.data.io.names import is_foreign, is_windows_path
from nets.data.people.alpha import with_alpha
from nets.data.people.index import FARTHEST
from nets.data.people.pairs import Paired, Pairs
from nets.errors import BadSample, UserError
from nets.listing import list_folder
from nets.skeletons import OPENPOSE_18

LOADERS = ("image", "np", "category", "cat")
BETWEEN = "-*-"
SHAPE = re.compile(r"\d+(x\d+)*")
KIND = re.compile(r"[<>|=]?(bool_?|u?int\d+|float\d+|complex\d+|[biufcSU]\d+)")
SUPPORTS = {"0->255": (0, 255), "0->1": (0, 1), "-1->1": (-1, 1)}


class MetaDataset:
    """The labels of a folder with a meta.yaml; `load` gives the loaded values.

    labels  name -> array of N entries, read from disk on use
    Raises UserError if the folder, its meta.yaml or a label file is invalid. Loaders given as
    import paths are refused: nothing named by a YAML file is imported.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.meta = _meta(self.root)
        self.loaders: dict[str, str] = {}
        self.labels: dict[str, np.ndarray] = {}
        given = self.meta.get("loader_kwargs") or {}
        self._kwargs: dict[str, dict[str, Any]] = {
            name: kwargs or {} for name, kwargs in given.items()
        }
        given = self.meta.get("loaders") or {}
        arrays = {}
        for file in self._label_files():
            name, loader, array = _label(self.root, file)
            loader = given.get(name, loader)
            if loader is not None:
                self.loaders[name] = loader
                _check_loader(self.root, name, loader, self._kwargs.get(name) or {})
            arrays[name] = array
        if not arrays:
            raise UserError(f"{self.root}: holds no labels/<name>-*-<shape>-*-<dtype>.npy")
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1:
            counts = ", ".join(f"{n} {name}" for name, n in lengths.items())
            raise UserError(f"{self.root}: all labels must have one length, they have {counts}")
        for name, array in arrays.items():
            if self.loaders.get(name) in ("image", "np"):
                self._refuse_windows(name, array)
            self.labels[f"{name}_" if name in self.loaders else name] = array

    def _refuse_windows(self, name: str, paths: np.ndarray) -> None:
        base = self.root / str((self._kwargs.get(name) or {}).get("root") or ".")
        for path in map(str, paths):
            if is_windows_path(path) and is_foreign(base, path):
                raise UserError(
                    f"{self.root}: labels: {name} holds a path of Windows, {path}; write a/b.png, "
                    "with slashes"
                )

    def _label_files(self) -> list[Path]:
        folder = self.root / "labels"
        if not folder.is_dir():
            return []
        return list_folder(folder, lambda file: file.suffix == ".npy", recursive=True).files

    def __len__(self) -> int:
        return len(next(iter(self.labels.values())))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """All labels of entry `index`, loaded; its raw labels as labels_; and index_."""
        raw = {name: array[index] for name, array in self.labels.items()}
        hidden = {f"{name}_" for name in self.loaders}
        plain = {name: value for name, value in raw.items() if name not in hidden}
        loaded = {name: self.load(name, index) for name in self.loaders}
        return plain | loaded | {"labels_": raw, "index_": index}

    def file(self, name: str, index: int) -> Path:
        """The file that entry `index` of label `name` points to, inside the dataset's folder."""
        base = PurePosixPath(str(self._kwargs.get(name, {}).get("root") or "."))
        if base.is_absolute():  # older tools wrote the folder's own path
            inside = base.is_relative_to(self.root.resolve())
            base = base.relative_to(self.root.resolve()) if inside else base
        entry = PurePosixPath(str(self.labels[f"{name}_"][index]))
        for path, where in ((base, "meta.yaml"), (entry, "labels")):
            if not below(str(path)):
                raise UserError(
                    f"{self.root}: {where}: {name} must point below the dataset's folder, "
                    f"points to {path}"
                )
        return self.root / base / entry

    def load(self, name: str, index: int) -> Any:
        """Entry `index` of label `name`, loaded; an image is (H, W, 3)."""
        loader, kwargs = self.loaders[name], self._kwargs.get(name, {})
        if loader in ("category", "cat"):
            return kwargs["categories"][int(self.labels[f"{name}_"][index])]
        file = self.file(name, index)
        if loader == "np":
            try:
                return read_arrays(file)
            except (OSError, ValueError) as error:
                raise BadSample(file, f"cannot be read as an array ({error})") from error
        size = None
        if kwargs.get("resize_to") is not None:
            width, height = np.resize(kwargs["resize_to"], 2).tolist()
            size = width, height
        low, high = SUPPORTS[kwargs.get("support", "0->255")]
        pixels = read_image(file, size).permute(1, 2, 0).numpy()
        return pixels if high == 255 else (pixels / 255 * (high - low) + low).astype(np.float32)


class PrjotiDataset(Paired):
    """A dataset of one person in many poses: crop i is the target, another the appearance.

    root     folder with meta.yaml and the labels crop_ (paths) and kps_rel (N, 18, 2), fractions of
             the crop's width and height in OpenPose's order; a label `identity` is optional
    split    "train": the first 90 % in file order; "test": the rest
    size     side of the square images, pixels
    pairing  "same": the appearance is the target itself; "identity": another crop of the same
             identity, or of the split if identities are unknown; "any": any crop of the split
    alpha    images have the opacity as a fourth channel

    [(epoch, index)] gives target and appearance (3 or 4, S, S) uint8; joints and appearance_joints
    (18, 2) float32 in pixels, NaN if missing (a coordinate is negative, or both are 0); and index.
    The appearance is drawn from (seed, epoch, index), and absent for "same".
    """

    joint_order: tuple[str, ...] = OPENPOSE_18

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        size: int = 256,
        pairing: str = "identity",
        seed: int = 0,
        alpha: bool = False,
    ):
        if split not in ("train", "test"):
            raise ValueError(f"PrjotiDataset: split must be train or test, got {split!r}")
        self._meta = MetaDataset(root)
        labels = self._meta.labels
        if self._meta.loaders.get("crop") != "image" or "kps_rel" not in labels:
            have = ", ".join(labels)
            raise UserError(f"{root}: needs the labels crop (image) and kps_rel, has {have}")
        if labels["kps_rel"].shape[1:] != (18, 2):
            shape = "x".join(map(str, labels["kps_rel"].shape))
            raise UserError(f"{root}: kps_rel must be Nx18x2, is {shape}")
        cut = len(self._meta) * 9 // 10
        rows = slice(cut) if split == "train" else slice(cut, None)
        self._first = rows.start or 0
        self.name, self.size, self.alpha = str(root), size, alpha
        points = np.asarray(labels["kps_rel"][rows], np.float32)
        if not len(points):
            raise UserError(f"{root}: holds no samples for {split!r}: {len(self._meta)} in all")
        far = np.argwhere(points > FARTHEST)
        if len(far):
            i, j, _ = far[0]
            x, y = points[i, j]
            raise UserError(
                f"{root}: kps_rel must be fractions of the crop's width and height, up to "
                f"{FARTHEST}; entry {self._first + i} has point {j} at ({x:g}, {y:g})"
            )
        valid = (points >= 0).all(-1, keepdims=True) & (points != 0).any(-1, keepdims=True)
        self.joints = np.where(valid, points, np.float32("nan"))
        people = labels["identity"][rows] if "identity" in labels else None
        self.identities = people if people is None else np.unique(people, return_inverse=True)[1]
        if people is None and pairing == "identity":  # without identities: one person
            pairing = "any"
        self._pairs = Pairs(pairing, len(points), self.identities, seed, self.name)

    def __len__(self) -> int:
        return len(self.joints)

    def file(self, index: int) -> Path:
        """The image of a sample."""
        return self._meta.file("crop", self._first + index)

    def _read(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        joints = torch.from_numpy(self.joints[index] * np.float32(self.size))
        image = read_image(self.file(index), self.size)
        return (with_alpha(image, self.file(index)) if self.alpha else image), joints


def write_label(root: str | Path, name: str, array: np.ndarray) -> Path:
    """Write an array of N entries as label `name`, which may end in ":<loader>"; the file."""
    if array.dtype.kind not in "biufcSU":
        raise ValueError(f"write_label: array must hold numbers or strings, got {array.dtype}")
    shape = "x".join(map(str, array.shape))
    kind = array.dtype.str.lstrip("<|=") if array.dtype.kind in "SU" else array.dtype.name
    file = Path(root) / "labels" / f"{name}{BETWEEN}{shape}{BETWEEN}{kind}.npy"
    file.parent.mkdir(parents=True, exist_ok=True)
    np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tofile(file)
    return file


def write_meta(
    root: str | Path,
    labels: Mapping[str, ArrayLike],
    description: str = "",
    loaders: Mapping[str, str] | None = None,
    loader_kwargs: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write a dataset folder: its labels and its meta.yaml."""
    for name, array in labels.items():
        write_label(root, name, np.asarray(array))
    content: dict[str, Any] = {"description": description, "loaders": dict(loaders or {})}
    content["loader_kwargs"] = {name: dict(kw) for name, kw in (loader_kwargs or {}).items()}
    (Path(root) / "meta.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def _meta(root: Path) -> dict[str, Any]:
    file = root / "meta.yaml"
    if not file.is_file():
        raise UserError(f"{root}: holds no meta.yaml")
    try:
        text = file.read_text(encoding="utf-8-sig")
        meta = plain_yaml.load(text) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file}: is not YAML of plain values ({' '.join(str(error).split())})"
        ) from error
    for key in ("loaders", "loader_kwargs"):
        if not isinstance(meta, dict) or not isinstance(meta.get(key) or {}, dict):
            raise UserError(f"{file}: must be a mapping, and its {key} too")
    for name, kwargs in (meta.get("loader_kwargs") or {}).items():
        if not isinstance(kwargs or {}, dict):
            raise UserError(f"{file}: loader_kwargs/{name} must be a mapping")
        side = (kwargs or {}).get("resize_to")
        sides = side if isinstance(side, list) else [side]
        if side is not None and not (
            len(sides) in (1, 2) and all(type(n) is int and 0 < n < 1 << 16 for n in sides)
        ):
            raise UserError(f"{file}: loader_kwargs/{name}/resize_to must be one or two sides")
    return meta


def _label(root: Path, file: Path) -> tuple[str, str | None, np.ndarray]:
    """Name, loader and memory-mapped content of a label file."""
    name, *rest = file.relative_to(root / "labels").as_posix().removesuffix(".npy").split(BETWEEN)
    name, _, loader = name.partition(":")
    if len(rest) != 2 or not SHAPE.fullmatch(rest[0]) or not KIND.fullmatch(rest[1]):
        raise UserError(f"{file}: a label's name must be <name>-*-<shape>-*-<dtype>.npy")
    shape, kind = tuple(map(int, rest[0].split("x"))), np.dtype(rest[1])
    need, has = math.prod(shape) * kind.itemsize, file.stat().st_size
    if need != has:
        raise UserError(f"{file}: must be {need} bytes by its name, is {has}")
    if not need:
        return name, loader or None, np.empty(shape, kind)
    return name, loader or None, np.memmap(file, kind, "r", shape=shape)


def _check_loader(root: Path, name: str, loader: object, kwargs: dict[str, Any]) -> None:
    file = root / "meta.yaml"
    if not isinstance(loader, str) or loader not in LOADERS:
        raise UserError(
            f"{file}: loaders/{name} must be one of {', '.join(LOADERS)}, is {loader!r}; "
            "import paths are not followed"
        )
    if loader == "image" and str(kwargs.get("support", "0->255")) not in SUPPORTS:
        names = ", ".join(SUPPORTS)
        raise UserError(f"{file}: loader_kwargs/{name}/support must be one of {names}")
    if loader in ("category", "cat") and not isinstance(kwargs.get("categories"), list | dict):
        raise UserError(f"{file}: loader_kwargs/{name}/categories must list the categories")
