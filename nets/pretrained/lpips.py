"""LPIPS: the perceptual distance of two images, from calibrated distances of activations.

Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric", CVPR 2018; version 0.1, networks VGG16 and AlexNet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.errors import UserError
from nets.perceptual import WIDTHS
from nets.pretrained.vgg import VGG19, load_vgg
from nets.pretrained.weights import find, read_state, verify
from nets.tensor_files import require

LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")  # of VGG16
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
CALIBRATIONS = "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/"
OFFICIAL = {"vgg.pth": ("sha256", "a78928a0", f"{CALIBRATIONS}vgg.pth")}
OFFICIAL_ALEX = {"alex.pth": ("sha256", "df73285e", f"{CALIBRATIONS}alex.pth")}
OFFICIAL_ALEXNET = {  # the same weights, saved twice
    f"alexnet-owt-{digest}.pth": (
        "sha256",
        digest,
        f"https://download.pytorch.org/models/alexnet-owt-{digest}.pth",
    )
    for digest in ("7be5be79", "4df8aa71")
}
# Inputs, outputs, kernel, stride, padding and `features.<number>` of AlexNet's convolutions.
ALEXNET = (
    (3, 64, 11, 4, 2, 0),
    (64, 192, 5, 1, 2, 3),
    (192, 384, 3, 1, 1, 6),
    (384, 256, 3, 1, 1, 8),
    (256, 256, 3, 1, 1, 10),
)


class AlexNet(nn.Module):
    """AlexNet without its classifier, as torchvision has it, frozen.

    Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014.
    """

    widths = tuple(row[1] for row in ALEXNET)

    def __init__(self, state: dict[str, Tensor], description: str):
        super().__init__()
        with torch.device("meta"):
            layers = [nn.Conv2d(*row[:5]) for row in ALEXNET]
        self.convolutions = nn.ModuleList(layers)
        own = {
            f"convolutions.{k}.{part}": state[f"features.{row[5]}.{part}"]
            for k, row in enumerate(ALEXNET)
            for part in ("weight", "bias")
        }
        self.load_state_dict(own, assign=True)
        self.requires_grad_(False)
        self.description = description

    @staticmethod
    def shapes() -> dict[str, tuple[int, ...]]:
        """Name -> shape of the tensors that `state` must hold."""
        result: dict[str, tuple[int, ...]] = {}
        for inputs, outputs, kernel, *_, number in ALEXNET:
            result[f"features.{number}.weight"] = (outputs, inputs, kernel, kernel)
            result[f"features.{number}.bias"] = (outputs,)
        return result

    def forward(self, image: Tensor) -> list[Tensor]:
        """Activations after each of the five ReLUs, of an input (N, 3, H, W), at least 31x31."""
        outputs = []
        for k, convolution in enumerate(self.convolutions):
            if k in (1, 2):
                image = F.max_pool2d(image, 3, 2)
            image = F.relu(convolution(image))
            outputs.append(image)
        return outputs


class LPIPS(nn.Module):
    """The LPIPS distance, frozen; gradients reach the images.

    The calibration has the official keys: `lin0..4.model.1.weight`, (1, C, 1, 1) each.
    """

    def __init__(self, net: VGG19 | AlexNet, state: dict[str, Tensor], description: str):
        super().__init__()
        self.widths = net.widths if isinstance(net, AlexNet) else WIDTHS
        for k, width in enumerate(self.widths):
            lin = nn.Module()
            lin.model = nn.Sequential(nn.Dropout(), nn.Conv2d(width, 1, 1, bias=False))
            self.add_module(f"lin{k}", lin)
        self.load_state_dict(state)
        self.net = net
        self.description = description
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> LPIPS:
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Distances (N,), at least 0 and 0 for equal images; smaller is better.

        prediction, truth  (N, 3, H, W) RGB in [-1, 1], H and W at least 16, of AlexNet 31
        """
        if prediction.ndim != 4 or prediction.shape != truth.shape:
            raise ValueError(
                "LPIPS: prediction and truth must be [N, 3, H, W] of one shape, "
                f"got {list(prediction.shape)} and {list(truth.shape)}"
            )
        with torch.autocast(prediction.device.type, enabled=False):
            both = [self._activations(x.float()) for x in (prediction, truth)]
            total = prediction.new_zeros(len(prediction), dtype=torch.float32)
            for k, pair in enumerate(zip(*both, strict=True)):
                a, b = (
                    x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10) for x in pair
                )
                lin = getattr(self, f"lin{k}").model
                total = total + lin((a - b).square()).mean((1, 2, 3))
        return total

    def _activations(self, image: Tensor) -> list[Tensor]:
        scaled = self._scaled(image)
        if isinstance(self.net, AlexNet):
            activations: list[Tensor] = self.net(scaled)
            return activations
        return list(self.net(scaled, LAYERS).values())

    @staticmethod
    def _scaled(image: Tensor) -> Tensor:
        planes = zip(image.unbind(1), SHIFT, SCALE, strict=True)
        return torch.stack([(x - shift) / scale for x, shift, scale in planes], dim=1)


