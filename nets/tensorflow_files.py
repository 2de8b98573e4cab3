"""Reads TensorFlow checkpoints of version 2 without TensorFlow.

`model.ckpt-N.index` is a table of sorted keys, in the format of LevelDB. The key "" holds a
BundleHeaderProto. Each other key is the name of a variable and holds a BundleEntryProto: type,
shape, and where its bytes lie in `model.ckpt-N.data-0000i-of-0000n`. Every length is compared with
the bytes at hand before it is used, and every checksum is checked.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nets.errors import UserError

MAGIC = 0xDB4775248B80FB57
FOOTER = 48  # bytes
TRAILER = 5  # bytes after a block: compression type, masked CRC-32C
STRING = 7
TYPES = {  # tensorflow.DataType
    1: torch.float32, 2: torch.float64, 3: torch.int32, 4: torch.uint8, 5: torch.int16,
    6: torch.int8, 9: torch.int64, 10: torch.bool, 14: torch.bfloat16, 17: torch.uint16,
    19: torch.float16, 22: torch.uint32, 23: torch.uint64,
}  # fmt: skip
PART = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})")


def prefix_of(path: str | Path) -> Path | None:
    """The prefix `model.ckpt-N` of a TensorFlow checkpoint; None if `path` is something else.

    path  the prefix itself, one of its files, or a folder of such checkpoints (or with a folder
          `checkpoints` of them), of which the highest step is taken
    """
    path = Path(path)
    if path.is_dir():
        for folder in (path, path / "checkpoints"):
            indexes = [file for file in folder.glob("*.index") if _is_table(file)]
            if indexes:
                return max(indexes, key=lambda file: (_step(file), file.name)).with_suffix("")
        return None
    prefix = path.with_suffix("") if PART.fullmatch(path.suffix) else path
    return prefix if Path(f"{prefix}.index").is_file() else None


def read_tensorflow(prefix: str | Path) -> dict[str, Tensor]:
    """The variables of a TensorFlow checkpoint by name, sorted; on the CPU.

    Strings, which hold no weights, are left out. Raises UserError that names the file if it is
    missing, damaged, partitioned, big-endian or of an unknown type.
    """
    index = Path(f"{prefix}.index")
    try:
        return _Bundle(Path(prefix), index).tensors()
    except OSError as error:
        raise UserError(f"{error.filename or index}: {error.strerror or error}") from error
    except _DamagedError as error:
        raise UserError(f"{index}: not a whole TensorFlow checkpoint: {error}") from error


class _DamagedError(ValueError):
    """Bytes that break the format; the text says how."""


@dataclass
class _Entry:
    """A BundleEntryProto."""

    dtype: int = 0
    shape: list[int] = field(default_factory=list)
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0
    partitioned: bool = False


class _Bundle:
    """An index file, and the shards that it points into."""

    def __init__(self, prefix: Path, index: Path):
        self.prefix, self.index = prefix, index
        self.shards: dict[int, mmap.mmap | bytes] = {}

    def tensors(self) -> dict[str, Tensor]:
        entries = dict(_table(self.index.read_bytes()))
        header = dict(_fields(entries.pop(b"", b"")))
        count, endianness = header.get(1, 0), header.get(2, 0)
        if not isinstance(count, int) or count < 1:
            raise _DamagedError("it has no header")
        if endianness != 0:
            raise UserError(f"{self.index}: big-endian tensors are not read")
        result = {}
        for key, value in sorted(entries.items()):
            name, entry = key.decode(errors="replace"), _entry(value)
            if entry.dtype != STRING:
                result[name] = self._tensor(name, entry, count)
        return result

    def _tensor(self, name: str, entry: _Entry, count: int) -> Tensor:
        if entry.partitioned:
            raise UserError(f"{self.index}: {name} is partitioned; such variables are not read")
        if entry.dtype not in TYPES:
            raise UserError(f"{self.index}: {name} has the unknown type {entry.dtype}")
        dtype = TYPES[entry.dtype]
        elements = 1
        for size in entry.shape:
            if size < 0:
                raise _DamagedError(f"{name} has the size {size}")
            elements *= size
        if elements * dtype.itemsize != entry.size:
            raise _DamagedError(f"{name} of {entry.shape} has {entry.size} bytes")
        if not 0 <= entry.shard < count:
            raise _DamagedError(f"{name} lies in shard {entry.shard} of {count}")
        file = Path(f"{self.prefix}.data-{entry.shard:05d}-of-{count:05d}")
        if entry.shard not in self.shards:
            with open(file, "rb") as opened:
                empty = opened.seek(0, 2) == 0  # which cannot be mapped
                self.shards[entry.shard] = (
                    b"" if empty else mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
                )
        data = self.shards[entry.shard]
        if entry.offset < 0 or entry.offset + entry.size > len(data):
            raise UserError(f"{file}: ends before {name}: is the file complete?")
        content = data[entry.offset : entry.offset + entry.size]
        if _masked(crc32c(content)) != entry.crc:
            raise UserError(f"{file}: the checksum of {name} is wrong: is the file damaged?")
        if not content:
            return torch.empty(entry.shape, dtype=dtype)
        return torch.frombuffer(bytearray(content), dtype=dtype).reshape(entry.shape)


def _is_table(file: Path) -> bool:
    """Whether a file ends in the magic number of a table."""
    try:
        with open(file, "rb") as opened:
            if opened.seek(0, 2) < FOOTER:
                return False
            opened.seek(-8, 2)
            return opened.read() == struct.pack("<Q", MAGIC)
    except OSError:
        return False


def _step(index: Path) -> int:
    """The step in the name `model.ckpt-N.index`; -1 if it has none."""
    result = re.search(r"-(\d+)\.index$", index.name)
    return int(result[1]) if result else -1


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a table, in order."""
    if len(data) < FOOTER or struct.unpack("<Q", data[-8:])[0] != MAGIC:
        raise _DamagedError("it does not end as a table")
    footer = data[-FOOTER:-8]
    place = 0
    for _ in range(2):  # offset and size of a block that is not needed, and of the index block
        offset, place = _varint(footer, place)
        size, place = _varint(footer, place)
    for _, handle in _block(data, offset, size):
        start, place = _varint(handle, 0)
        length, _ = _varint(handle, place)
        yield from _block(data, start, length)


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a block. A key repeats only what differs from the key before."""
    if offset + size + TRAILER > len(data):
        raise _DamagedError("a block ends behind the file")
    block, kind = data[offset : offset + size], data[offset + size]
    (stored,) = struct.unpack_from("<I", data, offset + size + 1)
    if _masked(crc32c(data[offset : offset + size + 1])) != stored:
        raise _DamagedError("the checksum of a block is wrong")
    if kind != 0:
        raise _DamagedError(f"its blocks are compressed (type {kind}), which is not read")
    if size < 4:
        raise _DamagedError("a block is too short")
    (restarts,) = struct.unpack("<I", block[-4:])
    end = size - 4 - 4 * restarts
    place, key = 0, b""
    while place < end:
        shared, place = _varint(block, place)
        rest, place = _varint(block, place)
        length, place = _varint(block, place)
        if shared > len(key) or place + rest + length > end:
            raise _DamagedError("a key or value ends behind its block")
        key = key[:shared] + block[place : place + rest]
        yield key, block[place + rest : place + rest + length]
        place += rest + length


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """An unsigned number of 7 bits a byte, and the place after it."""
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise _DamagedError("a number does not end")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol-buffer message: number and value."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, place = _varint(data, place)
            yield number, value - (1 << 64) if value >= 1 << 63 else value
            continue
        size = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            size, place = _varint(data, place)
        if size is None or place + size > len(data):
            raise _DamagedError("a message is damaged")
        content = data[place : place + size]
        yield number, content if wire == 2 else int.from_bytes(content, "little")
        place += size


def _entry(data: bytes) -> _Entry:
    entry = _Entry()
    names = {1: "dtype", 3: "shard", 4: "offset", 5: "size", 6: "crc"}
    for number, value in _fields(data):
        if number in names and isinstance(value, int):
            setattr(entry, names[number], value)
        elif number == 2 and isinstance(value, bytes):  # TensorShapeProto: dim = 2, size = 1
            dims = [dict(_fields(v)) for n, v in _fields(value) if n == 2 and isinstance(v, bytes)]
            sizes = [dim.get(1, 0) for dim in dims]
            entry.shape = [size for size in sizes if isinstance(size, int)]
        elif number == 7:
            entry.partitioned = True
    return entry


def _masked(crc: int) -> int:
    """The form in which checksums are stored."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@cache
