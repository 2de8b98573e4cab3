"""Metrics of the bilayer avatars, by their published names, with the networks that they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from nets.bilayer.defaults import words
from nets.errors import UserError
from nets.metrics import pose_error, signed_psnr, signed_ssim
from nets.pretrained.arcface import csim, load_recognition
from nets.pretrained.lpips import load_lpips

METRICS = ("PSNR", "ssim", "lpips", "csim", "pose_matching")
ALIASES = {"pose_matching_metric": "pose_matching", "psnr": "PSNR"}


class Metrics:
    """`metrics(data)` compares what a pass of the networks made with the truth.

    names     of `METRICS` or `ALIASES`
    folders   part ("lpips", "csim") -> folders where weight files may lie, before torch's cache
    detect    uint8 (3, H, W) -> 68 points (68, 2) in pixels or None, for pose_matching
    pair      names of the prediction and of the truth in `data`
    download  fetch what its publishers serve and is not found
    source    "random": untrained networks, to test programs with
    `absent` holds a line for each metric that cannot be measured here: print it once; the metric
    is left out of the results. `descriptions` says which weights serve the others.
    """

    def __init__(
        self,
        names: Sequence[str] | str,
        folders: Callable[[str], Sequence[Path]] = lambda part: (),
        detect: Callable[[Tensor], Tensor | None] | None = None,
        pair: tuple[str, str] = ("pred_target_imgs", "target_imgs"),
        download: bool = False,
        source: str = "auto",
        device: torch.device | str = "cpu",
    ):
        names = [ALIASES.get(name, name) for name in words(names)]
        unknown = [name for name in names if name not in METRICS]
        if unknown:
            raise ValueError(
                f"bilayer: a metric must be of {', '.join(METRICS)}, got {unknown[0]!r}"
            )
        self.pair, self.detect, self.device = pair, detect, torch.device(device)
        self.names: list[str] = []
        self.absent: list[str] = []
        self.descriptions: list[str] = []
        self.networks: dict[str, nn.Module] = {}
        self.left_out = 0  # images without a face, so far
        for name in dict.fromkeys(names):
            try:
                if name == "lpips":
                    net = load_lpips(source=source, download=download, folders=folders(name))
                    self._keep(name, net)
                elif name == "csim":
                    self._keep(name, load_recognition(source=source, folders=folders(name)))
                elif name == "pose_matching" and detect is None:
                    raise UserError("no detector of 68 face points")
            except UserError as error:
                self.absent.append(f"{name} is left out: {error}")
                continue
            self.names.append(name)

    def _keep(self, name: str, net: nn.Module) -> None:
        self.networks[name] = net.to(self.device)
        self.descriptions.append(f"{name}: {net.description}")

    @torch.no_grad()
    def __call__(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars G_PSNR, G_SSIM (and G_SSIM2, with the constants of the images' range), G_LPIPS,
        G_CSIM, G_PME: means over all images. G_PME is absent where no face was found in any."""
        prediction, truth = (data[name].flatten(0, 1).float() for name in self.pair)
        out: dict[str, Tensor] = {}
        for name in self.names:
            if name == "PSNR":
                out["G_PSNR"] = signed_psnr(prediction, truth)
            elif name == "ssim":
                out["G_SSIM"] = signed_ssim(prediction, truth).mean()
                out["G_SSIM2"] = signed_ssim(prediction, truth, 2.0).mean()
            elif name == "lpips":
                out["G_LPIPS"] = self.networks[name](prediction, truth).mean()
            elif name == "csim":
                size = prediction.new_tensor([prediction.shape[-1], prediction.shape[-2]])
                points = data["target_poses"].flatten(0, 1).unflatten(1, (-1, 2))[:, :68]
                points = (points.float() + 1) / 2 * size
                out["G_CSIM"] = csim(self.networks[name], prediction, truth, points).mean()
            else:
                errors, missed = pose_error(self.detect, prediction, truth)
                self.left_out += missed
                if len(errors):
                    out["G_PME"] = errors.mean()
        return out
