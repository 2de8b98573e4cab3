"""Own datasets of people: a class in a Python file, named as `FILE.py:CLASS`."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from nets.contracts import Place, Sample
from nets.data.people.pairs import Pairs
from nets.errors import BadSample, UserError
from nets.skeletons import JOINTS_15, JOINTS_17

NAME = re.compile(r"(.+\.py):([A-Za-z_]\w*)")
TRUNK = ("lshoulder", "rshoulder", "lhip", "rhip")
ROUNDING = 1e-3  # by which a float image may leave [-1, 1]
FARTHEST = 10.0  # joints beyond this multiple of the image's side are in another unit


class OwnPeople(Protocol):
    """What a class given as `--data FILE.py:CLASS` has.

    It is called as CLASS(split, size): "train" or "test", and the side S of the images in pixels.
    Two attributes are optional:

    joint_order  names along the first axis of the joints; default: JOINTS_17
    identities   one name or number a sample, for `--pairing identity`
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        """Sample `index`, the same on every call: NumPy arrays or tensors by name.

        target             (S, S, 3) the image to generate; uint8, or floats in [-1, 1]. With a
                           fourth channel, its opacity
        joints             (J, 2) floats, x and y in pixels of the target; negative or NaN: missing
        stickman           (S, S, C) the pose as an image, instead of drawn joints; C is the
                           option pose_channels. uint8, or floats in [-1, 1]
        appearance         optional, like the target: the image that gives the appearance
        appearance_joints  (J, 2), its joints
        Joints or a stickman are needed. `--appearance crops`, the default of `--variant parts`,
        needs the joints of both images.
        """


def is_own(data: str | Path) -> bool:
    """True if an option names a class, FILE.py:CLASS."""
    return NAME.fullmatch(str(data)) is not None


