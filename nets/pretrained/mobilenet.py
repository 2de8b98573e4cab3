"""MobileNetV2 as a fixed feature extractor: a perceptual network that comes with guise.

Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
CVPR 2018. No published system here used it. The weights are torchvision's, trained on ImageNet, and
come with guise (BSD-3, LICENSE-torchvision.txt): in float16, with batch norms folded into the
convolutions, 4 MB. They were made with

    python -m nets.pretrained.mobilenet mobilenet_v2-b0353104.pth

Layers have VGG's names (`nets.pretrained.vgg`), so that it takes VGG's place: a layer of block B is
the last map at stride 2**B here, 2**(B-1) there. A name says the block alone: `relu3_1` and
`block3_conv2` are the same map.

Maps are divided by their standard deviation, which the batch norms hold (see `_deviation`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.errors import UserError
from nets.perceptual import layer_block, preprocess_caffe, preprocess_torchvision
from nets.pretrained.weights import read_state, verify
from nets.tensor_files import read_plain, require, write_safetensors

NAME = "mobilenet_v2-b0353104.pth"
OFFICIAL = {NAME: ("sha256", "b0353104", f"https://download.pytorch.org/models/{NAME}")}
PACKED = Path(__file__).with_name("mobilenet_v2.safetensors")
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
    """MobileNetV2 without its classifier, frozen: gradients reach the image, not the parameters."""

    def __init__(self, packed: dict[str, Tensor], family: str = "torchvision"):
        """Takes what `pack` returns.

        family  of the VGG whose place it takes. It gives the unit of the maps and of `input_1`:
                "torchvision" standard deviations, "caffe" levels of 0 to 255
        """
        super().__init__()
        if family not in ("torchvision", "caffe"):
            raise ValueError(f"mobilenet: family must be torchvision or caffe, got {family!r}")
        self.family = family
        self.description = "MobileNetV2, torchvision weights"  # for the log
        self.preprocess = preprocess_caffe if family == "caffe" else preprocess_torchvision
        unit = LEVELS if family == "caffe" else 1.0
        self.scales = [unit / value for value in packed["deviations"].tolist()]
        self.weight = nn.ParameterList(packed[f"{r.convolution}.weight"].float() for r in ROWS)
        self.bias = nn.ParameterList(packed[f"{r.convolution}.bias"].float() for r in ROWS)
        self.requires_grad_(False)

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
            x = preprocess_torchvision(image).to(self.weight[0].dtype)
            x = F.relu6(F.conv2d(x, self.weight[0], self.bias[0], stride=2, padding=1))
            position = 1
            for block in BLOCKS[: ENDS[last - 1]]:
                x, position = self._block(x, block, position)
                if block.number in ENDS:
                    stage = ENDS.index(block.number)
                    maps[stage + 1] = x * self.scales[stage]
        return {name: maps[stage] for name, stage in wanted.items()}

    def forward(self, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Returns `features`; so `torch.compile` and hooks work."""
        return self.features(image, layers)

    def _block(self, x: Tensor, block: InvertedResidual, position: int) -> tuple[Tensor, int]:
        """The output of a block whose first convolution is at `position`, and the next position."""
        y = x
        if block.factor > 1:
            y = F.relu6(F.conv2d(y, self.weight[position], self.bias[position]))
            position += 1
        weight, bias = self.weight[position], self.bias[position]
        y = F.relu6(F.conv2d(y, weight, bias, block.stride, padding=1, groups=len(weight)))
        y = F.conv2d(y, self.weight[position + 1], self.bias[position + 1])
        return (x + y if block.residual else y), position + 2


def load_mobilenet(family: str = "torchvision") -> MobileNetV2:
    """The MobileNetV2 that comes with guise, on the CPU in float32; `family` as for the class."""
    return MobileNetV2(read_plain(PACKED), family)


def pack(state: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Weights and biases with the batch norms in them, and the `deviations` of the five maps.

    state  torchvision's state dict
    file   its file, for messages
    Raises UserError if it is another network's.
    """
    kept = {k: v for k, v in state.items() if not k.startswith(("features.18.", "classifier."))}
    kept = {k: v.float() for k, v in kept.items() if not k.endswith("num_batches_tracked")}
    expected: dict[str, tuple[int, ...]] = {}
    for row in ROWS:
        expected[f"{row.convolution}.weight"] = row.shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            expected[f"{row.norm}.{part}"] = row.shape[:1]
    require(kept, expected, file, "a MobileNetV2 state dict")
    packed = {"deviations": torch.tensor([_deviation(kept, end) for end in ENDS])}
    for row in ROWS:
        weight, bias, mean, variance = (
            kept[f"{row.norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight / (variance + 1e-5).sqrt()
        packed[f"{row.convolution}.weight"] = (
            kept[f"{row.convolution}.weight"] * scale[:, None, None, None]
        )
        packed[f"{row.convolution}.bias"] = bias - mean * scale
    return packed


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


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack torchvision's MobileNetV2 for guise.")
    parser.add_argument("file", type=Path, help=f"the file of {OFFICIAL[NAME][2]}")
    file = parser.parse_args().file
    try:
        verify(file, OFFICIAL)
        packed = pack(read_state(file, "features."), file)
    except (OSError, UserError) as error:
        parser.error(str(error))
    halves = {k: v if k == "deviations" else v.half() for k, v in packed.items()}
    with PACKED.open("wb") as out:
        write_safetensors(out, halves, {"source": NAME})
    print(f"{PACKED}: {PACKED.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
