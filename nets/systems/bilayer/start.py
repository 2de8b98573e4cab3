"""Where a training run begins: fresh, or from networks that an experiment saved by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nets.bilayer import Bilayer
from nets.errors import UserError
from nets.originals.bilayer import take
from nets.run.run import Run
from nets.states import read_plain
from nets.systems.bilayer.experiment import epochs, network_file


def start(
    run: Run,
    args: Mapping[str, Any],
    net: Bilayer,
    optimizers: Mapping[str, torch.optim.Optimizer],
    step_epoch: int,
) -> None:
    """Load `init_networks` from another experiment, then what `which_epoch` means from this one:
    its trained networks, their optimisers if nothing came from elsewhere, and the step.

    Raises UserError that names the file that is missing or does not fit.
    """
    for name in args["init_networks"]:
        if name not in net.names:
            raise UserError(f"init_networks: {name} is not among the networks of this run")
        path = network_file(args["init_experiment_dir"], args["init_which_epoch"], name)
        take(getattr(net, name), path, name)
        run.print(f"{name} from {path}")
    epoch = str(args["which_epoch"])
    own = [name for name in args["networks_to_train"] if name not in args["init_networks"]]
    if epoch == "none" or not own:
        return
    there = epochs(run.folder, own[0])
    if epoch == "latest" and there:
        epoch = str(there[-1])
    elif epoch in ("1", "latest") and 1 not in there:
        run.print(f"which_epoch {epoch}: no such checkpoint in {run.folder}; starting from scratch")
        return
    if not epoch.isdigit():
        raise UserError(f"which_epoch: must be a number, none or latest, got {epoch}")
    for name in own:
        take(getattr(net, name), network_file(run.folder, epoch, name), name)
        if not args["init_experiment_dir"] and name in optimizers:
            _load_optimizer(optimizers[name], network_file(run.folder, epoch, f"opt_{name}"))
    run.step = int(epoch) * step_epoch
    run.print(f"going on from epoch {epoch} of {run.folder}: {', '.join(own)}")


def _load_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    state = read_plain(path)
    # This run's settings stay, the file's moments and counts come.
    settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state)
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: does not fit this run's optimiser: {error}") from error
    for group, setting in zip(optimizer.param_groups, settings, strict=True):
        group.update(setting)
