"""Images of a run: landmarks on frames, heatmaps, masks, reconstructions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nets.landmarks import LandmarkModel, LandmarkOutput
from nets.landmarks.data import Images, LandmarkInputs, open_clips
from nets.run.images import labelled_grid, tile, to_uint8
from nets.run.loader import loader
from nets.run.run import Run


@torch.no_grad()
def show(run: Run, step: int, net: LandmarkModel, images: Images) -> None:
    """Write the images of `sheets` for the first sample of a batch."""
    out = net(images.pose[:1], images.appearance[:1])
    for name, row in sheets(images, out).items():
        run.image(name, step, tile(row, columns=len(row)))


@torch.no_grad()
def final_image(
    run: Run, options: Mapping[str, Any], net: LandmarkModel, inputs: LandmarkInputs
) -> None:
    """Write a grid of 8 validation frames, their landmarks, appearances and reconstructions."""
    data = open_clips(options, "val", options["use_temporal"])
    seed, bad = options["seed"] + 1, options["on_bad_sample"]
    batch = loader(data, min(8, len(data)), run.ranks, seed=seed, on_bad_sample=bad).batch(0)
    images = inputs(batch, options["use_temporal"], not options["use_temporal"])
    rows = final_rows(images, net(images.pose, images.appearance))
    path = run.image("final", run.step - 1, labelled_grid(list(rows.values()), list(rows)))
    run.print(f"landmarks and reconstructions: {path}")


def palette(count: int) -> Tensor:
    """Colours (count, 3) in [0, 255], float: those of Pascal VOC from its second entry on.

    They begin with (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128).
    """
    number = torch.arange(1, count + 1)
    colour = torch.zeros(count, 3, dtype=torch.int64)
    for bit in range(7, -1, -1):  # three bits of the number for each bit of the channels
        colour |= torch.stack([number & 1, number >> 1 & 1, number >> 2 & 1], 1) << bit
        number = number >> 3
    return colour.float()


def places(means: Tensor, height: int, width: int) -> Tensor:
    """Landmarks (..., K, 2) in pixels x, y from [-1, 1): (c + 1) n / 2, a pixel's top left corner.

    height, width  of the image, pixels
    """
    return (means.float() + 1) * means.new_tensor([width, height], dtype=torch.float32) / 2


def numbered(image: Tensor, means: Tensor) -> Tensor:
    """An image with the number of each landmark in black, (3, H, W) uint8 on the CPU.

    image  (3, H, W) in [-1, 1] or uint8; means  (K, 2) in [-1, 1)
    """
    pillow = Image.fromarray(to_uint8(image).cpu().permute(1, 2, 0).contiguous().numpy())
    draw, font = ImageDraw.Draw(pillow), ImageFont.load_default()
    at = places(means, pillow.height, pillow.width).cpu().nan_to_num(0.0)
    for number, (x, y) in enumerate(at.long().tolist()):
        draw.text((x, y), str(number), fill=(0, 0, 0), font=font)
    return torch.from_numpy(np.array(pillow)).permute(2, 0, 1)


def dotted(image: Tensor, means: Tensor) -> Tensor:
    """An image with a coloured, numbered dot for each landmark, (3, H, W) uint8 on the CPU.

    image  (3, H, W) uint8; means  (K, 2) in [-1, 1)
    """
    pillow = Image.fromarray(image.cpu().permute(1, 2, 0).contiguous().numpy())
    draw = ImageDraw.Draw(pillow)
    radius = max(1.5, min(pillow.size) / 80)
    font = ImageFont.load_default(max(8.0, 2.5 * radius))
    # Dots are small, so they are brighter than the heatmaps' palette.
    colours = (palette(len(means)) * 1.99).clamp(max=255).int().tolist()
    at = places(means, pillow.height, pillow.width).cpu().nan_to_num(0.0).tolist()
    for number, ((x, y), colour) in enumerate(zip(at, colours, strict=True)):
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=tuple(colour), outline=(255, 255, 255))
        draw.text((x + radius, y - radius), str(number), fill=(255, 255, 255), font=font,
                  stroke_width=1, stroke_fill=(0, 0, 0))  # fmt: skip
    return torch.from_numpy(np.array(pillow)).permute(2, 0, 1)


def coloured(heatmaps: Tensor) -> Tensor:
    """One image of all heatmaps, each in its own colour, (3, h, w) uint8.

    heatmaps  (K, h, w); they are divided by their largest value and added up
    """
    share = heatmaps.float() / heatmaps.float().amax().clamp(min=1e-12)
    colours = palette(len(heatmaps)).to(heatmaps.device)
    return torch.einsum("khw,kc->chw", share, colours).clamp(0, 255).to(torch.uint8)


def grey(mask: Tensor) -> Tensor:
    """A mask (1, H, W) in [0, 1] as an image in [-1, 1], (3, H, W)."""
    return (mask.float() * 2 - 1).expand(3, -1, -1)


def sheets(images: Images, out: LandmarkOutput) -> dict[str, Tensor]:
    """Rows of images of the first sample of a batch, by name, each (n, 3, h, w) uint8.

    The rows are target and reconstruction, with masks also background and foreground; both masks;
    both inputs; and the heatmaps. Landmarks are numbered.
    """
    pose, appearance = out.means[0], out.appearance_means[0]
    row = [numbered(images.target[0], pose), numbered(out.reconstruction[0], pose)]
    result = {}
    if out.background is None or out.mask is None or out.appearance_mask is None:
        result["target_reconstruction"] = row
    else:
        row += [to_uint8(out.background[0]), to_uint8(out.foreground[0])]
        result["target_reconstruction_background_foreground"] = row
        result["inputamask_inputbmask"] = [
            to_uint8(grey(mask[0])) for mask in (out.mask, out.appearance_mask)
        ]
    result["input_a_b"] = [
        numbered(images.pose[0], pose),
        numbered(images.appearance[0], appearance),
    ]
    if out.heatmaps is not None:
        result["raw_heatmap"] = [coloured(out.heatmaps[0])]
    return {name: torch.stack([cell.cpu() for cell in row]) for name, row in result.items()}


def final_rows(images: Images, out: LandmarkOutput) -> dict[str, list[Tensor]]:
    """Rows of images of a batch, by caption: inputs, with dots for landmarks, and outputs."""
    count = len(images.target)
    pairs = zip(images.target, out.means, strict=True)
    rows = {
        "pose, landmarks": [dotted(to_uint8(image), means) for image, means in pairs],
        "appearance": list(to_uint8(images.appearance)),
        "reconstruction": list(to_uint8(out.reconstruction)),
    }
    if out.mask is not None and out.background is not None:
        rows["foreground"] = list(to_uint8(out.foreground))
        rows["background"] = list(to_uint8(out.background))
        rows["mask"] = [to_uint8(grey(mask)) for mask in out.mask]
    return {name: [cell.cpu() for cell in row[:count]] for name, row in rows.items()}
