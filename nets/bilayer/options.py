"""The options of train_bilayer.py: their parser, checks, learning rates and optimisers."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nets.bilayer.defaults import ALL, NETWORKS, OPTIMIZERS, Names, words
from nets.bilayer.losses import LOSSES, PUBLISHED
from nets.bilayer.metrics import ALIASES, METRICS
from nets.bilayer.published_options import RENAMED, add_options, refuse
from nets.errors import UserError
from nets.pretrained import features
from nets.run import options
from nets.run.options import NonNegativeInt, PositiveFloat, PositiveInt, add_flag

Epoch = str | int


# fmt: off
def parser(description: str) -> options.Parser:
    """The parser of all options, published ones included."""
    p = options.parser("bilayer", description, RENAMED)
    g = p.add_argument_group("data")
    add = g.add_argument
    add("--data", type=str | None, default=None,
        help="folder with imgs/, keypoints/ and segs/ of one or more videos; default: the demo "
        "world of heads")
    add("--image_size", type=PositiveInt, default=256, help="side of the images, pixels")
    add("--batch_size", type=PositiveInt, default=1, help="samples per step, of all ranks together")
    add("--num_source_frames", type=NonNegativeInt, default=1, help="source frames per sample")
    add_flag(g, "--frame_num_from_paper", False,
        "draw frames by the paper's rule, spread over a video; false: uniformly")
    g = p.add_argument_group("start")
    add = g.add_argument
    add("--init_experiment_dir", type=str, default="",
        help="experiment to load networks from, a folder with checkpoints/; or, without "
        "init_which_epoch, a run or a checkpoint of guise; trained: the weights of guise")
    add("--init_networks", type=Names, default="",
        help="networks to load from init_experiment_dir")
    add("--init_which_epoch", type=Epoch, default="none",
        help="epoch to load from init_experiment_dir")
    add("--frozen_networks", type=Names, default="", help="networks that are not trained")
    add("--which_epoch", type=Epoch, default="none",
        help="epoch of this experiment to go back to, or latest; later checkpoints are set aside")
    g = p.add_argument_group("schedule")
    add = g.add_argument
    add("--export_published", type=bool | None, nargs="?", const=True, default=None,
        help="write the published results folder as well: args.txt, EPOCH_NETWORK.pth, metrics/, "
        "tensorboard_paper/, images/; default: with experiment_dir or experiment_name")
    add("--num_epochs", type=PositiveInt, default=1000, help="last epoch, counted from 1")
    add("--num_steps", type=PositiveInt | None, default=None,
        help="count of steps, instead of num_epochs")
    add("--lr", type=PositiveFloat | None, default=None,
        help="learning rate of all networks; default: --lrs, 2e-4")
    add("--test_freq", type=PositiveInt, default=5, help="epochs between tests")
    add("--checkpoint_freq", type=PositiveInt, default=25,
        help="epochs between published checkpoints, EPOCH_NETWORK.pth")
    add_flag(g, "--skip_test", False, "no tests during training")
    add_flag(g, "--calc_stats", False, "compute standing statistics of BatchNorm before a test")
    g = p.add_argument_group("networks, losses and metrics")
    add = g.add_argument
    add("--networks_to_train", type=Names, default=ALL, help="networks that are trained")
    add("--losses_train", type=Names, default=", ".join(PUBLISHED),
        help=f"losses of training: {', '.join(LOSSES)}")
    add("--losses_test", type=Names, default="lpips, csim",
        help=f"metrics of tests: {', '.join(METRICS)}")
    add("--metrics", type=Names, default="PSNR, lpips, pose_matching",
        help="metrics of training and tests")
    add("--perceptual", type=features.Perceptual, default="pretrained", help=features.HELP)
    add_flag(g, "--vgg_download", False, "download ImageNet weights if they are missing")
    add_options(p)
    return p
# fmt: on


def split_pairs(value: str | dict[str, Any], name: str) -> dict[str, str]:
    """{"a": "x", "b": "y"} from "a: x, b: y" or a dict."""
    if isinstance(value, dict):
        return {key: str(item) for key, item in value.items()}
    parts = [part.partition(":") for part in words(value)]
    for key, colon, item in parts:
        if not colon or not item.strip():
            raise UserError(f"{name}: must be `network: value, ...`, got `{key}`")
    return {key.strip(): item.strip() for key, _, item in parts}


def known_names(values: list[str], known: Sequence[str], option: str, what: str) -> list[str]:
    """The names with aliases resolved. Raises UserError with the nearest known name."""
    values = [ALIASES.get(value, value) for value in values]
    for value in values:
        if value not in known:
            close = difflib.get_close_matches(value, known, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"
            raise UserError(f"{option}: no {what} is called {value}{hint}")
    return values


def parse(description: str, argv: list[str] | None = None) -> options.Namespace:
    """The options, with lists as lists, aliases resolved and the run folder set.

    Raises UserError on a bad value and on options that contradict each other.
    """
    args = options.parse(parser(description), argv)
    _location(args)
    for name in ("networks_train", "networks_test", "networks_calc_stats", "networks_to_train",
                 "spn_networks", "init_networks", "frozen_networks"):  # fmt: skip
        args[name] = known_names(words(args[name]), NETWORKS, name, "network")
    args.losses_train = known_names(words(args.losses_train), LOSSES, "losses_train", "loss")
    for name in ("losses_test", "metrics"):
        args[name] = known_names(words(args[name]), METRICS, name, "metric")
    for name in ("spn_exceptions", "spn_layers", "per_full_net_names", "pix_loss_names",
                 "seg_loss_names"):  # fmt: skip
        args[name] = words(args[name])
    for name in ("per_loss_weights", "per_layer_weights", "pix_loss_weights", "seg_loss_weights"):
        args[name] = _numbers(args[name], name)
    _optimizers(args)
    _devices(args)
    _check(args)
    return args


def _location(args: options.Namespace) -> None:
    """Set the run folder, and the folder of weights."""
    if args.torch_home:
        os.environ["TORCH_HOME"] = args.torch_home
    args.experiment_dir = args.experiment_dir or args.project_dir
    args.pretrained_weights_dir = args.pretrained_weights_dir or args.project_dir
    if args.export_published is None:
        args.export_published = bool(args.experiment_dir or args.experiment_name)
    if args.experiment_dir or args.experiment_name:
        args.run_dir = str(Path(args.experiment_dir or ".") / "runs")
        args.name = args.experiment_name or args.name or "test"


def _numbers(value: str | float | list[float], name: str) -> list[float]:
    """The numbers of the option `name`."""
    try:
        if isinstance(value, int | float | list):
            return [float(part) for part in (value if isinstance(value, list) else [value])]
        return [float(part) for part in words(value)]
    except ValueError as error:
        raise UserError(f"{name}: must be numbers separated by commas, got {value}") from error


def _optimizers(args: options.Namespace) -> None:
    """Set optimiser and learning rate of each network as dicts."""
    args.optims, rates = split_pairs(args.optims, "optims"), split_pairs(args.lrs, "lrs")
    if args.lr is not None:
        rates = dict.fromkeys(args.optims, str(args.lr))
    args.lrs = {}
    for option, given in (("optims", args.optims), ("lrs", rates)):
        known_names(list(given), NETWORKS, option, "network")
    for network, kind in args.optims.items():
        if kind not in OPTIMIZERS:
            raise UserError(f"optims: {network} must be one of {', '.join(OPTIMIZERS)}, got {kind}")
    for network, rate in rates.items():
        args.lrs[network] = _numbers(rate, f"lrs: {network}")[0]
    for network in args.networks_to_train:
        if network not in args.optims or network not in args.lrs:
            raise UserError(f"optims and lrs: {network} is in networks_to_train and has none")


def _devices(args: options.Namespace) -> None:
    """Set device and precision; check the number of ranks and the batch size."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if args.num_gpus == 0:
        args.device = "cpu"
    elif args.num_gpus > 1 and args.num_gpus != ranks:
        raise UserError(
            f"num_gpus {args.num_gpus}: start with torchrun --nproc_per_node={args.num_gpus} "
            f"train_bilayer.py ...; the number of ranks is {ranks}"
        )
    if args.use_half or (args.use_apex and args.amp_opt_level != "O0"):
        args.precision = "fp16"
    elif args.use_apex:
        args.precision = "fp32"
    if args.precision == "fp16" and args.amp_loss_scale != "dynamic":
        raise UserError(f"amp_loss_scale: must be dynamic, got {args.amp_loss_scale}")
    if args.precision == "fp16" and (args.use_closure or "lbfgs" in args.optims.values()):
        raise UserError("lbfgs and use_closure: not with fp16, which scales the loss")
    if args.batch_size % (ranks * args.accumulate):
        raise UserError(
            f"batch_size: must be a multiple of {ranks} ranks x {args.accumulate} accumulated "
            f"batches, got {args.batch_size}"
        )