class OwnDataset:
    """The samples of a user's class as `nets.contracts.PeopleDataset` has them; see `OwnPeople`.

    data           FILE.py:CLASS; the file is run
    split          "train" or "test"
    size           side of the images, pixels
    pairing        source of the appearance: the "same" image, another of the same "identity", or
                   "any"; a sample that has an appearance gives its own, unless "same"
    pose_channels  channels of a stickman
    crops          the joints of the image that gives the appearance are needed

    [(epoch, index)] gives target (3 or 4, S, S) uint8; joints (J, 2) float32, NaN if unknown;
    index; stickman (C, S, S) uint8 or float32 if the class gives one; appearance and
    appearance_joints unless the pairing is "same". Colours of a target are over white.
    Raises UserError if the first sample is not as `OwnPeople` says, BadSample if a later one is.
    """

    def __init__(
        self,
        data: str,
        split: str = "train",
        size: int = 256,
        pairing: str = "same",
        seed: int = 0,
        pose_channels: int = 3,
        crops: bool = True,
    ):
        self.name, self.split, self.size = str(data), split, size
        self._pose_channels, self._crops, self._pairing = pose_channels, crops, pairing
        own = _load(self.name)
        try:
            inspect.signature(own).bind(split, size)
        except TypeError as error:
            raise UserError(f"{data}: must be called as CLASS(split, size): {error}") from error
        self._data = own(split, size)
        for method in ("__len__", "__getitem__"):
            if not hasattr(self._data, method):
                raise UserError(f"{data}: must have the method {method}")
        if not len(self._data):
            raise UserError(f"{data}: holds no samples for {split!r}")
        self.joint_order = self._order(getattr(self._data, "joint_order", JOINTS_17))
        self.identities = self._identities(getattr(self._data, "identities", None))
        self._pairs: Pairs | None = None
        try:
            first = self._read(0)
            if "appearance" not in first or pairing == "same":
                people = self.identities
                self._pairs = Pairs(pairing, len(self), people, seed, self.name)
        except BadSample as error:
            raise UserError(str(error)) from error

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, place: Place) -> Sample:
        epoch, index = place
        sample = self._read(index)
        if self._pairs is None:
            if "appearance" not in sample:
                raise self._bad(index, "lacks appearance, which sample 0 has")
            return sample
        sample = {k: v for k, v in sample.items() if not k.startswith("appearance")}
        other = self._pairs.other(epoch, index)
        if other is not None:
            source = self._read(other)
            sample["appearance"], sample["appearance_joints"] = source["target"], source["joints"]
        return sample

    def _read(self, index: int) -> Sample:
        """A sample of the class, checked and converted."""
        given = self._data[index]
        if not isinstance(given, Mapping):
            raise self._bad(index, f"must be a dict of arrays, is a {type(given).__name__}")
        needed = ["target", *(["joints"] if self._crops or "stickman" not in given else [])]
        if self._crops and "appearance" in given:
            needed.append("appearance_joints")
        lacking = [name for name in needed if name not in given]
        if lacking:
            instead = " (or a stickman)" if lacking[0] == "joints" and not self._crops else ""
            has = ", ".join(map(str, given)) or "nothing"
            raise self._bad(index, f"lacks {lacking[0]}{instead}, it has {has}")
        sample: Sample = {"index": index, "target": self._target(index, given["target"])}
        sample["joints"] = self._joints(index, "joints", given.get("joints"))
        if "stickman" in given:
            channels = (self._pose_channels,)
            sample["stickman"] = self._image(index, "stickman", given["stickman"], channels)
        if "appearance" in given:
            sample["appearance"] = _levels(
                self._image(index, "appearance", given["appearance"], (3, 4))
            )
            joints = given.get("appearance_joints")
            sample["appearance_joints"] = self._joints(index, "appearance_joints", joints)
        return sample

    def _target(self, index: int, image: Any) -> Tensor:
        """The target as uint8; of one with opacity, the colours are over white."""
        target = _levels(self._image(index, "target", image, (3, 4)))
        if len(target) == 3:
            return target
        alpha = target[3:].float() / 255
        colours = (target[:3] * alpha + 255 * (1 - alpha)).round().byte()
        return torch.cat([colours, target[3:]])

    def _image(self, index: int, name: str, image: Any, channels: Sequence[int]) -> Tensor:
        """An image (C, S, S), uint8 or float32 in [-1, 1]."""
        image = _tensor(image)
        shapes = [(self.size, self.size, count) for count in channels]
        if image is None or tuple(image.shape) not in shapes:
            rule = " or ".join(map(str, shapes))
            got = "no array" if image is None else str(tuple(image.shape))
            raise self._bad(index, f"{name} must have the shape {rule}, has {got}")
        if image.dtype != torch.uint8:
            if not image.is_floating_point():
                raise self._bad(index, f"{name} must be uint8 or float, is {_kind(image)}")
            image = image.float()
            low, high = image.min().item(), image.max().item()
            if not (low >= -1 - ROUNDING and high <= 1 + ROUNDING):  # NaN must land here
                text = f"{name} must be uint8, or floats in [-1, 1]"
                raise self._bad(index, f"{text}; it has floats from {low:.4g} to {high:.4g}")
        return image.permute(2, 0, 1).contiguous()

    def _joints(self, index: int, name: str, joints: Any) -> Tensor:
        """Joints (J, 2) float32; all NaN if there are none."""
        shape = (len(self.joint_order), 2)
        if joints is None:
            return torch.full(shape, torch.nan)
        joints = _tensor(joints)
        if joints is None or tuple(joints.shape) != shape:
            got = "no array" if joints is None else str(tuple(joints.shape))
            raise self._bad(index, f"{name} must have the shape {shape}, has {got}")
        if not joints.is_floating_point():
            raise self._bad(index, f"{name} must be float, is {_kind(joints)}")
        joints = joints.float()
        known = joints[(joints >= 0).all(-1)]
        if len(known) and not 1 < known.max() < FARTHEST * self.size:
            text = f"{name} must be in pixels of the {self.size} px image"
            raise self._bad(index, f"{text}; the largest is {known.max().item():.4g}")
        return joints

    def _order(self, names: Any) -> tuple[str, ...]:
        names = tuple(map(str, names))
        lacking = [name for name in TRUNK if name not in names]
        if lacking or len(set(names)) < len(names):
            why = f"lacks {lacking[0]}" if lacking else "names a joint twice"
            hint = ", ".join(JOINTS_15[:4])
            raise UserError(f"{self.name}: joint_order {why}; names are such as {hint}")
        return names

    def _identities(self, people: Any) -> np.ndarray | None:
        if people is None:
            return None
        if len(people) != len(self):
            raise UserError(
                f"{self.name}: identities must be one a sample, {len(self)}, has {len(people)}"
            )
        return np.unique([str(person) for person in people], return_inverse=True)[1]

    def _bad(self, index: int, why: str) -> BadSample:
        return BadSample(f"{self.name}, sample {index} of {self.split!r}", why)


def _tensor(array: Any) -> Tensor | None:
    """An array as a tensor on the CPU; None if it is none."""
    if isinstance(array, Tensor):
        return array.detach().cpu()
    try:
        return torch.from_numpy(np.array(array))
    except (TypeError, ValueError):
        return None


def _levels(image: Tensor) -> Tensor:
    """An image as uint8, from uint8 or from floats in [-1, 1]."""
    if image.dtype == torch.uint8:
        return image
    return ((image + 1) * 127.5).round().clamp(0, 255).byte()


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _load(data: str) -> Any:
    """The class that FILE.py:CLASS names. Raises UserError."""
    match = NAME.fullmatch(data)
    if match is None:
        raise ValueError(f"OwnDataset: data must be FILE.py:CLASS, got {data!r}")
    file, name = Path(match[1]), match[2]
    if not file.is_file():
        raise UserError(f"--data {data}: {file}: no such file")
    stat = file.stat()
    module = _module(file.resolve(), stat.st_mtime_ns)
    own = getattr(module, name, None)
    if not callable(own):
        classes = [key for key, value in vars(module).items() if inspect.isclass(value)]
        raise UserError(f"--data {data}: {file} has no class {name}, but {', '.join(classes)}")
    return own


@lru_cache(maxsize=8)
def _module(file: Path, modified: int) -> ModuleType:
    """The module in a file, run once for each time that the file was modified."""
    spec = importlib.util.spec_from_file_location(f"own_data_{file.stem}", file)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # classes look up their module by name
    if str(file.parent) not in sys.path:  # for modules that lie beside it
        sys.path.append(str(file.parent))
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{file}, line {error.lineno}: {error.msg}") from error
    return module
