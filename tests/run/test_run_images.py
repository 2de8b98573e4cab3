"""Images of a run: rounding, tilings, captions, files."""

import numpy as np
import pytest
import torch
from PIL import Image

from nets.run.images import labelled_grid, save_png, tile, to_uint8


def flat(value, size=2, channels=3):
    return torch.full((channels, size, size), float(value))


def test_values_are_rounded_and_clipped():
    values = torch.tensor([-2.0, -1.0, 0.0, 1 / 255, 1.0, 3.0, float("nan"), float("inf")])
    assert to_uint8(values).tolist() == [0, 0, 128, 128, 255, 255, 0, 255]
    same = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(same / 127.5 - 1), same) and to_uint8(same) is same


def test_tiles_go_row_by_row_into_a_square_with_black_rest():
    images = torch.stack([flat(v) for v in (-1, -0.5, 0, 0.5, 1)])
    sheet = tile(images)
    assert sheet.shape == (4, 6, 3) and sheet.dtype == np.uint8
    assert sheet[::2, ::2, 0].tolist() == [[0, 64, 128], [191, 255, 0]]
    assert tile(images, columns=5).shape == (2, 10, 3)


def test_tiles_of_other_channels():
    assert (tile(flat(1, channels=1)[None]) == 255).all()
    many = torch.cat([flat(v, channels=1) for v in (-1, 0, 1, 1, 1)])[None]
    assert tile(many)[0, 0].tolist() == [0, 128, 255]


def test_tile_says_what_it_wants():
    with pytest.raises(ValueError, match=r"tile: images must be \(N, C, H, W\), N > 0, got \[3,"):
        tile(flat(1))
    with pytest.raises(ValueError, match=r"got \[0, 3, 2, 2\]"):
        tile(torch.zeros(0, 3, 2, 2))


def test_a_labelled_grid_has_captions_outside_of_its_images():
    rows = [[flat(1, 16), None], [flat(-1, 16), flat(0, 16)]]
    plain = labelled_grid(rows, gap=2)
    assert plain.shape == (36, 36, 3)
    cells = plain[8::18, 8::18, 0].tolist()
    assert cells == [[255, 127], [0, 128]]
    captioned = labelled_grid(rows, ["first", "second"], ["a", "b"], gap=2)
    assert np.array_equal(captioned[-36:, -36:], plain)
    left, top = captioned[:, :-36], captioned[:-36]
    assert left.shape[1] > 20 and (left < 128).any() and (top < 128).any()


def test_a_labelled_grid_enlarges_small_images():
    rows = [[flat(1, 8), flat(2, 8)]]
    assert labelled_grid(rows, gap=2, height=20).shape == (22, 44, 3)
    assert labelled_grid(rows, gap=2, height=8).shape == labelled_grid(rows, gap=2).shape
    captioned = labelled_grid(rows, column_captions=["a", "b"], gap=2, height=280)
    assert captioned.shape == (40 + 282, 564, 3)  # captions of a 14th of the height
    assert (captioned[60:300, 20:260] == captioned[60, 20]).all()


def test_a_labelled_grid_refuses_mixed_sizes():
    with pytest.raises(ValueError, match="labelled_grid: rows must hold images of one size"):
        labelled_grid([[flat(1, 2), flat(1, 3)]])


def test_png_files_are_whole_or_what_they_were(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save_png(path, tile(flat(1)[None]))

    def fails(self, file, format):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fails)
    with pytest.raises(OSError) as caught:
        save_png(path, tile(flat(-1)[None]))
    assert caught.value.filename == str(path)
    with Image.open(path) as image:
        assert image.getpixel((0, 0)) == (255, 255, 255)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
