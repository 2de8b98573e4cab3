"""Functions on images and feature maps that several systems share."""

from __future__ import annotations

import torch
from torch import Tensor


def signed(image: Tensor) -> Tensor:
    """Images as the networks take them, float32 in [-1, 1], from uint8: x / 127.5 - 1."""
    return image.float() / 127.5 - 1


def depth_to_space(x: Tensor) -> Tensor:
    """Feature maps (N, C, 2H, 2W) from (N, 4C, H, W): channel blocks become 2 x 2 pixels."""
    n, c, h, w = x.shape
    if x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1).reshape(n, h, w, 2, 2, c // 4).transpose(2, 3)
        return x.reshape(n, 2 * h, 2 * w, c // 4).permute(0, 3, 1, 2)
    x = x.reshape(n, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // 4, 2 * h, 2 * w)
