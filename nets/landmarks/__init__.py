"""Unsupervised landmarks: the networks and their losses."""

from nets.spectral import fold

from .discriminator import Discriminator, build_discriminator
from .losses import (
    discriminator_loss,
    frozen,
    gan_loss,
    generator_gan_loss,
    perceptual_loss,
)
from .model import Appearance, LandmarkModel, Landmarks, Output, build

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