def _crc_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table.astype(np.uint32)


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of `data`.

    Long data are split into lanes of equal length that NumPy updates together. Then lanes are
    joined in pairs: the sum of A and B is the sum of A, shifted by the length of B, xor B's.
    """
    table = _crc_table()
    lanes = 1 << max(0, min(16, (len(data) // 64).bit_length() - 1))
    length = len(data) // lanes
    head = len(data) - lanes * length  # bytes that the lanes leave over come first
    start = 0xFFFFFFFF
    for byte in data[:head]:
        start = int(table[(start ^ byte) & 0xFF]) ^ (start >> 8)
    if length == 0:
        return start ^ 0xFFFFFFFF
    columns = np.frombuffer(data, np.uint8, lanes * length, head).reshape(lanes, length).T
    crc = np.zeros(lanes, np.uint32)
    crc[0] = start
    for column in np.ascontiguousarray(columns):
        crc = table[(crc ^ column) & 0xFF] ^ (crc >> 8)
    shift = _zeros(length)
    while len(crc) > 1:
        crc = _apply(shift, crc[::2]) ^ crc[1::2]
        shift = _apply(shift, shift)
    return int(crc[0]) ^ 0xFFFFFFFF


def _zeros(length: int) -> np.ndarray:
    """What `length` zero bytes make of each of the 32 bits of a sum: a matrix over GF(2)."""
    table = _crc_table()
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    power, result = table[bits & 0xFF] ^ (bits >> 8), bits
    while length:
        if length & 1:
            result = _apply(power, result)
        power, length = _apply(power, power), length >> 1
    return result


def _apply(matrix: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """The matrix times each of the sums, over GF(2)."""
    result = np.zeros_like(sums)
    for bit in range(32):
        result ^= np.where((sums >> np.uint32(bit)) & 1, matrix[bit], np.uint32(0))
    return result
