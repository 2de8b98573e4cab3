"""Softmax of landmark logits with the mean and covariance of every map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nets.ops._library import define
from nets.ops.gaussian_heatmaps import FLOATS, computed, grid


def heatmap_moments(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax of each map over its pixels, and the mean and covariance of its mass.

    logits   [N, K, H, W]  of any size: the maximum is taken off first
    returns  map [N, K, H, W], which sums to 1 over a map's pixels; mean [N, K, 2] (x, y) and
             covariance [N, K, 2, 2] (x first) of a pixel drawn from it, in coordinates where pixel
             i of n lies at -1 + 2 i / n; all in the dtype of `logits` and differentiable once

    Nothing is added to the covariance: a map on a single pixel has covariance 0. A map with a NaN
    or +inf, or of nothing but -inf, is NaN. float16 and bfloat16 are computed in float32; under
    autocast the results are float32. Raises TypeError or ValueError on a wrong dtype or shape.
    Lorenz et al. 2019, section 3.2.
    """
    if logits.dtype not in FLOATS:
        raise TypeError(f"heatmap_moments: logits must be a floating tensor, got {logits.dtype}")
    if logits.ndim != 4 or not 1 <= logits.shape[2] * logits.shape[3] < 2**31:
        raise ValueError(
            "heatmap_moments: logits must be [N, K, H, W] with 1 to 2^31 - 1 pixels a map, got "
            f"{list(logits.shape)}"
        )
    return _moments(logits)


def heatmap_moments_reference(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The definition, in stock torch; a centred covariance loses no digits."""
    map_ = computed(logits).flatten(2).softmax(-1).view(logits.shape)
    along_x, along_y = map_.sum(2), map_.sum(3)  # [N, K, W], [N, K, H]
    x, y = grid(logits.shape[3], map_), grid(logits.shape[2], map_)
    mean = torch.stack([(along_x * x).sum(-1), (along_y * y).sum(-1)], -1)
    dx, dy = x - mean[..., :1], y - mean[..., 1:]
    xx, yy = (along_x * dx**2).sum(-1), (along_y * dy**2).sum(-1)
    xy = (dy[..., None] * dx[..., None, :] * map_).sum((2, 3))
    covariance = torch.stack([xx, xy, xy, yy], -1).unflatten(-1, (2, 2))
    dtype = logits.dtype
    return map_.to(dtype), mean.to(dtype), covariance.to(dtype)


def heatmap_moments_backward_reference(
    grad_map: Tensor | None, grad_mean: Tensor, grad_covariance: Tensor, map_: Tensor, mean: Tensor
) -> Tensor:
    """Gradient of the logits: h (s - sum h s), s the gradient of the map h up to a constant."""
    dtype = map_.dtype
    grad_mean, grad_covariance, map_, mean = (
        computed(t) for t in (grad_mean, grad_covariance, map_, mean)
    )
    dx = (grid(map_.shape[3], map_) - mean[..., :1])[:, :, None, :]
    dy = (grid(map_.shape[2], map_) - mean[..., 1:])[:, :, :, None]
    by_x, by_y = grad_mean[..., None, None, :].unbind(-1)
    xx, yy = (grad_covariance[..., i, i, None, None] for i in (0, 1))
    xy = (grad_covariance[..., 0, 1] + grad_covariance[..., 1, 0])[..., None, None]
    slope = (by_y + yy * dy) * dy + dx * (by_x + xy * dy + xx * dx)
    if grad_map is not None:
        slope = slope + computed(grad_map)
    return (map_ * (slope - (map_ * slope).sum((2, 3), keepdim=True))).to(dtype)


def _fake(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    n, k = logits.shape[:2]
    return logits.new_empty(logits.shape), logits.new_empty(n, k, 2), logits.new_empty(n, k, 2, 2)


def _fake_backward(
    grad_map: Tensor | None, grad_mean: Tensor, grad_covariance: Tensor, map_: Tensor, mean: Tensor
) -> Tensor:
    return map_.new_empty(map_.shape)


_moments = define(
    "heatmap_moments(Tensor logits) -> (Tensor, Tensor, Tensor)", heatmap_moments_reference, _fake
)
_moments_backward = define(
    "heatmap_moments_backward(Tensor? grad_map, Tensor grad_mean, Tensor grad_covariance,"
    " Tensor map, Tensor mean) -> Tensor",
    heatmap_moments_backward_reference,
    _fake_backward,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    map_, mean, _ = output
    ctx.save_for_backward(map_, mean)
    ctx.set_materialize_grads(False)  # an unused map costs no pass over zeros


@torch.autograd.function.once_differentiable
def _backward(
    ctx: Any, grad_map: Tensor | None, grad_mean: Tensor | None, grad_covariance: Tensor | None
) -> Tensor:
    map_, mean = ctx.saved_tensors
    n, k = map_.shape[:2]
    if grad_mean is None:
        grad_mean = map_.new_zeros(n, k, 2)
    if grad_covariance is None:
        grad_covariance = map_.new_zeros(n, k, 2, 2)
    return _moments_backward(grad_map, grad_mean, grad_covariance, map_, mean)


torch.library.register_autograd("guise::heatmap_moments", _backward, setup_context=_setup)
