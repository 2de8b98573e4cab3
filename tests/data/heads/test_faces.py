"""The square around a face, and files of keypoints."""

import json

import numpy as np
import pytest
import torch

from nets.data.heads.faces import (
    crop_square,
    face_crop_box,
    normalised_pose,
    points_in_crop,
    pose_points,
    read_keypoints,
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
