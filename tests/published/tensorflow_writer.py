"""Writes TensorFlow checkpoints of version 2, as its BundleWriter lays them out."""

import struct

import numpy as np
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import crc32c

TYPES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int64": 9, "bool": 10, "float16": 19}
STRING = 7


def write_checkpoint(prefix, tensors, shards=1, block_size=256, interval=16, **more):
    """Write `tensors`, name -> array or bytes (a string), to PREFIX.index and its data files.

    more  fields of the entries that replace the right ones, name -> {field: value}, and
          `endianness` and `compression`
    """
    names = sorted(tensors, key=str.encode)
    data = [b""] * shards
    entries = {
        b"": number(1, shards) + number(2, more.get("endianness", 0)) + text(3, number(1, 1))
    }
    for i, name in enumerate(names):
        value = tensors[name]
        content = value if isinstance(value, bytes) else np.asarray(value).tobytes()
        shape = () if isinstance(value, bytes) else np.shape(value)
        kind = STRING if isinstance(value, bytes) else TYPES[np.asarray(value).dtype.name]
        entry = {"dtype": kind, "shard": i % shards, "offset": len(data[i % shards]),
                 "size": len(content), "crc": masked(content)}  # fmt: skip
        entry |= more.get("entries", {}).get(name, {})
        data[i % shards] += content
        dims = b"".join(text(2, number(1, size)) for size in shape)
        encoded = number(1, entry["dtype"]) + text(2, dims)
        for field, key in ((3, "shard"), (4, "offset"), (5, "size")):
            encoded += number(field, entry[key])
        encoded += bytes([6 << 3 | 5]) + struct.pack("<I", entry["crc"])
        if entry.get("slices"):
            encoded += text(7, b"")
        entries[name.encode()] = encoded
    for i, content in enumerate(data):
        with open(f"{prefix}.data-{i:05d}-of-{shards:05d}", "wb") as file:
            file.write(content)
    with open(f"{prefix}.index", "wb") as file:
        file.write(table(entries, block_size, interval, more.get("compression", 0)))


def table(entries, block_size, interval, compression):
    """An SSTable of the entries, which are in order."""
    out, index, group = b"", {}, {}
    for i, (key, value) in enumerate(entries.items()):
        group[key] = value
        if sum(map(len, group.values())) >= block_size or i + 1 == len(entries):
            encoded = block(group, interval)
            index[key] = varint(len(out)) + varint(len(encoded))
            out += sealed(encoded, compression)
            group = {}
    handles = b""
    for encoded in (block({}, 1), block(index, 1)):
        handles += varint(len(out)) + varint(len(encoded))
        out += sealed(encoded, 0)
    return out + handles.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def block(entries, interval):
    out, restarts, before = b"", [], b""
    for i, (key, value) in enumerate(entries.items()):
        shared = 0
        if i % interval == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value))
        out += key[shared:] + value
        before = key
    restarts = restarts or [0]
    return out + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def sealed(encoded, compression):
    encoded += bytes([compression])
    return encoded + struct.pack("<I", masked(encoded))


def masked(content):
    crc = crc32c(content) & 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value):
    out = b""
    while value >= 128:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def number(field, value):
    return bytes([field << 3]) + varint(value)


def text(field, value):
    return bytes([field << 3 | 2]) + varint(len(value)) + value
