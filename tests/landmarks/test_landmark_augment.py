"""Colour jitter as in Pillow, warps as in the spline's equations, mirroring, random draws."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from nets.data.clips.augment import (
    Warps,
    colour_jitter,
    flip_images,
    flip_joints,
    flips,
    jitter_draws,
)
from nets.data.clips.bbc_pose import JOINTS_7

ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def pillow_jitter(image, factors, order):
    """torchvision's ColorJitter of an image (3, H, W) uint8, in Pillow."""
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy())
    for kind in order.tolist():
        factor = float(factors[kind])
        if kind < 3:
            pillow = ENHANCERS[kind](pillow).enhance(factor)
        else:
            h, s, v = pillow.convert("HSV").split()
            turned = (np.array(h, np.int64) + int(factor * 255)) % 256
            h = Image.fromarray(turned.astype(np.uint8))
            pillow = Image.merge("HSV", (h, s, v)).convert("RGB")
    return torch.from_numpy(np.array(pillow)).permute(2, 0, 1)


def test_jitter_is_pillows_bit_for_bit_in_every_order(device):
    generator = torch.Generator().manual_seed(0)
    orders = torch.tensor(list(itertools.permutations(range(4))))
    images = torch.randint(0, 256, (24, 3, 20, 24), dtype=torch.uint8, generator=generator)
    images[3] = images[3, :1]  # grey: no hue
    images[4], images[5] = 200, 0
    images[6] = torch.arange(20 * 24).reshape(20, 24) % 256  # all levels, in a ramp
    factors = jitter_draws(1, torch.arange(24))[0]
    result = colour_jitter(images.to(device), factors.to(device), orders.to(device)).cpu()
    for i in range(24):
        expected = pillow_jitter(images[i], factors[i], orders[i])
        if device == "cpu":
            assert torch.equal(result[i], expected), orders[i]
        else:  # a fused multiply-add may change a level where a product is a whole number
            assert (result[i].int() - expected.int()).abs().float().mean() < 0.05


def test_jitter_draws_have_the_published_ranges():
    factors, order = jitter_draws(0, torch.arange(4800))
    low, high = factors.amin(0), factors.amax(0)
    expected = torch.tensor([[0.6, 0.6, 0.6, -0.3], [1.4, 1.4, 1.4, 0.3]])
    assert (low >= expected[0]).all() and (high <= expected[1]).all()
    torch.testing.assert_close(torch.stack([low, high]), expected, atol=0.005, rtol=0)
    counts = {tuple(row): 0 for row in order.tolist()}
    for row in order.tolist():
        counts[tuple(row)] += 1
    assert len(counts) == 24 and min(counts.values()) > 120  # 200 each; 6 standard deviations


def test_draws_depend_on_seed_and_sample_alone():
    warps, ids = Warps(64), torch.tensor([5, 2**33, 9])
    draws = (
        lambda seed, at: torch.cat([t.flatten(1).double() for t in jitter_draws(seed, at)], 1),
        lambda seed, at: torch.cat([t.flatten(1) for t in warps.draws(seed, at)], 1),
        lambda seed, at: flips(seed, at, 0.5)[:, None],
    )
    for draw in draws[:2]:
        assert torch.equal(draw(3, ids)[1:], draw(3, ids[1:]))
        assert not torch.equal(draw(3, ids), draw(4, ids))
    flipped = draws[2](3, torch.arange(1000))
    assert 400 < flipped.sum() < 600
    assert not flips(0, ids, 0.0).any() and flips(0, ids, 1.0).all()


def spline(control, target, at):
    """The thin-plate spline at points (M, 2), solved in pixels by its definition; float64."""
    eps = np.finfo(np.float32).eps

    def radial(a, b):
        r2 = ((a[:, None] - b[None]) ** 2).sum(-1)
        return r2 * np.log(r2 + eps)

    k, p = radial(control, control), np.concatenate([np.ones((100, 1)), control], 1)
    system = np.block([[k, p], [p.T, np.zeros((3, 3))]])
    solved = np.linalg.solve(system, np.concatenate([target, np.zeros((3, 2))]))
    return radial(at, control) @ solved[:100] + np.c_[np.ones(len(at)), at] @ solved[100:]


