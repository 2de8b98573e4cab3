"""Losses of both forms of the VUNet, and their terms.

A term is one value an example, (N,), in float32. `parts_losses` and `image_losses` return the
scalar to minimise, and its terms for the log: batch means without their weights, detached. Terms
of weight zero are neither computed nor logged. The KL always is: so the same parameters receive a
gradient while its weight rises from zero. Esser, Sutter, Ommer, CVPR 2018, arXiv 1804.04694.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nets.perceptual import as_real, checked_pair, feature_distances, mean_distance

PARTS_LAYERS = ("input_1", *(f"block{block}_conv2" for block in range(1, 6)))
IMAGE_LAYERS = ("image", *(f"relu{block}_2" for block in range(1, 6)))
IMAGE_TERMS = ("color_L1", "color_L2", "color_gradient", "KL", "perceptual")


def linear_ramp(step: int, start_it: int, start_val: float, end_it: int, end_val: float) -> float:
    """`start_val` up to step `start_it`, `end_val` from `end_it` on, linear in between."""
    if end_it < start_it:
        raise ValueError(
            f"linear_ramp: end_it must be at least start_it = {start_it}, got {end_it}"
        )
    if step >= end_it:
        return end_val
    if step <= start_it:
        return start_val
    return start_val + (end_val - start_val) * (step - start_it) / (end_it - start_it)


def color_l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean |y - t| over C, H, W: (N,), from two images (N, C, H, W)."""
    prediction, target = checked_pair("color_l1", prediction, target)
    return mean_distance(prediction, target)


