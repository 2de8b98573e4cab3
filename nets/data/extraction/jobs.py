"""Jobs on many files in several processes, with a progress bar; a second run continues."""

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
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from nets.data.detectors import Detector, open_detector
from nets.data.io.files import whole_file
from nets.data.io.images import heif_hint, is_image
from nets.data.io.video import is_video
from nets.errors import BadSample, UserError
from nets.listing import list_folder, report_left_out

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized
    from multiprocessing.synchronize import Event

RECORDS = "extraction"  # folder of the records below a dataset
Record = dict[str, Any]  # a job's result as JSON: "key" (see record_key) and what the job stores
_done: Synchronized[int] | None = None  # frames done, counted by all processes
_stop: Event | None = None  # set if all processes shall leave


@lru_cache(maxsize=2)
def detector(backend: str) -> Detector:
    """The detector of that name, opened once in each process."""
    return open_detector(backend)


def list_files(given: Iterable[str | Path], videos_only: bool = False) -> list[Path]:
    """The given files, and all images and videos below the given folders, in natural order.

    videos_only  no images
    One line on stderr names the other files of a folder. Raises UserError if a path is missing or
    a folder holds none of them, OSError if a folder cannot be read.
    """
    kind, plural = "image or video", "images and no videos"
    if videos_only:
        kind, plural = "video", "videos"

    def accepts(file: Path) -> bool:
        return is_video(file) or (not videos_only and is_image(file))

    files: dict[Path, Path] = {}  # by absolute path: a file that is given twice is used once
    for path in map(Path, given):
        if path.is_dir():
            inside, left_out = list_folder(path, accepts, True)
            if not inside:
                raise UserError(f"{path}: holds no {plural}")
            report_left_out(path, left_out, kind, heif_hint(left_out))
            found = inside
        elif path.exists():
            found = [path]
        else:
            raise UserError(f"{path}: no such file or folder")
        for file in found:
            files.setdefault(Path(os.path.abspath(file)), file)
    if not files:
        raise UserError("give photos, videos or folders")
    return list(files.values())


def record_key(source: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The key of a record: source file and settings. A job is done again if its key changes."""
    facts = source.stat()
    return {"source": str(source), "bytes": facts.st_size, "changed": facts.st_mtime_ns, **settings}


def read_record(path: Path, key: dict[str, Any]) -> Record | None:
    """The record of a finished job, or None if there is none with this key."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("key") == key else None


def is_of_another(path: Path, source: Path) -> bool:
    """True if a record is of another file than `source`, one that still exists."""
    try:
        other = Path(json.loads(path.read_text(encoding="utf-8"))["key"]["source"])
        return other.exists() and not other.samefile(source)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_record(path: Path, record: Record) -> None:
    """Write the record of a job, whole or not at all, after all its other files."""
    with whole_file(path) as file:
        file.write(json.dumps(record).encode())


def tick(frames: int = 1) -> None:
    """Add `frames` to the progress bar. Raises Stopped if another job ended the run."""
    if _stop is not None and _stop.is_set():
        raise Stopped("another job ended the extraction")
    if _done is not None:
        with _done.get_lock():
            _done.value += frames


class Stopped(RuntimeError):
    """The extraction was interrupted, or another job failed; written files stay."""


def run(
    work: Callable[..., Record],
    jobs: Sequence[tuple[Any, ...]],
    frames: int,
    workers: int,
    unit: str = "frame",
) -> list[Record]:
    """The results of work(*job) in the order of the jobs.

    frames   total to expect, for the progress bar
    workers  processes; 0: this process alone
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
                        future.result()  # raises at once, for example if the disk is full
                return [future.result() for future in futures]
            except BrokenProcessPool as error:
                raise UserError(
                    "a worker process died (out of memory?); the same command continues, "
                    "--workers 1 needs less memory"
                ) from error
            except BaseException:
                stop.set()  # the others leave at their next frame
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        _done = None
        bar.close()


def _begin(counter: Synchronized[int], stop: Event) -> None:
    """Set up a worker process."""
    global _done, _stop
    _done, _stop = counter, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process sets `stop`
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)  # the processes share the processor's cores


def _end_with_parent() -> None:
    """End this worker when the main process ends: a killed one cannot tell its workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # runs in workers only
    parent.join()
    os._exit(1)


def _safely(work: Callable[..., Record], job: tuple[Any, ...]) -> Record:
    try:
        return work(*job)
    except (BadSample, UserError) as error:
        return {"failed": str(error)}


def report(path: Path, lines: Sequence[str]) -> None:
    """Write the lines below a line with the date; without lines delete the file."""
    if not lines:
        path.unlink(missing_ok=True)
        return
    with whole_file(path) as file:
        head = time.strftime("left out, %Y-%m-%d %H:%M")
        file.write("\n".join([head, *lines, ""]).encode(errors="surrogateescape"))
