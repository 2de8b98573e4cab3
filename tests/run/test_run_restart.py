"""A run from the outside: killed, asked to stop, on two ranks, on a full disk."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from nets.run.log import records
from runs import assert_equal, fill, logged, newest, scalars, stored

TOY = Path(__file__).with_name("toy.py")
ROOT = Path(__file__).parents[2]
SETTINGS = ["--log_freq", "5", "--ckpt_freq", "6", "--precision", "fp32", "--workers", "0"]

LOGGING = ["--width", 64, "--log_freq", 1, "--keep_last", 1]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def command(name, *given, ranks=1):
    start = [sys.executable]
    if ranks > 1:
        start += ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}"]
        start += ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]  # a free port
    return [*start, str(TOY), *SETTINGS, "--name", name, *map(str, given)]


def finish(folder, name, *given, ranks=1):
    """Run to the end; the process's result and the run folder."""
    done = subprocess.run(
        command(name, *given, ranks=ranks), cwd=folder, env=environment(), capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    return done, folder / "runs/toy" / name


@contextmanager
def running(folder, name, *given, ranks=1, logged=1, ready=None):
    """A process that has written `logged` lines of its log, or that is `ready`."""
    process = subprocess.Popen(
        command(name, *given, ranks=ranks), cwd=folder, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    log = folder / "runs/toy" / name / "log.txt"
    ready = ready or (lambda: log.exists() and len(records(log)) >= logged)
    deadline = time.monotonic() + 300
    try:
        while not ready():
            assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
            time.sleep(0.02)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()


def test_killed_anywhere_it_ends_as_if_never_killed(tmp_path):
    given = ["--steps", 40, "--sleep", 0.02, "--ema", 0.9, "--workers", 1, "--precision", "bf16"]
    whole, expected = finish(tmp_path, "whole", *given)
    assert whole.returncode == 0, whole.stderr
    draw = random.Random(0)
    for lines in (1, 2, 4):
        with running(tmp_path, "killed", *given, logged=lines) as process:
            time.sleep(draw.random() * 0.2)
            process.kill()
    done, run = finish(tmp_path, "killed", *given)
    assert done.returncode == 0, done.stderr
    assert_equal(newest(run)["parts"], newest(expected)["parts"])
    assert [(line["step"], line["mse"]) for line in records(run / "log.txt")] == [
        (line["step"], line["mse"]) for line in records(expected / "log.txt")
    ]
    assert scalars(run) == scalars(expected)


@pytest.mark.parametrize(
    "name, code",
    [
        ("SIGTERM", 143),  # tests/scripts has a SIGINT
        ("SIGHUP", 129),  # a closed terminal
        pytest.param("SIGINT", 130, marks=pytest.mark.slow),
        pytest.param("SIGUSR1", 138, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_after_the_step_and_leaves(tmp_path, name, code):
    given = ["--steps", 5000, "--sleep", 0.02, "--workers", 1]
    with running(tmp_path, "a", *given) as process:
        os.killpg(process.pid, getattr(signal, name))  # the workers get it too
        said = process.communicate(timeout=120)[0]
    assert process.returncode == code
    (step,) = stored(tmp_path / "runs/toy/a")
    assert f"{name}: stopped after step {step}; the same command goes on" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("workers", [0, 1])
def test_a_signal_while_data_are_read_saves_and_leaves(tmp_path, workers):
    given = ["--steps", 50, "--read_seconds", 0.4, "--workers", workers]
    with running(tmp_path, "a", *given) as process:  # 1.6 s a step, of which all is reading
        os.killpg(process.pid, signal.SIGTERM)
        said = process.communicate(timeout=120)[0]
    assert process.returncode == 143 and "Traceback" not in said
    assert f"stopped after step {stored(tmp_path / 'runs/toy/a')[0]};" in said


@pytest.mark.slow
def test_a_ctrl_c_while_networks_are_compiled_saves_and_leaves(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))  # compiles anew
    compiler = ["pgrep", "-f", f"cc1plus.*{tmp_path}/cache.*main.cpp"]

    def compiles():
        return not subprocess.run(compiler, capture_output=True).returncode

    with running(tmp_path, "a", "--compile", "--steps", 50, ready=compiles) as process:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the compiler gets it too
        said = process.communicate(timeout=300)[0]
    assert process.returncode == 130 and "Traceback" not in said, said
    (step,) = stored(tmp_path / "runs/toy/a")
    assert f"SIGINT: stopped after step {step}; the same command goes on" in said


def test_a_second_interrupt_leaves_at_once(tmp_path):
    with running(tmp_path, "a", "--steps", 50, "--sleep", 60) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130


def test_two_runs_do_not_share_a_folder(tmp_path):
    with running(tmp_path, "a", "--steps", 5000, "--sleep", 0.02):
        second, _ = finish(tmp_path, "a")
        assert second.returncode == 2
        assert "runs/toy/a: another run is writing there" in second.stderr


def test_two_ranks_with_half_the_batch_are_one(tmp_path):
    given = ["--dropout", 0, "--steps", 15]
    one, whole = finish(tmp_path, "one", *given, "--batch_size", 4)
    two, halves = finish(tmp_path, "two", *given, "--batch_size", 2, ranks=2)
    assert one.returncode == 0 and two.returncode == 0, two.stderr
    a, b = newest(whole)["parts"]["model"], newest(halves)["parts"]["model"]
    for name in a:
        # Sums in another order: rounding errors, which Adam's first steps enlarge.
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-5)
    lines = zip(records(whole / "log.txt"), records(halves / "log.txt"), strict=True)
    assert all(x["mse"] == pytest.approx(y["mse"], rel=1e-5) for x, y in lines)
    assert two.stdout.count("done 15") == 1


@pytest.mark.slow
def test_two_ranks_stop_together_and_go_on_bit_for_bit(tmp_path):
    given = ["--steps", 60, "--sleep", 0.02, "--workers", 1]
    whole, expected = finish(tmp_path, "whole", *given, ranks=2)
    assert whole.returncode == 0, whole.stderr
    with running(tmp_path, "a", *given, ranks=2, logged=3) as process:
        process.terminate()
        said = process.communicate(timeout=120)[0]
    assert "SIGTERM: stopped after step" in said
    run = tmp_path / "runs/toy/a"
    assert 10 <= stored(run)[0] < 60
    assert finish(tmp_path, "a", *given, ranks=2)[0].returncode == 0
    assert_equal(newest(run)["parts"], newest(expected)["parts"])
    assert [line["mse"] for line in records(run / "log.txt")] == [
        line["mse"] for line in records(expected / "log.txt")
    ]


@pytest.mark.slow
def test_all_ranks_leave_a_step_out_that_is_bad_on_one(tmp_path):
    given = ["--steps", 20, "--nan", "skip", "--nan_at", "[8]"]
    done, run = finish(tmp_path, "a", *given, ranks=2)
    assert done.returncode == 0, done.stderr
    said = (run / "log.txt").read_text()
    assert "step 9: a loss or gradient is not finite on another rank; step left out, 1" in said
    assert torch.load(run / "bad_batch_rank1.pt", weights_only=True)["step"] == 9
    assert stored(run)[0] == 20 and not (run / "bad_batch.pt").exists()


def test_a_dead_rank_ends_the_run_with_a_message_within_a_minute(tmp_path):
    given = ["--die_at", 9, "--sleep", 0.2, "--workers", 1]
    with running(tmp_path, "a", *given, ranks=2, logged=2) as process:
        said = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    assert "[rank 0] error: rank 1 died or cannot be reached" in said
    assert stored(tmp_path / "runs/toy/a") == [6]


def test_a_hung_rank_ends_the_run_and_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("GUISE_RANK_TIMEOUT", "8")
    done, run = finish(tmp_path, "a", "--hang_at", 9, ranks=2)
    assert done.returncode != 0
    assert "[rank 0] error: rank 1 died or cannot be reached" in done.stderr
    assert stored(run) == [6]


@pytest.mark.slow
def test_bad_input_is_one_line_on_every_rank(tmp_path):
    done, _ = finish(tmp_path, "a", "--width", "x", ranks=2)
    assert "error: --width: must be a whole number, got x" in done.stderr
    assert f'File "{TOY}"' not in done.stderr


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    done, run = finish(tmp_path_factory.mktemp("whole"), "whole", *LOGGING, "--steps", 60)
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.parametrize("place", ["checkpoints", "log.txt", "tensorboard", "images"])
def test_a_full_disk_stops_with_the_file_and_loses_nothing(
    tmp_path, small_disk, undisturbed, place
):
    given, run = LOGGING, tmp_path / "runs/toy/a"
    run.mkdir(parents=True)
    (run / place).symlink_to(small_disk / place)
    (small_disk / place).touch() if place == "log.txt" else (small_disk / place).mkdir()
    first, _ = finish(tmp_path, "a", *given, "--steps", 6)
    assert first.returncode == 0, first.stderr
    filler = fill(small_disk, 4096 * (5 if place == "checkpoints" else 0))
    full, _ = finish(tmp_path, "a", *given, "--steps", 60)
    assert full.returncode == 2
    error = [line for line in full.stderr.splitlines() if "step/s" not in line and line]
    assert len(error) == 1 and "Traceback" not in full.stdout, full.stderr
    assert f"/a/{place}" in error[0] and "No space left on device, in step" in error[0]
    assert "with more room the same command goes on" in error[0]
    (step,) = stored(run)
    assert newest(run)["step"] == step and f"the last checkpoint is of step {step};" in error[0]
    filler.unlink()
    again, _ = finish(tmp_path, "a", *given, "--steps", 60)
    assert again.returncode == 0 and stored(run) == [60], again.stderr
    assert_equal(newest(run)["parts"], newest(undisturbed)["parts"])
    assert logged(run) == logged(undisturbed) and scalars(run) == scalars(undisturbed)


@pytest.mark.parametrize("begun", [False, True])
def test_a_folder_that_cannot_be_written_is_one_line(small_disk, begun):
    if begun:
        assert finish(small_disk, "a", "--steps", 6)[0].returncode == 0
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    done, _ = finish(small_disk, "a")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "runs" in done.stderr and "Read-only file system; a run needs a folder" in done.stderr
