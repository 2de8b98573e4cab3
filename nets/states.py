"""Files of tensors, read without running any code, and whether they are what a network needs."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nets.errors import UserError


def read_plain(path: str | Path) -> Any:
    """What a file of torch.save (old or new) or an .npz holds: tensors and plain values only.

    NumPy arrays of an .npz come as tensors, on the CPU like all. Raises UserError that names the
    file where it is not there, is damaged, or holds anything else: code is refused, not run.
    """
    path = Path(path)
    archive = zipfile.is_zipfile(path)
    try:
        if archive and path.suffix == ".npz":
            return _read_npz(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:  # whose text advises to run what is in it
        if not archive and "GLOBAL" not in str(error):  # bytes that were never a pickle
            raise UserError(f"{path}: not a whole checkpoint or file of tensors") from error
        raise UserError(f"{path}: holds more than tensors and plain values; refused") from error
    except Exception as error:  # damage is reported with a dozen exception types
        raise UserError(f"{path}: not a whole checkpoint or file of tensors") from error


def _read_npz(path: Path) -> dict[str, Any]:
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def require(
    found: Mapping[str, Any], wanted: Mapping[str, Any], path: str | Path, what: str
) -> None:
    """Raises UserError with the first three differences between tensors and what they must be.

    found    name -> tensor, of `path`
    wanted   name -> tensor or shape; names that are not among them are too many
    what     what it must be, e.g. "a VGG19 state dict"
    """
    wrong = []
    for name, one in wanted.items():
        if name not in found:
            wrong.append(f"{name} is missing")
            continue
        value, shape = found[name], getattr(one, "shape", one)
        if not isinstance(shape, Sequence):  # no tensor is asked for
            continue
        shape = list(shape)
        if not isinstance(value, torch.Tensor):
            wrong.append(f"{name} must be {shape}, is a {type(value).__name__}")
        elif list(value.shape) != shape:
            wrong.append(f"{name} must be {shape}, is {list(value.shape)}")
    wrong += [f"{name} does not belong there" for name in found if name not in wanted]
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"{path}: not {what}: {'; '.join(wrong[:3])}{more}")
