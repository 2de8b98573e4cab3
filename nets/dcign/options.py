"""Options of train_dcign.py: their parser, their defaults, and the imported network's values."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from nets.dcign import Group, build, factor_slice, parse_groups
from nets.dcign import published as originals
from nets.dcign.code import split_groups
from nets.dcign.network import SIDE
from nets.dcign.published import RENAMED
from nets.errors import UserError
from nets.listing import walk
from nets.published import find, read_checkpoint, recognise
from nets.run import checkpoints, options
from nets.run.options import NonNegativeFloat, PositiveInt, add_flag

DEFAULTS = {  # used if command line, configuration and imported network set no value
    "dim_hidden": 200,
    "feature_maps": 96,
    "image_size": 150,
    "likelihood": "bernoulli",
    "lr": 5e-4,
    "momentum_decay": 0.1,
    "update_decay": 0.01,
    "batch_size": 20,
}
ENTANGLED = {"dim_hidden": 120, "batch_size": 50}  # other defaults of --regime entangled
IMPORTED = tuple(name for name in DEFAULTS if name != "batch_size")  # taken from --checkpoint
SIZES = ("dim_hidden", "feature_maps", "image_size", "likelihood")
STRENGTH = 0.01  # default of --invariance_strength with --force_invariance


# fmt: off
def parser(description: str) -> options.Parser:
    """The parser of the training script."""
    p = options.parser("dcign", description, RENAMED)
    g = p.add_argument_group("what to do")
    add = g.add_argument
    add("--regime", type=Literal["disentangled", "entangled"], default="disentangled",
        help="disentangled: one factor of the scene changes in a batch, and the latents of the "
        "other factors are clamped; entangled: all factors change, and no latent is clamped")
    add("--checkpoint", type=str | None, default=None,
        help="network to start from: a run, a checkpoint, or a published network's folder")
    add_flag(g, "--reset_optimizer", False, "optimiser moments from zero, with --checkpoint")
    g = p.add_argument_group("data")
    add = g.add_argument
    add("--data", type=str | None, default=None,
        help="folder of batches (th_AZ_VARIED/FT_training/batch1 ..., th_training/batch1 ... "
        "for --regime entangled), or of images with a factors.csv; default: the demo world")
    add("--batch_size", type=PositiveInt | None, default=None,
        help="images per batch, at least 2; default: 20, or 50 with --regime entangled")
    add("--num_train_batches", type=PositiveInt, default=5000, help="steps in an epoch")
    add("--num_train_batches_per_type", type=PositiveInt | None, default=None,
        help="training batches of each type; default: all, or 200 of the demo world")
    add("--num_test_batches_per_type", type=PositiveInt | None, default=None,
        help="test batches of each type; default: all, or 8 of the demo world")
    add_flag(g, "--shape_bias", False, "more batches of the last type, shape")
    add_flag(g, "--mirror", False, "half of the training batches mirrored")
    add("--jitter", type=NonNegativeFloat, default=0.0,
        help="largest random change of size, position and brightness of a training batch, as a "
        "share, below 1; default: 0")
    g = p.add_argument_group("network")
    add = g.add_argument
    add("--dim_hidden", type=PositiveInt | None, default=None,
        help="latents; default: 200, or 120 with --regime entangled")
    add("--feature_maps", type=PositiveInt | None, default=None,
        help="maps of the widest convolutions, a multiple of 4; default: 96")
    add("--image_size", type=PositiveInt | None, default=None,
        help="side of the images, pixels: 150 as published, or a multiple of 16 from 48; "
        "default: 150")
    add("--likelihood", type=Literal["bernoulli", "gaussian"] | None, default=None,
        help="likelihood of a pixel; default: bernoulli")
    g = p.add_argument_group("latents in a training step")
    add = g.add_argument
    add("--groups", type=list[str] | str, default=originals.GROUPS, metavar="NAME=LATENTS",
        help="factors and their numbers of latents, the last with the rest, such as light=1 "
        "shape=rest; NAME=LATENTS@SET reads its batches from th_SET; default: azimuth=1 "
        "elevation=1 light=1 shape=rest")
    add("--clamp", type=Literal["first", "mean", "off"], default="first",
        help="value of clamped latents. first: that of the batch's first image, as published; "
        "mean: the batch's mean, as in the paper; off: no clamp")
    add_flag(g, "--force_invariance", False,
        "a loss that draws the clamped latents of a batch together")
    add("--invariance_strength", type=NonNegativeFloat | None, default=None,
        help="weight of the loss of --force_invariance; default: 0.01, as in the paper")
    g = p.add_argument_group("schedule")
    add = g.add_argument
    add("--num_epochs", type=PositiveInt, default=24, help="epochs of --num_train_batches steps")
    add("--num_steps", type=PositiveInt | None, default=None,
        help="number of steps, instead of --num_epochs")
    add("--optimizer", type=Literal["rmsprop", "adam"], default="rmsprop",
        help="rmsprop: that of the published program; adam: Adam with the same betas")
    add("--lr", "-r", type=float, default=None, help="learning rate; default: 0.0005")
    add("--test_freq", type=PositiveInt | None, default=None,
        help="steps between tests; default: an epoch")
    originals.add_options(p)
    return p
# fmt: on


def parse(description: str, argv: list[str] | None = None) -> options.Namespace:
    """The resolved options: published options applied, and defaults filled in.

    Values that are not set come from the imported network, then from DEFAULTS.
    Raises UserError for values out of range, and for options that contradict.
    """
    p = parser(description)
    argv = _one_value(sys.argv[1:] if argv is None else argv, "--groups")
    args = options.parse(p, argv)
    args.groups = split_groups(args.groups)
    originals.apply_options(args, argv)
    if args.checkpoint and not args.no_load:
        _adopt(args)
    defaults = DEFAULTS | (ENTANGLED if args.regime == "entangled" else {})
    for name, value in defaults.items():
        args[name] = value if args[name] is None else args[name]
    if args.lr < 0:
        print(f"--lr {args.lr:g}: the loss is minimised, so the sign is ignored")
        args.lr = -args.lr
    for name in ("momentum_decay", "update_decay"):
        if not 0 < args[name] <= 1:
            raise UserError(f"--{name}: must be above 0 and at most 1, got {args[name]:g}")
    if args.jitter >= 1:
        raise UserError(f"--jitter: must be below 1, got {args.jitter:g}")
    if args.invariance_strength is None:
        args.invariance_strength = STRENGTH if args.force_invariance else 0.0
    if not args.force_invariance and args.invariance_strength:
        raise UserError("--invariance_strength: needs --force_invariance")
    if args.regime == "disentangled" and args.batch_size < 2:
        raise UserError("--batch_size: must be 2 or more; a factor changes within a batch")
    args.order = args.order or ("draws" if args.regime == "disentangled" else "order")
    args.test_freq = args.test_freq or args.num_train_batches
    _check_export(args)
    try:
        with torch.device("meta"):
            build(args)
        groups(args)
    except ValueError as error:
        raise UserError(str(error)) from error
    return args


def _check_export(args: options.Namespace) -> None:
    """Raise UserError if --export_torch7 is given for a network that the program cannot have.

    The files that --networks_dir or --save ask for are left out then, and a line says so.
    """
    if args.image_size == SIDE and args.likelihood == "bernoulli":
        return
    rule = f"the published program has images of {SIDE} px and likelihood bernoulli"
    if args.export_torch7:
        raise UserError(f"--export_torch7: {rule}")
    if args.published_folder:
        print(f"no {originals.MODEL} and {originals.PARAMETERS} are written: {rule}")
        args.published_folder = False


def _one_value(argv: Sequence[str], name: str) -> list[str]:
    """The command line with all values that follow an option joined to one: A, B becomes A,B."""
    result: list[str] = []
    inside = False
    for token in map(str, argv):
        if inside and not token.startswith("-"):
            joined = result[-1] != name
            result[-1 if joined else len(result) :] = [f"{result[-1]},{token}" if joined else token]
        else:
            inside = token == name
            result.append(token)
    return result


def groups(args: Mapping[str, Any]) -> tuple[Group, ...]:
    """The groups of latents. Raises ValueError if --dim_hidden is too small for them."""
    result = parse_groups(args["groups"])
    for group in result:
        factor_slice(result, group.name, args["dim_hidden"])
    return result


def sets(args: Mapping[str, Any]) -> dict[str, str]:
    """Type of batch -> name of its set of batches."""
    return {group.name: group.set for group in parse_groups(args["groups"])}


def imported(args: options.Namespace) -> tuple[Path, dict[str, Any]]:
    """(path, content) of the network that --checkpoint names: one of ours, or a published one.

    --checkpoint is a path, or a name in the folder --run_dir.
    Raises UserError if it does not exist, or if its sizes differ from those of the options.
    """
    tried = (Path(args.checkpoint), Path(args.run_dir) / args.checkpoint)
    path = next((path for path in tried if path.exists()), None)
    if path is None:
        raise UserError(f"--checkpoint {args.checkpoint}: no such folder or file")
    asked = {name: args[name] for name in SIZES if args[name] is not None}
    if recognise(path) == "dcign" and not checkpoints.stored(path / "checkpoints"):
        return path, originals.read(path, training=True, **asked)
    if path.is_dir() and not any(file.match(checkpoints.PATTERN) for file in walk(path)):
        raise UserError(
            f"--checkpoint {path}: holds neither {originals.PARAMETERS} nor checkpoints"
        )
    path = find(path)
    content = read_checkpoint(path, "dcign")
    result = content["options"]
    other = [
        f"{name} is {result[name]}, the options say {value}"
        for name, value in asked.items()
        if result[name] != value
    ]
    if other:
        raise UserError(f"{path}: {'; '.join(other)}")
    return path, content


def _adopt(args: options.Namespace) -> None:
    """Set the options that have no value yet to those of the imported network."""
    result = imported(args)[1]["options"]
    for name in IMPORTED:
        args[name] = result.get(name) if args[name] is None else args[name]
