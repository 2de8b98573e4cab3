"""Torch7's binary files, written, and read without running code from the file.

A file is one object: nil, number, string, boolean, table, tensor, storage, function, or an object
of a class, which is a table of fields. Files are little endian; `long` has 8 bytes, as on 64-bit
Linux. Functions are skipped and classes are not looked up. Each length is compared with the
remaining bytes before memory is allocated, so a hostile file is refused.
"""

from __future__ import annotations

import enum
import io
import math
import re
import struct
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from nets.errors import UserError

DEPTH = 200  # objects inside objects
NIL, NUMBER, STRING, TABLE, OBJECT, BOOLEAN, OLD_FUNCTION, *FUNCTIONS = range(9)
ELEMENTS = {
    "Byte": torch.uint8,
    "Char": torch.int8,
    "Short": torch.int16,
    "Int": torch.int32,
    "Long": torch.int64,
    "Half": torch.float16,
    "Float": torch.float32,
    "Double": torch.float64,
}
CLASS = re.compile(r"torch\.(Cuda)?(Byte|Char|Short|Int|Long|Half|Float|Double|)(Tensor|Storage)")


class Torch7Error(ValueError):
    """Bytes that are not a Torch7 object, or an object that is refused; the text says why."""


class LuaBoolean(enum.Enum):
    """A boolean as key of a table. In Lua, true and 1 are two keys; in Python they are one."""

    FALSE = 0
    TRUE = 1


class Table(dict[Any, Any]):
    """A Lua table. Keys are numbers, strings and `LuaBoolean`."""

    def sequence(self) -> list[Any]:
        """The values in the order of the keys 1 to n. Raises ValueError if it has other keys."""
        if any(key not in self for key in range(1, len(self) + 1)):
            raise ValueError(f"table: must have the keys 1 to {len(self)}, got {list(self)[:5]}")
        return [self[i] for i in range(1, len(self) + 1)]


class Record:
    """An object of a class other than tensor and storage: the name of the class, and fields."""

    def __init__(self, name: str, fields: Any = None):
        self.name, self.fields = name, fields

    def __repr__(self) -> str:
        return f"Record({self.name})"


class LongStorage(tuple[int, ...]):
    """A torch.LongStorage to write, such as the sizes in a module; it is read as a tensor."""


class Function:
    """Placeholder for a Lua function, whose code is skipped."""


