"""Extraction with a full disk, damaged videos, unreadable folders, and a killed process."""

import errno
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import extract
from boxes import refused, run, scene, video
from nets.data.heads.videos import AvatarFolder, read_frame
from nets.data.io.images import write_image
from nets.data.people.index import read_index
from nets.run.images import labelled_grid


def test_workers_end_when_the_main_process_is_killed(tmp_path):
    work = "echo $PPID > worker; exec sleep 20"
    code = f"import os, nets.data.extraction.jobs as j; j.run(os.system, [({work!r},)], 1, 1)"
    root = Path(__file__).parents[2]
    main = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)}
    )
    started = tmp_path / "worker"
    wait_until(lambda: started.is_file() and started.read_text().strip())
    worker = (
        Path("/proc") / started.read_text().strip() / "cmdline"
    )  # empty after the process has ended
    assert worker.read_bytes()
    main.kill()
    main.wait()
    wait_until(lambda: not worker.is_file() or not worker.read_bytes())


def wait_until(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


class Disk:
    """A disk with limited room for `whole_file`, which fails like a file system."""

    def __init__(self, room):
        self.room = room

    def open(self, handle, mode):
        disk = self

        class File(io.FileIO):
            def write(self, data):
                if len(data) > disk.room:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                disk.room -= len(data)
                return super().write(data)

        class Written(io.BufferedWriter):
            def fileno(self):  # else Pillow and NumPy would bypass this class
                raise io.UnsupportedOperation

        return Written(File(handle, mode))


def test_a_full_disk_is_one_line_and_the_same_command_continues(
    boxes, tmp_path, capsys, monkeypatch
):
    noise = torch.randint(0, 60, (3, 120, 160), dtype=torch.uint8)
    frames = [torch.maximum(scene((40 + i, 30, 40, 40)), noise) for i in range(6)]
    video(tmp_path / "talk.mkv", frames)
    given = ("heads", "talk.mkv", "-o", "data", "--image_size", "64")
    with monkeypatch.context() as limited:
        limited.setattr(os, "fdopen", Disk(7_000).open)
        line = refused(capsys, *given)
    assert "error: data/" in line and line.endswith("No space left on device")
    done = AvatarFolder(tmp_path / "data", "test", 64).frames("talk/talk")
    assert 1 < len(done) < 6
    for name in done:
        assert read_frame(tmp_path / "data", "test", name, 64).image.shape == (3, 64, 64)
    assert not [p for p in (tmp_path / "data").rglob(".*") if p.is_file()]
    asked = boxes.asked
    run(*given)
    assert boxes.asked - asked == 6 - len(done)
    assert len(AvatarFolder(tmp_path / "data", "test", 64).frames("talk/talk")) == 6


def test_a_truncated_video_and_an_unreadable_folder(boxes, tmp_path, capsys, monkeypatch):
    frames = [torch.maximum(scene((10 + 8 * i, 20, 30, 80)), torch.randint(
        0, 60, (3, 120, 160), dtype=torch.uint8)) for i in range(12)]  # fmt: skip
    video(tmp_path / "walk.mkv", frames)
    whole = (tmp_path / "walk.mkv").read_bytes()
    (tmp_path / "walk.mkv").write_bytes(whole[: len(whole) // 2])
    for command, left in (("people", "a/left_out.txt"), ("clips", "b_left_out.txt"),
                          ("heads", "c/left_out_test.txt")):  # fmt: skip
        more = ["--fps", "4"] if command != "heads" else []
        run(command, "walk.mkv", "-o", left.partition("/")[0].partition("_")[0], *more)
        text = (tmp_path / left).read_text()
        assert "walk.mkv, second" in text and "the video" in text
    assert 2 < len(read_index(tmp_path / "a/index.p")["imgs"]) < 10

    def closed(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(os, "scandir", closed)  # root may read all folders
    assert refused(capsys, "people", "closed").endswith("closed: Permission denied")


def test_names_that_are_not_utf8_pass_through_every_command(boxes, tmp_path, capsys):
    name = os.fsdecode(b"caf\xe9")
    write_image(tmp_path / "photos" / f"{name}.png", scene((20, 20, 30, 80)))
    write_image(tmp_path / "photos" / f"{name}2.png", scene())
    video(tmp_path / "videos" / f"{name}.mp4", [scene((40 + i, 30, 40, 40)) for i in range(4)])
    (tmp_path / "videos" / f"{name}.txt").write_text("")
    run("people", "photos", "-o", "people", "--size", "64")
    run("people", "photos", "-o", "people", "--size", "64")  # reads its records
    run("heads", "videos", "-o", "heads", "--image_size", "64")
    run("clips", "videos", "-o", "clips", "--crop", "centre", "--size", "64")
    extract.main(["look", "photos", "-o", "look.png"])
    for data in ("people", "heads", "clips", "photos", "videos"):
        with pytest.raises(SystemExit, match="0"):
            extract.main(["check", data, "-o", f"{data}.png"])
    assert read_index(tmp_path / "people/index.p")["imgs"].tolist() == [b"images/caf__0.jpg"]
    grid = labelled_grid([[scene()]], [name], [name])
    assert grid.shape[2] == 3
