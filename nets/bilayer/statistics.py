"""Standing statistics: BatchNorm's averages over many batches in place of the last one's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .model import Bilayer


@torch.no_grad()
def standing_statistics(
    model: Bilayer, batches: Iterable[Mapping[str, Tensor]], networks: Sequence[str]
) -> int:
    """How many batches there were; running means and variances become the mean over them.

    BatchNorm's momentum is 1 in these networks, so what stands in its buffers is the last batch.
    Here all else is in evaluation mode, spectral norms included; modes and momenta are as before
    afterwards. With no batch at all nothing changes.

    networks  to run, in this order, whose statistics are meant
    """
    training = model.training
    model.eval()
    norms = [
        m for name in networks for m in getattr(model, name).modules() if isinstance(m, _BatchNorm)
    ]
    momenta = [norm.momentum for norm in norms]
    count = 0
    try:
        for batch in batches:
            if count == 0:
                for norm in norms:
                    norm.reset_running_stats()
                    norm.momentum = None  # the arithmetic mean
                    nn.Module.train(norm)
            model(batch, networks)
            count += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(training)
    return count
