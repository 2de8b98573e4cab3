"""Colour jitter, warps and mirroring of batches on their device, drawn for each sample.

There is no random state. All draws depend on the seed and the sample's `draw` only, a number unique
to (epoch, index). So batches, ranks, workers and restarts do not change them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nets import ops
from nets.random import uniform

MARGIN = 10.0  # pixels from the border to the outer control points
POINTS = 10  # control points in a row and in a column
PUSH = 2.0  # largest shift of a control point in x and in y, pixels
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
# Standard deviations of `motions`: shift in half images, turn in radians, logarithm of the size.
SHIFT, TURN, SCALE = 0.03, 0.06, 0.04


def flips(seed: int, draw: Tensor, probability: float) -> Tensor:
    """Random choice of the samples to mirror, (N,) bool; `draw` (N,) int64."""
    return uniform(seed, "flip", draw, 1)[:, 0] < probability


def flip_images(image: Tensor, flipped: Tensor) -> Tensor:
    """Images (N, C, H, W), those with `flipped` (N,) true mirrored left to right."""
    return torch.where(flipped[:, None, None, None], image.flip(-1), image)


def flip_joints(joints: Tensor, flipped: Tensor, size: int, order: Sequence[str]) -> Tensor:
    """Joints (N, J, 2), those with `flipped` (N,) true mirrored; right and left change places.

    joints  pixels of images of side `size`
    order   names of the joints; a name that begins with r has its counterpart with l
    """
    swap = {"r": "l", "l": "r"}
    other = [swap.get(name[0], "-") + name[1:] for name in order]
    at = [order.index(name) if name in order else i for i, name in enumerate(other)]
    mirrored = joints[:, at].clone()
    mirrored[..., 0] = size - 1 - mirrored[..., 0]
    return torch.where(flipped[:, None, None], mirrored, joints)


def jitter_draws(seed: int, draw: Tensor) -> tuple[Tensor, Tensor]:
    """Random factors of the colour jitter, (N, 4) float32, and the order of its steps, (N, 4).

    Brightness, contrast and saturation are in [0.6, 1.4], hue in [-0.3, 0.3]. All orders are
    equally likely.
    """
    drawn = uniform(seed, "jitter", draw, 8)
    low = drawn.new_tensor([0.6, 0.6, 0.6, -0.3])
    high = drawn.new_tensor([1.4, 1.4, 1.4, 0.3])
    return (low + (high - low) * drawn[:, :4]).float(), drawn[:, 4:].argsort(1)


def colour_jitter(image: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Images (N, 3, H, W) uint8 with brightness, contrast, saturation and hue changed.

    factors  (N, 4) float32; order  (N, 4): see `jitter_draws`
    Bit for bit equal to Pillow's ImageEnhance and HSV mode on 8-bit images (torchvision's
    ColorJitter). Each of the four results is clipped and truncated to 8 bits before the next step.
    """
    if image.dtype != torch.uint8 or image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(
            "colour_jitter: image must be uint8 (N, 3, H, W), "
            f"got {list(image.shape)} {image.dtype}"
        )
    out, order = image.float(), order.cpu()
    for turn in range(4):
        for kind, change in enumerate((_brightness, _contrast, _saturation, _hue)):
            rows = (order[:, turn] == kind).nonzero()[:, 0].to(image.device)
            if len(rows):
                out[rows] = change(out[rows], factors[rows, kind][:, None, None, None])
    return out.to(torch.uint8)


def _blend(base: Tensor | float, image: Tensor, factor: Tensor) -> Tensor:
    return (base + factor * (image - base)).clamp_(0, 255).trunc_()


def _brightness(image: Tensor, factor: Tensor) -> Tensor:
    return _blend(0.0, image, factor)


def _contrast(image: Tensor, factor: Tensor) -> Tensor:
    mean = (_grey(image).mean((1, 2, 3), keepdim=True, dtype=torch.float64) + 0.5).trunc()
    return _blend(mean.float(), image, factor)


def _saturation(image: Tensor, factor: Tensor) -> Tensor:
    return _blend(_grey(image), image, factor)


def _grey(image: Tensor) -> Tensor:
    r, g, b = image.int().split(1, 1)
    return (19595 * r + 38470 * g + 7471 * b + 32768 >> 16).float()


def _hue(image: Tensor, shift: Tensor) -> Tensor:
    """Images with the hue shifted by `shift` cycles in 8-bit HSV, rounded as in Pillow."""
    r, g, b = image.split(1, 1)
    value, low = image.amax(1, keepdim=True), image.amin(1, keepdim=True)
    span = value - low
    grey = span == 0
    safe = torch.where(grey, 1.0, span)
    rc, gc, bc = ((value - c) / safe for c in (r, g, b))
    red, green, blue = bc - gc, 2 + rc.double() - bc, 4 + gc.double() - rc
    hue = torch.where(r == value, red, torch.where(g == value, green, blue).float())
    hue = torch.fmod(hue.double() / 6 + 1, 1.0).float()
    hue = torch.where(grey, 0.0, (hue.double() * 255).trunc())
    saturation = (span / value.clamp(min=1)).double() * 255
    saturation = saturation.trunc().float() / 255
    hue = torch.remainder(hue + (shift.double() * 255).trunc(), 256)
    x = hue * 6 / 255
    sector = x.floor()
    f = (x - sector).float()
    p, q, t = ((value * (1 - saturation * k) + 0.5).floor() for k in (torch.ones_like(f), f, 1 - f))
    sector = torch.remainder(sector, 6).long()
    red = torch.cat([value, q, p, p, t, value], 1).gather(1, sector)
    green = torch.cat([t, value, value, q, p, p], 1).gather(1, sector)
    blue = torch.cat([p, p, t, value, value, q], 1).gather(1, sector)
    return torch.cat([red, green, blue], 1).clamp_(0, 255)


