"""MobileNetV2 as a fixed feature extractor: a perceptual network of 14 MB, against VGG19's 550.

Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
CVPR 2018. The weights are torchvision's, trained on ImageNet. No published system here used it.

Layers have VGG's names (`nets.pretrained.vgg`), so that it takes VGG's place: a layer of block B is
the last map at stride 2**B here, 2**(B-1) there. A name says the block alone: `relu3_1` and
`block3_conv2` are the same map.

Maps are divided by their standard deviation, which the weights hold (see `_deviation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.errors import UserError
from nets.perceptual import layer_block, preprocess_caffe, preprocess_torchvision
from nets.pretrained.weights import find, read_state, verify
from nets.tensor_files import require

OFFICIAL = {
    "mobilenet_v2-b0353104.pth": (
        "sha256",
        "b0353104",
        "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth",
    ),
}
LEVELS = 64.0  # a standard deviation of photographs, in levels of 0 to 255


class InvertedResidual(NamedTuple):
    """An inverted residual: expansion by a factor, 3x3 each channel by itself, projection."""

    number: int  # `features.<number>` on disk
    inputs: int
    outputs: int
    factor: int
    stride: int

    @property
    def residual(self) -> bool:
        return self.stride == 1 and self.inputs == self.outputs


def _blocks() -> list[InvertedResidual]:
    """Table 2 of the paper, without the last convolution."""
    found: list[InvertedResidual] = []
    inputs = 32
    for factor, outputs, count, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for i in range(count):
            row = InvertedResidual(len(found) + 1, inputs, outputs, factor, stride if i == 0 else 1)
            found.append(row)
            inputs = outputs
    return found


BLOCKS = _blocks()
ENDS = (1, 3, 6, 13, 17)  # number of the last block at strides 2, 4, 8, 16, 32


class NormedConvolution(NamedTuple):
    """A convolution with its batch norm, as the file names them."""

    convolution: str
    norm: str
    shape: tuple[int, int, int, int]


def _convolutions(block: InvertedResidual) -> list[NormedConvolution]:
    inner, stem = block.inputs * block.factor, f"features.{block.number}.conv"
    found = []
    if block.factor > 1:
        found.append(NormedConvolution(f"{stem}.0.0", f"{stem}.0.1", (inner, block.inputs, 1, 1)))
    middle = f"{stem}.{len(found)}"
    found.append(NormedConvolution(f"{middle}.0", f"{middle}.1", (inner, 1, 3, 3)))
    last = len(found)
    shape = (block.outputs, inner, 1, 1)
    found.append(NormedConvolution(f"{stem}.{last}", f"{stem}.{last + 1}", shape))
    return found


STEM = NormedConvolution("features.0.0", "features.0.1", (32, 3, 3, 3))
ROWS = [STEM, *(row for block in BLOCKS for row in _convolutions(block))]


class MobileNetV2(nn.Module):
    """MobileNetV2 without its classifier, frozen: gradients reach the image, not the parameters.

    Batch norms are folded into the convolutions.
    """

    def __init__(self, state: dict[str, Tensor], family: str, description: str):
        super().__init__()
        self.family = family
        self.description = description  # for the log: which weights, from where
        self.preprocess = preprocess_caffe if family == "caffe" else preprocess_torchvision
        self.unit = LEVELS if family == "caffe" else 1.0
        folded = [_folded(state, row) for row in ROWS]
        self.weights = nn.ParameterList(weight for weight, _ in folded)
        self.biases = nn.ParameterList(bias for _, bias in folded)
        self.requires_grad_(False)
        self.deviations = [_deviation(state, end) for end in ENDS]

    def features(self, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Maps of the named layers; computes no further than the last one.

        image    [N, 3, H, W]  RGB in [-1, 1], any floating type, not clamped
        layers   names as in the module's docstring; `input_1` is the preprocessed image of the
                 family
        returns  name -> [N, C, H / 2**B, W / 2**B], rounded up, C = 16, 24, 32, 96, 320 for the
                 blocks B = 1 to 5, in the order of `layers`
        """
        wanted = {name: layer_block(name) for name in layers}
        maps = {0: self.preprocess(image)}
        last = max([0, *wanted.values()])
        if last:
            x = preprocess_torchvision(image).to(self.weights[0].dtype)
            x = F.conv2d(x, self.weights[0], self.biases[0], stride=2, padding=1)
            x = F.relu6(x)
            position = 1
            for block in BLOCKS[: ENDS[last - 1]]:
                x, position = self._block(x, block, position)
                if block.number in ENDS:
                    stage = ENDS.index(block.number)
                    maps[stage + 1] = x * (self.unit / self.deviations[stage])
        return {name: maps[stage] for name, stage in wanted.items()}

    def forward(self, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Returns `features`; so `torch.compile` and hooks work."""
        return self.features(image, layers)

    def _block(self, x: Tensor, block: InvertedResidual, position: int) -> tuple[Tensor, int]:
        y = x
        if block.factor > 1:
            y = F.relu6(F.conv2d(y, self.weights[position], self.biases[position]))
            position += 1
        weight = self.weights[position]
        y = F.conv2d(y, weight, self.biases[position], block.stride, padding=1, groups=len(weight))
        y = F.conv2d(F.relu6(y), self.weights[position + 1], self.biases[position + 1])
        return (x + y if block.residual else y), position + 2


def load_mobilenet(
    path: str | Path | None = None,
    family: str = "torchvision",
    download: bool = False,
    option: str = "--vgg_weights",
    folders: Sequence[Path] = (),
) -> MobileNetV2:
    """A frozen MobileNetV2 on the CPU in float32.

    path      a state dict with torchvision's names; None: the official file, in `folders` or
              torch's hub cache
    family    of the VGG whose place it takes. It gives the unit of maps and of `input_1`:
              "torchvision" standard deviations, "caffe" levels of 0 to 255
    download  download the official file into the hub cache if it is missing
    option    the option that takes `path`, for messages
    Raises UserError, one line with the remedy, if the file is missing or wrong.
    """
    if family not in ("torchvision", "caffe"):
        raise ValueError(f"load_mobilenet: family must be torchvision or caffe, got {family!r}")
    if path is None:
        what, instead = "MobileNetV2 weights", "train with --perceptual random"
        path = find(OFFICIAL, what, option, download, "14 MB, ", folders, instead)
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"{file}: no such MobileNetV2 weight file")
    checked = verify(file, OFFICIAL)
    state = read_state(file, "features.")
    expected: dict[str, tuple[int, ...]] = {}
    for row in ROWS:
        expected[f"{row.convolution}.weight"] = row.shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            expected[f"{row.norm}.{part}"] = row.shape[:1]
    last = ("features.18.", "num_batches_tracked")  # the head of the classifier; counters
    state = {
        k: v.float() for k, v in state.items() if not (k.startswith(last[0]) or k.endswith(last[1]))
    }
    require(state, expected, file, "a MobileNetV2 state dict")
    return MobileNetV2(state, family, f"MobileNetV2, torchvision weights of {file}{checked}")


def _folded(state: dict[str, Tensor], row: NormedConvolution) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with its batch norm (epsilon 1e-5) in it."""
    weight, bias, mean, variance = (
        state[f"{row.norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / (variance + 1e-5).sqrt()
    return state[f"{row.convolution}.weight"] * scale[:, None, None, None], bias - mean * scale


def _deviation(state: dict[str, Tensor], end: int) -> float:
    """Root mean square over the channels of the standard deviations of block `end`'s output.

    On the images of its training, a batch norm's output has the standard deviation |weight|. Terms
    of a residual sum are taken as uncorrelated.
    """
    variance, number = torch.zeros(()), end
    while True:
        block = BLOCKS[number - 1]
        norm = _convolutions(block)[-1].norm
        variance = variance + state[f"{norm}.weight"].square()
        if not block.residual:
            return float(variance.mean().sqrt())
        number -= 1
