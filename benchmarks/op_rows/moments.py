"""Rows of heatmap_moments: the limit is one read of the logits and one write of the maps."""

import torch

from benchmarks.op_rows.row import Row
from nets import ops
from nets.ops.heatmap_moments import heatmap_moments_reference

N, K, H, W = 16, 30, 128, 128


def formula(logits):
    """The softmax, then every moment as a sum over pixels."""
    h = logits.flatten(2).softmax(-1).view(logits.shape)
    y, x = torch.meshgrid(
        *(2 * torch.arange(n, device=h.device) / n - 1 for n in (H, W)), indexing="ij"
    )
    mean = torch.stack([(h * x).sum((2, 3)), (h * y).sum((2, 3))], -1)
    second = [(h * a * b).sum((2, 3)) for a, b in ((x, x), (x, y), (x, y), (y, y))]
    covariance = torch.stack(second, -1).unflatten(-1, (2, 2))
    return h, mean, covariance - mean[..., :, None] * mean[..., None, :]


ROWS = [
    Row(
        name="heatmap_moments",
        size=f"{N}x{K}x{H}x{W}",
        make=lambda device: (3 * torch.randn(N, K, H, W, device=device),),
        ours=ops.heatmap_moments,
        formula=formula,
        others={"by marginals": heatmap_moments_reference},
        reads=N * K * H * W * 4,
        writes=N * K * H * W * 4,
        grads=(0,),
        bars={"forward formula": 4},
    )
]
