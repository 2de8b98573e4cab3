"""Images sampled from a texture, and their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nets.ops._library import define
from nets.ops.sampling import (
    PADDINGS,
    check_beside,
    check_image,
    check_padding,
    computed,
    lookup,
    lookup_backward,
    repeatable,
)


def uv_sample(
    texture: Tensor,
    delta: Tensor,
    low_frequency: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    padding: str = "zeros",
    background: float = -1.0,
) -> Tensor:
    """The texture sampled at identity grid + delta, plus low_frequency, blended by the mask.

    texture        [M, C, H', W']  any floating type and memory layout; N / M images in a row
                   share one
    delta          [N, 2, H, W]  (x, y) offsets in the frame [-1, 1], in which pixel i of n lies at
                   -1 + (2 i + 1) / n (align_corners=False); one that is NaN reads the padding
    low_frequency  [N, C, H, W]  added to the sampled texture
    mask           [N, 1, H, W]  m in [0, 1]: the result is x m + background (1 - m)
    padding        "zeros" or "border", as in torch.nn.functional.grid_sample
    returns        [N, C, H, W]; bilinear; differentiable once in all four tensors

    Tensors of several types are promoted to the widest; float16 and bfloat16 are computed in
    float32; under autocast the result is float32. Raises TypeError or ValueError on a wrong type,
    shape, device or padding. Zakharov et al. 2020, eq. 1 and 2.
    """
    name, n = "uv_sample", delta.shape[0]
    check_image(name, "texture", texture)
    check_image(name, "delta", delta)
    m, c = texture.shape[:2]
    if delta.shape[1] != 2 or (n % m if m else n):
        raise ValueError(
            f"{name}: delta must be [N, 2, H, W] with N a multiple of the {m} textures, "
            f"got {list(delta.shape)}"
        )
    for argument, tensor, channels in (("low_frequency", low_frequency, c), ("mask", mask, 1)):
        want = [n, channels, *delta.shape[2:]]
        if tensor is not None and list(tensor.shape) != want:
            raise ValueError(f"{name}: {argument} must be {want}, got {list(tensor.shape)}")
    given = dict(texture=texture, delta=delta, low_frequency=low_frequency, mask=mask)
    dtype = texture.dtype
    for argument, tensor in given.items():
        if tensor is not None:
            check_beside(name, argument, tensor, texture)
            dtype = torch.promote_types(dtype, tensor.dtype)
    check_padding(name, padding)
    tensors = (None if t is None else t.to(dtype) for t in given.values())
    return _sample(*tensors, float(background), PADDINGS.index(padding))


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


def _forward(
    texture: Tensor,
    delta: Tensor,
    low_frequency: Tensor | None,
    mask: Tensor | None,
    background: float,
    padding: int,
) -> Tensor:
    kind = computed(texture.dtype)
    x, y = _positions(texture, delta)
    value = lookup(texture.to(kind), x, y, PADDINGS[padding])
    value = _by_image(value, delta)
    if low_frequency is not None:
        value = value + low_frequency.to(kind)
    if mask is not None:
        value = value * mask.to(kind) + background * (1 - mask.to(kind))
    return value.contiguous()


def _positions(texture: Tensor, delta: Tensor) -> list[Tensor]:
    """Positions in the texture that its images read, x and y [M, N / M * H W]."""
    delta = delta.to(computed(texture.dtype))
    m, (n, _, h, w) = texture.shape[0], delta.shape
    out = []
    for axis, size in ((0, texture.shape[3]), (1, texture.shape[2])):
        side = delta.shape[3 - axis]
        i = torch.arange(side, dtype=delta.dtype, device=delta.device)
        scale = size / side
        still = (i * scale + (scale - 1) / 2).view((1, -1) if axis == 0 else (-1, 1))
        positions = still + delta[:, axis] * (size / 2)
        out.append(positions.reshape(m, n // max(m, 1) * h * w))
    return out


def _by_image(value: Tensor, delta: Tensor) -> Tensor:
    """[M, C, N / M * H W] -> [N, C, H, W]"""
    m, c = value.shape[:2]
    n, _, h, w = delta.shape
    return value.view(m, c, n // max(m, 1), h, w).transpose(1, 2).reshape(n, c, h, w)


def _by_texture(value: Tensor, m: int) -> Tensor:
    """[N, C, H, W] -> [M, C, N / M * H W]"""
    n, c, h, w = value.shape
    share = n // max(m, 1)
    return value.view(m, share, c, h, w).transpose(1, 2).reshape(m, c, share * h * w)


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
    grad_delta = _by_image(grad_delta, delta).to(dtype).contiguous()
    return grad_texture.to(dtype), grad_delta, grad_low, grad_mask


def _fake(texture: Tensor, delta: Tensor, *_: Any) -> Tensor:
    return texture.new_empty(delta.shape[0], texture.shape[1], *delta.shape[2:])


def _fake_backward(
    grad: Tensor,
    texture: Tensor,
    delta: Tensor,
    low_frequency: Tensor | None,
    mask: Tensor | None,
    *_: Any,
) -> tuple[Tensor, ...]:
    def empty(t: Tensor | None) -> Tensor:
        return texture.new_empty(0 if t is None else t.shape)

    return empty(texture), empty(delta), empty(low_frequency), empty(mask)


_GIVEN = (
    "Tensor texture, Tensor delta, Tensor? low_frequency, Tensor? mask, "
    "float background, int padding"
)
_sample = define(f"uv_sample({_GIVEN}) -> Tensor", uv_sample_reference, _fake)
_sample_backward = define(
    f"uv_sample_backward(Tensor grad, {_GIVEN}) -> (Tensor, Tensor, Tensor, Tensor)",
    uv_sample_backward_reference,
    _fake_backward,
    autocast=False,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.background, ctx.padding = inputs
    ctx.save_for_backward(*tensors)


@torch.autograd.function.once_differentiable
def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    tensors = ctx.saved_tensors
    backward = repeatable(_sample_backward, uv_sample_backward_reference, grad)
    grads = backward(grad, *tensors, ctx.background, ctx.padding)
    return *(None if t is None else g for t, g in zip(tensors, grads, strict=True)), None, None


torch.library.register_autograd("guise::uv_sample", _backward, setup_context=_setup)
