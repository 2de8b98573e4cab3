"""Every system, killed at any moment and started again, ends as if nothing had happened; asked to
stop, it saves and leaves.
"""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from four_systems import ROOT, STEPS, SYSTEMS, finish, running, send, wait_for
from runs import assert_equal, fill, logged, newest, scalars, stored

pytestmark = pytest.mark.slow


def kill_at_random(folder, system, name, times, *given, **how):
    """Start a run and kill all of its processes, again and again: some steps after it wrote its
    first checkpoint, and every other time inside the write of one.
    """
    draw = random.Random(f"{system} {given}")
    run = folder / "runs" / system / name
    for number in range(times):
        with running(folder, system, name, *given, slow_disk=number % 2 == 1, **how) as process:
            begun = max(stored(run), default=0)
            wait_for(lambda past=begun: max(stored(run), default=0) > past, process)
            if number % 2:
                stop_in_a_write(process, run)
            else:
                time.sleep(draw.random() * 0.4)
            assert process.poll() is None, process.stdout.read()  # else there is none to kill
        assert process.returncode == -signal.SIGKILL
        assert bool(half_written(run)) or not number % 2


def half_written(run):
    return [*(run / "checkpoints").glob(".step_*.tmp")]


def stop_in_a_write(process, run):
    """Make all processes stand still while a checkpoint is being written."""
    while wait_for(lambda: half_written(run), process):
        send(process, signal.SIGSTOP)
        if half_written(run):
            return
        send(process, signal.SIGCONT)


def assert_same_run(run, expected, tag):
    assert_equal(newest(run)["parts"], newest(expected)["parts"])
    assert logged(run) == logged(expected)
    there = [line["step"] for line in logged(run) if tag in line]
    assert len(there) > STEPS // 3 and there == sorted(set(there))
    assert scalars(run, tag) == scalars(expected, tag)


TAGS = {"vunet": "loss", "dcign": "lower_bound", "landmarks": "vgg.loss", "bilayer": "G_L1"}
WAYS = {  # workers, precision
    "no workers": (0, "fp32"),
    "one worker, bf16": (1, "bf16"),
    "three workers": (3, "fp32"),
}


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The folder of a run that nothing disturbed. It has no workers: their number changes nothing,
    so those that are killed may have some.
    """
    runs = {}

    def run_of(system, *given, ranks=1):
        key = (system, ranks, *given)
        if key not in runs:
            folder = tmp_path_factory.mktemp("whole")
            runs[key], _ = finish(folder, system, "a", *given, "--workers", 0, ranks=ranks)
        return runs[key]

    return run_of


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_killed_at_any_moment_it_ends_as_if_never_killed(tmp_path, undisturbed, system, way):
    workers, precision = WAYS[way]
    often = (system, way) == ("vunet", "no workers")
    given = ["--precision", precision, "--num_steps", 80 if often else STEPS]
    kill_at_random(tmp_path, system, "a", 6 if often else 2, *given, "--workers", workers)
    run, _ = finish(tmp_path, system, "a", *given, "--workers", workers)
    assert_same_run(run, undisturbed(system, *given), TAGS[system])


@pytest.mark.parametrize("system", SYSTEMS)
def test_two_ranks_killed_at_any_moment(tmp_path, undisturbed, system):
    kill_at_random(tmp_path, system, "a", 2, "--workers", 1, ranks=2)
    run, _ = finish(tmp_path, system, "a", "--workers", 1, ranks=2)
    assert_same_run(run, undisturbed(system, ranks=2), TAGS[system])


@pytest.mark.parametrize("system", SYSTEMS)
def test_torchrun_goes_on_by_itself_after_a_killed_rank(tmp_path, undisturbed, system):
    run = tmp_path / "runs" / system / "a"
    with running(tmp_path, system, "a", "--workers", 0, ranks=2, restarts=3) as process:
        wait_for(lambda: stored(run), process)
        ranks = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        os.kill(int(ranks[-1]), signal.SIGKILL)
        said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    assert "going on from" in said
    assert_same_run(run, undisturbed(system, ranks=2), TAGS[system])


@pytest.mark.parametrize("system", SYSTEMS)
def test_on_a_full_disk_it_says_so_and_goes_on_when_there_is_room(small_disk, system):
    """Whatever file meets it; tests/run has each of those that all systems write."""
    run, _ = finish(small_disk, system, "a", "--num_steps", 8)
    filler = fill(small_disk)
    with running(small_disk, system, "a") as process:
        said = process.communicate(timeout=120)[0]
    assert process.returncode == 2 and "Traceback" not in said, said
    (error,) = (line for line in said.splitlines() if "error: " in line)
    assert "No space left on device" in error and "runs/" in error, error
    step = stored(run)[0]
    assert newest(run)["step"] == step >= 8
    filler.unlink()
    _, said = finish(small_disk, system, "a")
    assert f"step_{step:08d}.pt, step {step}" in said
    there = [line["step"] for line in logged(run) if TAGS[system] in line]
    assert stored(run)[0] == STEPS == there[-1] and there == sorted(set(there))


@pytest.mark.parametrize("moment", ["in a step", "in a validation", "while it starts"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_signal_at_any_moment_saves_and_leaves(tmp_path, system, moment):
    run = tmp_path / "runs" / system / "a"
    given = ["--workers", 1, "--num_steps", 5000]
    if moment == "in a validation":
        given += ["--test_freq", 1]
    with running(tmp_path, system, "a", *given) as process:
        ready = (run / ".lock").exists if moment == "while it starts" else lambda: stored(run)
        wait_for(ready, process)
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGTERM)  # the workers get it too
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 143, said
    assert "Traceback" not in said
    if moment != "while it starts":
        (step, *_) = stored(run)
        assert f"SIGTERM: stopped after step {step}; the same command goes on" in said


def test_a_signal_while_a_vunet_is_initialised_from_data(tmp_path):
    given = ["--workers", 1, "--num_steps", 5000, "--init_batches", 200]  # of some seconds
    log = tmp_path / "runs/vunet/a/log.txt"
    with running(tmp_path, "vunet", "a", *given) as process:
        wait_for(lambda: log.exists() and "training a VUNet" in log.read_text(), process)
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGTERM)
        said = process.communicate(timeout=120)[0]
    assert process.returncode == 143 and "Traceback" not in said, said
    assert "SIGTERM: stopped after step 0; the same command goes on" in said


@pytest.mark.parametrize("system", SYSTEMS)
def test_memory_does_not_grow_with_steps(tmp_path, system):
    """Short; with a demo's own configuration and 2,000 steps: benchmarks/memory.py."""
    script, *rest = SYSTEMS[system]
    given = [*rest, "--num_steps", 240, "--log_freq", 30, "--ckpt_freq", 60, "--workers", 0,
             "--test_freq", 60, "--name", "a"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/memory.py"), script, *map(str, given)],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MB after warm-up" in done.stdout
