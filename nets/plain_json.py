"""JSON files, in which a key that stands twice is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def load(path: str | Path) -> Any:
    """The value of a JSON file in UTF-8, with or without a byte order mark.

    Raises OSError if it cannot be read, and ValueError if it is not JSON or has a key twice: the
    json module would silently take the last value.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: {error.reason} at byte {error.start}") from error
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return result
