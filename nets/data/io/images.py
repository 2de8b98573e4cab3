"""Image files: listed, read as tensors, written."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import math
import os
import struct
import warnings
import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError, features
from torch import Tensor

from nets.data.io.files import whole_file
from nets.errors import BadSample, UserError
from nets.listing import list_folder, report_left_out

WIDTH, HEIGHT, ORIENTATION = 0x0100, 0x0101, 0x0112  # TIFF and EXIF tags
TURNED = (5, 6, 7, 8)  # orientations with width and height exchanged
LIMIT = "GUISE_MAX_MEGAPIXELS"  # environment variable of --max_megapixels, which workers inherit
MAX_MEGAPIXELS = 256  # default; phones take 200
_limit: str | None = None  # the value that is in force
ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff",
           ".avif")  # fmt: skip
HEIF_ENDINGS = (".heic", ".heif", ".hif")  # of phones and cameras, read by pillow-heif
HEIF = "pip install pillow-heif (the extra heif: pip install -e '.[heif]')"
SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # of files or memory
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


def _apply_limit() -> None:
    """Set Pillow's limit, which is 89 megapixels by itself and less than today's phones take."""
    global _limit
    text = os.environ.get(LIMIT, "")
    if text == _limit:
        return
    _limit = text
    try:
        megapixels = float(text or MAX_MEGAPIXELS)
    except ValueError:
        megapixels = -1
    if not 0 < megapixels < math.inf:
        raise UserError(f"{LIMIT}: must be megapixels above 0, got {text!r}")
    Image.MAX_IMAGE_PIXELS = round(megapixels * 1e6)


class Placed(NamedTuple):
    """An image inside a square, and its place there: x, y, width and height in pixels."""

    image: Tensor
    box: tuple[int, int, int, int]


def read_image(path: str | Path, size: int | tuple[int, int] | None) -> Tensor:
    """An image file as (3, H, W) uint8 RGB.

    size  side or (W, H) in pixels to which the image is squashed; None: its own size
    Resized by Pillow's BILINEAR filter, which averages when it shrinks. Large JPEGs are decoded at
    1/2, 1/4 or 1/8 of their size if that leaves twice the pixels needed in each direction. The
    result then differs by less than one level on average. EXIF orientation is applied. Palettes,
    CMYK and 16 bits become 8-bit RGB. Transparent pixels become white.
    Raises BadSample if the file is missing, truncated, not an image, or larger than MAX_MEGAPIXELS
    or --max_megapixels; OSError if no more files can be opened.
    """
    if size is None:
        return _tensor(_open(path, None))
    shape = (size, size) if isinstance(size, int) else size
    return _tensor(_open(path, max(shape)).resize(shape, Image.Resampling.BILINEAR))


def read_crop(path: str | Path, box: Sequence[float] | None, size: int) -> Tensor:
    """A box of an image file, squashed to a square: (3, size, size) uint8, like read_image.

    box  x_min, y_min, x_max, y_max in pixels, rounded half to even; None: the whole image
    Raises BadSample as read_image does, and if the box lies outside the image.
    """
    if box is None:
        return read_image(path, size)
    image = _open(path, None)
    x0, y0, x1, y1 = (round(edge) for edge in box)
    if min(x1, image.width) <= max(x0, 0) or min(y1, image.height) <= max(y0, 0):
        shape = f"{image.width} x {image.height}"
        raise BadSample(path, f"is {shape} pixels; the box {x0, y0, x1, y1} lies outside")
    part = image.crop((x0, y0, x1, y1))
    return _tensor(part.resize((size, size), Image.Resampling.BILINEAR))


def squash(image: Tensor, box: Sequence[float] | None, size: int | tuple[int, int]) -> Tensor:
    """A box of an image (3, H, W) uint8, squashed as by `read_crop`: (3, size, size) uint8.

    size  side, or (W, H), pixels
    """
    pillow = Image.fromarray(image.cpu().permute(1, 2, 0).contiguous().numpy())
    if box is not None:
        x0, y0, x1, y1 = (round(edge) for edge in box)
        pillow = pillow.crop((x0, y0, x1, y1))
    shape = (size, size) if isinstance(size, int) else size
    return _tensor(pillow.resize(shape, Image.Resampling.BILINEAR))


def read_letterboxed(path: str | Path, size: int) -> Placed:
    """An image file in a square with its aspect ratio kept; the borders are black.

    Otherwise like read_image.
    """
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
    """The given files, with each folder replaced by the images in it, in natural order.

    option  name of the option that gave the files, for messages
    Hidden files are skipped. One line on stderr names other files of a folder that are left out.
    Raises UserError if a folder holds no images or cannot be read.
    """
    result: list[Path] = []
    for file in map(Path, files):
        if not file.is_dir():
            result.append(file)
            continue
        try:
            images, left_out = list_folder(file, is_image)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise UserError(f"{option} {file}: cannot be read: {why}".strip()) from error
        if not images:
            raise UserError(f"{option} {file}: no images in this folder".strip())
        report_left_out(file, left_out, "image", heif_hint(left_out))
        result += images
    return result


def is_image(path: Path) -> bool:
    """True if a file's ending is that of an image that can be read here."""
    return path.suffix.lower() in image_endings()


@lru_cache(maxsize=1)
def image_endings() -> tuple[str, ...]:
    """The endings of images that Pillow reads here, lower case."""
    endings = [end for end in ENDINGS if end != ".avif" or features.check("avif")]
    if importlib.util.find_spec("pillow_heif"):
        importlib.import_module("pillow_heif").register_heif_opener()
        endings += HEIF_ENDINGS
    return tuple(endings)


