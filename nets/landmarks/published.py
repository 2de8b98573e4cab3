"""Files and options of the published landmarks program.

    checkpoint_<epoch>.ckpt             state dict of the networks, with the keys of ours
    checkpoint_D_<epoch>.ckpt           state dict of the discriminator
    latest_optimizer_{g,d}_state.ckpt   states of their Adams; parameters numbered in key order
    opt.yaml                            the options, `str()` of each value

The shapes of the weights give the widths and tell if the networks have masks. The size of the
images and the kind of covariance come from the opt.yaml beside them, or from the caller.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor, nn

from nets import plain_yaml
from nets.errors import UserError
from nets.landmarks import LandmarkModel, build, build_discriminator
from nets.run.options import (
    Namespace,
    NonNegativeFloat,
    NonNegativeInt,
    Parser,
    PositiveFloat,
    PositiveInt,
    add_flag,
    rename,
)
from nets.tensor_files import read_plain, require, size_of

ASSUMED = {"image_size": 128, "use_identity_covariance": False, "fixed_covar": 0.05}
AVERAGES = ("exp_avg", "exp_avg_sq")
LOCATIONS = ("dataset", "dataset_path", "save_path", "torch_home")
RENAMED = {  # names of the published program, and of earlier versions of guise -> names here
    "img_size": "image_size",
    "learning_rate": "lr",
    "dataset_path": "data",
    "num_workers": "workers",
    "epochs": "num_epochs",
    "resume_ckpt": "checkpoint",
}
LAUNCHER = ("rank", "world_size")  # keys that its launcher added


# fmt: off
def add_options(p: Parser) -> None:
    """Add the options that only --help_published lists: details, and options without effect."""
    g = p.hidden
    add = g.add_argument
    add("--frame_cache", type=str | None, default=None,
        help="folder of decoded videos, 3 image_size^2 bytes a frame; default: DATA/.frames")
    add("--val_frac", type=PositiveFloat, default=0.01,
        help="fraction of the validation frames to use (BBC Pose: of each video)")
    add("--val_partner", type=Literal["warped", "temporal"], default="warped",
        help="source of the appearance in validation; the published program always warps")
    add_flag(g, "--color_jitter", True, "change the colours of the frame that gives the pose")
    add_flag(g, "--color_jitter_targets", False, "change the target's colours in the same way")
    add("--flip_probability", type=NonNegativeFloat, default=0.0,
        help="probability of mirroring a sample")
    add("--rot_lb", type=float, default=-math.pi / 8, help="warp: minimum rotation, radians")
    add("--rot_ub", type=float, default=math.pi / 8, help="warp: maximum rotation, radians")
    add("--scale_lb", type=PositiveFloat, default=1.05, help="warp: minimum scale; above 1 shrinks")
    add("--scale_ub", type=PositiveFloat, default=1.15, help="warp: maximum scale")
    add("--trans_lb", type=float, default=-10.0, help="warp: minimum shift, pixels")
    add("--trans_ub", type=float, default=10.0, help="warp: maximum shift, pixels")
    add("--tps", type=Literal["classic", "clean"], default="classic",
        help="kind of warp; classic: as published, the shift moves only the centre of rotation; "
        "clean: scale, rotation about the image's centre, then shift")
    add("--model", type=Literal["PartFactorizedModel"], default="PartFactorizedModel",
        help="the only model")
    add("--ngc", type=PositiveInt, default=64, help="width of the generator")
    add("--nsf", type=PositiveInt, default=6, help="width of the shape encoder")
    add("--naf", type=NonNegativeInt, default=0,
        help="width of the appearance encoder; 0: twice its input channels")
    add_flag(g, "--low_res_mask", False, "compute masks at a quarter of the image's size")
    add("--pooling", type=Literal["mean", "sum"], default="mean",
        help="appearance vectors; sum: heatmap-weighted sum of features; mean: that sum divided by "
        "the number of pixels, as published")
    add_flag(g, "--restore_colours", False, "give the output the mean and spread of the appearance "
             "image's colours, which instance norms remove")
    add("--narrowing", type=PositiveInt, default=1,
        help="divisor of the widths without an option, 1 to 8; 1: as published")
    add("--ndf", type=PositiveInt, default=64, help="width of the discriminator")
    add("--num_D", type=PositiveInt, default=2, help="scales of the discriminator")
    add("--n_layers_D", type=PositiveInt, default=3, help="depth of the discriminator")
    add_flag(g, "--no_lsgan", False, "adversarial loss: cross entropy instead of squared error")
    add_flag(g, "--disable_spade", False, "no effect")
    add_flag(g, "--reduced_w", False, "perceptual loss: weights 1/32, 1/16, 1/8, 1/4 and 1 for "
             "relu1_2, 2_2, 3_2, 4_2 and pixels, instead of 1 each")
    add("--torch_home", type=str, default="", help="folder of torch's cache")
    add_flag(g, "--vgg_normalise", False, "normalise VGG19's input as for ImageNet; the published "
             "program does not")
    add("--weight_decay", type=NonNegativeFloat, default=5e-6,
        help="weight decay, added to the gradient; the discriminator has none")
    add("--lr_decay_begin", type=NonNegativeInt | None, default=None,
        help="first step of lr's linear decay to 0 at the last step; default: no decay")
    add("--warmup", type=NonNegativeInt, default=0, help="number of first steps in which lr rises")
    add_flag(g, "--no_grad_clip", False, "do not clip the norm of gradients to 1")
    add("--save_freq", type=NonNegativeInt, default=2,
        help="epochs between checkpoints, besides --ckpt_freq; 0: none")
    add("--val_freq", type=NonNegativeInt, default=4, help="epochs between validations; 0: none")
    add("--save_path", type=str, default="", help="the run folder; default: run_dir/name")
    for name, what in (("_D", "weights of the discriminator"), ("_opt_G", "state of the optimiser"),
                       ("_opt_D", "state of the discriminator's optimiser")):
        add(f"--resume_ckpt{name}", type=str | None, default=None,
            help=f"{what} to start from, a published file")
    add_flag(g, "--use_DDP", False, "no effect: torchrun suffices")
    add("--local_rank", type=int, default=0, help="no effect: torchrun sets it")
# fmt: on


def apply_options(args: Namespace) -> None:
    """Set the options of guise from published ones of another form.

    --save_path sets run folder and name, and an empty file to start from becomes null. A
    configs/defaults.yaml in the working directory is reported if --config does not name it.
    """
    beside = Path("configs/defaults.yaml")
    if beside.is_file() and not any(Path(file).samefile(beside) for file in args.config):
        print(f"{beside}: not read, unlike in the published program; --config {beside} reads it")
    if args.save_path:
        folder = Path(args.save_path)
        args.run_dir, args.name = str(folder.parent), folder.resolve().name
    for name in ("checkpoint", "resume_ckpt_D", "resume_ckpt_opt_G", "resume_ckpt_opt_D"):
        args[name] = args[name] or None


def load(path: str | Path, **options: Any) -> tuple[LandmarkModel, dict[str, Any]]:
    """The networks in evaluation mode, and their options as of `train_landmarks.py`.

    options  override those from the weights and from the opt.yaml beside them
    Raises UserError, with the first three differences, if the file is not of these networks.
    """
    content = read(path, **options)
    net = build(content["options"])
    net.load_state_dict(content["parts"]["model"])
    return net.eval(), content["options"]


def read(path: str | Path, **options: Any) -> dict[str, Any]:
    """The file as content of a checkpoint: "step", "options", "parts", and "kind", a description.

    options  as for `load`
    """
    path = Path(path)
    state = _state(path, "shape_encoder.", "landmark networks")
    beside = path.parent / "opt.yaml"
    stored = read_options(beside) if beside.is_file() else {}
    settings = _sizes(state) | {name: stored.get(name, value) for name, value in ASSUMED.items()}
    unknown = sorted(options.keys() - settings.keys())
    if unknown:
        raise ValueError(f"load: {unknown[0]} must be one of {', '.join(sorted(settings))}")
    settings |= options
    model = _checked(state, lambda: build(settings), path, "the weights of landmark networks")
    epoch = re.fullmatch(r"checkpoint_(\d+)", path.stem)
    covariance = "fitted covariances"
    if settings["use_identity_covariance"]:
        covariance = f"a fixed covariance of {settings['fixed_covar']:g}"
    kind = (
        f"of the published program, {settings['n_landmarks']} landmarks with {covariance}"
        f"{', masks' if settings['use_fg_bg_mask'] else ''}, {settings['image_size']} px"
    )
    if epoch:
        kind += f", epoch {epoch[1]}"
    if not stored:
        kind += "; covariance and size assumed, since there is no opt.yaml beside it"
    return {"step": 0, "options": settings, "parts": {"model": model}, "kind": kind}


def read_discriminator(path: str | Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    """A discriminator's state dict, and its options "ndf", "n_layers_D" and "num_D"."""
    path = Path(path)
    state = _state(path, "layer0.", "a discriminator")
    places = [int(m[1]) for m in (re.match(r"layer0\.(\d+)\.", name) for name in state) if m]
    sizes = {
        "ndf": size_of(state, "layer0.0.weight", 0),
        "n_layers_D": max(1, (max(places) - 2) // 3),
        "num_D": len({name.split(".")[0] for name in state}),
    }
    weights = _checked(
        state, lambda: build_discriminator(sizes), path, "the weights of a discriminator"
    )
    return weights, sizes


def read_optimizer(
    path: str | Path, optimizer: torch.optim.Optimizer, net: nn.Module
) -> dict[str, Any]:
    """A state for `optimizer.load_state_dict`: moments of the file, settings of the optimiser.

    optimizer  an Adam of `net.parameters()` in one group
    Raises UserError if the moments do not fit the parameters.
    """
    path = Path(path)
    content = read_plain(path)
    if not isinstance(content, Mapping) or not {"state", "param_groups"} <= content.keys():
        raise UserError(f"{path}: not the state of an optimiser")
    # Older versions of torch number parameters by address. The groups hold their order.
    order = [number for group in content["param_groups"] for number in group["params"]]
    names = [name for name, _ in net.named_parameters()]
    if len(order) != len(names):
        raise UserError(
            f"{path}: not the state of an optimiser of this network: it has {len(order)} "
            f"parameters, the network {len(names)}"
        )
    result, expected = {}, {}
    for number, (name, parameter) in zip(order, net.named_parameters(), strict=True):
        moments = content["state"].get(number)
        if moments is None:  # a parameter that never had a gradient
            continue
        for key in AVERAGES:
            expected[f"{key} of {name}"] = parameter
            if key in moments:
                result[f"{key} of {name}"] = moments[key]
    require(result, expected, path, "the state of an Adam of this network")
    fresh = optimizer.state_dict()
    fresh["state"] = {}
    for new, (number, name) in enumerate(zip(order, names, strict=True)):
        if number in content["state"]:
            averages = {key: result[f"{key} of {name}"].float().clone() for key in AVERAGES}
            step = torch.tensor(float(content["state"][number]["step"]))
            fresh["state"][new] = {"step": step, **averages}
    return fresh


def read_options(path: str | Path) -> dict[str, Any]:
    """The options of an opt.yaml, under the names and with the types of `train_landmarks.py`.

    Raises UserError if the file cannot be read, or is not a YAML mapping.
    """
    try:
        keys = plain_yaml.load(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(keys, dict):
        raise UserError(f"{path}: must map options to values, got {type(keys).__name__}")
    return rename(translate(keys), RENAMED, str(path))


def translate(keys: Mapping[str, Any], source: str = "") -> dict[str, Any]:
    """The options of a published YAML file, with the types of `train_landmarks.py`.

    "None" of a file to resume from becomes null, a number like "5e-06" becomes a number, and the
    null of a location becomes "". Keys of the launcher are left out. `source` is not used.
    """
    result = {}
    for key, value in keys.items():
        if key in LAUNCHER:
            continue
        if value in (None, "None", "") and key.startswith("resume_ckpt"):
            value = None
        elif value is None and key in LOCATIONS:
            value = ""
        elif isinstance(value, str) and re.fullmatch(r"[+-]?\d+e[+-]?\d+", value, re.IGNORECASE):
            value = float(value)  # in YAML 1.1 a number needs a point
        result[key] = value
    return result


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The options that follow from the weights' keys and shapes."""
    landmarks = size_of(state, "shape_encoder.decoder_layers.3.1.weight", 0)
    nsf = size_of(state, "shape_encoder.encoder_layers.0.0.0.weight", 0)
    naf = size_of(state, "appearance_encoder.encoder_layers.0.0.0.weight", 0)
    return {
        "n_landmarks": landmarks,
        "nsf": nsf,
        "naf": 0 if naf == 2 * (landmarks + 4 * nsf) else naf,
        "n_filters": size_of(state, "appearance_encoder.decoder_layers.1.1.weight", 0),
        "ngc": max(1, size_of(state, "image_decoder.fc.weight", 0) // 4),
        "use_fg_bg_mask": any(name.startswith("bg_net.") for name in state),
        "low_res_mask": any(name.startswith("fg_mask_net.0.encoder") for name in state),
        "pooling": "mean",
    }


def _state(path: Path, start: str, what: str) -> Mapping[str, Tensor]:
    """The state dict in a file, without the prefix of DataParallel.

    Raises UserError if no key begins with `start`; `what` names the expected networks.
    """
    state = read_plain(path)
    if isinstance(state, Mapping):
        state = {str(name).removeprefix("module."): value for name, value in state.items()}
    if not isinstance(state, Mapping) or not any(str(name).startswith(start) for name in state):
        content = list(state) if isinstance(state, Mapping) else [f"a {type(state).__name__}"]
        first = ", ".join(map(str, content[:3])) or "nothing"
        raise UserError(f"{path}: not the weights of {what}: it holds {first}")
    return state


def _checked(
    state: Mapping[str, Tensor], construct: Callable[[], nn.Module], path: Path, what: str
) -> dict[str, Tensor]:
    """The state dict in float32, in the order of a constructed network.

    Raises UserError if keys or shapes differ from the network's.
    """
    try:
        with torch.device("meta"):
            expected = construct().state_dict()
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    require(state, expected, path, what)
    return {name: state[name].float() for name in expected}
