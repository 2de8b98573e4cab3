"""Image files to tensors and back."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from nets.data.io.files import whole_file
from nets.errors import BadSample, UserError

ORIENTATION = 0x0112  # the EXIF tag
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


class Placed(NamedTuple):
    """An image inside a square, and where: its first pixel's x and y, width and height, pixels."""

    image: Tensor
    box: tuple[int, int, int, int]


def read_image(path: str | Path, size: int | tuple[int, int] | None) -> Tensor:
    """An image squashed to `size`, a side or (W, H), or as it is: (3, H, W) uint8, RGB.

    Pillow's BILINEAR filter, which averages where it shrinks. Large JPEGs are decoded at a half, a
    quarter or an eighth of their size as long as that leaves twice the pixels needed in each
    direction; the result then differs by less than a level on average. EXIF orientation is obeyed;
    palettes, CMYK and 16 bits become 8-bit RGB; what is transparent shows white.
    Raises BadSample where the file is missing, truncated, no image, or too large to be one
    (PIL.Image.MAX_IMAGE_PIXELS).
    """
    if size is None:
        return _tensor(_open(path, None))
    shape = (size, size) if isinstance(size, int) else tuple(size)
    return _tensor(_open(path, max(shape)).resize(shape, Image.Resampling.BILINEAR))


def read_crop(path: str | Path, box: Sequence[float] | None, size: int) -> Tensor:
    """A box of an image squashed to a square, (3, size, size) uint8, like read_image.

    box  x_min, y_min, x_max, y_max in pixels, rounded to whole ones (halves to even); None: all
    Raises BadSample also where no pixel of the image lies in the box.
    """
    if box is None:
        return read_image(path, size)
    image = _open(path, None)
    x0, y0, x1, y1 = (round(edge) for edge in box)
    if min(x1, image.width) <= max(x0, 0) or min(y1, image.height) <= max(y0, 0):
        whole = f"{image.width} x {image.height}"
        raise BadSample(path, f"is {whole} pixels; the box {x0, y0, x1, y1} lies outside")
    part = image.crop((x0, y0, x1, y1))
    return _tensor(part.resize((size, size), Image.Resampling.BILINEAR))


def squash(image: Tensor, box: Sequence[float] | None, size: int) -> Tensor:
    """A box of an image (3, H, W) uint8 as `read_crop` would make it, (3, size, size) uint8."""
    pillow = Image.fromarray(image.cpu().permute(1, 2, 0).contiguous().numpy())
    if box is not None:
        pillow = pillow.crop(tuple(round(edge) for edge in box))
    return _tensor(pillow.resize((size, size), Image.Resampling.BILINEAR))


def read_letterboxed(path: str | Path, size: int) -> Placed:
    """Like read_image, but keeping the aspect ratio: the square's rest is black."""
    return _letterboxed(_open(path, size), size)


def letterbox(image: Tensor, size: int) -> Placed:
    """An image (3, H, W) uint8 in a square, as `read_letterboxed` places a file's."""
    return _letterboxed(Image.fromarray(image.cpu().permute(1, 2, 0).contiguous().numpy()), size)


def _letterboxed(image: Image.Image, size: int) -> Placed:
    scale = size / max(image.size)
    w, h = (max(1, round(side * scale)) for side in image.size)
    x, y = (size - w) // 2, (size - h) // 2
    square = Image.new("RGB", (size, size))
    square.paste(image.resize((w, h), Image.Resampling.BILINEAR), (x, y))
    return Placed(_tensor(square), (x, y, w, h))


def list_images(option: str, files: Iterable[str | Path]) -> list[Path]:
    """The files themselves, and the images in those that are folders, by name.

    option  what the files were given as, for the UserError of a folder without images
    """
    result = []
    for file in map(Path, files):
        inside = [file]
        if file.is_dir():
            inside = sorted(p for p in file.iterdir() if p.suffix.lower() in SUFFIXES)
        if not inside:
            raise UserError(f"{option} {file}: no images in this folder")
        result += inside
    return result


def read_grey(path: str | Path, size: int) -> Tensor:
    """An image as 0.21 R + 0.72 G + 0.07 B, squashed to a square: (1, S, S) uint8, rounded.

    Otherwise as read_image, which says what is read and refused.
    """
    weights = torch.tensor([0.21, 0.72, 0.07]).view(3, 1, 1)
    return (read_image(path, size) * weights).sum(0, keepdim=True).round().to(torch.uint8)


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) as the image is to be seen, without decoding it. Raises BadSample."""
    with _images_only(path), Image.open(path) as image:
        w, h = image.size
        return (h, w) if image.getexif().get(ORIENTATION, 1) >= 5 else (w, h)


def write_image(path: str | Path, image: Tensor) -> None:
    """Writes (3, H, W) or (1, H, W) uint8 as PNG or JPEG, whole or not at all; makes the folder.

    Raises UserError on another ending, OSError with the path where it cannot be written.
    """
    path = Path(path)
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"{path}: images are written as .png, .jpg or .jpeg")
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] not in (1, 3):
        what = f"{list(image.shape)} {image.dtype}"
        raise ValueError(f"write_image: image must be (3, H, W) or (1, H, W) uint8, got {what}")
    pixels = image.cpu().permute(1, 2, 0).contiguous().numpy()
    pillow = Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels)
    with whole_file(path) as file:
        pillow.save(file, kind, **({"quality": 95} if kind == "JPEG" else {}))


def _open(path: str | Path, size: int | None) -> Image.Image:
    """The image decoded to RGB, at no less than twice the size if it has that much."""
    with _images_only(path), Image.open(path) as image:
        if size is not None and image.mode in ("RGB", "L"):
            image.draft(image.mode, (2 * size, 2 * size))
        image.load()
        return _rgb(ImageOps.exif_transpose(image), path)


def _rgb(image: Image.Image, path: str | Path) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16 bits, or 32 that hold 16
        levels = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray((levels // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise BadSample(path, "holds floating-point pixels; write it with 8 or 16 bits")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return image.convert("RGB")


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())


class _images_only:
    """Turns whatever goes wrong with an image's file into a BadSample that says it."""

    def __init__(self, path: str | Path):
        self.path = path
        self.warnings = warnings.catch_warnings()

    def __enter__(self) -> None:
        self.warnings.__enter__()
        warnings.filterwarnings("ignore", module="PIL")  # odd metadata does not matter here
        warnings.simplefilter("error", Image.DecompressionBombWarning)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self.warnings.__exit__(kind, error, trace)
        if error is None or isinstance(error, BadSample):
            return
        if isinstance(error, FileNotFoundError):
            why = "is missing"
        elif isinstance(error, UnidentifiedImageError):
            why = "is not an image"
        elif isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
            why = f"is too large for an image (more than {Image.MAX_IMAGE_PIXELS:,} pixels)"
        elif isinstance(error, OSError) and error.errno is not None:
            why = f"cannot be read: {(error.strerror or str(error)).lower()}"
        elif isinstance(error, BROKEN):
            why = f"is truncated or damaged ({error})"
        else:
            return
        raise BadSample(self.path, why) from error
