"""Where a VUNet's weights come from: a checkpoint, for inference or training, or the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nets.contracts import PeopleDataset
from nets.errors import UserError
from nets.published import find, read_checkpoint
from nets.run import checkpoints, options
from nets.run.loader import loader
from nets.run.precision import Precision
from nets.run.run import Run
from nets.vunet import VUNet, build
from nets.vunet.data import PersonInputs
from nets.vunet.layers import NormConv2d, fold, initialise_from_data
from nets.vunet.objective import optimizer_of


def load_network(
    content: dict[str, Any], path: Path, precision: Precision
) -> tuple[VUNet, dict[str, Any]]:
    """The network of a checkpoint for inference, and the options it was trained with.

    content  of the checkpoint `path`
    Weights are the averaged ones if the run averaged them.
    """
    trained = content["options"]
    net = build(trained)
    checkpoints.load_weights(content, net, path)
    return precision.place(fold(net).eval()), dict(trained)


def require_data(trained: dict[str, Any], data: str | None, path: Path) -> None:
    """Raises UserError if neither --data nor a run says on what data a network is tried.

    trained  options of the checkpoint `path`; a run of guise without data was on the demo world
    """
    of_a_run = "batch_size" in trained  # which no published file holds
    if not data and not trained["data"] and not of_a_run:
        raise UserError(
            f"{path}: of a published program, which does not say where its data lies; "
            "--data names images with joints"
        )


def check_start(args: options.Namespace) -> None:
    """Raise UserError if --checkpoint does not fit the options; no network is initialised."""
    path, content, fresh = _start(args)
    with torch.device("meta"):
        net = build(args)
    parts: dict[str, Any] = {"model": net}
    if not fresh:
        parts["optimizer"] = optimizer = optimizer_of(args, net)
        stored = content["parts"].get("optimizer", {}).get("param_groups", [])
        if len(stored) not in (0, len(optimizer.param_groups)):
            raise UserError(
                f"{path}: its moments are of another --gain_rate; --reset_optimizer starts "
                "without them"
            )
    checkpoints.check_parts(content, parts, path)


def start_from(
    run: Run, args: options.Namespace, net: VUNet, optimizer: torch.optim.Optimizer
) -> None:
    """Load weights and moments of --checkpoint, and set the run's step: its step, or 0 to retrain.

    Moments are left out with --reset_optimizer, and if a published file has none. Raises UserError
    if the options contradict a published file's weights.
    """
    path, content, fresh = _start(args)
    parts = {"model": net} if fresh else {"model": net, "optimizer": optimizer}
    checkpoints.load_parts(content, parts, path)
    run.step = 0 if args.retrain else content["step"]
    moments = "fresh" if fresh else "its"
    line = f"{checkpoints.describe(content, path)}, as step {run.step}, with {moments} moments"
    run.print(f"starting from {line}")


def _start(args: options.Namespace) -> tuple[Path, dict[str, Any], bool]:
    """(path, content) of --checkpoint, and True if the optimiser starts anew."""
    path = find(args.checkpoint)
    content = read_checkpoint(path, "vunet")
    published = "kind" in content
    for name in ("wiring", "tanh", "stickman") if published else ():
        if args[name] != content["options"][name]:  # shapes would match, results would be wrong
            value = str(content["options"][name]).lower()
            raise UserError(f"{path}: these weights need --{name} {value}")
    fresh = args.reset_optimizer or (published and "optimizer" not in content["parts"])
    return path, content, fresh


def start_from_data(
    run: Run, args: options.Namespace, net: VUNet, inputs: PersonInputs, data: PeopleDataset
) -> None:
    """Set gains and biases of weight normalisation from `init_batches` batches of every rank.

    All outputs have mean 0 and variance 1, but the posterior's means have `init_latent_std`.
    """
    count = args.init_batches * args.batch_size
    batches = loader(
        data,
        count,
        run.ranks,
        workers=args.workers,
        seed=args.seed + 1,
        on_bad_sample=args.on_bad_sample,
        report=run.print,
    )
    pose, appearance = inputs(batches.batch(0))
    noise = net.noise(count * run.world_size, run.device, run.generator(0, "init"))  # of all ranks
    own = noise.rows(slice(run.rank * count, (run.rank + 1) * count))

    for name, layer in net.posterior.named_children():
        if name in ("mean", "mean_fine"):
            assert isinstance(layer, NormConv2d)
            layer.initial_std = args.init_latent_std

    def average(moments: Tensor) -> Tensor:
        return torch.stack(run.ranks.gather(moments.cpu())).mean(0).to(run.device)

    initialise_from_data(net, lambda: net(pose, appearance, "train", own), average)