def color_l2(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean (y - t)^2 over C, H, W: (N,), from two images (N, C, H, W)."""
    prediction, target = checked_pair("color_l2", prediction, target)
    return (prediction - target).square().mean((1, 2, 3))


def color_gradient(prediction: Tensor, target: Tensor) -> Tensor:
    """L1 between the magnitudes of forward differences, along x plus along y: (N,).

    Only magnitudes are compared, so an edge may have either sign.
    """
    prediction, target = checked_pair("color_gradient", prediction, target)
    along_x = mean_distance(prediction.diff(dim=3).abs(), target.diff(dim=3).abs())
    return along_x + mean_distance(prediction.diff(dim=2).abs(), target.diff(dim=2).abs())


CELL = 8  # pixels, of `texture`
OCTAVES = (1, 2, 4)  # pixels of the squares over which `texture` averages the images first


def texture(prediction: Tensor, target: Tensor) -> Tensor:
    """L1 between the edge strengths of two images (N, C, H, W) in overlapping cells: (N,).

    A cell's edge strength is the mean magnitude of its forward differences. Sums over differences
    along x and y, and is a mean over OCTAVES, so that a grid of pixels is no substitute for folds
    and limbs. An L1 of pixels is smallest for a blur where details cannot be known; this term asks
    for as much detail as the target has, wherever it is within a cell.
    """
    prediction, target = checked_pair("texture", prediction, target)
    total = prediction.new_zeros(len(prediction))
    for side in OCTAVES:
        images = [nn.functional.avg_pool2d(image, side) for image in (prediction, target)]
        for dim in (2, 3):
            ours, theirs = (_edge_strengths(image, dim, CELL // side) for image in images)
            total = total + mean_distance(ours, theirs)
    return total / len(OCTAVES)


def _edge_strengths(image: Tensor, dim: int, cell: int) -> Tensor:
    """Mean magnitude of the forward differences along `dim` in overlapping cells."""
    return nn.functional.avg_pool2d(image.diff(dim=dim).abs(), cell, cell // 2, cell // 2)


def kl_unit_gaussians(posteriors: Sequence[Tensor], priors: Sequence[Tensor]) -> Tensor:
    """KL between Gaussians of unit variance, (N,): 0.5 |q - p|^2, summed over scales and elements.

    posteriors, priors  one mean a scale, (N, ...) each, of the same shapes
    The result is a sum over the dimensions of the latents, not a mean.
    """
    shapes = [[tuple(mean.shape) for mean in means] for means in (posteriors, priors)]
    if not shapes[0] or shapes[0] != shapes[1]:
        raise ValueError(
            "kl_unit_gaussians: priors must have the shapes of posteriors, "
            f"{shapes[0]}, got {shapes[1]}"
        )
    first, *rest = (
        (as_real(q) - as_real(p)).square().flatten(1).sum(1) * 0.5
        for q, p in zip(posteriors, priors, strict=True)
    )
    return sum(rest, first)


def kl_of_first(posteriors: Sequence[Tensor], priors: Sequence[Tensor]) -> Tensor:
    """`kl_unit_gaussians`, (N,), also if there are priors of the first images of a batch only.

    Then each value is the mean over these images: an estimate of the batch's mean.
    """
    n, some = len(posteriors[0]), len(priors[0])
    if some == n:
        return kl_unit_gaussians(posteriors, priors)
    return kl_unit_gaussians([mean[:some] for mean in posteriors], priors).mean().expand(n)


def parts_losses(
    prediction: Tensor,
    target: Tensor,
    posteriors: Sequence[Tensor],
    priors: Sequence[Tensor],
    kl_weight: float | Tensor,
    vgg: nn.Module | None = None,
    layers: Sequence[str] = PARTS_LAYERS,
    feature_weights: Sequence[float] = (1.0,) * 6,
    gram_weights: Sequence[float] = (0.0,) * 6,
    texture_weight: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of the parts form: 5 P + kl_weight * KL, both means over the batch.

    P = sum_i feature_weights_i mean|F_i(y) - F_i(t)| + sum_i gram_weights_i mean|G_i(y) - G_i(t)|
    over `layers`, + texture_weight texture(y, t) for levels of 0 to 255, which the published loss
    lacks. The published weights belong to the caffe family of VGG19 weights.
    posteriors, priors  means of the latents at the two coarsest scales; with priors of the first
                        images only, KL is the mean over these
    returns             total (scalar), {"feature_<layer>", "gram_<layer>", "texture",
                        "likelihood_loss" = 5 P, "kl_loss", "loss"}. These are the published
                        names, except that terms of P are named after layers, not numbered
    """
    for name, weights in (("feature_weights", feature_weights), ("gram_weights", gram_weights)):
        _check_weights("parts_losses", name, weights, len(layers))
    weight_of = {f"feature_{k}": w for k, w in zip(layers, feature_weights, strict=True)}
    weight_of |= {f"gram_{k}": w for k, w in zip(layers, gram_weights, strict=True)}
    terms = feature_distances(
        prediction,
        target,
        [name for name in layers if weight_of[f"feature_{name}"]],
        [name for name in layers if weight_of[f"gram_{name}"]],
        vgg,
    )
    if texture_weight:
        terms["texture"] = 127.5 * texture(prediction, target)  # in the unit of input_1, 0 to 255
        weight_of["texture"] = texture_weight
    terms["likelihood_loss"] = 5.0 * _weighted_sum(terms, weight_of, prediction)
    terms["kl_loss"] = kl_of_first(posteriors, priors)
    terms["loss"] = terms["likelihood_loss"] + kl_weight * terms["kl_loss"]
    return _batch_means(terms, "loss")


def image_losses(
    prediction: Tensor,
    target: Tensor,
    posteriors: Sequence[Tensor],
    priors: Sequence[Tensor],
    weights: Mapping[str, float | Tensor],
    vgg: nn.Module | None = None,
    vgg_feat_weights: Sequence[float] = (1.0,) * 6,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of the image form: the weighted sum of named terms, averaged over the batch.

    weights           term -> factor. Terms are color_L1, color_L2, color_gradient, KL, perceptual;
                      a term without a factor is not computed
    vgg_feat_weights  factors within `perceptual` of the image itself and relu1_2 .. relu5_2. The
                      published ones belong to the torchvision family
    returns           total (scalar), {term: value, ..., "total"}
    Raises ValueError for an unknown term, and if all weights are zero.
    """
    unknown = [name for name in weights if name not in IMAGE_TERMS]
    if unknown or not weights:
        raise ValueError(
            f"image_losses: weights must name terms of {', '.join(IMAGE_TERMS)}, "
            f"got {', '.join(unknown) or 'none'}"
        )
    _check_weights("image_losses", "vgg_feat_weights", vgg_feat_weights, len(IMAGE_LAYERS))
    weight_of = {f"feature_{k}": w for k, w in zip(IMAGE_LAYERS, vgg_feat_weights, strict=True)}

    def perceptual() -> Tensor:
        layers = [name for name in IMAGE_LAYERS if weight_of[f"feature_{name}"]]
        distances = feature_distances(prediction, target, layers, vgg=vgg)
        return _weighted_sum(distances, weight_of, prediction)

    compute = {
        "color_L1": lambda: color_l1(prediction, target),
        "color_L2": lambda: color_l2(prediction, target),
        "color_gradient": lambda: color_gradient(prediction, target),
        "KL": lambda: kl_of_first(posteriors, priors),
        "perceptual": perceptual,
    }
    terms = {
        name: compute[name]()
        for name, weight in weights.items()
        if name == "KL" or isinstance(weight, Tensor) or weight != 0
    }
    if not terms:
        raise ValueError(f"image_losses: weights must not all be zero, got {dict(weights)}")
    terms["total"] = _weighted_sum(terms, weights, prediction)
    return _batch_means(terms, "total")


def _weighted_sum(
    terms: Mapping[str, Tensor], weights: Mapping[str, float | Tensor], images: Tensor
) -> Tensor:
    """The weighted sum of terms, (N,); zeros if there are none."""
    if not terms:
        return images.new_zeros(len(images), dtype=torch.float32)
    return torch.stack([weights[name] * value for name, value in terms.items()]).sum(0)


def _batch_means(terms: Mapping[str, Tensor], whole: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The batch mean of the term `whole`, and detached means of all terms."""
    means = {name: value.mean() for name, value in terms.items()}
    return means[whole], {name: value.detach() for name, value in means.items()}


def _check_weights(function: str, name: str, weights: Sequence[float], count: int) -> None:
    if len(weights) != count or not all(math.isfinite(w) and w >= 0 for w in weights):
        raise ValueError(
            f"{function}: {name} must be {count} finite numbers >= 0, one a layer, "
            f"got {list(weights)}"
        )
