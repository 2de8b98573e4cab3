"""A run in poor surroundings: no reader, no home, few files, little shared memory, python -OO."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from nets.errors import UserError
from nets.run import options
from nets.run.log import records
from nets.run.shortage import shortage
from test_run_restart import ROOT, command, environment, finish, running


def last_line(text):
    return [line for line in text.splitlines() if line.strip()][-1]


def test_a_closed_terminal_saves_and_leaves(tmp_path):
    """The process has a terminal of its own, which goes away."""
    leader, follower = os.openpty()
    process = subprocess.Popen(
        command("a", "--steps", 10**6, "--sleep", 0.01, "--log_freq", 1, "--workers", 1),
        cwd=tmp_path, env=environment(), stdin=follower, stdout=follower, stderr=follower,
        start_new_session=True, preexec_fn=lambda: __import__("fcntl").ioctl(0, 0x540E, 0),
    )  # fmt: skip
    os.close(follower)
    log = tmp_path / "runs/toy/a/log.txt"
    try:
        deadline = time.monotonic() + 120
        while not (log.exists() and records(log)):
            assert process.poll() is None and time.monotonic() < deadline
            os.read(leader, 65536) if process.poll() is None and readable(leader) else None
            time.sleep(0.02)
        os.close(leader)
        assert process.wait(timeout=60) == 129
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert "SIGHUP: stopped after step" in log.read_text()
    assert list((tmp_path / "runs/toy/a/checkpoints").glob("step_*.pt"))


def readable(descriptor):
    import select

    return bool(select.select([descriptor], [], [], 0)[0])


def test_under_nohup_a_run_goes_on(tmp_path):
    def ignore():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with pytest.MonkeyPatch.context() as patched:
        start = subprocess.Popen
        patched.setattr(subprocess, "Popen", lambda *a, **k: start(*a, **k, preexec_fn=ignore))
        with running(tmp_path, "a", "--steps", 12, "--sleep", 0.1, "--log_freq", 1) as process:
            process.send_signal(signal.SIGHUP)
            assert process.wait(timeout=120) == 0
    assert "done 12" in (tmp_path / "runs/toy/a/log.txt").read_text()


@pytest.mark.parametrize("both", [False, True])
def test_where_nobody_reads_the_output_the_run_saves_and_leaves(tmp_path, both):
    """As in `train | head`, and `train 2>&1 | head`."""
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-u", *command("a", "--steps", 10**6 if both else 30)[1:]],
        cwd=tmp_path, env=environment(), stdout=write,
        stderr=write if both else subprocess.PIPE,
    )  # fmt: skip
    os.close(write)
    os.read(read, 1)
    os.close(read)
    printed = process.communicate(timeout=120)[1] or b""
    assert process.returncode == (141 if both else 0)  # little is printed on stdout alone
    assert b"Traceback" not in printed
    if both:
        assert list((tmp_path / "runs/toy/a/checkpoints").glob("step_*.pt"))
        assert "SIGPIPE: stopped after step" in (tmp_path / "runs/toy/a/log.txt").read_text()


@pytest.mark.parametrize("script", ["infer.py", "extract.py", "train_dcign.py"])
def test_help_into_a_closed_pipe_is_quiet(script):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, str(ROOT / script), "--help"], stdout=write, stderr=subprocess.PIPE,
        env=environment(), timeout=120,
    )  # fmt: skip
    os.close(write)
    assert done.returncode in (0, 141) and done.stderr == b""  # 0: the parser ignores the error


@pytest.mark.parametrize(
    "command",
    [
        "nets.worlds clips OUT --clips 1 --size 16",
        "nets.worlds.heads.export --data_root OUT --persons 1 --test_persons 1 --videos 1 "
        "--frames 1",
        "nets.dcign.convert --heads --output_dir OUT --bsize 2 --imwidth 48 --num_train_batches 1 "
        "--num_test_batches 1",
    ],
    ids=lambda command: command.split()[0],
)
def test_a_command_of_the_package_into_a_closed_pipe_is_quiet(tmp_path, command):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", *command.replace("OUT", str(tmp_path / "out")).split()], cwd=ROOT,
        stdout=write, stderr=subprocess.PIPE, env=environment(), timeout=300,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"") and list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("script", ["extract.py people", "evaluate.py", "train_vunet.py"])
def test_without_docstrings_the_scripts_work(script):
    name, *rest = script.split()
    done = subprocess.run(
        [sys.executable, "-OO", str(ROOT / name), *rest, "--help"], capture_output=True, text=True,
        env=environment(), timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and "--max_megapixels" in done.stdout, done.stderr


def test_without_docstrings_a_run_is_the_same(tmp_path):
    done, _ = finish(tmp_path, "plain", "--steps", 3)
    optimised = subprocess.run(
        [sys.executable, "-OO", *command("fast", "--steps", 3)[1:]], cwd=tmp_path,
        env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == optimised.returncode == 0, optimised.stderr
    means = [
        [r["mse"] for r in records(tmp_path / "runs/toy" / n / "log.txt")]
        for n in ("plain", "fast")
    ]
    assert means[0] == means[1]


def test_without_a_home_a_run_works(tmp_path):
    """No HOME, and no user of this number in the list of users."""
    nobody = ["unshare", "--user", "--map-user=54321"]
    if shutil.which("unshare") is None or subprocess.run([*nobody, "true"]).returncode:
        pytest.skip("no user can be mapped here")
    own = ("HOME", "XDG", "USER", "LOGN")
    env = {name: v for name, v in environment().items() if not name.startswith(own)}
    env |= {"TMPDIR": str(tmp_path)}
    find = "from nets.ops import _build; _build._first_use.__code__; import nets.ops"
    for work in (command("a", "--steps", 2), [sys.executable, "-c", find]):
        done = subprocess.run(
            [*nobody, *work], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-2000:]
    assert not (tmp_path / "~").exists()


def test_a_tilde_without_a_home_is_one_line(capsys):
    @options.user_errors("x")
    def work():
        raise RuntimeError("Could not determine home directory.")

    with pytest.raises(SystemExit, match="2"):
        work()
    assert "set the environment variable HOME" in capsys.readouterr().err


FAILING_RANK = """
import atexit, os, sys
import torch.distributed as dist
from nets.errors import UserError
from nets.run.options import user_errors

