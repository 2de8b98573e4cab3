"""Loads a trained DC-IGN for inference, starts training from one, and exports one to Torch7."""

from __future__ import annotations

import math
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


def check_start(args: options.Namespace) -> None:
    """Raise UserError if --checkpoint does not fit the options; no network is initialised."""
    path, content, moments = _start(args)
    with torch.device("meta"):
        net = build(args)
    checkpoints.check_parts(content, {"model": net}, path)
    if moments is not None:
        like = torch.optim.SGD(net.parameters(), 1.0)
        checkpoints.check_moments(moments, like, path, "optimizer")


def start_from(
    run: Run, args: options.Namespace, net: DCIGN, optimizer: torch.optim.Optimizer
) -> None:
    """Load the weights of --checkpoint, and the moments if the optimiser is the same.

    --reset_optimizer leaves the moments out. Rates and decays are those of `args`.
    """
    path, content, moments = _start(args)
    checkpoints.load_weights(content, net, path)
    if moments is not None:
        checkpoints.load_parts(content, {"optimizer": optimizer}, path)
        for group in optimizer.param_groups:  # options of this run override the stored ones
            group["lr"] = args.lr
            if args.optimizer == "rmsprop":
                group |= {name: args[name] for name in ("momentum_decay", "update_decay")}
    what = content.get("kind", f"of step {content['step']}, {content['options']['regime']}")
    run.print(f"starting from {path} ({what}), {'with' if moments else 'without'} its moments")


def _start(args: options.Namespace) -> tuple[Path, dict[str, Any], Any]:
    """(path, content) of --checkpoint, and the moments to start with or None."""
    path, content = imported(args)
    moments = content["parts"].get("optimizer")
    if args.reset_optimizer or content["options"].get("optimizer") != args.optimizer:
        moments = None
    return path, content, moments


def export(run: Run, net: DCIGN, optimizer: torch.optim.Optimizer, epoch: int, step: int) -> None:
    """Write the network, its moments and the histories of the log as the published program does.

    They go to torch7/ in the run folder, or with --published_folder into the run folder itself. The
    vxnet.net of the epoch before is kept as vxnet.net.old.
    epoch  steps in an epoch
    step   finished steps
    """
    folder = run.folder if run.args.published_folder else run.folder / "torch7"
    model = folder / originals.MODEL
    if model.is_file():
        model.replace(model.with_name(f"{model.name}.old"))

    def write(name: str, content: originals.Content) -> None:
        with whole_file(folder / name) as file:
            content(file)

    lines, size = records(run.folder / "log.txt"), run.args.batch_size
    count = -(-step // epoch)
    tests = _at_epochs(lines, "test_lower_bound", epoch, count)
    histories = {
        "lowerbound": [value * size for value in _of_epochs(lines, "lower_bound", epoch, count)],
        "lowerbound_test": [value * size for value in tests],
    }
    moments = optimizer if isinstance(optimizer, RMSprop) else None
    command = options.plain(run.args)
    command |= {"bsize": size, "learning_rate": -command["lr"], "networks_dir": command["run_dir"]}
    command |= {"datasetdir": command["data"]} if command["data"] else {}
    errors = _at_epochs(lines, "test_mse", epoch, count)
    originals.save(write, net, moments, histories, command, errors)


def _of_epochs(lines: list[dict[str, Any]], key: str, epoch: int, count: int) -> list[float]:
    """Means of a number over the steps of each epoch; NaN for an epoch without a log line.

    A log line has the mean over the steps since the line before.
    """
    sums, steps, last = [0.0] * count, [0] * count, 0
    for line in lines:
        if key not in line:
            continue
        for i in range(last // epoch, min(count, -(-line["step"] // epoch))):
            covered = min(line["step"], (i + 1) * epoch) - max(last, i * epoch)
            sums[i] += covered * float(line[key])
            steps[i] += covered
        last = line["step"]
    return [a / b if b else math.nan for a, b in zip(sums, steps, strict=True)]


def _at_epochs(lines: list[dict[str, Any]], key: str, epoch: int, count: int) -> list[float]:
    """The last value of a number up to the end of each epoch; NaN if there is none yet."""
    result = []
    for i in range(1, count + 1):
        values = [line[key] for line in lines if key in line and line["step"] <= i * epoch]
        result.append(float(values[-1]) if values else math.nan)
    return result


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
