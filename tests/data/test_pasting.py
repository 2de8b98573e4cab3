"""Crops put back into their images: nothing changes that need not, and no seam is left."""

import resource

import pytest
import torch

from nets.data.heads.faces import crop_square
from nets.data.pasting import BORDER, MOST_GAIN, feathered, matched, paste_square

SIZE = 96
BOXES = [(80, 60, SIZE // 2), (20, 100, SIZE // 2), (150, 10, SIZE // 2)]


def picture(seed=0):
    """Smooth colours with some noise, 120 x 160, away from black and white."""
    g = torch.Generator().manual_seed(seed)
    coarse = 60 + 130 * torch.rand(1, 3, 6, 8, generator=g)
    smooth = torch.nn.functional.interpolate(coarse, (120, 160), mode="bicubic")[0]
    return (smooth + 4 * torch.randn(3, 120, 160, generator=g)).clamp(40, 215).to(torch.uint8)


def disc(radius=0.35):
    at = (torch.arange(SIZE) + 0.5) / SIZE - 0.5
    return (at[:, None] ** 2 + at**2 < radius**2).float()[None]


@pytest.mark.parametrize("box", BOXES, ids=str)
@pytest.mark.parametrize("mask", [None, disc()], ids=["square", "mask"])
def test_an_unchanged_crop_changes_nothing(box, mask):
    image = picture()
    crop = crop_square(image, box, SIZE)
    everywhere = torch.ones(1, SIZE, SIZE)
    assert torch.equal(matched(crop, crop, everywhere, everywhere), crop)
    assert torch.equal(paste_square(image, crop, box, mask), image)


def test_a_resized_crop_changes_what_resizing_does():
    flat = torch.full((3, 120, 160), 90, dtype=torch.uint8)
    assert torch.equal(paste_square(flat, crop_square(flat, BOXES[0], 31), BOXES[0]), flat)


def test_only_the_inside_of_square_and_mask_is_pasted():
    image, box = torch.zeros(3, 120, 160, dtype=torch.uint8), BOXES[0]
    white = torch.full((3, SIZE, SIZE), 255, dtype=torch.uint8)
    square = paste_square(image, white, box)
    assert square[0, 60, 80] == 255 and square[0, :12].max() == 0 and square[0, :, :32].max() == 0
    mask = disc()
    round_ = crop_square(paste_square(image, white, box, mask), box, SIZE)
    assert round_[0, SIZE // 2, SIZE // 2] == 255
    outside = mask[0] == 0
    assert round_[0][outside].max() <= 6  # feathers of two percent where the edge is curved


def test_no_step_at_the_edge_is_larger_than_the_feather_allows():
    """Black pasted on white: levels change by 255 over the width of the border."""
    white, box = torch.full((3, 120, 160), 255, dtype=torch.uint8), BOXES[0]
    black = torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)
    sigma = BORDER / 2 * SIZE
    for mask, most in ((None, 255 / (BORDER * SIZE)), (disc(), 2 * 255 / (sigma * 2.5066))):
        result = paste_square(white, black, box, mask).float()
        step = max(result.diff(dim=d).abs().max() for d in (1, 2))
        assert most / 3 < step <= most + 1


def test_the_border_of_the_square_is_no_edge_of_its_mask():
    """Shoulders reach the lower border."""
    mask = torch.zeros(1, SIZE, SIZE)
    mask[:, 40:] = 1
    assert feathered(mask)[0, -1].min() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("change", ["offset", "contrast", "exposure", "white balance"])
def test_a_shift_of_colours_is_removed(change):
    image, box = picture(), BOXES[0]
    crop = crop_square(image, box, SIZE)
    x = crop.float()
    shifted = {
        "offset": x + torch.tensor([25.0, -15, 10])[:, None, None],
        "contrast": (x - 128) * 0.75 + 128,
        "exposure": x * 0.8,
        "white balance": x * torch.tensor([0.9, 1, 1.15])[:, None, None],
    }[change]
    shifted = shifted.round().clamp(0, 255).to(torch.uint8)
    everywhere = torch.ones(1, SIZE, SIZE)
    better = matched(shifted, crop, everywhere, everywhere)
    assert (better.int() - crop.int()).abs().max() <= 2  # rounding of levels, twice
    pasted = paste_square(image, better, box, disc()).int()
    before = (paste_square(image, shifted, box, disc()).int() - image.int()).abs().max()
    assert before >= 15 and (pasted - image.int()).abs().max() <= 2


def test_colours_are_compared_inside_the_masks_alone_and_gains_are_bounded():
    image = picture()
    crop = crop_square(image, BOXES[0], SIZE)
    other = crop.clone()
    other[:, : SIZE // 2] = 0  # hair, elsewhere than in the image
    below = torch.zeros(1, SIZE, SIZE)
    below[:, SIZE // 2 :] = 1
    assert torch.equal(matched(other, crop, below, below), other)
    assert torch.equal(matched(crop, other, 0 * below, below), crop)
    flat = torch.full_like(crop, 128)
    flat[:, ::2] = 132
    everywhere = torch.ones(1, SIZE, SIZE)
    spread = matched(flat, crop, everywhere, everywhere).float().std((1, 2))
    assert spread.max() <= 1.01 * MOST_GAIN * 2 + 0.5


def test_a_face_in_an_image_without_colours_becomes_grey():
    crop = crop_square(picture(), BOXES[0], SIZE)
    grey = crop_square(picture(1), BOXES[0], SIZE).float().mean(0, keepdim=True)
    grey = grey.to(torch.uint8).repeat(3, 1, 1)
    face = disc() > 0.5
    pasted = matched(crop, grey, face, face)
    assert (pasted.amax(0).int() - pasted.amin(0).int()).max() == 0  # outside of the face too
    assert (pasted[0][face[0]].float().mean() - grey[0][face[0]].float().mean()).abs() < 1


def test_a_square_much_larger_than_the_image_needs_no_memory():
    image = torch.full((3, 4000, 20), 90, dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    crop = torch.full((3, 64, 64), 200, dtype=torch.uint8)
    assert (paste_square(image, crop, (10, 2000, 50_000)) == 200).all()
    assert (paste_square(image, crop, (-90_000, 0, 50_000)) == image).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes
