"""Unsupervised landmarks: the networks and their losses."""

from .discriminator import Discriminator, build_discriminator
from .model import Appearance, LandmarkModel, Landmarks, Output, build

__all__ = [
    "Appearance",
    "Discriminator",
    "LandmarkModel",
    "Landmarks",
    "Output",
    "build",
    "build_discriminator",
]
