"""Files that were cut, flipped or made up: every reader reads them or says one line, never more."""

import ast
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nets import skeletons
from nets.data import faces, index, joints, meta, pictures
from nets.data.pickles import read_pickle
from nets.errors import BadSample, UserError
from nets.originals import torch7
from nets.run import checkpoints, options
from nets.states import read_safetensors, write_safetensors

ROOT = Path(__file__).parents[2]
JOINTS = {name: [0.5, 0.25] for name in skeletons.JOINTS_15}


def entries():
    return {
        "joint_order": list(skeletons.JOINTS_15),
        "imgs": ["a.png", "b.png"],
        "train": [True, False],
        "joints": np.full((2, 15, 2), 0.5),
    }


def make_index(path):
    index.write_index(path, **{**entries(), "joints": entries()["joints"].tolist()})


def make_index_npz(path):
    np.savez(path, **{name: np.array(value) for name, value in entries().items()})


def make_index_json(path):
    path.write_text(json.dumps({**entries(), "joints": entries()["joints"].tolist()}))


def make_checkpoint(path):
    parts = {"model": {"weight": torch.zeros(3, 3)}}
    checkpoints.write(path, {"system": "toy", "options": {}, "step": 1, "parts": parts})


def make_safetensors(path):
    with path.open("wb") as file:
        write_safetensors(file, {"a": torch.ones(2, 3), "b": torch.ones(1).half()}, {"guise": "{}"})


def make_torch7(path):
    path.write_bytes(torch7.dumps({"weights": torch.zeros(2, 3), "names": ["a", "b"], "n": 1.0}))


def make_picture(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)).save(path)


def make_meta(path):
    labels = {"image": np.array(["a.png", "b.png"]), "joints": np.zeros((2, 3), np.float32)}
    kwargs = {"image": {"resize_to": [8, 8], "support": "0->255"}}
    meta.write_meta(path.parent, labels, "what it is", {"image": "image"}, kwargs)


READERS = {  # file name: (write a good one, read it)
    "index.p": (make_index, index.read_index),
    "index.npz": (make_index_npz, index.read_index),
    "index.json": (make_index_json, index.read_index),
    "plain.p": (lambda p: make_index(p), read_pickle),
    "meta.yaml": (make_meta, lambda p: meta.MetaDataset(p.parent)),
    "config.yaml": (lambda p: p.write_text("lr: [1, 2]\nname: {a: b}\n"), options.read_yaml),
    "step_00000001.pt": (make_checkpoint, checkpoints.read),
    "weights.safetensors": (make_safetensors, read_safetensors),
    "joints.json": (
        lambda p: p.write_text(json.dumps(JOINTS)),
        lambda p: joints.read_joints(str(p), p.with_name("a.png"), (9, 7)),
    ),
    "points.npy": (lambda p: np.save(p, np.zeros((68, 2), np.float32)), faces.read_keypoints),
    "batch1": (make_torch7, torch7.read),
    "picture.png": (make_picture, lambda p: pictures.read_picture(p, None)),
    "picture.jpg": (make_picture, lambda p: pictures.read_picture(p, 16)),
    "picture.bmp": (make_picture, lambda p: pictures.read_picture(p, 16)),
    "picture.webp": (make_picture, lambda p: pictures.read_picture(p, 16)),
}


def spoil(data: bytes, draw: random.Random) -> bytes:
    """The bytes cut, with some of them changed, doubled, or with a piece moved."""
    data = bytearray(data)
    kind = draw.randrange(5)
    at = draw.randrange(len(data))
    if kind == 0:
        return bytes(data[:at])
    if kind == 1:
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
    elif kind == 2:
        data[at:at] = draw.randbytes(draw.randint(1, 8))
    elif kind == 3:
        del data[at : at + draw.randint(1, 40)]
    else:
        data[at : at + 4] = draw.choice([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"\x80" * 4])
    return bytes(data)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore")  # NumPy and Pillow warn of what they find in such files
def test_a_spoilt_file_is_read_or_refused_in_one_line(tmp_path, name):
    make, read = READERS[name]
    path = tmp_path / name
    make(path)
    read(path)  # it is a good one
    good = path.read_bytes()
    draw = random.Random(name)
    refused = 0
    for _ in range(300):
        path.write_bytes(spoil(good, draw))
        try:
            read(path)
        except (UserError, BadSample) as error:
            refused += 1
            assert name in str(error) and len(str(error)) < 1000
    assert refused > 20  # else nothing was spoilt


UNSAFE = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "eval", "exec", "compile", "__import__", "marshal.loads", "marshal.load",
    "shelve.open", "joblib.load", "os.system", "os.popen", "numpy.fromregex",
}  # fmt: skip


def calls(tree):
    """(dotted name, call) of every call in a source file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_nothing_is_loaded_in_a_way_that_runs_code():
    files = [*ROOT.glob("*.py"), *ROOT.glob("nets/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]
    assert len(files) > 60
    found = []
    for file in files:
        for name, call in calls(ast.parse(file.read_text())):
            given = {k.arg: getattr(k.value, "value", None) for k in call.keywords}
            bad = name in UNSAFE
            bad |= name == "torch.load" and given.get("weights_only") is not True
            bad |= name in ("np.load", "numpy.load") and given.get("allow_pickle") is not False
            bad |= given.get("shell") is True
            if bad:
                found.append(f"{file.relative_to(ROOT)}:{call.lineno} {name}")
    assert not found
    unpicklers = [f for f in files if re.search(r"\(pickle\.Unpickler\)", f.read_text())]
    assert [str(f.relative_to(ROOT)) for f in unpicklers] == ["nets/data/pickles.py"]
