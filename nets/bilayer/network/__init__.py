"""The networks of bilayer head avatars, one pass through them, avatars and how they are driven."""

from .avatar import Avatar, Frames
from .build import build
from .driver import Driver, Graph
from .model import Bilayer, standing_statistics

__all__ = ["Avatar", "Bilayer", "Driver", "Frames", "Graph", "build", "standing_statistics"]
