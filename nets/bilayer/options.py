"""What the options of train_bilayer.py mean: lists, locations, optimisers, what contradicts."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from nets.bilayer.defaults import DEFAULTS as NET
from nets.bilayer.defaults import NETWORKS, words
from nets.bilayer.losses import DEFAULTS as LOSS
from nets.bilayer.losses import LOSSES, PUBLISHED
from nets.bilayer.metrics import ALIASES, METRICS
from nets.bilayer.published import RENAMED
from nets.errors import UserError
from nets.run import options
from nets.run.options import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    add_flag,
)

BASE = "identity_embedder, texture_generator, keypoints_embedder, inference_generator"
ALL = f"{BASE}, discriminator"
OPTIMIZERS = ["adam", "fusedadam", "sgd", "fusedsgd", "lbfgs"]
WITHOUT_EFFECT = {  # of the published scripts: flags that never had one, or that the program sets
    "dataset_name": str, "tex_pred_segmentation": str, "pse_input_tensor": str, "local_rank": int,
    "rank": int, "world_size": int, "train_size": int, "folder_postfix": str,
}  # fmt: skip
SIZES = (
    "emb_num_channels", "emb_max_channels", "emb_output_tensor_size",
    "pse_num_channels", "pse_num_blocks", "pse_in_channels", "pse_num_harmonics",
    "tex_num_channels", "tex_max_channels", "tex_input_tensor_size",
    "inf_num_channels", "inf_max_channels", "inf_input_tensor_size",
    "dis_num_channels", "dis_max_channels", "dis_num_blocks", "dis_output_tensor_size",
    "enh_num_channels", "enh_max_channels", "enh_bottleneck_tensor_size",
    "enh_num_blocks", "enh_unrolling_depth",
)  # fmt: skip
Names = str | list[str]
Numbers = str | float | list[float]
Epoch = str | int


# fmt: off
def parser(description: str) -> options.Parser:
    p = options.parser("bilayer", description, RENAMED)
    g = p.add_argument_group("data")
    add = g.add_argument
    add("--data", type=str | None, default=None,
        help="folder with imgs/, keypoints/ and segs/, of many people, one person or one video; "
        "default: the demo world of heads")
    add("--image_size", type=PositiveInt, default=256, help="side of the images, pixels")
    add("--batch_size", type=PositiveInt, default=1, help="samples per step, of all ranks together")
    add("--num_source_frames", type=NonNegativeInt, default=1, help="source frames of a sample")
    add_flag(g, "--frame_num_from_paper", False,
        "draw frames by the paper's rule, spread over a video; default: uniformly")
    g = p.add_argument_group("start")
    add = g.add_argument
    add("--init_experiment_dir", type=str, default="",
        help="experiment to take networks from, a folder with checkpoints/")
    add("--init_networks", type=Names, default="", help="networks to take")
    add("--init_which_epoch", type=Epoch, default="none", help="their epoch")
    add("--frozen_networks", type=Names, default="", help="networks that are not trained")
    add("--which_epoch", type=Epoch, default="none",
        help="epoch of this experiment's published checkpoints to continue from, if there is no "
        "checkpoint of guise")
    g = p.add_argument_group("schedule")
    add = g.add_argument
    add("--num_epochs", type=PositiveInt, default=1000, help="last epoch, counted from 1")
    add("--num_steps", type=PositiveInt | None, default=None, help="steps, instead of epochs")
    add("--lr", type=PositiveFloat | None, default=None,
        help="learning rate of all networks; default: --lrs, 2e-4")
    add("--test_freq", type=PositiveInt, default=5, help="epochs between tests")
    add("--checkpoint_freq", type=PositiveInt, default=25,
        help="epochs between published checkpoints, EPOCH_NETWORK.pth")
    add_flag(g, "--skip_test", False, "no tests")
    add_flag(g, "--calc_stats", False, "compute standing statistics of BatchNorm before a test")
    g = p.add_argument_group("networks, losses and metrics")
    add = g.add_argument
    add("--networks_to_train", type=Names, default=ALL, help="networks that are trained")
    add("--losses_train", type=Names, default=", ".join(PUBLISHED), help=f"of {', '.join(LOSSES)}")
    add("--losses_test", type=Names, default="lpips, csim",
        help=f"metrics of tests: {', '.join(METRICS)}")
    add("--metrics", type=Names, default="PSNR, lpips, pose_matching",
        help="metrics of training and tests")
    add("--perceptual", type=Literal["pretrained", "random"], default="pretrained",
        help="random: seeded random feature networks instead of weights")
    add_flag(g, "--vgg_download", False, "download ImageNet weights if they are missing")
    _published(p)
    return p


def _published(p: options.Parser) -> None:
    """Options that --help_published lists: those of the published scripts, by their names."""
    g = p.hidden
    add = g.add_argument
    add("--experiment_dir", type=str | None, default=None,
        help="parent of runs/; the run folder is EXPERIMENT_DIR/runs/EXPERIMENT_NAME")
    add("--experiment_name", type=str | None, default=None,
        help="name of the run folder; default with experiment_dir: test")
    add("--project_dir", type=str | None, default=None,
        help="default of experiment_dir and pretrained_weights_dir")
    add("--pretrained_weights_dir", type=str | None, default=None,
        help="folder that holds pretrained_weights/, the weights of losses and metrics")
    add("--torch_home", type=str, default="", help="folder of torch's cache")
    add_flag(g, "--no_disk_write_ops", False, "leave nothing on the disk")
    add_flag(g, "--redirect_print_to_file", False, "print to logs/stdout_RANK.txt")
    add("--images_log_rate", type=PositiveInt, default=100,
        help="steps between images in metrics/")
    add("--metrics_log_rate", type=PositiveInt, default=2, help="steps between numbers in metrics/")
    add("--visual_freq", type=int, default=-1,
        help="steps between lines and grids of training; -1: an epoch")
    add("--num_visuals", type=PositiveInt, default=32, help="rows of a grid")
    add("--dataloader_name", type=Literal["voxceleb2"], default="voxceleb2",
        help="layout of the data")
    add_flag(g, "--save_dataset_filenames", False,
        "write the used frames to train_filenames.txt and test_filenames.txt")
    add_flag(g, "--dataset_load_from_txt", False, "take the frames from such lists")
    add("--train_load_from_filename", type=str, default="train_filenames.txt",
        help="list of training frames")
    add("--test_load_from_filename", type=str, default="test_filenames.txt",
        help="list of test frames")
    add("--num_target_frames", type=PositiveInt, default=1, help="target frames of a sample")
    add("--num_keypoints", type=PositiveInt, default=68, help="points of a face")
    add_flag(g, "--output_segmentation", True, "read masks")
    add_flag(g, "--output_stickmen", True, "draw stick figures of the points")
    add("--stickmen_thickness", type=PositiveInt, default=2, help="width of their lines, pixels")
    add("--demo_train", type=NonNegativeInt, default=0,
        help="people of the demo world to train on; 0: 2000")
    add("--demo_test", type=NonNegativeInt, default=0,
        help="people of the demo world to test on; 0: 64")
    add_flag(g, "--unfreeze_texture_generator_last_layers", True,
        "train the projector and the last layers of a frozen texture generator")
    add_flag(g, "--unfreeze_inference_generator_last_layers", False,
        "train those of a frozen inference generator")
    add_flag(g, "--save_initial_test_before_training", True, "test before the first epoch")
    add("--stats_calc_iters", type=PositiveInt, default=100, help="batches of standing statistics")
    add("--optims", type=str | dict[str, str], default=", ".join(f"{n}: adam" for n in NETWORKS),
        help=f"network: one of {', '.join(OPTIMIZERS)}")
    add("--lrs", type=str | dict[str, float], default=", ".join(f"{n}: 2e-4" for n in NETWORKS),
        help="network: learning rate")
    add("--adam_beta1", type=options.Fraction, default=0.5, help="beta1 of Adam")
    add("--adam_beta2", type=options.Fraction, default=0.999, help="beta2 of Adam")
    add("--lr_decay_begin", type=NonNegativeInt | None, default=None,
        help="first step of a linear decay of all learning rates to 0; default: never")
    add("--eps", type=PositiveFloat, default=1e-7, help="eps of norms, spectral norm and Adam")
    add("--bn_momentum", type=PositiveFloat, default=1.0, help="momentum of BatchNorm")
    add("--wgv_mode", type=Literal["none", "running_average", "average"], default="none",
        help="average of the weights, for tests and inference")
    add("--wgv_momentum", type=options.Fraction, default=0.999, help="decay of running_average")
    add_flag(g, "--debug", False, "one batch an epoch, anomaly detection")
    add("--num_gpus", type=NonNegativeInt, default=1,
        help="0: CPU; more than one: as many ranks must be started with torchrun")
    for name, text in (("use_half", "--precision fp16"), ("use_apex", "mixed precision"),
                       ("use_closure", "give the optimisers a closure")):
        add_flag(g, f"--{name}", False, text)
    add("--amp_opt_level", type=Literal["O0", "O1", "O2", "O3"], default="O0",
        help="with use_apex: O0 is fp32, the others are --precision fp16")
    add("--amp_loss_scale", type=str, default="dynamic", help="loss scale of fp16: always dynamic")
    add("--runner_name", type=Literal["default"], default="default", help="order of the networks")
    add("--networks_train", type=Names, default=ALL, help="networks that run in training")
    add("--networks_test", type=Names, default=BASE,
        help="networks that run in tests and inference")
    add("--networks_calc_stats", type=Names, default=BASE, help="networks that run with calc_stats")
    add("--spn_networks", type=Names, default=", ".join(NETWORKS),
        help="networks with spectral norm")
    add("--spn_exceptions", type=Names, default="",
        help="modules without it, network.module.name")
    add("--spn_layers", type=Names, default="conv2d, linear", help="kinds of layers with it")
    _networks(p)
    _losses(p)
    for name, kind in WITHOUT_EFFECT.items():
        add(f"--{name}", type=kind | None, default=None, help="no effect")


def _networks(p: options.Parser) -> None:
    g = p.hidden

    def add(name: str, kind: Any, text: str) -> None:
        g.add_argument(f"--{name}", type=kind, default=NET[name], help=text)

    def switch(name: str, text: str) -> None:
        add_flag(g, f"--{name}", NET[name], text)

    for name in SIZES:
        add(name, PositiveInt, name.partition("_")[2].replace("_", " "))
    for part in ("emb", "pse", "tex", "inf", "dis", "enh"):
        add(f"{part}_norm_layer_type", str, "norm")
        add(f"{part}_activation_type", Literal["leakyrelu", "relu"], "activation")
    for part in ("emb", "dis", "enh"):
        add(f"{part}_downsampling_type", Literal["avgpool", "maxpool", "pixelunshuffle"], "halving")
    for part in ("tex", "inf", "enh"):
        add(f"{part}_upsampling_type", Literal["nearest", "bilinear", "pixelshuffle"], "doubling")
    for part in ("tex", "inf"):
        add(f"{part}_skip_layer_type", Literal["ada_conv", "conv"], "skip convolution")
    add("tex_pixelwise_bias_type",
        Literal["none", "fixed", "adaptive", "adaptive_original", "stochastic"],
        "bias a pixel; adaptive_original: predicted and not used, as published")
    switch("emb_no_stickman", "the embedder sees the image alone")
    switch("emb_apply_masks", "the embedder sees the person alone")
    switch("pse_emb_source_pose", "embed the source's pose as well")
    switch("pse_use_harmonic_enc", "sines and cosines of the points")
    switch("inf_pred_segmentation", "predict masks")
    switch("inf_pred_source_data", "render the source as well")
    switch("inf_calc_grad", "gradients through a network that does not learn")
    switch("inf_apply_masks", "cut images out by the predicted mask")
    switch("dis_no_stickman", "the discriminator sees images alone")
    add("dis_fake_imgs_name", str, "the fake")
    add("enh_guiding_rgb_loss_type", Literal["sse", "l1"], "whose gradient guides the enhancer")
    switch("enh_detach_inputs", "no gradient from the enhancer to the others")
    switch("enh_apply_masks", "cut the enhanced image out")


def _losses(p: options.Parser) -> None:
    g = p.hidden

    def add(name: str, kind: Any, text: str) -> None:
        g.add_argument(f"--{name}", type=kind, default=LOSS[name], help=text)

    one, many = "prediction, target", "prediction, target; more of them after a ;"
    add("adv_pred_type", Literal["gan", "rgan", "ragan"], "(relativistic) hinge")
    add("adv_loss_weight", NonNegativeFloat, "factor")
    add("fem_loss_type", Literal["l1", "mse"], "distance")
    add("fem_loss_weight", NonNegativeFloat, "factor")
    add("per_full_net_names", Names, "feature networks")
    add("per_net_layers", str, "their layers, a ; between networks")
    add("per_pooling", Literal["avgpool", "maxpool"], "their pooling")
    add("per_loss_apply_to", str, many)
    add("per_loss_type", Literal["l1", "mse"], "distance")
    add("per_loss_weights", Numbers, "a factor a network")
    add("per_layer_weights", Numbers, "a factor a layer")
    add("per_loss_names", str, "names in the log")
    add("pix_loss_type", Literal["l1", "mse", "ce"], "distance")
    add("pix_loss_weights", Numbers, "a factor a pair")
    add("pix_loss_apply_to", str, many)
    add("pix_loss_names", Names, "names in the log")
    add("seg_loss_type", Literal["bce", "dice"], "distance")
    add("seg_loss_weights", Numbers, "factor")
    add("seg_loss_apply_to", str, one)
    add("seg_loss_names", Names, "name in the log")
    add("wpr_loss_type", Literal["l1", "mse"], "distance from 0")
    add("wpr_loss_weight", NonNegativeFloat, "first factor")
    add("wpr_loss_weight_decay", PositiveFloat, "of the factor")
    add("wpr_loss_decay_schedule", int, "steps between decays; -1: none")
    add("wpr_loss_apply_to", str, "offsets")
    add("kpc_loss_weight", NonNegativeFloat, "factor of keypoint_correspondence")
    for name, kind, value, text in (
        ("psnr_loss_apply_to", str, "pred_target_imgs, target_imgs", one),
        ("csm_model", Literal["insight_face"], "insight_face", "of csim"),
        ("lps_model", Literal["net-lin"], "net-lin", "of lpips"),
        ("lps_net", Literal["vgg"], "vgg", "of lpips"),
        ("nme_num_threads", PositiveInt, 1, "no effect: one detector serves"),
    ):
        g.add_argument(f"--{name}", type=kind, default=value, help=text)
    for name, text in (("lps_calc_grad", "gradients of the metric"),
                       ("ssm_use_masks", "the person only"),
                       ("ssm_calc_grad", "gradients of the metric")):
        add_flag(g, f"--{name}", False, text)
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
    """The names, with aliases resolved; raises UserError that names the nearest known one."""
    values = [ALIASES.get(value, value) for value in values]
    for value in values:
        if value not in known:
            close = difflib.get_close_matches(value, known, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"
            raise UserError(f"{option}: no {what} is called {value}{hint}")
    return values


def parse(description: str, argv: list[str] | None = None) -> options.Namespace:
    """The options in plain types, lists as lists; what contradicts is refused, what has another
    name is resolved, and the run folder is chosen.
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
    if args.torch_home:
        os.environ["TORCH_HOME"] = args.torch_home
    args.experiment_dir = args.experiment_dir or args.project_dir
    args.pretrained_weights_dir = args.pretrained_weights_dir or args.project_dir
    if args.experiment_dir or args.experiment_name:
        args.run_dir = str(Path(args.experiment_dir or ".") / "runs")
        args.name = args.experiment_name or args.name or "test"


