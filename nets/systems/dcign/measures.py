"""What a code knows of the scene, and whether a latent can be set like a renderer's knob.

Pure functions of tensors. Batches of one type, (B, N, ...): in each of the B batches of N pictures
one factor varies. Codes are the means mu, without clamp, (..., D). All in float64 inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

BINS = 20


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation along the last dimension, float64; 0 where one does not vary."""
    a, b = a.double(), b.double()
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    scale = (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    return torch.where(scale > 0, (a * b).sum(-1) / scale.clamp_min(1e-300), 0.0)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of the ranks along the last dimension; equal values share a rank."""
    return pearson(ranks(a), ranks(b))


def ranks(a: Tensor) -> Tensor:
    """Ranks along the last dimension, from 0, float64; equal values get the mean of theirs."""
    rows = a.double().reshape(-1, a.shape[-1])
    result = torch.empty_like(rows)
    for row, out in zip(rows, result, strict=True):
        _, inverse, counts = row.unique(sorted=True, return_inverse=True, return_counts=True)
        last = counts.cumsum(0).double()
        out.copy_((last - (counts + 1) / 2)[inverse])
    return result.view(a.shape)


def within_batch(latent: Tensor, factor: Tensor) -> dict[str, float]:
    """Mean over batches of |r| between latent and factor, both (B, N): "pearson", "spearman"."""
    return {
        "pearson": pearson(latent, factor).abs().mean().item(),
        "spearman": spearman(latent, factor).abs().mean().item(),
    }


def pooled(latent: Tensor, factor: Tensor) -> dict[str, float]:
    """|r| over all pictures together, and r of the two halves of the factor's range, since the
    published azimuth latent jumps at 0: "pearson", "spearman", "negative_half", "positive_half".

    latent, factor  of one shape; halves are signed by the sign of the whole's r, 0 without pictures
    """
    latent, factor = latent.flatten(), factor.flatten()
    whole = pearson(latent, factor)
    result = {"pearson": whole.abs().item(), "spearman": spearman(latent, factor).abs().item()}
    for name, half in (("negative_half", factor < 0), ("positive_half", factor > 0)):
        result[name] = (
            (pearson(latent[half], factor[half]) * whole.sign()).item() if half.any() else 0.0
        )
    return result


class Leakage(NamedTuple):
    """How much each latent moves while one factor does.

    variance  {type: (D,)} mean within-batch variance of each latent in the batches of a type
    active    {type: share of that variance in the latents that own the type}
    relative  {type: (D,)} the variance over that of the latent over all pictures of all types
    own       {type: (n,)} for each latent of the type, the share of its own type in `relative`
    """

    variance: dict[str, Tensor]
    active: dict[str, float]
    relative: dict[str, Tensor]
    own: dict[str, Tensor]


def leakage(codes: Mapping[str, Tensor], owners: Mapping[str, slice]) -> Leakage:
    """Leakage between the latents. codes {type: (B, N, D)}; owners {type: its latents}."""
    variance = {t: c.double().var(1, unbiased=False).mean(0) for t, c in codes.items()}
    everything = torch.cat([c.double().flatten(0, 1) for c in codes.values()])
    total = everything.var(0, unbiased=False).clamp_min(1e-12)
    relative = {t: v / total for t, v in variance.items()}
    summed = torch.stack(list(relative.values())).sum(0).clamp_min(1e-12)
    return Leakage(
        variance,
        {t: (v[owners[t]].sum() / v.sum().clamp_min(1e-12)).item() for t, v in variance.items()},
        relative,
        {t: (r / summed)[owners[t]] for t, r in relative.items()},
    )


class LatentMap(NamedTuple):
    """Which value of a latent stands for a value of its factor: piecewise linear through knots.

    factor, latent  (K,) float64, factor rising
    """

    factor: Tensor
    latent: Tensor

    def __call__(self, factor: Tensor) -> Tensor:
        """Float32 values of the latent for a factor of any shape; level beyond the ends."""
        if len(self.factor) == 1:
            return self.latent.float().expand(factor.shape).to(factor.device)
        x, y = self.factor, self.latent
        wanted = factor.detach().double().cpu().clamp(x[0].item(), x[-1].item())
        right = torch.searchsorted(x, wanted.contiguous()).clamp(1, len(x) - 1)
        share = (wanted - x[right - 1]) / (x[right] - x[right - 1])
        value = y[right - 1] + share * (y[right] - y[right - 1])
        return value.float().to(factor.device)


def fit_map(factor: Tensor, latent: Tensor, bins: int = BINS) -> LatentMap:
    """The medians of the latent, and the means of the factor, in equal bins of the factor's range.

    factor, latent  of one shape, of training pictures; bins without pictures are left out
    """
    factor, latent = factor.flatten().double().cpu(), latent.flatten().double().cpu()
    if factor.shape != latent.shape or not len(factor):
        raise ValueError(
            f"fit_map: latent must have the shape of factor and hold pictures, got "
            f"{list(latent.shape)} and {list(factor.shape)}"
        )
    low, high = factor.min(), factor.max()
    place = ((factor - low) / (high - low).clamp_min(1e-12) * bins).long().clamp(0, bins - 1)
    inside = [place == i for i in range(bins)]
    knots = [(factor[i].mean(), latent[i].median()) for i in inside if i.any()]
    return LatentMap(*(torch.stack(column) for column in zip(*knots, strict=True)))


def set_latent(code: Tensor, index: int, value: Tensor) -> Tensor:
    """The codes (N, D) with one latent replaced by values (N,)."""
    result = code.clone()
    result[:, index] = value.to(code)
    return result


def mean_squared_error(pictures: Tensor, truth: Tensor) -> Tensor:
    """Per picture, (N,) float64, in grey values [0, 1]; pictures and truth (N, 1, H, W)."""
    if pictures.shape != truth.shape:
        raise ValueError(
            f"mean_squared_error: truth must be {list(pictures.shape)}, got {list(truth.shape)}"
        )
    return (pictures.double() - truth.double()).square().flatten(1).mean(1)
