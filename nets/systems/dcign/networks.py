"""Networks that a training starts from, and that it leaves for the published program."""

from __future__ import annotations

from typing import Any

from nets.data.files import whole_file
from nets.dcign import DCIGN, RMSprop
from nets.originals import dcign as originals
from nets.run import checkpoints, options
from nets.run.log import records
from nets.run.run import Run
from nets.systems.dcign.options import imported


def start_from(run: Run, args: options.Namespace, net: DCIGN, optimizer: Any) -> None:
    """Begin with the weights of --import, and with its moments if they are of this optimiser."""
    path, moments = imported(args), None
    if originals.is_network(path):
        asked = {name: args[name] for name in ("dim_hidden", "feature_maps")}
        found, facts = originals.load(path, **asked)
        net.load_state_dict(found.state_dict())
        if args.optimizer == "rmsprop":
            moments = originals.optimizer_state(path, found)
        what = f"{facts.get('epochs', 0)} epochs of the published program"
    else:
        path = checkpoints.find(path)
        content = checkpoints.read(path, "dcign")
        checkpoints.load_weights(content, net, path)
        if content["options"]["optimizer"] == args.optimizer:
            moments = content["parts"]["optimizer"]
        what = f"step {content['step']}, {content['options']['regime']}"
    if args.reset_optimizer:
        moments = None
    if moments is not None:
        optimizer.load_state_dict(moments)
        for group in optimizer.param_groups:  # what is asked for here wins
            group |= {"lr": args.learning_rate}
            if args.optimizer == "rmsprop":
                group |= {name: args[name] for name in ("momentum_decay", "update_decay")}
    run.print(f"starting from {path} ({what}), {'with' if moments else 'without'} its moments")


def export(run: Run, net: DCIGN, optimizer: Any) -> None:
    """The network as the published program writes it, in the run folder."""
    folder = run.folder / "torch7"

    def write(name: str, content: Any) -> None:
        with whole_file(folder / name) as file:
            content(file)

    history = [line for line in records(run.folder / "log.txt") if "lower_bound" in line]
    tests = [line for line in records(run.folder / "log.txt") if "test_lower_bound" in line]
    size = run.args.bsize
    histories = {
        "lowerbound": [line["lower_bound"] * size for line in history],
        "lowerbound_test": [line["test_lower_bound"] * size for line in tests],
    }
    moments = optimizer if isinstance(optimizer, RMSprop) else None
    originals.save(write, net, moments, histories, options.plain(run.args))
