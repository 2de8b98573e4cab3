"""Bilayer head avatars: the networks, one pass through them, avatars and how they are driven."""

from .avatar import Avatar, Frames
from .build import build
from .driver import Driver, Graph
from .model import Bilayer
from .options import DEFAULTS, NETWORKS
from .spectral import fold

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
]
