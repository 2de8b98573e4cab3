"""Frames of images, folders and videos, and frames without a detection."""

import pytest
import torch

from nets.data.io.frames import Finder, Frames, pair_name
from nets.data.io.images import write_image
from nets.data.io.video import is_video
from nets.data.io.video_writer import VideoWriter
from nets.errors import UserError


def grey(level):
    return torch.full((3, 16, 24), level, dtype=torch.uint8)


@pytest.fixture
def video(tmp_path):
    with VideoWriter(tmp_path / "talk.mp4", 10) as out:
        for level in (10, 200, 60, 200, 110, 160):
            out.write(grey(level))
    return tmp_path / "talk.mp4"


def dark(image):
    """The detector of these tests: the level of a dark image, None for a bright one."""
    level = round(image.float().mean().item(), -1)
    return level if level < 180 else None


def test_images_folders_and_videos_give_frames(tmp_path, video):
    for i in (2, 1):
        write_image(tmp_path / "poses" / f"{i}.png", grey(i))
    assert [(f.name[-5:], f.seconds) for f in Frames(tmp_path / "poses")] == [
        ("1.png", None), ("2.png", None)]  # fmt: skip
    (one,) = Frames(tmp_path / "poses" / "2.png")
    assert (one.image == 2).all()
    part = Frames(video, start=0.2, end=0.5)
    assert part.is_video and part.fps == 10 and len(part) == 3 and part.start == 0.2
    assert [f.name for f in part] == [f"{video}, second 0.{i}0" for i in (2, 3, 4)]
    with pytest.raises(UserError, match="--start: only for videos"):
        Frames(tmp_path / "poses", start=1)
    (tmp_path / "poses").rename(tmp_path / "poses.mp4")  # a folder for all that
    assert not is_video(tmp_path / "poses.mp4") and len(Frames(tmp_path / "poses.mp4")) == 2


def test_frames_without_a_detection(video, capsys):
    finder = Finder(dark, "shadow", "skip")
    assert [level for _, level in finder(Frames(video))] == [10, 60, 110, 160]
    finder.report()
    line = capsys.readouterr().err
    assert "2 of 6 frames without a shadow, left out" in line and "second 0.10; " in line
    hold = Finder(dark, "shadow", "hold")
    assert [level for _, level in hold(Frames(video))] == [10, 10, 60, 60, 110, 160]
    late = [level for _, level in Finder(dark, "shadow", "hold")(Frames(video, start=0.1))]
    assert late == [60, 60, 110, 160]  # nothing to hold before the first detection
    with pytest.raises(UserError, match=r"talk.mp4, second 0\.10: no shadow found"):
        list(Finder(dark, "shadow", "fail")(Frames(video)))
    with pytest.raises(UserError, match=r"second 0\.10: no shadow found, and none in any"):
        list(Finder(dark, "shadow", "skip")(Frames(video, start=0.1, end=0.2)))


def test_names_of_pairs():
    assert pair_name("my face", "talk", ".mp4") == "my_face--talk.mp4"
