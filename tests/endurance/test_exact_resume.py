"""Every system, killed at any moment and started again, ends as if nothing had happened; asked to
stop, it saves and leaves. One table of commands; a new system adds its line.
"""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from runs import assert_equal, logged, newest, scalars, stored

ROOT = Path(__file__).parents[2]
STEPS = 24
SYSTEMS = {
    "vunet": ["train_vunet.py", "--config", "smoke.yaml", "--test_freq", 8],
    "dcign": [
        "train_dcign.py", "--dim_hidden", 8, "--feature_maps", 4, "--image_size", 48, "--bsize", 4,
        "--num_train_batches_per_type", 4, "--num_test_batches_per_type", 1, "--shape_bias",
        "--test_freq", 8,
    ],
    "landmarks": [  # two optimisers
        "train_landmarks.py", "--img_size", 32, "--n_landmarks", 4, "--n_filters", 8,
        "--ngc", 4, "--nsf", 4, "--naf", 8, "--ndf", 4, "--narrowing", 8, "--batch_size", 2,
        "--use_temporal", "--use_warped", "--use_fg_bg_mask", "--use_gan", "--use_vgg", "false",
        "--val_frac", 0.01, "--test_freq", 8,
    ],
    "bilayer": ["train_bilayer.py", "--config", "smoke_bilayer.yaml"],  # six optimisers, a GAN
}  # fmt: skip
SHARED = ["--num_steps", STEPS, "--log_freq", 2, "--ckpt_freq", 2, "--ema", 0.9]
pytestmark = pytest.mark.slow


def command(system, name, *given, ranks=1, restarts=0):
    script, *rest = SYSTEMS[system]
    start = [sys.executable]
    if ranks > 1:
        start += ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}"]
        start += [f"--max-restarts={restarts}", "--rdzv_backend=c10d"]
        start += ["--rdzv_endpoint=localhost:0"]  # a free port
    return [*start, ROOT / script, *rest, *SHARED, "--name", name, *given]


@contextmanager
def running(folder, system, name, *given, **how):
    """The run as a process group of its own; what is left of it is killed at the end."""
    process = subprocess.Popen(
        [str(word) for word in command(system, name, *given, **how)], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()


def finish(folder, system, name, *given, **how):
    """The folder of a run that went to its end, and what it said."""
    with running(folder, system, name, *given, **how) as process:
        said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    return folder / "runs" / system / name, said


def wait_for(condition, process, seconds=120):
    """Whether it came true while the process lived."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.003)
    raise AssertionError("nothing happened")


def kill_at_random(folder, system, name, times, *given, **how):
    """Start a run and kill all of its processes, again and again: some steps after it began to log,
    and every other time while a checkpoint is being written.
    """
    draw = random.Random(f"{system} {given}")
    run = folder / "runs" / system / name
    for number in range(times):
        with running(folder, system, name, *given, **how) as process:
            begun = max(stored(run), default=0)
            wait_for(lambda past=begun: max(stored(run), default=0) > past, process)
            if number % 2:
                wait_for(lambda: [*(run / "checkpoints").glob(".*.tmp")], process)
            else:
                time.sleep(draw.random() * 0.4)
        if process.returncode == 0:  # it came to its end
            return number
    return times


def assert_same_run(run, expected, tag):
    assert_equal(newest(run)["parts"], newest(expected)["parts"])
    assert logged(run) == logged(expected)
    there = [line["step"] for line in logged(run) if tag in line]
    assert len(there) > STEPS // 2 and there == sorted(set(there))
    assert scalars(run, tag) == scalars(expected, tag)


TAGS = {"vunet": "total", "dcign": "lower_bound", "landmarks": "vgg.loss", "bilayer": "G_L1"}
WAYS = {
    "no workers": ["--workers", 0],
    "one worker, bf16": ["--workers", 1, "--precision", "bf16"],
    "three workers": ["--workers", 3],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_killed_at_any_moment_it_ends_as_if_never_killed(tmp_path, system, way):
    often = (system, way) == ("vunet", "no workers")
    given = [*WAYS[way], "--num_steps", 80 if often else STEPS]
    expected, _ = finish(tmp_path, system, "whole", *given)
    times = 10 if often else 2
    assert kill_at_random(tmp_path, system, "killed", times, *given) == times
    run, _ = finish(tmp_path, system, "killed", *given)
    assert_same_run(run, expected, TAGS[system])


@pytest.mark.parametrize("system", SYSTEMS)
def test_two_ranks_killed_at_any_moment(tmp_path, system):
    given = ["--workers", 1]
    expected, _ = finish(tmp_path, system, "whole", *given, ranks=2)
    assert kill_at_random(tmp_path, system, "killed", 2, *given, ranks=2) >= 1
    run, _ = finish(tmp_path, system, "killed", *given, ranks=2)
    assert_same_run(run, expected, TAGS[system])


@pytest.mark.parametrize("system", SYSTEMS)
def test_torchrun_goes_on_by_itself_after_a_killed_rank(tmp_path, system):
    given = ["--workers", 0]
    expected, _ = finish(tmp_path, system, "whole", *given, ranks=2)
    run = tmp_path / "runs" / system / "killed"
    with running(tmp_path, system, "killed", *given, ranks=2, restarts=3) as process:
        wait_for(lambda: stored(run), process)
        ranks = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        os.kill(int(ranks[-1]), signal.SIGKILL)
        said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    assert "going on from" in said
    assert_same_run(run, expected, TAGS[system])


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


MEMORY = """
import resource, runpy, sys
from nets.run.run import Run

steps, sizes = Run.steps, []

def watched(self, *args):
    for step in steps(self, *args):
        yield step
        if step % 10 == 9:
            pages = int(open("/proc/self/statm").read().split()[1])
            sizes.append(pages * resource.getpagesize())

Run.steps = watched
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
quarter = len(sizes) // 4
print("GROWTH", max(sizes[-quarter:]) / max(sizes[quarter : 2 * quarter]) - 1)
"""


@pytest.mark.parametrize("system", SYSTEMS)
def test_memory_does_not_grow_with_steps(tmp_path, system):
    """The peak of the last quarter against that of the second one: the first warms up."""
    script, *rest = SYSTEMS[system]
    given = [*rest, "--num_steps", 800, "--log_freq", 50, "--ckpt_freq", 200, "--workers", 0,
             "--test_freq", 200, "--name", "a"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(ROOT / script), *map(str, given)], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    growth = float(done.stdout.rsplit("GROWTH", 1)[1])
    assert growth < 0.02
