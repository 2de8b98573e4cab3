"""Starting the scripts as a user does."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
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


def bundle(**networks):
    """The content of a file of MediaPipe with these networks."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as file:
        for name, network in networks.items():
            file.writestr(f"{name}.tflite", network)
    return content.getvalue()
