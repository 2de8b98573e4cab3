"""Instance norm without parameters, fused with the leaky ReLU behind it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nets.ops._library import define, kernel


def instance_norm(
    x: Tensor, slope: float = 1.0, eps: float = 1e-5, inplace: bool = False
) -> Tensor:
    """leaky_relu of x normalised: each channel of each image has mean 0 and (biased) variance 1.

    x        [N, C, H, W]  any floating type and layout
    slope    of the leaky ReLU, 0 to 1; 1: none, 0: ReLU
    eps      added to the variance
    inplace  the result may overwrite x, for example the fresh result of a convolution
    returns  [N, C, H, W] of x's type, differentiable once

    Statistics are in float32, or in float64 for float64. The kernels serve channels_last: on the
    CPU float32 and bfloat16 with a multiple of 4 channels, on CUDA float16 as well and any number
    of channels. The backward pass keeps the result. With
    slope 0 it also keeps the negative part in 16 bits, of which only a mean enters the gradient.
    Raises ValueError for channels of a single pixel, which have no variance. Ulyanov, Vedaldi,
    Lempitsky, arXiv 1607.08022, eq. 1.
    """
    if x.shape[2] * x.shape[3] == 1:
        raise ValueError(
            f"instance_norm: x must have more than one pixel a channel, got {list(x.shape)}"
        )
    if torch.compiler.is_exporting():  # exported graphs know no function with its own gradient
        return F.leaky_relu(F.instance_norm(x, eps=eps), slope)
    inplace = inplace and not torch.compiler.is_compiling() and not x._is_view()
    return _Norm.apply(x, slope, eps, inplace)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float, eps: float, inplace: bool) -> Tensor:
        y = x if inplace else torch.empty_like(x)
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        scale = torch.empty((*x.shape[:2], 1, 1), dtype=wide, device=x.device)
        half = torch.float16 if x.dtype == torch.float32 else x.dtype
        kept = torch.empty_like(x, dtype=half) if slope == 0 else None
        (_norm if _serves(x) else norm_reference)(x, y, scale, kept, slope, eps)
        if inplace:
            ctx.mark_dirty(x)
        ctx.slope = slope
        ctx.save_for_backward(y, scale, kept)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, scale, kept = ctx.saved_tensors
        same = grad.dtype == y.dtype and _serves(y) and _serves(grad)
        back = _norm_backward if same else norm_backward_reference
        return back(grad, y, scale, kept, ctx.slope), None, None, None


def _serves(x: Tensor) -> bool:
    on_cpu = x.device.type == "cpu"
    return (
        not torch.compiler.is_compiling()
        and x.dtype in (torch.float32, torch.bfloat16, *([] if on_cpu else [torch.float16]))
        and (x.shape[1] % 4 == 0 or not on_cpu)
        and x.is_contiguous(memory_format=torch.channels_last)
        and kernel("instance_norm", x.device.type) == "compiled"
    )


def norm_reference(
    x: Tensor, y: Tensor, scale: Tensor, kept: Tensor | None, slope: float, eps: float
) -> None:
    """The definition, in stock torch: writes y, 1 / deviation and, if asked, min(normal, 0)."""
    real = x.to(scale.dtype)
    part = torch.sub(real, real.mean((2, 3), keepdim=True), out=_room(y, real))
    scale.copy_(part.square().mean((2, 3), keepdim=True).add_(eps).rsqrt_())
    part.mul_(scale)
    if kept is not None:
        kept.copy_(part.clamp(max=0))
    if slope != 1:
        F.leaky_relu_(part, slope)
    if part is not y:
        y.copy_(part)


def _room(result: Tensor, like: Tensor) -> Tensor | None:
    """`result` as memory to compute in, unless its type differs or torch.compile is tracing."""
    return result if result.dtype == like.dtype and not torch.compiler.is_compiling() else None


def norm_backward_reference(
    grad: Tensor, y: Tensor, scale: Tensor, kept: Tensor | None, slope: float
) -> Tensor:
    """Gradient of x, from that of the result and what the forward pass kept."""
    result = torch.empty_like(y, dtype=grad.dtype)
    g, normal, wide = grad, y, scale.dtype
    if slope != 1:
        g = torch.ops.aten.leaky_relu_backward(g, normal, slope, True)
    g, normal = g.to(wide), normal.to(wide)
    if slope not in (0, 1):
        normal = F.leaky_relu(normal, 1 / slope)
    along = (g * normal).mean((2, 3), keepdim=True)
    if kept is not None:
        normal = normal + kept
    mean = g.mean((2, 3), keepdim=True)
    part = torch.sub(g, mean, out=_room(result, g))
    part.addcmul_(normal, along, value=-1).mul_(scale)
    return part if part is result else result.copy_(part)


_norm = define(
    "instance_norm(Tensor x, Tensor(a!) y, Tensor(b!) scale, Tensor(c!)? kept, float slope, "
    "float eps) -> ()",
    norm_reference,
    lambda x, y, scale, kept, slope, eps: None,
    autocast=False,
    vmap=False,
)
_norm_backward = define(
    "instance_norm_backward(Tensor grad, Tensor y, Tensor scale, Tensor? kept, float slope) "
    "-> Tensor",
    norm_backward_reference,
    lambda grad, y, scale, kept, slope: torch.empty_like(y, dtype=grad.dtype),
    autocast=False,
    vmap=False,
)