def read(path: str | Path, long_size: int = 8) -> Any:
    """The object in a file: None, float, str, bool, Table, Tensor, Record or Function.

    Tensors of one storage are views of the same memory. GPU tensors become CPU tensors. A storage
    becomes a one-dimensional tensor. Two references to one object give one object.
    long_size  bytes of a `long`: 4 for files of 32-bit platforms
    Raises UserError that names the file if it is missing, truncated, in ASCII mode, or holds more
    than one object.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            return _whole(file, size, long_size)
    except Torch7Error as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from error


def loads(data: bytes, long_size: int = 8) -> Any:
    """The object in these bytes; see `read`. Raises Torch7Error."""
    return _whole(io.BytesIO(data), len(data), long_size)


def _whole(file: IO[bytes], size: int, long_size: int) -> Any:
    start = file.read(2)
    file.seek(0)
    if re.fullmatch(rb"[0-8]\n", start):
        raise Torch7Error("is a Torch7 file in ASCII mode; only the binary mode is read")
    reader = _Reader(file, size, long_size)
    value = reader.object(0)
    if reader.left:
        raise Torch7Error(f"has {reader.left} bytes after its one Torch7 object")
    return value


class _Reader:
    def __init__(self, file: IO[bytes], size: int, long_size: int):
        self.file, self.left = file, size
        self.long_format = {4: "<i", 8: "<q"}[long_size]
        self.objects: dict[int, Any] = {}

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if not 0 <= count <= self.left:
            raise Torch7Error(
                f"is not a whole Torch7 file: needs {count} bytes, {self.left} are left"
            )
        self.left -= count
        data = self.file.read(count)
        if len(data) != count:  # the file shrank during reading
            raise Torch7Error("is not a whole Torch7 file: it ended early")
        return data

    def unpack(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def integer(self) -> int:
        return self.unpack("<i")

    def longs(self, count: int) -> list[int]:
        return [self.unpack(self.long_format) for _ in range(count)]

    def string(self) -> str:
        return self.take(self.integer()).decode("utf-8", "surrogateescape")

    def object(self, depth: int) -> Any:
        if depth > DEPTH:
            raise Torch7Error(f"holds objects nested deeper than {DEPTH}")
        tag = self.integer()
        if tag == NIL:
            return None
        if tag == NUMBER:
            return self.unpack("<d")
        if tag == STRING:
            return self.string()
        if tag == BOOLEAN:
            return self.integer() == 1
        if tag == OLD_FUNCTION:
            return self.function(depth)
        if tag not in (TABLE, OBJECT, *FUNCTIONS):
            raise Torch7Error(f"is not a Torch7 file: {tag} is not a type of object")
        index = self.integer()
        if index in self.objects:
            return self.objects[index]
        if tag == TABLE:
            return self.table(index, depth)
        if tag == OBJECT:
            return self.instance(index, depth)
        self.objects[index] = Function()
        self.function(depth)
        return self.objects[index]

    def function(self, depth: int) -> Function:
        self.string()  # byte code
        self.object(depth + 1)  # variables of the closure
        return Function()

    def table(self, index: int, depth: int) -> Table:
        table = self.objects[index] = Table()
        count = self.integer()
        if not 0 <= count * 8 <= self.left:  # a pair has at least two type tags
            raise Torch7Error(
                f"is not a whole Torch7 file: a table of {count} pairs in {self.left} bytes"
            )
        for _ in range(count):
            key = self.object(depth + 1)
            if isinstance(key, bool):
                key = LuaBoolean(int(key))
            if not isinstance(key, float | str | LuaBoolean) or key != key:
                raise Torch7Error(f"has a table with a key of type {type(key).__name__}")
            table[int(key) if isinstance(key, float) and key.is_integer() else key] = self.object(
                depth + 1
            )
        return table

    def instance(self, index: int, depth: int) -> Any:
        name = self.string()
        if re.fullmatch(r"V \d+", name):
            name = self.string()
        match = CLASS.fullmatch(name)
        if not match or not (match[1] or match[2]):
            record = self.objects[index] = Record(name)
            record.fields = self.object(depth + 1)
            return record
        # CudaTensor alone holds floats.
        kind = ELEMENTS[match[2] or "Float"]
        if match[3] == "Storage":
            self.objects[index] = self.storage(kind)
        else:
            # A tensor cannot contain itself, because its storage has no references.
            self.objects[index] = None
            self.objects[index] = self.tensor(kind, name, depth)
        return self.objects[index]

    def storage(self, kind: torch.dtype) -> Tensor:
        (count,) = self.longs(1)
        if not 0 <= count * kind.itemsize <= self.left:
            raise Torch7Error(
                f"is not a whole Torch7 file: a storage of {count} elements in {self.left} bytes"
            )
        if not count:
            return torch.empty(0, dtype=kind)
        return torch.frombuffer(bytearray(self.take(count * kind.itemsize)), dtype=kind)

    def tensor(self, kind: torch.dtype, name: str, depth: int) -> Tensor:
        dims = self.integer()
        if not 0 <= dims <= 64:
            raise Torch7Error(f"is not a Torch7 file: a tensor of {dims} dimensions")
        sizes, strides = self.longs(dims), self.longs(dims)
        (offset,) = self.longs(1)
        storage = self.object(depth + 1)
        if storage is not None and not (isinstance(storage, Tensor) and storage.ndim == 1):
            raise Torch7Error(f"holds a {name} whose storage is a {type(storage).__name__}")
        if any(n < 0 for n in [*sizes, *strides]) or math.prod(sizes) >= 1 << 40:
            raise Torch7Error(f"holds a {name} of impossible size {sizes}, strides {strides}")
        if not dims or 0 in sizes:
            return torch.empty(sizes or 0, dtype=kind)
        last = offset - 1 + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
        if storage is None or offset < 1 or last >= len(storage) or storage.dtype != kind:
            memory = "none" if storage is None else f"{len(storage)} of {storage.dtype}"
            raise Torch7Error(
                f"holds a {name} of size {sizes}, strides {strides}, offset {offset} "
                f"that lies outside its storage ({memory})"
            )
        strides = [s if n > 1 else 1 for n, s in zip(sizes, strides, strict=True)]
        return storage.as_strided(sizes, strides, offset - 1)


def write(file: IO[bytes], value: Any) -> None:
    """Write an object: None, bool, int, float, str, dict, list, Table, Record, Tensor, LongStorage.

    Tensors that share memory share a storage in the file. An object that occurs twice is written
    once. A list becomes a table with the keys 1 to n. Tensors must be on the CPU.
    Raises ValueError for other types.
    """
    _Writer(file).object(value)


def dumps(value: Any) -> bytes:
    """The bytes that `write` writes."""
    file = io.BytesIO()
    write(file, value)
    return file.getvalue()


class _Writer:
    def __init__(self, file: IO[bytes]):
        self.file = file
        self.indices: dict[Any, int] = {}
        self.kept: list[Any] = []  # keeps objects alive, so that no id is used twice

    def pack(self, layout: str, *values: Any) -> None:
        self.file.write(struct.pack(f"<{layout}", *values))

    def string(self, text: str) -> None:
        data = text.encode("utf-8", "surrogateescape")
        self.pack("i", len(data))
        self.file.write(data)

    def object(self, value: Any) -> None:
        if value is None:
            self.pack("i", NIL)
        elif isinstance(value, bool | LuaBoolean):
            self.pack("ii", BOOLEAN, value.value if isinstance(value, LuaBoolean) else value)
        elif isinstance(value, int | float):
            self.pack("id", NUMBER, value)
        elif isinstance(value, str):
            self.pack("i", STRING)
            self.string(value)
        elif isinstance(value, LongStorage):
            if self.begin(OBJECT, id(value), value, "torch.LongStorage"):
                self.pack(f"{1 + len(value)}q", len(value), *value)
        elif isinstance(value, dict | list | tuple):
            pairs = value if isinstance(value, dict) else dict(enumerate(value, 1))
            if self.begin(TABLE, id(value), value):
                self.pack("i", len(pairs))
                for key, item in pairs.items():
                    self.object(key)
                    self.object(item)
        elif isinstance(value, Record):
            if self.begin(OBJECT, id(value), value, value.name):
                self.object(value.fields)
        elif isinstance(value, Tensor) and value.dtype in ELEMENTS.values() and value.is_cpu:
            self.tensor(value)
        else:
            what = f"{value.dtype} on {value.device}" if isinstance(value, Tensor) else type(value)
            raise ValueError(f"write: value must be plain or a CPU tensor of numbers, got {what}")

    def begin(self, tag: int, key: Any, value: Any, name: str | None = None) -> bool:
        """Write tag and index; True if the body must follow because the object is new."""
        new = key not in self.indices
        if new:
            self.indices[key] = len(self.indices) + 1
            self.kept.append(value)
        self.pack("ii", tag, self.indices[key])
        if new and name is not None:
            self.string("V 1")
            self.string(name)
        return new

    def tensor(self, value: Tensor) -> None:
        kind = next(name for name, dtype in ELEMENTS.items() if dtype == value.dtype)
        if not self.begin(OBJECT, id(value), value, f"torch.{kind}Tensor"):
            return
        value = value.detach()
        value = value if value.ndim else value.view(1)
        shape, strides = (value.shape, value.stride()) if value.numel() else ((), ())
        offset = value.storage_offset() + 1 if shape else 1
        self.pack(f"i{2 * len(shape) + 1}q", len(shape), *shape, *strides, offset)
        memory = value.untyped_storage()
        if not value.numel():
            self.object(None)
        elif self.begin(OBJECT, ("storage", memory.data_ptr()), value, f"torch.{kind}Storage"):
            count = memory.nbytes() // value.itemsize
            whole = torch.empty(0, dtype=value.dtype).set_(memory, 0, (count,), (1,))
            self.pack("q", count)
            self.file.write(whole.numpy().data)
