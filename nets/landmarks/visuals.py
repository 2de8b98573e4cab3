"""Images that show what the landmarks do: numbered, coloured, beside what is made of them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nets.landmarks import LandmarkOutput
from nets.landmarks.data import Images
from nets.run.images import to_uint8


def palette(count: int) -> Tensor:
    """Colours (count, 3) in [0, 255], float: Pascal VOC's from its second entry on, so 128 0 0,
    0 128 0, 128 128 0, 0 0 128, ...
    """
    number = torch.arange(1, count + 1)
    colour = torch.zeros(count, 3, dtype=torch.int64)
    for bit in range(7, -1, -1):  # three bits of the number a turn, from the highest of a channel
        colour |= torch.stack([number & 1, number >> 1 & 1, number >> 2 & 1], 1) << bit
        number = number >> 3
    return colour.float()


def places(means: Tensor, height: int, width: int) -> Tensor:
    """Landmarks (..., K, 2) in [-1, 1) as pixels x, y: (c + 1) n / 2, the pixel's left top edge."""
    return (means.float() + 1) * means.new_tensor([width, height], dtype=torch.float32) / 2


def numbered(image: Tensor, means: Tensor) -> Tensor:
    """An image (3, H, W) in [-1, 1] or uint8 with the number of each landmark (K, 2) in black
    where it is; uint8.
    """
    pillow = Image.fromarray(to_uint8(image).cpu().permute(1, 2, 0).contiguous().numpy())
    draw, font = ImageDraw.Draw(pillow), ImageFont.load_default()
    at = places(means, pillow.height, pillow.width).cpu().nan_to_num(0.0)
    for number, (x, y) in enumerate(at.long().tolist()):
        draw.text((x, y), str(number), fill=(0, 0, 0), font=font)
    return torch.from_numpy(np.array(pillow)).permute(2, 0, 1)


def dotted(image: Tensor, means: Tensor) -> Tensor:
    """An image (3, H, W) uint8 with a coloured, numbered dot for each landmark (K, 2); uint8."""
    pillow = Image.fromarray(image.cpu().permute(1, 2, 0).contiguous().numpy())
    draw = ImageDraw.Draw(pillow)
    radius = max(1.5, min(pillow.size) / 80)
    font = ImageFont.load_default(max(8.0, 2.5 * radius))
    # Brighter than the palette of the maps: a dot is small.
    colours = (palette(len(means)) * 1.99).clamp(max=255).int().tolist()
    at = places(means, pillow.height, pillow.width).cpu().nan_to_num(0.0).tolist()
    for number, ((x, y), colour) in enumerate(zip(at, colours, strict=True)):
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=tuple(colour), outline=(255, 255, 255))
        draw.text((x + radius, y - radius), str(number), fill=(255, 255, 255), font=font,
                  stroke_width=1, stroke_fill=(0, 0, 0))  # fmt: skip
    return torch.from_numpy(np.array(pillow)).permute(2, 0, 1)


def coloured(heatmaps: Tensor) -> Tensor:
    """Heatmaps (K, h, w) over their largest value, each in a colour of its own, added up: uint8
    (3, h, w).
    """
    share = heatmaps.float() / heatmaps.float().amax().clamp(min=1e-12)
    colours = palette(len(heatmaps)).to(heatmaps.device)
    return torch.einsum("khw,kc->chw", share, colours).clamp(0, 255).to(torch.uint8)


def grey(mask: Tensor) -> Tensor:
    """A mask (1, H, W) in [0, 1] as an image in [-1, 1], (3, H, W)."""
    return (mask.float() * 2 - 1).expand(3, -1, -1)


def sheets(images: Images, out: LandmarkOutput) -> dict[str, Tensor]:
    """Rows of images by name, of the first sample of a batch, (n, 3, h, w) uint8 each: target and
    reconstruction, with masks background and foreground beside them; both masks; both inputs;
    the heatmaps. Numbers say where the landmarks are.
    """
    here, available = out.means[0], out.appearance_means[0]
    row = [numbered(images.target[0], here), numbered(out.reconstruction[0], here)]
    result = {}
    if out.mask is None:
        result["target_reconstruction"] = row
    else:
        row += [to_uint8(out.background[0]), to_uint8(out.foreground[0])]
        result["target_reconstruction_background_foreground"] = row
        result["inputamask_inputbmask"] = [
            to_uint8(grey(mask[0])) for mask in (out.mask, out.appearance_mask)
        ]
    result["input_a_b"] = [
        numbered(images.pose[0], here),
        numbered(images.appearance[0], available),
    ]
    result["raw_heatmap"] = [coloured(out.heatmaps[0])]
    return {name: torch.stack([cell.cpu() for cell in row]) for name, row in result.items()}


def final_rows(images: Images, out: LandmarkOutput) -> dict[str, list[Tensor]]:
    """Rows of a grid of the batch: what goes in, with dots for landmarks, and what comes out."""
    count = len(images.target)
    rows = {
        "pose, landmarks": [dotted(to_uint8(x), m) for x, m in zip(images.target, out.means,
                                                                   strict=True)],
        "appearance": list(to_uint8(images.appearance)),
        "reconstruction": list(to_uint8(out.reconstruction)),
    }  # fmt: skip
    if out.mask is not None:
        rows["foreground"] = list(to_uint8(out.foreground))
        rows["background"] = list(to_uint8(out.background))
        rows["mask"] = [to_uint8(grey(mask)) for mask in out.mask]
    return {name: [cell.cpu() for cell in row[:count]] for name, row in rows.items()}
