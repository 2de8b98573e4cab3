"""VGG19 as a fixed feature extractor, and where its weights come from.

Two trainings of the same network are in use and are not interchangeable. Each has its own
preprocessing, here from pictures in [-1, 1] and without any clamping, so that a prediction beyond
the range keeps its gradient:

torchvision  RGB, ((v + 1) / 2 - mean) / std with the ImageNet mean and standard deviation
caffe        the network of Simonyan and Zisserman 2014, as Caffe and Keras serve it:
             BGR, 255 (v + 1) / 2 - (103.939, 116.779, 123.68)

Layers are named `relu3_2` or `block3_conv2`, which are the same: the second convolution of the
third block, after its ReLU. `input_1` is the preprocessed picture.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.errors import UserError
from nets.states import read_plain, require

BLOCKS = (2, 2, 4, 4, 4)  # convolutions a block; a 2x2 max pooling stands between two blocks
WIDTHS = (64, 128, 256, 512, 512)


class Convolution(NamedTuple):
    """Where one convolution stands: layer `relu<block>_<place>`, `features.<index>` on disk."""

    block: int
    place: int
    inputs: int
    outputs: int
    index: int


def _convolutions() -> list[Convolution]:
    rows, inputs, index = [], 3, 0
    for block, (count, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True), start=1):
        for place in range(1, count + 1):
            rows.append(Convolution(block, place, inputs, width, index))
            inputs, index = width, index + 2  # a ReLU has a number of its own
        index += 1  # and so has a pooling
    return rows


CONVOLUTIONS = _convolutions()
_POSITIONS = {"input_1": 0}  # how many convolutions lie before the layer's output
for _position, _row in enumerate(CONVOLUTIONS, start=1):
    _POSITIONS[f"relu{_row.block}_{_row.place}"] = _position
    _POSITIONS[f"block{_row.block}_conv{_row.place}"] = _position

# What the publishers call their files, and the digest they publish (the start of it, for sha256).
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
}


def preprocess_torchvision(image: Tensor) -> Tensor:
    """What torchvision's VGG expects, from RGB in [-1, 1]: [0, 1] normalised by mean and std.

    image    [N, 3, H, W]  any floating type; values beyond [-1, 1] are not clamped
    returns  the same shape, float32 (float64 from float64), differentiable
    """
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    shift = [(0.5 - m) / s for m, s in zip(mean, std, strict=True)]
    return _per_channel(image, (0, 1, 2), [0.5 / s for s in std], shift)


def preprocess_caffe(image: Tensor) -> Tensor:
    """What the Caffe and Keras VGG expects, from RGB in [-1, 1]: BGR in [0, 255] minus the mean.

    image    [N, 3, H, W]  any floating type; values beyond [-1, 1] are not clamped
    returns  the same shape, float32 (float64 from float64), differentiable
    """
    mean = (103.939, 116.779, 123.68)
    return _per_channel(image, (2, 1, 0), [127.5] * 3, [127.5 - m for m in mean])


def unprocessed(image: Tensor) -> Tensor:
    """The picture in [-1, 1] as it is, which is how some published losses feed a VGG."""
    return _per_channel(image, (0, 1, 2), [1.0] * 3, [0.0] * 3)


def _per_channel(
    image: Tensor, order: Sequence[int], scale: Sequence[float], shift: Sequence[float]
) -> Tensor:
    if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
        raise ValueError(
            "vgg: image must be a floating-point [N, 3, H, W] in [-1, 1], "
            f"got {list(image.shape)} {image.dtype}"
        )
    # bfloat16 holds 8 bits: the steps of a 0-255 scale would be lost here.
    image = image if image.dtype == torch.float64 else image.float()
    # Python numbers rather than tensors of constants: no copy to the device in every step.
    planes = [image[:, c] * a + b for c, a, b in zip(order, scale, shift, strict=True)]
    return torch.stack(planes, dim=1)


FAMILIES: dict[str, Callable[[Tensor], Tensor]] = {
    "torchvision": preprocess_torchvision,
    "caffe": preprocess_caffe,
}


def layer_position(name: str) -> int:
    """How many convolutions lead to a layer, 0 for `input_1`. ValueError for an unknown name."""
    if name not in _POSITIONS:
        raise ValueError(
            "vgg: layer must be input_1, reluB_C or blockB_convC with block B in 1..5 and "
            f"C in 1..{'/'.join(map(str, BLOCKS))}, got {name!r}"
        )
    return _POSITIONS[name]


class VGG19(nn.Module):
    """VGG19 without its classifier, frozen: gradients reach the picture, not the parameters.

    It computes in the type of its parameters (`vgg.to(torch.bfloat16)` halves the time and memory
    where the device has it; autocast works too but converts all weights in every call).
    """

    def __init__(
        self, state: dict[str, Tensor], family: str, description: str, normalise: bool = True
    ):
        super().__init__()
        with torch.device("meta"):  # no time and no random numbers spent on values to be replaced
            self.convolutions = nn.ModuleList(
                nn.Conv2d(row.inputs, row.outputs, 3, padding=1) for row in CONVOLUTIONS
            )
        own = {}
        for position, row in enumerate(CONVOLUTIONS):
            for part in ("weight", "bias"):
                own[f"convolutions.{position}.{part}"] = state[f"features.{row.index}.{part}"]
        self.load_state_dict(own, assign=True)
        self.requires_grad_(False)
        self.family = family
        self.preprocess = FAMILIES[family] if normalise else unprocessed
        self.description = description  # for the log: which weights, from where

    def features(self, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Activations after the ReLU of the named layers; computes no further than the last one.

        image    [N, 3, H, W]  RGB in [-1, 1], any floating type
        layers   names as in the module's description
        returns  name -> [N, C, H / 2**(B-1), W / 2**(B-1)] for block B, in the parameters' type,
                 in the order asked for; `input_1` in float32
        """
        wanted = {name: layer_position(name) for name in layers}
        last = max([0, *wanted.values()])
        x = self.preprocess(image)
        outputs = {0: x}
        if last:
            smallest = 2 ** (CONVOLUTIONS[last - 1].block - 1)
            if min(image.shape[-2:]) < smallest:
                raise ValueError(
                    f"vgg: image must be at least {smallest} pixels wide and high for these "
                    f"layers, got {list(image.shape)}"
                )
            x = x.to(self.convolutions[0].weight.dtype)
        for position, convolution in enumerate(self.convolutions[:last], start=1):
            if position > 1 and CONVOLUTIONS[position - 1].place == 1:
                x = F.max_pool2d(x, 2)
            x = F.relu(convolution(x), inplace=True)
            outputs[position] = x
        return {name: outputs[position] for name, position in wanted.items()}

    def forward(self, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """`features`, so that `torch.compile(vgg)` and hooks work."""
        return self.features(image, layers)


def load_vgg(
    path: str | Path | None = None,
    family: str = "torchvision",
    source: str = "auto",
    download: bool = False,
    normalise: bool = True,
) -> VGG19:
    """A frozen VGG19 on the CPU in float32.

    path      a weight file: a state dict with `features.N.weight/bias` (.pth; for family "caffe"
              the conversion of the Caffe model) or, for "caffe", Keras's HDF5 file (.h5, read with
              h5py). None looks into torch's hub cache for the official names
    family    "torchvision" or "caffe": which of the two trainings it is, hence its preprocessing
    source    "auto", or "random": seeded random weights, the same on every machine; no file is read
    download  fetch the official file into the hub cache if no file is found
    normalise  false: pictures in [-1, 1] go into the network as they are
    returns   the network; its `description` says which weights it holds
    Raises UserError, in one line that says what to do, when there is no file or it is not right.
    A file with an official name must have the official digest.
    """
    if family not in FAMILIES:
        raise ValueError(f"load_vgg: family must be torchvision or caffe, got {family!r}")
    if source not in ("auto", "random"):
        raise ValueError(f"load_vgg: source must be auto or random, got {source!r}")
    if source == "random":
        note = f"random VGG19 (seeded, untrained), {family} preprocessing"
        return VGG19(_random_state(), family, note if normalise else note + " left out", normalise)
    file = Path(path).expanduser() if path is not None else _find(family, download)
    checked = _verify(file, family)
    state = _read_keras(file) if file.suffix in (".h5", ".hdf5") else _read_torch(file)
    note = f"VGG19, {family} weights of {file}{checked}"
    if not normalise:
        note += ", pictures not normalised"
    return VGG19(_checked(state, file), family, note, normalise)


def _find(family: str, download: bool) -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for name in OFFICIAL[family]:
        if (folder / name).is_file():
            return folder / name
    name, (_, digest, url) = next(iter(OFFICIAL[family].items()))
    if not download:
        raise UserError(
            f"no {family} VGG19 weights: {' or '.join(OFFICIAL[family])} is not in {folder}; give "
            f"the file with --vgg_weights, ask for the download (about 550 MB, {url}), or train "
            "with --perceptual random"
        )
    print(f"downloading {url} to {folder}", flush=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(folder / name), hash_prefix=digest)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"download of {url} failed ({error}); fetch one of {', '.join(OFFICIAL[family])} by "
            "hand and give it with --vgg_weights"
        ) from error
    return folder / name


