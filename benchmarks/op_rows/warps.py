"""Rows of the three warps: the limit is one read of the image and one write of the result."""

import cv2
import numpy as np
import torch
from torch.nn.functional import grid_sample, interpolate

from benchmarks.op_rows.row import Row
from nets import ops

PERSPECTIVE = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP


def pixel_grid(h, w, like):
    y, x = (torch.arange(n, dtype=like.dtype, device=like.device) for n in (h, w))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)  # [h, w, 2]


def sample(image, positions):
    """grid_sample at pixel positions [N, h, w, 2], border padding."""
    size = torch.tensor([image.shape[3] - 1, image.shape[2] - 1], device=image.device)
    kind = dict(mode="bilinear", padding_mode="border", align_corners=True)
    return grid_sample(image, positions * 2 / size - 1, **kind)


def make_crops(device):
    box = np.float32([[-1, -1], [-1, 1], [1, 1], [1, -1]]) * 20
    rng = np.random.default_rng(0)
    corners = box + rng.uniform(-5, 5, (16, 8, 4, 2)) + rng.uniform(20, 108, (16, 8, 1, 2))
    crop = np.float32([[0, 0], [0, 64], [64, 64], [64, 0]])
    views = [[cv2.getPerspectiveTransform(crop, np.float32(c)) for c in cs] for cs in corners]
    return torch.rand(16, 3, 128, 128, device=device), torch.tensor(
        np.array(views), dtype=torch.float32, device=device
    )


def crops_formula(image, views):
    n, p = views.shape[:2]
    pixels = pixel_grid(64, 64, image).flatten(0, 1)
    q = torch.cat([pixels, torch.ones_like(pixels[:, :1])], 1) @ views.mT
    positions = (q[..., :2] / q[..., 2:]).view(n * p, 64, 64, 2)
    return sample(image.repeat_interleave(p, 0), positions).view(n, p, -1, 64, 64)


def crops_opencv(image, views):
    for pixels, hs in zip(
        image.permute(0, 2, 3, 1).contiguous().numpy(), views.numpy(), strict=True
    ):
        for h in hs:
            cv2.warpPerspective(pixels, h, (64, 64), None, PERSPECTIVE, cv2.BORDER_REPLICATE)


def make_tps(device):
    line = torch.linspace(10, 118, 5, device=device)
    control = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).view(-1, 2)
    turn = torch.tensor([[1.05, -0.2], [0.2, 1.05]], device=device)
    target = (control - 59) @ turn + 59 + torch.rand(16, 25, 2, device=device) * 4 - 2
    return torch.rand(16, 3, 128, 128, device=device), control, ops.tps_fit(control, target)


def tps_formula(image, control, coefficients):
    """Every image with its own radial functions, as kornia has it, in scaled coordinates."""
    middle = control.mean(0)
    extent = 2 * (control - middle).square().sum(-1).mean().sqrt()
    nodes = ((control - middle) / extent).expand(len(image), -1, -1)
    pixels = pixel_grid(*image.shape[2:], image).view(1, -1, 2)
    q = (pixels - middle) / extent
    s = (q[:, :, None] - nodes[:, None]).square().sum(-1)
    k = nodes.shape[1]
    moved = (s * torch.log(s + 1e-12)) @ coefficients[:, :k] + coefficients[:, k : k + 1]
    positions = pixels + moved + q @ coefficients[:, k + 1 :]
    return sample(image, positions.view(-1, *image.shape[2:], 2))


def tps_shared(image, control, coefficients):
    """The same with the radial functions computed once for all images."""
    middle = control.mean(0)
    extent = 2 * (control - middle).square().sum(-1).mean().sqrt()
    pixels = pixel_grid(*image.shape[2:], image).view(-1, 2)
    q = (pixels - middle) / extent
    s = (q[:, None] - (control - middle) / extent).square().sum(-1)
    basis = torch.cat([s * torch.log(s + 1e-12), torch.ones_like(q[:, :1]), q], 1)
    return sample(image, (pixels + basis @ coefficients).view(-1, *image.shape[2:], 2))


def make_uv(smooth):
    def make(device):
        kind = dict(device=device)
        if smooth:  # as a network's last layer gives it
            delta = interpolate(torch.randn(8, 2, 8, 8, **kind) * 0.1, size=256, mode="bilinear")
        else:
            delta = torch.randn(8, 2, 256, 256, **kind) * 0.1
        texture, low = (torch.rand(8, 3, 256, 256, **kind) for _ in range(2))
        return texture, delta, low, torch.rand(8, 1, 256, 256, **kind)

    return make


def uv_formula(texture, delta, low, mask):
    h, w = delta.shape[2:]
    size = torch.tensor([w, h], device=delta.device)
    identity = (2 * pixel_grid(h, w, delta) + 1) / size - 1
    grid = identity + delta.permute(0, 2, 3, 1)
    kind = dict(mode="bilinear", padding_mode="zeros", align_corners=False)
    return (grid_sample(texture, grid, **kind) + low) * mask - (1 - mask)


def uv_row(name, smooth):
    return Row(
        name=f"uv_sample {name}",
        size="8x3x256x256",
        make=make_uv(smooth),
        ours=ops.uv_sample,
        formula=uv_formula,
        reads=8 * 256 * 256 * 9 * 4,
        writes=8 * 256 * 256 * 3 * 4,
        grads=(0, 1, 2, 3),
        bars={"forward formula": 2.5, "backward formula": 1.5},
    )


ROWS = [
    Row(
        name="perspective_crops",
        size="16x8 128 to 64",
        make=make_crops,
        ours=lambda image, views: ops.perspective_crops(image, views, 64),
        formula=crops_formula,
        others={"OpenCV": crops_opencv},
        reads=16 * 3 * 128 * 128 * 4,
        writes=16 * 8 * 3 * 64 * 64 * 4,
        grads=(0,),
        bars={"forward formula": 2, "forward OpenCV": 1},
    ),
    uv_row("noise", False),
    uv_row("smooth", True),
    Row(
        name="tps_warp",
        size="16x3x128x128, 25 points",
        make=make_tps,
        ours=ops.tps_warp,
        formula=tps_formula,
        others={"shared functions": tps_shared},
        reads=16 * 3 * 128 * 128 * 4,
        writes=16 * 3 * 128 * 128 * 4,
        grads=(0, 2),
        bars={"forward formula": 40, "forward compiled": 10, "backward formula": 3},
    ),
]
