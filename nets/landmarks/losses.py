"""The losses of the landmarks system (Dundar et al., arXiv 2001.09518, section 3).

`generator_losses` gives the networks' loss, `discriminator_loss` that of the discriminator. All
losses are float32 scalars, means over the batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.landmarks.network import LandmarkOutput
from nets.perceptual import feature_distances

LAYERS = ("relu1_2", "relu2_2", "relu3_2", "relu4_2", "image")
REDUCED = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)


def generator_losses(
    options: Mapping[str, Any],
    out: LandmarkOutput,
    target: Tensor,
    appearance: Tensor,
    vgg: nn.Module | None,
    discriminator: nn.Module | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The networks' loss and its weighted terms by name.

    options             a run's options: vgg_lambda, reduced_w, motion_weight, motion_mask_weight,
                        no_lsgan
    target, appearance  (N, 3, H, W) in [-1, 1]
    vgg                 as for `perceptual_loss`
    discriminator       None: no adversarial loss
    """
    image = out.reconstruction
    distance = perceptual_loss(image, target, vgg, options["reduced_w"])
    loss = options["vgg_lambda"] * distance
    terms = {"vgg.loss": loss}
    if options["motion_weight"]:
        motion = motion_loss(image, target, appearance)
        terms["motion.loss"] = options["motion_weight"] * motion
        loss = loss + terms["motion.loss"]
    if options["motion_mask_weight"]:
        assert out.mask is not None and out.appearance_mask is not None  # options need the masks
        cover = motion_mask_loss(out.mask, out.appearance_mask, target, appearance)
        terms["motion_mask.loss"] = options["motion_mask_weight"] * cover
        loss = loss + terms["motion_mask.loss"]
    if discriminator is not None:
        terms["gan.loss"] = generator_gan_loss(discriminator, image, not options["no_lsgan"])
        loss = loss + terms["gan.loss"]
    return loss, terms


def perceptual_loss(
    prediction: Tensor,
    target: Tensor,
    vgg: nn.Module | None = None,
    reduced: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """Mean squared difference of activations, summed over four layers of VGG19 and the pixels.

    prediction, target  (N, 3, H, W) in about [-1, 1]; differentiable in the prediction
    vgg      a `nets.pretrained.vgg.VGG19`, loaded with `normalise=False` for the published loss;
             None: only the pixels
    reduced  weights 1/32, 1/16, 1/8, 1/4, and 1 for the pixels, instead of 1 each
    mask     (N, 1 or 3, H, W); where zero or false, the prediction counts as 0, and the target
             should be 0. The published program uses `target != 0`, which is true for all 8-bit
             images
    """
    if mask is not None:
        prediction = torch.where(mask.bool(), prediction, 0.0)
    layers = LAYERS if vgg is not None else LAYERS[-1:]
    distances = feature_distances(prediction, target, layers, vgg=vgg, squared=True)
    weights = REDUCED if reduced else [1.0] * len(LAYERS)
    weight_of = dict(zip(LAYERS, weights, strict=True))
    return _total(weight_of[layer] * distances[f"feature_{layer}"].mean() for layer in layers)


def motion_loss(prediction: Tensor, target: Tensor, partner: Tensor) -> Tensor:
    """Mean |prediction - target|, weighted by how much each pixel changes between two frames.

    prediction, target, partner  (N, 3, H, W); the partner is another frame of the target's clip

    The change of a pixel is the mean |target - partner| of the 5 x 5 pixels around it. Its weight
    is this change divided by the mean change of the image. With a fixed camera, only moving parts
    change, and they are a small part of the image. Not in the paper.
    """
    prediction, target, partner = prediction.float(), target.float(), partner.float()
    change = F.avg_pool2d((target - partner).abs().mean(1, keepdim=True), 5, 1, 2)
    weight = change / change.mean((1, 2, 3), keepdim=True).clamp_min(1e-6)
    return (weight * (prediction - target).abs()).mean()


def motion_mask_loss(
    mask: Tensor, partner_mask: Tensor, target: Tensor, partner: Tensor, change: float = 0.1
) -> Tensor:
    """Cross entropy between the union of two masks and the pixels that change between two frames.

    mask, partner_mask  (N, 1, H, W) in (0, 1), from the target's and from the partner's landmarks
    target, partner     (N, 3, H, W) in [-1, 1], frames of a clip
    change              mean difference of a pixel's channels from which it counts as fully changed

    With a fixed camera, a moving object changes pixels at its new place and at its old place. A
    mask from the landmarks of one frame covers only one of them. Not in the paper.
    """
    difference = (target.float() - partner.float()).abs().mean(1, keepdim=True)
    changed = (difference / change).clamp(max=1)
    outside = (1 - mask.float()) * (1 - partner_mask.float())
    outside = outside.clamp(1e-4, 1 - 1e-4)
    return -(changed * torch.log1p(-outside) + (1 - changed) * outside.log()).mean()


def gan_loss(scores: Sequence[Tensor], real: bool, lsgan: bool = True) -> Tensor:
    """Distance of a discriminator's scores from "real" or from "fake", summed over its scales.

    scores  one tensor of any shape for each scale, at least one
    lsgan   true: mean squared error to 1 or 0 (Mao et al., ICCV 2017); false: binary cross entropy
            of the scores' sigmoids
    """
    losses = []
    for score in scores:
        score = score.float()
        if lsgan:
            losses.append((score - float(real)).square().mean())
        else:  # -log sigmoid(s) or -log(1 - sigmoid(s)), finite for every score
            losses.append(F.softplus(-score if real else score).mean())
    return _total(losses)


@contextlib.contextmanager
def frozen(net: nn.Module) -> Iterator[nn.Module]:
    """A context in which gradients pass through the network but not into its parameters."""
    trained = [p for p in net.parameters() if p.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield net
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def generator_gan_loss(discriminator: nn.Module, fake: Tensor, lsgan: bool = True) -> Tensor:
    """Distance of the discriminator's scores of generated images from "real".

    fake  (N, 3, H, W); it gets a gradient, the discriminator does not
    """
    with frozen(discriminator):
        return gan_loss(discriminator(fake), True, lsgan)


def discriminator_loss(
    discriminator: nn.Module, fake: Tensor, real: Tensor, lsgan: bool = True
) -> tuple[Tensor, dict[str, Tensor]]:
    """0.5 (loss of generated images as "fake" + loss of real images as "real"), and both losses.

    fake, real  (N, 3, H, W); neither gets a gradient
    returns     the loss, and {"d_fake", "d_real"} for the log, detached
    """
    scores = discriminator(torch.cat([fake.detach().to(real.dtype), real]))
    n = len(fake)
    as_fake = gan_loss([score[:n] for score in scores], False, lsgan)
    as_real = gan_loss([score[n:] for score in scores], True, lsgan)
    terms = {"d_fake": as_fake.detach(), "d_real": as_real.detach()}
    return 0.5 * (as_fake + as_real), terms


def _total(losses: Iterable[Tensor]) -> Tensor:
    """The sum of one or more losses."""
    first, *others = losses
    return sum(others, start=first)
