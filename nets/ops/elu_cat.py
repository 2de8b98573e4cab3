"""ELU of one or two concatenated tensors, in one pass forward and one backward."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nets.ops._library import define

LEAST = 16384  # elements; below, a call costs more than it saves


def elu_cat(a: Tensor, b: Tensor | None = None) -> Tensor:
    """elu(concat[a, b]) along the channels, those of `a` first.

    a, b     [N, A, H, W], [N, B, H, W]  any floating type, one for both; without `b`: ELU of `a`
    returns  [N, A + B, H, W], channels_last where `a` is; differentiable once in both

    The kernel makes one pass on the CPU. Torch's own operators serve small and float16 tensors and
    other devices. The backward pass keeps the result only, from which the derivative follows.
    Raises TypeError or ValueError where types, devices or sizes differ. Clevert, Unterthiner,
    Hochreiter 2016, eq. 15, with alpha 1.
    """
    alone = b is None
    if b is None:
        b = a.new_empty((*a.shape[:1], 0, *a.shape[2:]))
    if a.dtype != b.dtype or a.device != b.device or not a.is_floating_point():
        raise TypeError(
            f"elu_cat: a and b must have one floating dtype and device, got {a.dtype} on "
            f"{a.device} and {b.dtype} on {b.device}"
        )
    if a.ndim != 4 or b.ndim != 4 or a.shape[::2] != b.shape[::2] or a.shape[3] != b.shape[3]:
        raise ValueError(
            "elu_cat: a and b must be [N, A, H, W] and [N, B, H, W], "
            f"got {list(a.shape)} and {list(b.shape)}"
        )
    if torch.compiler.is_exporting():  # the choice below would bind the batch size
        return F.elu(a if alone else torch.cat([a, b], dim=1))
    small = a.numel() + b.numel() < LEAST
    if a.device.type != "cpu" or small or a.dtype == torch.float16:
        return F.elu(a) if alone else F.elu(torch.cat([a, b], dim=1), inplace=True)
    last = not a.is_contiguous() and a.is_contiguous(memory_format=torch.channels_last)
    return _elu_cat(a, b, last)


def _laid(t: Tensor, last: bool) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def elu_cat_reference(a: Tensor, b: Tensor, last: bool) -> Tensor:
    """The definition, in stock torch."""
    return _laid(F.elu(torch.cat([a, b], dim=1), inplace=True), last)


def elu_cat_backward_reference(
    grad: Tensor, value: Tensor, channels: int, last: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of a and b, from that of the result and the result itself."""
    both = torch.where(value > 0, grad, grad * (value + 1))
    by_a, by_b = both.tensor_split([channels], dim=1)
    return _laid(by_a, last).clone(), _laid(by_b, last).clone()


def _empty(like: Tensor, channels: int, last: bool) -> Tensor:
    shape = (like.shape[0], channels, *like.shape[2:])
    form = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, memory_format=form, dtype=like.dtype, device=like.device)


_elu_cat = define(
    "elu_cat(Tensor a, Tensor b, bool last) -> Tensor",
    elu_cat_reference,
    lambda a, b, last: _empty(a, a.shape[1] + b.shape[1], last),
    autocast=False,
)
_backward_of = define(
    "elu_cat_backward(Tensor grad, Tensor value, int channels, bool last) -> (Tensor, Tensor)",
    elu_cat_backward_reference,
    lambda grad, value, channels, last: (
        _empty(value, channels, last),
        _empty(value, value.shape[1] - channels, last),
    ),
    autocast=False,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(output)
    ctx.channels, ctx.last = inputs[0].shape[1], inputs[2]


@torch.autograd.function.once_differentiable
def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (value,) = ctx.saved_tensors
    return *_backward_of(grad, value, ctx.channels, ctx.last), None


torch.library.register_autograd("guise::elu_cat", _backward, setup_context=_setup)