def _check(args: options.Namespace) -> None:
    """Raise UserError on options that contradict each other or are not implemented."""
    refuse(args)
    for name in ("networks_to_train", "networks_test", "networks_calc_stats"):
        for network in args[name]:
            if network not in args.networks_train and network != "texture_enhancer":
                raise UserError(f"{name}: {network} is not among networks_train")
    check_values(args)
    if not args.output_stickmen:
        for flag, network in (("emb_no_stickman", "identity_embedder"),
                              ("dis_no_stickman", "discriminator")):  # fmt: skip
            if not args[flag] and network in args.networks_train:
                raise UserError(f"output_stickmen false: needs --{flag}")
    if "face_features" in args.losses_train and args.num_keypoints != 68:
        raise UserError("losses_train: face_features needs 68 keypoints")
    if not args.output_segmentation:
        if args.emb_apply_masks and "identity_embedder" in args.networks_train:
            raise UserError("output_segmentation false: needs --emb_apply_masks false")
        if "segmentation" in args.losses_train:
            raise UserError("output_segmentation false: losses_train must not have segmentation")
    if bool(args.init_experiment_dir) != bool(args.init_networks):
        raise UserError("init_experiment_dir and init_networks: give both or neither")
    if args.frozen_networks and not set(args.networks_to_train) - set(args.frozen_networks):
        raise UserError("frozen_networks: no network is left to train")
    if args.augment_with_general:
        if not (args.data and args.general_data_root):
            raise UserError("augment_with_general: needs --data and --general_data_root")
        if args.augment_with_general_ratio is not None:
            raise UserError(
                "augment_with_general_ratio: not implemented; sample_general_dataset draws as many "
                "general videos as others, without it all of them are used"
            )
        if args.dataset_load_from_txt:
            raise UserError("augment_with_general: not with dataset_load_from_txt")
    if args.wgv_mode != "none" and args.ema:
        raise UserError("wgv_mode and ema: give only one of them")
    if args.save_dataset_filenames and not (args.data or args.dataset_load_from_txt):
        raise UserError("save_dataset_filenames: the demo world has no files; give --data")
    if args.num_source_frames == 0:
        raise UserError("num_source_frames: must be at least 1 in training, got 0")