@pytest.mark.parametrize("size", [64, 128])
def test_a_classic_warp_is_the_published_one(size):
    warps, draw = Warps(size), torch.tensor([7])
    (parameters,), (push,) = warps.draws(2, draw)
    rot, sx, sy, tx, ty = parameters.tolist()
    line = np.linspace(10, size - 10, 10)
    control = np.array([(x, y) for y in line for x in line])
    cx, cy = (size - 10) / 2 + tx, (size - 10) / 2 + ty
    x, y = control[:, 0] - cx, control[:, 1] - cy
    target = (
        np.stack(
            [
                x * sx * np.cos(rot) + y * np.sin(rot) + cx,
                -x * np.sin(rot) + y * sy * np.cos(rot) + cy,
            ],
            1,
        )
        + push.numpy()
    )
    np.testing.assert_allclose(warps.target(parameters[None], push[None])[0], target, atol=1e-9)
    # The image holds its own coordinates, so the result is the place that each pixel reads from.
    ys, xs = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    image = torch.stack([xs, ys, xs * 0]).float()[None]
    sampled = warps(image, 2, draw)[0, :2].flatten(1).T.numpy()
    at = np.stack([xs.flatten(), ys.flatten()], 1).astype(float)
    expected = spline(control, target, at).clip(0, size - 1)
    np.testing.assert_allclose(sampled, expected, atol=2e-3)  # float32 in the warp


def test_a_warp_shrinks_for_scales_above_one_and_turns_clockwise():
    image = torch.zeros(1, 1, 64, 64)
    image[:, :, 24:40, 24:40] = 1
    fixed = {"rot": (0.0, 0.0), "trans": (0.0, 0.0)}
    small = Warps(64, scale=(1.5, 1.5), **fixed)(image, 0, torch.tensor([0]))
    assert small.sum() < 0.75 * image.sum()
    image = torch.zeros(1, 1, 64, 64)
    image[:, :, 4:14, 27:32] = 1  # above the middle
    turned = Warps(64, (0.5, 0.5), (1.0, 1.0), (0.0, 0.0))(image, 0, torch.tensor([0]))
    where = turned[0, 0].nonzero().float().mean(0)
    assert where[1] > 33  # to the right: clockwise on the screen


def test_a_clean_warp_moves_by_its_translation():
    warps = Warps(64, (0.0, 0.0), (1.0, 1.0), (6.0, 6.0), mode="clean")
    parameters, push = warps.draws(0, torch.tensor([0]))
    target = warps.target(parameters, push * 0)[0]
    torch.testing.assert_close(target - warps.control(), torch.full((100, 2), 6.0).double())
    classic = Warps(64, (0.0, 0.0), (1.0, 1.0), (6.0, 6.0))
    torch.testing.assert_close(classic.target(parameters, push * 0)[0], classic.control())


def test_warps_need_room_for_their_grid():
    with pytest.raises(ValueError, match="size must be 30 pixels or more, got 16"):
        Warps(16)


def test_mirroring_exchanges_right_and_left():
    image = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    joints = torch.rand(2, 7, 2) * 4
    flipped = torch.tensor([False, True])
    assert torch.equal(flip_images(image, flipped)[1], image[1].flip(-1))
    assert torch.equal(flip_images(image, flipped)[0], image[0])
    mirrored = flip_joints(joints, flipped, 5, JOINTS_7)
    assert torch.equal(mirrored[0], joints[0])
    expected = joints[1, [0, 2, 1, 4, 3, 6, 5]] * torch.tensor([-1, 1]) + torch.tensor([4, 0])
    torch.testing.assert_close(mirrored[1], expected)
