"""Files that were cut, flipped or made up: every reader reads them or says one line, never more."""

import ast
import codecs
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from nets import skeletons
from nets.bilayer import published as bilayer_options
from nets.data.clips import bbc_pose, clips
from nets.data.heads import faces
from nets.data.heads.videos import AvatarList
from nets.data.io import images, torch7
from nets.data.io.pickles import read_pickle
from nets.data.people import annotations, index, joints, meta
from nets.data.scenes import batches, factors
from nets.errors import BadSample, UserError
from nets.landmarks import evaluate
from nets.landmarks import published as landmarks
from nets.pretrained import weights
from nets.run import checkpoints, options
from nets.tensor_files import read_safetensors, write_safetensors

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


def make_image(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)).save(path)


def make_meta(path):
    labels = {"image": np.array(["a.png", "b.png"]), "joints": np.zeros((2, 3), np.float32)}
    kwargs = {"image": {"resize_to": [8, 8], "support": "0->255"}}
    meta.write_meta(path.parent, labels, "what it is", {"image": "image"}, kwargs)


def make_old_checkpoint(path):
    """As torch.save wrote before it used archives, which have checksums."""
    content = {"format": 1, "system": "toy", "options": {"a": [1, 2]}, "step": 1, "parts": {}}
    content["parts"]["model"] = {"weight": torch.zeros(3, 3)}
    torch.save(content, path, _use_new_zipfile_serialization=False)


def adam():
    net = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return net, optimizer


def make_optimizer(path):
    torch.save(adam()[1].state_dict(), path, _use_new_zipfile_serialization=False)


def read_optimizer(path):
    net, optimizer = adam()
    landmarks.read_optimizer(path, optimizer, net)


def make_mat(path):
    people = np.array([(7, np.arange(3.0), "a"), (8, np.zeros((2, 2)), "b")], "O,O,O")
    savemat(path, {"bbcpose": people})


def make_table(path):
    path.write_text("file,azimuth,shape\na.png,0.5,1\nb.png,-0.25,2\n")


