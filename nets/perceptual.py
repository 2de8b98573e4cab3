"""Perceptual distances: VGG preprocessing, names of layers, and distances between features.

Images are in [-1, 1] and never clamped. The networks are in `nets.pretrained`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


def preprocess_torchvision(image: Tensor) -> Tensor:
    """The input of torchvision's VGG: RGB in [0, 1], normalised by mean and std.

    image    [N, 3, H, W]  RGB in [-1, 1], any floating type; values beyond are not clamped
    returns  the same shape, float32 (float64 from float64), differentiable
    """
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    shift = [(0.5 - m) / s for m, s in zip(mean, std, strict=True)]
    return _per_channel(image, (0, 1, 2), [0.5 / s for s in std], shift)


def preprocess_caffe(image: Tensor) -> Tensor:
    """The input of the Caffe and Keras VGG: BGR in [0, 255] minus the mean.

    image    [N, 3, H, W]  RGB in [-1, 1], any floating type; values beyond are not clamped
    returns  the same shape, float32 (float64 from float64), differentiable
    """
    mean = (103.939, 116.779, 123.68)
    return _per_channel(image, (2, 1, 0), [127.5] * 3, [127.5 - m for m in mean])


def preprocess_face(image: Tensor) -> Tensor:
    """The input of the face-trained VGG16 in the losses of head avatars: [0, 255] minus a mean.

    The mean is in BGR order although the image is RGB, as when the published weights were trained.

    image    [N, 3, H, W]  RGB in [-1, 1], any floating type; values beyond are not clamped
    returns  the same shape, float32 (float64 from float64), differentiable
    """
    mean = (103.939, 116.779, 123.68)
    return _per_channel(image, (0, 1, 2), [127.5] * 3, [127.5 - m for m in mean])


def unprocessed(image: Tensor) -> Tensor:
    """The image itself, in [-1, 1], which some published losses feed to a VGG."""
    return _per_channel(image, (0, 1, 2), [1.0] * 3, [0.0] * 3)


def _per_channel(
    image: Tensor, order: Sequence[int], scale: Sequence[float], shift: Sequence[float]
) -> Tensor:
    if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
        raise ValueError(
            "preprocess: image must be a floating-point [N, 3, H, W] in [-1, 1], "
            f"got {list(image.shape)} {image.dtype}"
        )
    # bfloat16 has 8 significant bits: too few for the steps of a 0-255 scale.
    image = image if image.dtype == torch.float64 else image.float()
    # Python numbers rather than tensors of constants: no copy to the device in every step.
    planes = [image[:, c] * a + b for c, a, b in zip(order, scale, shift, strict=True)]
    return torch.stack(planes, dim=1)


BLOCKS = (2, 2, 4, 4, 4)  # VGG19's convolutions per block; 2x2 pooling between two blocks
BLOCKS16 = (2, 2, 3, 3, 3)  # VGG16's
WIDTHS = (64, 128, 256, 512, 512)  # channels of the blocks


class Convolution(NamedTuple):
    """The position of one convolution: layer `relu<block>_<place>`, `features.<number>` on disk."""

    block: int
    place: int
    inputs: int
    outputs: int
    number: int


def convolutions(blocks: Sequence[int]) -> list[Convolution]:
    """All convolutions of the network that has `blocks` convolutions per block."""
    rows, inputs, number = [], 3, 0
    for block, (count, width) in enumerate(zip(blocks, WIDTHS, strict=True), start=1):
        for place in range(1, count + 1):
            rows.append(Convolution(block, place, inputs, width, number))
            inputs, number = width, number + 2  # the ReLU has a number of its own
        number += 1  # and so has the pooling
    return rows


CONVOLUTIONS = convolutions(BLOCKS)


def layer_position(name: str, blocks: Sequence[int] = BLOCKS) -> int:
    """The number of convolutions up to a layer, 0 for `input_1`. Raises ValueError."""
    if name == "input_1":
        return 0
    for position, row in enumerate(convolutions(blocks), start=1):
        if name in (f"relu{row.block}_{row.place}", f"block{row.block}_conv{row.place}"):
            return position
    raise ValueError(
        "vgg: layer must be input_1, reluB_C or blockB_convC with block B in 1..5 and "
        f"C in 1..{'/'.join(map(str, blocks))}, got {name!r}"
    )


def layer_block(name: str) -> int:
    """The block of a layer of VGG19, 1 to 5, or 0 for `input_1`. Raises ValueError."""
    position = layer_position(name)
    return CONVOLUTIONS[position - 1].block if position else 0


def layer_name(index: int, blocks: Sequence[int] = BLOCKS) -> str:
    """The name of the ReLU that is `features[index]` in torchvision's network."""
    for row in convolutions(blocks):
        if row.number + 1 == index:
            return f"relu{row.block}_{row.place}"
    known = ", ".join(str(row.number + 1) for row in convolutions(blocks))
    raise ValueError(f"vgg: index must be that of a ReLU, one of {known}, got {index}")


