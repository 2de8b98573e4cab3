"""Calls the system that a checkpoint belongs to, for infer.py and evaluate.py.

    nets/NAME/infer.py      add_options(parser), infer(args, content, path, ranks)
    nets/NAME/evaluate.py   add_options(parser), evaluate(args, content, path, ranks)

The scripts import this module; the systems do not know it, nor each other.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Literal

from nets.errors import UserError
from nets.published import SYSTEMS
from nets.run import options
from nets.run.options import NonNegativeInt


def module(system: str, part: str) -> ModuleType:
    """The module nets/SYSTEM/PART.py, e.g. of "vunet" and "infer"."""
    return importlib.import_module(f"nets.{system}.{part}")


def add_options(parser: options.ArgumentParser, part: str) -> dict[str, str]:
    """Adds each system's own options for `part` to a parser; returns {option: system}."""
    owners: dict[str, str] = {}
    for system in SYSTEMS:
        shared = {action.dest for action in parser._actions}
        module(system, part).add_options(parser)
        owners |= {a.dest: system for a in parser._actions if a.dest not in shared | owners.keys()}
    return owners


# fmt: off
def add_checkpoint(group: Any) -> None:
    """Adds the options that choose a trained network; `nets.published.find` takes their values."""
    group.add_argument("--checkpoint", type=str | None, default=None,
        help="a checkpoint or run folder, an original's too, or hf://OWNER/NAME[@REVISION], which "
        "is downloaded; default: the newest under runs/, or the weights that come with guise")
    group.add_argument("--system", type=Literal[SYSTEMS] | None, default=None,
        help="without --checkpoint: the newest run of this system, or its weights")


FITTING = ("vunet", "bilayer")  # the systems that have --fit_steps


def add_fit(group: Any) -> None:
    """Adds --fit_steps; see `nets/vunet/fitting.py` and `nets/bilayer/fitting.py`."""
    group.add_argument("--fit_steps", type=NonNegativeInt | None, default=None,
        help="steps of fitting the network to each person's source images, so that the result "
        "looks like the person; 0: none; default: as the checkpoint's presets say, 0 for people of "
        "the demo worlds")
# fmt: on


def training_options() -> dict[str, str]:
    """All names of the training scripts' options, the originals' included -> today's names."""
    names: dict[str, str] = {}
    for system in SYSTEMS:
        published = module(system, "published")
        own = (
            action.dest.split(".")[0] for action in module(system, "options").parser("")._actions
        )
        others = (*getattr(published, "LEFT_OUT", ()), *getattr(published, "GROUPS", ()))
        names |= {name: name for name in (*own, *others)}
        names |= published.RENAMED
    return names


def refuse_foreign(
    args: options.Namespace, parser: options.ArgumentParser, owners: dict[str, str], system: str
) -> None:
    """Raises UserError if an option of another system was set."""
    for name, owner in owners.items():
        if owner != system and args[name] != parser.get_default(name):
            raise UserError(f"--{name}: an option of {owner}; this is a checkpoint of {system}")


def refuse_shared(
    args: options.Namespace,
    parser: options.ArgumentParser,
    owners: Mapping[str, Sequence[str]],
    system: str,
) -> None:
    """Raises UserError if an option of several other systems, {option: systems}, was set."""
    for name, having in owners.items():
        if system not in having and args[name] != parser.get_default(name):
            raise UserError(
                f"--{name}: an option of {' and '.join(having)}; this is a checkpoint of {system}"
            )


def call(system: str, part: str, function: str, *args: Any) -> Any:
    """Calls a function of nets/SYSTEM/PART.py and returns its result.

    Raises UserError if this version has no such system.
    """
    if system not in SYSTEMS:
        raise UserError(f"a checkpoint of {system}: this version knows {', '.join(SYSTEMS)}")
    return getattr(module(system, part), function)(*args)
