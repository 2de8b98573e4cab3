"""Files of the published landmarks program, read and written.

    checkpoint_<epoch>.ckpt             state dict of the networks, with the keys of ours
    checkpoint_D_<epoch>.ckpt           state dict of the discriminator
    latest_optimizer_{g,d}_state.ckpt   states of their Adams; parameters numbered in key order
    opt.yaml                            the options

The shapes of the weights give the widths and tell if the networks have masks. The size of the
images and the kind of covariance come from the opt.yaml beside them, or from the caller.

    python -m nets.landmarks.published RUN OUT     writes these files of a run to the folder OUT
"""

from __future__ import annotations

import argparse
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from nets.errors import UserError
from nets.landmarks import LandmarkModel, build, build_discriminator
from nets.landmarks.options import check_export, check_values, parser
from nets.landmarks.published_options import RENAMED, translate
from nets.run import checkpoints
from nets.run import options as run_options
from nets.run.files import write_atomic, write_text
from nets.tensor_files import read_plain, require, size_of

ASSUMED = {"image_size": 128, "use_identity_covariance": False, "fixed_covar": 0.05}
AVERAGES = ("exp_avg", "exp_avg_sq")
SETTINGS = ("lr", "betas", "eps", "weight_decay", "amsgrad")  # of the published program's Adam


def load(path: str | Path, **options: Any) -> tuple[LandmarkModel, dict[str, Any]]:
    """The networks in evaluation mode, and their options as of `train_landmarks.py`.

    options  override those from the weights and from the opt.yaml beside them
    Raises UserError, with the first three differences, if the file is not of these networks.
    """
    content = read(path, **options)
    net = build(content["options"])
    net.load_state_dict(content["parts"]["model"])
    return net.eval(), content["options"]


def read(path: str | Path, **options: Any) -> dict[str, Any]:
    """The file as content of a checkpoint: "step", "options", "parts", and "kind", a description.

    options  as for `load`
    """
    path = Path(path)
    state = _state(path, "shape_encoder.", "landmark networks")
    beside = path.parent / "opt.yaml"
    stored = read_options(beside) if beside.is_file() else {}
    settings = _sizes(state) | {name: stored.get(name, value) for name, value in ASSUMED.items()}
    unknown = sorted(options.keys() - settings.keys())
    if unknown:
        raise ValueError(f"load: {unknown[0]} must be one of {', '.join(sorted(settings))}")
    settings |= options
    if stored.get("dataset") and stored.get("data") not in (None, "", "None"):
        settings |= {"dataset": stored["dataset"], "data": stored["data"]}
    model = _checked(state, lambda: build(settings), path, "the weights of landmark networks")
    epoch = re.fullmatch(r"checkpoint_(\d+)", path.stem)
    covariance = "fitted covariances"
    if settings["use_identity_covariance"]:
        covariance = f"a fixed covariance of {settings['fixed_covar']:g}"
    kind = (
        f"of the published program, {settings['n_landmarks']} landmarks with {covariance}"
        f"{', masks' if settings['use_fg_bg_mask'] else ''}, {settings['image_size']} px"
    )
    if epoch:
        kind += f", epoch {epoch[1]}"
    if not stored:
        kind += "; covariance and size assumed, since there is no opt.yaml beside it"
    return {"step": 0, "options": settings, "parts": {"model": model}, "kind": kind}


