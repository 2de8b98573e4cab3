"""Losses of DC-IGN, all sums over batch and pixels or latents, in nats, to be minimised."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# No pixel is known better than to 1/256 of the range; without a floor flat pixels would have a
# likelihood without bound.
LOG_VARIANCE_FLOOR = 2 * math.log(1 / 256)


def bernoulli(logits: Tensor, target: Tensor) -> Tensor:
    """- sum of x log y + (1 - x) log(1 - y), y = sigmoid(logits); both of one shape, x in [0, 1].

    Of grey targets it is never 0, but at least their entropy. The published program takes y and
    adds 1e-12 inside the logarithms: the two differ only where a pixel saturates.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="sum")


def gaussian(parameters: Tensor, target: Tensor) -> Tensor:
    """- sum of log N(x; mean, exp(log variance)).

    parameters  (N, 2, H, W): mean, and log variance, which is not let below that of 1/256
    target      (N, 1, H, W)
    """
    mean, log_variance = parameters.float().split(1, dim=1)
    log_variance = log_variance.clamp(min=LOG_VARIANCE_FLOOR)
    squares = (target - mean).square() * torch.exp(-log_variance)
    return 0.5 * (log_variance + math.log(2 * math.pi) + squares).sum()


LIKELIHOODS = {"bernoulli": bernoulli, "gaussian": gaussian}  # of (parameters, target)


def kl_divergence(mu: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mu, exp(log_variance)) || N(0, 1)) >= 0, summed: 0.5 sum(m^2 + e^s - 1 - s).

    Minus what the published program calls KLD.
    """
    return 0.5 * (mu.square() + log_variance.exp() - 1 - log_variance).sum()


def lower_bound(reconstruction: Tensor, kl: Tensor) -> Tensor:
    """The variational lower bound of the log-likelihood, to be maximised; minus the loss."""
    return -(reconstruction + kl)
