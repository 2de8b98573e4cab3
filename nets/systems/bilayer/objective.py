"""Losses and metrics of a run, with the networks and weight files that they need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nets import vgg
from nets.bilayer.losses import EXTRACTORS, Losses, needed_extractors
from nets.errors import UserError
from nets.run import options
from nets.run.precision import Precision
from nets.run.run import Run

SHOWN = {"PSNR": "PSNR", "ssim": "SSIM", "lpips": "lpips", "csim": "CSIM",
         "pose_matching": "pose_matching_metric"}  # fmt: skip


def weights_folders(args: Mapping[str, Any], part: str) -> list[Path]:
    """Where the auxiliary weights of a part (perceptual, lpips, csim) may be."""
    root = args.get("pretrained_weights_dir")
    return [Path(root) / "pretrained_weights" / part] if root else []


def open_losses(args: options.Namespace, run: Run, precision: Precision) -> Losses:
    """The losses of `losses_train`; says which feature networks the perceptual one uses.

    Raises UserError where weights are missing, with what would help.
    """
    plain = options.plain(args)
    source = "random" if args.perceptual == "random" else "auto"
    found = {}
    with naming_options():
        for name in needed_extractors(plain):
            settings: dict[str, Any] = {"family": EXTRACTORS[name], "source": source}
            settings |= {"pooling": args.per_pooling, "option": "--pretrained_weights_dir"}
            settings["folders"] = weights_folders(plain, "perceptual")
            download = args.vgg_download and EXTRACTORS[name] == "torchvision"
            if download:  # by one rank, before the others look
                run.ranks.on_main(
                    lambda settings=settings: vgg.load_vgg(download=True, **settings) and None
                )
            found[name] = precision.place(vgg.load_vgg(**settings))
            run.print(f"perceptual loss: {found[name].description}")
        return Losses(plain, found)


@contextlib.contextmanager
def naming_options() -> Iterator[None]:
    """Turns what the networks and losses say of options that do not fit into a UserError."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("bilayer: "):
            raise
        raise UserError(str(error).removeprefix("bilayer: ")) from error


class Metrics:
    """Metrics of what the networks made of a batch: `metrics(data)` gives scalars by their
    published names, G_PSNR and so on. Those whose weights are not there are named once and left
    out.
    """

    def __init__(self, args: options.Namespace, run: Run, precision: Precision):
        self.pair = [part.strip() for part in args.psnr_loss_apply_to.split(",")]
        self.names = {"G_PSNR": "PSNR"}

    @torch.no_grad()
    def __call__(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        prediction, target = (data[name].float() for name in self.pair)
        mse = (prediction - target).square().mean()
        return {"G_PSNR": 20 * torch.log10(2 / mse.sqrt().clamp_min(1e-10))}
