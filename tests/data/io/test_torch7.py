"""Torch7's binary files: all types of objects, and damaged files."""

import contextlib
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nets.data.io import torch7
from nets.data.io.torch7 import Function, LuaBoolean, Record, Table, Torch7Error, dumps, loads
from nets.errors import UserError


def i32(*values):
    return struct.pack(f"<{len(values)}i", *values)


def i64(*values):
    return struct.pack(f"<{len(values)}q", *values)


def text(value):
    return i32(len(value)) + value.encode()


def start(index, name):
    return i32(4, index) + text("V 1") + text(name)


def floats(count=6, name="torch.FloatStorage", index=2):
    return start(index, name) + i64(count) + struct.pack("<6f", *[0.25 * i for i in range(6)])


EXAMPLE = start(1, "torch.FloatTensor") + i32(2) + i64(2, 3, 3, 1, 1) + floats()
PLAIN = torch.arange(6).view(2, 3) * 0.25


def test_the_worked_example():
    assert len(EXAMPLE) == 149
    assert torch.equal(loads(EXAMPLE), PLAIN)
    assert dumps(PLAIN) == EXAMPLE


def test_a_batch_has_the_published_length():
    assert len(dumps(torch.zeros(20, 1, 150, 150))) == 1_800_157


def test_a_transposed_view_with_an_offset():
    data = start(1, "torch.FloatTensor") + i32(2) + i64(2, 2, 1, 3, 2) + floats()
    assert torch.equal(loads(data), torch.tensor([[0.25, 1.0], [0.5, 1.25]]))


def test_without_a_version_the_first_string_is_the_class():
    data = i32(4, 1) + text("torch.FloatStorage") + i64(6) + floats()[-24:]
    assert torch.equal(loads(data), PLAIN.flatten())


def test_longs_of_four_bytes():
    data = start(1, "torch.FloatTensor") + i32(1) + i32(6, 1, 1)
    data += start(2, "torch.FloatStorage") + i32(6) + floats()[-24:]
    assert torch.equal(loads(data, long_size=4), PLAIN.flatten())


def test_names_of_gpu_tensors():
    for name, kind, element in (
        ("Cuda", torch.float32, "f"),
        ("CudaDouble", torch.float64, "d"),
        ("CudaLong", torch.int64, "q"),
        ("CudaByte", torch.uint8, "B"),
        ("CudaHalf", torch.float16, "e"),
    ):
        data = start(1, f"torch.{name}Tensor") + i32(1) + i64(2, 1, 1)
        data += start(2, f"torch.{name}Storage") + i64(2) + struct.pack(f"<2{element}", 1, 2)
        value = loads(data)
        assert value.dtype == kind and value.tolist() == [1, 2]


def test_tensors_of_one_storage_are_views_of_one_memory():
    whole = torch.arange(10.0)
    table = loads(dumps({"a": whole[2:6], "b": whole.view(2, 5).T, "c": whole[4:]}))
    assert torch.equal(table["b"], whole.view(2, 5).T)
    table["a"][2] = 50
    assert table["c"][0] == 50 and table["b"][4, 0] == 50


def test_back_references_and_cycles():
    inner = {"x": 1.0}
    table = loads(dumps([inner, inner]))
    assert table[1] is table[2] and table.sequence() == [{"x": 1.0}] * 2
    data = i32(3, 1, 1) + i32(2) + text("me") + i32(3, 1)
    cyclic = loads(data)
    assert cyclic["me"] is cyclic


def test_mixed_keys_and_values():
    written = {1: "one", 2.5: True, "x": None, LuaBoolean.TRUE: False, "n": [1, 2]}
    value = loads(dumps(written))
    assert isinstance(value, Table) and value == {
        1: "one", 2.5: True, "x": None, LuaBoolean.TRUE: False, "n": {1: 1, 2: 2},
    }  # fmt: skip
    with pytest.raises(ValueError, match="keys 1 to 5"):
        value.sequence()


def test_nil_and_empty_tensors():
    assert loads(i32(0)) is None
    assert loads(dumps(torch.empty(0))).shape == (0,)
    empty = start(1, "torch.DoubleTensor") + i32(0) + i64(1) + i32(0)
    assert loads(empty).shape == (0,) and loads(empty).dtype == torch.float64


def test_a_storage_of_longs_is_written_without_a_tensor():
    data = dumps(torch7.LongStorage((2, 15)))
    assert data.endswith(b"torch.LongStorage" + struct.pack("<3q", 2, 2, 15))
    assert loads(data).tolist() == [2, 15] and b"Tensor" not in data


