"""Files of tensors, read without running any code, and whether they are what a network needs."""

from __future__ import annotations

import json
import math
import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from nets.errors import UserError

SAFE = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def read_plain(path: str | Path) -> Any:
    """What a file of torch.save (old or new), an .npz or a .safetensors holds: tensors and plain
    values only.

    NumPy arrays of an .npz come as tensors, on the CPU like all. Raises UserError that names the
    file where it is not there, is damaged, or holds anything else: code is refused, not run.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    archive = False
    try:
        archive = zipfile.is_zipfile(path)
        if archive and path.suffix == ".npz":
            return _read_npz(path)
        with warnings.catch_warnings():  # that a pickle is of another program: it is refused below
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
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


def write_safetensors(file: IO[bytes], state: Mapping[str, Tensor], about: dict[str, str]) -> None:
    """Write tensors in the safetensors format: 8 bytes of the header's length, the header in JSON,
    the tensors one after another. `about` is its `__metadata__`.
    """
    names = {dtype: name for name, dtype in SAFE.items()}
    header: dict[str, Any] = {"__metadata__": about}
    start = 0
    for name, tensor in state.items():
        end = start + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for tensor in state.values():
        file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a .safetensors file, and its `__metadata__`. Raises UserError as `read_plain`
    does.
    """
    try:
        data = bytearray(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(bytes(data[8 : 8 + size]))
        about = {str(k): str(v) for k, v in header.pop("__metadata__", {}).items()}
        return {name: _safe_tensor(data, 8 + size, one) for name, one in header.items()}, about
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not a whole file of safetensors") from error


def _safe_tensor(data: bytearray, start: int, entry: Mapping[str, Any]) -> Tensor:
    """A tensor of the file. ValueError where the entry does not fit."""
    dtype, shape = SAFE[entry["dtype"]], [int(n) for n in entry["shape"]]
    low, high = entry["data_offsets"]
    count = math.prod(shape)
    if min(shape, default=0) < 0 or not 0 <= low <= high <= len(data) - start:
        raise ValueError("outside of the file")
    if high - low != count * dtype.itemsize:
        raise ValueError("not of its shape's size")
    if not count:
        return torch.empty(shape, dtype=dtype)
    part = torch.frombuffer(data, dtype=torch.uint8, count=high - low, offset=start + low)
    return part.clone().view(dtype).view(shape)  # a clone is aligned, and lets go of the file


def size_of(found: Mapping[str, Any], name: str, axis: int) -> int:
    """A size of a tensor among `found`; 1, which fits nothing, where it is not there."""
    shape = getattr(found.get(name), "shape", ())
    return shape[axis] if len(shape) > axis else 1


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
