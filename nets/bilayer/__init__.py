"""Bilayer head avatars: the networks, their forward pass, and avatars with their renderers."""

from nets.spectral import fold

from .defaults import DEFAULTS, NETWORKS
from .network import (
    Avatar,
    AvatarFrames,
    Bilayer,
    Driver,
    Graph,
    Student,
    build,
    standing_statistics,
)

__all__ = [
    "DEFAULTS",
    "NETWORKS",
    "Avatar",
    "AvatarFrames",
    "Bilayer",
    "Driver",
    "Graph",
    "Student",
    "build",
    "fold",
    "standing_statistics",
]
