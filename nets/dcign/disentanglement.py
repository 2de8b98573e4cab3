"""Disentanglement scores of codes: DCI, MIG, SAP, and the BetaVAE and FactorVAE scores.

All are functions of codes (N, D), the means mu without clamp, and of the factors of their images.
They compute in float64. Factors of dtype int64 are class numbers; others are numbers, which are
sorted into 20 equal bins where a score needs classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from nets.dcign.metrics import BINS, fit_ridge, standardise
from nets.random import uniform

VOTES = 800  # sets to train a classifier on, and as many to test it
SHARING = 64  # images, or pairs of images, in a set
COLLAPSED = 0.05  # variance of a latent's mean below which it does not vote
DECAY = 1e-4  # weight decay of the linear classifier, on standardised inputs


def importance(code: Tensor, factors: Mapping[str, Tensor]) -> Tensor:
    """(D, F) absolute weight of each latent in a ridge regression of each factor, standardised.

    code     (N, D)
    factors  name -> (N,), or (N, K), for which the weight is the root of the summed squares
    """
    x, columns = standardise(code), []
    for factor in factors.values():
        weights, _ = fit_ridge(x, standardise(factor.reshape(len(factor), -1)))
        columns.append(weights.square().sum(1).sqrt())
    return torch.stack(columns, 1)


def _evenness(share: Tensor, dim: int) -> Tensor:
    """Entropy of shares along a dimension, divided by the entropy of equal shares: in [0, 1]."""
    count = share.shape[dim]
    entropy = -(share * share.clamp_min(1e-300).log()).sum(dim)
    return entropy / torch.tensor(float(count)).log().clamp_min(1e-300)


def dci(weights: Tensor) -> dict[str, float]:
    """ "disentanglement" and "completeness" of importances (D, F), both in [0, 1].

    Disentanglement is 1 if each latent weighs for one factor only. Completeness is 1 if each factor
    is in one latent only. A factor of many latents, such as shape, cannot be complete.
    Eastwood and Williams 2018.
    """
    of_latent, of_factor = weights.sum(1, keepdim=True), weights.sum(0, keepdim=True)
    across = 1 - _evenness(weights / of_latent.clamp_min(1e-300), 1)
    along = (1 - _evenness(weights / of_factor.clamp_min(1e-300), 0)) * (of_factor[0] > 0)
    total = weights.sum().clamp_min(1e-300)
    return {
        "disentanglement": (across * of_latent[:, 0] / total).sum().item(),
        "completeness": along.mean().item(),
    }


def bins(values: Tensor, count: int = BINS) -> Tensor:
    """(N,) int64 numbers, from 0, of the values' bins; the bins divide their range equally."""
    low, high = values.min(), values.max()
    return ((values - low) / (high - low).clamp_min(1e-300) * count).long().clamp(0, count - 1)


def mutual_information(a: Tensor, b: Tensor) -> tuple[float, float]:
    """(mutual information, entropy of b) in nats, of two columns (N,) of class numbers from 0."""
    table = torch.zeros(int(a.max()) + 1, int(b.max()) + 1, dtype=torch.float64)
    table.index_put_((a, b), torch.ones(len(a), dtype=torch.float64), accumulate=True)
    joint = table / len(a)
    pa, pb = joint.sum(1, keepdim=True), joint.sum(0, keepdim=True)
    ratio = (joint / (pa * pb).clamp_min(1e-300)).clamp_min(1e-300)
    return (joint * ratio.log()).sum().item(), -(pb * pb.clamp_min(1e-300).log()).sum().item()


def gaps(table: Tensor, owners: Mapping[str, slice]) -> dict[str, float]:
    """Gaps between the scores of latents, as FACTOR and FACTOR_own, for each factor.

    FACTOR is the best score minus the second best. FACTOR_own is the best score of the factor's own
    latents minus the best of the others; it is negative if another latent scores higher.
    table   (D, F) scores, columns in the order of `owners`
    owners  factor -> its own latents
    """
    result = {}
    for column, (name, own) in zip(table.T, owners.items(), strict=True):
        top = column.topk(2).values
        result[name] = (top[0] - top[1]).item()
        others = torch.cat([column[: own.start], column[own.stop :]])
        result[f"{name}_own"] = (column[own].max() - others.max()).item()
    return result


def information_table(code: Tensor, factors: Mapping[str, Tensor]) -> Tensor:
    """(D, F) mutual information of latents and factors, divided by the factor's entropy.

    Latents and factors are sorted into 20 bins; int64 factors are class numbers and stay as they
    are. The gaps of this table are MIG (Chen et al. 2018).
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
    """(D, F) share of a factor's variance that each latent explains linearly.

    For int64 factors, which are class numbers, it is the share of the latent's variance between the
    classes. The gaps of this table are SAP (Kumar et al. 2018).
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


def classes(factor: Tensor) -> Tensor:
    """(N,) int64 class numbers from 0: those of an int64 factor, or the bins of another."""
    if factor.dtype == torch.int64:
        return factor.unique(return_inverse=True)[1]
    return bins(factor)


def partners(numbers: Tensor, rows: Tensor, draws: Tensor) -> Tensor:
    """For each of `rows`, a row of the same class, all of one shape.

    numbers  (N,) classes of all rows, from 0
    draws    uniform in [0, 1), which choose among the rows of the class
    """
    order, counts = numbers.argsort(stable=True), numbers.bincount()
    starts = counts.cumsum(0) - counts
    group = numbers[rows]
    return order[starts[group] + (draws * counts[group]).long()]


