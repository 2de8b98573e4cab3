"""Pictures looked up in a texture, and their gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from nets.ops._library import define
from nets.ops.sampling import PADDINGS, check_beside, check_image, check_padding, repeatable
from nets.ops.uv_reference import uv_sample_backward_reference, uv_sample_reference


def uv_sample(
    texture: Tensor,
    delta: Tensor,
    low_frequency: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    padding: str = "zeros",
    background: float = -1.0,
) -> Tensor:
    """The texture at identity grid + delta, plus the low-frequency layer, cut out by the mask.

    texture        [M, C, H', W']  any floating type and memory layout; N / M pictures in a row
                   share one
    delta          [N, 2, H, W]  (x, y) offsets in the frame [-1, 1], in which pixel i of n lies at
                   -1 + (2 i + 1) / n (align_corners=False); one that is NaN reads the padding
    low_frequency  [N, C, H, W]  added to what was looked up
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


def _fake(texture, delta, low_frequency, mask, background, padding):
    return texture.new_empty(delta.shape[0], texture.shape[1], *delta.shape[2:])


def _fake_backward(grad, texture, delta, low_frequency, mask, background, padding):
    def empty(t):
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


def _setup(ctx, inputs, output):
    *tensors, ctx.background, ctx.padding = inputs
    ctx.save_for_backward(*tensors)


@torch.autograd.function.once_differentiable
def _backward(ctx, grad):
    tensors = ctx.saved_tensors
    backward = repeatable(_sample_backward, uv_sample_backward_reference, grad)
    grads = backward(grad, *tensors, ctx.background, ctx.padding)
    return *(None if t is None else g for t, g in zip(tensors, grads, strict=True)), None, None


torch.library.register_autograd("guise::uv_sample", _backward, setup_context=_setup)
