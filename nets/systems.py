"""What the scripts need of each system beside a training loop.

    nets/NAME/infer.py      add_options(parser), infer(args, content, path, ranks)
    nets/NAME/evaluate.py   add_options(parser), evaluate(args, content, path, ranks)

Above the systems, which do not know each other; below the scripts.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from nets.errors import UserError
from nets.published import SYSTEMS
from nets.run import options


def module(system: str, part: str) -> ModuleType:
    """nets/SYSTEM/PART.py, e.g. "vunet", "infer"."""
    return importlib.import_module(f"nets.{system}.{part}")


def add_options(parser: options.ArgumentParser, part: str) -> dict[str, str]:
    """Add to a parser the options that each system's `part` has for itself, a group a system;
    returned: option -> system.
    """
    owners: dict[str, str] = {}
    for system in SYSTEMS:
        shared = {action.dest for action in parser._actions}
        module(system, part).add_options(parser)
        owners |= {a.dest: system for a in parser._actions if a.dest not in shared | owners.keys()}
    return owners


def refuse_foreign(
    args: options.Namespace, parser: options.ArgumentParser, owners: dict[str, str], system: str
) -> None:
    """Raise UserError where an option was set that only another system has."""
    for name, owner in owners.items():
        if owner != system and args[name] != parser.get_default(name):
            raise UserError(f"--{name}: an option of {owner}; this is a checkpoint of {system}")


def call(system: str, part: str, function: str, *args: Any) -> Any:
    """The result of nets/SYSTEM/PART.py's function. Raises UserError where this version
    has no such system.
    """
    if system not in SYSTEMS:
        raise UserError(f"a checkpoint of {system}: this version knows {', '.join(SYSTEMS)}")
    return getattr(module(system, part), function)(*args)
