"""Joints of single images in all formats."""

import json
import math
import pickle

import numpy as np
import pytest
import torch

from nets.data.people.joints import read_joints
from nets.errors import UserError
from nets.skeletons import JOINTS_15, JOINTS_17

SIZE = (200, 100)


def written(tmp_path, content, name="a.json"):
    file = tmp_path / name
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def at(joints, name):
    return joints[JOINTS_17.index(name)].tolist()


def read(tmp_path, content, image="me.jpg"):
    return read_joints(written(tmp_path, content), image, SIZE)


def test_pixels_become_fractions_and_other_joints_are_missing(tmp_path):
    joints = read(tmp_path, {"cnose": [100, 25], "rwrist": [50.0, 150], "lear": [1, 1]})
    assert joints.shape == (17, 2) and joints.dtype == torch.float32
    assert at(joints, "cnose") == [0.5, 0.25] and at(joints, "rwrist") == [0.25, 1.5]
    assert at(joints, "lear") == pytest.approx([0.005, 0.01])
    assert joints.isnan().all(1).sum() == 14


@pytest.mark.parametrize(
    ("content", "nose"),
    [
        ({"cnose": [0.5, 1]}, [0.5, 1]),
        ({"cnose": [0.5, 1], "reye": [1.5, 0]}, [0.0025, 0.01]),
        ({"cnose": [0.5, 1], "reye": [1.5, 0], "normalised": True}, [0.5, 1]),
        ({"cnose": [1, 1], "normalized": False}, [0.005, 0.01]),
    ],
    ids=["all at most 1", "one above 1", "normalised true", "normalised false"],
)
def test_fractions_and_pixels_are_distinguished(tmp_path, content, nose):
    assert at(read(tmp_path, content), "cnose") == pytest.approx(nose)


def test_missing_joints(tmp_path):
    content = {"cnose": None, "reye": [-1, 5], "leye": [9, 9, 0], "rhip": [50, 50, 0.7]}
    joints = read(tmp_path, content)
    assert all(math.isnan(at(joints, name)[0]) for name in ("cnose", "reye", "leye"))
    assert at(joints, "rhip") == [0.25, 0.5]


@pytest.mark.parametrize("key", ["me.jpg", "photos/me.jpg", "me", "elsewhere/me.jpg"])
def test_several_images_in_one_file(tmp_path, key):
    content = {key: {"cnose": [100, 50]}, "other.jpg": {"cnose": [20, 10]}}
    assert at(read(tmp_path, content, "photos/me.jpg"), "cnose") == [0.5, 0.5]


@pytest.fixture
def index(tmp_path):
    joints = np.random.default_rng(0).uniform(0, 1, (3, 15, 2)).astype(np.float32)
    joints[2, 0] = -1
    content = {"joint_order": list(JOINTS_15), "train": [True, False, True], "joints": joints}
    content["imgs"] = ["photos/a.jpg", "photos/b.jpg", "c.jpg"]
    (tmp_path / "index.p").write_bytes(pickle.dumps(content, 2))
    return tmp_path / "index.p", torch.tensor(joints)


def test_an_entry_of_an_index(index, tmp_path):
    file, joints = index
    for where in (f"{file}:1", f"{file}:photos/b.jpg", f"{file}:{tmp_path}/photos/b.jpg"):
        result = read_joints(where, "x.jpg", SIZE)
        assert torch.equal(result[:15], joints[1]) and result[15:].isnan().all()  # it has no ears
    assert torch.equal(read_joints(file, tmp_path / "photos" / "b.jpg", SIZE)[:15], joints[1])
    last = read_joints(f"{file}:2", "x.jpg", SIZE)
    assert last[0].isnan().all() and torch.equal(last[1:15], joints[2, 1:])
    with pytest.raises(UserError, match=r"index\.p: has 3 entries, none with number 3"):
        read_joints(f"{file}:3", "x.jpg", SIZE)
    with pytest.raises(UserError, match=r"index\.p: lists no image d\.jpg"):
        read_joints(f"{file}:d.jpg", "x.jpg", SIZE)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "is not JSON"),
        ("[]", r"must be \{name: \[x, y\]\}"),
        ("{}", r"must be \{name: \[x, y\]\}"),
        ({"normalised": True}, "names no joint"),
        ({"nose": [1, 2]}, "no joint is called nose; is cnose meant"),
        ({"tail": [1, 2]}, "no joint is called tail"),
        ({"cnose": [1]}, r"cnose must be \[x, y\] or null, is \[1\]"),
        ({"cnose": "1, 2"}, r"cnose must be \[x, y\] or null"),
        ({"cnose": [True, 2]}, r"cnose must be \[x, y\] or null"),
        ({"a.jpg": {}, "b.jpg": {}}, r"has no joints of me\.jpg, but of a\.jpg, b\.jpg"),
        ({"me.jpg": {"nose": [1, 2]}}, "no joint is called nose"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path, content, text):
    with pytest.raises(UserError, match=rf"a\.json: {text}") as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: no such file of joints"):
        read_joints(tmp_path / "none.json", "me.jpg", SIZE)


def test_fractions_among_pixels_are_said_or_refused(tmp_path, capsys):
    def near(count, other):
        names = ("rhip", "lhip", "cnose", "leye", "reye")
        return {name: [0.1 * i, 0.4] for i, name in enumerate(names[:count])} | {"rknee": other}

    with pytest.raises(UserError, match=r"5 of 6 joints are at most 1, .*\"normalised\": true"):
        read(tmp_path, near(5, [9.9, 0.5]))
    assert at(read(tmp_path, near(1, [20, 10])), "rknee") == pytest.approx([0.1, 0.1])
    assert "1 of 2 joints are at most 1: all are taken for pixels" in capsys.readouterr().err
    for flag, place in ((True, [9.9, 0.5]), (False, [2000, 10])):
        with pytest.raises(UserError, match=r"rknee at .* is far outside as"):
            read(tmp_path, {**near(2, place), "normalised": flag})
    assert at(
        read(tmp_path, {**near(2, [1.2, 0.5]), "normalised": True}), "rknee"
    ) == pytest.approx([1.2, 0.5])
