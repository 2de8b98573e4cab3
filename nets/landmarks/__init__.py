"""Unsupervised landmarks: the networks and their losses."""

from nets.landmarks.losses import (
    discriminator_loss,
    frozen,
    gan_loss,
    generator_gan_loss,
    perceptual_loss,
)
from nets.landmarks.network import Appearance, LandmarkModel, LandmarkOutput, Landmarks, build
from nets.landmarks.network.discriminator import MultiscaleDiscriminator, build_discriminator
from nets.spectral import fold

__all__ = [
    "Appearance",
    "LandmarkModel",
    "LandmarkOutput",
    "Landmarks",
    "MultiscaleDiscriminator",
    "build",
    "build_discriminator",
    "discriminator_loss",
    "fold",
    "frozen",
    "gan_loss",
    "generator_gan_loss",
    "perceptual_loss",
]
