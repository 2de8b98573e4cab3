"""Every place that lists a folder: linked folders, special files, files left out."""

import os

import pytest
import torch

from nets.data.clips.clips import Folders
from nets.data.extraction.check import check
from nets.data.extraction.heads import list_videos
from nets.data.extraction.jobs import list_files
from nets.data.heads.videos import AvatarFolder, write_frame
from nets.data.io.images import list_images, write_image
from nets.data.people.meta import MetaDataset, write_meta
from nets.data.scenes.batches import write_batch
from nets.errors import UserError
from nets.run import checkpoints, options


def grey():
    return torch.full((3, 16, 16), 90, dtype=torch.uint8)


def test_the_newest_run_is_found_behind_links(tmp_path, monkeypatch):
    (tmp_path / "disk/a/checkpoints").mkdir(parents=True)
    checkpoints.write(tmp_path / "disk/a/checkpoints/step_00000005.pt", {"step": 5})
    (tmp_path / "runs").mkdir()
    os.symlink(tmp_path / "disk", tmp_path / "runs/vunet")
    os.symlink(tmp_path / "runs", tmp_path / "disk/a/loop")
    monkeypatch.chdir(tmp_path)
    assert checkpoints.find().name == "step_00000005.pt"
    (tmp_path / "mine").mkdir()
    os.symlink(tmp_path / "disk", tmp_path / "mine/link")
    assert checkpoints.find("mine").name == "step_00000005.pt"


def test_labels_and_batches_are_found_behind_links(tmp_path):
    write_meta(tmp_path / "data", {"a/number": torch.arange(3).numpy()})
    os.rename(tmp_path / "data/labels/a", tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", tmp_path / "data/labels/a")
    assert list(MetaDataset(tmp_path / "data").labels) == ["a/number"]
    image = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    write_batch(tmp_path / "disk/FT_training/batch1.npz", image)
    (tmp_path / "set").mkdir()
    os.symlink(tmp_path / "disk", tmp_path / "set/th_AZ_VARIED")
    assert check(tmp_path / "set").count == 1


def test_a_pipe_is_left_out(tmp_path, capsys):
    write_image(tmp_path / "a.png", grey())
    os.mkfifo(tmp_path / "b.png")
    assert [file.name for file in list_images("-s", [tmp_path])] == ["a.png"]
    assert "left out 1 file, no image: b.png" in capsys.readouterr().err


def test_a_file_that_is_given_twice_is_used_once(tmp_path, monkeypatch):
    write_image(tmp_path / "photos/a.png", grey())
    monkeypatch.chdir(tmp_path)
    assert len(list_files(["photos", "photos/a.png", "./photos", tmp_path / "photos"])) == 1


def test_videos_left_out_of_folders_and_images_left_out_of_videos_are_named(tmp_path, capsys):
    (tmp_path / "root/ann").mkdir(parents=True)
    (tmp_path / "root/ann/1.mp4").touch()
    write_image(tmp_path / "root/ann/2.jpg", grey())
    assert [name for _, name in list_videos([tmp_path / "root"])] == ["ann/1/1"]
    assert "root: left out 1 file, no video: 2.jpg" in capsys.readouterr().err
    for name in ("walk/1.png", "walk/notes.txt", "cover.jpg"):
        write_image(tmp_path / "clips/walk/1.png", grey())
        (tmp_path / "clips" / name).exists() or (tmp_path / "clips" / name).write_text("")
    (tmp_path / "clips/boxes.json").write_text("{}")
    Folders(tmp_path / "clips", 16)
    named = capsys.readouterr().err
    assert "clips: left out 1 file, no video or folder: cover.jpg" in named
    assert "walk: left out 1 file, no image: notes.txt" in named
    (tmp_path / "clips/cover.jpg").unlink()
    check(tmp_path / "clips")
    assert "walk: left out 1 file, no image: notes.txt" in capsys.readouterr().err


def test_hidden_files_of_another_system_are_no_frames(tmp_path, capsys):
    for frame in ("0", "._0"):
        name = f"ann/talk/1/{frame}"
        write_frame(tmp_path, "train", name, grey(), torch.rand(68, 2) * 16, grey()[:1])
    (tmp_path / "imgs/train/.trash/talk/1").mkdir(parents=True)
    (tmp_path / "imgs/train/ann/talk/1/5.png").write_text("")
    data = AvatarFolder(tmp_path, "train", 16)
    assert data.items == ["ann/talk"] and data.frames("ann/talk") == ["ann/talk/1/0"]
    assert check(tmp_path).count == 1
    assert "talk: left out 1 file, no FRAME.jpg: 5.png" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["1.HEIC", "a/2.heif", "3.hif"])
def test_the_extra_is_named_where_heic_files_are_left_out(tmp_path, monkeypatch, capsys, name):
    from nets.data.io.images import image_endings

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    image_endings.cache_clear()
    write_image(tmp_path / "a/1.png", grey())
    (tmp_path / name).touch()
    list_files([tmp_path])
    line = capsys.readouterr().err
    image_endings.cache_clear()
    assert f"no image or video: {name.rpartition('/')[2]}; HEIC files need pip" in line
    assert "pip install -e '.[heif]'" in line


def test_configurations_are_listed_without_hidden_files(tmp_path, monkeypatch):
    (tmp_path / "._mine.yaml").write_bytes(b"\0")
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/mine.yaml").write_text("seed: 1\n")
    (tmp_path / "configs").mkdir()
    os.symlink(tmp_path / "disk", tmp_path / "configs/more")
    os.rename(tmp_path / "._mine.yaml", tmp_path / "configs/.mine.yaml")
    monkeypatch.setattr(options, "CONFIGS", tmp_path / "configs")
    assert options.find_config("mine.yaml") == tmp_path / "configs/more/mine.yaml"
    with pytest.raises(UserError, match=r"--config \.mine\.yaml: no such file"):
        options.find_config(".mine.yaml")
