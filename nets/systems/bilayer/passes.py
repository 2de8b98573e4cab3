"""A full pass of the networks over one sample, and the picture of everything in it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from nets.data.pictures import write_picture
from nets.errors import UserError
from nets.run import options
from nets.run.loader import to_device
from nets.systems.bilayer import Loaded
from nets.systems.bilayer.grid import columns_of, grid
from nets.systems.bilayer.inputs import prepare


def enhancing(args: options.Namespace, model: Loaded) -> bool:
    """Whether the enhancer is to run. Raises UserError where it is asked for and not there."""
    there = "texture_enhancer" in model.net.names
    if args.enhancer and not there:
        raise UserError("--enhancer: this checkpoint has no texture_enhancer")
    return there if args.enhancer is None else args.enhancer


def full_pass(args: options.Namespace, model: Loaded, sample: dict[str, Tensor]) -> dict:
    """Everything that the networks make of a sample: sources n, targets t."""
    networks = [n for n in model.options["networks_test"] if n in model.net.names]
    if not enhancing(args, model):
        networks = [n for n in networks if n != "texture_enhancer"]
    batch = {name: value[None] for name, value in sample.items() if isinstance(value, Tensor)}
    data = prepare(to_device(batch, model.device), model.options)
    with torch.no_grad(), model.precision.autocast():
        return model.net(data, networks)


def write_layers(file: Path, data: dict[str, Tensor], model: Loaded) -> None:
    """The visual grid: a line a target, everything that went into its picture."""
    networks = [*model.options["networks_test"], "discriminator"]  # for the driving stickman
    count = data["target_poses"].shape[1]
    rows = {}
    for name, value in data.items():
        if isinstance(value, Tensor) and value.ndim > 2 and value.shape[:1] == (1,):
            each = value[0] if value.shape[1] == count else value[0][:1].expand(
                count, *value.shape[2:]
            )  # fmt: skip
            rows[name] = each[:, None]
    picture = grid(rows, networks, count)
    write_picture(file, torch.from_numpy(picture.copy()).permute(2, 0, 1))
    names = ", ".join(title for title, _ in columns_of(rows, networks))
    print(f"written: {file}: {names}")
