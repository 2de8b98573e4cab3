"""Autocast inside operators that have gradients of their own."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def as_autocast(t: Tensor) -> Tensor:
    """The tensor in autocast's type if autocast is on for its device, else as it is."""
    device = t.device.type
    if t.is_meta or not torch.is_autocast_enabled(device):
        return t
    return t.to(torch.get_autocast_dtype(device))


def full_precision(like: Tensor) -> contextlib.AbstractContextManager:
    """A block without autocast on the tensor's device."""
    if like.is_meta:
        return contextlib.nullcontext()
    return torch.autocast(like.device.type, enabled=False)
