"""Names of files: those that are written, each used once, and those that annotations name."""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

LONGEST = 100  # bytes of a name, so that two names and an ending fit into the 255 of file systems
UNSAFE = re.compile(r"[\s\x00-\x1f\x7f/\\:*?\"<>|\ud800-\udfff]")


def safe_name(text: str) -> str:
    """The text as a file's name: blanks and characters that systems refuse become underscores.

    A name that would be hidden begins with an underscore. Long names are cut.
    """
    name = UNSAFE.sub("_", unicodedata.normalize("NFC", text))
    name = name.encode()[:LONGEST].decode(errors="ignore")
    return f"_{name[1:]}" if name.startswith(".") or not name else name


def unique_names(
    names: Sequence[str],
    endings: Sequence[str] = ("",),
    is_taken: Callable[[int, str], bool] = lambda place, name: False,
    used: Iterable[str] = (),
) -> list[str]:
    """A safe name for each name, none used twice with any of the endings; a number is appended.

    is_taken  (place in `names`, safe name) -> True if it must not be used
    used      names that are used already
    Upper and lower case count as equal, as on many disks. A name that is safe as it is comes first.
    """
    taken = {name.casefold() for name in used}
    safe = [safe_name(name) for name in names]
    first: set[str] = set()
    later = []
    for name, plain in zip(names, safe, strict=True):
        later.append(plain != name or plain in first)
        first |= {plain} if plain == name else set()
    result = [""] * len(names)
    counts: dict[str, int] = {}
    for place in sorted(range(len(names)), key=later.__getitem__):
        for number in itertools.count(counts.get(safe[place], 1)):
            name = safe[place] if number == 1 else f"{safe[place]}_{number}"
            keys = {f"{name}{ending}".casefold() for ending in endings}
            if not keys & taken and not is_taken(place, name):
                break
        counts[safe[place]] = number + 1
        taken |= keys
        result[place] = name
    return result


def distinct(names: list[str]) -> list[str]:
    """The names, with its place appended to each that occurs twice; as files they differ too."""
    count = Counter(names)
    numbered = [f"{n}_{i + 1}" if count[n] > 1 else n for i, n in enumerate(names)]
    unique = unique_names(numbered)
    return [n if u == safe_name(n) else u for n, u in zip(numbered, unique, strict=True)]


class Paths:
    """Paths to write, each given out once: `Paths()(path)` is the path, or one with a number."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def __call__(self, path: Path) -> Path:
        for number in itertools.count(1):
            free = path if number == 1 else path.with_name(f"{path.stem}_{number}{path.suffix}")
            if str(free).casefold() not in self._given:
                self._given.add(str(free).casefold())
                return free
        raise AssertionError  # the numbers do not end


def pair_name(source: str, driving: str, ending: str = "") -> str:
    """Name of a transfer's file: SOURCE--DRIVING and the ending, both made safe."""
    return f"{safe_name(source)}--{safe_name(driving)}{ending}"


def relative_names(files: Sequence[Path], given: Iterable[str | Path]) -> list[str]:
    """The path of each file relative to the given folder that holds it, else its own name."""
    roots = [Path(root) for root in given if Path(root).is_dir()]
    names = []
    for file in files:
        inside = next((root for root in roots if file.is_relative_to(root)), None)
        names.append(file.name if inside is None else file.relative_to(inside).as_posix())
    return names


def path_key(name: str) -> str:
    """A path in one spelling: without `./`, and with composed letters, which macOS takes apart."""
    return unicodedata.normalize("NFC", PurePosixPath(name).as_posix())


def is_windows_path(name: str) -> bool:
    """True for `C:\\\\a`, `C:/a` and `a\\\\b`."""
    return "\\" in name or name[1:2] == ":"


def is_foreign(folder: str | Path, name: str) -> bool:
    """True if `name` is a path of Windows, and no file in `folder` is really called so."""
    return is_windows_path(name) and not (Path(folder) / name).exists()


def find_by_path(keys: Mapping[str, object], path: str | Path) -> str | None:
    """The longest key with which a file's path ends, folder by folder; None if there is none.

    keys  of `path_key`. A key that ends in ".*" stands for all endings
    """
    parts = path_key(os.path.abspath(path)).split("/")
    for start in range(len(parts)):
        end = "/".join(parts[start:])
        for key in (end, f"{end.rpartition('.')[0]}.*"):
            if key in keys:
                return key
    return None
