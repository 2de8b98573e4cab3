"""What all benchmarks share: facts of the machine, choice of rows, reports, memory."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch


def facts() -> dict[str, Any]:
    """Versions, processor, threads and GPU, for the JSON beside the figures."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    model = re.search(r"model name\s*:\s*(.*)", text)
    able = [
        k for k in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if re.search(rf"\b{k}\b", text)
    ]
    return {
        "processor": model[1] if model else platform.processor(),
        "instructions": able,
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        # Names of files without the folders of this machine.
        "command": [Path(word).name if "/" in word else word for word in sys.argv],
    }


def choose(rows: Sequence[Any], part: str) -> list[Any]:
    """The row of that name, or the rows whose names contain it; ends the program if none does."""
    chosen = [row for row in rows if row.name == part] or [row for row in rows if part in row.name]
    if not chosen:
        names = ", ".join(dict.fromkeys(row.name for row in rows))
        sys.exit(f"{Path(sys.argv[0]).name}: no row is named like {part}; rows: {names}")
    return chosen


def needs_extra(error: ImportError) -> NoReturn:
    """End the program with the command that installs a missing package."""
    script = Path(sys.argv[0]).name
    sys.exit(f"{script}: needs {error.name}: pip install -e '.[benchmark]'")


def write_report(file: Path, content: dict[str, Any]) -> None:
    """Write a benchmark's results as JSON, with the facts of the machine before them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"machine": facts(), **content}, indent=1) + "\n")
    print(f"written: {file}")


def peak_memory(call: Callable[[], Any], device: torch.device) -> float:
    """Megabytes that a call takes at its peak beyond what was there before it.

    CPU: the growth of the resident set (Linux), weights and moments not counted; CUDA: allocations.
    """
    if device.type == "cuda":
        call()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    import ctypes

    call()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free goes back, so that it counts again
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    """A number of kilobytes from /proc/self/status."""
    return int(re.search(rf"{name}:\s*(\d+)", Path("/proc/self/status").read_text())[1])
