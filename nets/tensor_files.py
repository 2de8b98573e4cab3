"""Reads and writes files of tensors without running code from them; checks their shapes."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nets.errors import UserError
from nets.tensorflow_files import prefix_of, read_tensorflow


def read_plain(path: str | Path) -> Any:
    """The content of a torch.save file (old or new), an .npz, a .safetensors or a TensorFlow
    checkpoint (its prefix, one of its files, or its folder).

    Only tensors and plain values are read; code is refused, not run. NumPy arrays of an .npz
    become tensors. All tensors are on the CPU. Raises UserError that names the file if it is
    missing, damaged, or holds anything else.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    if (prefix := prefix_of(path)) is not None:
        return read_tensorflow(prefix)
    archive = False
    try:
        archive = zipfile.is_zipfile(path)
        if archive and path.suffix == ".npz":
            return _read_npz(path)
        with warnings.catch_warnings():  # about another program's pickle: it is refused below
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:  # torch's own text advises to run the file's code
        if not archive and "GLOBAL" not in str(error):  # bytes that were never a pickle
            raise UserError(f"{path}: not a whole checkpoint or file of tensors") from error
        raise UserError(f"{path}: holds more than tensors and plain values; refused") from error
    except Exception as error:  # damage is reported with a dozen exception types
        raise UserError(f"{path}: not a whole checkpoint or file of tensors") from error


def _read_npz(path: Path) -> dict[str, Any]:
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def write_safetensors(
    file: IO[bytes], state: Mapping[str, Tensor], metadata: dict[str, str]
) -> None:
    """Write tensors and the header's `metadata` in the safetensors format."""
    # The format knows neither strides nor tensors that share memory.
    own = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    file.write(safetensors.torch.save(own, metadata))


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a .safetensors file, sorted by name, and the metadata of its header.

    Raises UserError as `read_plain` does.
    """
    try:
        Path(path).open("rb").close()  # the library's message for a missing file is longer
        with safetensors.safe_open(path, framework="pt") as file:
            # The file's pages are mapped: a copy stays valid when the file is overwritten.
            tensors = {name: file.get_tensor(name).clone() for name in sorted(file.keys())}
            return tensors, file.metadata() or {}
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # damage is reported with several exception types
        raise UserError(f"{path}: not a whole file of safetensors") from error


def size_of(tensors: Mapping[str, Any], name: str, axis: int) -> int:
    """The size of a named tensor along an axis; 1, which fits no network, if it has none."""
    shape = getattr(tensors.get(name), "shape", ())
    return shape[axis] if len(shape) > axis else 1


def require(
    tensors: Mapping[str, Any], expected: Mapping[str, Any], path: str | Path, what: str
) -> None:
    """Raises UserError with the first three differences between tensors and what they must be.

    tensors   name -> tensor, read from `path`
    expected  name -> tensor or shape; other names in `tensors` count as differences
    what      what `tensors` must be, for the message, e.g. "a VGG19 state dict"
    """
    wrong = []
    for name, model in expected.items():
        if name not in tensors:
            wrong.append(f"{name} is missing")
            continue
        value, shape = tensors[name], getattr(model, "shape", model)
        if not isinstance(shape, Sequence):  # the entry need not be a tensor
            continue
        shape = list(shape)
        if not isinstance(value, torch.Tensor):
            wrong.append(f"{name} must be {shape}, is a {type(value).__name__}")
        elif list(value.shape) != shape:
            wrong.append(f"{name} must be {shape}, is {list(value.shape)}")
    wrong += [f"{name} does not belong there" for name in tensors if name not in expected]
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"{path}: not {what}: {'; '.join(wrong[:3])}{more}")
