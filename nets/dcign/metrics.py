"""What a code knows of the scene, and whether a latent can be set like a renderer's knob.

Pure functions of tensors. Batches of one type, (B, N, ...): in each of the B batches of N images
one factor varies. Codes are the means mu, without clamp, (..., D). All in float64 inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

BINS = 20


class BatchScores(TypedDict):
    """What a test batch says of a network, on the CPU."""

    kind: int  # number of its type
    batch: int  # its number within the type
    count: int  # N, its images
    sums: Tensor  # (4,) float64, over the images: lower bound, reconstruction, KL, squared error
    mu: Tensor  # (N, D) float32, means of the codes
    labels: dict[str, Tensor]  # factor -> (N,) radians, as far as known


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
    """|r| over all images together, and r of the two halves of the factor's range, since the
    published azimuth latent jumps at 0: "pearson", "spearman", "negative_half", "positive_half".

    latent, factor  of one shape; halves are signed by the sign of the whole's r, 0 without images
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
    relative  {type: (D,)} the variance over that of the latent over all images of all types
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
        expected = factor.detach().double().cpu().clamp(x[0].item(), x[-1].item())
        right = torch.searchsorted(x, expected.contiguous()).clamp(1, len(x) - 1)
        share = (expected - x[right - 1]) / (x[right] - x[right - 1])
        value = y[right - 1] + share * (y[right] - y[right - 1])
        return value.float().to(factor.device)


