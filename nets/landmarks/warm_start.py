"""Trained landmark networks: starting a training from weights, and loading them for inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nets.errors import UserError
from nets.landmarks import LandmarkModel, build, fold
from nets.landmarks import published as originals
from nets.run import checkpoints, options
from nets.run.precision import Precision
from nets.tensor_files import read_plain, require


def start_from(
    args: options.Namespace,
    tell: Callable[[str], None],
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    critic: nn.Module | None,
    optimizer_D: torch.optim.Optimizer | None,
) -> None:
    """Load what --checkpoint, --resume_ckpt_D, _opt_G and _opt_D name; training begins at step 0.

    A checkpoint of ours at --checkpoint serves for all that the others do not name. Raises
    UserError where a file does not fit.
    """
    parts: dict[str, tuple[str, nn.Module, Any]] = {
        "": ("model", net, None),
        "_opt_G": ("optimizer", net, optimizer),
    }
    if critic is not None:
        parts |= {"_D": ("discriminator", critic, None)}
        parts |= {"_opt_D": ("optimizer_D", critic, optimizer_D)}
    shared: tuple[Path, Mapping[str, Any]] | None = None
    for suffix, (name, module, adam) in parts.items():
        given = args[f"resume_ckpt{suffix}"] if suffix else args.checkpoint
        if given:
            path, states, held = own_parts(Path(given))
            if suffix == "" and states:
                shared = path, states
        elif shared and name in shared[1]:
            (path, states), held = shared, None
        else:
            continue
        if states is None:
            state = held if suffix == "" else of_original(path, module, adam)
        elif name in states:
            state = states[name]
        else:
            raise UserError(f"{path}: holds no {name}, only {', '.join(sorted(states))}")
        load(path, name, state, module, adam)
        tell(f"{name}: started from {path}")


def own_parts(path: Path) -> tuple[Path, Mapping[str, Any] | None, Mapping[str, Any]]:
    """A file, that of a run folder's newest checkpoint; its parts, None if it is not ours; and all
    that it holds.
    """
    path = checkpoints.find(path) if path.is_dir() else path
    held = read_plain(path)
    if not isinstance(held, Mapping):
        raise UserError(f"{path}: must map names to tensors, holds a {type(held).__name__}")
    return path, held.get("parts"), held


def of_original(path: Path, module: nn.Module, adam: Any) -> Mapping[str, Any]:
    """The state of an optimiser, or of a discriminator, in a file of the original."""
    if adam is not None:
        return originals.read_optimizer(path, adam, module)
    return originals.read_discriminator(path)[0]


def load(path: Path, name: str, state: Mapping[str, Any], module: nn.Module, adam: Any) -> None:
    """Put a state into a network, or into its optimiser, which keeps its own settings."""
    if adam is None:
        require(state, module.state_dict(), path, f"weights of this {name}; other options made it")
        module.load_state_dict(state)
        return
    own = [{k: v for k, v in group.items() if k != "params"} for group in adam.param_groups]
    try:
        adam.load_state_dict(dict(state))
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: {name} does not fit this network ({error})") from error
    for group, settings in zip(adam.param_groups, own, strict=True):
        group.update(settings)


def load_network(
    content: dict[str, Any], path: Path, precision: Precision, landmarks: int | None = None
) -> tuple[LandmarkModel, dict[str, Any]]:
    """The networks of a checkpoint for inference, with averaged weights where it has them, and the
    options they were trained with.

    landmarks  how many are expected; UserError where the checkpoint has another number
    """
    trained = content["options"]
    if landmarks and landmarks != trained["n_landmarks"]:
        raise UserError(
            f"{path}: was trained with {trained['n_landmarks']} landmarks, not {landmarks}"
        )
    net = build(trained)
    checkpoints.load_weights(content, net, path)
    return precision.place(fold(net.eval())), dict(trained)
