"""The fourth channel of an image file: its opacity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


def with_alpha(
    image: Tensor, path: str | Path, box: tuple[int, int, int, int] | None = None
) -> Tensor:
    """The image of a file with its opacity as a fourth channel: (4, H, W) uint8.

    image  (3, H, W) uint8, as `read_image` or `read_letterboxed` returned it for `path`: colours
           over white
    box    x, y, width and height of the file's content in `image`; None: the whole image
    A file without transparency is opaque.
    """
    h, w = image.shape[1:]
    x, y, inner_w, inner_h = box or (0, 0, w, h)
    alpha = np.zeros((h, w), np.uint8)
    inside = alpha[y : y + inner_h, x : x + inner_w]
    with Image.open(path) as file:
        if file.has_transparency_data:
            layer = ImageOps.exif_transpose(file).convert("RGBA").getchannel("A")
            inside[:] = np.asarray(layer.resize((inner_w, inner_h), Image.Resampling.BILINEAR))
        else:
            inside[:] = 255
    return torch.cat([image, torch.from_numpy(alpha)[None]])