def fit_map(factor: Tensor, latent: Tensor, bins: int = BINS) -> LatentMap:
    """The medians of the latent, and the means of the factor, in equal bins of the factor's range.

    factor, latent  of one shape, of training images; bins without images are left out
    """
    factor, latent = factor.flatten().double().cpu(), latent.flatten().double().cpu()
    if factor.shape != latent.shape or not len(factor):
        raise ValueError(
            f"fit_map: latent must have the shape of factor and hold images, got "
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


def mean_squared_error(images: Tensor, truth: Tensor) -> Tensor:
    """Per image, (N,) float64, in grey values [0, 1]; images and truth (N, 1, H, W)."""
    if images.shape != truth.shape:
        raise ValueError(
            f"mean_squared_error: truth must be {list(images.shape)}, got {list(truth.shape)}"
        )
    return (images.double() - truth.double()).square().flatten(1).mean(1)


STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of ridge regressions, per sample
HELD = 4  # one sample in so many is held out to choose the strength


def standardise(x: Tensor, like: Tensor | None = None) -> Tensor:
    """Columns of mean 0 and variance 1, by the numbers of `like`; 0 where one does not vary."""
    x, like = x.double(), (x if like is None else like).double()
    deviation = like.std(0, unbiased=False)
    flat = deviation <= 1e-9 * like.abs().amax(0).clamp_min(1e-300)
    return torch.where(flat, 0.0, (x - like.mean(0)) / deviation.masked_fill(flat, 1.0))


def ridge(x: Tensor, y: Tensor, strength: float) -> Tensor:
    """(D, K) weights of the regression of centred y (N, K) on centred x (N, D)."""
    n, d = x.shape
    if d <= n:
        gram = x.T @ x / n
        return torch.linalg.solve(gram + strength * torch.eye(d, dtype=x.dtype), x.T @ y / n)
    kernel = x @ x.T / n
    return x.T @ torch.linalg.solve(kernel + strength * torch.eye(n, dtype=x.dtype), y) / n


def fit_ridge(x: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """Weights (D, K) for standardised x and y, and the strength, chosen on every 4th sample."""
    held = torch.arange(len(x)) % HELD == 0
    errors = []
    for strength in STRENGTHS:
        weights = ridge(x[~held], y[~held], strength)
        errors.append((y[held] - x[held] @ weights).square().sum().item())
    best = STRENGTHS[errors.index(min(errors))]
    return ridge(x, y, best), best


def r_squared(x: Tensor, y: Tensor, new_x: Tensor, new_y: Tensor) -> float:
    """Share of the variance of new_y (M, K) that a ridge regression from x (N, D) to y explains.

    1: all; 0: no more than the mean of new_y; below 0 where it does worse. Numbers are standardised
    by the first set.
    """
    columns = [t.double().reshape(len(t), -1) for t in (y, new_y)]
    weights, _ = fit_ridge(standardise(x), standardise(columns[0]))
    truth = standardise(columns[1], columns[0])
    error = (truth - standardise(new_x, x) @ weights).square().sum()
    return (1 - error / (truth - truth.mean(0)).square().sum().clamp_min(1e-300)).item()


def decoding(
    code: Tensor, factor: Tensor, new_code: Tensor, new_factor: Tensor, own: slice
) -> dict[str, float]:
    """R^2 of a factor on new codes: from "all" latents, from the "own" ones, and from the "others".

    What the others tell is what is hidden in the wrong latents.
    """
    taken = torch.zeros(code.shape[1], dtype=torch.bool)
    taken[own] = True
    parts = {"all": torch.ones_like(taken), "own": taken, "others": ~taken}
    return {
        name: r_squared(code[:, part], factor, new_code[:, part], new_factor)
        for name, part in parts.items()
        if part.any()
    }


def importance(code: Tensor, factors: Mapping[str, Tensor]) -> Tensor:
    """(D, F): how much each latent weighs in a ridge regression of each factor, (N,) or (N, K);
    of several numbers the root of the summed squares. All standardised.
    """
    x, columns = standardise(code), []
    for factor in factors.values():
        weights, _ = fit_ridge(x, standardise(factor.reshape(len(factor), -1)))
        columns.append(weights.square().sum(1).sqrt())
    return torch.stack(columns, 1)


def _evenness(share: Tensor, dim: int) -> Tensor:
    """Entropy of shares along a dimension, over that of equal ones."""
    count = share.shape[dim]
    entropy = -(share * share.clamp_min(1e-300).log()).sum(dim)
    return entropy / torch.tensor(float(count)).log().clamp_min(1e-300)


def dci(weights: Tensor) -> dict[str, float]:
    """Disentanglement (each latent weighs for one factor) and completeness (each factor is in one
    latent) of importances (D, F), both in [0, 1].

    Eastwood and Williams 2018. A factor that is meant to take many latents, such as shape, cannot
    be complete.
    """
    each, of = weights.sum(1, keepdim=True), weights.sum(0, keepdim=True)
    across = 1 - _evenness(weights / each.clamp_min(1e-300), 1)
    along = (1 - _evenness(weights / of.clamp_min(1e-300), 0)) * (of[0] > 0)
    total = weights.sum().clamp_min(1e-300)
    return {
        "disentanglement": (across * each[:, 0] / total).sum().item(),
        "completeness": along.mean().item(),
    }


def bins(values: Tensor, count: int = BINS) -> Tensor:
    """(N,) numbers of the equal bins of the values' range, from 0."""
    low, high = values.min(), values.max()
    return ((values - low) / (high - low).clamp_min(1e-300) * count).long().clamp(0, count - 1)


def mutual_information(a: Tensor, b: Tensor) -> tuple[float, float]:
    """(information, entropy of b) in nats, of two columns of classes from 0."""
    table = torch.zeros(int(a.max()) + 1, int(b.max()) + 1, dtype=torch.float64)
    table.index_put_((a, b), torch.ones(len(a), dtype=torch.float64), accumulate=True)
    joint = table / len(a)
    pa, pb = joint.sum(1, keepdim=True), joint.sum(0, keepdim=True)
    ratio = (joint / (pa * pb).clamp_min(1e-300)).clamp_min(1e-300)
    return (joint * ratio.log()).sum().item(), -(pb * pb.clamp_min(1e-300).log()).sum().item()


def gaps(table: Tensor, owners: Mapping[str, slice]) -> dict[str, float]:
    """Per factor the best latent's score over the second best's, and, as FACTOR_own, the best of
    its own latents' over the best of the others': below 0 where another latent knows more.

    table  (D, F) of scores, columns in the order of `owners`
    """
    result = {}
    for column, (name, own) in zip(table.T, owners.items(), strict=True):
        top = column.topk(2).values
        result[name] = (top[0] - top[1]).item()
        others = torch.cat([column[: own.start], column[own.stop :]])
        result[f"{name}_own"] = (column[own].max() - others.max()).item()
    return result


def information_table(code: Tensor, factors: Mapping[str, Tensor]) -> Tensor:
    """(D, F) mutual information of latents and factors over the factor's entropy; in 20 bins, ids
    (int64) as they are. The gaps of this table are MIG (Chen et al. 2018).
    """
    rows = []
    for latent in code.double().T:
        row = []
        for factor in factors.values():
            classes = factor.unique(return_inverse=True)[1] if factor.dtype == torch.int64 \
                else bins(factor)  # fmt: skip
            information, entropy = mutual_information(bins(latent), classes)
            row.append(information / max(entropy, 1e-12))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def explained_table(code: Tensor, factors: Mapping[str, Tensor]) -> Tensor:
    """(D, F) share of a factor's variance that one latent explains linearly; of ids (int64), the
    share of the latent's variance that lies between them. The gaps of this table are SAP (Kumar et
    al. 2018).
    """
    x = standardise(code)
    columns = []
    for factor in factors.values():
        if factor.dtype == torch.int64:
            classes = factor.unique(return_inverse=True)[1]
            counts = torch.bincount(classes).double()
            means = torch.zeros(len(counts), x.shape[1], dtype=torch.float64)
            means.index_add_(0, classes, x)
            columns.append((means / counts[:, None]).square().T @ counts / len(x))
        else:
            columns.append((x * standardise(factor[:, None])).mean(0).square())
    return torch.stack(columns, 1)


def recognition(
    known: Tensor, known_people: Tensor, new: Tensor, new_people: Tensor
) -> dict[str, float]:
    """Share of new images, (M, D), whose person is found, from known ones, (N, D): "nearest" by
    cosine to a known image, "linear" by ridge regression to one column a person.

    Both after the known ones' mean is taken off.
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
    """(...) cosine of codes (..., D) and their references, after a mean (D,) is taken off both."""
    a, b = code.double() - mean, reference.double() - mean
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)).clamp_min(1e-300)


def spread(code: Tensor, people: Tensor) -> float:
    """Mean distance of two images' codes of one person over that of two persons'; 0 is best."""
    distance = torch.cdist(code.double(), code.double())
    same = people[:, None] == people
    different = distance[~same].mean()
    same.fill_diagonal_(False)
    return (distance[same].mean() / different.clamp_min(1e-300)).item()
