"""Checkpoints and atomic files: whole or not there, whatever happens while they are written."""

import errno
import os
import subprocess
import sys
import time
import zipfile

import pytest
import torch
from torch import nn

from nets.errors import UserError
from nets.run import checkpoints
from nets.run.files import Lock, write_atomic, write_text


def content(step=1, **parts):
    return {"system": "toy", "options": {}, "step": step, "parts": parts, "best": None, "log": []}


def store(folder, *steps):
    for step in steps:
        checkpoints.write(checkpoints.path_of(folder, step), content(step, model={}))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class Full:
    """A file that takes 100 bytes."""

    def __init__(self, file):
        self.file, self.room = file, 100

    def write(self, data):
        if len(data) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(data)
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "step_00000001.pt"
    checkpoints.write(path, content(1, model={"w": torch.ones(3)}))
    monkeypatch.setattr("builtins.open", lambda *a, _open=open, **k: Full(_open(*a, **k)))
    with pytest.raises(OSError) as caught:
        checkpoints.write(path, content(2, model={"w": torch.zeros(10_000)}))
    monkeypatch.undo()
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    assert checkpoints.read(path)["step"] == 1
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_an_interruption_at_any_stage_leaves_the_old_file(tmp_path, monkeypatch, stage):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, stage, interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("replace"), replace(a, b)))
    write_text(tmp_path / "a.txt", "text")
    assert events == ["fsync", "replace", "fsync"]  # the file, its name, the folder


def test_a_kill_inside_a_write_leaves_the_old_checkpoint(tmp_path):
    store(tmp_path, 1)
    script = (
        "import os, sys; from nets.run.files import write_atomic\n"
        "def write(file): file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)\n"
        "write_atomic(sys.argv[1], write)"
    )
    path = checkpoints.path_of(tmp_path, 2)
    assert subprocess.run([sys.executable, "-c", script, path]).returncode == -9
    assert names(tmp_path) == [".step_00000002.pt.tmp", "step_00000001.pt"]
    assert checkpoints.newest_whole(tmp_path) == (1, [])


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_atomic(tmp_path / "no" / "a.txt", lambda file: None)
    assert caught.value.filename == str(tmp_path / "no" / "a.txt")


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped"])
def test_the_checkpoint_before_a_broken_one_is_used(tmp_path, damage):
    store(tmp_path, 10)
    newest = checkpoints.path_of(tmp_path, 20)
    checkpoints.write(newest, content(20, model={"w": torch.full((1000,), 7.0)}))
    data = bytearray(newest.read_bytes())
    if damage == "flipped":
        data[data.index(b"\x00\x00\xe0\x40" * 8) + 2] ^= 1  # one bit of a weight
    newest.write_bytes({"truncated": data[:-100], "empty": b""}.get(damage, data))
    step, broken = checkpoints.newest_whole(tmp_path)
    assert step == 10 and [path.name for path in broken] == ["step_00000020.pt.broken"]
    assert checkpoints.newest_whole(tmp_path) == (10, [])


def test_without_a_whole_checkpoint_there_is_none(tmp_path):
    assert checkpoints.newest_whole(tmp_path) == (None, [])
    checkpoints.path_of(tmp_path, 3).write_bytes(b"")
    assert checkpoints.newest_whole(tmp_path)[0] is None


@pytest.mark.parametrize(
    "last, every, best, kept",
    [
        (2, 0, None, [50, 60]),
        (1, 0, 20, [20, 60]),
        (1, 30, None, [30, 60]),
        (2, 20, 10, [10, 20, 40, 50, 60]),
        (9, 0, None, [10, 20, 30, 40, 50, 60]),
    ],
)
def test_keeps_the_newest_the_best_and_every_mth(tmp_path, last, every, best, kept):
    store(tmp_path, 10, 20, 30, 40, 50, 60)
    (tmp_path / "notes.txt").write_text("mine")
    checkpoints.prune(tmp_path, last, every, best)
    assert [checkpoints.step_of(path) for path in checkpoints.stored(tmp_path)] == kept[::-1]
    assert (tmp_path / "notes.txt").exists()


def test_reads_only_checkpoints_of_the_system(tmp_path):
    path = tmp_path / "a.pt"
    checkpoints.write(path, content())
    assert checkpoints.read(path, "toy")["step"] == 1
    with pytest.raises(UserError, match=r"a.pt: a checkpoint of toy, not of vunet"):
        checkpoints.read(path, "vunet")


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_a_checkpoint_cannot_run_code(tmp_path):
    path, mark = tmp_path / "a.pt", tmp_path / "it_ran"
    torch.save({"format": 1, "parts": Evil(mark)}, path)
    with pytest.raises(UserError, match="more than tensors and plain values"):
        checkpoints.read(path)
    assert not mark.exists()


