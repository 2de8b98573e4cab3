"""Metrics of bilayer avatars, by their published names, with the networks that they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nets.bilayer.defaults import words
from nets.errors import UserError
from nets.metrics import pose_error, signed_psnr, signed_ssim
from nets.pretrained import arcface, lpips, vgg
from nets.pretrained.arcface import IRSE50, csim, load_recognition
from nets.pretrained.lpips import LPIPS, load_lpips
from nets.pretrained.weights import Files

METRICS = ("PSNR", "ssim", "lpips", "csim", "pose_matching")
ALIASES = {"pose_matching_metric": "pose_matching", "psnr": "PSNR"}
WEIGHTS = {  # metric -> the files of its networks, each by its official names
    "lpips": (vgg.OFFICIAL["torchvision16"], lpips.OFFICIAL),
    "csim": (arcface.OFFICIAL,),
}
Detect = Callable[[Tensor], Tensor | None]  # uint8 (3, H, W) -> 68 points (68, 2) pixels, or None


def look_for_weights(part: str, official: Files, folders: Sequence[Path], ways: str = "") -> None:
    """Raise UserError with the remedy if no file of `official` names is there.

    part      folder of the file below pretrained_weights/
    official  as for `nets.pretrained.weights.find`
    ways      further remedies, for the message
    """
    places = [*folders, Path(torch.hub.get_dir()) / "checkpoints"]
    if not any((place / file).is_file() for place in places for file in official):
        file, (_, _, url) = next(iter(official.items()))
        published = f"; published at {url}" if url else ""
        raise UserError(
            f"no {part} weights: {file} is not in {' or '.join(map(str, places))}; give "
            f"--pretrained_weights_dir DIR with the file DIR/pretrained_weights/{part}/{file}"
            f"{ways}{published}"
        )


class Metrics:
    """Metrics of a pass of the networks: `metrics(data)` compares predictions with ground truth.

    names     of `METRICS` or `ALIASES`
    folders   part ("lpips", "csim") -> folders to search for weight files before torch's cache
    detect    detector of face points, for pose_matching
    pair      names of the prediction and of the ground truth in `data`
    download  download missing files that their publishers serve
    source    "random": untrained networks, for tests of programs

    `absent` holds a line for each metric that cannot be measured here. It is for the log; results
    lack these metrics. `descriptions` names the weights of the others.
    Raises ValueError on an unknown metric.
    """

    def __init__(
        self,
        names: Sequence[str] | str,
        folders: Callable[[str], Sequence[Path]] = lambda part: (),
        detect: Detect | None = None,
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
        self.lpips: LPIPS | None = None
        self.recognition: IRSE50 | None = None
        self.left_out = 0  # count of images without a detected face
        for name in dict.fromkeys(names):
            try:
                if source != "random" and not download:
                    for official in WEIGHTS.get(name, ()):
                        look_for_weights(name, official, folders(name))
                if name == "lpips":
                    net = load_lpips(source=source, download=download, folders=folders(name))
                    self.lpips = net.to(self.device)
                    self.descriptions.append(f"{name}: {net.description}")
                elif name == "csim":
                    recognition = load_recognition(source=source, folders=folders(name))
                    self.recognition = recognition.to(self.device)
                    self.descriptions.append(f"{name}: {recognition.description}")
                elif name == "pose_matching" and detect is None:
                    raise UserError("no detector of 68 face points")
            except UserError as error:
                self.absent.append(f"{name} is left out: {error}")
                continue
            self.names.append(name)

    @torch.no_grad()
    def __call__(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The means over all images, scalars: G_PSNR, G_SSIM, G_SSIM2, G_LPIPS, G_CSIM, G_PME.

        G_SSIM has the constants of a range of 1, as published, and G_SSIM2 those of the images'
        range of 2. G_PME is absent if no image has a detected face.
        """
        prediction, truth = (data[name].flatten(0, 1).float() for name in self.pair)
        out: dict[str, Tensor] = {}
        for name in self.names:
            if name == "PSNR":
                out["G_PSNR"] = signed_psnr(prediction, truth)
            elif name == "ssim":
                out["G_SSIM"] = signed_ssim(prediction, truth).mean()
                out["G_SSIM2"] = signed_ssim(prediction, truth, 2.0).mean()
            elif name == "lpips" and self.lpips is not None:
                out["G_LPIPS"] = self.lpips(prediction, truth).mean()
            elif name == "csim" and self.recognition is not None:
                size = prediction.new_tensor([prediction.shape[-1], prediction.shape[-2]])
                points = data["target_poses"].flatten(0, 1).unflatten(1, (-1, 2))[:, :68]
                points = (points.float() + 1) / 2 * size
                out["G_CSIM"] = csim(self.recognition, prediction, truth, points).mean()
            elif name == "pose_matching" and self.detect is not None:
                errors, missed = pose_error(self.detect, prediction, truth)
                self.left_out += missed
                if len(errors):
                    out["G_PME"] = errors.mean()
        return out
