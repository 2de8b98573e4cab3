"""Atomic writes, files that only grow, and the lock of a run folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast


class _Remembering:
    """A binary file that keeps the first OSError of a write.

    torch.save turns such an error into a RuntimeError without the file's name.
    """

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self.file.flush()


def write_atomic(path: Path, write: Callable[[IO[bytes]], object], durable: bool = True) -> None:
    """Write a file so that `path` holds all of it, or still what it held before.

    write    writes the bytes to a temporary file in the same folder, which is then renamed
    durable  also wait until file and folder are on the disk, so that a power cut loses nothing
    Raises OSError that names `path`; the temporary file is removed.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    guarded = None
    try:
        with open(temporary, "wb") as file:
            guarded = _Remembering(file)
            write(cast(IO[bytes], guarded))  # torch.save and the writers here need no more
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
    """A file that only grows. Each write is complete at once, or raises OSError with its name."""

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
    """Write `text` as UTF-8, atomically."""
    write_atomic(path, lambda file: file.write(text.encode(errors="surrogateescape")))


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Lock:
    """A lock file that one living process holds; it is free again when that process dies.

    It is a POSIX record lock. Unlike flock's, forked data workers do not inherit it, so a worker
    that outlives its killed parent by some seconds does not keep the folder.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock; False if another process holds it."""
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
