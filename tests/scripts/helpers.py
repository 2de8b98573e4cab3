"""Starting the scripts as a user does, and small data in the formats they read."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from nets.data.index import write_index
from nets.data.pictures import write_picture
from nets.data.worlds.people import PeopleWorld

ROOT = Path(__file__).resolve().parents[2]
# Not --master_port=0: the ranks would be told port 0 and wait for it.
FREE_PORT = ["--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]


def script(name, *arguments, cwd, ranks=0, timeout=300, **environment):
    """Run a script in a process of its own; returns it with stdout and stderr."""
    start = [sys.executable]
    if ranks:
        start += ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}", *FREE_PORT]
    return subprocess.run(
        [*start, str(ROOT / name), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def last_line(process):
    return process.stderr.strip().splitlines()[-1]


def index_folder(folder, count=12, size=48):
    """A dataset with an index.p: pictures of the demo world, every third one for testing."""
    world = PeopleWorld("train", size, length=count)
    samples = world.__getitems__([(0, i) for i in range(count)])
    names = [f"images/{i}.png" for i in range(count)]
    for name, sample in zip(names, samples, strict=True):
        write_picture(folder / name, sample["target"])
    joints = torch.stack([s["joints"] for s in samples]) / size
    train = [i % 3 != 0 for i in range(count)]
    write_index(folder / "index.p", list(world.joint_order), names, joints.numpy(), train)
    return folder / "index.p"
