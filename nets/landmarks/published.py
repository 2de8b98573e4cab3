"""Weights of the published landmarks program: `checkpoint_<epoch>.ckpt` and what lies beside it.

    checkpoint_<epoch>.ckpt             state dict of the networks, under the names that ours have
    checkpoint_D_<epoch>.ckpt           of the discriminator
    latest_optimizer_{g,d}_state.ckpt   Adam over them, numbered in the order of the names
    opt.yaml                            the options, `str()` of each

The widths, and whether there are masks, are read off the weights. What they do not say, the size of
the images and the kind of covariance, comes from the opt.yaml beside them or from the caller.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from nets import plain_yaml
from nets.errors import UserError
from nets.landmarks import LandmarkModel, build, build_discriminator
from nets.run.options import rename
from nets.tensor_files import read_plain, require, size_of

UNSAID = {"image_size": 128, "use_identity_covariance": False, "fixed_covar": 0.05}
AVERAGES = ("exp_avg", "exp_avg_sq")
LOCATIONS = ("dataset", "dataset_path", "save_path", "torch_home")
RENAMED = {  # names of the published program, and of earlier versions of guise -> names here
    "img_size": "image_size",
    "learning_rate": "lr",
    "dataset_path": "data",
    "num_workers": "workers",
    "epochs": "num_epochs",
    "resume_ckpt": "checkpoint",
}
OF_THE_LAUNCHER = ("rank", "world_size")


def load(path: str | Path, **options: Any) -> tuple[LandmarkModel, dict[str, Any]]:
    """The networks in eval mode and the options of `train_landmarks.py` that describe them.

    options  override what is read off the weights and the opt.yaml beside them
    Raises UserError where the file is not of these networks, with the first three differences.
    """
    content = read(path, **options)
    net = build(content["options"])
    net.load_state_dict(content["parts"]["model"])
    return net.eval(), content["options"]


def read(path: str | Path, **options: Any) -> dict[str, Any]:
    """The file as a checkpoint's content: "step", "options", "parts", and "kind", a line on it."""
    path = Path(path)
    state = _state(path, "shape_encoder.", "landmark networks")
    beside = path.parent / "opt.yaml"
    said = read_options(beside) if beside.is_file() else {}
    settings = _sizes(state) | {name: said.get(name, value) for name, value in UNSAID.items()}
    unknown = sorted(options.keys() - settings.keys())
    if unknown:
        raise ValueError(f"load: {unknown[0]} must be one of {', '.join(sorted(settings))}")
    settings |= options
    model = _taken(state, lambda: build(settings), path, "the weights of landmark networks")
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
    if not said:
        kind += "; covariance and size assumed, for there is no opt.yaml beside it"
    return {"step": 0, "options": settings, "parts": {"model": model}, "kind": kind}


def read_discriminator(path: str | Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    """A discriminator's state dict, and its "ndf", "n_layers_D" and "num_D"."""
    path = Path(path)
    state = _state(path, "layer0.", "a discriminator")
    places = [int(m[1]) for m in (re.match(r"layer0\.(\d+)\.", name) for name in state) if m]
    sizes = {
        "ndf": size_of(state, "layer0.0.weight", 0),
        "n_layers_D": max(1, (max(places) - 2) // 3),
        "num_D": len({name.split(".")[0] for name in state}),
    }
    net = _taken(state, lambda: build_discriminator(sizes), path, "the weights of a discriminator")
    return net, sizes


def read_optimizer(
    path: str | Path, optimizer: torch.optim.Optimizer, net: nn.Module
) -> dict[str, Any]:
    """A state for `optimizer.load_state_dict`: the file's moments, the optimiser's own settings.

    optimizer  an Adam over `net.parameters()`, in their order, in one group
    Raises UserError where the moments are not of these parameters.
    """
    path = Path(path)
    held = read_plain(path)
    if not isinstance(held, Mapping) or not {"state", "param_groups"} <= held.keys():
        raise UserError(f"{path}: not the state of an optimiser")
    # Older torch numbered parameters by their address; the groups hold the order.
    order = [place for group in held["param_groups"] for place in group["params"]]
    names = [name for name, _ in net.named_parameters()]
    if len(order) != len(names):
        raise UserError(
            f"{path}: not the state of an optimiser of this network: it has {len(order)} "
            f"parameters, the network {len(names)}"
        )
    result, expected = {}, {}
    for place, (name, parameter) in zip(order, net.named_parameters(), strict=True):
        moments = held["state"].get(place)
        if moments is None:  # a parameter that never had a gradient
            continue
        for key in AVERAGES:
            expected[f"{key} of {name}"] = parameter
            if key in moments:
                result[f"{key} of {name}"] = moments[key]
    require(result, expected, path, "the state of an Adam of this network")
    fresh = optimizer.state_dict()
    fresh["state"] = {}
    for new, (place, name) in enumerate(zip(order, names, strict=True)):
        if place in held["state"]:
            averages = {key: result[f"{key} of {name}"].float().clone() for key in AVERAGES}
            step = torch.tensor(float(held["state"][place]["step"]))
            fresh["state"][new] = {"step": step, **averages}
    return fresh


def read_options(path: str | Path) -> dict[str, Any]:
    """The options of an opt.yaml, as they were before `str()` was taken of them."""
    try:
        keys = plain_yaml.load(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(keys, dict):
        raise UserError(f"{path}: must map options to values, got {type(keys).__name__}")
    return rename(translate(keys), RENAMED, str(path))


def translate(keys: Mapping[str, Any], source: str = "") -> dict[str, Any]:
    """Keys of the program's YAML files as `train_landmarks.py` knows them; `source` is their name.

    A null written as "None" and a number written as "5e-06" are what they were, an empty location
    is an empty text, and what the launcher added is left out.
    """
    result = {}
    for key, value in keys.items():
        if key in OF_THE_LAUNCHER:
            continue
        if value in (None, "None", "") and key.startswith("resume_ckpt"):
            value = None
        elif value is None and key in LOCATIONS:
            value = ""
        elif isinstance(value, str) and re.fullmatch(r"[+-]?\d+e[+-]?\d+", value, re.IGNORECASE):
            value = float(value)  # YAML 1.1 wants a point in it
        result[key] = value
    return result


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The options that the shapes of the weights say."""
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
    state = read_plain(path)
    if isinstance(state, Mapping):
        state = {str(name).removeprefix("module."): value for name, value in state.items()}
    if not isinstance(state, Mapping) or not any(str(name).startswith(start) for name in state):
        held = list(state) if isinstance(state, Mapping) else [f"a {type(state).__name__}"]
        first = ", ".join(map(str, held[:3])) or "nothing"
        raise UserError(f"{path}: not the weights of {what}: it holds {first}")
    return state


def _taken(state: Mapping[str, Tensor], make: Any, path: Path, what: str) -> dict[str, Tensor]:
    """The tensors, checked against a network of their sizes, in its order and in float32."""
    try:
        with torch.device("meta"):
            expected = make().state_dict()
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    require(state, expected, path, what)
    return {name: state[name].float() for name in expected}
