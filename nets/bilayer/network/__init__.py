"""The networks of bilayer head avatars, one pass through them, avatars and how they are driven."""

from .build import build
from .driver import Driver, Graph
from .model import Avatar, AvatarFrames, Bilayer, standing_statistics

__all__ = ["Avatar", "AvatarFrames", "Bilayer", "Driver", "Graph", "build", "standing_statistics"]
