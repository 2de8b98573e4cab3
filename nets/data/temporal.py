"""Which frame of a clip goes with which: the partner that shows another pose of the same thing."""

from __future__ import annotations

import torch
from torch import Tensor

NEAREST, FARTHEST = 3, 40  # positions ahead, the upper end exclusive


def temporal_offset(count: Tensor, position: Tensor, drawn: Tensor) -> Tensor:
    """How many positions the partner lies ahead, (N,) int64; negative: behind.

    count     (N,) int64, frames of the clip; position  (N,) int64, of the frame, from 0
    drawn     (N,) uniform in [0, 1)
    Uniform on 3 .. min(40, count - position) - 1; for the last three frames of a clip the same
    draw from 3 .. 39 backwards, no farther than the first frame. So a partner of a short clip may
    be nearer than 3, and the frame itself in a clip of one frame.
    """
    left = count - position
    ahead = left.clamp(max=FARTHEST) - NEAREST
    forward = NEAREST + (drawn * ahead).long()
    backward = NEAREST + (drawn * (FARTHEST - NEAREST)).long()
    return torch.where(left > NEAREST, forward, -torch.minimum(position, backward))
