"""Files of a dataset, written whole or not at all, read safely."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from nets.listing import list_folder, natural_key, report_left_out

__all__ = [
    "below",
    "list_folder",
    "natural_key",
    "read_arrays",
    "report_left_out",
    "whole_file",
    "write_table",
]


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Yields a file to write to. It gets its name when the block ends without an error.

    Creates the folder. Raises OSError that names `path`, and leaves no half-written file behind.
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


def write_table(path: str | Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a CSV file in UTF-8 with a line of column names, whole or not at all."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    with whole_file(path) as file:
        file.write(text.getvalue().encode("utf-8"))


def read_arrays(path: str | Path) -> np.ndarray | dict[str, np.ndarray]:
    """The array of a .npy file, or name -> array of a .npz file.

    Raises OSError if it cannot be opened, ValueError if it is damaged or holds Python objects.
    """
    with open(path, "rb") as file:
        try:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content
            with content:
                return {name: content[name] for name in content.files}
        except Exception as error:  # NumPy raises a dozen types of errors on damaged headers
            text = " ".join(str(error).split())[:200]
            raise ValueError(f"not a whole file of NumPy arrays: {text}") from error


def below(name: str) -> bool:
    """True if a relative name stays inside its folder, on every operating system."""
    parts = name.replace("\\", "/").split("/")
    return bool(parts[0]) and parts[0][1:2] != ":" and ".." not in parts and "\0" not in name


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