class Threads:  # stands for torch's, which abort the process when it is taken down under them
    def __del__(self):
        os.abort()

with user_errors("x"):
    dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
    threads = Threads()
    atexit.register(print, "workers are stopped")
    raise UserError("no such file") if sys.argv[2] == "2" else SystemExit("no such rank")
"""


@pytest.mark.parametrize("code, line", [(2, "x: error: no such file"), (1, "no such rank")])
def test_a_rank_that_fails_ends_with_its_code_though_others_are_there(tmp_path, code, line):
    done = subprocess.run(
        [sys.executable, "-c", FAILING_RANK, str(tmp_path / "store"), str(code)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stderr.strip()) == (code, line)
    assert done.stdout.strip() == "workers are stopped"


@pytest.mark.parametrize("limit", [22, 30])  # fails in the parent, or in its workers
def test_too_few_open_files_are_one_line_with_the_remedy(tmp_path, limit):
    done = subprocess.run(
        ["bash", "-c", f"ulimit -n {limit}; exec \"$@\"", "x",
         *command("a", "--steps", 50, "--workers", 3, "--batch_size", 9)],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-2000:]
    assert f"too many open files, the limit is {limit}: raise it" in done.stderr
    assert "`ulimit -n" in done.stderr  # torch's workers may add lines of their own


def test_little_shared_memory_is_one_line_with_the_remedy(tmp_path):
    small = ["unshare", "-m", "bash", "-c",
             "mount -t tmpfs -o size=1m tmpfs /dev/shm && exec \"$@\"", "x"]  # fmt: skip
    if shutil.which("unshare") is None or subprocess.run([*small, "true"]).returncode:
        pytest.skip("no file system can be mounted here")
    done = subprocess.run(
        [*small, *command("a", "--steps", 5, "--workers", 1, "--batch_size", 3000)],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-2000:]
    line = last_line(done.stderr)
    assert "the shared memory in /dev/shm is too small for the workers (1 MiB" in line
    assert "--workers 0" in line


@pytest.mark.parametrize(
    "text, remedy",
    [
        ("[Errno 24] Too many open files: 'a.jpg'", "ulimit -n"),
        ("received 0 items of ancdata", "ulimit -n"),
        ("unable to open shared memory object </torch_1_2_3> in read-write mode: Too many open "
         "files (24)", "ulimit -n"),
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ...",
         "--shm-size"),
        ("unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device",
         "--shm-size"),
        ("unable to write to file </torch_9_9_9>: No space left on device (28)", "--shm-size"),
        ("CUDA out of memory", ""),
        ("No space left on device: 'runs/a'", ""),
    ],
)  # fmt: skip
def test_shortages_are_told_by_their_text(text, remedy):
    assert remedy in shortage(text) and bool(shortage(text)) == bool(remedy)


def test_names_that_are_not_utf8_are_printed_and_logged(tmp_path, capsys):
    name = os.fsdecode(b"caf\xe9")
    done, folder = finish(tmp_path, name, "--steps", 2)
    assert done.returncode == 0, done.stderr
    again, _ = finish(tmp_path, name, "--steps", 4)
    assert again.returncode == 0 and "going on from" in (folder / "log.txt").read_text()

    @options.user_errors("x")
    def work():
        print(f"written: {name}.png")
        raise UserError(f"{name}.jpg: is missing")

    with pytest.raises(SystemExit, match="2"):
        work()
    printed = capsys.readouterr()
    assert "written: caf" in printed.out and "is missing" in printed.err
