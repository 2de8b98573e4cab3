"""Packages of detectors, imported when a detector is opened."""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any

from nets.errors import UserError

INSTALL = "pip install -e '.[{}]'"


class _Later(types.ModuleType):
    """Stands in for a module, which is imported when an attribute of it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def imported_later(*names: str) -> Iterator[None]:
    """Packages that are imported in the block import these modules at their first use only.

    Modules that are already imported stay as they are.
    """
    later = {name: _Later(name) for name in names if name not in sys.modules}
    for name, module in later.items():
        parent, _, last = name.rpartition(".")
        if parent in later:
            setattr(later[parent], last, module)
    sys.modules.update(later)
    try:
        yield
    finally:
        for name, module in later.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def import_package(name: str, package: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{package} is needed to detect people and faces, but cannot be imported ({error}): "
            f"{INSTALL.format(extra)}"
        ) from error
