"""Extraction by several ranks, as torchrun starts them on one machine or on many."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from boxes import photos, scene, video
from nets.data.io.images import write_image
from nets.data.people.index import read_index

SCRIPT = Path(__file__).with_name("boxes.py")
ROOT = Path(__file__).parents[2]
PEOPLE = ("people", "photos", "-o", "data", "--size", "64")
HEADS = ("heads", "videos", "-o", "data", "--image_size", "64")


def command(*given, ranks):
    start = [sys.executable]
    if ranks > 1:
        start += ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}"]
        start += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]  # a free port
    return [*start, str(SCRIPT), *map(str, given)]


def start(folder, command, **environment):
    folder.mkdir(exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip


def finish(folder, *given, ranks=1, **environment):
    """(stdout, stderr) of a run that succeeds."""
    process = start(folder, command(*given, ranks=ranks), **environment)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out, err


def machines(folder, *given, timeout=240, **environment):
    """(exit code, stdout, stderr) of two ranks that nobody watches, as on two machines."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    ranks = [
        start(
            folder, command(*given, ranks=1), RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK="0",
            LOCAL_WORLD_SIZE="1", MASTER_ADDR="localhost", MASTER_PORT=port, **environment,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [rank.communicate(timeout=timeout) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [(rank.returncode, *text) for rank, text in zip(ranks, said, strict=True)]


def tree(folder):
    """Content of all files by name; of lists of what was left out, without the date."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if path.name.startswith("left_out"):
                content = content.partition(b"\n")[2]
            files[str(path.relative_to(folder))] = content
    return files


def talks(folder, count=4, frames=4):
    for i in range(count):
        video(
            folder / f"p{i}/talk/{i}.mp4", [scene((40 + i, 30 + n, 40, 40)) for n in range(frames)]
        )


def link(folder, name):
    """A folder in which the same files are given, so that the records are equal."""
    (folder / name).mkdir()
    for inside in ("photos", "videos"):
        if (folder / inside).exists():
            (folder / name / inside).symlink_to(folder / inside)
    return folder / name


@pytest.mark.parametrize("given, pattern", [(PEOPLE, "data/index.p"),
                                            (HEADS, "data/contact_sheet_test.png")])  # fmt: skip
def test_two_ranks_write_what_one_process_writes(tmp_path, given, pattern):
    photos(tmp_path / "photos")
    talks(tmp_path / "videos", 3)
    (tmp_path / "videos/p0/talk/broken.mp4").write_text("no video")
    one, two = link(tmp_path, "one"), link(tmp_path, "two")
    alone, _ = finish(one, *given, BOXES_LOG="log")
    together, noted = finish(two, *given, ranks=2, BOXES_LOG="log")
    assert together == alone  # one summary, with one "next" line
    assert "waiting for the other ranks" in noted
    searched = (two / "log").read_text().split()
    assert len(searched) == len((one / "log").read_text().split())  # each frame once
    assert set(searched) == {"0", "1"}
    expected, got = tree(one / "data"), tree(two / "data")
    assert pattern in {f"data/{name}" for name in got}
    records = {name for name in expected if name.startswith("extraction/")}  # hold the folder
    assert got.keys() == expected.keys() and len(records) >= 3
    assert all(got[name] == expected[name] for name in got.keys() - records)
    finish(two, *given, ranks=2, BOXES_LOG="log")
    assert (two / "log").read_text().split() == searched  # all was finished


@pytest.mark.parametrize("ranks", [2, 1])
def test_killed_ranks_continue_and_end_with_the_same_files(tmp_path, ranks):
    talks(tmp_path / "videos", 5, 6)
    whole, killed = link(tmp_path, "whole"), link(tmp_path, "killed")
    finish(whole, *HEADS)
    process = start(killed, command(*HEADS, ranks=2), BOXES_SLEEP="1 0.3")
    end = time.monotonic() + 120
    while len(list(killed.rglob("imgs/**/*.jpg"))) < 8:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (killed / "data/contact_sheet_test.png").exists()
    finish(killed, *HEADS, ranks=ranks)
    expected, got = tree(whole / "data"), tree(killed / "data")
    assert got.keys() == expected.keys()
    for name in got:
        assert got[name] == expected[name] or name.startswith("extraction/")


def test_a_lost_rank_is_named_and_the_others_finish_their_files(tmp_path):
    talks(tmp_path / "videos")
    begun = time.monotonic()
    (code, _, said), (dead, _, _) = machines(
        tmp_path, *HEADS, BOXES_DIE="1 2", GUISE_RANK_TIMEOUT="4"
    )
    assert time.monotonic() - begun < 60 and dead == 9
    assert code == 4 and "rank 1 sent no sign of life for 4 s" in said.splitlines()[-1]
    done = {path.stem for path in tmp_path.rglob("extraction/test/*/talk/*.json")}
    assert done == {"0", "2"}  # those of rank 0
    results = machines(tmp_path, *HEADS)
    assert [code for code, _, _ in results] == [0, 0]
    assert "16 frames of 4 persons in 4 videos" in results[0][1] and not results[1][1]


def test_a_rank_that_fails_and_a_lost_first_rank_end_the_others(tmp_path):
    talks(tmp_path / "videos")
    (code, _, said), (failed, _, why) = machines(tmp_path, *HEADS, BOXES_FAIL="1 2")
    assert (code, failed) == (4, 2)
    assert said.splitlines()[-1].endswith("[rank 0] error: rank 1 failed")
    assert "[rank 1] error: disk: Input/output error" in why
    (dead, _, _), (code, _, said) = machines(
        tmp_path, "heads", "videos", "-o", "other", BOXES_DIE="0 2"
    )
    assert (dead, code) == (9, 4) and "another rank cannot be reached" in said.splitlines()[-1]


def test_a_slow_rank_is_waited_for(tmp_path):
    """Longer than a rank may be silent."""
    talks(tmp_path / "videos", 2)
    results = machines(tmp_path, *HEADS, BOXES_SLEEP="1 2", GUISE_RANK_TIMEOUT="4")
    assert [code for code, _, _ in results] == [0, 0], results[0][2]
    assert "8 frames of 2 persons" in results[0][1]


def test_wrong_input_ends_every_rank_with_one_line(tmp_path):
    for code, _, said in machines(tmp_path, "heads", "nowhere", "-o", "data"):
        assert code == 2, said
        assert said.splitlines()[-1].endswith("nowhere: no such file or folder")
    for code, _, said in machines(tmp_path, "look", "nowhere.png"):
        assert code == 2 and "extract.py look is one process" in said.splitlines()[-1]


def test_people_of_an_earlier_run_stay_in_the_index(tmp_path):
    write_image(tmp_path / "a/one.png", scene((20, 20, 30, 80)))
    write_image(tmp_path / "b/one.png", scene((60, 20, 30, 80)))
    video(tmp_path / "b/one.mp4", [scene((10 + 8 * i, 20, 30, 80)) for i in range(4)])
    write_image(tmp_path / "c/one_00001.png", scene((90, 10, 36, 90)))
    out = ("-o", "data", "--size", "64")
    finish(tmp_path, "people", "a", *out)
    first = (tmp_path / "data/images/one_0.jpg").read_bytes()
    said, _ = finish(tmp_path, "people", "b", *out)
    assert "1 of these images are of earlier runs into data" in said
    said, _ = finish(tmp_path, "people", "c", *out)
    assert "5 images of 4 identities" in said  # 1 + 1 + 2 of the video + 1
    index = read_index(tmp_path / "data/index.p")
    names = [name.decode() for name in index["imgs"]]
    assert len(set(names)) == 5 and all((tmp_path / "data" / name).is_file() for name in names)
    assert (tmp_path / "data/images/one_0.jpg").read_bytes() == first  # not written over
    finish(tmp_path, "people", "b", "a", "c", *out, BOXES_LOG="log")
    assert not (tmp_path / "log").exists()  # files keep their names in any order
    assert sorted(names) == sorted(
        n.decode() for n in read_index(tmp_path / "data/index.p")["imgs"]
    )
    (tmp_path / "a/one.png").unlink()
    said, _ = finish(tmp_path, "people", "c", *out)
    assert "1 images of earlier runs left out: their photos or videos are gone" in said
    assert "4 images of 3 identities" in said
