"""A pass over the test data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nets.run.ranks import Ranks

Scores = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@torch.no_grad()
def mean_scores(
    net: nn.Module,
    networks: list[str],
    batches: Iterable[Mapping[str, Any]],
    scores: Scores,
    ranks: Ranks,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Means of the scores over all batches of all ranks, and this rank's last batch with what the
    networks made of it. A score that a batch lacks does not count for it.
    """
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    data: dict[str, Tensor] = {}
    for batch in batches:
        data = net(batch, networks)
        for name, value in scores(data).items():
            sums[name] = sums.get(name, 0.0) + float(value)
            counts[name] = counts.get(name, 0) + 1
    gathered = ranks.gather([sums, counts])
    names = sorted({name for rank_sums, _ in gathered for name in rank_sums})
    return {
        name: sum(s.get(name, 0.0) for s, _ in gathered) / sum(c.get(name, 0) for _, c in gathered)
        for name in names
    }, data
