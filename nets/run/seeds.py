"""Seeds counted from known numbers such as (seed, step), so that nothing random is stored."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def counted_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63) from numbers and names; equal parts give equal seeds everywhere."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded with `counted_seed(*parts)`."""
    return torch.Generator(device).manual_seed(counted_seed(*parts))


def seed_everything(*parts: int | str) -> None:
    """Seed the global generators of torch (all devices), numpy and random."""
    seed = counted_seed(*parts)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
