"""Random changes of whole training batches."""

from __future__ import annotations

import pytest
import torch

from nets.dcign.data import augment


def dots(columns: list[int], size: int = 32) -> torch.Tensor:
    """A batch of images with a bright square around each column, in the middle row."""
    image = torch.zeros(len(columns), 1, size, size)
    for n, column in enumerate(columns):
        image[n, 0, size // 2 - 2 : size // 2 + 2, column - 2 : column + 2] = 0.5
    return image


def centre(image: torch.Tensor) -> torch.Tensor:
    """Mean column of each image's light, from the middle, as a share of half the side."""
    size = image.shape[-1]
    column = (torch.arange(size) + 0.5) / size * 2 - 1
    weight = image.sum((1, 2))
    return (weight * column).sum(1) / weight.sum(1)


def test_half_of_the_batches_are_mirrored_all_images_alike():
    image = dots([8, 10])
    results = [augment(image, True, 0.0, seed=1, number=n) for n in range(200)]
    turned = [torch.equal(result, image.flip(-1)) for result in results]
    assert all(t or torch.equal(result, image) for t, result in zip(turned, results, strict=True))
    assert 70 < sum(turned) < 130
    again = [augment(image, True, 0.0, seed=1, number=n) for n in range(200)]
    assert all(map(torch.equal, results, again))
    others = [augment(image, True, 0.0, seed=2, number=n) for n in range(200)]
    assert not all(map(torch.equal, results, others))


def test_batches_are_resized_moved_and_brightened_within_the_share():
    image, jitter = dots([16, 24]), 0.2
    results = [augment(image, False, jitter, seed=0, number=n) for n in range(100)]
    light = torch.stack([result.amax((1, 2, 3)) for result in results])
    assert light.min() > 0.5 * 0.75 and light.max() < 0.5 * 1.21 and light.std() > 0.02
    places = torch.stack([centre(result) for result in results])
    assert places[:, 0].abs().max() < jitter * 1.3 and places[:, 0].std() > 0.05
    widths = places[:, 1] - places[:, 0]  # the same change for all images: they keep their order
    assert (widths > 0.5 * 0.75).all() and (widths < 0.5 * 1.25).all() and widths.std() > 0.02


def test_no_change_is_none():
    image = torch.rand(2, 1, 8, 8)
    assert augment(image, False, 0.0, seed=0, number=5) is image


@pytest.mark.parametrize("number", [0, 3])
def test_edges_are_repeated(number):
    image = torch.full((2, 1, 8, 8), 0.4)
    result = augment(image, False, 0.3, seed=0, number=number)
    assert result.amax() - result.amin() < 1e-6
