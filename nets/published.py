"""Reads checkpoints and configurations that the original programs wrote.

Each system's `published.py` has two functions. `read(path, **options)` returns the content of a
checkpoint in the form of `nets.run.checkpoints`. `load(path, **options)` returns the project's own
model in eval mode and the options of its training script that describe it.

    python -m nets.published IN OUT     writes OUT, a checkpoint (.pt) or a .safetensors

A .safetensors that this command wrote is read like the checkpoint it came from.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nets import hub
from nets.errors import UserError
from nets.run import checkpoints
from nets.run.files import write_atomic
from nets.run.options import rename, user_errors
from nets.tensor_files import read_plain, write_safetensors
from nets.tensorflow_files import prefix_of

SYSTEMS = ("vunet", "landmarks", "bilayer", "dcign")
# Networks of others that users take for one of these: name -> what all their files hold.
RELATIVES = {
    "VunetAlter, a VUNet of behavior-driven-video-synthesis": ("eu.", "ed.", "du.", "dd."),
    "first-order-motion-model": ("generator", "kp_detector"),
    "LivePortrait": ("appearance_feature_extractor", "warping_module"),
    "a generator of SPADE": ("head_0.", "G_middle_0.", "up_0."),
    "a VGG of torchvision, which --vgg_weights takes": ("features.0.weight", "features.2.weight"),
    "the face recognition IR-SE50, which the metric CSIM takes": ("input_layer.0.", "body.0.res"),
    "LPIPS, which the metric of this name takes": ("lin0.model.", "lin1.model."),
    "Graphonomy, which segments people": ("xception_features.", "featuremap_2_graph."),
}
TRAINED = Path(__file__).parent / "trained"  # SYSTEM.safetensors, and its scores as SYSTEM.json


def load(system: str, path: str | Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The model in an original's file or folder, in eval mode, and its options.

    system   "vunet", "landmarks", "bilayer" or "dcign"
    options  override the options inferred from the weights and the original's defaults
    Raises UserError with the first three differences if the file is not that system's. Files are
    read as data: one with code inside is refused.
    """
    module = _module(system)
    return module.load(path, **rename(options, getattr(module, "RENAMED", {})))


def recognise(path: str | Path, held: Any = None) -> str | None:
    """The system whose original wrote a file or folder, by its content; None if unknown.

    held  the result of `read_plain(path)`, if the file has been read already
    """
    path = Path(path)
    if path.is_dir():
        if (path / "args.txt").is_file() and (path / "checkpoints").is_dir():
            return "bilayer"
        if any((path / name).is_file() for name in ("parameters.t7", "vxnet.net")):
            return "dcign"
        if prefix_of(path) is None:
            return None
    if path.suffix in (".t7", ".net"):
        return "dcign"
    held = read_plain(path) if held is None else held
    if not isinstance(held, Mapping):
        return None
    inner = held.get("model")
    state = inner if isinstance(inner, Mapping) else held
    names = [str(name).removeprefix("module.") for name in state]  # DataParallel's prefix
    for system, starts in {
        "vunet": ("f_phi.", "e_theta.", "enc_up/", "dec_down/"),
        "landmarks": ("shape_encoder.", "appearance_encoder."),
        "bilayer": ("net.enc.", "gen_tex", "net.mlp.", "gen_inf", "net.first_conv.", "net.blocks."),
    }.items():
        if any(name.startswith(starts) for name in names):
            return system
    return None


def read(path: str | Path, held: Any = None) -> dict[str, Any] | None:
    """The content of an original's file or folder as a checkpoint; None if it is unknown.

    held     see `recognise`
    returns  {"system", "step", "options", "parts": {"model", ...}, "kind": one line for people}
    """
    system = recognise(path, held)
    if system is None:
        relative = _relative(held)
        if relative:
            raise UserError(f"{path}: not of a network that guise reads: it is {relative}")
        return None
    return {"system": system, **_module(system).read(path)}


