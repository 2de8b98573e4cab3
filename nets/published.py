"""Reading what the originals wrote: configurations, checkpoints.

Each system's `published.py` has `read(path, **options)`, the content of a checkpoint as
`nets.run.checkpoints` has it, and `load(path, **options) -> (model, options)`: the project's own
model in eval mode, with every switch set that these weights need, and the options of its training
script that describe it.

    python -m nets.published IN OUT     writes OUT, a checkpoint (.pt) or OUT.safetensors

A .safetensors that this made is read back as what it was made of.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nets.errors import UserError
from nets.run import checkpoints
from nets.run.files import write_atomic
from nets.run.options import rename, user_errors
from nets.tensor_files import read_plain, write_safetensors

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
    system = recognise(path, held)
    if system is None:
        return None
    return {"system": system, **_module(system).read(path)}


def _module(system: str) -> Any:
    if system not in SYSTEMS:
        raise ValueError(f"published: system must be one of {', '.join(SYSTEMS)}, got {system!r}")
    return importlib.import_module(f"nets.{system}.published")


def find(path: str | Path | None = None) -> Path:
    """The checkpoint that is meant, see `checkpoints.find`; the originals' folders included."""
    return checkpoints.find(path, recognise=recognise)


def read_checkpoint(path: Path, system: str | None = None) -> dict[str, Any]:
    """The content of a checkpoint of ours or of a file of the originals; see `checkpoints.read`.

    Options of checkpoints of earlier versions come under today's names.
    """
    content = checkpoints.read(path, system, published=read)
    if content["system"] in SYSTEMS:
        renamed = getattr(_module(content["system"]), "RENAMED", {})
        content["options"] = rename(content["options"], renamed, str(path))
    return content


PROG = "python -m nets.published"


@user_errors(PROG)
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog=PROG,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="IN", help="a file or folder of an original")
    parser.add_argument("out", metavar="OUT", type=Path, help="ends in .pt or .safetensors")
    args = parser.parse_args(argv)
    if args.out.suffix not in (".pt", ".safetensors"):
        raise UserError(f"{args.out}: must end in .pt or .safetensors")
    if args.out.exists():
        raise UserError(f"{args.out}: is there already")
    content = read_checkpoint(Path(args.source))
    print(checkpoints.describe(content, args.source))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.out.suffix == ".pt":
        checkpoints.write(args.out, content)
    else:
        said = {name: content[name] for name in ("system", "step", "options")}
        about = {"guise": json.dumps(said, default=str)}
        parts = content["parts"]  # of a run that averages its weights, the averages
        model = parts["model"] | parts.get("ema", {}).get("average", {})
        write_atomic(args.out, lambda file: write_safetensors(file, model, about))
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
