"""The networks of unsupervised landmarks: encoders, SPADE generator, masks and background."""

from nets.landmarks.network.discriminator import MultiscaleDiscriminator, build_discriminator
from nets.landmarks.network.model import (
    Appearance,
    LandmarkModel,
    LandmarkOutput,
    Landmarks,
    build,
)

__all__ = [
    "Appearance",
    "LandmarkModel",
    "LandmarkOutput",
    "Landmarks",
    "MultiscaleDiscriminator",
    "build",
    "build_discriminator",
]
