"""Files that are either whole or not there: atomic writes and the lock of a run folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO


class _Remembering:
    """A binary file that keeps the first OSError of a write.

    torch.save turns an error of the file below it into a RuntimeError without the file's name.
    """

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.error: OSError | None = None

    def write(self, data) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self.file.flush()


def write_atomic(path: Path, write: Callable[[IO[bytes]], object], durable: bool = True) -> None:
    """`path` holds all that `write(file)` wrote, or what it held before.

    The bytes go to a temporary name in the same folder, which is renamed when they are complete;
    durable  also wait until file and folder are on the disk, so that a power cut loses nothing.
    Raises OSError that names `path`; the temporary file is gone then.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    guarded = None
    try:
        with open(temporary, "wb") as file:
            guarded = _Remembering(file)
            write(guarded)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        cause = guarded.error if guarded is not None and guarded.error else error
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror, str(path)) from error
        raise
    if durable:
        sync_folder(path.parent)


class Appending:
    """A file that only grows. Each piece is in it at once and whole, or OSError names the file."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115  open for the run

    def write(self, data: bytes) -> None:
        try:
            while data:  # the last bytes of a full disk are written without an error
                data = data[self._file.write(data) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Appending:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_text(path: Path, text: str) -> None:
    """`path` holds `text` as UTF-8, written atomically."""
    write_atomic(path, lambda file: file.write(text.encode()))


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Lock:
    """Only one living process holds `path`; a process that dies lets go of it.

    A POSIX record lock: unlike flock's it is not inherited by forked data workers, so a worker
    that outlives its killed parent by some seconds does not keep the folder.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """True if this process holds the lock now, False if another one does."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
