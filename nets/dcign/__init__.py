"""DC-IGN: the network, its code, its losses and its optimiser."""

from nets.dcign.code import (
    FACES,
    Group,
    active_mask,
    factor_slice,
    hold,
    invariance,
    parse_groups,
)
from nets.dcign.losses import LIKELIHOODS, bernoulli, gaussian, kl_divergence, lower_bound
from nets.dcign.network import DCIGN, build
from nets.dcign.rmsprop import RMSprop

__all__ = [
    "DCIGN",
    "FACES",
    "LIKELIHOODS",
    "Group",
    "RMSprop",
    "active_mask",
    "bernoulli",
    "build",
    "factor_slice",
    "gaussian",
    "hold",
    "invariance",
    "kl_divergence",
    "lower_bound",
    "parse_groups",
]
