"""Pickles give plain data only, and no code of the file runs."""

import collections
import contextlib
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from nets.data.io.pickles import read_pickle
from nets.errors import UserError

ARRAYS = {
    "float64": np.arange(12.0).reshape(3, 4),
    "float32 fortran": np.asfortranarray(np.arange(12, dtype="f4").reshape(3, 4)),
    "big endian": np.arange(5, dtype=">i2"),
    "bool": np.array([True, False]),
    "unicode": np.array(["a", "später"]),
    "bytes": np.array([b"ab", b"c"]),
    "complex": np.array([1 + 2j]),
    "empty": np.zeros((0, 18, 2)),
    "zero dims": np.array(3.5),
    "view": np.arange(24).reshape(2, 3, 4)[:, ::2].T,
    "float16": np.arange(3, dtype="f2"),
}


def written(tmp_path, data, protocol=2):
    file = tmp_path / "data.p"
    file.write_bytes(data if isinstance(data, bytes) else pickle.dumps(data, protocol))
    return file


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_of_all_protocols(tmp_path, protocol):
    data = {
        "list": [1, -(2**70), 2.5, None, True, "ü", b"\x00\xff", b"", (1, (2,))],
        "sets": [{1, 2}, frozenset("ab")],
        "other": [3 + 4j, bytearray(b"xyz"), collections.OrderedDict(a=1)],
    }
    assert read_pickle(written(tmp_path, data, protocol)) == data


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_all_protocols(tmp_path, name, protocol):
    array = ARRAYS[name]
    out = read_pickle(written(tmp_path, [array], protocol))
    kind = array.dtype.newbyteorder("=")  # NumPy swaps the bytes on reading
    assert out[0].dtype.newbyteorder("=") == kind and out[0].shape == array.shape
    np.testing.assert_array_equal(out[0], array)


def test_numpy_scalars(tmp_path):
    data = [np.float32(1.5), np.int64(-7), np.bool_(True), np.str_("ab")]
    assert read_pickle(written(tmp_path, data)) == data


def test_names_of_other_numpy_versions_are_known(tmp_path):
    data = pickle.dumps(ARRAYS["float64"], 2)
    names = b"numpy._core.multiarray", b"numpy.core.multiarray"  # NumPy 2 and 1
    other = data.replace(*(names if names[0] in data else names[::-1]))
    assert other != data
    np.testing.assert_array_equal(read_pickle(written(tmp_path, other)), ARRAYS["float64"])


def test_files_of_python_2(tmp_path):
    # pickle.dumps({'joints': numpy.array([[0.5, -1.0]]), 'imgs': ['a/b.jpg']}, 2) of Python 2.7
    values = np.array([[0.5, -1.0]]).tobytes()
    data = (
        b"\x80\x02}q\x01(U\x06jointsq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray"
        b"\nq\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x01K\x02\x86cnumpy\ndtype\nq\x06U\x02f8K\x00K\x01"
        b"\x87Rq\x07(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10"
        + values
        + b"tbU\x04imgsq\x08]q\tU\x07a/b.jpgq\nau."
    )
    out = read_pickle(written(tmp_path, data))
    assert out["imgs"] == ["a/b.jpg"]
    np.testing.assert_array_equal(out["joints"], [[0.5, -1.0]])


class Calls:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


GADGETS = {
    "os.system": Calls(os.system, "touch {}"),
    "builtins.eval": Calls(eval, "open('{}', 'w')"),
    "builtins.getattr": Calls(getattr, "a", "upper"),
    "subprocess.Popen": Calls(subprocess.Popen, "touch {}"),
    "builtins.print": print,
    "builtins.object": object(),
    "tests.data.test_pickles.Calls": Calls,
    "numpy.fromfile": np.fromfile,
    "numpy.load": np.load,
    "collections.defaultdict": collections.defaultdict(list),
    "codecs.decode": Calls(__import__("codecs").decode, b"YQ==", "base64"),
    "torch._utils._rebuild_tensor_v2": torch.zeros(1),
}


@pytest.mark.parametrize("name", GADGETS)
def test_other_functions_and_classes_are_refused_by_name(tmp_path, name):
    trace = tmp_path / "ran"
    gadget = GADGETS[name]
    if isinstance(gadget, Calls):
        function, args = gadget.call
        filled = [a.format(trace) if isinstance(a, str) else a for a in args]
        gadget = Calls(function, *filled)
    file = written(tmp_path, {"imgs": [gadget]})
    last = name.rpartition(".")[2]
    with pytest.raises(UserError, match=rf"data\.p: refused, it asks for \S*{last}") as caught:
        read_pickle(file)
    assert "\n" not in str(caught.value) and not trace.exists()


def test_dotted_names_and_other_codecs_are_refused(tmp_path):
    dotted = b"\x80\x04\x8c\x08builtins\x8c\x0cset.__init__\x93."
    with pytest.raises(UserError, match=r"refused, it asks for builtins\.set\.__init__"):
        read_pickle(written(tmp_path, dotted))
    zipped = b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R."
    with pytest.raises(UserError, match="refused, it asks for the codec 'zip'"):
        read_pickle(written(tmp_path, zipped))


@pytest.mark.parametrize(
    "array",
    [np.array([{}, None], object), np.zeros(2, [("x", "f4")]), np.zeros(2, "M8[s]")],
    ids=["objects", "records", "dates"],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_of_objects_and_records_are_refused(tmp_path, array, protocol):
    with pytest.raises(UserError, match=r"refused, it holds an array of .*numbers and strings"):
        read_pickle(written(tmp_path, array, protocol))


def test_an_array_with_too_few_bytes_is_refused(tmp_path):
    data = pickle.dumps(np.zeros(3, np.int8), 2).replace(b"K\x03\x85", b"K\x09\x85")
    with pytest.raises(UserError, match=r"plain data \(array of \[9\] int8 in 3 bytes"):
        read_pickle(written(tmp_path, data))


@pytest.mark.parametrize("data", [b"", b"\x80\x02}q", b"hello", b"\x80\x02]q\x01("])
def test_files_that_are_not_pickles(tmp_path, data):
    with pytest.raises(UserError, match=r"data\.p: is not a pickle of plain data"):
        read_pickle(written(tmp_path, data))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.p: no such file"):
        read_pickle(tmp_path / "none.p")


def test_a_file_cannot_change_the_reading_of_the_next_one(tmp_path):
    # BUILD with slots state sets attributes on the stand-in for numpy.ndarray itself.
    spoil = b"\x80\x02cnumpy\nndarray\nN}X\x0c\x00\x00\x00__setstate__K\x01s\x86b."
    with contextlib.suppress(UserError):
        read_pickle(written(tmp_path, spoil))
    out = read_pickle(written(tmp_path, ARRAYS["float64"]))
    np.testing.assert_array_equal(out, ARRAYS["float64"])
    assert sys.modules["numpy"].ndarray is np.ndarray