def _numbers(value: str | float | list[float], name: str) -> list[float]:
    try:
        parts = [value] if isinstance(value, int | float) else words(value)
        return [float(part) for part in parts]
    except ValueError as error:
        raise UserError(f"{name}: must be numbers with commas between, got {value}") from error


def _optimizers(args: options.Namespace) -> None:
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
            raise UserError(f"optims and lrs: {network} is to be trained and has none")


def _devices(args: options.Namespace) -> None:
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if args.num_gpus == 0:
        args.device = "cpu"
    elif args.num_gpus > 1 and args.num_gpus != ranks:
        raise UserError(
            f"num_gpus {args.num_gpus}: start with torchrun --nproc_per_node={args.num_gpus} "
            f"train_bilayer.py ...; there is {ranks} rank"
        )
    if args.use_half or (args.use_apex and args.amp_opt_level != "O0"):
        args.precision = "fp16"
    elif args.use_apex:
        args.precision = "fp32"
    if args.precision == "fp16" and (args.use_closure or "lbfgs" in args.optims.values()):
        raise UserError("lbfgs and use_closure: not in fp16, whose steps are scaled")
    if args.batch_size % (ranks * args.accumulate):
        raise UserError(
            f"batch_size: {args.batch_size} samples must divide among {ranks} ranks and "
            f"{args.accumulate} accumulated batches"
        )


