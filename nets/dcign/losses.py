"""Losses of DC-IGN, to be minimised: sums over the batch and its pixels or latents, in nats."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Pixels have 256 levels. Without a floor the likelihood of flat regions would be unbounded.
LOG_VARIANCE_FLOOR = 2 * math.log(1 / 256)


def bernoulli(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy: -sum of x log y + (1 - x) log(1 - y), where y = sigmoid(logits).

    logits  any shape
    target  x in [0, 1], of the same shape
    The minimum for grey targets is their entropy, above 0. The published program computes from y
    and adds 1e-12 inside the logarithms. The two differ only at saturated pixels.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="sum")


def gaussian(parameters: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood: -sum of log N(x; mean, exp(log variance)).

    parameters  (N, 2, H, W): mean, and log variance, clamped to a standard deviation of 1/256 or
                more
    target      x, (N, 1, H, W) in [0, 1]
    """
    mean, log_variance = parameters.float().split(1, dim=1)
    log_variance = log_variance.clamp(min=LOG_VARIANCE_FLOOR)
    squares = (target - mean).square() * torch.exp(-log_variance)
    return 0.5 * (log_variance + math.log(2 * math.pi) + squares).sum()


LIKELIHOODS = {"bernoulli": bernoulli, "gaussian": gaussian}  # of (parameters, target)


def kl_divergence(mu: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mu, exp(log_variance)) || N(0, 1)), at least 0: 0.5 sum(mu^2 + e^s - 1 - s).

    mu, log_variance  of one shape; s is the log variance
    The published program's KLD is its negative.
    """
    return 0.5 * (mu.square() + log_variance.exp() - 1 - log_variance).sum()


def lower_bound(reconstruction: Tensor, kl: Tensor) -> Tensor:
    """The variational lower bound of the log-likelihood, in nats: the negative loss."""
    return -(reconstruction + kl)
