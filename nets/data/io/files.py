"""Files of a dataset: listed in natural order, written whole or not at all, read safely."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

MOST_NAMES = 5  # names in a message


class Listing(NamedTuple):
    """The files of a folder in natural order: the accepted ones, and the others."""

    files: list[Path]
    left_out: list[Path]


def natural_key(path: str | Path) -> tuple[list[list[str | int]], str]:
    """Sort key that compares numbers in names by value: 2.jpg comes before 10.jpg."""
    parts = [re.split(r"([0-9]+)", part) for part in Path(path).parts]  # text and digits by turns
    pieces = [[int(p) if i % 2 else p for i, p in enumerate(part)] for part in parts]
    return pieces, str(path)


def list_folder(
    folder: str | Path, accepts: Callable[[Path], bool], recursive: bool = False
) -> Listing:
    """The files of a folder in natural order, divided by `accepts`.

    recursive  also the files of all folders below; linked folders are entered, loops are not
    Hidden files and folders, whose names start with a dot, are skipped and not counted.
    Raises OSError if a folder cannot be read.
    """
    files: list[Path] = []

    def enter(place: Path, above: frozenset[tuple[int, int]]) -> None:
        facts = os.stat(place)
        identity = (facts.st_dev, facts.st_ino)
        if identity in above:  # a link to a folder that contains it
            return
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not entry.is_dir():
                    files.append(place / entry.name)
                elif recursive:
                    enter(place / entry.name, above | {identity})

    enter(Path(folder), frozenset())
    files.sort(key=natural_key)
    accepted = [accepts(file) for file in files]
    return Listing(
        [file for file, yes in zip(files, accepted, strict=True) if yes],
        [file for file, yes in zip(files, accepted, strict=True) if not yes],
    )


def report_left_out(folder: str | Path, left_out: Sequence[Path], kind: str) -> None:
    """Print one line on stderr that counts and names files that are no `kind`, if there are any."""
    if not left_out:
        return
    names = [file.name for file in left_out[:MOST_NAMES]]
    names += ["..."] if len(left_out) > MOST_NAMES else []
    count = "1 file" if len(left_out) == 1 else f"{len(left_out)} files"
    print(f"{folder}: left out {count}, no {kind}: {', '.join(names)}", file=sys.stderr, flush=True)


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
