"""VGG19 and VGG16 as fixed feature extractors, and the sources of their weights.

Several families of weights are in use and not interchangeable. Each has its own preprocessing. It
starts here from images in [-1, 1], without clamping, so that predictions beyond the range keep
their gradients:

torchvision  RGB, ((v + 1) / 2 - mean) / std with the ImageNet mean and standard deviation
caffe        the network of Simonyan and Zisserman 2014, as Caffe and Keras serve it:
             BGR, 255 (v + 1) / 2 - (103.939, 116.779, 123.68)
torchvision16, face  VGG16 for images and for faces; see `preprocess_face`

Layers are named `relu3_2` or, equivalently, `block3_conv2`: the second convolution of the third
block, after its ReLU. `input_1` is the preprocessed image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.errors import UserError
from nets.perceptual import (
    BLOCKS,
    BLOCKS16,
    CONVOLUTIONS,
    convolutions,
    layer_position,
    preprocess_caffe,
    preprocess_face,
    preprocess_torchvision,
    unprocessed,
)
from nets.pretrained.weights import find, read_keras, read_state, verify
from nets.tensor_files import require

# The publishers' file names, digests (the start of it, for sha256) and addresses.
OFFICIAL = {
    "torchvision": {
        "vgg19-dcbb9e9d.pth": (
            "sha256",
            "dcbb9e9d",
            "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
        ),
    },
    "caffe": {
        "vgg19-d01eb7cb.pth": (
            "sha256",
            "d01eb7cb",
            "https://web.eecs.umich.edu/~justincj/models/vgg19-d01eb7cb.pth",
        ),
        "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5": (
            "md5",
            "253f8cb515780f3b799900260a226db6",
            "https://storage.googleapis.com/tensorflow/keras-applications/vgg19/"
            "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
        ),
    },
    "torchvision16": {
        "vgg16-397923af.pth": (
            "sha256",
            "397923af",
            "https://download.pytorch.org/models/vgg16-397923af.pth",
        ),
    },
    "face": {"vgg16_face_caffe.pth": ("", "", "")},  # published without digest and address
}


FAMILIES: dict[str, Callable[[Tensor], Tensor]] = {
    "torchvision": preprocess_torchvision,
    "caffe": preprocess_caffe,
    "torchvision16": preprocess_torchvision,
    "face": preprocess_face,
}
SIXTEEN = ("torchvision16", "face")
POOLINGS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "maxpool": F.max_pool2d,
    "avgpool": F.avg_pool2d,
}


class VGG19(nn.Module):
    """VGG19 without its classifier, frozen: gradients reach the image, not the parameters.

    It computes in the type of its parameters. `vgg.to(torch.bfloat16)` halves time and memory on
    devices with bfloat16; autocast works too but converts all weights in every call.
    """

    blocks = BLOCKS
    convolutions: nn.ModuleList

    def __init__(
        self,
        state: dict[str, Tensor],
        family: str,
        description: str,
        normalise: bool = True,
        pooling: str = "maxpool",
    ):
        super().__init__()
        self.rows = convolutions(self.blocks)
        with torch.device("meta"):  # saves the time and random numbers of an initialisation
            self.convolutions = nn.ModuleList(
                nn.Conv2d(row.inputs, row.outputs, 3, padding=1) for row in self.rows
            )
        own = {}
        for position, row in enumerate(self.rows):
            for part in ("weight", "bias"):
                own[f"convolutions.{position}.{part}"] = state[f"features.{row.number}.{part}"]
        self.load_state_dict(own, assign=True)
        self.requires_grad_(False)
        self.family = family
        self.preprocess = FAMILIES[family] if normalise else unprocessed
        self.pool = POOLINGS[pooling]
        self.description = description  # for the log: which weights, from where

    def features(self, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Activations after the ReLU of the named layers; computes no further than the last one.

        image    [N, 3, H, W]  RGB in [-1, 1], any floating type
        layers   names as in the module's docstring
        returns  name -> [N, C, H / 2**(B-1), W / 2**(B-1)] for block B, in the parameters' type
                 and the order of `layers`; `input_1` in float32
        """
        positions = {name: layer_position(name, self.blocks) for name in layers}
        last = max([0, *positions.values()])
        x = self.preprocess(image)
        outputs = {0: x}
        if last:
            smallest = 2 ** (self.rows[last - 1].block - 1)
            if min(image.shape[-2:]) < smallest:
                raise ValueError(
                    f"vgg: image must be at least {smallest} pixels wide and high for these "
                    f"layers, got {list(image.shape)}"
                )
            x = x.to(next(self.convolutions.parameters()).dtype)
        for position, row in enumerate(self.rows[:last], start=1):
            if position > 1 and row.place == 1:
                x = self.pool(x, 2)
            x = F.relu(self.convolutions[position - 1](x), inplace=True)
            outputs[position] = x
        return {name: outputs[position] for name, position in positions.items()}

    def forward(self, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Returns `features`; so `torch.compile(vgg)` and hooks work."""
        return self.features(image, layers)


class VGG16(VGG19):
    """VGG16: thirteen convolutions, three in each of the last three blocks."""

    blocks = BLOCKS16


def load_vgg(
    path: str | Path | None = None,
    family: str = "torchvision",
    source: str = "auto",
    download: bool = False,
    normalise: bool = True,
    pooling: str = "maxpool",
    option: str = "--vgg_weights",
    folders: Sequence[Path] = (),
    instead: str = "train with --perceptual random",
) -> VGG19:
    """A frozen VGG19, or VGG16 for the families of such, on the CPU in float32.

    path       a weight file: a state dict with `features.N.weight/bias` (.pth; for family "caffe"
               the conversion of the Caffe model) or, for "caffe", Keras's HDF5 file (.h5, read with
               h5py). None: looks for the official names in `folders` and torch's hub cache
    family     of the weights, with its preprocessing: "torchvision" or "caffe" for VGG19,
               "torchvision16" or "face" for VGG16
    source     "auto", or "random": seeded random weights, equal on all machines; reads no file
    download   download the official file into the hub cache if it is missing
    normalise  False: images in [-1, 1] enter the network without preprocessing
    pooling    between the blocks: "maxpool" or "avgpool"
    option     the option that takes `path`, for messages
    instead    another remedy, for messages
    returns    the network; its `description` names the weights
    Raises UserError, one line with the remedy, if the file is missing or wrong. A file with an
    official name must have the official digest.
    """
    if family not in FAMILIES:
        raise ValueError(f"load_vgg: family must be {' or '.join(FAMILIES)}, got {family!r}")
    if source not in ("auto", "random"):
        raise ValueError(f"load_vgg: source must be auto or random, got {source!r}")
    if pooling not in POOLINGS:
        raise ValueError(f"load_vgg: pooling must be {' or '.join(POOLINGS)}, got {pooling!r}")
    kind = VGG16 if family in SIXTEEN else VGG19
    if source == "random":
        note = f"random {kind.__name__} (seeded, untrained), {family} preprocessing"
        note = note if normalise else note + " left out"
        return kind(_random_state(kind.blocks), family, note, normalise, pooling)
    what = f"{family} {kind.__name__} weights"
    if path is None:
        path = find(
            OFFICIAL[family],
            what,
            option,
            download,
            "about 550 MB, ",
            folders,
            instead,
        )
    file = Path(path).expanduser()
    checked = _verify(file, family, kind.__name__)
    keras = file.suffix in (".h5", ".hdf5")
    state = _read_keras(file) if keras else read_state(file, "features.")
    note = f"{kind.__name__}, {family} weights of {file}{checked}"
    if not normalise:
        note += ", images not normalised"
    return kind(_checked(state, file, kind), family, note, normalise, pooling)


def _verify(file: Path, family: str, name: str) -> str:
    if not file.is_file():
        raise UserError(f"{file}: no such {name} weight file")
    for owner, names in OFFICIAL.items():
        if file.name in names and owner != family:
            raise UserError(
                f"{file} holds {owner} weights, but the {family} family is asked for "
                f"({', '.join(OFFICIAL[family])})"
            )
    if family != "caffe" and file.suffix in (".h5", ".hdf5"):
        raise UserError(f"{file}: HDF5 files hold caffe weights, {family}'s are .pth files")
    return verify(file, OFFICIAL[family])


def _read_keras(file: Path) -> dict[str, Tensor]:
    state = {}
    for name, value in read_keras(file, "vgg19-d01eb7cb.pth").items():
        layer = name.split("/")[0].replace("block", "").replace("_conv", "_")
        row = next((r for r in CONVOLUTIONS if f"{r.block}_{r.place}" == layer), None)
        if row is not None:
            part = "weight" if value.ndim == 4 else "bias"
            state[f"features.{row.number}.{part}"] = value
    return state


def _checked(state: dict[str, Tensor], file: Path, kind: type[VGG19]) -> dict[str, Tensor]:
    """The state dict in float32. Raises UserError with the differences if it is another's."""
    expected: dict[str, tuple[int, ...]] = {}
    for row in convolutions(kind.blocks):
        expected[f"features.{row.number}.weight"] = (row.outputs, row.inputs, 3, 3)
        expected[f"features.{row.number}.bias"] = (row.outputs,)
    require(state, expected, file, f"a {kind.__name__} state dict")
    return {key: value.float() for key, value in state.items()}


def _random_state(blocks: Sequence[int], seed: int = 19) -> dict[str, Tensor]:
    """Random weights of He's variance (2015, eq. 10).

    Uniform draws, unlike normal ones, have the same bits on every processor.
    """
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for row in convolutions(blocks):
        bound = (6 / (9 * row.inputs)) ** 0.5
        weight = torch.rand(row.outputs, row.inputs, 3, 3, generator=generator)
        state[f"features.{row.number}.weight"] = weight.mul_(2 * bound).sub_(bound)
        state[f"features.{row.number}.bias"] = torch.zeros(row.outputs)
    return state
