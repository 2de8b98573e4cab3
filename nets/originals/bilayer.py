"""Networks of the published head avatars: an experiment's folder, or files of it.

    EXPERIMENT/args.txt                       `name: value` a line, the options
    EXPERIMENT/checkpoints/EPOCH_NETWORK.pth  a state dict each

Sizes are read off the weights; what they do not say comes from args.txt or is the published
default. The published enhancer's experiment holds only the enhancer: the other networks come from
the experiment that its args.txt names as `init_experiment_dir`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nets.bilayer import DEFAULTS, NETWORKS, Bilayer, build
from nets.bilayer.embedders import frequencies
from nets.bilayer.generators import identity_grid
from nets.bilayer.layers import PixelBias
from nets.bilayer.options import words
from nets.errors import UserError
from nets.originals.bilayer_options import read_args, sizes
from nets.spectral import settle
from nets.states import read_plain, require

BEGINNINGS = {  # of the keys, by which a network is told from the others
    "identity_embedder": "net.enc.",
    "texture_generator": "gen_tex.",
    "keypoints_embedder": "net.mlp.",
    "inference_generator": "gen_inf.",
    "discriminator": "net.first_conv.",
    "texture_enhancer": "net.blocks.",
}
FILE = re.compile(r"(?P<epoch>[^_/]+)_(?P<network>[a-z]+_?[a-z]+)\.pth")
PARAMETRISED = {
    "parametrizations.weight.original": "weight_orig",
    "parametrizations.weight.0._u": "weight_u",
    "parametrizations.weight.0._v": "weight_v",
}


def load(path: str | Path, **options: Any) -> tuple[Bilayer, dict[str, Any]]:
    """The networks of an experiment in eval mode, and the options that describe them.

    path     an experiment's folder; or an EPOCH_NETWORK.pth, which stands for its epoch's files in
             the same folder
    options  override what is read off the weights and args.txt. `which_epoch`, `networks`: which
             ones; default: the newest epoch, and the networks that an avatar needs as far as they
             are there. `init_experiment_dir`, `init_networks`, `init_which_epoch`: networks from
             another experiment
    Raises UserError where a file is not there or does not fit, with the first three differences.
    """
    content = read(path, **options)
    with torch.device("meta"):
        model = build(content["options"], content["options"]["networks_test"])
    model.load_state_dict(content["parts"]["model"], assign=True)
    return model.eval(), content["options"]


def read(path: str | Path, **options: Any) -> dict[str, Any]:
    """The files as a checkpoint's content: "step", "options", "parts", and "kind", a line on it."""
    path = Path(path)
    folder, epoch, only = _place(path)
    epoch = str(options.pop("which_epoch", epoch or "")) or None
    said = read_args(folder / "args.txt") if folder and (folder / "args.txt").is_file() else {}
    given = {**said, **options}
    chosen = options.pop("networks", None)
    files = _files(path, folder, epoch, given, only if chosen is None else words(chosen))
    states = {name: _state(file, name) for name, file in files.items()}
    settings = {**DEFAULTS, **said}
    settings |= sizes(states, settings)
    ours = folder is not None and (folder / "config.yaml").is_file()
    if settings["tex_pixelwise_bias_type"] == "adaptive" and not ours:
        settings["tex_pixelwise_bias_type"] = "adaptive_original"
    if "texture_enhancer" in states:  # which works on renderings of the sources
        settings |= {"pse_emb_source_pose": True, "inf_pred_source_data": True}
    settings |= options
    names = [name for name in NETWORKS if name in states]
    for key in ("networks_train", "networks_test", "networks_calc_stats", "networks_to_train"):
        settings[key] = list(names)
    settings["spn_networks"] = [name for name in names if _is_spectral(states[name])]
    settings["spn_exceptions"] = [
        f"{name}.{layer}"
        for name in settings["spn_networks"]
        for layer in _plain_layers(states[name])
    ]
    settings["frozen_networks"] = []
    try:
        with torch.device("meta"):
            wanted = build(settings, names)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    model = {}
    for name, state in states.items():
        state = fitted(state, getattr(wanted, name), files[name], name)
        model |= {f"{name}.{key}": value for key, value in state.items()}
    where = ", ".join(f"{name} ({files[name].name})" for name in names)
    kind = f"of the published program, {settings['image_size']} px: {where}"
    return {"step": 0, "options": settings, "parts": {"model": model}, "kind": kind}


def take(net: nn.Module, path: str | Path, name: str) -> None:
    """Put EPOCH_NETWORK.pth into a network of a run, whichever way its norms are stored.

    name  the network's
    Raises UserError with the first three differences; then the network is as it was.
    """
    state = _state(Path(path), name)
    folded, here = not _is_spectral(state), net.state_dict()
    for key in here:  # a folded file: its weights have a norm of about 1, which u and v shall find
        stem = key.removesuffix("_orig")
        if key.endswith("weight_orig") and key not in state and stem in state:
            state[key] = state.pop(stem)
            state[f"{stem}_u"], state[f"{stem}_v"] = here[f"{stem}_u"], here[f"{stem}_v"]
    net.load_state_dict(fitted(state, net, Path(path), name))
    if folded:
        settle(net, 50)


