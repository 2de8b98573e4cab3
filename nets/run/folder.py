"""The folder of a run: open, lock, describe.

<run_dir>/<name or time>/ holds config.yaml, log.txt, checkpoints/, images/, tensorboard/ and
environment.json. The lock file .lock keeps a second run out while the first one lives.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nets.errors import UserError
from nets.run import checkpoints, options
from nets.run.files import Lock, write_text
from nets.run.precision import processor_facts

RECORDS = {".lock", "config.yaml", "environment.json", "log.txt"}
FOLDERS = ("checkpoints", "images", "tensorboard")


def open_folder(args: Any, renamed: Mapping[str, str]) -> tuple[Path, Lock, bool]:
    """The run folder of these options, locked, with its sub-folders and its config.yaml; True if
    it is new.

    renamed  names that options had in earlier versions -> today's

    With --name it is that folder. Without, it is the newest unfinished one of the same options, so
    that the same command continues it; else a new one, named after the time.
    Raises UserError if another run writes there, or if --resume never meets checkpoints.
    """
    root = Path(args.run_dir)
    before = set(root.iterdir()) if root.is_dir() else set()
    if args.name:
        folder, lock = _named(root / args.name)
    else:
        folder, lock = _unfinished(root, args, renamed) or _new(root)
    new = folder not in before
    if args.resume == "never" and checkpoints.stored(folder / "checkpoints"):
        raise UserError(f"{folder}: holds checkpoints; give another --name, or --resume auto")
    for name in FOLDERS:
        (folder / name).mkdir(exist_ok=True)
    for name in ("", *FOLDERS):
        for leftover in (folder / name).glob(".*.tmp"):
            leftover.unlink()
    if not checkpoints.stored(folder / "checkpoints"):  # else when they are seen to fit
        options.save(args, folder / "config.yaml")
    return folder, lock, new


def discard(folder: Path) -> None:
    """Delete a run folder that holds nothing but the records of a start."""
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    if all(name in RECORDS or name.startswith("tensorboard/events.") for name in files):
        shutil.rmtree(folder, ignore_errors=True)


def describe(folder: Path, device: torch.device, ranks: int, finished: bool) -> None:
    """Write environment.json: versions, revision, command line, device, finished or not."""
    facts = {
        "finished": finished,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "device": device_name(device),
        "ranks": ranks,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "revision": _revision(),
    }
    write_text(folder / "environment.json", json.dumps(facts, indent=1) + "\n")


def device_name(device: torch.device) -> str:
    """The name of the GPU, or of the processor with its number of usable cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = processor_facts().get("cpu_name") or platform.processor()
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def _named(folder: Path) -> tuple[Path, Lock]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder / ".lock")
    if not lock.acquire():
        raise UserError(f"{folder}: another run is writing there; give another --name")
    return folder, lock


def _unfinished(root: Path, args: Any, renamed: Mapping[str, str]) -> tuple[Path, Lock] | None:
    if args.resume == "never":
        return None
    asked = options.plain(args)
    for config in sorted(root.glob("*/config.yaml"), reverse=True):
        folder, lock = config.parent, Lock(config.parent / ".lock")
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            facts = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
            before = options.rename(options.read_yaml(config), renamed)
            common = before.keys() & asked.keys()  # another version may have had more
            same = bool(common) and all(before[key] == asked[key] for key in common)
            if not facts["finished"] and same and lock.acquire():
                return folder, lock
    return None


def _new(root: Path) -> tuple[Path, Lock]:
    stamp = time.strftime("%Y-%m-%dT%H-%M-%S")
    for suffix in ("", *(f"_{i}" for i in range(2, 100))):
        folder = root / f"{stamp}{suffix}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return _named(folder)
    raise UserError(f"{root}: cannot make a new run folder there")


def _revision() -> str | None:
    """The git revision of this program, with a + if files were changed."""
    here = Path(__file__).parent
    ask = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
