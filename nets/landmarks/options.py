"""The options of train_landmarks.py, their checks, and the learning rate of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from nets.errors import UserError
from nets.landmarks import build
from nets.landmarks import published_options as originals
from nets.pretrained import features
from nets.run import options
from nets.run.options import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    add_flag,
)


# fmt: off
def parser(description: str) -> options.Parser:
    """The parser of train_landmarks.py, with the published program's options."""
    p = options.parser("landmarks", description, originals.RENAMED)
    g = p.add_argument_group("data")
    add = g.add_argument
    add("--dataset", type=Literal["", "bbc_pose", "clips", "images"], default="",
        help="kind of the data; bbc_pose: its published layout; clips: a folder of videos, or of "
        "folders of frames; images: a folder of still images, for use_warped; default: the demo "
        "world of clips")
    add("--data", type=str, default="", help="folder of the data")
    add("--val_path", type=str, default="",
        help="clips, images: folder for validation; default: the same")
    add("--hold_out", type=str, nargs="*", default=[], metavar="CLIP",
        help="clips: names of clips, with * and ?, that are not trained on; validation and "
        "evaluate.py use them alone")
    add("--image_size", type=PositiveInt, default=128,
        help="side of the images, pixels: a multiple of 16, at least 32")
    add("--batch_size", type=PositiveInt, default=32, help="samples per step and rank")
    add_flag(g, "--use_temporal", False, "appearance from another frame of the clip")
    add_flag(g, "--use_warped", False, "appearance from a warp of the frame; with use_temporal "
             "from both, in a batch of twice the size")
    g = p.add_argument_group("networks")
    add = g.add_argument
    add("--n_landmarks", type=PositiveInt, default=30, help="number of landmarks")
    add("--n_filters", type=PositiveInt, default=32,
        help="length of a landmark's appearance vector")
    add_flag(g, "--use_identity_covariance", False, "round landmarks of one size; otherwise fitted")
    add("--fixed_covar", type=PositiveFloat, default=0.05,
        help="variance of round landmarks; the image's side is 2")
    add_flag(g, "--use_fg_bg_mask", False, "separate foreground and background by a mask")
    add_flag(g, "--use_gan", False, "adversarial loss")
    g = p.add_argument_group("loss")
    add = g.add_argument
    add_flag(g, "--use_vgg", True, "perceptual loss; false: squared error of pixels only")
    add("--vgg_lambda", type=PositiveFloat, default=1.0, help="weight of the perceptual loss")
    add("--motion_weight", type=NonNegativeFloat, default=0.0,
        help="weight of an L1 loss on pixels that change between two frames")
    add("--motion_mask_weight", type=NonNegativeFloat, default=0.0,
        help="weight of a loss for masks that cover the pixels that change")
    add("--vgg_weights", type=str | None, default=None,
        help="file with the weights of the perceptual loss; default: from torch's cache")
    add("--perceptual", type=features.Perceptual, default="pretrained", help=features.HELP)
    add_flag(g, "--vgg_download", False, "download these weights if they are missing")
    g = p.add_argument_group("schedule")
    add = g.add_argument
    add("--num_epochs", type=PositiveInt, default=400, help="epochs to train")
    add("--num_steps", type=PositiveInt | None, default=None,
        help="steps to train, instead of epochs")
    add("--lr", type=PositiveFloat, default=1e-3, help="learning rate of all optimisers")
    add("--test_freq", type=NonNegativeInt, default=0,
        help="steps between validations; 0: every --val_freq epochs")
    add("--checkpoint", type=str | None, default=None,
        help="weights to start from: a checkpoint or run folder, or a published file")
    originals.add_options(p)
    return p
# fmt: on


def parse(description: str, argv: list[str] | None = None) -> options.Namespace:
    """The options: command line over --config over defaults.

    Raises UserError for a wrong value, and for options that contradict each other.
    """
    args = options.parse(parser(description), argv, originals.translate)
    originals.apply_options(args)
    check(args)
    return args


def check(args: options.Namespace) -> None:
    """Raise UserError if a value is out of range, or options contradict each other."""
    if not (args.use_temporal or args.use_warped):
        raise UserError(
            "--use_temporal, --use_warped: give one of them or both, as the source of the "
            "appearance"
        )
    if args.dataset and not args.data:
        raise UserError(f"--dataset {args.dataset}: needs --data, the folder of the data")
    if args.data and not args.dataset:
        raise UserError("--data: needs --dataset: bbc_pose, clips or images")
    if args.dataset == "images" and (args.use_temporal or args.val_partner == "temporal"):
        raise UserError(
            "--dataset images: has no other frames; give use_warped and not use_temporal"
        )
    if args.hold_out and args.dataset != "clips":
        raise UserError("--hold_out: names clips; needs --dataset clips")
    if args.hold_out and args.val_path:
        raise UserError("--hold_out, --val_path: give one of them, not both")
    check_values(args)
    if args.export_published:
        check_export(args)
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


def check_values(args: Mapping[str, Any], where: str = "") -> None:
    """Raise UserError if a value that no other option decides about is out of range.

    where  the source of the values, for the message
    """
    size = args["image_size"]
    if size < 32 or size % 16:
        raise UserError(f"image_size{where}: must be a multiple of 16 and at least 32, got {size}")
    for low, high in (("rot_lb", "rot_ub"), ("scale_lb", "scale_ub"), ("trans_lb", "trans_ub")):
        if args[low] > args[high]:
            raise UserError(
                f"{low}{where}: must be at most {high} = {args[high]:g}, got {args[low]:g}"
            )
    for name in ("flip_probability", "val_frac"):
        if args[name] > 1:
            raise UserError(f"{name}{where}: must be at most 1, got {args[name]:g}")


def check_export(args: Mapping[str, Any]) -> None:
    """Raise UserError if the networks of the options are none of the published program's."""
    for name, value in originals.OURS.items():
        if args.get(name, value) != value:
            raise UserError(
                f"{name}: must be {value} to export the networks, got {args[name]}: the published "
                "program has no other"
            )


def learning_rate(args: options.Namespace, step: int, total: int) -> float:
    """The learning rate of a step, from 0 to `lr`.

    It rises linearly over the first `warmup` steps. From `lr_decay_begin` on it falls linearly to 0
    at step `total`.
    """
    factor = min(1.0, (step + 1) / (args.warmup + 1))
    if args.lr_decay_begin is not None:
        left = 1 - (step - args.lr_decay_begin) / max(1, total - args.lr_decay_begin)
        factor *= min(1.0, max(0.0, left))
    return args.lr * factor