def motions(noise: Tensor, centre: Tensor | None = None) -> Tensor:
    """Small shifts, turns and changes of size, (N, 2, 3): a point p goes to motion @ (p, 1).

    noise   (N, 4), standard normal: shift in x and y, turn, logarithm of the size
    centre  (N, 2), what an image turns about; points are in [-1, 1]; default: its middle
    """
    angle, scale = noise[:, 2] * TURN, (noise[:, 3] * SCALE).exp()
    cos, sin = angle.cos() * scale, angle.sin() * scale
    turn = torch.stack([cos, -sin, sin, cos], 1).unflatten(1, (2, 2))
    offset = noise[:, :2, None] * SHIFT
    if centre is not None:
        offset = offset + centre[:, :, None] - turn @ centre[:, :, None]
    return torch.cat([turn, offset], 2)


def move_points(points: Tensor, motion: Tensor) -> Tensor:
    """Points (N, K, 2) in [-1, 1] at their new places; see `motions`."""
    return points @ motion[:, :, :2].mT + motion[:, :, 2:].mT


def move_images(images: Tensor, motion: Tensor) -> Tensor:
    """Images (N, C, S, S), floating point, whose content moves with `move_points`.

    Sampling is bilinear with the border repeated.
    """
    back = torch.linalg.inv(motion[:, :, :2])
    there = torch.cat([back, -back @ motion[:, :, 2:]], 2)
    grid = F.affine_grid(there, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


class Warps:
    """Random thin-plate-spline warps of square images.

    size   side of the images, pixels
    rot    range (low, high) of the rotation, radians
    scale  range of each axis' scale; above 1 shrinks the content
    trans  range of the translation, pixels
    mode   "classic": scales multiply only the cosines, the centre of rotation is half of the
           largest grid coordinate, and a translation moves only this centre. "clean": scales, then
           a rotation about the image's middle, then a translation
    """

    def __init__(
        self,
        size: int,
        rot: tuple[float, float] = (-math.pi / 8, math.pi / 8),
        scale: tuple[float, float] = (1.05, 1.15),
        trans: tuple[float, float] = (-10.0, 10.0),
        mode: str = "classic",
    ):
        if size < 3 * MARGIN:
            raise ValueError(f"Warps: size must be {3 * MARGIN:.0f} pixels or more, got {size}")
        if mode not in ("classic", "clean"):
            raise ValueError(f"Warps: mode must be classic or clean, got {mode!r}")
        self.size, self.mode = size, mode
        self.ranges = [rot, scale, scale, trans, trans]

    def control(self, device: torch.device | str = "cpu") -> Tensor:
        """The regular grid of control points, (100, 2) float64 pixels, x fastest."""
        line = torch.linspace(MARGIN, self.size - MARGIN, POINTS, dtype=torch.float64)
        y, x = torch.meshgrid(line, line, indexing="ij")
        return torch.stack([x.flatten(), y.flatten()], 1).to(device)

    def draws(self, seed: int, draw: Tensor) -> tuple[Tensor, Tensor]:
        """Random parameters (N, 5): rot, sc_x, sc_y, t_x, t_y; and the shift of each control
        point, (N, 100, 2) pixels; float64.
        """
        drawn = uniform(seed, "warp", draw, 5 + 2 * POINTS**2)
        low, high = (drawn.new_tensor([r[i] for r in self.ranges]) for i in (0, 1))
        push = (2 * drawn[:, 5:] - 1) * PUSH
        return low + (high - low) * drawn[:, :5], push.reshape(-1, POINTS**2, 2)

    def target(self, parameters: Tensor, push: Tensor) -> Tensor:
        """Place that each control point reads from, (N, 100, 2) pixels."""
        rot, sx, sy, tx, ty = parameters.T[..., None, None]
        cos, sin, t = rot.cos(), rot.sin(), torch.cat([tx, ty], -1)
        centre: Tensor | float
        move: Tensor | float
        if self.mode == "classic":
            rows = [torch.cat([sx * cos, -sin], -1), torch.cat([sin, sy * cos], -1)]
            centre, move = (self.size - MARGIN) / 2 + t, 0.0
        else:
            rows = [torch.cat([sx * cos, -sx * sin], -1), torch.cat([sy * sin, sy * cos], -1)]
            centre, move = (self.size - 1) / 2, t
        offset = self.control(push.device) - centre
        return offset @ torch.cat(rows, 1) + centre + move + push

    def __call__(self, image: Tensor, seed: int, draw: Tensor) -> Tensor:
        """Images (N, C, S, S), floating point, each warped by the draws of its number `draw`.

        Sampling is bilinear with the border repeated. The spline maps the regular grid to the
        targets, which are the places that the pixels of the result read from.
        """
        control = self.control(image.device)
        target = self.target(*self.draws(seed, draw.to(image.device)))
        return ops.tps_warp(image, control, ops.tps_fit(control, target).to(image.dtype))
