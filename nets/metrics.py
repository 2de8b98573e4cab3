"""Scores of images against the ground truth, and the protocol behind each number.

Most scores take 8-bit images: uint8 (N, 3, H, W) RGB, as they would be written to a file. They
return one float64 number per image, (N,); `summary` reduces them to mean and standard deviation.
`signed_psnr`, `signed_ssim` and `pose_error` are the scores of the published head avatars. They
take the networks' outputs: RGB in [-1, 1], not rounded. LPIPS and identity similarity are in
`nets.pretrained`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_SETTINGS = {"window": 11, "sigma": 1.5, "data_range": 255.0, "k1": 0.01, "k2": 0.03}
PSNR_SETTINGS = {"data_range": 255.0}
NEAREST_ROWS = 32  # rows of the small images that `nearest_target` compares

# What evaluate.py prints beside the numbers.
PROTOCOL = {
    "ssim": (
        "SSIM: Gaussian window {window}x{window} of sigma {sigma}, data "
        "range {data_range:g} on 8-bit RGB at the network's resolution, k1 {k1}, k2 {k2}, "
        "variances weighted by the window without bias correction, borders by reflection, mean "
        "over all pixels and the three channels"
    ).format(**SSIM_SETTINGS),
    "ssim_inside": (
        "SSIM, inside: as scikit-image with gaussian_weights, sigma 1.5 and without sample "
        "covariance: window 11x11, data range 255, k1 0.01, k2 0.03, mean over the windows that "
        "lie wholly in the image, and over the channels; in float64"
    ),
    "ssim_window51": (
        "SSIM, window 51: as scikit-image with win_size 51 and data_range 1 on RGB in [0, 1]: a "
        "uniform window, variances divided by 51 x 51 - 1, mean over the windows that lie wholly "
        "in the image, and over the channels; in float64"
    ),
    "mask_ssim": (
        "mask-SSIM: 'SSIM, inside' of the two images, black outside the mask of the target's "
        "person: all points within 4 pixels of a limb between two known joints, closed with a "
        "square of 5x5; the neck is the middle of the shoulders; images with less than one limb "
        "are left out and counted"
    ),
    "frechet": (
        "FID: Frechet distance between Gaussians fitted to the 2048 features of pytorch-fid's "
        "InceptionV3, covariances divided by N - 1; images are resized to 299x299, bilinear "
        "without antialiasing; few images give a large FID"
    ),
    "inception_score": (
        "inception score: exp of the mean KL between an image's class probabilities and those of "
        "its part, in 10 parts in the order of the list; mean and standard deviation of the parts; "
        "class logits of pytorch-fid's InceptionV3 without bias"
    ),
    "psnr": (
        "PSNR in dB: data range {data_range:g} on 8-bit RGB at the network's "
        "resolution, squared error averaged over pixels and channels of each image; equal "
        "images give inf"
    ).format(**PSNR_SETTINGS),
    "masked_l1": (
        "masked L1: mean absolute difference over the mask's pixels and the three channels of "
        "8-bit RGB, in units of the full range (0 to 1)"
    ),
    "nearest_outfit": (
        "nearest outfit: the candidate of smallest masked L1 to the prediction, all in the same "
        "pose; of equal candidates the first"
    ),
    "nearest_target": (
        f"nearest target: result and true targets are shrunk by area to {NEAREST_ROWS} rows; the "
        "share of results that are nearer in L1 to their own target than to all targets of other "
        "people"
    ),
    "gradient": (
        "gradient: mean absolute difference of horizontal plus that of vertical neighbours over "
        "all channels, of the result divided by that of the truth; mean over the images; a blur "
        "has little, noise more than 1"
    ),
    "l1": "L1: mean absolute difference of 8-bit RGB, in units of the full range (0 to 1)",
    "signed_psnr": (
        "PSNR in dB: 20 log10(2 / sqrt(MSE)) over all images together, RGB in [-1, 1], not clamped"
    ),
    "signed_ssim": (
        "SSIM: Gaussian window 11x11 of sigma 1.5, zeros beyond the borders, on RGB in [-1, 1], "
        "not clamped; constants (0.01 R)^2 and (0.03 R)^2 of the data range R: 1 as in the "
        "published program, or 2, the images' own; mean over pixels and channels"
    ),
    "pose_error": (
        "pose error: mean distance between the 68 points detected in the prediction and in the "
        "truth, divided by the distance of the truth's eye centres; images without a detected "
        "face are left out and counted"
    ),
    "summary": (
        "mean and standard deviation (population) over the images; infinite values are counted "
        "and left out"
    ),
}


def ssim(prediction: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each image, (N,), at most 1: `PROTOCOL["ssim"]`.

    prediction, truth  uint8 (N, 3, H, W); H and W at least 6 (the reflection needs them)
    Wang et al. 2004, eq. 13.
    """
    _check("ssim", prediction, truth)
    if min(prediction.shape[-2:]) < 6:
        raise ValueError(
            f"ssim: prediction must be at least 6x6 pixels, got {list(prediction.shape)}"
        )
    # The variances are small differences of large numbers: float64 where it is fast and float32
    # might mean TF32; on the CPU float32, 20 times faster there (test_ssim_of_flat_images).
    dtype = torch.float64 if prediction.is_cuda else torch.float32
    with torch.autocast(prediction.device.type, enabled=False):
        scores = [  # one image at a time keeps the memory small
            _ssim_of_one(prediction[i : i + 1].to(dtype), truth[i : i + 1].to(dtype))
            for i in range(len(prediction))
        ]
    return torch.stack(scores).double() if scores else prediction.new_zeros(0, dtype=torch.float64)