def test_classes_become_records_and_functions_are_skipped():
    body = i32(3, 2, 2) + i32(2) + text("train") + i32(5, 1)
    body += i32(2) + text("f") + i32(8, 3) + text("\x1bLJ code") + i32(3, 4, 0)
    value = loads(start(1, "nn.Sequential") + body)
    assert isinstance(value, Record) and value.name == "nn.Sequential"
    assert value.fields["train"] is True and isinstance(value.fields["f"], Function)
    assert isinstance(loads(i32(6) + text("code") + i32(0)), Function)
    # The class is not looked up.
    assert loads(start(1, "os.system") + i32(2) + text("true")).fields == "true"


def test_all_types_are_read_as_written():
    for kind in torch7.ELEMENTS.values():
        tensor = torch.arange(24).to(kind).view(2, 3, 4)
        value = loads(dumps(tensor))
        assert value.dtype == kind and torch.equal(value, tensor)
    record = Record("nn.LinearCR", {"weight": torch.ones(2, 2)})
    assert torch.equal(loads(dumps(record)).fields["weight"], torch.ones(2, 2))
    with pytest.raises(ValueError, match="value must be plain"):
        dumps(torch.ones(2, dtype=torch.bfloat16))


BROKEN = {
    "needs 24 bytes|storage of 6 elements in": EXAMPLE[:-1],
    "needs 4 bytes, 0 are left": b"",
    "1 bytes after its one": EXAMPLE + b"\0",
    "ASCII": b"4\n1\n3\nV 1\n",
    "9 is not a type of object": i32(9),
    "storage of 1152921504606846976": start(1, "torch.FloatStorage") + i64(1 << 60),
    "storage of -1": start(1, "torch.FloatStorage") + i64(-1),
    "outside its storage": start(1, "torch.FloatTensor") + i32(1) + i64(7, 1, 1) + floats(),
    "offset 0": start(1, "torch.FloatTensor") + i32(1) + i64(2, 1, 0) + floats(),
    "impossible size": start(1, "torch.FloatTensor") + i32(1) + i64(2, -1, 3) + floats(),
    r"size \[1099511627776\]": start(1, "torch.FloatTensor")
    + i32(1)
    + i64(1 << 40, 0, 1)
    + floats(),
    "float32": start(1, "torch.DoubleTensor") + i32(1) + i64(2, 1, 1) + floats(),
    "storage is a Table": start(1, "torch.FloatTensor") + i32(1) + i64(2, 1, 1) + i32(3, 2, 0),
    "tensor of 65 dimensions": start(1, "torch.FloatTensor") + i32(65),
    "table of 1000 pairs": i32(3, 1, 1000),
    "needs -5 bytes": i32(2, -5),
    "key of type NoneType": i32(3, 1, 1, 0, 0) + bytes(8),
    "deeper than 200": b"".join(i32(3, i, 1) + i32(1) + bytes(8) for i in range(1, 400))
    + bytes(99),
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_files_are_refused(message, tmp_path):
    with pytest.raises(Torch7Error, match=message):
        loads(BROKEN[message])
    (tmp_path / "x.t7").write_bytes(BROKEN[message])
    with pytest.raises(UserError, match=r"x\.t7: "):
        torch7.read(tmp_path / "x.t7")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no\.t7: no such file"):
        torch7.read(tmp_path / "no.t7")


def whole_objects():
    tensors = st.builds(
        lambda n, m: torch.arange(n * m).view(n, m).float(), *[st.integers(0, 4)] * 2
    )
    leaves = st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5) | tensors
    keys = st.integers(1, 5) | st.text(max_size=3)
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4)
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b.view(a.shape)) if a.numel() else b.numel() == 0
    if isinstance(a, list):
        a = dict(enumerate(a, 1))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


@settings(max_examples=100, deadline=None)
@given(whole_objects())
def test_round_trip(value):
    assert same(value, loads(dumps(value)))


@settings(max_examples=300, deadline=None)
@given(whole_objects(), st.data())
def test_damaged_files_are_read_or_refused(value, data):
    """Without errors of another type, and without more memory than the file's size allows."""
    bytes_ = bytearray(dumps(value))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(bytes_) - 1))
        bytes_[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(bytes_)))
    for damaged in (bytes(bytes_), bytes(bytes_[:cut])):
        with contextlib.suppress(Torch7Error):
            loads(damaged)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_read_or_refused(bytes_):
    with contextlib.suppress(Torch7Error):
        loads(bytes_)
