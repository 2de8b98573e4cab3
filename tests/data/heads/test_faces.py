"""The square around a face, and files of keypoints."""

import json
import resource

import numpy as np
import pytest
import torch
from PIL import Image

from nets.data.heads import faces
from nets.data.heads.faces import (
    crop_square,
    face_crop_box,
    normalised_pose,
    points_in_crop,
    pose_points,
    read_keypoints,
    read_mask,
    stable_boxes,
    write_keypoints,
)
from nets.errors import BadSample


def test_box_is_centred_on_the_points_and_moved_up_by_a_sixth():
    points = torch.tensor([[10.0, 20.0], [40.6, 21.0], [12.0, 45.0]])  # 30.6 x 25
    assert face_crop_box(points) == (25, 32 - 30 // 6, 30)  # (20 + 45) / 2 rounds to even


def test_crop_is_black_outside_and_its_points_fit():
    image = torch.full((3, 20, 20), 200, dtype=torch.uint8)
    image[:, 10, 12] = 0
    crop = crop_square(image, (10, 0, 10), 20)  # the upper half lies above the image
    assert (crop[:, :10] == 0).all()
    x, y = points_in_crop(torch.tensor([[12.0, 9.0]]), (10, 0, 10), 20)[0].tolist()
    assert (x, y) == (12, 19) and (crop[:, 10:] == 200).all()
    crop = crop_square(image, (10, 10, 10), 40)
    at = points_in_crop(torch.tensor([[12.0, 10.0]]), (10, 10, 10), 40)[0].long()
    assert crop[0, at[1], at[0]] < 150 and crop.shape == (3, 40, 40)


def test_poses_are_normalised_by_the_width_and_back():
    pose = normalised_pose(torch.tensor([[[0.0, 64.0], [128.0, 96.0]]]), 128)
    assert pose.tolist() == [[-1.0, 0.0, 1.0, 0.5]]
    assert pose_points(pose, 64).tolist() == [[[0.0, 32.0], [64.0, 48.0]]]


@pytest.mark.parametrize("shape", [(68, 2), (70, 3), (1, 136), (136,)], ids=str)
def test_keypoints_of_all_known_shapes(tmp_path, shape):
    points = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    np.save(tmp_path / "a.npy", points)
    read = read_keypoints(tmp_path / "a.npy")
    want = points[:68, :2] if len(shape) == 2 and shape[0] >= 68 else points.reshape(68, 2)
    assert read.dtype == torch.float32 and np.array_equal(read.numpy(), want)


def test_keypoints_from_json_and_written(tmp_path):
    points = torch.rand(68, 2) * 256
    (tmp_path / "a.json").write_text(json.dumps(points.tolist()))
    write_keypoints(tmp_path / "deep" / "a.npy", points)
    assert np.load(tmp_path / "deep" / "a.npy").dtype == np.float32
    for name in ("a.json", "deep/a.npy"):
        assert torch.equal(read_keypoints(tmp_path / name), points)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.zeros((67, 2)), r"must hold keypoints \(68, 2\) or \(1, 136\), holds \(67, 2\)"),
        (np.full((68, 2), np.nan), "not finite"),
        (np.zeros((68, 2), dtype="U1"), "must hold numbers"),
        (np.array([{}]), "is not an array of numbers"),
    ],
)
def test_bad_keypoints_are_named(tmp_path, values, why):
    np.save(tmp_path / "a.npy", values, allow_pickle=True)
    with pytest.raises(BadSample, match=rf"a\.npy: .*{why}"):
        read_keypoints(tmp_path / "a.npy")
    with pytest.raises(BadSample, match=r"b\.npy: is missing"):
        read_keypoints(tmp_path / "b.npy")


def test_points_without_extent_are_refused():
    with pytest.raises(ValueError, match="span a pixel"):
        face_crop_box(torch.zeros(68, 2))


def test_masks_of_labels_are_read_as_labels(tmp_path, capsys, monkeypatch):
    part = np.zeros((8, 8), np.uint8)
    part[2:6, 2:6] = 1
    whole = torch.from_numpy(part.astype(bool))
    voc = np.where(part, 15, 0).astype(np.uint8)
    voc[1, 2:4] = 255  # the border, which is unknown
    palette = Image.fromarray(np.where(part, 60, 0).astype(np.uint8), "P")
    palette.putpalette([(i * 37) % 256 for i in range(768)])
    files = {
        "binary.png": Image.fromarray(part),
        "half.png": Image.fromarray(part * 127),
        "parts.png": Image.fromarray(part * np.arange(1, 9, dtype=np.uint8)),
        "rgb.png": Image.fromarray(np.stack([part] * 3, -1)),
        "deep.png": Image.fromarray(part.astype(np.uint16)),
        "voc.png": Image.fromarray(voc),
        "palette.png": palette,
    }
    for name, image in files.items():
        monkeypatch.setattr(faces, "_labels_said", False)
        image.save(tmp_path / name)
        mask = read_mask(tmp_path / name)
        assert mask.shape == (1, 8, 8) and mask.dtype == torch.uint8
        assert torch.equal(mask[0] == 255, whole) and torch.equal(mask[0] == 0, ~whole), name
        assert f"{name}: holds labels 0 to" in capsys.readouterr().err
        read_mask(tmp_path / name)
        assert not capsys.readouterr().err


