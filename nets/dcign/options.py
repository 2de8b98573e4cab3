"""Options of train_dcign.py, in the words of both published programs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import torch

from nets.dcign import Group, build, factor_slice, parse_groups
from nets.dcign import published as originals
from nets.dcign.published import RENAMED
from nets.errors import UserError
from nets.listing import walk
from nets.published import find, read_checkpoint, recognise
from nets.run import checkpoints, options
from nets.run.options import NonNegativeFloat, NonNegativeInt, PositiveInt, add_flag

DEFAULTS = {  # where neither the command line, a configuration nor the imported network says more
    "dim_hidden": 200,
    "feature_maps": 96,
    "image_size": 150,
    "likelihood": "bernoulli",
    "lr": 5e-4,
    "momentum_decay": 0.1,
    "update_decay": 0.01,
}
SIZES = ("dim_hidden", "feature_maps", "image_size", "likelihood")
STRENGTH = 0.01  # of the invariance signal, where it is asked for without a number
NO_EFFECT = (  # options of the program for undifferentiated training that do nothing there or here
    ("--plot", "-p"),
    ("--network", "-n"),
    ("--optimization", "-o"),
    ("--momentum",),
    ("--maxIter", "-i"),
    ("--coefL1",),
    ("--coefL2",),
    ("--dumpTest",),
    ("--datasrc",),
    ("--fbmat", "-f"),
    ("--reuse", "-u"),
)


# fmt: off
def parser(description: str) -> options.Parser:
    p = options.parser("dcign", description, RENAMED)
    g = p.add_argument_group("what to do")
    add = g.add_argument
    add("--regime", type=Literal["disentangled", "entangled"], default="disentangled",
        help="disentangled: one factor of the scene changes in a batch, and the latents of the "
        "others are clamped; entangled: all factors change, all latents are equal")
    add("--checkpoint", type=str | None, default=None,
        help="network to start from: a run, a checkpoint, or a published network's folder")
    add_flag(g, "--reset_optimizer", False, "fresh moments for --checkpoint")
    g = p.add_argument_group("data")
    add = g.add_argument
    add("--data", type=str | None, default=None,
        help="folder of batches (th_AZ_VARIED/FT_training/batch1 ..., th_training/batch1 ... "
        "for --regime entangled), or of images with a factors.csv; default: the demo world")
    add("--batch_size", type=PositiveInt, default=20, help="images in a batch, at least 2")
    add("--num_train_batches", type=PositiveInt, default=5000, help="steps in an epoch")
    add("--num_train_batches_per_type", type=PositiveInt | None, default=None,
        help="training batches of each type; default: all, 200 of the demo world")
    add("--num_test_batches_per_type", type=PositiveInt | None, default=None,
        help="test batches of each type; default: all, 8 of the demo world")
    add_flag(g, "--shape_bias", False, "draw batches of the last type, shape, more often")
    g = p.add_argument_group("network")
    add = g.add_argument
    add("--dim_hidden", type=PositiveInt | None, default=None, help="latents; default: 200")
    add("--feature_maps", type=PositiveInt | None, default=None,
        help="maps of the widest convolutions, a multiple of 4; default: 96")
    add("--image_size", type=PositiveInt | None, default=None,
        help="side of the images, pixels: 150 as published, or a multiple of 16 from 48")
    add("--likelihood", type=Literal["bernoulli", "gaussian"] | None, default=None,
        help="likelihood of a pixel; default: bernoulli")
    g = p.add_argument_group("latents in a training step")
    add = g.add_argument
    add("--clamp", type=Literal["first", "mean", "off"], default="first",
        help="value of clamped latents: those of the batch's first image, as in the published "
        "program, or their mean, as in the paper")
    add_flag(g, "--force_invariance", False, "draw the clamped latents of a batch together")
    add("--invariance_strength", type=NonNegativeFloat | None, default=None,
        help="strength of that; default: 0.01, as in the paper")
    g = p.add_argument_group("schedule")
    add = g.add_argument
    add("--num_epochs", type=PositiveInt, default=24, help="epochs of --num_train_batches steps")
    add("--num_steps", type=PositiveInt | None, default=None, help="steps, instead of epochs")
    add("--optimizer", type=Literal["rmsprop", "adam"], default="rmsprop",
        help="the published program's optimiser, or Adam with the same betas")
    add("--lr", "-r", type=float, default=None, help="learning rate; default: 0.0005")
    add("--test_freq", type=PositiveInt | None, default=None,
        help="steps between tests; default: an epoch")
    _published(p)
    return p


def _published(p: options.Parser) -> None:
    """Options that --help_published lists: fine settings, and names without effect here."""
    g = p.hidden
    add = g.add_argument
    add_flag(g, "--no_load", False, "ignore --checkpoint")
    add("--save", "-s", type=str | None, default=None,
        help="the run folder itself, instead of --run_dir and --name")
    add_flag(g, "--export_torch7", False, "also write the network as the published program does")
    add("--num_test_batches", type=PositiveInt | None, default=None,
        help="test batches of all types together")
    add("--shape_bias_amount", type=NonNegativeInt, default=15,
        help="ratio of the types with --shape_bias: 1 : 1 : 1 : 1 + this (the paper: 9)")
    add("--order", type=Literal["draws", "passes", "order"] | None, default=None,
        help="batches with replacement, each once an epoch at random, or each once as numbered; "
        "default: draws, and order for --regime entangled, as published")
    add_flag(g, "--shuffle", True, "shuffle the images in a batch: --clamp first takes one of them")
    add("--color", "-c", type=Literal[0], default=0, help="the network takes one channel")
    add("--groups", type=list[str], default=originals.GROUPS,
        help="types of batches, each with its number of own latents, in their order; "
        "name=latents@SET has its batches in th_SET")
    add("--model", type=Literal["convnet"], default="convnet", help="the only one")
    add_flag(g, "--gradient_filter", True, "clamped latents receive no gradient")
    add("--invariance_sign", type=Literal["repaired", "original"], default="repaired",
        help="original: the published program's, which drives the latents apart")
    add("--momentum_decay", type=NonNegativeFloat | None, default=None,
        help="1 - beta1; default: 0.1")
    add("--update_decay", type=NonNegativeFloat | None, default=None,
        help="1 - beta2; default: 0.01")
    add("--warm_down", type=NonNegativeInt, default=0,
        help="last steps, over which lr falls linearly to 0")
    add_flag(g, "--sample", False, "tests and images from sampled codes, as published")
    add("--sweep_steps", type=PositiveInt, default=7, help="images in a sweep of a latent")
    add("--threads", "-t", type=PositiveInt | None, default=None, help="processor threads")
    add_flag(g, "--useCuda", False, "--device cuda")
    add_flag(g, "--useCudnn", False, "needs --useCuda; cuDNN is always used there")
    add("--deviceId", type=PositiveInt | None, default=None, help="number of the GPU, from 1")
    for names in NO_EFFECT:
        add(*names, type=str, nargs="?", const="true", default=None, help="no effect")
# fmt: on


def parse(description: str, argv: list[str] | None = None) -> options.Namespace:
    """The options, resolved: sizes of the imported network, folders, device, groups of latents.

    Raises UserError on what contradicts.
    """
    p = parser(description)
    args = options.parse(p, argv)
    ignored = [names[0] for names in NO_EFFECT if args[names[0][2:]] is not None]
    if ignored:
        print(f"{', '.join(ignored)}: no effect, as in the published program")
    if args.save:
        args.run_dir, args.name = str(Path(args.save).parent), Path(args.save).name
    _place(args)
    if args.checkpoint and not args.no_load:
        _adopt(args)
    for name, value in DEFAULTS.items():
        args[name] = value if args[name] is None else args[name]
    if args.lr < 0:
        print(f"--lr {args.lr:g}: the loss descends, its size is taken")
        args.lr = -args.lr
    for name in ("momentum_decay", "update_decay"):
        if not 0 < args[name] <= 1:
            raise UserError(f"--{name}: must be above 0 and at most 1, got {args[name]:g}")
    if args.invariance_strength is None:
        args.invariance_strength = STRENGTH if args.force_invariance else 0.0
    if not args.force_invariance and args.invariance_strength:
        raise UserError("--invariance_strength: needs --force_invariance")
    if args.regime == "disentangled" and args.batch_size < 2:
        raise UserError("--batch_size: must be 2 or more, one image cannot vary")
    args.order = args.order or ("draws" if args.regime == "disentangled" else "order")
    args.test_freq = args.test_freq or args.num_train_batches
    _test_batches(args)
    try:
        with torch.device("meta"):
            build(args)
        groups(args)
    except ValueError as error:
        raise UserError(str(error)) from error
    return args


def groups(args: Any) -> tuple[Group, ...]:
    """Who owns which latents. Raises ValueError where there are too few."""
    result = parse_groups(args["groups"])
    for group in result:
        factor_slice(result, group.name, args["dim_hidden"])
    return result


def sets(args: Any) -> dict[str, str]:
    """Type of batch -> name of its set."""
    return {group.name: group.set for group in parse_groups(args["groups"])}


def imported(args: Any) -> tuple[Path, dict[str, Any]]:
    """The (path, content) of the network that --checkpoint names, also a published one.

    It is a path, or a name in the folder of the runs. Raises UserError if it does not exist, or has
    other sizes than those asked for.
    """
    tried = (Path(args.checkpoint), Path(args.run_dir) / args.checkpoint)
    path = next((path for path in tried if path.exists()), None)
    if path is None:
        raise UserError(f"--checkpoint {args.checkpoint}: no such folder or file")
    asked = {name: args[name] for name in SIZES if args[name] is not None}
    if recognise(path) == "dcign":
        return path, originals.read(path, **asked)
    if path.is_dir() and not any(file.match(checkpoints.PATTERN) for file in walk(path)):
        raise UserError(
            f"--checkpoint {path}: holds neither {originals.PARAMETERS} nor checkpoints"
        )
    path = find(path)
    content = read_checkpoint(path, "dcign")
    result = content["options"]
    other = [f"{n} is {result[n]} there, {v} here" for n, v in asked.items() if result[n] != v]
    if other:
        raise UserError(f"{path}: {'; '.join(other)}")
    return path, content


def _adopt(args: options.Namespace) -> None:
    """Fill in what the imported network says and nobody asked for."""
    result = imported(args)[1]["options"]
    for name in DEFAULTS:
        args[name] = result.get(name) if args[name] is None else args[name]


def _place(args: options.Namespace) -> None:
    """Threads and device."""
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.useCudnn and not args.useCuda:
        raise UserError("--useCudnn: needs --useCuda")
    if args.useCuda:
        args.device = "cuda"
    if args.deviceId:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", str(args.deviceId - 1))


def _test_batches(args: options.Namespace) -> None:
    if args.num_test_batches is None:
        return
    types = len(args.groups) if args.regime == "disentangled" else 1
    each, rest = divmod(args.num_test_batches, types)
    if args.num_test_batches_per_type not in (None, each) or rest or not each:
        raise UserError(
            f"--num_test_batches: must be {types} times --num_test_batches_per_type, "
            f"got {args.num_test_batches} and {args.num_test_batches_per_type}"
        )
    args.num_test_batches_per_type = each
