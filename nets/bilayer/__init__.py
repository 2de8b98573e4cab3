"""Bilayer head avatars: the networks, and one pass through them."""

from .build import build
from .model import Bilayer
from .options import DEFAULTS, NETWORKS
from .spectral import fold

__all__ = ["DEFAULTS", "NETWORKS", "Bilayer", "build", "fold"]
