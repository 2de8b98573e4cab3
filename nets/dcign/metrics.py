"""Measures of a code: correlation, leakage, decoding, recognition, and maps of latents.

All are pure functions of tensors and compute in float64. Codes (..., D) are the means mu, without
clamp. Batches of one type are (B, N, ...): one factor varies in each of the B batches of N images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

BINS = 20  # equal bins of a factor's or latent's range
TURN = 2 * math.pi


class BatchScores(TypedDict):
    """Scores, codes and labels of a test batch, on the CPU."""

    kind: int  # number of its type
    batch: int  # its number within the type
    count: int  # N, its images
    sums: Tensor  # (4,) float64, over the images: lower bound, reconstruction, KL, squared error
    mu: Tensor  # (N, D) float32, means of the codes
    labels: dict[str, Tensor]  # factor -> (N,) radians; only known factors


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation along the last dimension, float64; 0 if one side is constant."""
    a, b = a.double(), b.double()
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    scale = (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    return torch.where(scale > 0, (a * b).sum(-1) / scale.clamp_min(1e-300), 0.0)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's correlation along the last dimension, float64; equal values share a rank."""
    return pearson(ranks(a), ranks(b))


def ranks(a: Tensor) -> Tensor:
    """Ranks along the last dimension, from 0, float64; equal values get their mean rank."""
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


def is_full_turn(factor: Tensor, bins: int = BINS) -> bool:
    """True if angles in radians fill every one of `bins` equal parts of the circle."""
    parts = (factor.double().flatten() / TURN * bins).floor().long() % bins
    return len(parts.unique()) == bins


def columns(factor: Tensor, turns: bool) -> Tensor:
    """(..., 2) float64 cosine and sine of a factor (...) that turns fully; else (..., 1)."""
    factor = factor.double()
    return torch.stack([factor.cos(), factor.sin()] if turns else [factor], -1)


def multiple_correlation(latents: Tensor, factor: Tensor, turns: bool) -> Tensor:
    """Multiple correlation of a factor (..., N) with latents (..., N, n): (...) float64.

    The root of the mean, over the `columns` of the factor, of R^2 of linear regressions from all
    latents. With one latent and a factor that does not turn it is |r|. A constant counts as 0.
    """
    x, y = latents.double(), columns(factor, turns)
    x, y = (t - t.mean(-2, keepdim=True) for t in (x, y))
    explained = (x @ (torch.linalg.pinv(x, rtol=1e-9) @ y)).square().sum(-2)
    total = y.square().sum(-2)
    shares = torch.where(total > 0, explained / total.clamp_min(1e-300), 0.0)
    return shares.mean(-1).clamp(0, 1).sqrt()


def pooled(latent: Tensor, factor: Tensor) -> dict[str, float]:
    """|r| over all images: "pearson" and "spearman"; r of "negative_half" and "positive_half".

    latent, factor  of one shape
    The halves of the factor's range are reported since the published azimuth latent jumps at 0.
    Their r is multiplied by the sign of the r over all images; it is 0 for a half without images.
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
    """Variance of each latent while one factor changes.

    variance  {type: (D,)} mean within-batch variance of each latent in the batches of a type
    active    {type: share of this variance in the latents of the type}
    relative  {type: (D,)} this variance divided by the latent's variance over all images
    own       {type: (n,)} share of the own type in `relative`, for each latent of the type
    """

    variance: dict[str, Tensor]
    active: dict[str, float]
    relative: dict[str, Tensor]
    own: dict[str, Tensor]


def leakage(codes: Mapping[str, Tensor], owners: Mapping[str, slice]) -> Leakage:
    """Leakage between the latents, from codes {type: (B, N, D)} and owners {type: its latents}."""
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
    """Piecewise linear map from a factor to the values of its n latents.

    factor  (K,) float64, coordinates of the knots, which increase
    latent  (K, n) float64
    turns   the factor is an angle of a full turn: the map has a period of 2 pi
    """

    factor: Tensor
    latent: Tensor
    turns: bool = False

    def __call__(self, factor: Tensor) -> Tensor:
        """Float32 values (..., n) of the latents for a factor (...).

        They are constant beyond the ends, unless the factor turns.
        """
        x, y = self.factor, self.latent
        expected = factor.detach().double().cpu()
        if self.turns:
            expected = expected.remainder(TURN)
            x = torch.cat([x[-1:] - TURN, x, x[:1] + TURN])
            y = torch.cat([y[-1:], y, y[:1]])
        if len(x) == 1:
            return y[0].float().expand(*factor.shape, -1).to(factor.device)
        expected = expected.clamp(x[0].item(), x[-1].item())
        right = torch.searchsorted(x, expected.contiguous()).clamp(1, len(x) - 1)
        share = ((expected - x[right - 1]) / (x[right] - x[right - 1]))[..., None]
        value = y[right - 1] + share * (y[right] - y[right - 1])
        return value.float().to(factor.device)


def fit_map(factor: Tensor, latent: Tensor, bins: int = BINS) -> LatentMap:
    """The map whose knots are the factor's mean and the latents' medians in each bin.

    factor  (...), not empty; an angle in radians if it fills all bins of a full turn
    latent  (..., n)
    bins    number of equal bins of the factor's range; bins without images get no knot
    Raises ValueError for different shapes, or no images.
    """
    if factor.shape != latent.shape[:-1] or not factor.numel():
        raise ValueError(
            f"fit_map: latent must have the shape of factor and n, and hold images, got "
            f"{list(latent.shape)} and {list(factor.shape)}"
        )
    factor = factor.flatten().double().cpu()
    latent = latent.flatten(0, -2).double().cpu()
    turns = is_full_turn(factor, bins)
    if turns:
        factor = factor.remainder(TURN)
    low, high = (torch.zeros(()), torch.tensor(TURN)) if turns else (factor.min(), factor.max())
    place = ((factor - low) / (high - low).clamp_min(1e-12) * bins).long().clamp(0, bins - 1)
    inside = [place == i for i in range(bins)]
    knots = [(factor[i].mean(), latent[i].median(0).values) for i in inside if i.any()]
    at, value = (torch.stack(column) for column in zip(*knots, strict=True))
    return LatentMap(at, value, turns)


def set_latents(code: Tensor, own: slice, values: Tensor) -> Tensor:
    """A copy of the codes (N, D) whose latents `own` have the values (N, n)."""
    result = code.clone()
    result[:, own] = values.to(code)
    return result


def mean_squared_error(images: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error of each image, (N,) float64; both inputs (N, 1, H, W) in [0, 1]."""
    if images.shape != truth.shape:
        raise ValueError(
            f"mean_squared_error: truth must be {list(images.shape)}, got {list(truth.shape)}"
        )
    return (images.double() - truth.double()).square().flatten(1).mean(1)


STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of ridge regression, per sample
HELD = 4  # every 4th sample is held out to choose the strength


def standardise(x: Tensor, like: Tensor | None = None) -> Tensor:
    """The columns of x, standardised by mean and deviation of `like`; constant columns become 0.

    x     (N, D)
    like  (M, D); None: x itself
    """
    x, like = x.double(), (x if like is None else like).double()
    deviation = like.std(0, unbiased=False)
    flat = deviation <= 1e-9 * like.abs().amax(0).clamp_min(1e-300)
    return torch.where(flat, 0.0, (x - like.mean(0)) / deviation.masked_fill(flat, 1.0))


def ridge(x: Tensor, y: Tensor, strength: float) -> Tensor:
    """(D, K) weights of the ridge regression of centred y (N, K) on centred x (N, D)."""
    n, d = x.shape
    if d <= n:
        gram = x.T @ x / n
        return torch.linalg.solve(gram + strength * torch.eye(d, dtype=x.dtype), x.T @ y / n)
    kernel = x @ x.T / n
    return x.T @ torch.linalg.solve(kernel + strength * torch.eye(n, dtype=x.dtype), y) / n


def fit_ridge(x: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """(weights (D, K), strength) for standardised x and y; chosen on the held-out samples."""
    held = torch.arange(len(x)) % HELD == 0
    errors = []
    for strength in STRENGTHS:
        weights = ridge(x[~held], y[~held], strength)
        errors.append((y[held] - x[held] @ weights).square().sum().item())
    best = STRENGTHS[errors.index(min(errors))]
    return ridge(x, y, best), best


def r_squared(x: Tensor, y: Tensor, new_x: Tensor, new_y: Tensor) -> float:
    """R^2 on (new_x, new_y) of a ridge regression from x to y.

    x, new_x  (N, D), (M, D), standardised by x
    y, new_y  (N,) or (N, K), and M of them, standardised by y
    1 means that all variance of new_y is explained; 0 is as good as its mean; below 0 is worse.
    """
    columns = [t.double().reshape(len(t), -1) for t in (y, new_y)]
    weights, _ = fit_ridge(standardise(x), standardise(columns[0]))
    truth = standardise(columns[1], columns[0])
    error = (truth - standardise(new_x, x) @ weights).square().sum()
    return (1 - error / (truth - truth.mean(0)).square().sum().clamp_min(1e-300)).item()


def decoding(
    code: Tensor, factor: Tensor, new_code: Tensor, new_factor: Tensor, own: slice
) -> dict[str, float]:
    """R^2 of a factor on new codes, from "all" latents, from its "own", and from the "others".

    A high value for "others" means that the wrong latents carry the factor.
    """
    taken = torch.zeros(code.shape[1], dtype=torch.bool)
    taken[own] = True
    parts = {"all": torch.ones_like(taken), "own": taken, "others": ~taken}
    return {
        name: r_squared(code[:, part], factor, new_code[:, part], new_factor)
        for name, part in parts.items()
        if part.any()
    }


def recognition(
    known: Tensor, known_people: Tensor, new: Tensor, new_people: Tensor
) -> dict[str, float]:
    """Share of new images whose person is recognised, by two classifiers.

    "nearest" takes the person of the known image with the highest cosine similarity. "linear" is a
    ridge regression to one column per person. Both subtract the mean of the known codes.
    known, new                (N, D) and (M, D) codes
    known_people, new_people  (N,) and (M,) persons
    """
    mean = known.double().mean(0)
    a, b = known.double() - mean, new.double() - mean
    unit_a, unit_b = (t / t.norm(dim=1, keepdim=True).clamp_min(1e-300) for t in (a, b))
    nearest = known_people[(unit_b @ unit_a.T).argmax(1)]
    people, classes = known_people.unique(return_inverse=True)
    expected = torch.nn.functional.one_hot(classes).double()
    scale = a.square().mean().sqrt().clamp_min(1e-300)
    weights, _ = fit_ridge(a / scale, expected - expected.mean(0))
    linear = people[(b / scale @ weights + expected.mean(0)).argmax(1)]
    return {
        "nearest": (nearest == new_people).double().mean().item(),
        "linear": (linear == new_people).double().mean().item(),
    }


def similarity(code: Tensor, reference: Tensor, mean: Tensor) -> Tensor:
    """(...) cosine similarity of codes and references (..., D), after subtracting a mean (D,)."""
    a, b = code.double() - mean, reference.double() - mean
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)).clamp_min(1e-300)


def spread(code: Tensor, people: Tensor) -> float:
    """Mean distance of codes within a person, divided by that between persons; 0 is best.

    code    (N, D)
    people  (N,) persons
    """
    distance = torch.cdist(code.double(), code.double())
    same = people[:, None] == people
    different = distance[~same].mean()
    same.fill_diagonal_(False)
    return (distance[same].mean() / different.clamp_min(1e-300)).item()