def heif_hint(files: Iterable[Path]) -> str:
    """The remedy if one of the files that are left out is an HEIC file, else an empty text."""
    needed = any(file.suffix.lower() in HEIF_ENDINGS for file in files)
    return f"HEIC files need {HEIF}" if needed else ""


def read_levels(path: str | Path) -> tuple[Tensor, str]:
    """The first channel of an image file, (H, W) uint8, and its kind.

    The kind is "indices" of a palette of colours, as data sets of labels have it; "lossy" for JPEG;
    else "exact". 16 bits become 8, unless no value needs more than 8. Otherwise like read_image.
    """
    image_endings()
    with _images_only(path), Image.open(path) as image:
        image.load()
        turned = ImageOps.exif_transpose(image)
        palette = np.asarray(turned.getpalette() or [0], np.int64)
        if turned.mode == "P" and len(palette) > 2 and np.ptp(palette.reshape(-1, 3), 1).any():
            return torch.from_numpy(np.array(turned)), "indices"
        if turned.mode.startswith("I"):
            levels = np.asarray(turned).astype(np.int64).clip(0, 65535)
            levels = levels if levels.max(initial=0) < 256 else levels // 257
            return torch.from_numpy(levels.astype(np.uint8)), "exact"
        kind = "lossy" if image.format in ("JPEG", "MPO") else "exact"
        return _tensor(_rgb(turned, path))[0], kind


def read_grey(path: str | Path, size: int) -> Tensor:
    """An image file as 0.21 R + 0.72 G + 0.07 B, squashed to a square: (1, S, S) uint8, rounded.

    Otherwise like read_image.
    """
    weights = torch.tensor([0.21, 0.72, 0.07]).view(3, 1, 1)
    return (read_image(path, size) * weights).sum(0, keepdim=True).round().to(torch.uint8)


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) in pixels after EXIF orientation, without decoding. Raises BadSample."""
    image_endings()  # registers the reader of HEIC, if it is installed
    with _images_only(path), Image.open(path) as image:
        tags = getattr(image, "tag_v2", {})  # of TIFF, whose `size` has been turned already
        w, h = (tags[WIDTH], tags[HEIGHT]) if WIDTH in tags and HEIGHT in tags else image.size
        return (h, w) if image.getexif().get(ORIENTATION, 1) in TURNED else (w, h)


def write_image(path: str | Path, image: Tensor, fast: bool = False) -> None:
    """Write (3, H, W) or (1, H, W) uint8 as PNG or JPEG, whole or not at all.

    fast  write a PNG of photos in a third of the time, some percent larger
    Creates the folder. Raises UserError on another ending, OSError with the path if it cannot be
    written.
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
        pillow.save(file, kind, **_encoding(kind, pillow.mode, fast))


def _encoding(kind: str, mode: str, fast: bool) -> dict[str, int]:
    """Pillow's options. One channel: half the time of the defaults, masks are smaller."""
    if kind == "JPEG":
        return {"quality": 95}
    if mode == "L" or fast:
        return {"compress_level": 1, "compress_type": zlib.Z_RLE}
    return {"compress_level": 6}


def _open(path: str | Path, size: int | None) -> Image.Image:
    """The image decoded to RGB, at no less than twice `size` if it has that many pixels."""
    image_endings()  # registers the reader of HEIC, if it is installed
    with _images_only(path), Image.open(path) as image:
        if size is not None and image.mode in ("RGB", "L"):
            image.draft(image.mode, (2 * size, 2 * size))
        image.load()
        return _rgb(ImageOps.exif_transpose(image), path)


def _rgb(image: Image.Image, path: str | Path) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):  # 16 bits, or 32 bits with values of 16
        levels = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray((levels // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise BadSample(path, "holds floating-point pixels; write it with 8 or 16 bits")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())


class _images_only:
    """Turns errors of an image's file into BadSample, which names the file and the reason."""

    def __init__(self, path: str | Path):
        self.path = path
        self.warnings = warnings.catch_warnings()

    def __enter__(self) -> None:
        _apply_limit()
        self.warnings.__enter__()
        warnings.filterwarnings("ignore", module="PIL")  # odd metadata is harmless here
        warnings.simplefilter("error", Image.DecompressionBombWarning)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.warnings.__exit__(kind, error, trace)
        if error is None or isinstance(error, BadSample):
            return
        if isinstance(error, OSError) and error.errno in SHORT:
            return  # not the file's fault: the next one would fail too
        if isinstance(error, FileNotFoundError):
            why = "is missing"
        elif isinstance(error, UnidentifiedImageError):
            why = "is not an image"
            if Path(self.path).suffix.lower() in {*HEIF_ENDINGS} - {*image_endings()}:
                why = f"cannot be read as HEIC; {HEIF}, or save it as JPEG"
        elif isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
            limit = Image.MAX_IMAGE_PIXELS or 0
            why = (
                f"is too large for an image (more than {limit:,} pixels); "
                "--max_megapixels raises the limit"
            )
        elif isinstance(error, OSError) and error.errno is not None:
            why = f"cannot be read: {(error.strerror or str(error)).lower()}"
        elif isinstance(error, BROKEN):
            why = f"is truncated or damaged ({error})"
        else:
            return
        raise BadSample(self.path, why) from error
