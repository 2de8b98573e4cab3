"""Gaussian-shaped maps around landmarks, and their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nets.ops._library import define

KINDS = ("rational", "exponential")
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def gaussian_heatmaps(
    mean: Tensor, covariance: Tensor, size: tuple[int, int], kind: str = "rational"
) -> Tensor:
    """A map for each landmark: 1 at its mean, falling off with its covariance.

    mean        [N, K, 2]  (x, y); pixel i of n lies at -1 + 2 i / n, so the frame is [-1, 1)
    covariance  [N, K, 2, 2], or broadcastable to it such as [1, 1, 2, 2]; x first, y second; its
                symmetric part counts. Nothing is added: a singular one gives NaN or infinities.
    size        (H, W) of the maps, pixels
    kind        "rational" 1 / (1 + q) or "exponential" exp(-q / 2), where q is the squared
                Mahalanobis distance d^T covariance^-1 d of a pixel from the mean
    returns     [N, K, H, W] in the dtype of `mean`; differentiable once in mean and covariance

    float16 and bfloat16 are computed in float32; under autocast the result is float32. Raises
    TypeError or ValueError on a wrong dtype, shape or kind. Lorenz et al. 2019, eq. 4.
    """
    _check("gaussian_heatmaps", mean, covariance, size, kind)
    covariance = covariance.expand(*mean.shape, 2)
    h, w = size
    return _heatmaps(mean, covariance, h, w, KINDS.index(kind))


def gaussian_heatmaps_reference(
    mean: Tensor, covariance: Tensor, h: int, w: int, kind: int
) -> Tensor:
    """The definition, in stock torch; `kind` is an index into KINDS."""
    u, _, _, px, rest = _parts(mean, covariance, h, w)
    return _values(u, px, rest, kind).to(mean.dtype)


def _parts(mean: Tensor, covariance: Tensor, h: int, w: int) -> tuple[Tensor, ...]:
    """u [N, K, H, W], dy [N, K, H, 1], skew, px, py dy^2, of which q = px u^2 + py dy^2."""
    mean, covariance = computed(mean), computed(covariance)[..., None, None]
    dx = (grid(w, mean) - mean[..., :1])[:, :, None, :]
    dy = (grid(h, mean) - mean[..., 1:])[:, :, :, None]
    xx, yy = covariance[:, :, 0, 0], covariance[:, :, 1, 1]
    xy = (covariance[:, :, 0, 1] + covariance[:, :, 1, 0]) / 2
    skew = xy / yy
    return dx - skew * dy, dy, skew, yy / (xx * yy - xy * xy), dy**2 / yy


def _values(u: Tensor, px: Tensor, rest: Tensor, kind: int) -> Tensor:
    q = px * u**2 + rest
    return 1 / (1 + q) if kind == 0 else torch.exp(-q / 2)


def grid(n: int, like: Tensor) -> Tensor:
    """Coordinates of n pixels, -1 + 2 i / n, rounded once."""
    return (2 * torch.arange(n, dtype=like.dtype, device=like.device) - n) / n


def computed(t: Tensor) -> Tensor:
    """The tensor in the type that operators compute in: float32 for the 16-bit types."""
    return t if t.dtype == torch.float64 else t.float()


def _fake(mean: Tensor, covariance: Tensor, h: int, w: int, kind: int) -> Tensor:
    return mean.new_empty(mean.shape[0], mean.shape[1], h, w)


def gaussian_heatmaps_backward_reference(
    grad: Tensor, mean: Tensor, covariance: Tensor, kind: int
) -> tuple[Tensor, Tensor]:
    """Gradients of mean and covariance.

    They are sums of s v and s v v^T, where s = grad dvalue/dq and v = (e, f) = covariance^-1 d.
    """
    u, dy, skew, px, rest = _parts(mean, covariance, *grad.shape[2:])
    value = _values(u, px, rest, kind)
    s = computed(grad) * (-(value**2) if kind == 0 else value / -2)
    e = px * u
    f = dy / computed(covariance)[..., 1, 1, None, None] - skew * e
    by_mean = -2 * torch.stack([(s * e).sum((2, 3)), (s * f).sum((2, 3))], -1)
    ef = (s * e * f).sum((2, 3))
    ee, ff = (s * e * e).sum((2, 3)), (s * f * f).sum((2, 3))
    by_covariance = -torch.stack([ee, ef, ef, ff], -1).unflatten(-1, (2, 2))
    return by_mean.to(mean.dtype), by_covariance.to(mean.dtype)


def _fake_backward(
    grad: Tensor, mean: Tensor, covariance: Tensor, kind: int
) -> tuple[Tensor, Tensor]:
    return mean.new_empty(mean.shape), covariance.new_empty(covariance.shape)


_heatmaps = define(
    "gaussian_heatmaps(Tensor mean, Tensor covariance, int h, int w, int kind) -> Tensor",
    gaussian_heatmaps_reference,
    _fake,
)
_heatmaps_backward = define(
    "gaussian_heatmaps_backward(Tensor grad, Tensor mean, Tensor covariance, int kind)"
    " -> (Tensor, Tensor)",
    gaussian_heatmaps_backward_reference,
    _fake_backward,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    mean, covariance, _, _, ctx.kind = inputs
    ctx.save_for_backward(mean, covariance)


@torch.autograd.function.once_differentiable
def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_heatmaps_backward(grad, *ctx.saved_tensors, ctx.kind), None, None, None


torch.library.register_autograd("guise::gaussian_heatmaps", _backward, setup_context=_setup)


def _check(name: str, mean: Tensor, covariance: Tensor, size: tuple[int, int], kind: str) -> None:
    if mean.dtype not in FLOATS:
        raise TypeError(f"{name}: mean must be a floating tensor, got {mean.dtype}")
    if mean.ndim != 3 or mean.shape[-1] != 2:
        raise ValueError(f"{name}: mean must be [N, K, 2], got {list(mean.shape)}")
    if covariance.dtype != mean.dtype or covariance.device != mean.device:
        raise TypeError(
            f"{name}: covariance must have mean's dtype and device ({mean.dtype}, {mean.device}), "
            f"got {covariance.dtype}, {covariance.device}"
        )
    want = (*mean.shape, 2)
    fits = covariance.ndim == 4 and all(
        c in (1, m) for c, m in zip(covariance.shape[:2], want, strict=False)
    )
    if not fits or covariance.shape[2:] != (2, 2):
        raise ValueError(
            f"{name}: covariance must be [N, K, 2, 2] = {list(want)}, got {list(covariance.shape)}"
        )
    if len(size) != 2 or size[0] < 1 or size[1] < 1 or size[0] * size[1] >= 2**31:
        raise ValueError(
            f"{name}: size must be (H, W), each at least 1 and fewer than 2^31 pixels in all, "
            f"got {tuple(size)}"
        )
    if kind not in KINDS:
        raise ValueError(f"{name}: kind must be one of {', '.join(KINDS)}, got {kind!r}")
