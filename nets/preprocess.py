"""Pictures in [-1, 1] as the trainings of a VGG expect them; nothing is clamped."""

from collections.abc import Sequence

import torch
from torch import Tensor


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


def preprocess_face(image: Tensor) -> Tensor:
    """What a face-trained VGG16 is fed in the losses of head avatars: [0, 255] minus a mean that
    is in BGR order, although the picture is RGB. Published weights were trained against this.

    image    [N, 3, H, W]  any floating type; values beyond [-1, 1] are not clamped
    returns  the same shape, float32 (float64 from float64), differentiable
    """
    mean = (103.939, 116.779, 123.68)
    return _per_channel(image, (0, 1, 2), [127.5] * 3, [127.5 - m for m in mean])


def unprocessed(image: Tensor) -> Tensor:
    """The picture in [-1, 1] as it is, which is how some published losses feed a VGG."""
    return _per_channel(image, (0, 1, 2), [1.0] * 3, [0.0] * 3)


def _per_channel(
    image: Tensor, order: Sequence[int], scale: Sequence[float], shift: Sequence[float]
) -> Tensor:
    if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
        raise ValueError(
            "preprocess: image must be a floating-point [N, 3, H, W] in [-1, 1], "
            f"got {list(image.shape)} {image.dtype}"
        )
    # bfloat16 holds 8 bits: the steps of a 0-255 scale would be lost here.
    image = image if image.dtype == torch.float64 else image.float()
    # Python numbers rather than tensors of constants: no copy to the device in every step.
    planes = [image[:, c] * a + b for c, a, b in zip(order, scale, shift, strict=True)]
    return torch.stack(planes, dim=1)
