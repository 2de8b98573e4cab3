"""DC-IGN: the network, its code, its losses, and its optimiser."""

from .code import FACES, Group, factor_slice, hold, invariance, parse_groups
from .losses import bernoulli, gaussian, kl_divergence, lower_bound
from .network import DCIGN, build
from .rmsprop import RMSprop

__all__ = [
    "DCIGN",
    "FACES",
    "Group",
    "RMSprop",
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
