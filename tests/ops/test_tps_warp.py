"""The spline maps an output pixel to its source: control points show the image at the targets."""

import cv2
import numpy as np
import pytest
import torch

from nets.ops import tps_fit, tps_warp


def grid(points, size, margin=10.0):
    """The control grid of the landmark model's augmentation, row by row, x fastest."""
    line = torch.linspace(margin, size - margin, points, dtype=torch.double)
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).view(-1, 2)


def targets(control, size, n=2, seed=0):
    """Rotated, scaled and jittered by 2 pixels, as in that augmentation."""
    g = torch.Generator().manual_seed(seed)
    turn = torch.tensor([[1.1 * 0.96, -0.28], [0.28, 1.1 * 0.96]], dtype=torch.double)
    shaken = torch.rand(n, len(control), 2, generator=g, dtype=torch.double) * 4 - 2
    return (control - size / 2) @ turn + size / 2 + shaken


def spline(control, target, points, eps=1.1920929e-07):
    """The textbook's spline in pixel coordinates: r^2 ln(r^2 + eps), the whole system, float64."""

    def u(a, b):
        s = ((a[:, None] - b[None]) ** 2).sum(-1)
        return np.where(s > 0, s * np.log(s + eps), 0)

    p = np.concatenate([np.ones((len(control), 1)), control], 1)
    system = np.block([[u(control, control), p], [p.T, np.zeros((3, 3))]])
    solved = np.linalg.solve(system, np.concatenate([target, np.zeros((3, 2))]))
    return u(points, control) @ solved[:-3] + solved[-3] + points @ solved[-2:]


def pixels(size):
    y, x = np.mgrid[:size, :size].astype(float)
    return np.stack([x, y], -1).reshape(-1, 2)


@pytest.mark.parametrize("points", [5, 10])
def test_is_the_textbooks_spline_and_opencvs_sampling(device, points):
    size = 64
    control = grid(points, size, 5.0)
    target = targets(control, size)
    image = torch.rand(2, 3, size, size)
    out = tps_warp(
        image.to(device),
        control.float().to(device),
        tps_fit(control.to(device), target.to(device)).float(),
    ).cpu()
    for n in range(2):
        f = spline(control.numpy(), target[n].numpy(), pixels(size)).reshape(size, size, 2)
        f = f.clip(0, size - 1).astype(np.float32)
        want = cv2.remap(
            image[n].permute(1, 2, 0).numpy().copy(),
            f[..., 0],
            f[..., 1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        # OpenCV may round positions to 1/32 pixel, which changes values of noise by up to 1/32.
        assert np.abs(out[n].permute(1, 2, 0).numpy() - want).max() < 0.04
        ramps = torch.from_numpy(pixels(size)).view(1, size, size, 2).permute(0, 3, 1, 2)
        mine = tps_warp(
            ramps.to(device), control.to(device), tps_fit(control, target[n : n + 1]).to(device)
        )
        exact = spline(control.numpy(), target[n].numpy(), pixels(size)).clip(0, size - 1)
        np.testing.assert_allclose(mine.cpu()[0].permute(1, 2, 0).reshape(-1, 2), exact, atol=1e-6)


def test_control_points_show_what_the_targets_hold(device):
    size = 48
    control = torch.tensor([[8.0, 8], [40, 8], [8, 40], [40, 40], [24, 20]], device=device)
    target = control + torch.tensor([[2.0, 1], [-3, 0], [1, -2], [0, 0], [4, 3]], device=device)
    ramps = torch.from_numpy(pixels(size)).float().view(1, size, size, 2).permute(0, 3, 1, 2)
    out = tps_warp(ramps.to(device), control, tps_fit(control, target[None]))
    x, y = control.long().unbind(-1)
    torch.testing.assert_close(out[0, :, y, x].T, target, atol=2e-5, rtol=0)


def test_a_spline_between_equal_points_changes_nothing(device):
    control = grid(4, 32).to(device)
    image = torch.rand(3, 2, 32, 32, device=device)
    coefficients = tps_fit(control, control.expand(3, 16, 2))
    assert torch.equal(coefficients, torch.zeros_like(coefficients))
    assert torch.equal(tps_warp(image, control.float(), coefficients), image)


def test_scale_above_one_shrinks_the_content(device):
    control = grid(3, 40).to(device)
    image = torch.zeros(1, 1, 40, 40, device=device)
    image[..., 10:30, 10:30] = 1
    wide = (control - 19.5) * 1.25 + 19.5
    out = tps_warp(image, control.float(), tps_fit(control, wide[None]))
    assert out.sum().item() == pytest.approx(400 / 1.25**2, rel=0.01)


def test_each_image_may_have_its_own_points(device):
    size, image = 32, torch.rand(3, 5, 32, 32, dtype=torch.double, device=device)
    control = torch.stack([grid(3, size, m) for m in (2.0, 5.0, 8.0)]).to(device)
    target = control + torch.randn_like(control)
    both = tps_warp(image, control, tps_fit(control, target))
    for n in range(3):
        one = tps_warp(image[n : n + 1], control[n], tps_fit(control[n], target[n : n + 1]))
        torch.testing.assert_close(both[n : n + 1], one, atol=1e-12, rtol=0)


def test_zeros_padding_shows_nothing_beyond_the_image(device):
    control = grid(3, 16, 0.0).float().to(device)
    coefficients = tps_fit(control, (control + torch.tensor([6.0, 0.0], device=device))[None])
    image = torch.ones(1, 1, 16, 16, device=device)
    out = tps_warp(image, control, coefficients, padding="zeros")[0, 0, 8]
    torch.testing.assert_close(
        out, (torch.arange(16, device=device) < 10).float(), atol=1e-4, rtol=0
    )
    assert (tps_warp(image, control, coefficients) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("points", [5, 10])
def test_is_as_exact_as_the_formula(device, points):
    size, control = 128, grid(points, 128)
    coefficients = tps_fit(control, targets(control, size))
    ramps = (
        torch.from_numpy(pixels(size))
        .view(1, size, size, 2)
        .permute(0, 3, 1, 2)
        .expand(2, -1, -1, -1)
    )
    exact = tps_warp(ramps, control, coefficients)
    out = tps_warp(
        ramps.float().to(device), control.float().to(device), coefficients.float().to(device)
    )
    pixel_formula = torch.from_numpy(pixels(size)).float()
    s = (pixel_formula[:, None] - control.float()).square().sum(-1)
    u = s * torch.log(s + 1.1920929e-07)
    textbook = _textbook_coefficients(control, targets(control, size))
    phi = torch.cat([u, torch.ones_like(pixel_formula[:, :1]), pixel_formula], 1)
    plain = (phi @ textbook.float()).clamp(0, size - 1).mT.view(2, 2, size, size)
    assert (out.cpu() - exact).abs().max() <= 2 * (plain - exact).abs().max()


def _textbook_coefficients(control, target):
    s = torch.cdist(control, control, compute_mode="donot_use_mm_for_euclid_dist").square()
    u = torch.where(s > 0, s * torch.log(s + 1.1920929e-07), 0)
    p = torch.cat([torch.ones_like(control[:, :1]), control], 1)
    system = torch.cat([torch.cat([u, p], 1), torch.cat([p.mT, p.new_zeros(3, 3)], 1)])
    return torch.linalg.solve(system, torch.nn.functional.pad(target, (0, 0, 0, 3)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_no_position_reads_outside(device, value, padding):
    control = grid(3, 12, 2.0).float().to(device)
    image = torch.rand(1, 3, 12, 12, device=device) + 1
    coefficients = torch.zeros(1, 12, 2, device=device)
    coefficients[0, 4, 0], coefficients[0, 11, 1] = value, -value
    image.requires_grad_(), coefficients.requires_grad_()
    out = tps_warp(image, control, coefficients, padding=padding)
    assert (out >= (1 if padding == "border" else 0)).all() and (out <= 2).all()
    out.sum().backward()
    assert image.grad.isfinite().all()


def test_gradients_reach_control_and_target(device):
    control = grid(3, 12, 2.0).to(device).requires_grad_()
    target = (control.detach() + torch.randn(2, 9, 2, device=device)).requires_grad_()
    assert torch.autograd.gradcheck(tps_fit, (control, target))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i, c, t: tps_fit(c[:2], t[:, :2]), r"3 <= K <= 2048, got \[2, 2\]"),
        (lambda i, c, t: tps_fit(c.int(), t), "control must be a floating tensor, got torch.int32"),
        (lambda i, c, t: tps_fit(c, t[:, :4]), r"target must be \[N, 5, 2\] .* got \[2, 4, 2\]"),
        (lambda i, c, t: tps_fit(c.expand(3, 5, 2), t), "target must be"),
        (
            lambda i, c, t: tps_fit(c * torch.tensor([0.0, 1]), t),
            "control must not lie on one line",
        ),
        (lambda i, c, t: tps_warp(i[0], c, tps_fit(c, t)), r"image must be \[N, C, H, W\]"),
        (lambda i, c, t: tps_warp(i, c.expand(3, 5, 2), tps_fit(c, t)), r"\[K, 2\] or \[2, K, 2\]"),
        (lambda i, c, t: tps_warp(i, c, t), r"coefficients must be \[2, 8, 2\], got \[2, 5, 2\]"),
        (lambda i, c, t: tps_warp(i, c.requires_grad_(), tps_fit(c, t)), "detach it"),
        (lambda i, c, t: tps_warp(i, c, tps_fit(c, t), padding="wrap"), "padding must be one of"),
        (lambda i, c, t: tps_warp(i, c.to("meta"), tps_fit(c, t)), "control must be on cpu"),
    ],
)
def test_bad_arguments_are_named(call, message):
    control = torch.tensor([[1.0, 1], [6, 1], [1, 6], [6, 6], [3, 4]])
    with pytest.raises((TypeError, ValueError), match="tps_(fit|warp): .*" + message):
        call(torch.zeros(2, 3, 8, 8), control, control + torch.rand(2, 5, 2))
