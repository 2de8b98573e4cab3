"""Modulation of normalised images by scale and shift, in one pass forward and one backward.

The convolutions that compute scale and shift are in nets/ops/spade.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nets.ops._library import define, kernel


def modulate(x: Tensor, both: Tensor, slope: float, y: Tensor, scale: Tensor) -> None:
    """Writes y = leaky_relu(x (1 + scale) + shift), and a copy of the scale for the backward pass.

    x         [N, C, H, W]   any floating type and layout
    both      [N, 2C, H, W]  scale, then shift
    slope     of the leaky ReLU, above 0
    y, scale  of x's shape, overwritten; may be slices of a larger batch

    Autograd does not see it: use it inside functions with gradients of their own. On the CPU the
    kernel serves float32 and bfloat16, channels_last, with a multiple of 16 channels. Arithmetic is
    in float32. Park et al. 2019, eq. 1.
    """
    (_modulate if _serves(x, both, y, scale) else modulate_reference)(x, both, y, scale, slope)


def modulate_backward(
    grad: Tensor, y: Tensor, x: Tensor, scale: Tensor, slope: float, by_x: Tensor, both: Tensor
) -> None:
    """Writes the gradients of `modulate`: by_x of x's shape, and `both` [N, 2C, H, W]."""
    serves = _serves(x, grad, y, scale, by_x, both)
    back = _modulate_backward if serves else modulate_backward_reference
    back(grad, y, x, scale, slope, by_x, both)


def _serves(x: Tensor, *others: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.shape[1] % 16 == 0
        and all(t.dtype == x.dtype for t in others)
        and all(t.is_contiguous(memory_format=torch.channels_last) for t in (x, *others))
        and kernel("modulate", "cpu") == "compiled"
    )


def modulate_reference(x: Tensor, both: Tensor, y: Tensor, scale: Tensor, slope: float) -> None:
    """The definition, in stock torch."""
    factor, shift = both.chunk(2, dim=1)
    scale.copy_(factor)
    y.copy_(F.leaky_relu_(torch.addcmul(shift + x, x, factor), slope))


def modulate_backward_reference(
    grad: Tensor, y: Tensor, x: Tensor, scale: Tensor, slope: float, by_x: Tensor, both: Tensor
) -> None:
    """The definition of `modulate_backward`, in stock torch."""
    c = x.shape[1]
    g = torch.ops.aten.leaky_relu_backward(grad, y, slope, True)
    both[:, :c].copy_(g).mul_(x)
    both[:, c:] = g
    by_x.copy_(g).addcmul_(g, scale)


_modulate = define(
    "modulate(Tensor x, Tensor both, Tensor(a!) y, Tensor(b!) scale, float slope) -> ()",
    modulate_reference,
    lambda x, both, y, scale, slope: None,
    autocast=False,
    vmap=False,
)
_modulate_backward = define(
    "modulate_backward(Tensor grad, Tensor y, Tensor x, Tensor scale, float slope, "
    "Tensor(a!) by_x, Tensor(b!) both) -> ()",
    modulate_backward_reference,
    lambda grad, y, x, scale, slope, by_x, both: None,
    autocast=False,
    vmap=False,
)
