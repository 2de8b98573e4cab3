"""Names of written files, each used once, and files found by the paths of annotations."""

from pathlib import Path

import pytest
import torch

import infer
from nets.data.extraction.clips import ClipOptions, extract_clips
from nets.data.extraction.heads import list_videos
from nets.data.extraction.people import file_names
from nets.data.io.names import Paths, distinct, pair_name, safe_name, unique_names
from nets.data.people.annotations import read_annotations
from nets.data.people.index import write_index
from nets.data.people.joints import read_joints
from nets.errors import UserError
from nets.output import write_grid
from nets.run.options import Namespace
from nets.skeletons import JOINTS_17


@pytest.mark.parametrize(
    "text, name",
    [
        ("IMG 1", "IMG_1"),
        ("a\tb\u3000c", "a_b_c"),
        ("12:30 a/b\\c?", "12_30_a_b_c_"),
        (".hidden", "_hidden"),
        ("", "_"),
        ("caf\udce9", "caf_"),  # a byte that is no UTF-8
        ("e\u0301te\u0301", "\u00e9t\u00e9"),  # as macOS writes it
        ("名" * 80, "名" * 33),
    ],
)
def test_names_are_safe(text, name):
    assert safe_name(text) == name


def test_no_name_is_used_twice():
    names = ["IMG 1", "IMG_1", "a", "A", "a", "a_2", "IMG\t1"]
    unique = unique_names(names)
    assert unique[:3] == ["IMG_1_2", "IMG_1", "a"]
    assert len({name.casefold() for name in unique}) == 7
    masks = unique_names(["a", "a_mask", "a"], ("", "_mask"))
    files = [f"{name}{ending}" for name in masks for ending in ("", "_mask")]
    assert len(set(files)) == 6 and masks[1] != "a_mask"
    assert len(set(unique_names(["1"] * 20_000))) == 20_000


def test_pairs_and_numbers_do_not_meet():
    paths = Paths()
    pairs = [("a--b", "c"), ("a", "b--c"), ("A", "b--c"), ("x y", "z"), ("x_y", "z")]
    written = [str(paths(Path(pair_name(*pair, ".png")))) for pair in pairs]
    assert written[:2] == ["a--b--c.png", "a--b--c_2.png"]
    assert len({name.casefold() for name in written}) == 5
    assert distinct(["a", "a", "a_1", "b c"])[3] == "b c"
    assert len(set(distinct(["a", "a", "a_1"]))) == 3


def test_a_grid_and_videos_of_equal_names_are_all_written(tmp_path):
    from nets.vunet.infer import _paths

    shade = torch.linspace(-1, 1, 6).view(2, 3, 1, 1, 1).expand(2, 3, 3, 8, 8)
    args = Namespace(out=str(tmp_path / "o"), grid=False, concat=True)
    write_grid(args, ["x", "x y"], [None, None], ["y--z", "z", "Z"], shade[0], shade)
    write_grid(args, ["x", "x--y"], [None, None], ["y--z", "z", "Z"], shade[0], shade)
    names = sorted(p.name.casefold() for p in (tmp_path / "o").iterdir())
    assert len(set(names)) == len(names) == 3 + 6 + 1  # x's, x_y's or x--y's, the grid
    unused = Paths()
    paths = [
        unused(path)
        for video in ("a/t.mp4", "b/t.mp4")
        for path in _paths(args, ["me", "me"], Path(video), single=False)
    ]
    assert len(set(paths)) == 8


def test_photos_and_frames_of_videos_have_names_of_their_own():
    files = ["IMG 1.jpg", "IMG_1.jpg", "IMG_1.png", "b/IMG_1.jpg", "walk.mp4", "walk.mkv",
             "walk.jpg", "walk_00000.jpg", "walk_2_00001.jpg"]  # fmt: skip
    names = file_names([Path(file) for file in files])
    assert names[1] == "IMG_1"
    written = []
    for file, name in zip(files, names, strict=True):
        frames = [f"{name}_{i:05d}" for i in range(3)] if file[-4:] in (".mp4", ".mkv") else [name]
        written += [f"{frame}_{person}" for frame in frames for person in range(3)]
    assert len(set(written)) == len(written) == 39