def load_lpips(
    path: str | Path | None = None,
    net_path: str | Path | None = None,
    source: str = "auto",
    download: bool = False,
    folders: Sequence[Path] = (),
    option: str = "--pretrained_weights_dir",
    network: str = "vgg",
) -> LPIPS:
    """LPIPS on the CPU in float32.

    path      the calibration, a vgg.pth or alex.pth; None: looks in `folders` and torch's hub cache
    net_path  weights of VGG16 or AlexNet; None: looks there for vgg16-397923af.pth or
              alexnet-owt-7be5be79.pth
    source    "auto", or "random": seeded, untrained weights for tests of programs
    download  download missing files
    folders   folders to look in
    option    the option that names a folder, for messages
    network   "vgg" or "alex"
    Raises UserError, one line with the remedy, if a file is missing or wrong.
    """
    if network not in ("vgg", "alex"):
        raise ValueError(f"load_lpips: network must be vgg or alex, got {network!r}")
    net: VGG19 | AlexNet
    if network == "vgg":
        settings = (source, download, False, "maxpool", option, folders, "")
        net, official, of = load_vgg(net_path, "torchvision16", *settings), OFFICIAL, "VGG16"
    else:
        net = _load_alexnet(net_path, source, download, folders, option)
        official, of = OFFICIAL_ALEX, "AlexNet"
    widths = WIDTHS if network == "vgg" else AlexNet.widths
    expected = {f"lin{k}.model.1.weight": (1, width, 1, 1) for k, width in enumerate(widths)}
    if source == "random":
        generator = torch.Generator().manual_seed(16)
        state = {name: torch.rand(shape, generator=generator) for name, shape in expected.items()}
        return LPIPS(net, state, "LPIPS of random weights (seeded, untrained)")
    checked = ""
    if path is None:  # else the name says little about the file
        path = find(official, "LPIPS weights", option, download, "7 kB, ", folders)
        checked = verify(path, official)
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"{file}: no such LPIPS weight file")
    state = read_state(file)
    require(state, expected, file, f"the linear weights of LPIPS for {of}")
    state = {name: value.float() for name, value in state.items()}
    return LPIPS(net, state, f"LPIPS 0.1, {file}{checked}; {net.description}")


def _load_alexnet(
    path: str | Path | None, source: str, download: bool, folders: Sequence[Path], option: str
) -> AlexNet:
    """AlexNet on the CPU in float32; arguments as of `load_lpips`."""
    shapes = AlexNet.shapes()
    if source == "random":
        generator = torch.Generator().manual_seed(12)
        state = {}
        for name, shape in shapes.items():  # uniform draws are the same on every processor
            bound = (6 / math.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.0
            state[name] = (torch.rand(shape, generator=generator) * 2 - 1) * bound
        return AlexNet(state, "random AlexNet (seeded, untrained)")
    if path is None:
        path = find(OFFICIAL_ALEXNET, "AlexNet weights", option, download, "244 MB, ", folders)
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"{file}: no such AlexNet weight file")
    checked = verify(file, OFFICIAL_ALEXNET)
    state = read_state(file, "features.")
    require(state, shapes, file, "an AlexNet state dict")
    return AlexNet(
        {name: value.float() for name, value in state.items()},
        f"AlexNet, weights of {file}{checked}",
    )