def read_discriminator(path: str | Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    """A discriminator's state dict, and its options "ndf", "n_layers_D" and "num_D"."""
    path = Path(path)
    state = _state(path, "layer0.", "a discriminator")
    places = [int(m[1]) for m in (re.match(r"layer0\.(\d+)\.", name) for name in state) if m]
    sizes = {
        "ndf": size_of(state, "layer0.0.weight", 0),
        "n_layers_D": max(1, (max(places) - 2) // 3),
        "num_D": len({name.split(".")[0] for name in state}),
    }
    weights = _checked(
        state, lambda: build_discriminator(sizes), path, "the weights of a discriminator"
    )
    return weights, sizes


def read_optimizer(
    path: str | Path, optimizer: torch.optim.Optimizer, net: nn.Module
) -> dict[str, Any]:
    """A state for `optimizer.load_state_dict`: moments of the file, settings of the optimiser.

    optimizer  an Adam of `net.parameters()` in one group
    Raises UserError if the moments do not fit the parameters.
    """
    path = Path(path)
    content = read_plain(path)
    if not isinstance(content, Mapping) or not {"state", "param_groups"} <= content.keys():
        raise UserError(f"{path}: not the state of an optimiser")
    # Older versions of torch number parameters by address. The groups hold their order.
    order = [number for group in content["param_groups"] for number in group["params"]]
    names = [name for name, _ in net.named_parameters()]
    if len(order) != len(names):
        raise UserError(
            f"{path}: not the state of an optimiser of this network: it has {len(order)} "
            f"parameters, the network {len(names)}"
        )
    result, expected = {}, {}
    for number, (name, parameter) in zip(order, net.named_parameters(), strict=True):
        moments = content["state"].get(number)
        if moments is None:  # a parameter that never had a gradient
            continue
        for key in AVERAGES:
            expected[f"{key} of {name}"] = parameter
            if key in moments:
                result[f"{key} of {name}"] = moments[key]
    require(result, expected, path, "the state of an Adam of this network")
    fresh = optimizer.state_dict()
    fresh["state"] = {}
    for new, (number, name) in enumerate(zip(order, names, strict=True)):
        if number in content["state"]:
            averages = {key: result[f"{key} of {name}"].float().clone() for key in AVERAGES}
            step = torch.tensor(float(content["state"][number]["step"]))
            fresh["state"][new] = {"step": step, **averages}
    return fresh


def read_options(path: str | Path) -> dict[str, Any]:
    """The options of an opt.yaml, under the names and with the types of `train_landmarks.py`.

    Raises UserError that names file and key, if train_landmarks.py would refuse the value.
    """
    keys = run_options.read_yaml(Path(path))
    args = run_options.parse(parser(""), ["--config", str(path)], translate)
    check_values(args, f" in {path}")
    return {key: args[key] for key in run_options.rename(translate(keys), RENAMED, str(path))}


def write(folder: Path, content: Mapping[str, Any], epoch: int) -> list[Path]:
    """Write the published program's files of a checkpoint's content to a folder; returns them.

    content  its "options" and "parts". Networks have their own weights, not averaged ones
    epoch    in the files' names
    opt.yaml names the published options alone, and no files to start from. Files are in the
    format of old versions of torch, too. Raises UserError if the networks are not published ones.
    """
    check_export(content["options"])
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        f"checkpoint_{epoch}.ckpt": ("model", _plain_state),
        f"checkpoint_D_{epoch}.ckpt": ("discriminator", _plain_state),
        "latest_optimizer_g_state.ckpt": ("optimizer", _plain_adam),
        "latest_optimizer_d_state.ckpt": ("optimizer_D", _plain_adam),
    }
    written = []
    for name, (part, plain) in files.items():
        if part in content["parts"]:
            _save(folder / name, plain(content["parts"][part]))
            written.append(folder / name)
    opt = folder / "opt.yaml"
    values = _published_values(content["options"], folder)
    write_text(opt, yaml.safe_dump(values, default_flow_style=False, width=10**6))
    return [*written, opt]


def _save(path: Path, content: object) -> None:
    """Write a file that the torch 1.1 of the published program can read."""
    write_atomic(path, lambda file: torch.save(content, file, _use_new_zipfile_serialization=False))


def _plain_state(state: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """A state dict on the CPU, in float32."""
    return OrderedDict((name, _plain_tensor(tensor)) for name, tensor in state.items())


def _plain_adam(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of an Adam on the CPU, as the published program's torch writes it."""
    moments = {
        number: {"step": int(one["step"])} | {key: _plain_tensor(one[key]) for key in AVERAGES}
        for number, one in state["state"].items()
    }
    groups = [{key: group[key] for key in (*SETTINGS, "params")} for group in state["param_groups"]]
    return {"state": moments, "param_groups": groups}


def _plain_tensor(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu().contiguous()


def _published_values(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The options under their published names, with the types of the published defaults."""
    defaults = run_options.read_yaml(run_options.CONFIGS / "landmarks/defaults.yaml")
    values = {}
    for name, default in defaults.items():
        value = options.get(RENAMED.get(name, name), default)
        if isinstance(default, int) and not isinstance(default, bool) and value == int(value):
            value = int(value)
        values[name] = None if name.startswith("resume_ckpt") else value
    values["save_path"] = str(folder)
    del values["use_DDP"]  # opt.yaml does not name it
    return values


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The options that follow from the weights' keys and shapes."""
    landmarks = size_of(state, "shape_encoder.decoder_layers.3.1.weight", 0)
    nsf = size_of(state, "shape_encoder.encoder_layers.0.0.0.weight", 0)
    naf = size_of(state, "appearance_encoder.encoder_layers.0.0.0.weight", 0)
    return {
        "n_landmarks": landmarks,
        "nsf": nsf,
        "naf": 0 if naf == 2 * (landmarks + 4 * nsf) else naf,
        "n_filters": size_of(state, "appearance_encoder.decoder_layers.1.1.weight", 0),
        "ngc": max(1, size_of(state, "image_decoder.fc.weight", 0) // 4),
        "use_fg_bg_mask": any(name.startswith("bg_net.") for name in state),
        "low_res_mask": any(name.startswith("fg_mask_net.0.encoder") for name in state),
        "pooling": "mean",
    }


def _state(path: Path, start: str, what: str) -> Mapping[str, Tensor]:
    """The state dict in a file, without the prefix of DataParallel.

    Raises UserError if no key begins with `start`; `what` names the expected networks.
    """
    state = read_plain(path)
    if isinstance(state, Mapping):
        state = {str(name).removeprefix("module."): value for name, value in state.items()}
    if not isinstance(state, Mapping) or not any(str(name).startswith(start) for name in state):
        content = list(state) if isinstance(state, Mapping) else [f"a {type(state).__name__}"]
        first = ", ".join(map(str, content[:3])) or "nothing"
        raise UserError(f"{path}: not the weights of {what}: it holds {first}")
    return state


def _checked(
    state: Mapping[str, Tensor], construct: Callable[[], nn.Module], path: Path, what: str
) -> dict[str, Tensor]:
    """The state dict in float32, in the order of a constructed network.

    Raises UserError if keys or shapes differ from the network's.
    """
    try:
        with torch.device("meta"):
            expected = construct().state_dict()
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    require(state, expected, path, what)
    return {name: state[name].float() for name in expected}


PROG = "python -m nets.landmarks.published"


@run_options.user_errors(PROG)
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog=PROG, description="Write a run of landmarks as the published program's files."
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, or a checkpoint of one")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write")
    parser.add_argument("--epoch", type=int, help="in the files' names; default: the step")
    args = parser.parse_args(argv)
    path = checkpoints.find(args.run)
    content = checkpoints.read(path, "landmarks")
    content["options"] = run_options.rename(content["options"], RENAMED, str(path))
    print(checkpoints.describe(content, path))
    epoch = content["step"] if args.epoch is None else args.epoch
    for file in write(args.out, content, epoch):
        print(f"written: {file}")


if __name__ == "__main__":
    main()
