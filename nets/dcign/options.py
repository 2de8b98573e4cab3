"""Options of train_dcign.py, in the words of both published programs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import torch

from nets.dcign import Group, build, factor_slice, parse_groups
from nets.dcign import published as originals
from nets.errors import UserError
from nets.published import find, read_checkpoint, recognise
from nets.run import checkpoints, options
from nets.run.options import NonNegativeFloat, NonNegativeInt, PositiveInt, add_flag

DEFAULTS = {  # where neither the command line, a configuration nor the imported network says more
    "dim_hidden": 200,
    "feature_maps": 96,
    "image_size": 150,
    "likelihood": "bernoulli",
    "learning_rate": 5e-4,
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
def parser(description: str) -> options.ArgumentParser:
    p = options.parser("dcign", description)
    g = p.add_argument_group("what to do")
    add = g.add_argument
    add("--regime", type=Literal["disentangled", "entangled"], default="disentangled",
        help="disentangled: one variable of the scene changes in a batch, and the latents of the "
        "others are held; entangled: everything changes, all latents are equal")
    add("--import", type=str | None, default=None,
        help="a network to start from: a folder of the published program, or a run of this one")
    add_flag(g, "--no_load", False, "start from scratch whatever --import says")
    add_flag(g, "--reset_optimizer", False, "with --import: begin with fresh moments")
    add("--networks_dir", type=str | None, default=None, help="another name of --run_dir")
    add("--save", "-s", type=str | None, default=None,
        help="the run folder itself, instead of --run_dir and --name")
    add_flag(g, "--export_torch7", False, "also write the network as the published program does")
    g = p.add_argument_group("data (none: the demo world of heads)")
    add = g.add_argument
    add("--datasetdir", type=str | None, default=None,
        help="a folder of batches (th_AZ_VARIED/FT_training/batch1 ..., th_training/batch1 ... "
        "for --regime entangled), or of images with a factors.csv")
    add("--bsize", type=PositiveInt, default=20, help="images in a batch, at least 2")
    add("--num_train_batches", type=PositiveInt, default=5000, help="steps in an epoch")
    add("--num_train_batches_per_type", type=PositiveInt | None, default=None,
        help="training batches of each type; default: all there are, 200 of the demo world")
    add("--num_test_batches", type=PositiveInt | None, default=None,
        help="test batches of all types together, instead of the next option")
    add("--num_test_batches_per_type", type=PositiveInt | None, default=None,
        help="test batches of each type; default: all there are, 8 of the demo world")
    add_flag(g, "--shape_bias", False, "draw the last type, shape, more often")
    add("--shape_bias_amount", type=NonNegativeInt, default=15,
        help="ratio of the types with --shape_bias: 1 : 1 : 1 : 1 + this (the paper: 9)")
    add("--order", type=Literal["draws", "passes", "order"] | None, default=None,
        help="batches with replacement, each once an epoch at random, or each once as numbered; "
        "default: draws, and order for --regime entangled, as published")
    add_flag(g, "--shuffle", True, "the images inside a batch: --clamp first takes one of them")
    add("--color", "-c", type=Literal[0], default=0, help="the network takes one channel")
    g = p.add_argument_group("network")
    add = g.add_argument
    add("--dim_hidden", type=PositiveInt | None, default=None, help="latents; default: 200")
    add("--feature_maps", type=PositiveInt | None, default=None,
        help="maps of the widest convolutions, a multiple of 4; default: 96")
    add("--image_size", type=PositiveInt | None, default=None,
        help="side of the images, pixels: 150 as published, or a multiple of 16 from 48")
    add("--likelihood", type=Literal["bernoulli", "gaussian"] | None, default=None,
        help="of a pixel; default: bernoulli")
    add("--groups", type=list[str], default=originals.GROUPS,
        help="types of batches, each with the number of latents that own it, in their order; "
        "name=latents@SET has its batches in th_SET")
    add("--model", type=Literal["convnet"], default="convnet", help="the only one")
    g = p.add_argument_group("the code in a training step")
    add = g.add_argument
    add("--clamp", type=Literal["first", "mean", "off"], default="first",
        help="inactive latents become those of the batch's first image, as in the published "
        "program, or their average, as in the paper")
    add_flag(g, "--gradient_filter", True, "inactive latents receive no gradient")
    add_flag(g, "--force_invariance", False, "draw the inactive latents of a batch together")
    add("--invariance_strength", type=NonNegativeFloat | None, default=None,
        help="how strongly; default: 0.01, as in the paper")
    add("--invariance_sign", type=Literal["repaired", "original"], default="repaired",
        help="original: the published program's, which drives the latents apart, twice a step")
    g = p.add_argument_group("schedule")
    add = g.add_argument
    add("--epochs", type=PositiveInt, default=24, help="epochs of --num_train_batches steps")
    add("--num_steps", type=PositiveInt | None, default=None, help="steps, instead of epochs")
    add("--optimizer", type=Literal["rmsprop", "adam"], default="rmsprop",
        help="the published program's, or Adam with the same betas")
    add("--learning_rate", "--learningRate", "-r", type=float, default=None,
        help="default: 0.0005; the sign, with which the published program told ascent from "
        "descent, is left out")
    add("--momentum_decay", type=NonNegativeFloat | None, default=None,
        help="1 - beta1; default: 0.1")
    add("--update_decay", type=NonNegativeFloat | None, default=None,
        help="1 - beta2; default: 0.01")
    add("--warm_down", type=NonNegativeInt, default=0,
        help="last steps over which the learning rate falls linearly to 0")
    add_flag(g, "--sample", False, "tests and images from sampled codes, as published")
    add("--test_freq", type=PositiveInt | None, default=None,
        help="steps between two tests; default: an epoch")
    add("--sweep_steps", type=PositiveInt, default=7, help="images in a sweep of a latent")
    g = p.add_argument_group("where to compute, as the published programs say it")
    add = g.add_argument
    add("--threads", "-t", type=PositiveInt | None, default=None, help="processor threads")
    add_flag(g, "--useCuda", False, "--device cuda")
    add_flag(g, "--useCudnn", False, "needs --useCuda; cuDNN is always used there")
    add("--deviceId", type=PositiveInt | None, default=None, help="which GPU, counted from 1")
    g = p.add_argument_group("without effect, as in the published program")
    for names in NO_EFFECT:
        g.add_argument(*names, type=str, nargs="?", const="true", default=None, help="ignored")
    return p
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
    args.run_dir = args.networks_dir or args.run_dir
    _place(args)
    if args["import"] and not args.no_load:
        _adopt(args)
    for name, value in DEFAULTS.items():
        args[name] = value if args[name] is None else args[name]
    if args.learning_rate < 0:
        print(f"--learning_rate {args.learning_rate:g}: the loss descends, its size is taken")
        args.learning_rate = -args.learning_rate
    for name in ("momentum_decay", "update_decay"):
        if not 0 < args[name] <= 1:
            raise UserError(f"--{name}: must be above 0 and at most 1, got {args[name]:g}")
    if args.invariance_strength is None:
        args.invariance_strength = STRENGTH if args.force_invariance else 0.0
    if not args.force_invariance and args.invariance_strength:
        raise UserError("--invariance_strength: needs --force_invariance")
    if args.regime == "disentangled" and args.bsize < 2:
        raise UserError("--bsize: must be 2 or more, one image cannot vary")
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
    found = parse_groups(args["groups"])
    for group in found:
        factor_slice(found, group.name, args["dim_hidden"])
    return found


def sets(args: Any) -> dict[str, str]:
    """Type of batch -> name of its set."""
    return {group.name: group.set for group in parse_groups(args["groups"])}


def imported(args: Any) -> tuple[Path, dict[str, Any]]:
    """The network that --import means, a path or a name in the folder of the runs: where it is, and
    its content as of a checkpoint, of the published program as well. Raises UserError where it is
    not there or is of other sizes than those asked for.
    """
    tried = (Path(args["import"]), Path(args.run_dir) / args["import"])
    path = next((path for path in tried if path.exists()), None)
    if path is None:
        raise UserError(f"--import {args['import']}: no such folder or file")
    asked = {name: args[name] for name in SIZES if args[name] is not None}
    if recognise(path) == "dcign":
        return path, originals.read(path, **asked)
    if path.is_dir() and not list(path.rglob(checkpoints.PATTERN)):
        raise UserError(f"--import {path}: holds neither {originals.PARAMETERS} nor checkpoints")
    path = find(path)
    content = read_checkpoint(path, "dcign")
    found = content["options"]
    other = [f"{n} is {found[n]} there, {v} here" for n, v in asked.items() if found[n] != v]
    if other:
        raise UserError(f"{path}: {'; '.join(other)}")
    return path, content


def _adopt(args: options.Namespace) -> None:
    """Fill in what the imported network says and nobody asked for."""
    found = imported(args)[1]["options"]
    for name in DEFAULTS:
        args[name] = found.get(name) if args[name] is None else args[name]


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
