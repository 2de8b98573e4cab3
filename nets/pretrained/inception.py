"""InceptionV3 as FID and the inception score use it: the network of 2015 that pytorch-fid serves.

Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception Architecture for Computer
Vision", CVPR 2016. It differs from torchvision's: average pooling does not count the border, the
last block pools by maximum, and there are 1008 classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.pretrained.weights import find, read_state, verify
from nets.tensor_files import require

SIDE = 299  # pixels of the input
FEATURES, CLASSES = 2048, 1008
OFFICIAL = {  # both files hold the same weights
    "pt_inception-2015-12-05-6726825d.pth": (
        "sha256",
        "6726825d",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
    ),
    "weights-inception-2015-12-05-6726825d.pth": (
        "sha256",
        "6726825d",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth",
    ),
}


class Layer(NamedTuple):
    """A convolution of a branch; with stride 1 it keeps the size, with 2 it has no padding."""

    name: str
    width: int
    kernel: tuple[int, int]
    stride: int = 1


Branch = Sequence[
    Layer | list[Layer] | str
]  # a list is a fork; "average", "maximum", "halve" are poolings


def _three(stem: str, widths: Sequence[int], stride: int = 1) -> list[Layer]:
    """A 1x1 and two 3x3 convolutions, the last one with the stride."""
    first, second, third = widths
    return [
        Layer(f"{stem}_1", first, (1, 1)),
        Layer(f"{stem}_2", second, (3, 3)),
        Layer(f"{stem}_3", third, (3, 3), stride),
    ]


def _block_35(pool: int) -> list[Branch]:
    """The branches of a block on 35x35 positions."""
    return [
        [Layer("branch1x1", 64, (1, 1))],
        [Layer("branch5x5_1", 48, (1, 1)), Layer("branch5x5_2", 64, (5, 5))],
        _three("branch3x3dbl", (64, 96, 96)),
        ["average", Layer("branch_pool", pool, (1, 1))],
    ]


def _block_17(width: int) -> list[Branch]:
    """The branches of a block on 17x17 positions."""
    return [
        [Layer("branch1x1", 192, (1, 1))],
        [
            Layer("branch7x7_1", width, (1, 1)),
            Layer("branch7x7_2", width, (1, 7)),
            Layer("branch7x7_3", 192, (7, 1)),
        ],
        [
            Layer("branch7x7dbl_1", width, (1, 1)),
            Layer("branch7x7dbl_2", width, (7, 1)),
            Layer("branch7x7dbl_3", width, (1, 7)),
            Layer("branch7x7dbl_4", width, (7, 1)),
            Layer("branch7x7dbl_5", 192, (1, 7)),
        ],
        ["average", Layer("branch_pool", 192, (1, 1))],
    ]


def _block_8(pooling: str) -> list[Branch]:
    """The branches of a block on 8x8 positions."""
    return [
        [Layer("branch1x1", 320, (1, 1))],
        [
            Layer("branch3x3_1", 384, (1, 1)),
            [
                Layer("branch3x3_2a", 384, (1, 3)),
                Layer("branch3x3_2b", 384, (3, 1)),
            ],
        ],
        [
            Layer("branch3x3dbl_1", 448, (1, 1)),
            Layer("branch3x3dbl_2", 384, (3, 3)),
            [
                Layer("branch3x3dbl_3a", 384, (1, 3)),
                Layer("branch3x3dbl_3b", 384, (3, 1)),
            ],
        ],
        [pooling, Layer("branch_pool", 192, (1, 1))],
    ]


BLOCKS: dict[str, list[Branch]] = {
    "Mixed_5b": _block_35(32),
    "Mixed_5c": _block_35(64),
    "Mixed_5d": _block_35(64),
    "Mixed_6a": [
        [Layer("branch3x3", 384, (3, 3), 2)],
        _three("branch3x3dbl", (64, 96, 96), 2),
        ["halve"],
    ],
    "Mixed_6b": _block_17(128),
    "Mixed_6c": _block_17(160),
    "Mixed_6d": _block_17(160),
    "Mixed_6e": _block_17(192),
    "Mixed_7a": [
        [Layer("branch3x3_1", 192, (1, 1)), Layer("branch3x3_2", 320, (3, 3), 2)],
        [
            Layer("branch7x7x3_1", 192, (1, 1)),
            Layer("branch7x7x3_2", 192, (1, 7)),
            Layer("branch7x7x3_3", 192, (7, 1)),
            Layer("branch7x7x3_4", 192, (3, 3), 2),
        ],
        ["halve"],
    ],
    "Mixed_7b": _block_8("average"),
    "Mixed_7c": _block_8("maximum"),
}


class _Unit(nn.Module):
    """Convolution, batch normalisation and ReLU."""

    def __init__(self, inputs: int, conv: Layer, padding: tuple[int, int] | None = None):
        super().__init__()
        same = (conv.kernel[0] // 2, conv.kernel[1] // 2)
        padding = padding or (same if conv.stride == 1 else (0, 0))
        self.conv = nn.Conv2d(inputs, conv.width, conv.kernel, conv.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(conv.width, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def _pooled(x: Tensor, kind: str) -> Tensor:
    if kind == "average":
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    return F.max_pool2d(x, 3, 2) if kind == "halve" else F.max_pool2d(x, 3, 1, 1)


class _Mixed(nn.Module):
    """Branches of the same input, their outputs one after another along the channels."""

    def __init__(self, inputs: int, branches: Sequence[Branch]):
        super().__init__()
        self.branches, self.width = branches, 0
        for branch in branches:
            width = inputs
            for step in branch:
                convs = [step] if isinstance(step, Layer) else [] if isinstance(step, str) else step
                for conv in convs:
                    self.add_module(conv.name, _Unit(width, conv))
                width = sum(conv.width for conv in convs) if convs else width
            self.width += width

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for branch in self.branches:
            y = x
            for step in branch:
                if isinstance(step, str):
                    y = _pooled(y, step)
                elif isinstance(step, Layer):
                    y = getattr(self, step.name)(y)
                else:
                    y = torch.cat([getattr(self, conv.name)(y) for conv in step], 1)
            outputs.append(y)
        return torch.cat(outputs, 1)


class Inception(nn.Module):
    """The network of FID and of the inception score, frozen and always in evaluation mode."""

    def __init__(self, description: str = ""):
        super().__init__()
        none = (0, 0)
        self.Conv2d_1a_3x3 = _Unit(3, Layer("", 32, (3, 3), 2))
        self.Conv2d_2a_3x3 = _Unit(32, Layer("", 32, (3, 3)), none)
        self.Conv2d_2b_3x3 = _Unit(32, Layer("", 64, (3, 3)))
        self.Conv2d_3b_1x1 = _Unit(64, Layer("", 80, (1, 1)))
        self.Conv2d_4a_3x3 = _Unit(80, Layer("", 192, (3, 3)), none)
        width = 192
        for name, branches in BLOCKS.items():
            block = _Mixed(width, branches)
            self.add_module(name, block)
            width = block.width
        self.fc = nn.Linear(FEATURES, CLASSES)
        self.description = description
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Inception:
        """Stays in evaluation mode."""
        return super().train(False)

    def features(self, x: Tensor) -> Tensor:
        """Features (N, 2048) of inputs (N, 3, 299, 299) in [-1, 1]."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name in BLOCKS:
            x = getattr(self, name)(x)
        return x.mean((2, 3))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, 2048) and logits without bias (N, 1008) of images (N, 3, H, W) uint8.

        Images are resized to 299x299 by bilinear interpolation without antialiasing.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
            raise ValueError(
                f"Inception: images must be uint8 [N, 3, H, W], got {list(images.shape)} "
                f"{images.dtype}"
            )
        with torch.autocast(images.device.type, enabled=False):
            resized = F.interpolate(images.float() / 255, (SIDE, SIDE), mode="bilinear")
            features = self.features(2 * resized - 1)
            return features, features @ self.fc.weight.T


def load_inception(
    folders: Sequence[Path] = (),
    download: bool = False,
    option: str = "--pretrained_weights_dir",
) -> Inception:
    """The network on the CPU in float32.

    folders   folders to look in, before torch's hub cache
    download  download the file if it is missing
    option    the option that names a folder, for messages
    Raises UserError, one line with the remedy, if the file is missing or wrong.
    """
    file = find(OFFICIAL, "Inception weights of FID", option, download, "95 MB, ", folders)
    checked = verify(file, OFFICIAL)
    with torch.device("meta"):
        net = Inception(f"InceptionV3, {file}{checked}")
    state, expected = read_state(file), net.state_dict()
    for name in expected:
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, torch.zeros((), dtype=torch.int64))
    require(state, expected, file, "the state dict of pytorch-fid's InceptionV3")
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    net.load_state_dict({name: state[name] for name in expected}, assign=True)
    return net.eval().requires_grad_(False)