def make_keras(path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as root:
        root.create_group("block1").create_dataset("kernel:0", data=np.zeros((3, 3, 3, 4), "f4"))


def make_landmarks(path):
    content = {key: np.zeros((4, 6)) for key in (*evaluate.DUMP_KEYS, "predictions_cov_decomp")}
    evaluate.write_dump(
        path.parent, {**content, "predictions_cov": np.zeros(0)}, path.suffix != ".npz"
    )


def make_list(path):
    for name in ("a/1", "a/2"):
        for kind, suffix in (("imgs", "jpg"), ("segs", "png"), ("keypoints", "npy")):
            file = path.parent / "DATA" / kind / "test" / f"{name}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    path.write_text("data-root: DATA\nsource1: a/1\ntarget1: a/2\n")


def read_list(path):
    AvatarList(path, "test", path.parent / "DATA", 8)


def find_whole(path):
    if not checkpoints.is_whole(path):
        raise UserError(f"{path}: not whole")


def written(text):
    return lambda path: path.write_text(text)


ROW = "a.jpg: {0}: {0}\n".format(list(range(18)))
PERSON = {"image_id": 1, "num_keypoints": 2, "keypoints": [1, 2, 2] * 17}
COCO = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [PERSON]}
OPENPOSE = {"people": [{"pose_keypoints_2d": [1, 2, 0.5] * 18}]}
READERS = {  # file name: (write a good one, read it)
    "index.p": (make_index, index.read_index),
    "index.npz": (make_index_npz, index.read_index),
    "index.json": (make_index_json, index.read_index),
    "plain.p": (make_index, read_pickle),
    "meta.yaml": (make_meta, lambda p: meta.MetaDataset(p.parent)),
    "config.yaml": (written("lr: [1, 2]\nname: {a: b}\n"), options.read_yaml),
    "opt.yaml": (written("lr: 5e-06\nresume_ckpt: None\nnsf: 4\n"), landmarks.read_options),
    "args.txt": (written("num_gpus: 2\nlrs: gen: 1\nuse_half: False\n"),
                 bilayer_options.read_args),
    "step_00000001.pt": (make_checkpoint, checkpoints.read),
    "weights.safetensors": (make_safetensors, read_safetensors),
    "step_00000003.pt": (make_checkpoint, find_whole),
    "step_00000002.pt": (make_old_checkpoint, checkpoints.read),
    "optimizer.pth": (make_optimizer, read_optimizer),
    "kernels.h5": (make_keras, lambda p: weights.read_keras(p, "another file")),
    "joints.json": (written(json.dumps(JOINTS)),
                    lambda p: joints.read_joints(str(p), p.with_name("a.png"), (9, 7))),
    "points.npy": (lambda p: np.save(p, np.zeros((68, 2), np.float32)), faces.read_keypoints),
    "points.json": (written(json.dumps([[0.5, 1.5]] * 68)), faces.read_keypoints),
    "annotations.csv": (written("name:keypoints_y:keypoints_x\n" + ROW),
                        annotations.read_annotations),
    "coco.json": (written(json.dumps(COCO)), annotations.read_annotations),
    "a_keypoints.json": (written(json.dumps(OPENPOSE)), annotations.read_annotations),
    "boxes.json": (written('{"a": [0, 0, 5, 6.5]}'), lambda p: clips._read_boxes(p.parent, ["a"])),
    "frames.txt": (make_list, read_list),
    "factors.csv": (make_table, factors.read_table),
    "bbcpose.mat": (make_mat, lambda p: bbc_pose.read_mat(p, "bbcpose", 3)),
    "gaussians.npz": (make_landmarks, lambda p: evaluate.read_dump(p.parent)),
    "gaussians.pkl3": (make_landmarks, lambda p: evaluate.read_dump(p.parent)),
    "batch1": (make_torch7, torch7.read),
    "batch2.npz": (lambda p: batches.write_batch(p, torch.zeros(2, 1, 8, 8, dtype=torch.uint8),
                                                 {"azimuth": torch.zeros(2)}),
                   lambda p: batches.read_batch(p, 2, 8)),
    "image.png": (make_image, lambda p: images.read_image(p, None)),
    "image.jpg": (make_image, lambda p: images.read_image(p, 16)),
    "image.bmp": (make_image, lambda p: images.read_image(p, 16)),
    "image.webp": (make_image, lambda p: images.read_image(p, 16)),
}  # fmt: skip
EDITS = st.tuples(
    st.sampled_from(["cut", "put", "insert", "delete", "say"]),
    st.floats(0, 1, exclude_max=True),  # where
    st.binary(min_size=1, max_size=8),
    st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"\x80" * 4, b"null", b"NaN",
                     b"1e999", b"-1", b"[]", b"{}", b'"', b"[[[[", b": ", b"\n", b"../", b"/"]),
)  # fmt: skip


def spoil(data: bytes, edits: list[tuple[str, float, bytes, bytes]]) -> bytes:
    """The bytes cut, some changed, put in, left out, or replaced by what readers stumble on."""
    for kind, share, some, known in edits:
        at = int(share * len(data))
        rest = {
            "cut": b"",
            "put": some + data[at + len(some) :],
            "insert": some + data[at:],
            "delete": data[at + 3 * len(some) :],
            "say": known + data[at + len(known) :],
        }
        data = data[:at] + rest[kind]
    return data