def test_masks_of_levels_are_read_as_they_are(tmp_path, capsys):
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    white = Image.fromarray(ramp // 128, "P")
    white.putpalette([0, 0, 0, 255, 255, 255])
    files = {
        "soft.png": (Image.fromarray(ramp), ramp),
        "rgb.png": (Image.fromarray(np.stack([ramp] * 3, -1)), ramp),
        "deep.png": (Image.fromarray(ramp.astype(np.uint16) * 257), ramp),
        "white.png": (white, ramp // 128 * 255),
        "empty.png": (Image.fromarray(ramp * 0), ramp * 0),
        "noise.jpg": (Image.fromarray(ramp // 128), ramp // 128),
    }
    for name, (image, levels) in files.items():
        image.save(tmp_path / name, **({"quality": 100} if name.endswith("jpg") else {}))
        near = np.abs(read_mask(tmp_path / name)[0].numpy().astype(int) - levels)
        assert near.max() <= (1 if name.endswith("jpg") else 0), name
    assert not capsys.readouterr().err


def test_squares_much_larger_than_the_image_need_no_memory():
    """A strip of 20 x 4000 pixels, and keypoints a million pixels apart."""
    image = torch.full((3, 4000, 20), 90, dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for half in (2_000, 50_000, 1_000_000):
        crop = crop_square(image, (10, 2000, half), 64)
        assert crop.shape == (3, 64, 64) and crop[:, :, :24].max() == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes


FPS = 25.0


def face_at(centres, sizes):
    """Points (T, 4, 2) of faces with these middles (T, 2) and widths (T,)."""
    corners = torch.tensor([[-0.5, -0.4], [0.5, -0.4], [0.5, 0.4], [-0.5, 0.4]])
    return centres[:, None] + sizes[:, None, None] * corners


def middles(boxes):
    """The centres before they are moved up, (T, 2)."""
    return torch.tensor([[b.cx, b.cy + b.size // 6] for b in boxes]).double()


def test_a_stable_crop_has_one_size_and_jitters_less_than_the_detector():
    """A head that sways slowly, seen by a detector that errs by 3 pixels."""
    g = torch.Generator().manual_seed(0)
    t = torch.arange(200) / FPS
    path = torch.stack([300 + 40 * torch.sin(0.6 * t), 200 + 5 * t], 1)
    points = face_at(path + 3 * torch.randn(200, 2, generator=g),
                     120 + 6 * torch.randn(200, generator=g))  # fmt: skip
    boxes = stable_boxes(points, FPS)
    assert {box.size for box in boxes} == {int(torch.tensor([face_crop_box(p).size for p in points])
                                               .double().median())}  # fmt: skip
    single = middles([face_crop_box(p) for p in points])
    jitter = [(x - path).diff(dim=0).std() for x in (single, middles(boxes))]
    assert jitter[1] < 0.2 * jitter[0]  # measured 0.10, with the rounding to whole pixels
    assert (middles(boxes) - path).norm(dim=1).mean() < 0.5 * (single - path).norm(dim=1).mean()


def test_a_stable_crop_does_not_lag():
    t = torch.arange(60).float()
    ramp = torch.stack([200 + 4 * t, 150 - 2 * t], 1)  # 100 pixels a second
    boxes = stable_boxes(face_at(ramp, torch.full((60,), 100.0)), FPS)
    assert (middles(boxes) - ramp).abs().max() <= 1  # rounding; from the first frame to the last
    t = torch.arange(400) / FPS
    wave = torch.stack([300 + 100 * torch.sin(2 * torch.pi * 0.5 * t), 0 * t + 200], 1)
    path = middles(stable_boxes(face_at(wave, torch.full((400,), 200.0)), FPS))[50:350, 0] - 300
    along = (path * (wave[50:350, 0] - 300)).sum() / (wave[50:350, 0] - 300).square().sum()
    assert along == pytest.approx(0.73, abs=0.01)
    assert (path - along * (wave[50:350, 0] - 300)).abs().max() < 1.5  # no phase


def test_a_cut_starts_a_new_path_with_its_own_size():
    points = torch.cat([
        face_at(torch.tensor([[100.0, 100.0]]).expand(20, 2), torch.full((20,), 80.0)),
        face_at(torch.tensor([[400.0, 120.0]]).expand(15, 2), torch.full((15,), 160.0)),
        face_at(torch.tensor([[100.0, 100.0]]), torch.full((1,), 90.0)),
    ])  # fmt: skip
    assert stable_boxes(points, FPS) == [face_crop_box(p) for p in points]
    with pytest.raises(ValueError, match="finite and span a pixel"):
        stable_boxes(torch.zeros(3, 4, 2), FPS)
