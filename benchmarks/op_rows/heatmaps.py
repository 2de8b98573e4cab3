"""Rows of gaussian_heatmaps: the limit is one write of the maps."""

import torch

from benchmarks.op_rows.row import Row
from nets import ops

N, K, H, W = 16, 30, 128, 128
BARS = {"forward formula": 40, "forward compiled": 30, "floor": 1.7, "backward formula": 3}


def make(device):
    a = torch.randn(N, K, 2, 2, device=device)
    covariance = 0.02 * a @ a.mT + 0.02 * torch.eye(2, device=device)
    return torch.rand(N, K, 2, device=device) * 2 - 1, covariance


def formula(mean, covariance, kind="rational"):
    """d^T covariance^-1 d of every pixel, as in the definition."""
    x, y = (2 * torch.arange(n, device=mean.device) / n - 1 for n in (W, H))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)  # [H, W, 2]
    d = grid - mean[:, :, None, None]
    q = (d @ torch.linalg.inv(covariance)[:, :, None] * d).sum(-1)
    return 1 / (1 + q) if kind == "rational" else torch.exp(-q / 2)


def by_hand(mean, covariance, kind="rational"):
    """The same multiplied out, with x and y separate as long as possible."""
    dx = (2 * torch.arange(W, device=mean.device) / W - 1 - mean[..., :1])[:, :, None, :]
    dy = (2 * torch.arange(H, device=mean.device) / H - 1 - mean[..., 1:])[:, :, :, None]
    xx, xy, yy = (covariance[..., i, j, None, None] for i, j in ((0, 0), (0, 1), (1, 1)))
    q = (yy * dx**2 - 2 * xy * dx * dy + xx * dy**2) / (xx * yy - xy**2)
    return 1 / (1 + q) if kind == "rational" else torch.exp(-q / 2)


def row(kind):
    return Row(
        name=f"gaussian_heatmaps {kind}",
        size=f"{N}x{K}x{H}x{W}",
        make=make,
        ours=lambda mean, covariance: ops.gaussian_heatmaps(mean, covariance, (H, W), kind),
        formula=lambda mean, covariance: formula(mean, covariance, kind),
        others={"multiplied out": lambda mean, covariance: by_hand(mean, covariance, kind)},
        reads=N * K * 6 * 4,
        writes=N * K * H * W * 4,
        grads=(0, 1),
        bars=BARS if kind == "rational" else {},
    )


ROWS = [row("rational"), row("exponential")]