def _verify(file: Path, family: str) -> str:
    if not file.is_file():
        raise UserError(f"{file}: no such VGG19 weight file")
    for owner, names in OFFICIAL.items():
        if file.name not in names:
            continue
        if owner != family:
            raise UserError(
                f"{file} holds {owner} weights, but the {family} family is asked for "
                f"({', '.join(OFFICIAL[family])})"
            )
        kind, expected, _ = names[file.name]
        summer = hashlib.new(kind)
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                summer.update(chunk)
        digest = summer.hexdigest()
        if not digest.startswith(expected):
            raise UserError(
                f"{file} is damaged or not the official file: its {kind} is {digest}, "
                f"must {'start with' if len(expected) < len(digest) else 'be'} {expected}"
            )
        return f" ({kind} verified)"
    if family == "torchvision" and file.suffix in (".h5", ".hdf5"):
        raise UserError(f"{file}: HDF5 files hold caffe weights, torchvision's are .pth files")
    return ""


def _read_torch(file: Path) -> dict[str, Tensor]:
    state = read_plain(file)
    if not isinstance(state, dict):
        raise UserError(f"{file}: must hold a state dict, holds a {type(state).__name__}")
    return {k: v for k, v in state.items() if str(k).startswith("features.")}


def _read_keras(file: Path) -> dict[str, Tensor]:
    try:
        import h5py
    except ImportError as error:
        raise UserError(
            f"{file}: reading Keras weights needs h5py (pip install h5py); "
            "vgg19-d01eb7cb.pth holds the same weights and does not"
        ) from error
    state = {}

    def collect(name: str, node: object) -> None:
        layer = name.split("/")[0].replace("block", "").replace("_conv", "_")
        position = _POSITIONS.get(f"relu{layer}")
        if position is None or not isinstance(node, h5py.Dataset):
            return
        value = torch.from_numpy(node[()])
        part = "weight" if value.ndim == 4 else "bias"
        # Keras keeps kernels as height, width, input, output.
        value = value.permute(3, 2, 0, 1).contiguous() if value.ndim == 4 else value
        state[f"features.{CONVOLUTIONS[position - 1].index}.{part}"] = value

    try:
        with h5py.File(file, "r") as root:
            root.visititems(collect)
    except OSError as error:
        raise UserError(f"{file}: cannot be read as HDF5 ({error})") from error
    return state


def _checked(state: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The state dict in float32, if it is a VGG19's; else UserError with the first differences."""
    expected = {}
    for row in CONVOLUTIONS:
        expected[f"features.{row.index}.weight"] = (row.outputs, row.inputs, 3, 3)
        expected[f"features.{row.index}.bias"] = (row.outputs,)
    require(state, expected, file, "a VGG19 state dict")
    return {key: value.float() for key, value in state.items()}


def _random_state(seed: int = 19) -> dict[str, Tensor]:
    """He's variance (2015, eq. 10), drawn uniform: unlike normal draws these are the same bits on
    every processor."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for row in CONVOLUTIONS:
        bound = (6 / (9 * row.inputs)) ** 0.5
        weight = torch.rand(row.outputs, row.inputs, 3, 3, generator=generator)
        state[f"features.{row.index}.weight"] = weight.mul_(2 * bound).sub_(bound)
        state[f"features.{row.index}.bias"] = torch.zeros(row.outputs)
    return state
