"""Bilinear lookup at pixel positions in stock torch: the definition that the warps share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Axis = list[tuple[Tensor, Tensor, Tensor, Tensor]]
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
PADDINGS = ("zeros", "border")
MAX_SIDE, MAX_PLANE = 2**24, 2**30  # exact float positions, 32-bit offsets within a plane


def lookup(image: Tensor, x: Tensor, y: Tensor, padding: str) -> Tensor:
    """Values of an image between its pixels.

    image    [N, C, H, W]
    x, y     [N, Q]  positions in pixels: the first pixel's centre is 0, the last one's W - 1
    padding  "zeros": 0 surrounds the image; "border": positions are clamped to it. A position that
             is NaN reads the padding: 0, or the border at 0.
    returns  [N, C, Q]
    """
    flat = image.flatten(2)
    out = image.new_zeros(())
    for index, inside, weight, _ in _taps(image, x, y, padding):
        value = flat.gather(2, index[:, None].expand(-1, image.shape[1], -1))
        out = out + torch.where(inside[:, None], value, 0) * weight[:, None]
    return out


def lookup_backward(
    grad: Tensor, image: Tensor, x: Tensor, y: Tensor, padding: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `lookup` by image, x and y, given `grad` [N, C, Q]; sums in a fixed order."""
    n, c, h, w = image.shape
    flat = image.flatten(2)
    sums = torch.zeros(image.numel(), dtype=grad.dtype, device=grad.device)
    planes = torch.arange(n * c, device=grad.device).view(n, c, 1) * (h * w)
    gx = gy = grad.new_zeros(())
    for index, inside, weight, (dx, dy) in _taps(image, x, y, padding):
        value = torch.where(inside[:, None], flat.gather(2, index[:, None].expand(-1, c, -1)), 0)
        along = (grad * value).sum(1)
        gx, gy = gx + along * dx, gy + along * dy
        part = torch.where(inside[:, None], grad * weight[:, None], 0)
        # One axis: the form of scatter_add_ that is deterministic on CUDA when torch is asked.
        sums.scatter_add_(0, (planes + index[:, None]).flatten(), part.flatten())
    return sums.view_as(image), gx, gy


def _taps(
    image: Tensor, x: Tensor, y: Tensor, padding: str
) -> list[tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]]:
    """The four pixels around each position: index in the plane, inside, weight, its derivatives."""
    h, w = image.shape[2:]
    xs, ys = _axis(x, w, padding), _axis(y, h, padding)
    return [
        (j * w + i, inside_i & inside_j, u * v, (du * v, u * dv))
        for j, inside_j, v, dv in ys
        for i, inside_i, u, du in xs
    ]


def _axis(x: Tensor, n: int, padding: str) -> Axis:
    """The two pixels around each position: index, inside, weight, derivative of the weight."""
    lo, hi = (-2, n) if padding == "zeros" else (0, n - 1)
    slope = ((x > lo) & (x < hi)).to(x.dtype)  # border padding: no slope where it clamps
    x = torch.where(x > lo, x, lo)  # NaN is not above
    x = torch.where(x < hi, x, hi)
    first = x.floor()
    i, w = first.long(), x - first
    inside = [(i + k >= 0) & (i + k < n) for k in (0, 1)]
    if padding == "border":
        inside[1] = torch.ones_like(inside[1])
    return [
        (i.clamp(0, n - 1), inside[0], 1 - w, -slope),
        ((i + 1).clamp(0, n - 1), inside[1], w, slope),
    ]


def computed(dtype: torch.dtype) -> torch.dtype:
    """The type that an operator computes in: float32 for the 16-bit types, else the type itself."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def repeatable(operator: Callable, reference: Callable, like: Tensor) -> Callable:
    """The reference on CUDA under deterministic algorithms, else the operator (atomic sums)."""
    exact = like.is_cuda and torch.are_deterministic_algorithms_enabled()
    return reference if exact else operator


def check_image(name: str, argument: str, image: Tensor) -> None:
    """Raises unless the image is floating, [N, C, H, W] and of a size that the kernels take."""
    if image.dtype not in FLOATS:
        raise TypeError(f"{name}: {argument} must be a floating tensor, got {image.dtype}")
    if image.ndim != 4:
        raise ValueError(f"{name}: {argument} must be [N, C, H, W], got {list(image.shape)}")
    h, w = image.shape[2:]
    if h < 1 or w < 1 or max(h, w) >= MAX_SIDE or h * w >= MAX_PLANE:
        raise ValueError(
            f"{name}: {argument} must have 1 to 2^24 - 1 pixels a side and fewer than 2^30 a "
            f"plane, got {h} x {w}"
        )


def check_beside(name: str, argument: str, tensor: Tensor, image: Tensor) -> None:
    """Raises unless the tensor is floating and on the image's device."""
    if tensor.dtype not in FLOATS:
        raise TypeError(f"{name}: {argument} must be a floating tensor, got {tensor.dtype}")
    if tensor.device != image.device:
        raise ValueError(f"{name}: {argument} must be on {image.device}, got {tensor.device}")


def check_padding(name: str, padding: str) -> None:
    """Raises unless the padding is one of PADDINGS."""
    if padding not in PADDINGS:
        raise ValueError(f"{name}: padding must be one of {', '.join(PADDINGS)}, got {padding!r}")