@pytest.fixture
def videos(tmp_path, monkeypatch):
    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    monkeypatch.chdir(tmp_path)
    return make


def test_people_whose_names_meet_stay_apart(videos):
    videos("r/Ann B/x/1.mp4", "r/Ann_B/x/1.mp4", "r/P/s.mp4", "r/P/s.mkv", "r/t.mp4", "q/t.mp4",
           "r/a/b/c/d.mp4", "r/x/b/c/d.mp4")  # fmt: skip
    names = {str(video): name for video, name in list_videos(["r", "q/t.mp4", "r/t.mp4"])}
    assert len(names) == len(set(names.values())) == 8
    assert names["r/Ann_B/x/1.mp4"] == "Ann_B/x/1"
    people = {file: name.split("/")[0] for file, name in names.items()}
    assert people["r/Ann B/x/1.mp4"] == "Ann_B_2"
    assert people["r/t.mp4"] != people["q/t.mp4"]  # single videos are people of their own
    assert people["r/P/s.mp4"] == people["r/P/s.mkv"] == "P"


def test_a_later_command_does_not_write_over_another_video(videos, tmp_path):
    from boxes import scene, video

    for level, folder in enumerate("ab", 1):
        video(tmp_path / folder / "talk.mp4", [scene((10 * level, 20, 30, 80))] * 4)
        extract_clips([f"{folder}/talk.mp4"], "clips", ClipOptions(size=32, crop="centre"))
    assert sorted(p.name for p in (tmp_path / "clips").iterdir()) == ["talk", "talk_2"]
    before = {p: p.read_bytes() for p in (tmp_path / "clips").rglob("*.jpg")}
    extract_clips(["a/talk.mp4"], "clips", ClipOptions(size=32, crop="centre"))  # as before
    assert {p: p.read_bytes() for p in (tmp_path / "clips").rglob("*.jpg")} == before


POINTS = [5, 6, 2] * 17


def coco(*names):
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    people = [
        {"image_id": i, "keypoints": [10 + i, 6, 2] * 17, "num_keypoints": 17}
        for i in range(len(names))
    ]
    return {"images": images, "annotations": people}


def write(path, content):
    import json

    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def x_of(people):
    return [int(person[0][0, 0]) if person else None for person in people]


@pytest.mark.parametrize("form", ["coco", "csv", "names"])
def test_images_of_one_name_in_two_folders_keep_their_joints(tmp_path, form):
    names = ["a/000001.jpg", "b/000001.jpg"]
    if form == "coco":
        file = write(tmp_path / "k.json", coco(*names))
    elif form == "csv":
        rows = [f"{name}: {[6] * 18}: {[10 + i] * 18}" for i, name in enumerate(names)]
        file = write(tmp_path / "k.csv", "\n".join(["name:keypoints_y:keypoints_x", *rows]))
    else:
        joints = {name: {"rankle": [10 + i, 6]} for i, name in enumerate(names)}
        file = write(tmp_path / "k.json", joints)
    people = read_annotations(file)
    files = [tmp_path / name for name in (*names, "c/000001.jpg")]
    assert x_of(people.match(files, [*names, "c/000001.jpg"])) == [10, 11, None]
    assert x_of(people.match(files[:1], ["000001.jpg"])) == [10]  # the folder a is given
    if form == "names":
        assert read_joints(file, tmp_path / "b/000001.jpg", (100, 100))[0, 0] == pytest.approx(0.11)


def test_openpose_files_belong_to_the_images_of_their_folders(tmp_path):
    for i, folder in enumerate("ab"):
        (tmp_path / folder).mkdir()
        person = {"people": [{"pose_keypoints_2d": [10 + i, 6, 0.9] * 25}]}
        write(tmp_path / folder / "1_keypoints.json", person)
    people = read_annotations(tmp_path)
    names = ["a/1.JPG", "b/1.webp", "c/1.jpg"]
    assert x_of(people.match([Path("/photos", n) for n in names], names)) == [10, 11, None]
    with pytest.raises(UserError, match=r"a/1\.\* may be /photos/a/1\.jpg or /photos/a/1\.png"):
        people.match([Path("/photos/a/1.jpg"), Path("/photos/a/1.png")], ["a/1.jpg", "a/1.png"])