def _ssim_of_one(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of two images (1, 3, H, W) in [0, 255], a scalar."""
    size, data_range = int(SSIM_SETTINGS["window"]), SSIM_SETTINGS["data_range"]
    window = _gaussian_window(size, SSIM_SETTINGS["sigma"], x).expand(3, 1, size, size)
    x, y = (F.pad(image, [size // 2] * 4, mode="reflect") for image in (x, y))
    mx, my, xx, yy, xy = F.conv2d(torch.cat([x, y, x * x, y * y, x * y]), window, groups=3)
    variance_x = (xx - mx**2).clamp(min=0)
    variance_y = (yy - my**2).clamp(min=0)
    covariance = xy - mx * my
    c1, c2 = (SSIM_SETTINGS["k1"] * data_range) ** 2, (SSIM_SETTINGS["k2"] * data_range) ** 2
    top = (2 * (mx * my) + c1) * (2 * covariance + c2)
    bottom = (mx**2 + my**2 + c1) * (variance_x + variance_y + c2)
    return (top / bottom).mean()


def ssim_inside(prediction: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each image, (N,): `PROTOCOL["ssim_inside"]`.

    prediction, truth  uint8 (N, 3, H, W); H and W at least 11
    """
    _check_window("ssim_inside", prediction, truth, 11)
    taps = _gaussian_window(11, 1.5, torch.zeros(1, dtype=torch.float64)).sum(0)

    def mean(x: Tensor) -> Tensor:
        line = taps.to(x.device).expand(3, 1, 1, 11)
        return F.conv2d(F.conv2d(x, line, groups=3), line.transpose(2, 3), groups=3)

    return _ssim_of_windows(prediction.double(), truth.double(), mean, 255.0, 1.0)


def ssim_window51(prediction: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each image, (N,): `PROTOCOL["ssim_window51"]`.

    prediction, truth  uint8 (N, 3, H, W); H and W at least 51
    """
    _check_window("ssim_window51", prediction, truth, 51)

    def mean(x: Tensor) -> Tensor:
        sums = F.pad(x, (1, 0, 1, 0)).cumsum(-1).cumsum(-2)  # a window's sum from its corners
        sums = sums[..., 51:, :] - sums[..., :-51, :]
        return (sums[..., 51:] - sums[..., :-51]) / 51**2

    x, y = prediction.double() / 255, truth.double() / 255
    return _ssim_of_windows(x, y, mean, 1.0, 51**2 / (51**2 - 1))


def _ssim_of_windows(
    x: Tensor,
    y: Tensor,
    mean: Callable[[Tensor], Tensor],
    data_range: float,
    correction: float,
) -> Tensor:
    """Mean structural similarity of each image, (N,), over the windows that `mean` averages.

    correction  factor of variances and covariances
    """
    mx, my = mean(x), mean(y)
    vx, vy = mean(x * x) - mx**2, mean(y * y) - my**2
    covariance = correction * (mean(x * y) - mx * my)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    top = (2 * mx * my + c1) * (2 * covariance + c2)
    return (top / ((mx**2 + my**2 + c1) * (correction * (vx + vy) + c2))).mean((1, 2, 3))


def frechet(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """The Frechet distance between two Gaussians: `PROTOCOL["frechet"]`.

    one, other  mean (D,) and covariance (D, D) of `gaussian_of`
    Heusel et al. 2017, eq. 6. The trace of (A B)^1/2 is that of (A^1/2 B A^1/2)^1/2.
    """
    (mean, a), (centre, b) = ((m.double(), c.double()) for m, c in (one, other))
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    common = torch.linalg.eigvalsh(root @ b @ root).clamp_min(0).sqrt().sum()
    return float((mean - centre).square().sum() + a.trace() + b.trace() - 2 * common)


def gaussian_of(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) of features (N, D), N at least 2; in float64."""
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(
            f"gaussian_of: features must be [N, D] with N >= 2, got {list(features.shape)}"
        )
    features = features.double()
    centred = features - features.mean(0)
    return features.mean(0), centred.T @ centred / (len(features) - 1)


def inception_score(logits: Tensor, parts: int = 10) -> tuple[float, float]:
    """Mean and standard deviation of the score: `PROTOCOL["inception_score"]`.

    logits  (N, classes), N at least `parts`
    Salimans et al. 2016.
    """
    if logits.ndim != 2 or len(logits) < parts:
        raise ValueError(
            f"inception_score: logits must be [N, classes] with N >= {parts}, "
            f"got {list(logits.shape)}"
        )
    scores = []
    for part in logits.double().tensor_split(parts):
        log_p = part.log_softmax(1)
        p = log_p.exp()
        scores.append((p * (log_p - p.mean(0).log())).sum(1).mean().exp())
    values = torch.stack(scores)
    return float(values.mean()), float(values.std(correction=0))


def _gaussian_window(size: int, sigma: float, like: Tensor) -> Tensor:
    """A Gaussian of sum 1, (size, size), in the type and on the device of `like`."""
    offsets = torch.arange(size, dtype=like.dtype, device=like.device) - size // 2
    line = torch.exp(-((offsets / sigma) ** 2) / 2)
    line = line / line.sum()
    return line[:, None] * line


def psnr(prediction: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, (N,): `PROTOCOL["psnr"]`.

    prediction, truth  uint8 (N, 3, H, W); equal images give inf
    """
    _check("psnr", prediction, truth)
    error = (prediction.double() - truth.double()).square().mean((1, 2, 3))
    return 10 * torch.log10(PSNR_SETTINGS["data_range"] ** 2 / error)


def signed_psnr(prediction: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio over all images, a scalar in dB: `PROTOCOL["signed_psnr"]`.

    prediction, truth  floating, of one shape, in [-1, 1]; equal images give inf
    """
    return 20 * torch.log10(2 / (prediction.double() - truth.double()).square().mean().sqrt())


def signed_ssim(prediction: Tensor, truth: Tensor, data_range: float = 1.0) -> Tensor:
    """Structural similarity of each image, (N,): `PROTOCOL["signed_ssim"]`.

    prediction, truth  floating (N, C, H, W) in [-1, 1]
    data_range         1 as in published numbers, 2 for the constants of the images' own range
    """
    if prediction.ndim != 4 or prediction.shape != truth.shape:
        raise ValueError(
            "signed_ssim: prediction and truth must be [N, C, H, W] of one shape, "
            f"got {list(prediction.shape)} and {list(truth.shape)}"
        )
    x, y = (p.float().flatten(0, 1)[:, None] for p in (prediction, truth))
    window = _gaussian_window(11, 1.5, x)[None, None]
    with torch.autocast(x.device.type, enabled=False):
        maps = torch.cat([x, y, x * x, y * y, x * y])
        mx, my, xx, yy, xy = F.conv2d(maps, window, padding=5).chunk(5)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    top = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    bottom = (mx**2 + my**2 + c1) * (xx - mx**2 + yy - my**2 + c2)
    return (top / bottom).view(len(prediction), -1).mean(1).double()


def pose_error(
    detect: Callable[[Tensor], Tensor | None], prediction: Tensor, truth: Tensor
) -> tuple[Tensor, int]:
    """Errors of the images with a detected face, (M,), and the count of the others.

    `PROTOCOL["pose_error"]` says what an error is.

    detect             uint8 (3, H, W) -> 68 points (68, 2) in pixels, or None
    prediction, truth  (N, 3, H, W) in [-1, 1]
    """
    errors: list[Tensor] = []
    for pair in zip(prediction, truth, strict=True):
        as_read = (((p.float().clamp(-1, 1) + 1) / 2 * 255).to(torch.uint8) for p in pair)
        ours, theirs = (detect(image) for image in as_read)
        if ours is None or theirs is None:
            continue
        ours, theirs = ours.double().cpu(), theirs.double().cpu()
        eyes = theirs[36:42].mean(0) - theirs[42:48].mean(0)
        errors.append((ours - theirs).norm(dim=1).mean() / eyes.norm())
    values = torch.stack(errors) if errors else torch.zeros(0, dtype=torch.float64)
    return values, len(prediction) - len(values)


def masked_l1(prediction: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference inside the mask for each image, (N,) in [0, 1].

    prediction, truth  uint8 (N, 3, H, W)
    mask               bool (N, H, W) with at least one pixel in each image
    """
    _check("masked_l1", prediction, truth)
    _check_mask("masked_l1", mask, prediction)
    inside = mask[:, None]
    difference = (prediction.short() - truth.short()).abs() * inside
    return difference.sum((1, 2, 3)).double() / (inside.sum((1, 2, 3)) * 3 * 255)


def nearest_outfit(prediction: Tensor, mask: Tensor, candidates: Tensor) -> Tensor:
    """Index of the candidate that each prediction resembles most, (N,) int64.

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


def l1(prediction: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute difference of each image, (N,) in [0, 1]: `PROTOCOL["l1"]`.

    prediction, truth  uint8 (N, 3, H, W)
    """
    _check("l1", prediction, truth)
    return (prediction.short() - truth.short()).abs().double().mean((1, 2, 3)) / 255


def gradient(prediction: Tensor, truth: Tensor) -> Tensor:
    """Sharpness of each image as a multiple of its truth's, (N,): `PROTOCOL["gradient"]`.

    prediction, truth  uint8 (N, 3, H, W), at least 2x2; a flat truth gives inf or NaN
    """
    _check("gradient", prediction, truth)

    def differences(images: Tensor) -> Tensor:
        images = images.double()
        return sum((images.diff(dim=d).abs().mean((1, 2, 3)) for d in (2, 3)), torch.zeros(()))

    return differences(prediction) / differences(truth)


def small_images(images: Tensor) -> Tensor:
    """Images shrunk by area to 32 rows for `nearest_target`: float (N, 3, 32, W).

    images  uint8 (N, 3, H, W)
    """
    h, w = images.shape[-2:]
    width = max(1, round(NEAREST_ROWS * w / h))
    return F.interpolate(images.float(), (NEAREST_ROWS, width), mode="area")


def nearest_target(results: Tensor, targets: Tensor, people: Sequence[str]) -> Tensor:
    """Whether each result resembles its own target most, (N,) bool: `PROTOCOL["nearest_target"]`.

    results, targets  of `small_images`, (N, 3, h, w)
    people            N names of the targets' people, at least two different ones
    """
    if results.shape != targets.shape or len(people) != len(results):
        raise ValueError(
            f"nearest_target: targets must be {list(results.shape)} with {len(results)} people, "
            f"got {list(targets.shape)} with {len(people)}"
        )
    if len(set(people)) < 2:
        raise ValueError("nearest_target: people must be at least two different ones")
    numbers = {person: number for number, person in enumerate(dict.fromkeys(people))}
    who = torch.tensor([numbers[person] for person in people], device=results.device)
    flat = targets.flatten(1)
    rows = []
    for result, own, person in zip(results.flatten(1), flat, who, strict=True):
        distances = (result - flat).abs().mean(1)
        rows.append((result - own).abs().mean() < distances[who != person].min())
    return torch.stack(rows)


def summary(values: Tensor) -> dict[str, float | int]:
    """{"mean", "std", "count"} of per-image scores; also "infinite", a count, if any are.

    `PROTOCOL["summary"]` says how. The numbers are plain and finite, ready for JSON. Raises
    ValueError for NaN, and where no value is finite.
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


def _check_window(function: str, prediction: Tensor, truth: Tensor, window: int) -> None:
    _check(function, prediction, truth)
    if min(prediction.shape[-2:]) < window:
        raise ValueError(
            f"{function}: prediction must be at least {window}x{window} pixels, "
            f"got {list(prediction.shape)}"
        )


def _check_mask(function: str, mask: Tensor, images: Tensor) -> None:
    expected = [images.shape[0], *images.shape[2:]]
    if mask.dtype != torch.bool or list(mask.shape) != expected:
        raise ValueError(
            f"{function}: mask must be bool {expected}, got {list(mask.shape)} {mask.dtype}"
        )
    empty = (~mask.flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"{function}: mask must hold a pixel in every image, none in {empty}")
