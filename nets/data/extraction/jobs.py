"""Jobs on many files in several processes and on several machines; a second run continues."""

from __future__ import annotations

import atexit
import gc
import json
import multiprocessing
import os
import signal
import sys
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

from nets.contracts import Result, Team
from nets.data.detectors import Detector, open_detector
from nets.data.io.files import whole_file
from nets.data.io.images import heif_hint, is_image
from nets.data.io.video import is_video
from nets.errors import BadSample, UserError
from nets.listing import list_folder, natural_key, report_left_out

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized
    from multiprocessing.synchronize import Event

RECORDS = "extraction"  # folder of the records below a dataset
# A job's result as JSON: "key" (see record_key), "path" of its source, and what the job stores.
Record = dict[str, Any]
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
    record = _read(path)
    return record if record.get("key") == key else None


def source_of(record: Record) -> Path | None:
    """The absolute path of a record's source, or None if it is gone."""
    key = record.get("key")
    path = record.get("path", key.get("source") if isinstance(key, dict) else None)
    return Path(os.path.abspath(path)) if isinstance(path, str) and os.path.exists(path) else None


def is_of_another(path: Path, source: Path) -> bool:
    """True if a record is of another file than `source`, one that still exists."""
    other = source_of(_read(path))
    try:
        return other is not None and not other.samefile(source)
    except OSError:
        return False


def all_records(folder: Path) -> dict[str, Record]:
    """The records in a folder by name, in natural order."""
    if not folder.is_dir():
        return {}
    files = sorted(folder.glob("*.json"), key=lambda file: natural_key(file.name))
    return {file.stem: record for file in files if (record := _read(file))}


def write_record(path: Path, source: Path, record: Record) -> None:
    """Write the record of a job, whole or not at all, after all its other files."""
    with whole_file(path) as file:
        file.write(json.dumps({**record, "path": os.path.abspath(source)}).encode())


def _read(path: Path) -> Record:
    """The content of a record, empty if it cannot be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def tick(frames: int = 1) -> None:
    """Add `frames` to the progress bar. Raises Stopped if another job ended the run."""
    if _stop is not None and _stop.is_set():
        raise Stopped("another job ended the extraction")
    if _done is not None:
        with _done.get_lock():
            _done.value += frames


class Stopped(RuntimeError):
    """The extraction was interrupted, or another job failed; written files stay."""


class Alone:
    """A team of one process."""

    rank, world_size = 0, 1

    def on_main(self, work: Callable[[], Result]) -> Result:
        return work()

    def gather(self, value: Any) -> list[Any]:
        return [value]


def share(
    team: Team,
    work: Callable[..., Record],
    jobs: Sequence[tuple[Any, ...]],
    count: Callable[[Any], int],
    workers: int,
) -> list[Record] | None:
    """The results of work(*job) in the order of the jobs; None on all ranks but 0.

    Each rank does every n-th job, n being the number of ranks, then waits for the others.

    count    first element of a job -> number of frames to expect, for the progress bar of rank 0
    workers  processes of each rank
    """
    mine = jobs[team.rank :: team.world_size]
    shown = team.rank == 0 and sys.stderr.isatty()  # else no video is opened to count its frames
    frames = sum(count(job[0]) for job in mine) if shown else 0
    results = run(work, mine, frames, workers, team.rank == 0)
    if team.world_size > 1 and team.rank == 0:
        print("rank 0 is done, waiting for the other ranks", file=sys.stderr, flush=True)
    parts = team.gather(results)
    if team.rank != 0:
        return None
    return [parts[i % len(parts)][i // len(parts)] for i in range(len(jobs))]


def run(
    work: Callable[..., Record],
    jobs: Sequence[tuple[Any, ...]],
    frames: int,
    workers: int,
    with_bar: bool = True,
) -> list[Record]:
    """The results of work(*job) in the order of the jobs.

    frames    total to expect, for the progress bar
    workers   processes; 0: this process alone
    with_bar  show the progress bar
    A job that raises BadSample or UserError gives {"failed": text}; the others go on.
    """
    global _done
    workers = min(workers, len(jobs))
    context = multiprocessing.get_context("spawn")
    hidden = None if with_bar else True  # None: where stderr is no terminal
    bar = tqdm(total=frames, unit="frame", smoothing=0.05, disable=hidden)
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
    atexit.register(gc.freeze)  # at exit Python need not look through half a million objects
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
