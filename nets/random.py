"""Counter-based random numbers: a pure function of (seed, stream, id, field), in any order.

No generator carries a state. The thousandth image costs as much as the first, and batches, workers
and restarts do not change it. The hash is a 32-bit xor-shift-multiply of C. Wellons'
hash-prospector (shifts 16, 15, 15). Both multipliers are below 2^31, so int64 never overflows.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9
Integers = TypeVar("Integers", int, Tensor)  # an int, or a tensor of int64


def _mix(x: Integers) -> Integers:
    x = (x ^ (x >> 16)) * 0x21F0AAAD & _LOW
    x = (x ^ (x >> 15)) * 0x735A2D97 & _LOW
    return x ^ (x >> 15)


def uniform(seed: int, stream: str, ids: Tensor, count: int) -> Tensor:
    """`count` numbers for each id, uniform in [0, 1): (N, count) float64 on the device of `ids`.

    seed    any int
    stream  a name that separates uses of the same id ("pose", "outfit", ...)
    ids     (N,) int64, 0 or more
    """
    if ids.ndim != 1 or ids.dtype != torch.int64:
        raise ValueError(
            f"uniform: ids must be an (N,) int64 tensor, got {list(ids.shape)} {ids.dtype}"
        )
    key = 0
    for word in (seed & _LOW, seed >> 32 & _LOW, *stream.encode()):
        key = _mix(key * 31 + word + 1 & _LOW)
    keys = _mix(key ^ (ids & _LOW))
    keys = _mix(keys + _GOLDEN ^ (ids >> 32) & _LOW)
    field = torch.arange(1, count + 1, device=ids.device) * _GOLDEN & _LOW
    return _mix(_mix(keys[:, None] + field & _LOW) ^ field).double() / 2**32