def _check(args: options.Namespace) -> None:
    for name in ("networks_to_train", "networks_test", "networks_calc_stats"):
        for network in args[name]:
            if network not in args.networks_train and network != "texture_enhancer":
                raise UserError(f"{name}: {network} is not among networks_train")
    if args.image_size & (args.image_size - 1):
        raise UserError(f"image_size: must be a power of two, got {args.image_size}")
    if args.pse_in_channels != 2 * args.num_keypoints:
        raise UserError(
            f"pse_in_channels: must be 2 x num_keypoints = {2 * args.num_keypoints}, got "
            f"{args.pse_in_channels}"
        )
    if not args.output_stickmen:
        for flag, network in (("emb_no_stickman", "identity_embedder"),
                              ("dis_no_stickman", "discriminator")):  # fmt: skip
            if not args[flag] and network in args.networks_train:
                raise UserError(f"output_stickmen false: needs --{flag}")
    if args.output_stickmen and args.num_keypoints != 68:
        raise UserError("output_stickmen: stick figures are drawn of 68 points")
    if not args.output_segmentation:
        if args.emb_apply_masks and "identity_embedder" in args.networks_train:
            raise UserError("output_segmentation false: needs --emb_apply_masks false")
        if "segmentation" in args.losses_train:
            raise UserError("output_segmentation false: losses_train has segmentation")
    if bool(args.init_experiment_dir) != bool(args.init_networks):
        raise UserError("init_experiment_dir and init_networks: give both or neither")
    if args.init_networks and str(args.init_which_epoch) == "none":
        raise UserError("init_which_epoch: must be given with init_networks")
    if args.frozen_networks and not set(args.networks_to_train) - set(args.frozen_networks):
        raise UserError("frozen_networks: nothing is left that learns")
    if args.wgv_mode != "none" and args.ema:
        raise UserError("wgv_mode and ema: give one of them")
    if args.save_dataset_filenames and not (args.data or args.dataset_load_from_txt):
        raise UserError("save_dataset_filenames: the demo world has no files; give --data")
    if args.num_source_frames == 0:
        raise UserError("num_source_frames: training needs a source, 1 or more")


def schedule(args: options.Namespace, length: int) -> tuple[int, int]:
    """(steps an epoch, steps in all) for a dataset of that length.

    An epoch is as many whole batches as the data hold, at least one.
    """
    epoch = 1 if args.debug else max(1, length // args.batch_size)
    return epoch, args.num_steps or args.num_epochs * epoch


def learning_rate(args: options.Namespace, step: int, total: int) -> float:
    """Factor of every learning rate at a step: 1, or falling linearly to 0 at the end."""
    if args.lr_decay_begin is None or step <= args.lr_decay_begin:
        return 1.0
    return max(0.0, (total - step) / max(1, total - args.lr_decay_begin))


def optimizer(args: options.Namespace, network: str, parameters: list) -> torch.optim.Optimizer:
    """The optimiser of a network's parameters."""
    kind, rate = args.optims[network], args.lrs[network]
    if kind.endswith("adam"):
        betas = (args.adam_beta1, args.adam_beta2)
        return torch.optim.Adam(parameters, rate, betas, args.eps, fused=True)
    if kind.endswith("sgd"):
        return torch.optim.SGD(parameters, rate, fused=kind == "fusedsgd")
    return torch.optim.LBFGS(parameters, rate)
