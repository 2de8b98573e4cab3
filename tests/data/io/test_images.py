"""Image files of all formats, and files that are not images."""

import errno
import io
import os
import resource
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from nets.data.io import images
from nets.data.io.images import image_size, list_images, read_image, read_letterboxed, write_image
from nets.errors import BadSample, UserError

RED = (200, 30, 60)


def image(w=40, h=20, mode="RGB", colour=RED):
    return Image.new("RGB", (w, h), colour).convert(mode)


def photo(w, h):
    """An image like a photo: smooth shapes with some noise."""
    y, x = np.mgrid[:h, :w] / max(w, h)
    waves = [np.sin(9 * x + 5 * y * k) * np.cos(11 * y - k * x) for k in (1, 2, 3)]
    grain = np.random.default_rng(0).normal(0, 4, (h, w, 3))
    return Image.fromarray((np.stack(waves, -1) * 90 + 128 + grain).clip(0, 255).astype(np.uint8))


def test_images_are_squashed_as_by_pillow(tmp_path):
    source = photo(90, 50)
    source.save(tmp_path / "a.png")
    out = read_image(tmp_path / "a.png", 32)
    expected = np.asarray(source.resize((32, 32), Image.Resampling.BILINEAR))
    assert out.dtype == torch.uint8 and out.is_contiguous()
    np.testing.assert_array_equal(out.permute(1, 2, 0), expected)
    assert read_image(tmp_path / "a.png", None).shape == (3, 50, 90)
    assert read_image(tmp_path / "a.png", (20, 10)).shape == (3, 10, 20)


