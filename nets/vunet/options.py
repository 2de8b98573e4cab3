"""Options of train_vunet.py, and the learning rate of a step."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from nets.data.people.own import is_own
from nets.errors import UserError
from nets.perceptual import layer_position
from nets.pretrained import features
from nets.run import checkpoints, options
from nets.run.options import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    add_flag,
)
from nets.vunet import build, losses, published
from nets.vunet.objective import LAST, term_weights

FORMS = {  # defaults of each form, for options that are null
    "parts": {
        "appearance": "crops", "stickman": "parts", "pairing": "same", "conv": "weight",
        "tanh": False, "nf_start": 32, "lr": 1e-3, "lr_decay_begin": 1000, "lr_decay_end": 100_000,
        "betas": [0.5, 0.9],
    },
    "image": {
        "appearance": "image", "stickman": "image", "pairing": "identity", "conv": "none",
        "tanh": True, "nf_start": 64, "lr": 1e-4, "betas": [0.9, 0.999],
    },
}  # fmt: skip
IMAGE_LOSSES = {
    "color_L1": {"weight": 0.5},
    "KL": {"start_ramp_it": 2000, "start_ramp_val": 0.0, "end_ramp_it": 3500, "end_ramp_val": 1.0},
    "perceptual": {"weight": 1.0},
}


# fmt: off
def parser(description: str) -> options.Parser:
    """The parser of train_vunet.py."""
    p = options.parser("vunet", description, published.RENAMED, published.EDFLOW_HELP)
    g = p.add_argument_group("what to do")
    add = g.add_argument
    add("--mode", type=Literal["train", "test", "transfer", "add_reconstructions"], default="train",
        help="train; or with --checkpoint: test (samples from the prior), transfer (grids), or "
        "add_reconstructions (all test images, and an index.p of them)")
    add("--checkpoint", type=str | None, default=None,
        help="checkpoint or run folder to start from")
    add_flag(g, "--retrain", False,
        "second round: start at step 0 with weights and moments of --checkpoint")
    add_flag(g, "--reset_optimizer", False, "start without the moments of --checkpoint")
    g = p.add_argument_group("data")
    add = g.add_argument
    add("--data", type=str | None, default=None,
        help="an index (index.p, .json or .npz), a folder with meta.yaml, or a class of your own, "
        "FILE.py:CLASS; default: the demo world of people")
    add("--pairing", type=Literal["same", "identity", "any"] | None, default=None,
        help="image that gives the appearance: the target itself, another one of the same "
        "identity, or any; default: same for parts, identity for image")
    add("--fit", type=Literal["squash", "letterbox"], default="squash",
        help="method to make images square")
    add("--folds", type=NonNegativeInt, default=0,
        help="folds of whole people, one of them the test split; 0: the split of the index")
    add("--fold", type=NonNegativeInt, default=0, help="number of the test fold, from 0")
    add("--fit_steps", type=NonNegativeInt, default=0,
        help="steps in which infer.py and evaluate.py --pairs fit the network to each source, "
        "unless told otherwise")
    add("--flip_probability", type=options.Fraction, default=0.0,
        help="probability of mirroring a training sample, target and appearance alike")
    add_flag(g, "--color_jitter", False,
        "change the colours of training samples, target and appearance alike")
    add("--batch_size", type=PositiveInt, default=16, help="images per step and rank")
    add("--test_images", type=NonNegativeInt, default=256,
        help="test images in a validation; 0: all")
    g = p.add_argument_group("network")
    add = g.add_argument
    add("--variant", type=Literal["parts", "image"], default="parts",
        help="appearance from body-part crops, or from the whole image")
    add("--image_size", type=PositiveInt, default=256, help="side of the images, pixels")
    add("--image_width", type=PositiveInt | None, default=None,
        help="parts: middle columns that are computed, the others are black; for tall images with "
        "--fit letterbox; default: image_size")
    add("--nf_start", type=PositiveInt | None, default=None,
        help="channels of the finest scale; default: 32 for parts, 64 for image")
    add("--nf_max", type=PositiveInt, default=128, help="maximum number of channels of a scale")
    add("--drop_prob", type=options.Fraction, default=0.0, help="dropout in residual blocks")
    g = p.add_argument_group("loss")
    add = g.add_argument
    add("--feature_layers", type=list[str], default=list(losses.PARTS_LAYERS),
        help="parts: input_1 (pixels) and layers of VGG19")
    add("--feature_weights", type=list[NonNegativeFloat], default=[1.0] * 6,
        help="parts: weights of the features, one a layer")
    add("--gram_weights", type=list[NonNegativeFloat], default=[0.0] * 6,
        help="parts: weights of the Gram matrices, one a layer")
    add("--texture_weight", type=NonNegativeFloat, default=0.0,
        help="parts: weight of the edge strength in cells of 8 pixels, against blur; 0: none")
    add("--background_weight", type=NonNegativeFloat, default=1.0,
        help="weight of background pixels, those off the mask (the demo world) or the joints")
    add("--kl_max", type=NonNegativeFloat, default=1.0, help="parts: final weight of the KL")
    add("--vgg_weights", type=str | None, default=None,
        help="file with the weights of the perceptual loss; default: the one in torch's cache")
    add("--perceptual", type=features.Perceptual, default="pretrained", help=features.HELP)
    add_flag(g, "--vgg_download", False, "download these weights if they are missing")
    g = p.add_argument_group("schedule")
    add = g.add_argument
    add("--lr", type=PositiveFloat | None, default=None,
        help="learning rate; default: 1e-3 for parts, 1e-4 for image")
    add("--lr_decay_begin", type=NonNegativeInt | None, default=None,
        help="first step of the linear decay; default: 1000 for parts, none for image")
    add("--lr_decay_end", type=PositiveInt | None, default=None,
        help="step at which the rate is 0 and training ends; default: 100000 for parts")
    add("--num_steps", type=PositiveInt | None, default=None, help="steps, instead of lr_decay_end")
    add("--num_epochs", type=PositiveInt | None, default=None, help="epochs, instead of steps")
    add("--test_freq", type=PositiveInt, default=1000, help="steps between validations")
    published.add_options(p)
    return p
# fmt: on


def parse(argv: Sequence[str] | None = None, description: str = "") -> options.Namespace:
    """The options, with the defaults of the form. Raises UserError for a contradiction."""
    argv = published.edflow(sys.argv[1:] if argv is None else argv)
    args = options.parse(parser(description), argv, published.translate)
    for name, value in FORMS[args.variant].items():
        args[name] = value if args[name] is None else args[name]
    if args.appearance == "picture":
        args.appearance = "image"
    if args.variant == "image":
        complete_image_losses(args)
    if args.mode != "train" and not args.checkpoint:
        raise UserError(f"--mode {args.mode}: needs --checkpoint")
    if args.mode != "train" and args.name:
        folder = Path(args.run_dir) / args.name
        if checkpoints.stored(folder / "checkpoints"):
            raise UserError(f"--mode {args.mode}: {folder} is a training run; give another --name")
    if args.folds and args.fold >= args.folds:
        raise UserError(f"--fold: must be 0 to {args.folds - 1} with --folds {args.folds}")
    if args.retrain and not args.checkpoint:
        raise UserError("--retrain: needs --checkpoint, a run of the first round")
    if args.pose_channels not in (3, 18) and not is_own(args.data or ""):
        raise UserError(
            f"--pose_channels: must be 3 (a stick figure) or 18 (one heatmap a joint) without a "
            f"class of your own as --data, got {args.pose_channels}"
        )
    for name in ("feature_weights", "gram_weights"):
        if len(args[name]) != len(args.feature_layers):
            raise UserError(
                f"{name}: must be {len(args.feature_layers)} numbers, one for each of "
                f"feature_layers, got {len(args[name])}"
            )
    try:
        with torch.device("meta"):
            build(args)
        for layer in args.feature_layers:
            layer_position(layer)
    except ValueError as error:
        raise UserError(str(error)) from error
    return args


def complete_image_losses(args: options.Namespace) -> None:
    """Set the published losses if no loss is given. Raises UserError for losses that do not fit."""
    settings = [args.losses[t][field] for t in published.TERMS for field in published.SETTINGS]
    if all(value is None for value in settings):
        for term, fields in IMAGE_LOSSES.items():
            for field, value in fields.items():
                args.losses[term][field] = value
    count = len(args.losses["perceptual"]["vgg_feat_weights"])
    if count != len(losses.IMAGE_LAYERS):
        raise UserError(f"losses.perceptual.vgg_feat_weights: must be 6 numbers, got {count}")
    if not any(term_weights(args, LAST).values()):
        raise UserError("losses: no term has a weight above 0 at the end")


def learning_rate(args: options.Namespace, step: int, total: int) -> float:
    """The learning rate at a step: constant, then linear to 0 at lr_decay_end, or at `total`."""
    if args.lr_decay_begin is None:
        return args.lr
    end = args.lr_decay_end or total
    left = 1 - (step - args.lr_decay_begin) / max(1, end - args.lr_decay_begin)
    return args.lr * min(1.0, max(0.0, left))
