"""Tests of a DC-IGN during training: its bounds, and what the code knows where labels are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from nets.data.batches import FACTORS, in_file_order, unit
from nets.dcign import DCIGN, LIKELIHOODS, Group, factor_slice, kl_divergence
from nets.run.loader import in_order
from nets.run.options import Namespace
from nets.run.run import Run
from nets.systems.dcign import measures

NUMBERS = ("lower_bound", "reconstruction", "kl", "mse")


@torch.no_grad()
def test(
    net: DCIGN,
    likelihood: Callable[[Tensor, Tensor], Tensor],
    batches: Iterable[dict[str, Any]],
    noise: Callable[[Tensor], Tensor] | None = None,
) -> list[dict[str, Any]]:
    """What each whole batch says, without clamp: its type, sums of NUMBERS, codes, labels.

    batches     of one batch each, as a loader stacks them
    likelihood  of parameters and pictures, summed
    noise       for the code, given its mean; None: the code is its mean
    """
    rows = []
    for batch in batches:
        image = unit(batch["image"][0])
        mu, log_variance = net.encode(image)
        z = mu if noise is None else net.sample(mu, log_variance, noise(mu))
        parameters = net.decode_parameters(z)
        reconstruction = likelihood(parameters, image)
        kl = kl_divergence(mu, log_variance)
        mse = (net.picture(parameters) - image).square().flatten(1).mean(1).sum()
        rows.append(
            {
                "kind": int(batch["kind"]),
                "batch": int(batch["batch"]),
                "count": len(image),
                "sums": torch.stack([-reconstruction - kl, reconstruction, kl, mse]).double().cpu(),
                "mu": mu.float().cpu(),
                "labels": {name: batch[name][0].cpu() for name in FACTORS if name in batch},
            }
        )
    return rows


def evaluate(run: Run, args: Namespace, net: DCIGN, source: Any, step: int) -> list[dict]:
    """Every test batch, on all ranks; see `test`. Empty when asked to stop."""
    data = in_file_order(source)
    batches = in_order(data, 1, run.ranks, args.workers, args.on_bad_sample, run.print)
    generator = run.generator(step, "test")

    def noise(mu: Tensor) -> Tensor:
        return torch.randn(mu.shape, device=mu.device, generator=generator)

    rows = test(
        net, LIKELIHOODS[args.likelihood], run.listen(batches), noise if args.sample else None
    )
    if run.stopping():
        return []
    gathered = [row for of in run.ranks.gather(rows) for row in of]
    return sorted(gathered, key=lambda row: (row["kind"], row["batch"]))


def summary(
    rows: Sequence[dict[str, Any]], kinds: Sequence[str], groups: Sequence[Group]
) -> dict[str, float]:
    """Means a picture over all types and of each, and how the latents follow their factors.

    within_FACTOR  mean over the type's batches of |r| between the factor and its latent
    pooled_FACTOR  |r| over all pictures of all types
    The latter only where labels are, for factors that own one latent.
    """
    sums = torch.stack([row["sums"] for row in rows])
    counts = torch.tensor([row["count"] for row in rows], dtype=torch.float64)
    kind = torch.tensor([row["kind"] for row in rows])
    means = sums.sum(0) / counts.sum()
    result = {f"test_{name}": value for name, value in zip(NUMBERS, means.tolist(), strict=True)}
    if len(kinds) == 1:
        return result
    for i, name in enumerate(kinds):
        here = kind == i
        if here.any():
            bound = sums[here, 0].sum() / counts[here].sum()
            result[f"test_lower_bound_{name}"] = bound.item()
    for i, group in enumerate(groups):
        mine = [row for row in rows if row["kind"] == i and group.name in row["labels"]]
        if group.latents != 1 or not mine:
            continue
        latent = factor_slice(groups, group.name, rows[0]["mu"].shape[1]).start
        codes = torch.stack([row["mu"][:, latent] for row in mine])
        truth = torch.stack([row["labels"][group.name] for row in mine])
        result[f"within_{group.name}"] = measures.within_batch(codes, truth)["pearson"]
        codes = torch.cat([row["mu"][:, latent] for row in rows])
        truth = torch.cat([row["labels"][group.name] for row in rows])
        result[f"pooled_{group.name}"] = measures.pooled(codes, truth)["pearson"]
    return result
