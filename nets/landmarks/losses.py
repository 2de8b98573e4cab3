"""What the landmarks networks minimise (Dundar et al., arXiv 2001.09518, section 3).

The generator: vgg_lambda * `perceptual_loss` + `generator_gan_loss`, and `motion_loss`. The
discriminator: `discriminator_loss`. All are scalars in float32: means over the batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.perceptual import feature_distances

LAYERS = ("relu1_2", "relu2_2", "relu3_2", "relu4_2", "image")
REDUCED = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)


def perceptual_loss(
    prediction: Tensor,
    target: Tensor,
    vgg: nn.Module | None = None,
    reduced: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """Sum over five layers of the mean squared difference of activations; pixels are the fifth.

    prediction, target  (N, 3, H, W) in about [-1, 1]; gradients go to the prediction
    vgg      a `nets.pretrained.vgg.VGG19`, loaded with `normalise=False` for the published loss;
             None: only the pixels
    reduced  weights 1/32, 1/16, 1/8, 1/4 and 1 (pixels) instead of 1 throughout
    mask     (N, 1 or 3, H, W), zero or false where the prediction counts as 0, as the target should
             be there. `target != 0` is the published program's rule, which images of 8 bits never
             meet
    """
    if mask is not None:
        prediction = torch.where(mask.bool(), prediction, 0.0)
    layers = LAYERS if vgg is not None else LAYERS[-1:]
    distances = feature_distances(prediction, target, layers, vgg=vgg, squared=True)
    weights = REDUCED if reduced else [1.0] * len(LAYERS)
    weight_of = dict(zip(LAYERS, weights, strict=True))
    return sum(weight_of[layer] * distances[f"feature_{layer}"].mean() for layer in layers)


def motion_loss(prediction: Tensor, target: Tensor, partner: Tensor) -> Tensor:
    """Mean |prediction - target|, each pixel counted by how much it changed between two frames.

    prediction, target, partner  (N, 3, H, W); the partner is another frame of the target's clip
    A pixel's count is the mean |target - partner| of the 5 x 5 pixels about it over that of its
    image. Where the camera stands still that is where something moves, which is a small part of
    the image. Not in the paper.
    """
    prediction, target, partner = prediction.float(), target.float(), partner.float()
    change = F.avg_pool2d((target - partner).abs().mean(1, keepdim=True), 5, 1, 2)
    count = change / change.mean((1, 2, 3), keepdim=True).clamp_min(1e-6)
    return (count * (prediction - target).abs()).mean()


def motion_mask_loss(
    mask: Tensor, partner_mask: Tensor, target: Tensor, partner: Tensor, change: float = 0.1
) -> Tensor:
    """Cross entropy between what either mask covers and what changed between two frames.

    mask, partner_mask  (N, 1, H, W) in (0, 1), of the target's and of the partner's landmarks
    target, partner     (N, 3, H, W) in [-1, 1], frames of a clip
    change              mean difference of a pixel's colours that counts as changed for sure
    What moves before a camera that stands still changes where it is and where it was; a mask made
    of one frame's landmarks can only know where it is. Not in the paper.
    """
    apart = (target.float() - partner.float()).abs().mean(1, keepdim=True)
    changed = (apart / change).clamp(max=1)
    left = (1 - mask.float()) * (1 - partner_mask.float())
    left = left.clamp(1e-4, 1 - 1e-4)
    return -(changed * torch.log1p(-left) + (1 - changed) * left.log()).mean()


def gan_loss(scores: Sequence[Tensor], real: bool, lsgan: bool = True) -> Tensor:
    """How far a discriminator's scores are from saying "real" or "fake"; a sum over its scales.

    lsgan  mean squared error to 1 or 0 (Mao et al., ICCV 2017); else binary cross entropy of the
           scores' sigmoids
    """
    total = 0.0
    for score in scores:
        score = score.float()
        if lsgan:
            total = total + (score - float(real)).square().mean()
        else:  # -log sigmoid(s) or -log(1 - sigmoid(s)), which no score makes infinite
            total = total + F.softplus(-score if real else score).mean()
    return total


@contextlib.contextmanager
def frozen(net: nn.Module) -> Iterator[nn.Module]:
    """Within, gradients pass through the network but are not computed for its parameters."""
    trained = [p for p in net.parameters() if p.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield net
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def generator_gan_loss(discriminator: nn.Module, fake: Tensor, lsgan: bool = True) -> Tensor:
    """How far the discriminator is from taking the images for real; it gets no gradient."""
    with frozen(discriminator):
        return gan_loss(discriminator(fake), True, lsgan)


def discriminator_loss(
    discriminator: nn.Module, fake: Tensor, real: Tensor, lsgan: bool = True
) -> tuple[Tensor, dict[str, Tensor]]:
    """0.5 (fake as 0 + real as 1), and {"d_fake", "d_real"} for the log, detached.

    No gradient goes to the images.
    """
    scores = discriminator(torch.cat([fake.detach().to(real.dtype), real]))
    n = len(fake)
    as_fake = gan_loss([score[:n] for score in scores], False, lsgan)
    as_real = gan_loss([score[n:] for score in scores], True, lsgan)
    terms = {"d_fake": as_fake.detach(), "d_real": as_real.detach()}
    return 0.5 * (as_fake + as_real), terms