def _relative(held: Any) -> str | None:
    """The network of others that a file's content is of; None if unknown."""
    if not isinstance(held, Mapping):
        return None
    levels = [held, *(value for value in held.values() if isinstance(value, Mapping))]
    for level in levels:  # a state dict may lie under "model", "state_dict", ...
        names = [str(name).removeprefix("module.") for name in level]
        for relative, starts in RELATIVES.items():
            if all(any(name.startswith(start) for name in names) for start in starts):
                return relative
    return None


def _module(system: str) -> ModuleType:
    if system not in SYSTEMS:
        raise ValueError(f"published: system must be one of {', '.join(SYSTEMS)}, got {system!r}")
    return importlib.import_module(f"nets.{system}.published")


def find(path: str | Path | None = None, system: str | None = None) -> Path:
    """The checkpoint that a path refers to, as `checkpoints.find`; also originals' folders.

    path    hf://OWNER/NAME[@REVISION]: downloaded from the Hugging Face Hub, see `nets.hub`; None:
            the newest run under runs/, or the weights that come with guise if there is none
    system  without a path: of this system; default: of any, or of "vunet"
    Raises UserError if there is none.
    """
    if str(path).startswith(hub.PREFIX):
        return hub.download(str(path))
    if path is not None and Path(path, hub.FILE).is_file():  # a folder of export.py --hub
        return Path(path, hub.FILE)
    root = Path("runs") / (system or "")
    included = TRAINED / f"{system or SYSTEMS[0]}.safetensors"
    if path is None and included.is_file() and not any(checkpoints.below(root)):
        return included
    return checkpoints.find(path, root, recognise)


def read_checkpoint(path: Path, system: str | None = None) -> dict[str, Any]:
    """The content of a checkpoint of ours or of a file of the originals; see `checkpoints.read`.

    Options of checkpoints of earlier versions come under today's names.
    """
    if Path(path).suffix in (".onnx", ".pt2"):
        raise UserError(f"{path}: an exported file; only infer.py takes one, which ends in .onnx")
    content = checkpoints.read(path, system, published=read)
    if Path(path).parent == TRAINED:
        content["kind"] = "weights that come with guise, trained on its demo world alone"
    if content["system"] in SYSTEMS:
        renamed = getattr(_module(content["system"]), "RENAMED", {})
        content["options"] = rename(content["options"], renamed, str(path))
    return content


def write_weights(path: Path, content: dict[str, Any], half: bool = False) -> None:
    """Writes the model of a checkpoint as safetensors, its options in the header.

    Averaged weights replace the model's if the run has them. `half` stores floats in 16 bits.
    """
    header = {name: content[name] for name in ("system", "step", "options")}
    metadata = {"guise": json.dumps(header, default=str)}
    parts = content["parts"]
    model = parts["model"] | parts.get("ema", {}).get("average", {})
    if half:
        model = {name: _half(name, tensor) for name, tensor in model.items()}
    write_atomic(path, lambda file: write_safetensors(file, model, metadata))


def _half(name: str, tensor: Tensor) -> Tensor:
    """The tensor in float16 if it holds floats, but for the statistics of norms.

    These are few, and variances cover more than the range of float16.
    """
    if not tensor.is_floating_point() or name.endswith(("running_mean", "running_var")):
        return tensor
    half = tensor.half()
    if not torch.equal(half.isfinite(), tensor.isfinite()):
        raise UserError(f"--half: {name} has values that float16 cannot hold")
    return half


PROG = "python -m nets.published"


@user_errors(PROG)
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog=PROG,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        metavar="IN",
        help="a checkpoint, a run folder, or a file or folder of an original",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="ends in .pt or .safetensors")
    parser.add_argument(
        "--half",
        action="store_true",
        help="store a .safetensors in float16, the statistics of norms in float32: half the size",
    )
    args = parser.parse_args(argv)
    if args.half and args.out.suffix != ".safetensors":
        raise UserError("--half: only for a .safetensors")
    if args.out.suffix not in (".pt", ".safetensors"):
        raise UserError(f"{args.out}: must end in .pt or .safetensors")
    if args.out.exists():
        raise UserError(f"{args.out}: exists already")
    path = find(args.source)
    content = read_checkpoint(path)
    print(checkpoints.describe(content, path))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.out.suffix == ".pt":
        checkpoints.write(args.out, content)
    else:
        write_weights(args.out, content, args.half)
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
