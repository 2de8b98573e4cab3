"""Options of train_vunet.py, and what they make of a step: weights of the loss, learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from nets.errors import UserError
from nets.perceptual import layer_position
from nets.run import checkpoints, options
from nets.run.options import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    add_flag,
)
from nets.vunet import build, losses
from nets.vunet.published import RENAMED, SETTINGS, TERMS, translate

FORMS = {  # what an option that is null means
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
    p = options.parser("vunet", description, RENAMED)
    g = p.add_argument_group("what to do")
    add = g.add_argument
    add("--mode", type=Literal["train", "test", "transfer", "add_reconstructions"], default="train",
        help="train; or, from --checkpoint: samples from the prior, transfer grids, or "
        "reconstructions of all test images with an index.p of them")
    add("--checkpoint", type=str | None, default=None,
        help="checkpoint or run folder to start from")
    add_flag(g, "--retrain", False, "second round: weights and moments of --checkpoint, step 0")
    add_flag(g, "--reset_optimizer", False, "fresh moments for --checkpoint")
    g = p.add_argument_group("data")
    add = g.add_argument
    add("--data", type=str | None, default=None,
        help="an index (index.p, .json or .npz), or a folder with meta.yaml; default: the demo "
        "world of people")
    add("--pairing", type=Literal["same", "identity", "any"] | None, default=None,
        help="source of the appearance: the target itself, another image of the same identity, or "
        "any image; default: same for parts, identity for image")
    add("--fit", type=Literal["squash", "letterbox"], default="squash",
        help="how images become square")
    add("--batch_size", type=PositiveInt, default=16, help="images per step and rank")
    add("--test_images", type=NonNegativeInt, default=256,
        help="test images in a validation; 0: all")
    g = p.add_argument_group("network")
    add = g.add_argument
    add("--variant", type=Literal["parts", "image"], default="parts",
        help="appearance from body-part crops, or from the whole image")
    add("--image_size", type=PositiveInt, default=256, help="side of the images, pixels")
    add("--nf_start", type=PositiveInt | None, default=None,
        help="channels of the finest scale; default: 32 for parts, 64 for image")
    add("--nf_max", type=PositiveInt, default=128, help="maximum of channels of a scale")
    add("--drop_prob", type=options.Fraction, default=0.0, help="dropout in residual blocks")
    g = p.add_argument_group("loss")
    add = g.add_argument
    add("--feature_layers", type=list[str], default=list(losses.PARTS_LAYERS),
        help="parts: input_1 (pixels) and layers of VGG19")
    add("--feature_weights", type=list[NonNegativeFloat], default=[1.0] * 6,
        help="parts: weights of the features, one a layer")
    add("--gram_weights", type=list[NonNegativeFloat], default=[0.0] * 6,
        help="parts: weights of the Gram matrices, one a layer")
    add("--background_weight", type=NonNegativeFloat, default=1.0,
        help="weight of pixels off the person, for data with masks (the demo world)")
    add("--kl_max", type=NonNegativeFloat, default=1.0, help="parts: final weight of the KL")
    add("--vgg_weights", type=str | None, default=None,
        help="weights of VGG19; default: from torch's cache")
    add("--perceptual", type=Literal["pretrained", "random"], default="pretrained",
        help="random: a seeded random VGG19 instead of weights")
    add_flag(g, "--vgg_download", False, "download the weights of VGG19 if they are missing")
    g = p.add_argument_group("schedule")
    add = g.add_argument
    add("--lr", type=PositiveFloat | None, default=None,
        help="learning rate; default: 1e-3 for parts, 1e-4 for image")
    add("--lr_decay_begin", type=NonNegativeInt | None, default=None,
        help="first step of its linear decay; default: 1000 for parts, never for image")
    add("--lr_decay_end", type=PositiveInt | None, default=None,
        help="step at which it is 0 and training ends; default: 100000 for parts")
    add("--num_steps", type=PositiveInt | None, default=None, help="steps, instead of lr_decay_end")
    add("--num_epochs", type=PositiveInt | None, default=None, help="epochs, instead of steps")
    add("--test_freq", type=PositiveInt, default=1000, help="steps between validations")
    _published(p)
    return p


def _published(p: options.Parser) -> None:
    """Options that --help_published lists: fine settings of the published networks and losses."""
    g = p.hidden
    add = g.add_argument
    add_flag(g, "--keep_kl", False, "the last KL weight from the first step on")
    add("--appearance", type=Literal["crops", "image", "picture"] | None, default=None,
        help="input of the appearance encoder; picture: earlier name of image; default: by variant")
    add("--stickman", type=Literal["parts", "image"] | None, default=None,
        help="style of the stick figure; default: by variant")
    add("--box_factor", type=NonNegativeInt, default=2, help="side of the crops: S / 2^box_factor")
    add("--bottleneck_factor", type=PositiveInt, default=2,
        help="side of the coarsest map, as a power of two")
    add("--img_channels", type=Literal[3], default=3, help="channels of an image")
    add("--pose_channels", type=Literal[3], default=3, help="channels of a stick figure")
    add("--out_channels", type=Literal[3], default=3, help="channels of the output")
    add("--conv", type=Literal["none", "weight", "weight_affine"] | None, default=None,
        help="image form: normalisation of the convolutions (parts: always weight)")
    add("--tanh", type=bool | None, default=None, help="image form: bounded output; default: true")
    add("--wiring", type=Literal["chain", "port"], default="chain",
        help="image form: autoregressive prior; port: that of imported checkpoints")
    add("--missing_part", type=float, default=0.0, help="value of a missing crop, in [-1, 1]")
    add("--init_batches", type=NonNegativeInt, default=4,
        help="batches for data-dependent initialisation of weight normalisation; 0: none")
    add("--kl_start", type=NonNegativeInt | None, default=None,
        help="last step with KL weight kl_min; default: lr_decay_end / 2")
    add("--kl_end", type=NonNegativeInt | None, default=None,
        help="first step with KL weight kl_max; default: 3/4 lr_decay_end")
    add("--kl_min", type=NonNegativeFloat, default=1e-6, help="first weight of the KL")
    add("--betas", type=tuple[options.Fraction, options.Fraction] | None, default=None,
        help="betas of Adam; default: 0.5, 0.9 for parts, 0.9, 0.999 for image")
    for term in TERMS:
        add(f"--losses.{term}.weight", type=NonNegativeFloat | None, default=None,
            help=f"image form: weight of {term}")
        for field, kind, text in (("start_ramp_it", NonNegativeInt, "first step of a ramp"),
                                  ("start_ramp_val", NonNegativeFloat, "weight up to that step"),
                                  ("end_ramp_it", NonNegativeInt, "last step of a ramp"),
                                  ("end_ramp_val", NonNegativeFloat, "weight from that step on")):
            add(f"--losses.{term}.{field}", type=kind | None, default=None,
                help=f"image form, {term}: {text}")
    add("--losses.perceptual.vgg_feat_weights", type=list[NonNegativeFloat], default=[1.0] * 6,
        help="image form: weights of the image and of relu1_2 .. relu5_2")
# fmt: on


def parse(argv: Sequence[str] | None = None, description: str = "") -> options.Namespace:
    """The options, with what depends on the variant filled in and what contradicts refused."""
    args = options.parse(parser(description), argv, translate)
    for name, value in FORMS[args.variant].items():
        args[name] = value if args[name] is None else args[name]
    if args.appearance == "picture":
        args.appearance = "image"
    if args.variant == "image":
        image_losses(args)
    if args.mode != "train" and not args.checkpoint:
        raise UserError(f"--mode {args.mode}: needs --checkpoint")
    if args.mode != "train" and args.name:
        folder = Path(args.run_dir) / args.name
        if checkpoints.stored(folder / "checkpoints"):
            raise UserError(f"--mode {args.mode}: {folder} is a training run; give another --name")
    if args.retrain and not args.checkpoint:
        raise UserError("--retrain: needs --checkpoint, the last of the first round")
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


def image_losses(args: options.Namespace) -> None:
    """Fill in the published losses where none is given; refuse what cannot be computed."""
    if all(args.losses[term][field] is None for term in TERMS for field in SETTINGS):
        for term, settings in IMAGE_LOSSES.items():
            for field, value in settings.items():
                args.losses[term][field] = value
    count = len(args.losses["perceptual"]["vgg_feat_weights"])
    if count != len(losses.IMAGE_LAYERS):
        raise UserError(f"losses.perceptual.vgg_feat_weights: must be 6 numbers, got {count}")
    if not any(weights(args, 1 << 60).values()):
        raise UserError("losses: no term has a weight above 0 in the end")


def weights(args: options.Namespace, step: int) -> dict[str, float]:
    """Image form: the factor at a step of each term of the loss that has one."""
    result = {}
    for term in TERMS:
        settings = args.losses[term]
        ramp = [
            settings[f"{end}_ramp_{what}"] for end in ("start", "end") for what in ("it", "val")
        ]
        if None not in ramp:
            if ramp[0] > ramp[2]:
                raise UserError(f"losses.{term}: a ramp must end at or after start_ramp_it")
            at_end = args.keep_kl and term == "KL"
            result[term] = ramp[3] if at_end else losses.linear_ramp(step, *ramp)
        elif any(value is not None for value in ramp):
            raise UserError(f"losses.{term}: a ramp needs all of its four settings")
        elif settings["weight"] is not None:
            result[term] = settings["weight"]
    return {term: weight for term, weight in result.items() if weight or term == "KL"}


def kl_factor(args: options.Namespace, step: int, end: int) -> float:
    """Weight of the KL. Parts form: linear from kl_min to kl_max, late, since at first the decoder
    ignores the latents.
    """
    if args.variant == "image":
        return weights(args, step).get("KL", 0.0)
    if args.keep_kl:
        return args.kl_max
    start = end // 2 if args.kl_start is None else args.kl_start
    stop = 3 * end // 4 if args.kl_end is None else args.kl_end
    return losses.linear_ramp(step, start, args.kl_min, max(start, stop), args.kl_max)


def learning_rate(args: options.Namespace, step: int, total: int) -> float:
    if args.lr_decay_begin is None:
        return args.lr
    end = args.lr_decay_end or total
    left = 1 - (step - args.lr_decay_begin) / max(1, end - args.lr_decay_begin)
    return args.lr * min(1.0, max(0.0, left))
