"""Faces as 68 points: their files, and the square that is cut out around a face.

Points are (x, y) in pixels, iBUG order: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, lips 48-67.
"""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from nets import plain_json
from nets.data.io.files import read_arrays, whole_file
from nets.errors import BadSample

MOST_SIDE = 8192  # of a square that is held in memory whole, pixels
LABELS = 40  # largest label of a mask's part; brighter masks hold levels
UNKNOWN = 255  # label of the borders in many data sets
_labels_said = False  # one line a process, not one an image


class FaceBox(NamedTuple):
    """A square around a face: its centre, and half of its side, in whole pixels."""

    cx: int
    cy: int
    size: int


def face_crop_box(points: Tensor | np.ndarray) -> FaceBox:
    """The square to cut out around a face: (cx, cy, size), of side 2 * size.

    points  (K, 2) float, pixels
    `size` is the longer side of the points' bounding box, truncated. The centre is that of the
    bounding box, rounded (half to even) and moved up by size / 6.
    Raises ValueError if the points are not finite or span less than a pixel.
    """
    at = torch.as_tensor(points).double()
    if at.ndim != 2 or at.shape[1] != 2 or not len(at):
        raise ValueError(f"face_crop_box: points must be (K, 2), K > 0, got {list(at.shape)}")
    low, high = at.amin(0), at.amax(0)
    width, height = (high - low).tolist()
    if not math.isfinite(width + height) or max(width, height) < 1:
        raise ValueError("face_crop_box: points must be finite and span a pixel or more")
    size = int(max(width, height))
    cx, cy = (round(value) for value in ((low + high) / 2).tolist())
    return FaceBox(cx, cy - size // 6, size)


def stable_boxes(points: Tensor, fps: float, seconds: float = 0.25) -> list[FaceBox]:
    """The squares to cut a head out of a video: of one size, on a smooth path.

    points   (T, K, 2) float, pixels: those of one face in T frames
    seconds  standard deviation of the smoothing
    The size is the median of `face_crop_box`; the centre is its centre in lines fitted around each
    frame, with Gaussian weights. Frames before and after count alike, so there is no lag: a steady
    motion is followed exactly, one of 0.5 Hz to 73 %. A jump by more than half a face is a cut and
    starts anew, with a size of its own.
    Raises ValueError if the points are not finite or span less than a pixel.
    """
    single = [face_crop_box(at) for at in points]
    low, high = points.double().amin(1), points.double().amax(1)
    centre, size = (low + high) / 2, torch.tensor([box.size for box in single]).double()
    jump = centre.diff(dim=0).norm(dim=-1) > torch.minimum(size[1:], size[:-1]) / 2
    edges = [0, *(jump.nonzero()[:, 0] + 1).tolist(), len(points)]
    boxes = []
    for begin, end in pairwise(edges):
        half = int(size[begin:end].median())
        path = _smooth(centre[begin:end], seconds * fps).round().int().tolist()
        boxes += [FaceBox(cx, cy - half // 6, half) for cx, cy in path]
    return boxes


def _smooth(path: Tensor, sigma: float) -> Tensor:
    """A path (T, 2) smoothed by lines fitted with Gaussian weights; sigma in frames."""
    reach = max(1, min(len(path) - 1, math.ceil(3 * sigma)))
    away = torch.arange(-reach, reach + 1).double()
    kernel = (-(away**2) / (2 * max(sigma, 0.1) ** 2)).exp()
    powers = torch.stack([kernel, kernel * away, kernel * away**2])[:, None]
    values = torch.cat([torch.ones_like(path[:, :1]), path], 1).T[:, None]  # 1, x, y
    sums = F.conv1d(values, powers, padding=reach)  # (3, 3, T): value, power, frame
    (s0, s1, s2), t0, t1 = sums[0], sums[1:, 0], sums[1:, 1]
    spread = s0 * s2 - s1**2
    line = torch.where(spread > 1e-9, (s2 * t0 - s1 * t1) / spread.clamp_min(1e-9), t0 / s0)
    return line.T


def crop_square(image: Tensor, box: FaceBox | tuple[int, int, int], size: int) -> Tensor:
    """The box cut out of an image and resized (bicubic): uint8 (C, size, size), black outside.

    image  uint8 (C, H, W), C = 3, or 1 for a mask
    box    (cx, cy, half side) in pixels, as returned by `face_crop_box`
    """
    cx, cy, half = box
    shrink = 2 * half // max(MOST_SIDE, 2 * size)
    if shrink > 1:  # a square much larger than the result would fill the memory
        pillow = to_pillow(image).reduce(shrink)
        cx, cy, half = (round(value / shrink) for value in (cx, cy, half))
        pillow = pillow.crop((cx - half, cy - half, cx + half, cy + half))
    else:  # only the square's pixels are copied
        h, w = image.shape[1:]
        left, top = (min(max(0, at - half), end - 1) for at, end in ((cx, w), (cy, h)))
        part = image[:, top : max(top + 1, cy + half), left : max(left + 1, cx + half)]
        corner = cx - half - left, cy - half - top
        pillow = to_pillow(part).crop((*corner, corner[0] + 2 * half, corner[1] + 2 * half))
    pixels = np.array(pillow.resize((size, size), Image.Resampling.BICUBIC))
    # A view: detectors and files want the pixels in this order and get it without a copy.
    return torch.from_numpy(pixels.reshape(size, size, -1)).permute(2, 0, 1)


def resize_square(image: Tensor, size: int) -> Tensor:
    """An image squashed to a square (Pillow's bicubic): uint8 (C, size, size).

    image  uint8 (C, H, W), C = 1 or 3; returned unchanged if it has that size
    """
    if tuple(image.shape[1:]) == (size, size):
        return image
    return from_pillow(to_pillow(image).resize((size, size), Image.Resampling.BICUBIC))


def points_in_crop(points: Tensor, box: FaceBox | tuple[int, int, int], size: int) -> Tensor:
    """Points of an image, in pixels of the crop `crop_square(image, box, size)`."""
    cx, cy, half = box
    corner = torch.tensor([cx - half, cy - half], dtype=points.dtype, device=points.device)
    return (points - corner) * (size / (2 * half))


def normalised_pose(points: Tensor, width: float) -> Tensor:
    """Poses in [-1, 1], the networks' input: (..., 2 K) float32, x and y alternating.

    points  (..., K, 2) pixels of a square image
    width   side of the image, pixels
    """
    return (points.float() / width * 2 - 1).flatten(-2)


def pose_points(pose: Tensor, size: int) -> Tensor:
    """The points of poses, in pixels of an image of side `size`: (..., 2 K) -> (..., K, 2)."""
    return (pose.unflatten(-1, (-1, 2)) + 1) / 2 * size


def read_keypoints(path: str | Path, count: int = 68) -> Tensor:
    """The first `count` points of a file, (count, 2) float32, in the file's unit.

    path  .npy of shape (K, 2 or more), (1, 2 K) or (2 K,); or .json, a list of the same form
    Raises BadSample if the file is missing, not an array of numbers, or of another shape.
    """
    return points_from_array(read_array(path), path, count)


def read_array(path: str | Path) -> np.ndarray:
    """The array in a .npy or .json file. Raises BadSample."""
    path = Path(path)
    values: np.ndarray | dict[str, np.ndarray]
    try:
        if path.suffix.lower() == ".json":
            values = np.asarray(plain_json.load(path), dtype=np.float64)
        else:
            values = read_arrays(path)
    except FileNotFoundError as error:
        raise BadSample(path, "is missing") from error
    except OSError as error:
        raise BadSample(
            path, f"cannot be read: {(error.strerror or str(error)).lower()}"
        ) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise BadSample(path, "is not an array of numbers") from error
    if isinstance(values, dict):
        raise BadSample(path, "is not an array of numbers")
    return values


def points_from_array(values: np.ndarray, path: str | Path, count: int = 68) -> Tensor:
    """Points (count, 2) float32 from an array in one of the shapes of `read_keypoints`.

    path  file of the array, for the BadSample that is raised if it does not fit
    """
    if values.dtype.kind not in "fiu":
        raise BadSample(path, f"must hold numbers, holds {values.dtype}")
    flat = values.ndim == 1 or (values.ndim == 2 and len(values) == 1)
    if flat and values.size == 2 * count:
        values = values.reshape(count, 2)
    if values.ndim != 2 or values.shape[0] < count or values.shape[1] < 2:
        raise BadSample(
            path, f"must hold keypoints ({count}, 2) or (1, {2 * count}), holds {values.shape}"
        )
    points = torch.from_numpy(np.array(values[:count, :2], dtype=np.float32))
    if not points.isfinite().all():
        raise BadSample(path, "holds keypoints that are not finite")
    return points


def write_keypoints(path: str | Path, points: Tensor) -> None:
    """Write points (K, 2) as a float32 .npy, whole or not at all. Creates the folder."""
    with whole_file(path) as file:
        np.save(file, points.detach().cpu().numpy().astype(np.float32))


def read_mask(path: str | Path) -> Tensor:
    """A mask file as (1, H, W) uint8, 255 on the person; the first channel of three.

    A file of labels (0: background, 1, 2, ...: parts of a person, 255: unknown) gives 255 on all
    parts. These are files with a palette of colours, those without other values than 0, 1, ...
    LABELS and 255, and those with 0 and one other value; JPEG excepted. One line on stderr says so.
    Raises BadSample.
    """
    global _labels_said
    from nets.data.io.images import read_levels

    levels, kind = read_levels(path)
    counts = torch.bincount(levels.flatten(), minlength=256)  # faster than to compare all pixels
    values = counts.nonzero()[:, 0]
    value = torch.arange(256)
    parts = (value > 0) & (value <= (UNKNOWN - 1 if kind == "indices" else LABELS))
    if len(values) == 2 and values[0] == 0 and values[1] < UNKNOWN:
        parts = value > 0
    count = counts[parts].sum()
    unknown = (value == UNKNOWN) & (counts[UNKNOWN] < count)
    if kind == "lossy" or not count or counts[~(parts | unknown | (value == 0))].any():
        return levels.to(torch.uint8)[None]
    if not _labels_said:
        _labels_said = True
        last = int(values[parts[values]].max())
        print(
            f"{path}: holds labels 0 to {last}, not levels up to 255: all but label 0 are taken "
            "for the person, here and in files like it",
            file=sys.stderr,
            flush=True,
        )
    return parts[levels.long()].to(torch.uint8)[None] * 255


def hull_mask(points: Tensor, size: int, forehead: float = 0.8) -> Tensor:
    """A mask estimated from face points: (1, size, size) uint8, 255 on the person.

    points    (68, 2) pixels of an image of side `size`
    forehead  height above the brows, relative to that of the face below them
    The mask is the convex hull of the points, and of the brows moved up by the forehead.
    """
    at = points.detach().cpu().double()
    brows = at[17:27].clone()
    brows[:, 1] -= (at[:17, 1].amax() - brows[:, 1].mean()).clamp_min(0) * forehead
    outline = _convex_hull(torch.cat([at, brows]).tolist())
    image = Image.new("L", (size, size))
    if len(outline) > 2:
        ImageDraw.Draw(image).polygon(outline, fill=255)
    return from_pillow(image)


def _convex_hull(points: list[list[float]]) -> list[tuple[float, float]]:
    """Corners of the convex hull in order (Andrew 1979)."""
    half: list[list[tuple[float, float]]] = [[], []]
    ordered = sorted(set(map(tuple, points)))
    for line, corners in ((half[0], ordered), (half[1], ordered[::-1])):
        for x, y in corners:
            while len(line) > 1:
                (ax, ay), (bx, by) = line[-2:]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                line.pop()
            line.append((x, y))
    return half[0][:-1] + half[1][:-1]


def to_pillow(image: Tensor) -> Image.Image:
    """The Pillow image of uint8 (C, H, W), C = 1 or 3."""
    pixels = image.cpu().permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def from_pillow(image: Image.Image) -> Tensor:
    """The pixels of a Pillow image, (C, H, W)."""
    pixels = np.array(image)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())