def fitted(state: Mapping[str, Tensor], net: nn.Module, path: Path, name: str) -> dict[str, Tensor]:
    """The state in float32, checked against the network, with what follows from its sizes."""
    state, wanted = dict(state), net.state_dict()
    for place, module in net.named_modules():
        there = [key for key in state if key.startswith(f"{place}.")]
        if isinstance(module, PixelBias) and len(there) == 1:  # known by its place, not by its name
            value, shape = state.pop(there[0]), module.bias.shape
            state[f"{place}.bias"] = value.view(shape) if value.numel() == shape.numel() else value
    for key, one in wanted.items():
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, torch.zeros((), dtype=torch.int64))
        elif key == "frequencies":
            state.setdefault(key, frequencies(one.numel()))
        elif key == "identity_grid" and (key not in state or state[key].shape != one.shape):
            state[key] = identity_grid(one.shape[1])
    require(state, wanted, path, f"a bilayer {name.replace('_', ' ')} of these options")
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def _place(path: Path) -> tuple[Path | None, str | None, list[str] | None]:
    """An experiment's folder if there is one, the epoch that a file's name tells, and the networks
    of that epoch."""
    if path.is_dir():
        return (path.parent if path.name == "checkpoints" else path), None, None
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder")
    match = FILE.fullmatch(path.name)
    if not match or match["network"] not in NETWORKS:
        return None, None, None
    experiment = path.parent.parent if path.parent.name == "checkpoints" else None
    beside = [n for n in NETWORKS if (path.parent / f"{match['epoch']}_{n}.pth").is_file()]
    return experiment or path.parent, match["epoch"], beside


def _files(
    path: Path, folder: Path | None, epoch: str | None, given: dict, only: list[str] | None
) -> dict[str, Path]:
    if folder is None:  # a file of another name: its content says what it is
        state = _plain(path)
        for name, start in BEGINNINGS.items():
            if any(key.startswith(start) for key in state):
                return {name: path}
        first = ", ".join(list(state)[:3]) or "nothing"
        raise UserError(f"{path}: not a network of head avatars: it holds {first}")
    there = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    epochs = {}
    for file in there.glob("*.pth"):
        match = FILE.fullmatch(file.name)
        if match and match["network"] in NETWORKS:
            epochs.setdefault(match["epoch"], []).append(match["network"])
    if not epochs:
        raise UserError(f"{there}: no EPOCH_NETWORK.pth there")
    newest = max(epochs, key=lambda e: (e.isdigit(), int(e) if e.isdigit() else 0, e))
    epoch = epoch or newest
    if epoch not in epochs:
        known = ", ".join(sorted(epochs, key=lambda e: (len(e), e)))
        raise UserError(f"{there}: no networks of epoch {epoch}; there are those of {known}")
    found = {name: there / f"{epoch}_{name}.pth" for name in epochs[epoch]}
    other = _other_experiment(folder, given)
    for name in words(given.get("init_networks")) if other else []:
        file = other / "checkpoints" / f"{given.get('init_which_epoch')}_{name}.pth"
        if name not in found and (file.is_file() or name in (only or NETWORKS[:4])):
            found[name] = file
    wanted = only or [name for name in NETWORKS[:5] if name in found] or list(found)
    for name in wanted:
        if name not in NETWORKS:
            raise UserError(f"networks: must be of {', '.join(NETWORKS)}, got {name}")
        if not found.get(name, there / f"{epoch}_{name}.pth").is_file():
            raise UserError(f"{found.get(name, there / f'{epoch}_{name}.pth')}: no such file")
    return {name: found[name] for name in wanted}


def _other_experiment(folder: Path, given: dict) -> Path | None:
    """Where networks come from that were not trained in this one: as named, or beside this one."""
    named = str(given.get("init_experiment_dir") or "")
    if not named or named == "none":
        return None
    beside = folder.resolve().parent / Path(named).name
    return Path(named) if Path(named).is_dir() else beside


def _plain(path: Path) -> dict[str, Tensor]:
    held = read_plain(path)
    if not isinstance(held, Mapping) or not all(isinstance(v, Tensor) for v in held.values()):
        raise UserError(f"{path}: not a network's state dict: must map names to tensors")
    state = {}
    for key, value in held.items():
        key = str(key).removeprefix("module.")
        for old, new in PARAMETRISED.items():
            key = key.replace(old, new)
        state[key] = value
    return state


def _state(path: Path, name: str) -> dict[str, Tensor]:
    state = _plain(path)
    if not any(key.startswith(BEGINNINGS[name]) for key in state):
        first = ", ".join(list(state)[:3]) or "nothing"
        raise UserError(f"{path}: not a bilayer {name.replace('_', ' ')}: it holds {first}")
    if "net.frequencies" in state:
        state["frequencies"] = state.pop("net.frequencies")
    return state


def _is_spectral(state: Mapping[str, Tensor]) -> bool:
    return any(key.endswith("weight_orig") for key in state)


def _plain_layers(state: Mapping[str, Tensor]) -> list[str]:
    """Convolutions and fully connected layers without a norm."""
    return [
        key.removesuffix(".weight")
        for key, value in state.items()
        if key.endswith(".weight") and value.ndim > 1
    ]