def other_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "text")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "not a checkpoint of guise"),
        (lambda path: path.write_bytes(b"text"), "not a whole checkpoint"),
        (other_zip, "not a whole checkpoint"),
        (lambda path: torch.save({"w": torch.ones(1)}, path), "not a checkpoint of guise"),
        (lambda path: torch.save([1], path), "not a checkpoint of guise"),
        (lambda path: torch.save({**content(), "format": 99}, path), "format 99; this version"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, make, message):
    path = tmp_path / "a.pt"
    make(path)
    with pytest.raises(UserError, match=message) as caught:
        checkpoints.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_parts_that_do_not_fit_are_named_and_nothing_is_loaded(tmp_path):
    path = tmp_path / "a.pt"
    small, large = nn.Linear(2, 3), nn.Linear(4, 3)
    before = large.weight.clone()
    checkpoints.write(path, content(model=small.state_dict()))
    saved = checkpoints.read(path)
    with pytest.raises(
        UserError, match=r"not the model of these options: weight must be \[3, 4\], is \[3, 2\]"
    ):
        checkpoints.load_parts(saved, {"model": large}, path)
    with pytest.raises(
        UserError,
        match=r"0.weight is missing; 0.bias is missing; weight does not belong there; and 1 more",
    ):
        checkpoints.load_parts(saved, {"model": nn.Sequential(small)}, path)
    with pytest.raises(UserError, match="holds no ema, only model"):
        checkpoints.load_parts(saved, {"ema": small}, path)
    assert torch.equal(large.weight, before)
    optimizer = torch.optim.Adam([*small.parameters(), *large.parameters()])
    saved["parts"]["optimizer"] = torch.optim.Adam(small.parameters()).state_dict()
    with pytest.raises(UserError, match="optimizer does not fit this run: "):
        checkpoints.load_parts(saved, {"optimizer": optimizer}, path)


def test_find_takes_a_file_a_run_or_the_newest_of_all(tmp_path):
    runs = tmp_path / "runs"
    with pytest.raises(UserError, match=r"no checkpoint under .*runs/: train first"):
        checkpoints.find(None, runs)
    for i, run in enumerate(("vunet/b", "vunet/a")):
        folder = runs / run / "checkpoints"
        folder.mkdir(parents=True)
        store(folder, 10, 20)
        for path in folder.iterdir():
            os.utime(path, (i, i))
    newest = runs / "vunet/a/checkpoints/step_00000020.pt"
    assert checkpoints.find(None, runs) == newest
    assert checkpoints.find(newest) == newest
    assert checkpoints.find(runs / "vunet/b").parent.parent.name == "b"
    newest.write_bytes(b"")
    os.utime(newest, (9, 9))
    assert checkpoints.find(None, runs).name == "step_00000010.pt"
    with pytest.raises(UserError, match="no such file or run folder"):
        checkpoints.find(tmp_path / "nothing")


def test_averaged_weights_are_taken_where_there_are_some(tmp_path):
    net = nn.Linear(1, 1)
    average = {"weight": torch.full((1, 1), 5.0), "bias": torch.full((1,), 6.0)}
    saved = content(model=net.state_dict(), ema={"decay": 0.9, "average": average})
    checkpoints.load_weights(saved, net, tmp_path)
    assert net(torch.ones(1)).item() == 11
    saved["parts"].pop("ema")
    saved["parts"]["model"] = {"weight": torch.ones(1, 1), "bias": torch.ones(1)}
    checkpoints.load_weights(saved, net, tmp_path)
    assert net(torch.ones(1)).item() == 2


def test_a_lock_keeps_others_out_until_its_process_is_dead(tmp_path):
    script = (
        "import os, sys, time; from nets.run.files import Lock\n"
        "got = (lock := Lock(sys.argv[1])).acquire()\n"
        "if os.fork(): print(got, flush=True)\n"
        "time.sleep(60)"  # the child lives on and does not keep it
    )
    path = tmp_path / ".lock"
    command = [sys.executable, "-c", script, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as other:
        assert other.stdout.readline() == b"True\n"
        lock = Lock(path)
        assert not lock.acquire()
        other.kill()
        other.wait()
        deadline = time.monotonic() + 5
        while not (taken := lock.acquire()) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(other.pid, 9)
    lock.release()
    assert taken


def test_moments_of_another_size_are_named(tmp_path):
    net = nn.Linear(3, 2)
    adam = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    adam.step()
    path = tmp_path / "x.pt"
    checkpoints.check_moments(adam.state_dict(), adam, path, "optimizer")
    with torch.device("meta"):  # as before a run builds its networks
        small, other = nn.Linear(2, 2), nn.Linear(3, 2, bias=False)
    for state, module, message in (
        (adam.state_dict(), small, r"exp_avg of parameter 0 must be \[2, 2\], is \[2, 3\]"),
        (adam.state_dict(), other, "of 2 parameters, not of 1"),
        ({"state": {}}, small, "not the state of an optimiser"),
        ({"state": {0: {"exp_avg": "x"}}, "param_groups": [{"params": [0, 1]}]}, small, r"is \[\]"),
    ):
        like = torch.optim.SGD(module.parameters(), 1.0)
        with pytest.raises(UserError, match=message):
            checkpoints.check_moments(state, like, path, "optimizer")
