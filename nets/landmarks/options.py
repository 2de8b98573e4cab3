"""The options of train_landmarks.py and what they mean."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch

from nets.errors import UserError
from nets.landmarks import build
from nets.landmarks.published import translate
from nets.run import options
from nets.run.options import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    add_flag,
)


# fmt: off
def parser(description: str) -> options.ArgumentParser:
    p = options.parser("landmarks", description)
    g = p.add_argument_group("data (no --dataset: the demo world of clips)")
    add = g.add_argument
    add("--dataset", type=Literal["", "bbc_pose", "clips", "images"], default="",
        help="bbc_pose: its published layout; clips: a folder of videos, or of folders of frames; "
        "images: a folder of stills, for use_warped only")
    add("--dataset_path", type=str, default="", help="folder of the data")
    add("--val_path", type=str, default="",
        help="clips and images: another such folder to validate on; default: the same one")
    add("--frame_cache", type=str | None, default=None,
        help="folder of decoded videos, 3 img_size^2 bytes a frame; default: dataset_path/.frames")
    add("--img_size", type=PositiveInt, default=128,
        help="side of the images, pixels: a multiple of 16, at least 32")
    add("--batch_size", type=PositiveInt, default=32, help="samples per step and rank")
    add("--num_workers", type=NonNegativeInt | None, default=None, help="another name of --workers")
    add("--val_frac", type=PositiveFloat, default=0.01,
        help="share of the validation frames that are looked at (BBC Pose: of each video)")
    add_flag(g, "--use_temporal", False, "the appearance comes from another frame of the clip")
    add_flag(g, "--use_warped", False, "the appearance comes from the frame itself, warped; with "
             "use_temporal: both, in one batch of twice the size")
    add("--val_partner", type=Literal["warped", "temporal"], default="warped",
        help="where it comes from in validation; the original always warps")
    g = p.add_argument_group("augmentation")
    add = g.add_argument
    add_flag(g, "--color_jitter", True, "change the colours of the frame that gives the pose")
    add_flag(g, "--color_jitter_targets", False, "the target has the same changed colours")
    add("--flip_probability", type=NonNegativeFloat, default=0.0, help="of mirroring a sample")
    add("--rot_lb", type=float, default=-math.pi / 8, help="warp: least rotation, radians")
    add("--rot_ub", type=float, default=math.pi / 8, help="warp: largest rotation")
    add("--scale_lb", type=PositiveFloat, default=1.05, help="warp: least scale; above 1 shrinks")
    add("--scale_ub", type=PositiveFloat, default=1.15, help="warp: largest scale")
    add("--trans_lb", type=float, default=-10.0, help="warp: least shift, pixels")
    add("--trans_ub", type=float, default=10.0, help="warp: largest shift, pixels")
    add("--tps", type=Literal["classic", "clean"], default="classic",
        help="classic: as published, where the shift moves only the centre of the rotation; clean: "
        "scale and rotation about the middle, then the shift")
    g = p.add_argument_group("networks")
    add = g.add_argument
    add("--model", type=Literal["PartFactorizedModel"], default="PartFactorizedModel",
        help="accepted from the original's files")
    add("--n_landmarks", type=PositiveInt, default=30, help="landmarks")
    add("--n_filters", type=PositiveInt, default=32, help="numbers that describe a landmark's look")
    add("--ngc", type=PositiveInt, default=64, help="width of the generator")
    add("--nsf", type=PositiveInt, default=6, help="width of the shape encoder")
    add("--naf", type=NonNegativeInt, default=0,
        help="width of the appearance encoder; 0: twice its input channels")
    add_flag(g, "--use_identity_covariance", False, "landmarks are round and of one size")
    add("--fixed_covar", type=PositiveFloat, default=0.05, help="their variance; a side is 2")
    add_flag(g, "--use_fg_bg_mask", False, "a mask, and a network for the background")
    add_flag(g, "--low_res_mask", False, "the mask at a quarter of the size")
    add("--pooling", type=Literal["mean", "sum"], default="mean",
        help="how a landmark's look is collected: as published, over the pixels' number; sum: not")
    add_flag(g, "--restore_colours", False, "what is drawn gets the mean and spread of the "
             "appearance image's colours, which the networks do not see")
    add("--narrowing", type=PositiveInt, default=1,
        help="divides the widths that have no option of their own, 1 to 8; 1: as published")
    add_flag(g, "--use_gan", False, "add an adversarial loss")
    add("--ndf", type=PositiveInt, default=64, help="width of the discriminator")
    add("--num_D", type=PositiveInt, default=2, help="its scales")
    add("--n_layers_D", type=PositiveInt, default=3, help="its depth")
    add_flag(g, "--no_lsgan", False, "cross entropy instead of squared error")
    add_flag(g, "--disable_spade", False, "accepted from the original's files; no effect")
    g = p.add_argument_group("loss")
    add = g.add_argument
    add_flag(g, "--use_vgg", True, "perceptual; false: squared error of pixels only")
    add("--vgg_lambda", type=PositiveFloat, default=1.0, help="weight of that loss")
    add_flag(g, "--reduced_w", False, "weights 1/32, 1/16, 1/8, 1/4 and 1 of relu1_2, 2_2, 3_2, "
             "4_2 and pixels, instead of 1 each")
    add("--motion_weight", type=NonNegativeFloat, default=0.0,
        help="weight of an L1 loss that counts pixels by how much frame and partner differ")
    add("--motion_mask_weight", type=NonNegativeFloat, default=0.0,
        help="weight of a loss by which the masks of frame and partner cover where they differ")
    add("--vgg_weights", type=str | None, default=None,
        help="file of weights; default: torch's cache")
    add("--torch_home", type=str, default="", help="folder of torch's cache")
    add("--perceptual", type=Literal["pretrained", "random"], default="pretrained",
        help="random: a seeded random VGG19 where there are no weights")
    add_flag(g, "--vgg_normalise", False, "give VGG19 images as ImageNet's are normalised; the "
             "original gives them as they are, in [-1, 1]")
    add_flag(g, "--vgg_download", False, "fetch the weights when they are not there")
    g = p.add_argument_group("optimisation")
    add = g.add_argument
    add("--epochs", type=PositiveInt, default=400, help="epochs")
    add("--num_steps", type=PositiveInt | None, default=None, help="steps, instead of epochs")
    add("--learning_rate", type=PositiveFloat, default=1e-3, help="of both optimisers")
    add("--weight_decay", type=NonNegativeFloat, default=5e-6, help="in the gradient; not of D")
    add("--lr_decay_begin", type=NonNegativeInt | None, default=None,
        help="step from which the learning rate falls linearly to 0 at the end; default: never")
    add("--warmup", type=NonNegativeInt, default=0, help="steps over which it rises at first")
    add_flag(g, "--no_grad_clip", False, "do not limit the norm of gradients to 1")
    add("--save_freq", type=NonNegativeInt, default=2,
        help="epochs between two checkpoints, besides --ckpt_freq; 0: none")
    add("--val_freq", type=NonNegativeInt, default=4, help="epochs between validations; 0: none")
    add("--test_freq", type=NonNegativeInt, default=0, help="steps between them; 0: by val_freq")
    g = p.add_argument_group("starting and saving")
    add = g.add_argument
    add("--save_path", type=str, default="", help="the run folder; default: run_dir/name")
    for name, what in (("", "weights of the networks"), ("_D", "of the discriminator"),
                       ("_opt_G", "state of the optimiser"), ("_opt_D", "of the discriminator's")):
        add(f"--resume_ckpt{name}", type=str | None, default=None,
            help=f"{what} to start from: a file of the original"
            + (", or a checkpoint or run folder of ours, for all four" if not name else ""))
    add_flag(g, "--use_DDP", False, "accepted; torchrun is enough by itself")
    add("--local_rank", type=int, default=0, help="accepted; torchrun says it")
    return p
# fmt: on


def parse(description: str, argv: list[str] | None = None) -> options.Namespace:
    """The options: defaults, then --config, then the command line; what contradicts is refused.

    Raises UserError.
    """
    args = options.parse(parser(description), argv, translate)
    beside = Path("configs/defaults.yaml")
    if beside.is_file() and not any(Path(file).samefile(beside) for file in args.config):
        print(f"{beside}: not read; the published program would: --config {beside} reads it")
    if args.num_workers is not None:
        args.workers = args.num_workers
    if args.save_path:
        folder = Path(args.save_path)
        args.run_dir, args.name = str(folder.parent), folder.resolve().name
    for name in ("", "_D", "_opt_G", "_opt_D"):
        args[f"resume_ckpt{name}"] = args[f"resume_ckpt{name}"] or None
    check(args)
    return args


def check(args: options.Namespace) -> None:
    """Raise UserError where options contradict each other."""
    if not (args.use_temporal or args.use_warped):
        raise UserError(
            "--use_temporal, --use_warped: give one of them or both; they say where the "
            "appearance comes from"
        )
    if args.dataset and not args.dataset_path:
        raise UserError(f"--dataset {args.dataset}: needs --dataset_path, the folder of the data")
    if args.dataset_path and not args.dataset:
        raise UserError("--dataset_path: needs --dataset: bbc_pose, clips or images")
    if args.dataset == "images" and (args.use_temporal or args.val_partner == "temporal"):
        raise UserError("--dataset images: has no other frames; use_warped and not use_temporal")
    if args.img_size < 32 or args.img_size % 16:
        raise UserError(f"img_size: must be a multiple of 16 and at least 32, got {args.img_size}")
    for low, high in (("rot_lb", "rot_ub"), ("scale_lb", "scale_ub"), ("trans_lb", "trans_ub")):
        if args[low] > args[high]:
            raise UserError(f"{low}: must be at most {high} = {args[high]:g}, got {args[low]:g}")
    for name in ("flip_probability", "val_frac"):
        if args[name] > 1:
            raise UserError(f"{name}: must be at most 1, got {args[name]:g}")
    if not args.use_gan and (args.resume_ckpt_D or args.resume_ckpt_opt_D):
        raise UserError("resume_ckpt_D, resume_ckpt_opt_D: only with use_gan")
    for name in ("motion_weight", "motion_mask_weight"):
        if args[name] and (args.use_warped or not args.use_temporal):
            raise UserError(f"{name}: only with use_temporal and without use_warped")
    if args.motion_mask_weight and not args.use_fg_bg_mask:
        raise UserError("motion_mask_weight: only with use_fg_bg_mask")
    try:
        with torch.device("meta"):
            build(args)
    except ValueError as error:
        raise UserError(str(error)) from error


def learning_rate(args: options.Namespace, step: int, total: int) -> float:
    """At a step: risen linearly over the first `warmup`, falling from `lr_decay_begin`."""
    factor = min(1.0, (step + 1) / (args.warmup + 1))
    if args.lr_decay_begin is not None:
        left = 1 - (step - args.lr_decay_begin) / max(1, total - args.lr_decay_begin)
        factor *= min(1.0, max(0.0, left))
    return args.learning_rate * factor
