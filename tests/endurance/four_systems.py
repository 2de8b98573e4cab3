"""The four training scripts as a user starts them, small, for the tests of what they endure. A new
system adds its line.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

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
# Checkpoints also come between two log lines, whose means go on after a restart.
SHARED = ["--num_steps", STEPS, "--log_freq", 3, "--ckpt_freq", 2, "--ema", 0.9]


def arguments(system, name, *given):
    """The script and its arguments."""
    script, *rest = SYSTEMS[system]
    return script, [str(word) for word in (*rest, *SHARED, "--name", name, *given)]


def command(system, name, *given, ranks=1, restarts=0):
    script, rest = arguments(system, name, *given)
    start = [sys.executable]
    if ranks > 1:
        start += ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}"]
        start += [f"--max-restarts={restarts}", "--rdzv_backend=c10d"]
        start += ["--rdzv_endpoint=localhost:0"]  # a free port
    return [*start, str(ROOT / script), *rest]


def family(process):
    """The numbers of a process and of all that it started: torchrun's ranks have sessions of their
    own, and a signal to the process group does not reach them.
    """
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [process.pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def send(process, number):
    """Give a signal to a whole family."""
    for one in family(process):
        with suppress(ProcessLookupError):
            os.kill(one, number)


@contextmanager
def running(folder, system, name, *given, slow_disk=False, **how):
    """The run as a process group of its own; what is left of it is killed at the end.

    slow_disk  waiting for the disk takes some time
    """
    path = [str(Path(__file__).parent / "slow_disk")] * slow_disk + [str(ROOT)]
    process = subprocess.Popen(
        command(system, name, *given, **how), cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            send(process, signal.SIGKILL)
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
