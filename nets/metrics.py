"""Scores of pictures against the truth, and the protocol that each number depends on.

All of them take 8-bit pictures: uint8 (N, 3, H, W) RGB, as they would be written to a file. Scores
are per picture, (N,) float64; `summary` makes the mean and standard deviation of them.
"""

import math

import torch
from torch import Tensor

SSIM_SETTINGS = {"kernel_size": 11, "sigma": 1.5, "data_range": 255.0, "k1": 0.01, "k2": 0.03}
PSNR_SETTINGS = {"data_range": 255.0}

# What evaluate.py prints beside the numbers.
PROTOCOL = {
    "ssim": (
        "SSIM (torchmetrics): Gaussian window {kernel_size}x{kernel_size} of sigma {sigma}, data "
        "range {data_range:g} on 8-bit RGB at the network's resolution, k1 {k1}, k2 {k2}, "
        "variances weighted by the window without bias correction, borders by reflection, mean "
        "over all pixels and the three channels"
    ).format(**SSIM_SETTINGS),
    "psnr": (
        "PSNR in dB (torchmetrics): data range {data_range:g} on 8-bit RGB at the network's "
        "resolution, squared error averaged over pixels and channels of each picture; equal "
        "pictures give inf"
    ).format(**PSNR_SETTINGS),
    "masked_l1": (
        "masked L1: mean absolute difference over the mask's pixels and the three channels of "
        "8-bit RGB, in units of the full range (0 to 1)"
    ),
    "nearest_outfit": (
        "nearest outfit: the candidate of smallest masked L1 to the prediction, all in the same "
        "pose; the first one of equals"
    ),
    "summary": (
        "mean and standard deviation (population) over the pictures; infinite values are counted "
        "and left out"
    ),
}


def ssim(prediction: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each picture, (N,), at most 1: `PROTOCOL["ssim"]`.

    prediction, truth  uint8 (N, 3, H, W); H and W at least 6 (the reflection needs them)
    Wang et al. 2004, eq. 13.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    _check("ssim", prediction, truth)
    if min(prediction.shape[-2:]) < 6:
        raise ValueError(
            f"ssim: prediction must be at least 6x6 pixels, got {list(prediction.shape)}"
        )
    # The variances are small differences of large numbers: float64 where it is fast and float32
    # might mean TF32; on the CPU float32, 20 times faster there (test_ssim_of_flat_pictures).
    kind = torch.float64 if prediction.is_cuda else torch.float32
    with torch.autocast(prediction.device.type, enabled=False):
        scores = [  # one picture at a time keeps the memory small
            structural_similarity_index_measure(
                prediction[i : i + 1].to(kind), truth[i : i + 1].to(kind), **SSIM_SETTINGS
            )
            for i in range(len(prediction))
        ]
    return torch.stack(scores).double() if scores else prediction.new_zeros(0, dtype=torch.float64)


def psnr(prediction: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture in dB, (N,): `PROTOCOL["psnr"]`.

    prediction, truth  uint8 (N, 3, H, W); equal pictures give inf
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    _check("psnr", prediction, truth)
    scores = [
        peak_signal_noise_ratio(prediction[i].double(), truth[i].double(), **PSNR_SETTINGS)
        for i in range(len(prediction))
    ]
    return torch.stack(scores) if scores else prediction.new_zeros(0, dtype=torch.float64)


def masked_l1(prediction: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference inside the mask for each picture, (N,) in [0, 1].

    prediction, truth  uint8 (N, 3, H, W)
    mask               bool (N, H, W) with at least one pixel in each picture
    """
    _check("masked_l1", prediction, truth)
    _check_mask("masked_l1", mask, prediction)
    inside = mask[:, None]
    difference = (prediction.short() - truth.short()).abs() * inside
    return difference.sum((1, 2, 3)).double() / (inside.sum((1, 2, 3)) * 3 * 255)


def nearest_outfit(prediction: Tensor, mask: Tensor, candidates: Tensor) -> Tensor:
    """Which candidate each prediction looks most like: indices (N,), int64.

    prediction  uint8 (N, 3, H, W)
    mask        bool (N, H, W), the person in that pose
    candidates  uint8 (N, M, 3, H, W), M outfits rendered in the pose of the prediction
    """
    expected = (len(prediction), *prediction.shape[1:])
    if candidates.ndim != 5 or candidates.shape[1] == 0 or candidates.dtype != torch.uint8:
        raise ValueError(
            "nearest_outfit: candidates must be uint8 [N, M, 3, H, W] with M >= 1, "
            f"got {list(candidates.shape)} {candidates.dtype}"
        )
    if (candidates.shape[0], *candidates.shape[2:]) != expected:
        raise ValueError(
            "nearest_outfit: candidates must fit the prediction's shape "
            f"{list(expected)}, got {list(candidates.shape)}"
        )
    distances = [masked_l1(prediction, candidates[:, m], mask) for m in range(candidates.shape[1])]
    return torch.stack(distances, dim=1).argmin(dim=1)


def summary(values: Tensor) -> dict[str, float | int]:
    """{"mean", "std", "count"} of per-picture scores, and "infinite" if there are such.

    `PROTOCOL["summary"]`. The numbers are plain and finite, ready for JSON; NaN raises ValueError,
    and so does having no finite value at all.
    """
    values = values.double().flatten()
    finite = values[values.isfinite()]
    if values.isnan().any() or not len(finite):
        raise ValueError(
            "summary: values must hold finite numbers and no NaN, "
            f"got {int(values.isnan().sum())} NaN and {len(finite)} finite of {len(values)}"
        )
    mean = float(finite.mean())
    result = {
        "mean": mean,
        "std": math.sqrt(float((finite - mean).square().mean())),
        "count": len(finite),
    }
    return result | ({"infinite": len(values) - len(finite)} if len(finite) < len(values) else {})


def _check(function: str, prediction: Tensor, truth: Tensor) -> None:
    for name, images in (("prediction", prediction), ("truth", truth)):
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
            raise ValueError(
                f"{function}: {name} must be uint8 [N, 3, H, W], "
                f"got {list(images.shape)} {images.dtype}"
            )
    if prediction.shape != truth.shape:
        raise ValueError(
            f"{function}: truth must have the prediction's shape {list(prediction.shape)}, "
            f"got {list(truth.shape)}"
        )


def _check_mask(function: str, mask: Tensor, images: Tensor) -> None:
    expected = [images.shape[0], *images.shape[2:]]
    if mask.dtype != torch.bool or list(mask.shape) != expected:
        raise ValueError(
            f"{function}: mask must be bool {expected}, got {list(mask.shape)} {mask.dtype}"
        )
    empty = (~mask.flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"{function}: mask must hold a pixel in every picture, none in {empty}")
