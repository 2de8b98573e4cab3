"""Packages of detectors, imported when a detector is opened."""

from __future__ import annotations

import importlib
from typing import Any

from nets.errors import UserError

INSTALL = "pip install -e '.[{}]'"


def import_package(name: str, package: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{package} is needed to detect people and faces, but cannot be imported ({error}): "
            f"{INSTALL.format(extra)}"
        ) from error
