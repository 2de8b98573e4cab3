"""Tiles of an image."""

from itertools import pairwise

import pytest

from nets.data.detectors.places import tile_sides, tile_starts


@pytest.mark.parametrize("shape", [(20, 4000), (4000, 20), (1, 60_000), (200, 40_000), (90, 8)])
def test_the_tiles_of_a_narrow_strip_are_few_and_cover_it(shape):
    tiles = 0
    for side in tile_sides(*shape):
        starts = [tile_starts(length, side) for length in shape]
        tiles += len(starts[0]) * len(starts[1])
        for length, begins in zip(shape, starts, strict=True):
            assert begins[0] == 0 and begins[-1] + side >= length
            assert all(b - a <= side / 2 + 1 for a, b in pairwise(begins))
    assert tiles <= 160


@pytest.mark.parametrize("shape", [(480, 640), (1080, 1920), (3000, 1000), (9, 9)])
def test_usual_images_have_tiles_of_their_shorter_side(shape):
    assert tile_sides(*shape) == list(
        dict.fromkeys([max(shape), min(shape), (min(shape) + 1) // 2])
    )
