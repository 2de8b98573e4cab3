"""Index files of all formats, their samples, and errors of bad ones."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nets.data.io.images import write_image
from nets.data.people.index import IndexDataset, write_index
from nets.data.people.joints import read_joints
from nets.errors import BadSample, UserError
from nets.skeletons import JOINTS_15, JOINTS_17, OPENPOSE_18, stickman
from nets.vunet.data import PersonInputs

ROOT = Path(__file__).parents[3]
N = 8
ORDER = ["cneck", *reversed(JOINTS_15), "lear"]


def content(n=N):
    joints = np.random.default_rng(0).uniform(0.1, 0.9, (n, len(ORDER), 2)).astype(np.float32)
    return {
        "joint_order": list(ORDER),
        "imgs": [f"images/{i}.png" for i in range(n)],
        "train": [i % 4 != 3 for i in range(n)],
        "joints": joints,
        "identities": [i % 2 for i in range(n)],
    }


def saved(folder, index, name="index.p"):
    for i, file in enumerate(index["imgs"]):
        write_image(folder / file, torch.full((3, 10, 20), 10 * i, dtype=torch.uint8))
    plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in index.items()}
    if name.endswith(".json"):
        (folder / name).write_text(json.dumps(plain))
    elif name.endswith(".npz"):
        np.savez(folder / name, **index)
    else:
        (folder / name).write_bytes(pickle.dumps(index, 2))
    return folder / name


@pytest.fixture
def index():
    return content()


@pytest.mark.parametrize("name", ["index.p", "index.json", "index.npz"])
@pytest.mark.parametrize("form", ["array", "list of arrays", "list of lists"])
def test_samples_of_all_formats_of_an_index(tmp_path, index, name, form):
    joints = index["joints"]
    if name == "index.p":
        index["joints"] = {"array": joints, "list of arrays": list(joints)}.get(
            form, joints.tolist()
        )
    data = IndexDataset(saved(tmp_path, index, name), "train", 16)
    assert len(data) == 6 and data.joint_order == JOINTS_17
    assert data.identities.tolist() == [0, 1, 0, 0, 1, 0]
    sample = data[0, 3]  # the fourth of training is entry 4
    assert set(sample) == {"target", "joints", "index"} and sample["index"] == 3
    assert sample["target"].shape == (3, 16, 16) and (sample["target"] == 40).all()
    for i, joint in enumerate(JOINTS_17):
        known = joint in ORDER  # an index may name one ear, both or none
        expected = torch.tensor(joints[4, ORDER.index(joint)] * 16 if known else [np.nan] * 2)
        torch.testing.assert_close(sample["joints"][i], expected, equal_nan=True)
    test = IndexDataset(tmp_path, "test", 16)  # its folder works too
    assert len(test) == 2 and (test[0, 0]["target"] == 30).all()
    assert test.file(1) == tmp_path / "images/7.png"


def test_joints_that_are_negative_or_nan_are_missing(tmp_path, index):
    index["joints"][0, ORDER.index("rwrist")] = [-1, 0.5]
    index["joints"][0, ORDER.index("lwrist")] = [0.5, np.nan]
    index["joints"][0, ORDER.index("cnose")] = [1.5, 0]  # outside the image, and valid
    joints = IndexDataset(saved(tmp_path, index), "train", 16)[0, 0]["joints"]
    assert joints[JOINTS_15.index("rwrist")].isnan().all()
    assert joints[JOINTS_15.index("lwrist")].isnan().all()
    assert joints[JOINTS_15.index("cnose")].tolist() == [24, 0]


@pytest.mark.parametrize("joint", ["lshoulder", "rshoulder", "lhip", "rhip"])
def test_entries_without_a_trunk_are_left_out(tmp_path, index, joint):
    index["joints"][0, ORDER.index(joint), 1] = -0.01
    index["joints"][1, ORDER.index(joint)] = 0  # counts as valid
    assert len(IndexDataset(saved(tmp_path, index), "train", 8)) == 5


def test_letterbox_moves_the_joints(tmp_path, index):
    data = IndexDataset(saved(tmp_path, index), "train", 16, letterbox=True)
    sample = data[0, 1]
    assert (sample["target"][:, 4:12] == 10).all() and (sample["target"][:, :4] == 0).all()
    x, y = index["joints"][1, ORDER.index("cnose")]
    expected = torch.tensor([x * 16, y * 8 + 4], dtype=torch.float32)
    torch.testing.assert_close(sample["joints"][JOINTS_15.index("cnose")], expected)


@pytest.mark.parametrize("pairing", ["identity", "any"])
def test_pairs_depend_on_seed_epoch_and_index_only(tmp_path, index, pairing):
    file = saved(tmp_path, index)
    drawn = {}
    for seed in (0, 0, 1):
        data = IndexDataset(file, "train", 8, pairing, seed)
        drawn.setdefault(seed, []).append(
            [int(data[e, i]["appearance"][0, 0, 0]) for e in range(9) for i in (5, 0, 1, 2, 3, 4)]
        )
    assert drawn[0][0] == drawn[0][1] != drawn[1][0]
    own = [10 * i for i in (6, 0, 1, 2, 4, 5)] * 9
    for appearance, target in zip(drawn[0][0], own, strict=True):
        assert appearance != target and appearance in (0, 10, 20, 40, 50, 60)
        assert pairing == "any" or appearance // 10 % 2 == target // 10 % 2
    sample = data[0, 2]
    row = int(sample["appearance"][0, 0, 0]) // 10
    expected = torch.tensor(index["joints"][row, ORDER.index("cnose")] * 8)
    place = sample["appearance_joints"][JOINTS_15.index("cnose")]
    torch.testing.assert_close(place, expected)


def test_a_person_with_one_image_is_paired_with_itself(tmp_path, index):
    index["identities"] = ["a", *"bbbbbbb"]
    data = IndexDataset(saved(tmp_path, index), "train", 8, "identity")
    assert (data[0, 0]["appearance"] == 0).all()


def test_a_written_index_is_read_back(tmp_path, index):
    saved(tmp_path, index)
    order, joints = OPENPOSE_18, np.full((N, 18, 2), 0.25)
    write_index(tmp_path / "new.p", order, index["imgs"], joints, [False] * N, range(N))
    data = IndexDataset(tmp_path / "new.p", "test", 8)
    assert len(data) == N and data.identities.tolist() == list(range(N))
    assert (data[0, 7]["joints"] == 2).all()


def broken(change):
    def apply(index):
        change(index)
        return index

    return apply


def drop(key):
    return lambda index: index.pop(key)


def put(key, value):
    return lambda index: index.update({key: value})


BAD = {
    "no joints": (drop("joints"), "is not an index: it lacks joints"),
    "not a dict": (lambda i: i.clear(), "it lacks joint_order, imgs, train, joints"),
    "lengths": (put("train", [True]), "one length, it has 8 imgs, 1 train, 8 joints"),
    "nothing": (
        lambda i: i.update(imgs=[], train=[], joints=[], identities=[]),
        "is empty, it lists no images",
    ),
    "misspelt": (
        lambda i: i["joint_order"].__setitem__(ORDER.index("lwrist"), "lwrst"),
        "joint_order must name the joint lwrist; is lwrst meant",
    ),
    "missing": (
        lambda i: i["joint_order"].__setitem__(ORDER.index("relbow"), "tail"),
        "joint_order must name the joint relbow$",
    ),
    "twice": (
        lambda i: i["joint_order"].__setitem__(0, "rhip"),
        "joint_order names rhip twice",
    ),
    "pixels": (
        lambda i: i["joints"].__setitem__((3, ORDER.index("rknee")), (120, 40)),
        r"fractions of width and height, entry 3 has rknee at \(120, 40\)",
    ),
    "small pixels": (
        lambda i: i["joints"].__setitem__((3, ORDER.index("rknee")), (9.9, 0.5)),
        r"fractions of width and height, entry 3 has rknee at \(9\.9, 0\.5\), above 1\.5",
    ),
    "windows": (put("imgs", ["a\\b.png"] * N), r"a path of Windows, 'a\\\\b\.png'; write paths"),
    "drive": (put("imgs", ["C:/b.png"] * N), r"a path of Windows, 'C:/b\.png'; write paths"),
    "infinite": (
        lambda i: i["joints"].__setitem__((2, ORDER.index("reye")), np.inf),
        r"entry 2 has reye at \(inf, inf\)",
    ),
    "shape": (put("joints", np.zeros((N, 15, 2))), "joints must be 17 pairs x, y"),
    "ragged": (put("joints", [[[0.5, 0.5]] * (1 + i) for i in range(N)]), "17 pairs x, y"),
    "words": (put("joints", [["a"]] * N), "joints must be 17 pairs x, y"),
    "flags": (put("train", ["yes"] * N), "train must hold true or false"),
    "absolute": (put("imgs", ["/etc/passwd"] * N), "below the index's folder, has '/etc/passwd'"),
    "upwards": (put("imgs", ["a/../../b.png"] * N), r"below the index's folder, has 'a/\.\./"),
    "no trunk": (
        lambda i: i["joints"].__setitem__((slice(None), ORDER.index("lhip")), -1),
        "no usable entry for 'train': 6 of 8 entries are of this split, and none",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_index_is_one_clear_line(tmp_path, index, name):
    change, text = BAD[name]
    change(index)
    (tmp_path / "index.p").write_bytes(pickle.dumps(index))
    with pytest.raises(UserError, match=rf"index\.p: .*{text}") as caught:
        IndexDataset(tmp_path / "index.p")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["index.p", "index.json", "index.npz"])
def test_missing_empty_and_broken_files_are_named(tmp_path, name):
    file = tmp_path / name
    with pytest.raises(UserError, match=f"{name}: no such index file"):
        IndexDataset(file)
    file.write_bytes(b"")
    with pytest.raises(UserError, match=f"{name}: is empty, not an index"):
        IndexDataset(file)
    file.write_bytes(b"nonsense")
    with pytest.raises(UserError, match=f"{name}: (cannot be read|is not a pickle)"):
        IndexDataset(file)


def test_a_folder_without_an_index_is_named(tmp_path):
    with pytest.raises(UserError, match=r"holds no index\.p, index\.json or index\.npz"):
        IndexDataset(tmp_path)


def test_dots_inside_a_name_are_allowed(tmp_path, index):
    index["imgs"] = [f"images/a..{i}.png" for i in range(N)]
    assert len(IndexDataset(saved(tmp_path, index), "train", 8)) == 6


def test_a_backslash_inside_a_name_is_allowed(tmp_path, index):
    write_image(tmp_path / "a\\b.png", torch.zeros(3, 8, 8, dtype=torch.uint8))
    index["imgs"] = ["a\\b.png"] * N
    (tmp_path / "index.p").write_bytes(pickle.dumps(index))
    assert IndexDataset(tmp_path / "index.p", "train", 8)[(0, 0)]["target"].shape == (3, 8, 8)


@pytest.mark.parametrize("name", ["index.p", "index.json", "index.npz"])
def test_names_that_are_not_utf8_are_read(tmp_path, index, name):
    file = os.fsdecode(b"caf\xe9.png")
    write_image(tmp_path / file, torch.zeros(3, 8, 8, dtype=torch.uint8))
    content = {key: np.asarray(value).tolist() for key, value in index.items()}
    content["imgs"] = [file] * N
    if name == "index.json":
        (tmp_path / name).write_text(json.dumps(content))
    elif name == "index.npz":
        np.savez(tmp_path / name, **content)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(content, 2))
    data = IndexDataset(tmp_path / name, "train", 8)
    assert data[(0, 0)]["target"].shape == (3, 8, 8) and data.file(0) == tmp_path / file
    assert read_joints(f"{tmp_path / name}:1", "x.png", (8, 8)).shape == (17, 2)


def test_pairing_by_identity_needs_identities(tmp_path, index):
    del index["identities"]
    with pytest.raises(UserError, match="pairing by identity needs the key identities"):
        IndexDataset(saved(tmp_path, index), pairing="identity")


def test_folds_hold_out_every_person_once(tmp_path, index):
    index["identities"] = [f"person {i % 5}" for i in range(N)]
    path = saved(tmp_path, index)
    tested = []
    for fold in range(3):
        parts = [IndexDataset(path, split, 8, folds=3, fold=fold) for split in ("train", "test")]
        files = [{data.file(i).stem for i in range(len(data))} for data in parts]
        people = [{int(stem) % 5 for stem in stems} for stems in files]
        assert files[0] | files[1] == {str(i) for i in range(N)} and not people[0] & people[1]
        assert 1 <= len(people[1]) <= 2
        tested += [*people[1]]
    assert sorted(tested) == [0, 1, 2, 3, 4]


def test_folds_need_people(tmp_path, index):
    path = saved(tmp_path, index)
    with pytest.raises(UserError, match=r"--folds: must be 2 to 2, the people of .*, got 3"):
        IndexDataset(path, folds=3)
    del index["identities"]
    with pytest.raises(UserError, match="--folds needs the key identities"):
        IndexDataset(saved(tmp_path, index), folds=2)


def test_bad_images_are_named_when_they_are_read(tmp_path, index):
    data = IndexDataset(saved(tmp_path, index), "train", 8)
    (tmp_path / "images/1.png").unlink()
    (tmp_path / "images/2.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(BadSample, match=r"images/1\.png: is missing"):
        data[0, 1]
    with pytest.raises(BadSample, match=r"images/2\.png: is not an image"):
        data[0, 2]


@pytest.mark.parametrize(("key", "value"), [("split", "val"), ("pairing", "none")])
def test_wrong_arguments_are_named(tmp_path, index, key, value):
    with pytest.raises(ValueError, match=f"{key} must be .*got '{value}'"):
        IndexDataset(saved(tmp_path, index), **{key: value})


@pytest.mark.slow
def test_300_000_entries_load_fast_and_lean(tmp_path):
    n = 300_000
    big = {"joint_order": list(JOINTS_15), "train": [True] * n}
    big["imgs"] = [f"train/{i % 1501:04d}_c{i % 6}s{i % 4}_{i:06d}.jpg" for i in range(n)]
    big["joints"] = list(np.full((n, 15, 2), 0.5))
    (tmp_path / "index.p").write_bytes(pickle.dumps(big, 2))
    size = (tmp_path / "index.p").stat().st_size
    del big
    load = """if True:
        import re, sys, time
        from nets.data.people.index import IndexDataset

        def resident():
            return 1024 * int(re.search(r"VmRSS:\\s*(\\d+)", open("/proc/self/status").read())[1])

        before, start = resident(), time.process_time()
        data = IndexDataset(sys.argv[1])
        print(len(data), time.process_time() - start, resident() - before)
    """
    command = [sys.executable, "-c", load, str(tmp_path / "index.p")]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    count, seconds, memory = map(float, printed.split())
    assert count == n and memory < 1.5 * size, memory / size
    assert seconds < 10, seconds  # seconds of one processor; about 4 on an idle one


@pytest.mark.parametrize("ears", [("rear", "lear"), ("lear",), ()], ids=str)
def test_a_figure_of_the_image_style_has_the_ears_of_the_index(tmp_path, index, ears):
    order = [*JOINTS_15, *ears]
    index["joint_order"], index["joints"] = order, index["joints"][:, : len(order)]
    data = IndexDataset(saved(tmp_path, index), "train", 64)
    batch = {"joints": data[0, 0]["joints"][None]}
    options = {"image_size": 64, "box_factor": 0, "stickman": "image", "missing_part": 0.0}
    drawn = PersonInputs(options | {"appearance": "picture"}, data.joint_order).pose(
        batch["joints"]
    )
    points = torch.full((18, 2), torch.nan)
    for i, name in enumerate(OPENPOSE_18):
        if name in order:
            points[i] = torch.tensor(index["joints"][0, order.index(name)] * 64)
    points[1] = (points[2] + points[5]) / 2  # the neck
    expected = stickman(points[None], 64, "image", OPENPOSE_18) / 127.5 - 1
    assert torch.equal(drawn, expected)
