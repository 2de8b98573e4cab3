"""Work on many files: in several processes, with progress, and going on where it was stopped."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from nets.data.detectors import Detector, open_detector
from nets.data.io.files import whole_file
from nets.data.io.images import SUFFIXES
from nets.data.io.video import is_video
from nets.errors import BadSample, UserError

RECORDS = "extraction"  # folder of the records below a dataset
_done = _stop = None  # shared by all processes: frames done, and whether to leave


@lru_cache(maxsize=2)
def detector(backend: str) -> Detector:
    """A detector, opened once in a process."""
    return open_detector(backend)


def list_files(given: Iterable[str | Path]) -> list[Path]:
    """Images and videos: the files themselves, and those anywhere below folders, sorted.

    Raises UserError where one is missing or a folder holds none, OSError where one may not be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    files: list[Path] = []
    for path in map(Path, given):
        if path.is_dir():
            below = (
                Path(at) / name for at, _, names in os.walk(path, onerror=refuse) for name in names
            )
            found = sorted(p for p in below if p.suffix.lower() in SUFFIXES or is_video(p))
            found = [p for p in found if not p.name.startswith(".")]
            if not found:
                raise UserError(f"{path}: holds no images and no videos")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise UserError(f"{path}: no such file or folder")
    if not files:
        raise UserError("give the photos, videos or folders to work on")
    return list(dict.fromkeys(files))


def record_key(source: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What a record was made from: another file or other settings make it anew."""
    facts = source.stat()
    return {"source": str(source), "bytes": facts.st_size, "changed": facts.st_mtime_ns, **settings}


def read_record(path: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a job that is done already, or None."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("key") == key else None


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a result, whole or not at all: last of all that a job writes."""
    with whole_file(path) as file:
        file.write(json.dumps(record).encode())


def tick(frames: int = 1) -> None:
    """Tell the bar of progress that so many frames are done."""
    if _stop is not None and _stop.is_set():
        raise Stopped("another job ended the extraction")
    if _done is not None:
        with _done.get_lock():
            _done.value += frames


class Stopped(RuntimeError):
    """The extraction was interrupted, or another job cannot go on; what is written stays."""


def run(
    work: Callable[..., dict[str, Any]],
    jobs: Sequence[tuple],
    frames: int,
    workers: int,
    unit: str = "frame",
) -> list[dict[str, Any]]:
    """The results of work(*job) in the order of the jobs, in `workers` processes; 0: in this one.

    frames  how many to expect in all, for the bar of progress with the time that remains
    A job that raises BadSample or UserError gives {"failed": text}; the others go on.
    """
    global _done
    workers = min(workers, len(jobs))
    context = multiprocessing.get_context("spawn")
    bar = tqdm(total=frames, unit=unit, smoothing=0.05, disable=None)
    _done = counter = context.Value("q", 0)
    try:
        if workers < 1:
            results = []
            for job in jobs:
                results.append(_safely(work, job))
                bar.update(min(counter.value, frames) - bar.n)
            return results
        stop = context.Event()
        with ProcessPoolExecutor(workers, context, _begin, (counter, stop)) as pool:
            try:
                futures = [pool.submit(_safely, work, job) for job in jobs]
                waiting = set(futures)
                while waiting:
                    done, waiting = wait(waiting, 0.5, FIRST_COMPLETED)
                    bar.update(min(counter.value, frames) - bar.n)
                    for future in done:
                        future.result()  # a full disk ends all, now
                return [future.result() for future in futures]
            except BrokenProcessPool as error:
                raise UserError(
                    "a process that extracts died (out of memory?); the same command goes on, "
                    "--workers 1 needs less memory"
                ) from error
            except BaseException:
                stop.set()  # the others leave at their next frame
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        _done = None
        bar.close()


def _begin(counter: Any, stop: Any) -> None:
    global _done, _stop
    _done, _stop = counter, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process says when to leave
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)  # the processes share the processor's cores


def _end_with_parent() -> None:
    """A process that is killed tells its workers nothing: they would work on, then wait forever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _safely(work: Callable[..., dict[str, Any]], job: tuple) -> dict[str, Any]:
    try:
        return work(*job)
    except (BadSample, UserError) as error:
        return {"failed": str(error)}


def report(path: Path, lines: Sequence[str]) -> None:
    """Write what was left out and why, one line each, with the date; nothing: no file."""
    if not lines:
        path.unlink(missing_ok=True)
        return
    with whole_file(path) as file:
        head = time.strftime("left out, %Y-%m-%d %H:%M")
        file.write("\n".join([head, *lines, ""]).encode())
