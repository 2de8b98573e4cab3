"""Perspective crops of images, and their gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nets.ops._library import define
from nets.ops.sampling import (
    MAX_PLANE,
    MAX_SIDE,
    check_beside,
    check_image,
    computed,
    lookup,
    lookup_backward,
    repeatable,
)


def perspective_crops(
    image: Tensor, homographies: Tensor, size: int | tuple[int, int], *, fill: float = 0.0
) -> Tensor:
    """P crops of every image: crop pixel (x, y) is the image at homography @ (x, y, 1).

    image         [N, C, H, W]  any floating type and memory layout; differentiable once
    homographies  [N, P, 3, 3]  from a crop's pixel to the image's (x, y), up to scale; pixel
                  centres at the integers, the first at 0. One with a NaN marks a missing crop.
    size          (h, w) of a crop, pixels, or its one side
    fill          value of all pixels of a missing crop
    returns       [N, P, C, h, w] in the type of `image`: bilinear, replicating the image's border,
                  as cv2.warpPerspective with WARP_INVERSE_MAP and BORDER_REPLICATE

    float16 and bfloat16 are computed in float32; under autocast the result is float32. Raises
    TypeError or ValueError on a wrong type, shape, device or size, and on homographies that
    require a gradient: none flows to them.
    """
    check_image("perspective_crops", "image", image)
    check_beside("perspective_crops", "homographies", homographies, image)
    h, w = _check(image, homographies, size)
    return _crops(image, homographies.to(computed(image.dtype)), h, w, float(fill))


def _check(image: Tensor, homographies: Tensor, size: int | tuple[int, int]) -> tuple[int, int]:
    n = image.shape[0]
    shape = list(homographies.shape)
    if homographies.ndim != 4 or shape[0] != n or shape[2:] != [3, 3]:
        raise ValueError(
            f"perspective_crops: homographies must be [N, P, 3, 3] with N = {n}, got {shape}"
        )
    if homographies.requires_grad:
        raise ValueError(
            "perspective_crops: homographies must not require a gradient, none flows to them; "
            "got requires_grad=True (detach them)"
        )
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < 1 or max(pair) >= MAX_SIDE or pair[0] * pair[1] >= MAX_PLANE:
        raise ValueError(
            "perspective_crops: size must be a side or (h, w), at least 1 and fewer than 2^30 "
            f"pixels, got {size}"
        )
    return pair


def perspective_crops_reference(
    image: Tensor, views: Tensor, h: int, w: int, fill: float
) -> Tensor:
    """The definition, in stock torch."""
    n, p, c = image.shape[0], views.shape[1], image.shape[1]
    x, y, missing = _positions(views, h, w)
    crops = lookup(image.to(views.dtype), x, y, "border").view(n, c, p, h, w).transpose(1, 2)
    return torch.where(missing, fill, crops).to(image.dtype).contiguous()


def perspective_crops_backward_reference(
    grad: Tensor, views: Tensor, height: int, width: int
) -> Tensor:
    n, _, c, h, w = grad.shape
    x, y, missing = _positions(views, h, w)
    grad_ = torch.where(missing, 0, grad.to(views.dtype)).transpose(1, 2).flatten(2)
    image = grad_.new_zeros(n, c, height, width)  # its values do not matter to its gradient
    return lookup_backward(grad_, image, x, y, "border")[0].to(grad.dtype)


def _positions(views: Tensor, h: int, w: int) -> tuple[Tensor, Tensor, Tensor]:
    """Positions that the pixels of all crops read, [N, P h w], and which crops are missing."""
    rows, columns = (torch.arange(n, dtype=views.dtype, device=views.device) for n in (h, w))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)]).flatten(1)  # [3, h w]
    u, v, scale = (views @ pixels).unbind(2)
    missing = views.isnan().flatten(2).any(2)[..., None, None, None]
    return (u / scale).flatten(1), (v / scale).flatten(1), missing


_crops = define(
    "perspective_crops(Tensor image, Tensor homographies, int h, int w, float fill) -> Tensor",
    perspective_crops_reference,
    lambda image, views, h, w, fill: image.new_empty(*views.shape[:2], image.shape[1], h, w),
)
_crops_backward = define(
    "perspective_crops_backward(Tensor grad, Tensor homographies, int height, int width) -> Tensor",
    perspective_crops_backward_reference,
    lambda grad, views, h, w: grad.new_empty(grad.shape[0], grad.shape[2], h, w),
    autocast=False,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    image, views, *_ = inputs
    ctx.save_for_backward(views)
    ctx.size = image.shape[2:]


@torch.autograd.function.once_differentiable
def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (views,) = ctx.saved_tensors
    backward = repeatable(_crops_backward, perspective_crops_backward_reference, grad)
    return backward(grad, views, *ctx.size), None, None, None, None


torch.library.register_autograd("guise::perspective_crops", _backward, setup_context=_setup)
