"""The networks of bilayer head avatars, their forward pass, and avatars with their renderers."""

from .build import build
from .driver import Driver, Graph
from .model import Avatar, AvatarFrames, Bilayer, standing_statistics
from .student import Student

__all__ = [
    "Avatar",
    "AvatarFrames",
    "Bilayer",
    "Driver",
    "Graph",
    "Student",
    "build",
    "standing_statistics",
]
