"""What `uv_sample` and its gradients are, in stock torch."""

from __future__ import annotations

import torch
from torch import Tensor

from nets.ops.sampling import PADDINGS, computed, lookup, lookup_backward


def uv_sample_reference(
    texture: Tensor,
    delta: Tensor,
    low_frequency: Tensor | None,
    mask: Tensor | None,
    background: float,
    padding: int,
) -> Tensor:
    """The definition, in stock torch; `padding` is an index into PADDINGS."""
    return _forward(texture, delta, low_frequency, mask, background, padding).to(texture.dtype)


def _forward(texture, delta, low_frequency, mask, background, padding):
    kind = computed(texture.dtype)
    x, y = _positions(texture, delta)
    value = lookup(texture.to(kind), x, y, PADDINGS[padding])
    value = _by_picture(value, delta)
    if low_frequency is not None:
        value = value + low_frequency.to(kind)
    if mask is not None:
        value = value * mask.to(kind) + background * (1 - mask.to(kind))
    return value.contiguous()


def _positions(texture, delta):
    """Where every pixel of the pictures of one texture reads in it, x and y [M, N / M * H W]."""
    delta = delta.to(computed(texture.dtype))
    out = []
    for axis, size in ((0, texture.shape[3]), (1, texture.shape[2])):
        n = delta.shape[3 - axis]
        i = torch.arange(n, dtype=delta.dtype, device=delta.device)
        scale = size / n
        still = (i * scale + (scale - 1) / 2).view((1, -1) if axis == 0 else (-1, 1))
        out.append((still + delta[:, axis] * (size / 2)).reshape(texture.shape[0], -1))
    return out


def _by_picture(value, delta):
    """[M, C, N / M * H W] -> [N, C, H, W]"""
    m, c = value.shape[:2]
    n, _, h, w = delta.shape
    return value.view(m, c, n // max(m, 1), h, w).transpose(1, 2).reshape(n, c, h, w)


def _by_texture(value, m):
    """[N, C, H, W] -> [M, C, N / M * H W]"""
    n, c, h, w = value.shape
    return (
        value.view(m, n // max(m, 1), c, h, w).transpose(1, 2).reshape(m, c, n // max(m, 1) * h * w)
    )


def uv_sample_backward_reference(
    grad: Tensor,
    texture: Tensor,
    delta: Tensor,
    low_frequency: Tensor | None,
    mask: Tensor | None,
    background: float,
    padding: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients by texture, delta, low_frequency and mask; empty for what was not given."""
    dtype, kind = texture.dtype, computed(texture.dtype)
    none = texture.new_empty(0)
    grad_, grad_mask = grad.to(kind), none
    if mask is not None:
        whole = _forward(texture, delta, low_frequency, None, background, padding)
        grad_mask = (grad_ * (whole - background)).sum(1, keepdim=True).to(dtype)
        grad_ = grad_ * mask.to(kind)
    grad_low = none if low_frequency is None else grad_.to(dtype).clone()
    x, y = _positions(texture, delta)
    part = _by_texture(grad_.contiguous(), texture.shape[0])
    grad_texture, gx, gy = lookup_backward(part, texture.to(kind), x, y, PADDINGS[padding])
    h, w = texture.shape[2:]
    grad_delta = torch.stack([gx * (w / 2), gy * (h / 2)], 1)
    grad_delta = _by_picture(grad_delta, delta).to(dtype).contiguous()
    return grad_texture.to(dtype), grad_delta, grad_low, grad_mask
