"""Files of folders: listed in natural order, hidden ones skipped, linked folders entered.

Everything that lists a folder does it here.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

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


def walk(folder: str | Path, recursive: bool = True) -> Iterator[Path]:
    """Yields the files of a folder, in no order.

    recursive  also the files of all folders below; linked folders are entered, loops are not
    Hidden files and folders, whose names start with a dot, are skipped.
    Raises OSError if a folder cannot be read.
    """
    for file, _ in _entries(Path(folder), recursive):
        yield file


def list_folder(
    folder: str | Path, accepts: Callable[[Path], bool], recursive: bool = False
) -> Listing:
    """The files of a folder in natural order, divided by `accepts`; see `walk`.

    Pipes, sockets and devices are left out: opening one may wait for ever.
    """
    result = Listing([], [])
    entries = sorted(_entries(Path(folder), recursive), key=lambda entry: natural_key(entry[0]))
    for file, special in entries:
        (result.files if not special and accepts(file) else result.left_out).append(file)
    return result


def list_folders(folder: str | Path) -> list[Path]:
    """The folders in a folder, linked ones too, in natural order; hidden ones are skipped.

    Raises OSError if the folder cannot be read.
    """
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
    return [Path(folder) / name for name in sorted(names, key=natural_key)]


def report_left_out(
    folder: str | Path, left_out: Sequence[Path], kind: str, hint: str = ""
) -> None:
    """Print one line on stderr that counts and names files that are no `kind`, if there are any.

    hint  further text, such as a remedy
    """
    if not left_out:
        return
    names = [file.name for file in left_out[:MOST_NAMES]]
    names += ["..."] if len(left_out) > MOST_NAMES else []
    count = "1 file" if len(left_out) == 1 else f"{len(left_out)} files"
    more = f"; {hint}" if hint else ""
    print(
        f"{folder}: left out {count}, no {kind}: {', '.join(names)}{more}",
        file=sys.stderr,
        flush=True,
    )


def _entries(folder: Path, recursive: bool) -> Iterator[tuple[Path, bool]]:
    """Yields (file, True if it is a pipe, socket or device) as `walk`."""
    places: list[tuple[Path, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while places:
        place, above = places.pop()
        facts = os.stat(place)
        identity = (facts.st_dev, facts.st_ino)
        if identity in above:  # a link to a folder that contains it
            continue
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not entry.is_dir():
                    broken_link = entry.is_symlink() and not os.path.exists(entry.path)
                    yield place / entry.name, not (entry.is_file() or broken_link)
                elif recursive:
                    places.append((place / entry.name, above | {identity}))