def sharing(factors: Mapping[str, Tensor], sets: int, each: int, seed: int) -> tuple[Tensor, ...]:
    """(rows (sets, each), factor (sets,)): rows of images that share the class of one factor.

    A set's factor is drawn uniformly, then one image, then `each` images with its class, uniformly
    and with replacement. The other factors are as the images have them.
    """
    draws = uniform(seed, "sharing", torch.arange(sets), 2 + each)
    factor = (draws[:, 0] * len(factors)).long()
    first = (draws[:, 1:2] * len(next(iter(factors.values())))).long().expand(-1, each)
    return _by_factor(factors, factor, first, draws[:, 2:]), factor


def sharing_pairs(
    factors: Mapping[str, Tensor], sets: int, each: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, their partners, both (sets, each), factor (sets,)): pairs that share one factor.

    A set's factor is drawn uniformly; for each of its pairs one image, then its partner among the
    images of the same class.
    """
    draws = uniform(seed, "pairs", torch.arange(sets), 1 + 2 * each)
    factor = (draws[:, 0] * len(factors)).long()
    first = (draws[:, 1 : 1 + each] * len(next(iter(factors.values())))).long()
    return first, _by_factor(factors, factor, first, draws[:, 1 + each :]), factor


def _by_factor(
    factors: Mapping[str, Tensor], factor: Tensor, rows: Tensor, draws: Tensor
) -> Tensor:
    """`partners` of the rows (sets, each) by the factor (sets,) of each set."""
    result = torch.empty_like(rows)
    for k, values in enumerate(factors.values()):
        mine = factor == k
        result[mine] = partners(classes(values), rows[mine], draws[mine])
    return result


def factor_vae_score(code: Tensor, factors: Mapping[str, Tensor], seed: int = 0) -> float:
    """The FactorVAE score: accuracy of a majority vote on the factor that images share.

    Kim and Mnih, "Disentangling by Factorising", ICML 2018, section 4. Codes are divided by their
    standard deviation over all images. The latent of least variance in a set votes for the set's
    factor; the classifier names the factor with most votes of that latent. It is trained on 800
    sets of 64 images and tested on 800 others. Latents of variance below 0.05 do not vote, as in
    Locatello et al., ICML 2019; the score is 0 if none is left.
    """
    code = code.double()
    variance = code.var(0, unbiased=False)
    code = (code / variance.sqrt().clamp_min(1e-300))[:, variance >= COLLAPSED]
    if not code.shape[1]:
        return 0.0
    rows, factor = sharing(factors, 2 * VOTES, SHARING, seed)
    vote = torch.stack([code[of].var(0).argmin() for of in rows])
    table = torch.zeros(code.shape[1], len(factors), dtype=torch.float64)
    ones = torch.ones(VOTES, dtype=torch.float64)
    table.index_put_((vote[:VOTES], factor[:VOTES]), ones, accumulate=True)
    return (table.argmax(1)[vote[VOTES:]] == factor[VOTES:]).double().mean().item()


def beta_vae_score(code: Tensor, factors: Mapping[str, Tensor], seed: int = 0) -> float:
    """The BetaVAE score: accuracy of a linear classifier of the factor that pairs share.

    Higgins et al., "beta-VAE", ICLR 2017, section 3 and algorithm 1: the input is the mean of
    |z1 - z2| over 64 pairs of images, each pair with a class of its own for the set's factor. The
    classifier, a multinomial logistic regression, is trained on 800 sets and tested on 800 others.
    """
    first, second, factor = sharing_pairs(factors, 2 * VOTES, SHARING, seed)
    code = code.double()
    pairs = zip(first, second, strict=True)
    difference = torch.stack([(code[a] - code[b]).abs().mean(0) for a, b in pairs])
    x = standardise(difference, difference[:VOTES])
    known, new = x[:VOTES], x[VOTES:]
    weights = torch.zeros(x.shape[1] + 1, len(factors), dtype=torch.float64, requires_grad=True)

    def logits(of: Tensor) -> Tensor:
        return of @ weights[:-1] + weights[-1]

    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits(known), factor[:VOTES])
        loss = loss + DECAY * weights[:-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    with torch.no_grad():
        return (logits(new).argmax(1) == factor[VOTES:]).double().mean().item()


def scores(
    code: Tensor,
    numbers: Mapping[str, Tensor],
    factors: Mapping[str, Tensor],
    owners: Mapping[str, slice],
) -> dict[str, dict[str, float]]:
    """All scores by name: "dci", "mig", "sap", "beta_vae" and "factor_vae".

    code     (N, D)
    numbers  factor -> (N,) or (N, K) numbers, which DCI regresses
    factors  factor -> (N,) numbers, or int64 class numbers
    owners   factor -> its own latents
    """
    return {
        "dci": dci(importance(code, numbers)),
        "mig": gaps(information_table(code, factors), owners),
        "sap": gaps(explained_table(code, factors), owners),
        "beta_vae": {"accuracy": beta_vae_score(code, factors), "chance": 1 / len(factors)},
        "factor_vae": {"accuracy": factor_vae_score(code, factors), "chance": 1 / len(factors)},
    }
