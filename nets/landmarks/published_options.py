"""Options of the published landmarks program: names, forms in its YAML files, and details."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from nets.run.options import (
    Namespace,
    NonNegativeFloat,
    NonNegativeInt,
    Parser,
    PositiveFloat,
    PositiveInt,
    add_flag,
)

LOCATIONS = ("dataset", "dataset_path", "save_path", "torch_home")
RENAMED = {  # names of the published program, and of earlier versions of guise -> names here
    "img_size": "image_size",
    "learning_rate": "lr",
    "dataset_path": "data",
    "num_workers": "workers",
    "epochs": "num_epochs",
    "resume_ckpt": "checkpoint",
}
OURS = {  # options of networks that the published program lacks -> the published value
    "pooling": "mean",
    "restore_colours": False,
    "narrowing": 1,
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
    add_flag(g, "--export_published", False, "also write the published program's files to the run "
             "folder, every --save_freq epochs and at the end: networks, optimisers, opt.yaml")
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
