"""Unsupervised landmarks: the networks and their losses."""

from nets.landmarks.discriminator import Discriminator, build_discriminator
from nets.landmarks.losses import (
    discriminator_loss,
    frozen,
    gan_loss,
    generator_gan_loss,
    perceptual_loss,
)
from nets.landmarks.network import Appearance, LandmarkModel, Landmarks, Output, build
from nets.spectral import fold

__all__ = [
    "Appearance",
    "Discriminator",
    "LandmarkModel",
    "Landmarks",
    "Output",
    "build",
    "build_discriminator",
    "discriminator_loss",
    "fold",
    "frozen",
    "gan_loss",
    "generator_gan_loss",
    "perceptual_loss",
]