def check_values(args: Mapping[str, Any], where: str = "") -> None:
    """Raise UserError on values that no network and no data can have.

    where  the source of the values, for the message
    """
    if args["image_size"] & (args["image_size"] - 1):
        raise UserError(f"image_size{where}: must be a power of two, got {args['image_size']}")
    if args["pse_in_channels"] != 2 * args["num_keypoints"]:
        raise UserError(
            f"pse_in_channels{where}: must be 2 x num_keypoints = {2 * args['num_keypoints']}, got "
            f"{args['pse_in_channels']}"
        )
    if args["pse_init"] == "whitened" and args["pse_use_harmonic_enc"]:
        raise UserError(f"pse_init{where}: whitened is not for pse_use_harmonic_enc")
    if args["output_stickmen"] and args["num_keypoints"] != 68:
        raise UserError(f"output_stickmen{where}: stick figures need 68 keypoints")
    if args["mask_source_and_target"] and not args["output_segmentation"]:
        raise UserError(f"mask_source_and_target{where}: needs --output_segmentation")
    if args["use_source_background"] and not args["inf_pred_segmentation"]:
        raise UserError(f"use_source_background{where}: needs --inf_pred_segmentation")


def schedule(args: options.Namespace, length: int) -> tuple[int, int]:
    """(steps per epoch, steps of the run) for a dataset of `length` samples.

    An epoch has as many whole batches as the dataset, and at least one.
    """
    epoch = 1 if args.debug else max(1, length // args.batch_size)
    return epoch, args.num_steps or args.num_epochs * epoch


def learning_rate(args: options.Namespace, step: int, total: int) -> float:
    """The factor of all learning rates at a step: 1, then a linear decay to 0 at the end."""
    if args.lr_decay_begin is None or step <= args.lr_decay_begin:
        return 1.0
    return max(0.0, (total - step) / max(1, total - args.lr_decay_begin))


def optimizer(
    args: options.Namespace, network: str, parameters: list[nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimiser of a network's parameters."""
    kind, rate = args.optims[network], args.lrs[network]
    if kind.endswith("adam"):
        betas = (args.adam_beta1, args.adam_beta2)
        return torch.optim.Adam(parameters, rate, betas, args.eps, fused=True)
    if kind.endswith("sgd"):
        return torch.optim.SGD(parameters, rate, fused=kind == "fusedsgd")
    return torch.optim.LBFGS(parameters, rate)
