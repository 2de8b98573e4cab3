"""LPIPS: the perceptual distance of two images, from calibrated distances of VGG16 activations.

Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric", CVPR 2018; version 0.1, network VGG.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from nets.errors import UserError
from nets.perceptual import WIDTHS
from nets.pretrained.vgg import VGG19, load_vgg
from nets.pretrained.weights import find, read_state
from nets.tensor_files import require

LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
OFFICIAL = {
    "vgg.pth": (
        "",
        "",
        "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/vgg.pth",
    )
}


class LPIPS(nn.Module):
    """The LPIPS distance, frozen; gradients reach the images.

    The calibration has the official keys: `lin0..4.model.1.weight`, (1, C, 1, 1) each.
    """

    def __init__(self, vgg: VGG19, state: dict[str, Tensor], description: str):
        super().__init__()
        for k, width in enumerate(WIDTHS):
            lin = nn.Module()
            lin.model = nn.Sequential(nn.Dropout(), nn.Conv2d(width, 1, 1, bias=False))
            self.add_module(f"lin{k}", lin)
        self.load_state_dict(state)
        self.vgg = vgg
        self.description = description
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> LPIPS:
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Distances (N,), at least 0 and 0 for equal images; smaller is better.

        prediction, truth  (N, 3, H, W) RGB in [-1, 1], H and W at least 16
        """
        if prediction.ndim != 4 or prediction.shape != truth.shape:
            raise ValueError(
                "LPIPS: prediction and truth must be [N, 3, H, W] of one shape, "
                f"got {list(prediction.shape)} and {list(truth.shape)}"
            )
        with torch.autocast(prediction.device.type, enabled=False):
            both = [self.vgg(self._scaled(x.float()), LAYERS) for x in (prediction, truth)]
            total = prediction.new_zeros(len(prediction), dtype=torch.float32)
            for k, layer in enumerate(LAYERS):
                a, b = (
                    x[layer] / (torch.linalg.vector_norm(x[layer], dim=1, keepdim=True) + 1e-10)
                    for x in both
                )
                lin = getattr(self, f"lin{k}").model
                total = total + lin((a - b).square()).mean((1, 2, 3))
        return total

    @staticmethod
    def _scaled(image: Tensor) -> Tensor:
        planes = zip(image.unbind(1), SHIFT, SCALE, strict=True)
        return torch.stack([(x - shift) / scale for x, shift, scale in planes], dim=1)


def load_lpips(
    path: str | Path | None = None,
    vgg_path: str | Path | None = None,
    source: str = "auto",
    download: bool = False,
    folders: Sequence[Path] = (),
    option: str = "--pretrained_weights_dir",
) -> LPIPS:
    """LPIPS on the CPU in float32.

    path      the calibration, a vgg.pth; None: looks in `folders` and torch's hub cache
    vgg_path  VGG16's weights; None: looks there for vgg16-397923af.pth
    source    "auto", or "random": seeded, untrained weights for tests of programs
    download  download missing files
    folders   folders to look in
    option    the option that names a folder, for messages
    Raises UserError, one line with the remedy, if a file is missing or wrong.
    """
    vgg = load_vgg(vgg_path, "torchvision16", source, download, False, "maxpool", option, folders)
    expected = {f"lin{k}.model.1.weight": (1, width, 1, 1) for k, width in enumerate(WIDTHS)}
    if source == "random":
        generator = torch.Generator().manual_seed(16)
        state = {name: torch.rand(shape, generator=generator) for name, shape in expected.items()}
        return LPIPS(vgg, state, "LPIPS of random weights (seeded, untrained)")
    if path is None:
        path = find(OFFICIAL, "LPIPS weights", option, download, "7 kB, ", folders)
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"{file}: no such LPIPS weight file")
    state = read_state(file)
    require(state, expected, file, "the linear weights of LPIPS for VGG16")
    state = {name: value.float() for name, value in state.items()}
    return LPIPS(vgg, state, f"LPIPS 0.1, {file}; {vgg.description}")
