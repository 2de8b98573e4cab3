"""Images of a run: tilings, grids with captions, PNG files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nets.run.files import write_atomic

NEUTRAL = 127  # grey of a cell without an image


def to_uint8(images: Tensor) -> Tensor:
    """Images in [0, 255] from images in [-1, 1], rounded and clipped; uint8 passes unchanged.

    NaN becomes 0.
    """
    if images.dtype == torch.uint8:
        return images
    scaled = (images.detach().float() + 1) * 127.5
    return scaled.nan_to_num(0.0, 255.0, 0.0).round().clamp(0, 255).to(torch.uint8)


def tile(images: Tensor, columns: int | None = None) -> np.ndarray:
    """All images in one, row by row: uint8 (rows H, columns W, 3); unused cells are black.

    images  (N, C, H, W), float in [-1, 1] or uint8; C = 1 is grey, of more than 3 the first 3
    columns   cells in a row; None: ceil(sqrt(N))
    """
    if images.ndim != 4 or not len(images):
        raise ValueError(f"tile: images must be (N, C, H, W), N > 0, got {list(images.shape)}")
    n, _, h, w = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    sheet = np.zeros((rows * h, columns * w, 3), dtype=np.uint8)
    for i, cell in enumerate(_cells(images)):
        y, x = i // columns * h, i % columns * w
        sheet[y : y + h, x : x + w] = cell
    return sheet


def labelled_grid(
    rows: Sequence[Sequence[Tensor | None]],
    row_captions: Sequence[str] = (),
    column_captions: Sequence[str] = (),
    gap: int = 2,
    height: int = 0,
) -> np.ndarray:
    """Rows of images with captions above the columns and left of the rows: uint8 (H, W, 3).

    rows    each a list of images (C, H, W) of one size, as for `tile`; None: an empty, grey cell
    gap     white pixels between cells
    height  least height of a cell in pixels: smaller images are enlarged, captions as well
    """
    shapes = {tuple(cell.shape[-2:]) for row in rows for cell in row if cell is not None}
    if len(shapes) != 1:
        raise ValueError(f"labelled_grid: rows must hold images of one size, got {shapes}")
    (h, w) = shapes.pop()
    if h < height:
        h, w = height, round(w * height / h)
    columns = max(len(row) for row in rows)
    row_captions, column_captions = (  # bytes of names that are no UTF-8 cannot be drawn
        [text.encode(errors="replace").decode() for text in texts]
        for texts in (row_captions, column_captions)
    )
    letters = max(10, height // 14)  # 10 is Pillow's own size
    font = ImageFont.load_default(letters)
    pad = 4
    left = max((math.ceil(font.getlength(text)) + 2 * pad for text in row_captions), default=0)
    top = 2 * letters if any(column_captions) else 0
    size = (left + columns * (w + gap), top + len(rows) * (h + gap))
    sheet = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for x, text in enumerate(column_captions):
        room = left + x * (w + gap) + w / 2
        draw.text((room, top / 2), text, fill=(0, 0, 0), font=font, anchor="mm")
    for y, text in enumerate(row_captions):
        draw.text((pad, top + y * (h + gap) + h / 2), text, fill=(0, 0, 0), font=font, anchor="lm")
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            at = (left + x * (w + gap), top + y * (h + gap))
            if cell is None:
                sheet.paste((NEUTRAL,) * 3, (*at, at[0] + w, at[1] + h))
            else:
                image = Image.fromarray(_cells(cell[None])[0])
                if image.size != (w, h):
                    image = image.resize((w, h), Image.Resampling.BICUBIC)
                sheet.paste(image, at)
    return np.asarray(sheet)


def save_png(path: Path, image: np.ndarray) -> None:
    """Write an (H, W, 3) uint8 image; the file is whole or what it was before."""
    image = np.ascontiguousarray(image)
    write_atomic(path, lambda file: Image.fromarray(image).save(file, format="PNG"), durable=False)


def _cells(images: Tensor) -> np.ndarray:
    """(N, H, W, 3) uint8 from (N, C, H, W)."""
    images = to_uint8(images)
    if images.shape[1] < 3:
        images = images[:, :1].expand(-1, 3, -1, -1)
    return images[:, :3].permute(0, 2, 3, 1).cpu().numpy()
