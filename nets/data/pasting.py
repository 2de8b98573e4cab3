"""Results of a network put back into the image that they were cut out of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from nets.data.heads.faces import FaceBox, from_pillow, to_pillow

BORDER = 0.06  # width of the soft edge, as a fraction of the square's side
GREY = 2.0  # levels; an image whose channels differ by less on average has no colours
MOST_GAIN = 1.5  # of a channel's contrast, when colours are matched; the least is 1 / MOST_GAIN


def paste_square(
    image: Tensor,
    crop: Tensor,
    box: FaceBox | tuple[int, int, int],
    mask: Tensor | None = None,
) -> Tensor:
    """A copy of `image` with `crop` at the place of `crop_square(image, box, size)`.

    image  uint8 (3, H, W)
    crop   uint8 (3, size, size)
    mask   (1, size, size) float in [0, 1]; only what is inside is pasted. None: the whole square
    Edges are soft over BORDER of the side, on the inner side of square and mask. Where the crop
    equals the image, the image stays as it is.
    """
    (cx, cy, half), (h, w) = box, image.shape[1:]
    side, left, top = 2 * half, cx - half, cy - half
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, w), min(top + side, h)
    if x0 >= x1 or y0 >= y1:
        return image.clone()
    scale = crop.shape[-1] / side  # only what lies in the image: the square may be enormous
    part = ((x0 - left) * scale, (y0 - top) * scale, (x1 - left) * scale, (y1 - top) * scale)
    size = (x1 - x0, y1 - y0)
    patch = from_pillow(to_pillow(crop).resize(size, Image.Resampling.BICUBIC, part)).float()

    def ramp(begin: int, end: int) -> Tensor:
        at = torch.arange(begin, end) + 0.5
        return (torch.minimum(at, side - at) / max(BORDER * side, 1)).clamp(max=1)

    share = torch.minimum(ramp(y0 - top, y1 - top)[:, None], ramp(x0 - left, x1 - left))
    if mask is not None:
        soft = Image.fromarray(feathered(mask)[0].numpy())
        share = share * from_pillow(soft.resize(size, Image.Resampling.BILINEAR, part))[0]
    behind = image[:, y0:y1, x0:x1].cpu().float()
    result = image.cpu().clone()
    blend = behind + share * (patch - behind)
    result[:, y0:y1, x0:x1] = blend.round().clamp(0, 255).to(torch.uint8)
    return result


def feathered(mask: Tensor) -> Tensor:
    """A mask that falls to 0 on the inner side of its edge, (1, S, S) float32.

    mask  (1, S, S) in [0, 1]
    It is blurred by a Gaussian of BORDER / 2 of the side, of which the upper half is kept. So
    nothing outside of the mask is seen. The image's border is no edge.
    """
    sigma = BORDER / 2 * mask.shape[-1]
    reach = max(1, round(3 * sigma))
    at = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = (-(at**2) / (2 * max(sigma, 0.1) ** 2)).exp()
    kernel = kernel / kernel.sum()
    soft = F.pad(mask.float().cpu()[None], (reach,) * 4, mode="replicate")
    soft = F.conv2d(soft, kernel.view(1, 1, 1, -1))
    soft = F.conv2d(soft, kernel.view(1, 1, -1, 1))[0]
    return (2 * soft - 1).clamp(0, 1)


def matched(crop: Tensor, image: Tensor, where: Tensor, where_image: Tensor) -> Tensor:
    """The crop, with each channel's mean and standard deviation as in an image: uint8 (3, S, S).

    crop, image         uint8 (3, S, S)
    where, where_image  (1, S, S), weights of the pixels that are compared, in crop and image
    Contrast changes by a factor of MOST_GAIN at most. Levels are compared as they are: changes of
    offset, contrast, exposure and white balance are nearly gains and offsets of levels. Reinhard et
    al. 2001 compare so in a space like Lab, where offsets of single channels are mixed.
    Without weights the crop is returned as it is. For an image without colours it becomes grey.
    """
    if (image.amax(0) - image.amin(0)).float().mean() < GREY:
        crop = from_pillow(to_pillow(crop).convert("L")).expand(3, -1, -1)
    if not where.any() or not where_image.any():
        return crop

    def moments(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        weights = weights.double() / weights.double().sum()
        mean = (x * weights).sum((1, 2), keepdim=True)
        return mean, ((x - mean).square() * weights).sum((1, 2), keepdim=True).sqrt()

    mean, deviation = moments(crop.double(), where)
    aim, contrast = moments(image.double(), where_image)
    gain = ((contrast + 0.1) / (deviation + 0.1)).clamp(1 / MOST_GAIN, MOST_GAIN)
    return ((crop - mean) * gain + aim).round().clamp(0, 255).to(torch.uint8)
