"""Files of a dataset: written whole or not at all; NumPy's, read without running anything."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to write to, which takes its name when the block ends without an error; the folder is
    made. Raises OSError that names `path`, and leaves nothing half-written behind.
    """
    path, scratch = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(scratch, 0o666 & ~_umask())
        os.replace(scratch, path)
    except BaseException as error:
        if scratch is not None:
            with contextlib.suppress(OSError):
                os.unlink(scratch)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def read_arrays(path: str | Path) -> np.ndarray | dict[str, np.ndarray]:
    """The array of a .npy file, or name -> array of a .npz.

    Raises OSError where it cannot be opened, ValueError where it is broken or holds objects.
    """
    with open(path, "rb") as file:
        try:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content
            with content:
                return {name: content[name] for name in content.files}
        except Exception as error:  # a broken header leads NumPy to a dozen types of them
            text = " ".join(str(error).split())[:200]
            raise ValueError(f"not a whole file of NumPy arrays: {text}") from error


def below(name: str) -> bool:
    """Whether a name stays below the folder that it is relative to, on every system."""
    parts = name.replace("\\", "/").split("/")
    return bool(parts[0]) and parts[0][1:2] != ":" and ".." not in parts and "\0" not in name


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
