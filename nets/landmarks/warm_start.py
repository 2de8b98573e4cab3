"""Weights to start a training from, networks for inference, and features for the loss."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from nets.errors import UserError
from nets.landmarks import LandmarkModel, build, build_discriminator, fold
from nets.landmarks import published as originals
from nets.pretrained.features import load_features
from nets.pretrained.mobilenet import MobileNetV2
from nets.pretrained.vgg import VGG19
from nets.run import checkpoints, options
from nets.run.precision import Precision
from nets.run.ranks import Ranks
from nets.run.run import Run
from nets.tensor_files import read_plain, require

Report = Callable[[str], None]  # prints a line
# The options that name files to start from.
FILES = ("checkpoint", "resume_ckpt_D", "resume_ckpt_opt_G", "resume_ckpt_opt_D")


class Part(NamedTuple):
    """A part of a run that can start from a file: a network, or the optimiser of one."""

    name: str  # in checkpoints
    file: str | None  # of its option
    net: nn.Module
    optimizer: torch.optim.Optimizer | None = None  # None: the part is the network


class Start(NamedTuple):
    """A file to start from."""

    path: Path
    content: Mapping[str, Any]
    parts: Mapping[str, Any] | None  # name -> state; None: a file of the published program


def start_from(
    args: options.Namespace,
    report: Report,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    discriminator: nn.Module | None = None,
    optimizer_D: torch.optim.Optimizer | None = None,
) -> None:
    """Load weights and optimiser states from the files of the options; training begins at step 0.

    --checkpoint gives the networks, --resume_ckpt_D the discriminator, --resume_ckpt_opt_G and
    --resume_ckpt_opt_D their optimisers. A checkpoint of guise at --checkpoint also gives every
    part without a file of its own.

    report  is called with a line for each loaded part
    Raises UserError if a file cannot be read or does not fit.
    """
    for part, start, state in _starts(args, net, optimizer, discriminator, optimizer_D):
        load(start.path, part, state)
        report(f"{part.name}: started from {start.path}")


def check_start(args: options.Namespace) -> None:
    """Raise UserError if a file to start from does not fit; no network is initialised."""
    if not any(args[name] for name in FILES):
        return
    with torch.device("meta"):
        net = build(args)
        discriminator = build_discriminator(args) if args.use_gan else None
    optimizer = torch.optim.Adam(net.parameters())
    optimizer_D = torch.optim.Adam(discriminator.parameters()) if discriminator else None
    for part, start, state in _starts(args, net, optimizer, discriminator, optimizer_D):
        check(start.path, part, state)


def _starts(
    args: options.Namespace,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    discriminator: nn.Module | None,
    optimizer_D: torch.optim.Optimizer | None,
) -> Iterator[tuple[Part, Start, Mapping[str, Any]]]:
    """Each part that starts from a file, with the file and the part's state in it."""
    parts = [
        Part("model", args.checkpoint, net),
        Part("optimizer", args.resume_ckpt_opt_G, net, optimizer),
    ]
    if discriminator is not None:
        parts += [
            Part("discriminator", args.resume_ckpt_D, discriminator),
            Part("optimizer_D", args.resume_ckpt_opt_D, discriminator, optimizer_D),
        ]
    shared: Start | None = None
    for part in parts:
        if part.file:
            start = read_start(Path(part.file))
            if part.name == "model" and start.parts:
                shared = start
        elif shared is not None and part.name in (shared.parts or {}):
            start = shared
        else:
            continue
        yield part, start, state_of(part, start)


def read_start(path: Path) -> Start:
    """A file to start from; of a run folder, its newest checkpoint."""
    path = checkpoints.find(path) if path.is_dir() else path
    content = read_plain(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: must map names to tensors, got a {type(content).__name__}")
    return Start(path, content, content.get("parts"))


def state_of(part: Part, start: Start) -> Mapping[str, Any]:
    """The state of a part in a file. Raises UserError if the file has no such part."""
    if start.parts is None:
        if part.optimizer is not None:
            return originals.read_optimizer(start.path, part.optimizer, part.net)
        if part.name == "discriminator":
            return originals.read_discriminator(start.path)[0]
        return start.content
    if part.name not in start.parts:
        raise UserError(
            f"{start.path}: holds no {part.name}, only {', '.join(sorted(start.parts))}"
        )
    return start.parts[part.name]


def check(path: Path, part: Part, state: Mapping[str, Any]) -> None:
    """Raise UserError if a state does not fit a network or its optimiser.

    path  for messages
    """
    if part.optimizer is None:
        what = f"weights for the {part.name} of these options"
        require(state, part.net.state_dict(), path, what)
    else:
        checkpoints.check_moments(state, part.optimizer, path, part.name)


def load(path: Path, part: Part, state: Mapping[str, Any]) -> None:
    """Put a state into a network, or into its optimiser, which keeps its own settings.

    path  for messages
    Raises UserError if the state does not fit.
    """
    check(path, part, state)
    if part.optimizer is None:
        part.net.load_state_dict(state)
        return
    groups = part.optimizer.param_groups
    own = [{k: v for k, v in group.items() if k != "params"} for group in groups]
    try:
        part.optimizer.load_state_dict(dict(state))
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: {part.name} does not fit this network ({error})") from error
    for group, settings in zip(part.optimizer.param_groups, own, strict=True):
        group.update(settings)


def export(run: Run, parts: Mapping[str, Any], epoch: int) -> None:
    """Write the parts of a run to its folder, as the published program's files of an epoch.

    parts  objects with `state_dict` by name; None is left out
    All ranks must call it together; rank 0 writes.
    """
    states = {name: part.state_dict() for name, part in parts.items() if part is not None}
    content = {"options": options.plain(run.args), "parts": states}
    run.ranks.on_main(lambda: originals.write(run.folder, content, epoch))


def load_network(
    content: dict[str, Any], path: Path, precision: Precision, landmarks: int | None = None
) -> tuple[LandmarkModel, dict[str, Any]]:
    """The networks of a checkpoint for inference, and the options of its training.

    The weights are averages if the run kept any.

    landmarks  expected number of landmarks; None: any
    Raises UserError if the number differs, or the weights do not fit.
    """
    trained = content["options"]
    if landmarks and landmarks != trained["n_landmarks"]:
        raise UserError(
            f"{path}: was trained with {trained['n_landmarks']} landmarks, not {landmarks}"
        )
    net = build(trained).eval()
    checkpoints.load_weights(content, net, path)
    fold(net)
    return precision.place(net), dict(trained)


def perceptual_net(
    args: options.Namespace, ranks: Ranks, precision: Precision, report: Report
) -> VGG19 | MobileNetV2 | None:
    """The network of the perceptual loss; None without use_vgg, where only pixels count.

    report  is called with a line that names the weights
    All ranks must call it together. Raises UserError if the weights are missing.
    """
    if not args.use_vgg:
        return None
    if args.torch_home:
        os.environ["TORCH_HOME"] = args.torch_home
    load = partial(load_features, args.perceptual, args.vgg_weights)
    if args.vgg_download:  # on one rank, before the others read the file
        ranks.on_main(lambda: load(download=True) and None)
    net = load(normalise=args.vgg_normalise)
    report(f"perceptual loss: {net.description}")
    return precision.place(net)
