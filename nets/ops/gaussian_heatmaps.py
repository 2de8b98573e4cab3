"""Gaussian-shaped maps around landmarks, and their gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from nets.ops._library import define

KINDS = ("rational", "exponential")
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def gaussian_heatmaps(
    mean: Tensor, covariance: Tensor, size: tuple[int, int], kind: str = "rational"
) -> Tensor:
    """Maps with value 1 at each landmark that fall off with its covariance.

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
    mean_, covariance_ = (computed(t) for t in (mean, covariance))
    dx = grid(w, mean_) - mean_[..., 0, None]  # [N, K, W]
    dy = grid(h, mean_) - mean_[..., 1, None]  # [N, K, H]
    xx, yy = covariance_[..., 0, 0], covariance_[..., 1, 1]
    xy = (covariance_[..., 0, 1] + covariance_[..., 1, 0]) / 2
    det = xx * yy - xy * xy
    u = dx[..., None, :] - (xy / yy)[..., None, None] * dy[..., :, None]
    q = (yy / det)[..., None, None] * u**2 + (dy**2 / yy[..., None])[..., :, None]
    return (1 / (1 + q) if kind == 0 else torch.exp(-q / 2)).to(mean.dtype)


def grid(n: int, like: Tensor) -> Tensor:
    """Coordinates of n pixels, -1 + 2 i / n, rounded once."""
    return (2 * torch.arange(n, dtype=like.dtype, device=like.device) - n) / n


def computed(t: Tensor) -> Tensor:
    """`t` in the dtype that it is computed in: float32 for the 16-bit types."""
    return t if t.dtype == torch.float64 else t.float()


def _fake(mean, covariance, h, w, kind):
    return mean.new_empty(mean.shape[0], mean.shape[1], h, w)


def gaussian_heatmaps_backward_reference(
    grad: Tensor, mean: Tensor, covariance: Tensor, kind: int
) -> tuple[Tensor, Tensor]:
    """Gradients by mean and covariance: autograd through the definition."""
    with torch.enable_grad():
        inputs = [t.detach().requires_grad_() for t in (mean, covariance)]
        maps = gaussian_heatmaps_reference(*inputs, *grad.shape[2:], kind)
        return torch.autograd.grad(maps, inputs, grad)


def _fake_backward(grad, mean, covariance, kind):
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


def _setup(ctx, inputs, output):
    mean, covariance, _, _, ctx.kind = inputs
    ctx.save_for_backward(mean, covariance)


@torch.autograd.function.once_differentiable
def _backward(ctx, grad):
    return *_heatmaps_backward(grad, *ctx.saved_tensors, ctx.kind), None, None, None


torch.library.register_autograd("guise::gaussian_heatmaps", _backward, setup_context=_setup)


def _check(name, mean, covariance, size, kind):
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
