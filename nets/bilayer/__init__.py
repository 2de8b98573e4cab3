"""Bilayer head avatars: the networks, one pass through them, avatars and how they are driven."""

from nets.spectral import fold

from .avatar import Avatar, Frames
from .build import build
from .driver import Driver, Graph
from .model import Bilayer
from .options import DEFAULTS, NETWORKS
from .statistics import standing_statistics

__all__ = [
    "DEFAULTS",
    "NETWORKS",
    "Avatar",
    "Bilayer",
    "Driver",
    "Frames",
    "Graph",
    "build",
    "fold",
    "standing_statistics",
]
