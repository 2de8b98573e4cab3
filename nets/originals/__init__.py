"""Reading what the originals wrote: configurations, checkpoints.

One module a system, each with `load(path, **options) -> (model, options)`: the project's own model
in eval mode, with every switch set that these weights need, and the options of its training script
that describe it. A module whose files also say where training stood has `read(path, **options)`,
a checkpoint's content as `nets.run.checkpoints` has it; `load` then builds on that.

    python -m nets.originals IN OUT     writes OUT, a checkpoint (.pt) or OUT.safetensors

A .safetensors that this made is read back as what it was made of.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nets.errors import UserError
from nets.states import read_plain, read_safetensors

SYSTEMS = ("vunet", "landmarks", "bilayer", "dcign")


def load(system: str, path: str | Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The model that a file or folder of an original holds, in eval mode, and its options.

    system   "vunet", "landmarks", "bilayer" or "dcign"
    options  override what is read off the weights or taken as the original's default
    Raises UserError where it is not that system's, with the first three differences; nothing is
    half-loaded. Files are read as data: one with code inside is refused.
    """
    return _module(system).load(path, **options)


def recognise(path: str | Path, held: Any = None) -> str | None:
    """The system that wrote a file or folder, told from the content; None where it is nobody's.

    held  what `read_plain(path)` gave, if the file has been read already
    """
    path = Path(path)
    if path.is_dir():
        if (path / "args.txt").is_file() and (path / "checkpoints").is_dir():
            return "bilayer"
        torch7 = (path / name for name in ("parameters.t7", "vxnet.net"))
        return "dcign" if any(file.is_file() for file in torch7) else None
    if path.suffix in (".t7", ".net"):
        return "dcign"
    held = read_plain(path) if held is None else held
    if not isinstance(held, Mapping):
        return None
    inner = held.get("model")
    names = inner if isinstance(inner, Mapping) else held
    names = [str(name).removeprefix("module.") for name in names]  # as a parallel model saves it
    for system, starts in {
        "vunet": ("f_phi.", "e_theta.", "enc_up/", "dec_down/"),
        "landmarks": ("shape_encoder.", "appearance_encoder."),
        "bilayer": ("net.enc.", "gen_tex", "net.mlp.", "gen_inf", "net.first_conv.", "net.blocks."),
    }.items():
        if any(name.startswith(starts) for name in names):
            return system
    return None


def read(path: str | Path, held: Any = None) -> dict[str, Any] | None:
    """An original's file or folder as a checkpoint's content; None where it is nobody's.

    held     see `recognise`
    returns  {"system", "step", "options", "parts": {"model", ...}, "kind": one line for people}
    """
    converted = _converted(Path(path))
    if converted is not None:
        return converted
    system = recognise(path, held)
    if system is None:
        return None
    module = _module(system)
    if hasattr(module, "read"):
        return {"system": system, **module.read(path)}
    model, options = module.load(path)
    options = dict(options)
    return {
        "system": system,
        "step": options.pop("step", 0),
        "options": options,
        "parts": {"model": model.state_dict()},
        "kind": options.pop("kind", "of the published program"),
    }


def _converted(path: Path) -> dict[str, Any] | None:
    """The content of a .safetensors that `python -m nets.originals` made; None for other files."""
    if path.suffix != ".safetensors" or path.is_dir():
        return None
    tensors, about = read_safetensors(path)
    if "guise" not in about:
        return None
    try:
        said = json.loads(about["guise"])
        system, step, options = said["system"], int(said["step"]), dict(said["options"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: its header does not say which network it is of") from error
    model = {"model": tensors}
    kind = "weights alone"
    return {"system": system, "step": step, "options": options, "parts": model, "kind": kind}


def _module(system: str) -> Any:
    if system not in SYSTEMS:
        raise ValueError(f"originals: system must be one of {', '.join(SYSTEMS)}, got {system!r}")
    try:
        return importlib.import_module(f"nets.originals.{system}")
    except ModuleNotFoundError as error:
        if error.name != f"nets.originals.{system}":
            raise
        raise UserError(f"{system}: files of its original cannot be read yet") from error
