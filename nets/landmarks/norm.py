"""Instance norm without parameters, with what follows it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def instance_norm(x: Tensor, slope: float = 1.0, eps: float = 1e-5) -> Tensor:
    """Each channel of each picture with mean 0 and variance 1 (biased), then leaky ReLU.

    slope  of the leaky ReLU; 1: none, 0: ReLU
    Raises ValueError where a channel is a single pixel: its variance says nothing.
    """
    if x.shape[2] * x.shape[3] == 1:
        raise ValueError(
            f"instance_norm: x must have more than one pixel a channel, got {list(x.shape)}"
        )
    return activate(F.instance_norm(x, eps=eps), slope)


def modulate(x: Tensor, scale: Tensor, shift: Tensor, slope: float = 1.0) -> Tensor:
    """leaky_relu(x (1 + scale) + shift), all of one shape. SPADE (Park et al. 2019, eq. 1)."""
    return activate(x * (1 + scale) + shift, slope)


def activate(x: Tensor, slope: float) -> Tensor:
    """Leaky ReLU in place; slope 1 leaves x as it is."""
    if slope == 1:
        return x
    return F.relu(x, inplace=True) if slope == 0 else F.leaky_relu(x, slope, inplace=True)
