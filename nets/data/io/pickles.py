"""Pickle files of plain data, read without running code from the file.

A pickle is a program that may call any function. Here it may call only the stand-ins below. They
rebuild plain containers and NumPy arrays from checked bytes. Any other name is refused and named in
the error. Files of Python 2 and of all NumPy versions are read.
"""

from __future__ import annotations

import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from nets.errors import UserError

_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")


def read_pickle(path: str | Path) -> Any:
    """The content of a pickle file: containers, strings, numbers and NumPy arrays.

    Strings of Python 2 are read as Latin-1. Raises UserError that names the file if it is missing
    or not a pickle, and that names the function or class if it asks for any other.
    """
    try:
        with open(path, "rb") as file:
            return _Unpickler(file, encoding="latin1").load()
    except _Refused as error:
        raise UserError(f"{path}: refused, {error}") from None
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except Exception as error:  # damaged bytes lead to errors of many types
        raise UserError(f"{path}: is not a pickle of plain data ({error})") from error


class _Refused(pickle.UnpicklingError):
    pass


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], encoding: str):
        super().__init__(file, encoding=encoding)
        # New stand-ins for each file: a pickle may set attributes of the objects it gets.
        self._allowed = _stand_ins()

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[f"{module}.{name}"]
        except KeyError:
            raise _Refused(
                f"it asks for {module}.{name}; only plain containers, strings, numbers and NumPy "
                "arrays are read"
            ) from None


def _stand_ins() -> dict[str, Callable[..., Any]]:
    """Safe functions and classes by the names that a pickle may ask for."""

    class NumpyType:  # numpy.dtype
        __slots__ = ("code", "order")

        def __init__(self, code: Any, *_: Any):
            self.code, self.order = code, ""
            if not isinstance(code, str) or not re.fullmatch(r"[<>=|]?[?bBhHiIlLqQfdcSU]\d*", code):
                raise _Refused(f"it holds an array of {code!r}; only numbers and strings are read")

        def __setstate__(self, state: tuple[Any, ...]) -> None:
            order = state[1]
            self.order = order if order in ("<", ">") else ""
            if any(part is not None for part in state[2:5]):
                raise _Refused("it holds an array of records; only numbers and strings are read")

        def type(self) -> np.dtype:
            kind = np.dtype(self.code)
            return kind.newbyteorder(self.order) if self.order else kind

    class Array(np.ndarray):  # numpy.ndarray, empty until its state is set
        __slots__ = ()

        def __setstate__(self, state: tuple[Any, ...]) -> None:
            _, shape, kind, fortran, data = state
            checked = _checked(shape, kind.type(), data, fortran)
            super().__setstate__((1, *checked))  # type: ignore[arg-type]  # stub wants numpy.bool

    def text(data: Any) -> bytes:
        return data.encode("latin1") if isinstance(data, str) else bytes(data)

    def _checked(
        shape: Any, kind: np.dtype, data: Any, fortran: Any
    ) -> tuple[tuple[int, ...], np.dtype, bool, bytes]:
        shape, data = tuple(map(int, shape)), text(data)
        if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != len(data):
            raise ValueError(f"array of {list(shape)} {kind} in {len(data)} bytes")
        return shape, kind, bool(fortran), data

    def reconstruct(*_: Any) -> np.ndarray:
        return Array((0,), np.int8)

    def scalar(kind: NumpyType, data: Any = b"") -> Any:
        _, _, _, data = _checked((1,), kind.type(), data, False)
        return np.frombuffer(data, kind.type())[0]

    def frombuffer(data: Any, kind: NumpyType, shape: Any, order: str = "C") -> np.ndarray:
        shape, dtype, _, data = _checked(shape, kind.type(), data, False)
        return np.frombuffer(bytearray(data), dtype).reshape(
            shape, order="F" if order == "F" else "C"
        )

    def encode(data: str = "", codec: str = "latin1") -> bytes:  # bytes in protocols below 3
        if codec not in ("latin1", "latin-1"):
            raise _Refused(f"it asks for the codec {codec!r}")
        return str.encode(data, "latin1")

    def bytes_array(data: Any = "", codec: str = "latin1") -> bytearray:
        return bytearray(data if isinstance(data, bytes) else encode(data, codec))

    allowed: dict[str, Callable[..., Any]] = {
        "_codecs.encode": encode,
        "collections.OrderedDict": OrderedDict,
    }
    for module in ("builtins", "__builtin__"):
        allowed |= {f"{module}.bytes": encode, f"{module}.bytearray": bytes_array}
        allowed |= {f"{module}.{kind.__name__}": kind for kind in (set, frozenset, complex)}
    allowed["numpy.dtype"] = NumpyType
    allowed["numpy.ndarray"] = Array
    for module in _MULTIARRAY:
        allowed[f"{module}._reconstruct"] = reconstruct
        allowed[f"{module}.scalar"] = scalar
    for module in _NUMERIC:
        allowed[f"{module}._frombuffer"] = frombuffer
    return allowed
