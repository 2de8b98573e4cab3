"""Listing of folders, and text files with a byte order mark."""

import json
import os
import sys

import numpy as np
import pytest
import torch

from nets.bilayer.sources import keypoints_of_frames
from nets.data.clips.clips import Folders, Stills
from nets.data.extraction.jobs import list_files
from nets.data.heads.faces import read_array, write_keypoints
from nets.data.heads.videos import AvatarList
from nets.data.io.frames import Frames
from nets.data.io.images import image_endings, list_images, read_image, write_image
from nets.data.people.annotations import read_annotations
from nets.data.people.index import read_index
from nets.data.people.joints import read_joints
from nets.data.people.meta import MetaDataset, write_meta
from nets.data.scenes.factors import read_table
from nets.errors import BadSample, UserError
from nets.listing import list_folder, natural_key

IN_ORDER = ["f1.png", "f2.png", "f10.png"]


def grey(level=90):
    return torch.full((3, 16, 24), level, dtype=torch.uint8)


@pytest.fixture
def frames(tmp_path):
    """A folder of three frames with a hidden file and two other files beside them."""
    folder = tmp_path / "frames"
    for name in IN_ORDER:
        write_image(folder / name, grey())
    for name in ("._f2.png", ".DS_Store", "notes.txt", "clip.psd"):
        (folder / name).write_text("")
    return folder


def test_numbers_in_names_are_compared_by_value():
    names = ["b.png", "a10.png", "a9.png", "a010.png", "10/1.png", "9/2.png", "²3.png", "².png"]
    assert sorted(names, key=natural_key) == [
        "9/2.png", "10/1.png", "a9.png", "a010.png", "a10.png", "b.png", "²3.png", "².png",
    ]  # fmt: skip


@pytest.mark.parametrize("lister", ["list_images", "Frames", "Folders", "Stills", "list_files"])
def test_all_listers_have_one_order_and_name_what_they_leave_out(frames, capsys, lister):
    files = {
        "list_images": lambda: list_images("-s", [frames]),
        "Frames": lambda: [frame.name for frame in Frames(frames)],
        "Folders": lambda: [name.decode() for name in Folders(frames.parent, 16)._frames[0]],
        "Stills": lambda: [name.decode() for name in Stills(frames)._names],
        "list_files": lambda: list_files([frames]),
    }[lister]()
    assert [os.path.basename(file) for file in files] == IN_ORDER
    kind = "image or video" if lister == "list_files" else "image"
    line = capsys.readouterr().err.strip()
    assert line == f"{frames}: left out 2 files, no {kind}: clip.psd, notes.txt"


def test_keypoints_have_the_order_of_their_frames(tmp_path):
    for number in (1, 2, 10):
        write_keypoints(tmp_path / f"f{number}.npy", torch.full((68, 2), float(number)))
    (tmp_path / "._f2.npy").write_bytes(b"of another system")
    assert keypoints_of_frames(tmp_path)[:, 0, 0].tolist() == [1, 2, 10]
    for name in ("a_keypoints.json", "._a_keypoints.json"):
        (tmp_path / name).write_text('{"people": []}' if name[0] == "a" else "no JSON")
    assert read_annotations(tmp_path)["a.jpg"] == []


def test_linked_folders_are_entered_and_loops_are_not(tmp_path):
    write_image(tmp_path / "elsewhere/deep/1.png", grey())
    write_image(tmp_path / "given/2.png", grey())
    os.symlink(tmp_path / "elsewhere", tmp_path / "given/link")
    os.symlink(tmp_path / "given", tmp_path / "elsewhere/deep/back")
    for names in (
        [Stills(tmp_path / "given").file(clip, 0) for clip in range(2)],
        [
            file.relative_to(tmp_path / "given").as_posix()
            for file in list_files([tmp_path / "given"])
        ],
    ):
        assert names == ["2.png", "link/deep/1.png"]


def test_many_files_left_out_are_counted_and_the_first_named(tmp_path, capsys):
    write_image(tmp_path / "1.png", grey())
    for number in range(12):
        (tmp_path / f"n{number}.txt").write_text("")
    assert list_folder(tmp_path, lambda file: file.suffix == ".png").left_out[-1].name == "n11.txt"
    list_images("-s", [tmp_path])
    names = "n0.txt, n1.txt, n2.txt, n3.txt, n4.txt, ..."
    assert f"left out 12 files, no image: {names}" in capsys.readouterr().err