def test_large_jpegs_are_decoded_smaller_without_a_visible_change(tmp_path):
    photo(1100, 700).save(tmp_path / "a.jpg", quality=92)
    whole = Image.open(tmp_path / "a.jpg").convert("RGB")
    expected = np.asarray(whole.resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
    off = np.abs(read_image(tmp_path / "a.jpg", 64).permute(1, 2, 0).numpy() - expected)
    assert 0 < off.mean() < 1 and off.max() <= 8  # levels; 0 would mean that draft was not used
    near = np.asarray(whole.resize((300, 300), Image.Resampling.BILINEAR))  # too near for draft
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg", 300).permute(1, 2, 0), near)


@pytest.mark.parametrize("mode", ["RGB", "P", "CMYK", "RGBA", "LA", "L", "1", "I;16", "YCbCr"])
def test_modes_become_rgb(tmp_path, mode):
    source = image(mode="RGBA" if mode == "RGBA" else "RGB")
    if mode == "I;16":
        source = Image.fromarray(np.full((20, 40), 200 * 257, np.uint16))
    elif mode != "RGBA":
        source = (
            image().quantize(4)
            if mode == "P"
            else image(mode=mode, colour=RED if mode in ("CMYK", "YCbCr") else (255,) * 3)
        )
    file = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    source.save(file)
    expected = {"I;16": (200,) * 3}.get(mode, np.asarray(source.convert("RGB"))[0, 0])
    off = read_image(file, 8).flatten(1).float() - torch.tensor([*expected]).float()[:, None]
    assert off.abs().max() <= 3  # levels, of JPEG


def test_transparent_pixels_become_white(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", 8) == 255).all()
    clear = Image.new("P", (8, 8), 0)
    clear.putpalette([10, 20, 30] * 256)
    clear.save(tmp_path / "b.png", transparency=0)
    assert (read_image(tmp_path / "b.png", 8) == 255).all()
    for mode, colour in (("RGB", (10, 20, 30)), ("L", 10)):  # one colour is transparent
        Image.new(mode, (8, 8), colour).save(tmp_path / "c.png", transparency=colour)
        assert (read_image(tmp_path / "c.png", 8) == 255).all(), mode


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    source = Image.fromarray(np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3) * 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    source.save(tmp_path / "a.png", exif=exif)
    pixels = torch.tensor(np.asarray(source)).permute(2, 0, 1)
    if orientation >= 5:
        pixels = pixels.transpose(1, 2)
    flips = {2: [2], 3: [1, 2], 4: [1], 6: [2], 7: [1, 2], 8: [1]}.get(orientation, [])
    assert torch.equal(read_image(tmp_path / "a.png", None), pixels.flip(flips))
    assert image_size(tmp_path / "a.png") == (pixels.shape[2], pixels.shape[1])


def test_photos_of_phones_are_read(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif", reason="is installed by the extra `heif`")
    source = photo(90, 50)
    pillow_heif.from_pillow(source).save(tmp_path / "a.HEIC", quality=90)
    source.save(tmp_path / "b.avif")
    source.save(tmp_path / "c.jfif", "JPEG")
    assert [file.name for file in list_images("-s", [tmp_path])] == ["a.HEIC", "b.avif", "c.jfif"]
    for file in tmp_path.iterdir():
        off = read_image(file, None).permute(1, 2, 0).numpy().astype(int) - np.asarray(source)
        assert np.abs(off).mean() < 8, file  # levels, of lossy compression of noise
        assert image_size(file) == (90, 50)


def test_letterbox_keeps_the_aspect_ratio(tmp_path):
    image(40, 20).save(tmp_path / "a.png")
    out, box = read_letterboxed(tmp_path / "a.png", 32)
    assert box == (0, 8, 32, 16)
    assert (out[:, :8] == 0).all() and (out[:, 24:] == 0).all()
    assert out[:, 8:24].flatten(1).unique(dim=1).tolist() == [[c] for c in RED]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF"])
def test_the_format_is_read_from_the_content(tmp_path, kind):
    image().save(tmp_path / "a.jpg", kind, **({"lossless": True} if kind == "WEBP" else {}))
    out = read_image(tmp_path / "a.jpg", 8)
    assert out.flatten(1).unique(dim=1).tolist() == [[c] for c in RED]


def test_an_image_of_one_pixel(tmp_path):
    image(1, 1).save(tmp_path / "a.png")
    for out in (read_image(tmp_path / "a.png", 8), read_letterboxed(tmp_path / "a.png", 8)[0]):
        assert out.flatten(1).unique(dim=1).tolist() == [[c] for c in RED]
    assert read_image(tmp_path / "a.png", None).shape == (3, 1, 1)


def encoded(kind, **settings):
    buffer = io.BytesIO()
    photo(60, 60).save(buffer, kind, **settings)
    return buffer.getvalue()


BAD = {
    "truncated jpeg": (encoded("JPEG")[:-900], "is truncated or damaged"),
    "truncated png": (encoded("PNG")[:-900], "is truncated or damaged"),
    "header only": (encoded("PNG")[:40], "is truncated or damaged|is not an image"),
    "text": (b"hello", "is not an image"),
    "empty": (b"", "is not an image"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_not_images_are_named(tmp_path, name):
    content, why = BAD[name]
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(BadSample, match=rf"a\.jpg: ({why})") as caught:
        read_image(tmp_path / "a.jpg", 16)
    assert caught.value.file == str(tmp_path / "a.jpg") and "\n" not in str(caught.value)


def test_missing_images_and_folders_are_named(tmp_path):
    for read in (lambda p: read_image(p, 8), lambda p: read_letterboxed(p, 8), image_size):
        with pytest.raises(BadSample, match=r"none\.jpg: is missing"):
            read(tmp_path / "none.jpg")
    with pytest.raises(BadSample, match="cannot be read: is a directory"):
        read_image(tmp_path, 8)


@pytest.mark.parametrize("times", [1.5, 3])  # Pillow warns above the limit, raises above twice it
def test_an_image_too_large_for_memory_is_refused(tmp_path, monkeypatch, times):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(800 / times))
    image().save(tmp_path / "a.png")
    with pytest.raises(BadSample, match="is too large for an image"):
        read_image(tmp_path / "a.png", 8)


def test_a_decompression_bomb_needs_no_memory(tmp_path):
    """A file of few bytes with 60,000 x 60,000 pixels, 10.8 GB as RGB."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(10_000_000))), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    (tmp_path / "a.png").write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadSample, match=r"a\.png: is too large for an image \(more than"):
        read_image(tmp_path / "a.png", 8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_floating_point_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(BadSample, match="holds floating-point pixels"):
        read_image(tmp_path / "a.tiff", 4)


def test_written_images_are_read_back(tmp_path):
    pixels = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    write_image(tmp_path / "new" / "a.png", pixels)
    assert torch.equal(read_image(tmp_path / "new" / "a.png", None), pixels)
    write_image(tmp_path / "fast.png", pixels, fast=True)
    assert torch.equal(read_image(tmp_path / "fast.png", None), pixels)
    write_image(tmp_path / "g.png", pixels[:1])
    assert torch.equal(read_image(tmp_path / "g.png", None), pixels[:1].expand(3, 5, 7))
    write_image(tmp_path / "a.jpg", torch.full((3, 9, 9), 77, dtype=torch.uint8))
    assert (read_image(tmp_path / "a.jpg", None).float() - 77).abs().max() <= 2
    assert os.stat(tmp_path / "a.jpg").st_mode & 0o044, "others may read it"


def test_an_image_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_image(tmp_path / "a.png", torch.zeros(3, 4, 4, dtype=torch.uint8))
    before = (tmp_path / "a.png").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write_image(tmp_path / "a.png", torch.ones(3, 4, 4, dtype=torch.uint8))
    assert (tmp_path / "a.png").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_unwritable_endings_and_types_are_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.webp: images are written as"):
        write_image(tmp_path / "a.webp", torch.zeros(3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"uint8, got \[3, 4, 4\] torch.float32"):
        write_image(tmp_path / "a.png", torch.zeros(3, 4, 4))


@pytest.mark.parametrize("kind", ["tif", "jpg", "png", "webp", "avif", "compressed.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_image_as_it_is_read(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"a.{kind}"
    how = {"compression": "tiff_lzw"} if kind.startswith("compressed") else {}
    photo(40, 20).save(file, exif=exif, **how)
    shape = read_image(file, None).shape
    assert shape == ((3, 40, 20) if orientation >= 5 else (3, 20, 40))
    assert image_size(file) == (shape[2], shape[1])


@pytest.fixture
def limit(monkeypatch):
    """The limit of the environment, as it was after the test."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.setattr(images, "_limit", images._limit)
    monkeypatch.setenv(images.LIMIT, "256")
    return lambda megapixels: monkeypatch.setenv(images.LIMIT, str(megapixels))


def test_photos_of_108_megapixels_are_read(tmp_path, limit):
    Image.new("L", (12000, 9000), 90).save(tmp_path / "a.jpg")
    assert (read_image(tmp_path / "a.jpg", 64) == 90).all()
    assert image_size(tmp_path / "a.jpg") == (12000, 9000)


def test_an_option_sets_the_limit_and_the_error_names_it(tmp_path, limit, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo(40, 50).save("a.png")
    limit(0.0019)
    with pytest.raises(BadSample, match=r"more than 1,900 pixels\); --max_megapixels raises"):
        read_image("a.png", 8)
    assert (
        extract_check("--max_megapixels", "0.003") == 0
        and extract_check("--max_megapixels", "0.001") == 1
    )
    assert "a.png: is too large for an image" in capsys.readouterr().out
    limit("much")
    with pytest.raises(UserError, match="GUISE_MAX_MEGAPIXELS: must be megapixels above 0"):
        read_image("a.png", 8)


def extract_check(*options):
    import extract

    with pytest.raises(SystemExit) as left:
        extract.main(["check", ".", "-o", "sheet/check.png", *options])
    return left.value.code


def test_too_many_open_files_are_no_bad_sample(tmp_path):
    image().save(tmp_path / "a.png")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    read_image(tmp_path / "a.png", 8)  # opens what the first image needs
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError) as caught:
            read_image(tmp_path / "a.png", 8)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE
