"""Random numbers by counting: a pure function of (seed, stream, id, field), in any order.

No generator carries a state, so the thousandth image costs as much as the first, and batches,
workers and restarts do not change it. The mixer is the 32-bit xor-shift-multiply hash that
C. Wellons' hash-prospector found (shifts 16, 15, 15); both multipliers stay
below 2^31, so int64 never overflows.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9


def _mix(x):  # a tensor of int64, or an int
    x = (x ^ (x >> 16)) * 0x21F0AAAD & _LOW
    x = (x ^ (x >> 15)) * 0x735A2D97 & _LOW
    return x ^ (x >> 15)


def uniform(seed: int, stream: str, ids: Tensor, count: int) -> Tensor:
    """`count` numbers for each id, uniform in [0, 1): (N, count) float64 on the device of `ids`.

    seed    any int; stream  a name that separates uses of the same id ("pose", "outfit", ...)
    ids     (N,) int64, any value of at least 0
    """
    if ids.ndim != 1 or ids.dtype != torch.int64:
        raise ValueError(
            f"uniform: ids must be an (N,) int64 tensor, got {list(ids.shape)} {ids.dtype}"
        )
    key = 0
    for word in (seed & _LOW, seed >> 32 & _LOW, *stream.encode()):
        key = _mix(key * 31 + word + 1 & _LOW)
    key = _mix(key ^ (ids & _LOW))
    key = _mix(key + _GOLDEN ^ (ids >> 32) & _LOW)
    field = torch.arange(1, count + 1, device=ids.device) * _GOLDEN & _LOW
    return _mix(_mix(key[:, None] + field & _LOW) ^ field).double() / 2**32
