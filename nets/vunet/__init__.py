"""VUNet: the network, and pictures and joints as it takes them."""

from .inputs import Inputs, signed
from .network import MODES, Noise, Output, VUNet, build
from .transfer import reconstructions, transfer_grid, transfers

__all__ = [
    "MODES",
    "Inputs",
    "Noise",
    "Output",
    "VUNet",
    "build",
    "reconstructions",
    "signed",
    "transfer_grid",
    "transfers",
]