@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings(
    "ignore"
)  # NumPy, SciPy and Pillow warn of what they find in such files
def test_a_spoilt_file_is_read_or_refused_in_one_line(tmp_path, name):
    make, read = READERS[name]
    path = tmp_path / name
    make(path)
    read(path)  # it is a good one
    good, refused = path.read_bytes(), []

    some = 30 if name == "bbcpose.mat" else 300  # a process each

    @settings(max_examples=some, derandomize=True, database=None, deadline=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.lists(EDITS, min_size=1, max_size=3))
    def attack(edits):
        path.write_bytes(spoil(good, edits))
        try:
            read(path)
        except (UserError, BadSample) as error:
            refused.append(edits)
            assert name in str(error) and len(str(error)) < 1000

    attack()
    assert len(refused) > some // 15  # else nothing was spoilt


class Calls:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def programs(mark):
    """Pickles that make the file `mark` when they are obeyed."""
    touch, make = f"touch {mark}", f"open({str(mark)!r}, 'w')"
    text = touch.encode()
    ask = Calls(os.system, touch)
    yield "a call", pickle.dumps({"imgs": [ask]}, 2)
    yield "an expression", pickle.dumps(Calls(eval, make))
    yield "a statement", pickle.dumps(Calls(exec, make))
    yield "a process", pickle.dumps(Calls(subprocess.Popen, ["touch", str(mark)]))
    inner = Calls(getattr, Calls(__import__, "os"), "system")
    yield "a call within a call", pickle.dumps(Calls(map, inner, [touch]))
    yield "another call within a call", pickle.dumps(Calls(list, Calls(map, os.system, [touch])))
    yield "memoised names", (b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94h\x00h\x01\x93\x8c"
                             + bytes([len(text)]) + text + b"\x85R.")  # fmt: skip
    yield "an instance, of protocol 0", b"(S'" + text + b"'\nios\nsystem\n."
    yield "an object, of protocol 1", b"(cos\nsystem\nS'" + text + b"'\no."
    yield "an array of objects", pickle.dumps({"joints": np.array([ask, None], object)})
    hidden = Calls(codecs.encode, codecs.encode(touch, "rot13"), "rot13")
    yield "a codec", pickle.dumps(Calls(os.system, hidden))
    yield "a tensor's storage", pickle.dumps({"w": torch.zeros(2), "x": ask})


def into_archive(path, program):
    """As a checkpoint that torch.save wrote."""
    torch.save({"format": 1}, path)
    with zipfile.ZipFile(path) as good:
        held = {name: good.read(name) for name in good.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in held.items():
            archive.writestr(name, program if name.endswith("data.pkl") else data)


def into_array(path, program):
    """As the objects of an array."""
    np.save(path, np.array([None], object), allow_pickle=True)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\n") + 1] + program)


WAYS_IN = {
    "index.p": (Path.write_bytes, index.read_index),
    "plain.p": (Path.write_bytes, read_pickle),
    "gaussians.pkl3": (Path.write_bytes, lambda p: evaluate.read_dump(p.parent)),
    "old.pth": (Path.write_bytes, checkpoints.read),
    "step_00000001.pt": (into_archive, checkpoints.read),
    "points.npy": (into_array, faces.read_keypoints),
}


@pytest.mark.parametrize("name", WAYS_IN)
@pytest.mark.filterwarnings("ignore")
def test_malicious_pickles_run_nothing(tmp_path, name):
    make, read = WAYS_IN[name]
    mark, seen = tmp_path / "it_ran", 0
    for what, program in programs(mark):
        make(tmp_path / name, program)
        with pytest.raises((UserError, BadSample)) as caught:
            read(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value), what
        assert not mark.exists(), what
        seen += 1
    assert seen >= 10


def test_those_pickles_are_malicious(tmp_path):
    """Obeyed, in a process of their own, almost all of them do what they are after."""
    mark, ran = tmp_path / "it_ran", 0
    obey = "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"
    for _, program in programs(mark):
        subprocess.run([sys.executable, "-c", obey], input=program, capture_output=True, timeout=60)
        ran += mark.exists()
        mark.unlink(missing_ok=True)
    assert ran >= 10


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
    assert [str(f.relative_to(ROOT)) for f in unpicklers] == ["nets/data/io/pickles.py"]