def test_a_name_that_fits_two_files_is_refused(tmp_path, capsys):
    people = read_annotations(write(tmp_path / "k.json", coco("1.jpg", "2.jpg")))
    two = [tmp_path / "a/1.jpg", tmp_path / "b/1.jpg"]
    with pytest.raises(UserError, match=r"k\.json: 1\.jpg may be .*a/1\.jpg or .*b/1\.jpg"):
        people.match(two, ["a/1.jpg", "b/1.jpg"])
    at_root = [tmp_path / "1.jpg", *two]
    assert x_of(people.match(at_root, ["1.jpg", "a/1.jpg", "b/1.jpg"])) == [10, None, None]
    deep = read_annotations(write(tmp_path / "deep.json", coco("train2017/a/1.jpg")))
    assert x_of(deep.match([tmp_path / "images/1.jpg"], ["1.jpg"])) == [10]
    assert "annotates train2017/a/, no such folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content, text",
    [
        (coco("a.jpg", "./a.jpg"), "a.jpg or its id stands twice"),
        (coco("a\\1.jpg"), r"a\\1\.jpg: is a path of Windows"),
        ({"C:/a.jpg": {"lhip": [1, 2]}}, r"C:/a\.jpg: is a path of Windows"),
        ({"a.jpg": {"lhip": [1, 2]}, "./a.jpg": {"lhip": [3, 4]}}, "a.jpg stands twice"),
    ],
)
def test_annotations_that_cannot_be_told_apart_are_refused(tmp_path, content, text):
    with pytest.raises(UserError, match=rf"k\.json: .*{text}") as caught:
        read_annotations(write(tmp_path / "k.json", content))
    assert str(caught.value).count("k.json") == 1


@pytest.mark.parametrize(
    "text, message",
    [
        ("C:/a.jpg: [1]: [2]", r"a\.csv: C:/a\.jpg: is a path of Windows"),
        (f"a\\1.jpg: {[1] * 18}: {[1] * 18}", r"a\.csv: a\\1\.jpg: is a path of Windows"),
        ("a.jpg; [1]; [2]", r"a\.csv, line 2: must be name: \[18 y\]: \[18 x\]"),
        ("caf\xe9.jpg: [1]: [2]", r"a\.csv: is not a CSV file in UTF-8 \('utf-8' codec"),
    ],
    ids=["drive", "backslash", "semicolons", "latin1"],
)
def test_a_csv_file_is_refused_for_its_own_reason(tmp_path, text, message):
    file = tmp_path / "a.csv"
    file.write_bytes(f"name:keypoints_y:keypoints_x\r\n{text}\r\n".encode("latin1"))
    with pytest.raises(UserError, match=message) as caught:
        read_annotations(file)
    assert "JSON" not in str(caught.value)


def test_joints_of_another_folder_are_said_and_entries_that_stand_twice_refused(tmp_path, capsys):
    file = write(tmp_path / "j.json", {"a/1.jpg": {"lhip": [10, 20]}, "2.jpg": {"lhip": [1, 2]}})
    read_joints(file, tmp_path / "b/1.jpg", (100, 100))
    assert "b/1.jpg: takes the joints of a/1.jpg" in capsys.readouterr().err
    joints = [[[0.5, 0.5]] * 17] * 2
    write_index(tmp_path / "index.p", JOINTS_17, ["a.jpg"] * 2, joints, [True, False])
    with pytest.raises(UserError, match=r"lists a\.jpg as entries 0, 1; give .*index\.p:NUMBER"):
        read_joints(f"{tmp_path}/index.p:a.jpg", "x.jpg", (9, 9))


def test_an_output_that_is_an_input_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "talk.mp4").write_bytes(b"precious")
    for given in (["-s", "a.png", "-d", "talk.mp4"], ["-s", "talk.mp4", "-d", "b.png"]):
        with pytest.raises(SystemExit, match="2"):
            infer.main([*given, "-o", f"{tmp_path}/talk.mp4"])
        assert "talk.mp4: is an input, which would be lost" in capsys.readouterr().err
    assert (tmp_path / "talk.mp4").read_bytes() == b"precious"
