"""Loads a trained DC-IGN for inference, starts training from one, and exports one to Torch7."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nets.data.io.files import whole_file
from nets.dcign import DCIGN, FACES, RMSprop, build
from nets.dcign import published as originals
from nets.dcign.options import imported
from nets.run import checkpoints, options
from nets.run.log import records
from nets.run.precision import Precision
from nets.run.run import Run


def start_from(
    run: Run, args: options.Namespace, net: DCIGN, optimizer: torch.optim.Optimizer
) -> None:
    """Load the weights of --checkpoint, and the moments if the optimiser is the same.

    --reset_optimizer leaves the moments out. Rates and decays are those of `args`.
    """
    path, content = imported(args)
    checkpoints.load_weights(content, net, path)
    moments = content["parts"].get("optimizer")
    if args.reset_optimizer or content["options"].get("optimizer") != args.optimizer:
        moments = None
    if moments is not None:
        optimizer.load_state_dict(moments)
        for group in optimizer.param_groups:  # options of this run override the stored ones
            group["lr"] = args.lr
            if args.optimizer == "rmsprop":
                group |= {name: args[name] for name in ("momentum_decay", "update_decay")}
    what = content.get("kind", f"of step {content['step']}, {content['options']['regime']}")
    run.print(f"starting from {path} ({what}), {'with' if moments else 'without'} its moments")


def export(run: Run, net: DCIGN, optimizer: torch.optim.Optimizer) -> None:
    """Write the network, its moments and the bounds of the log to torch7/ in the run folder."""
    folder = run.folder / "torch7"

    def write(name: str, content: originals.Content) -> None:
        with whole_file(folder / name) as file:
            content(file)

    history = [line for line in records(run.folder / "log.txt") if "lower_bound" in line]
    tests = [line for line in records(run.folder / "log.txt") if "test_lower_bound" in line]
    size = run.args.batch_size
    histories = {
        "lowerbound": [line["lower_bound"] * size for line in history],
        "lowerbound_test": [line["test_lower_bound"] * size for line in tests],
    }
    moments = optimizer if isinstance(optimizer, RMSprop) else None
    originals.save(write, net, moments, histories, options.plain(run.args))


def load_network(
    content: dict[str, Any], path: Path, precision: Precision
) -> tuple[DCIGN, dict[str, Any]]:
    """(network in eval mode, options of its training) of a checkpoint.

    Averaged weights are used if the checkpoint has them. A published network's files lack some
    options: it gets the published groups and regime, batches of 20, and null for its data.
    """
    faces = [f"{g.name}={g.latents or 'rest'}" for g in FACES]
    absent = {"groups": faces, "regime": "disentangled", "data": None, "batch_size": 20,
              "num_train_batches_per_type": None, "num_test_batches_per_type": None}  # fmt: skip
    trained = {**absent, **content["options"]}
    net = build(trained)
    checkpoints.load_weights(content, net, path)
    return precision.place(net.eval()), trained