def test_a_folder_without_images_or_closed_is_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"-s .*: no images in this folder"):
        list_images("-s", [tmp_path])

    def closed(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", closed)  # root may read all folders
    with pytest.raises(UserError, match=r"-s .*: cannot be read: permission denied"):
        list_images("-s", [tmp_path])


@pytest.fixture
def endings():
    """The cache of known endings, empty before and after the test."""
    image_endings.cache_clear()
    real = sys.modules.pop("pillow_heif", None)
    yield image_endings
    sys.modules.pop("pillow_heif", None)
    if real is not None:
        sys.modules["pillow_heif"] = real
    image_endings.cache_clear()


def test_heic_needs_its_package(tmp_path, monkeypatch, capsys, endings):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/1.HEIC").write_bytes(b"ftypheic")
    write_image(tmp_path / "photos/2.png", grey())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert [file.name for file in list_images("-s", [tmp_path / "photos"])] == ["2.png"]
    assert "left out 1 file, no image: 1.HEIC" in capsys.readouterr().err
    with pytest.raises(
        BadSample, match=r"1\.HEIC: cannot be read as HEIC; pip install pillow-heif"
    ):
        read_image(tmp_path / "photos/1.HEIC", None)
    monkeypatch.undo()
    (tmp_path / "pillow_heif.py").write_text(
        "import os\ndef register_heif_opener(): os.mkdir('opened')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    endings.cache_clear()
    files = list_images("-s", [tmp_path / "photos"])
    assert [file.name for file in files] == ["1.HEIC", "2.png"] and (tmp_path / "opened").exists()
    with pytest.raises(
        BadSample, match=r"1\.HEIC: is not an image$"
    ):  # damaged: nothing to install
        read_image(tmp_path / "photos/1.HEIC", None)


def test_text_files_may_begin_with_a_byte_order_mark(tmp_path):
    def write(name, text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        return tmp_path / name

    write_image(tmp_path / "clips/a/1.png", grey())
    write("clips/boxes.json", '{"a": [0, 0, 4, 4]}')
    assert Folders(tmp_path / "clips", 16).box(0, 0) == (0, 0, 4, 4)
    assert read_array(write("points.json", "[[1, 2]]")).tolist() == [[1, 2]]
    csv = f"name:keypoints_y:keypoints_x\na.jpg: {[1] * 18}: {[2] * 18}\n"
    assert read_annotations(write("pose.csv", csv))["a.jpg"][0][0].tolist() == [2, 1]
    assert list(read_annotations(write("own.json", '{"a.jpg": {"cnose": [1, 2]}}'))) == ["a.jpg"]
    joints = read_joints(write("joints.json", '{"cnose": [1, 2]}'), "a.jpg", (10, 10))
    assert joints[14].tolist() == pytest.approx([0.1, 0.2])
    order = "rankle rknee rhip rshoulder relbow rwrist reye lankle lknee lhip lshoulder lelbow"
    index = {"joint_order": [*order.split(), "lwrist", "leye", "cnose"], "imgs": ["a/1.png"],
             "train": [True], "joints": [[[0.5, 0.5]] * 15]}  # fmt: skip
    assert read_index(write("index.json", json.dumps(index)))["train"].tolist() == [True]
    assert read_table(write("factors.csv", "file,azimuth\na.png,1\n"))[0]["file"] == "a.png"
    write_meta(tmp_path / "meta", {"number": np.arange(3)})
    write("meta/meta.yaml", "description: numbers\n")
    assert MetaDataset(tmp_path / "meta").meta == {"description": "numbers"}
    with pytest.raises(UserError, match=r"list\.txt: names no sample"):
        AvatarList(write("list.txt", "data-root: somewhere\n"), "train", None, 32)


@pytest.mark.parametrize(
    "read, name, text, twice",
    [
        (read_joints, "a.json", '{"cnose": [1, 2], "cnose": [3, 4]}', "cnose"),
        (read_joints, "b.json", '{"a.jpg": {"lhip": [1, 2], "lhip": null}}', "lhip"),
        (read_annotations, "c.json", '{"a.jpg": {"lhip": [1, 2]}, "a.jpg": {}}', "a.jpg"),
        (read_index, "d.json", '{"imgs": [], "imgs": ["a.jpg"]}', "imgs"),
        (read_table, "e.csv", "file,azimuth,azimuth\na.png,1,2\n", "azimuth"),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path, read, name, text, twice):
    (tmp_path / name).write_text(text)
    arguments = ["a.jpg", (10, 10)] if read is read_joints else []
    with pytest.raises(UserError, match=rf"{name}: .*{twice}'? stands twice"):
        read(tmp_path / name, *arguments)


def test_a_box_that_stands_twice_is_refused(tmp_path):
    write_image(tmp_path / "a/1.png", grey())
    (tmp_path / "boxes.json").write_text('{"a": [0, 0, 4, 4], "a": [0, 0, 8, 8]}')
    with pytest.raises(UserError, match=r"boxes\.json: .*'a' stands twice"):
        Folders(tmp_path, 16)


def test_files_of_the_published_programs_may_begin_with_a_byte_order_mark(tmp_path):
    from nets.bilayer.published import read_args
    from nets.dcign.published import _command
    from nets.landmarks.published import read_options

    mark = "utf-8-sig"
    (tmp_path / "args.txt").write_text("image_size: 256\n", encoding=mark)
    assert read_args(tmp_path / "args.txt") == {"image_size": 256}
    (tmp_path / "args.txt").write_text("image_size: 256\nimage_size: 128\n", encoding=mark)
    with pytest.raises(UserError, match="line 2: image_size stands twice"):
        read_args(tmp_path / "args.txt")
    (tmp_path / "cmd_options.txt").write_text("save: here\n", encoding=mark)
    assert _command(tmp_path / "cmd_options.txt") == {"save": "here"}
    (tmp_path / "opt.yaml").write_text("batch_size: 4\n", encoding=mark)
    assert read_options(tmp_path / "opt.yaml") == {"batch_size": 4}
    (tmp_path / "opt.yaml").write_text("batch_size: 4\nbatch_size: 5\n")
    with pytest.raises(UserError, match=r"opt\.yaml.*not plain YAML: .*stands twice"):
        read_options(tmp_path / "opt.yaml")