def gram_matrix(features: Tensor) -> Tensor:
    """The Gram matrix F F^T / (4 H W) of activations (N, C, H, W): (N, C, C).

    Never in half precision, which would overflow: activations of a 0-255 scale reach thousands.
    """
    with torch.autocast(features.device.type, enabled=False):
        flat = as_real(features).flatten(2)
        return flat @ flat.transpose(1, 2) / (4 * flat.shape[2])


def feature_distances(
    prediction: Tensor,
    target: Tensor,
    layers: Sequence[str],
    gram_layers: Sequence[str] = (),
    vgg: nn.Module | None = None,
    squared: bool = False,
) -> dict[str, Tensor]:
    """L1 distances between the activations of two images, and between their Gram matrices.

    prediction   (N, 3, H, W) RGB in [-1, 1], may exceed the range; receives gradients
    target       the same shape; receives no gradients
    layers       for mean |F(y) - F(t)|: names as in `layer_position`, or `image` for the image
                 itself
    gram_layers  for mean |G(y) - G(t)|, G the `gram_matrix` of the activations
    vgg          a `nets.pretrained.vgg.VGG19`, or a network with its interface; may be None if the
                 layers are `image` and `input_1`, the latter then preprocessed as for the caffe
                 family
    squared      mean (F(y) - F(t))^2 instead of the L1 of activations
    returns      {"feature_<layer>": (N,), ..., "gram_<layer>": (N,), ...}
    """
    prediction, target = checked_pair("feature_distances", prediction, target)
    names = list(dict.fromkeys([*layers, *gram_layers]))
    inner = [name for name in names if name not in ("image", "input_1")]
    if inner and vgg is None:
        raise ValueError(f"feature_distances: vgg must be given for the layers {', '.join(inner)}")

    def activations(image: Tensor) -> dict[str, Tensor]:
        features = {"image": image}
        if vgg is not None and names != ["image"]:
            features.update(vgg(image, [name for name in names if name != "image"]))
        elif "input_1" in names:
            features["input_1"] = preprocess_caffe(image)
        return features

    # Two passes instead of one over both images: the target's keeps nothing for the backward
    # pass. 0.87 s and 255 MB against 1.15 s and 460 MB (relu1_2 .. relu5_2, forward and backward,
    # four images of 128 pixels, float32, two CPU cores).
    of_target = activations(target.detach())
    of_prediction = activations(prediction)
    result = {}
    for name in names:
        ours, theirs = of_prediction.pop(name), of_target.pop(name)
        if name in layers:
            result[f"feature_{name}"] = mean_distance(ours, theirs, squared)
        if name in gram_layers:
            gram = (gram_matrix(ours) - gram_matrix(theirs)).abs()
            result[f"gram_{name}"] = gram.mean((1, 2))
    return result


def checked_pair(function: str, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both images by `as_real`. Raises ValueError unless they are [N, C, H, W] of one shape."""
    if prediction.ndim != 4 or prediction.shape != target.shape:
        raise ValueError(
            f"{function}: prediction and target must be [N, C, H, W] of one shape, "
            f"got {list(prediction.shape)} and {list(target.shape)}"
        )
    return as_real(prediction), as_real(target)


def mean_distance(ours: Tensor, theirs: Tensor, squared: bool = False) -> Tensor:
    """The mean absolute or squared difference of each sample of (N, C, H, W): (N,)."""
    kind = torch.float64 if ours.dtype == torch.float64 else torch.float32
    distance = (ours - theirs).square() if squared else (ours - theirs).abs()
    return distance.mean((1, 2, 3), dtype=kind)


def as_real(x: Tensor) -> Tensor:
    """`x` in float32; float64 stays float64."""
    return x if x.dtype == torch.float64 else x.float()
