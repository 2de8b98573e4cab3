"""Trained VUNets: loading one for inference, and starting a training from one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nets.errors import UserError
from nets.published import find, read_checkpoint
from nets.run import checkpoints, options
from nets.run.precision import Precision
from nets.run.run import Run
from nets.vunet import VUNet, build
from nets.vunet.layers import fold


def load_network(
    content: dict[str, Any], path: Path, precision: Precision
) -> tuple[VUNet, dict[str, Any]]:
    """The network of a checkpoint for inference, with averaged weights where it has them, and the
    options it was trained with.
    """
    trained = content["options"]
    net = build(trained)
    checkpoints.load_weights(content, net, path)
    return precision.place(fold(net).eval()), dict(trained)


def start_from(run: Run, args: options.Namespace, net: VUNet, optimizer: Any) -> None:
    """Start from the weights, and the moments, of --checkpoint: at its step, or at 0 to retrain."""
    path = find(args.checkpoint)
    content = read_checkpoint(path, "vunet")
    for name in ("wiring", "tanh", "stickman") if "kind" in content else ():
        if args[name] != content["options"][name]:  # it would fit, and compute something else
            value = str(content["options"][name]).lower()
            raise UserError(f"{path}: these weights need --{name} {value}")
    fresh = args.reset_optimizer or ("kind" in content and "optimizer" not in content["parts"])
    parts = {"model": net} if fresh else {"model": net, "optimizer": optimizer}
    checkpoints.load_parts(content, parts, path)
    run.step = 0 if args.retrain else content["step"]
    moments = "fresh" if fresh else "its"
    line = f"{checkpoints.describe(content, path)}, as step {run.step}, with {moments} moments"
    run.print(f"starting from {line}")
