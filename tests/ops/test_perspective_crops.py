"""Pixel centres lie at the integers; a homography maps a crop's pixel to the image's pixel."""

import cv2
import numpy as np
import pytest
import torch

from nets.ops import perspective_crops
from nets.ops.crops import perspective_crops_reference


def views(n, p, seed=0, spread=20.0, centre=24.0):
    """Homographies of boxes that are rotated, skewed and partly outside the image."""
    rng = np.random.default_rng(seed)
    crop = np.float32([[0, 0], [0, 16], [16, 16], [16, 0]])
    box = np.float32([[-1, -1], [-1, 1], [1, 1], [1, -1]]) * 12
    corners = box + rng.uniform(-4, 4, (n, p, 4, 2)) + centre
    corners = np.float32(corners + rng.uniform(-spread, spread, (n, p, 1, 2)))
    return torch.from_numpy(
        np.stack([[cv2.getPerspectiveTransform(crop, c) for c in cs] for cs in corners])
    )


def test_whole_positions_read_pixels(device):
    image = torch.arange(12.0, device=device).view(1, 1, 3, 4)
    shift = torch.tensor([[1.0, 0, 1], [0, 1, 2], [0, 0, 1]], device=device)
    crop = perspective_crops(image, shift[None, None], (2, 3))
    assert crop.tolist() == [[[[[9.0, 10.0, 11.0], [9.0, 10.0, 11.0]]]]]  # row 2 is the last
    half = torch.tensor([[1.0, 0, 0.5], [0, 1, 0.25], [0, 0, 1]], device=device)
    assert perspective_crops(image, half[None, None], 1).item() == 0.5 + 0.25 * 4


def test_scale_of_the_homography_does_not_matter(device):
    image = torch.rand(1, 2, 30, 40, device=device)
    h = views(1, 3).float().to(device)
    torch.testing.assert_close(
        perspective_crops(image, h, 16), perspective_crops(image, -3 * h, 16), atol=1e-4, rtol=0
    )


def test_is_opencvs_warp_perspective(device):
    image = torch.rand(2, 3, 48, 56)
    h = views(2, 5)
    crops = perspective_crops(image.to(device), h.float().to(device), (16, 20)).cpu()
    for n in range(2):
        pixels = np.ascontiguousarray(image[n].permute(1, 2, 0).numpy())
        for p in range(5):
            want = cv2.warpPerspective(
                pixels,
                h[n, p].numpy(),
                (20, 16),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            # float32 positions near 50 round by 4e-6, times the projection's few roundings; before
            # its version 5, OpenCV rounds positions to 1/32 of a pixel, in both directions
            rounding = 2e-4 if int(cv2.__version__.partition(".")[0]) >= 5 else 2 / 64
            np.testing.assert_allclose(crops[n, p].permute(1, 2, 0), want, atol=rounding, rtol=0)


def test_is_grid_sample(device):
    image, h = torch.rand(2, 3, 48, 56, dtype=torch.double), views(2, 5)
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    q = torch.stack([x, y, torch.ones_like(x)], -1).view(-1, 3).double() @ h.mT
    grid = q[..., :2] / q[..., 2:] * 2 / torch.tensor([55.0, 47.0]) - 1
    kind = dict(mode="bilinear", padding_mode="border", align_corners=True)
    want = torch.nn.functional.grid_sample(image, grid.view(2, 80, 16, 2), **kind)
    want = want.view(2, 3, 5, 16, 16).transpose(1, 2)
    crops = perspective_crops(image.to(device), h.to(device), 16)
    torch.testing.assert_close(crops.cpu(), want, atol=1e-11, rtol=0)


def test_a_missing_crop_is_filled(device):
    image = torch.rand(2, 5, 20, 20, device=device, requires_grad=True)
    h = views(2, 3, centre=10).float().to(device)
    whole = perspective_crops(image, h, 8)
    h[1, 2, 2, 1] = float("nan")
    crops = perspective_crops(image, h, 8, fill=-0.5)
    assert (crops[1, 2] == -0.5).all()
    crops[1, 2] = whole[1, 2]
    assert torch.equal(crops, whole)
    grad = torch.ones(2, 3, 5, 8, 8, device=device)
    (gradient,) = torch.autograd.grad(perspective_crops(image, h, 8), image, grad)
    # Every pixel of a crop passes on its whole gradient, in two of three crops.
    torch.testing.assert_close(gradient.sum((1, 2, 3)).tolist(), [3 * 5 * 64.0, 2 * 5 * 64.0])


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), 3e38, 0.0])
def test_no_position_reads_outside(device, value):
    image = torch.rand(1, 1, 5, 7, device=device) + 1
    h = torch.eye(3, device=device).repeat(1, 9, 1, 1)
    h.view(9, 9).diagonal().fill_(value)
    crops = perspective_crops(image, h, 6)
    assert (crops >= 1).all() and (crops <= 2).all()
    torch.testing.assert_close(crops, perspective_crops_reference(image, h, 6, 6, 0.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(image=torch.zeros(2, 3, 8, 8, dtype=torch.int32)), "image must be a floating tensor"),
        (dict(image=torch.zeros(3, 8, 8)), r"image must be \[N, C, H, W\], got \[3, 8, 8\]"),
        (dict(image=torch.zeros(2, 3, 0, 8)), "image must have 1 to .* got 0 x 8"),
        (dict(image=torch.zeros(1).expand(1, 1, 2**16, 2**15)), "fewer than 2.30 a plane"),
        (dict(homographies=torch.zeros(1, 4, 3, 3)), r"with N = 2, got \[1, 4, 3, 3\]"),
        (dict(homographies=torch.zeros(2, 4, 9)), r"homographies must be \[N, P, 3, 3\]"),
        (dict(homographies=torch.zeros(2, 4, 3, 3).int()), "homographies must be a floating"),
        (dict(homographies=torch.zeros(2, 4, 3, 3, device="meta")), "homographies must be on cpu"),
        (dict(homographies=torch.zeros(2, 4, 3, 3, requires_grad=True)), "detach them"),
        (dict(size=(4, 0)), r"size must be a side or \(h, w\), at least 1 .*, got \(4, 0\)"),
        (dict(size=(2**15, 2**15)), r"fewer than 2\^30 pixels, got \(32768, 32768\)"),
        (dict(size=(4, 4, 4)), r"size must be a side"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = dict(image=torch.zeros(2, 3, 8, 8), homographies=torch.eye(3).expand(2, 4, 3, 3))
    with pytest.raises((TypeError, ValueError), match="perspective_crops: .*" + message):
        perspective_crops(**{**arguments, "size": 4, **change})
