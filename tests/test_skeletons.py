"""Joint orders and body-part boxes."""

import math

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import binary_closing

from nets import skeletons as sk

SIZE, NAN = 256, math.nan
EXAMPLE = {  # fractions of the image
    "lshoulder": (0.60, 0.30),
    "rshoulder": (0.40, 0.32),
    "cnose": (0.48, 0.18),
    "lelbow": (0.70, 0.45),
    "lhip": (0.57, 0.60),
}


def joints_of(places: dict, missing: float = NAN) -> torch.Tensor:
    rows = [places.get(name, (missing, missing)) for name in sk.JOINTS_15]
    return torch.tensor(rows)[None] * SIZE


def person(generator: torch.Generator, n: int = 1) -> torch.Tensor:
    return torch.rand(n, 15, 2, generator=generator) * (SIZE - 1)


def test_every_order_names_a_joint_once():
    for names in sk.ORDERS.values():
        assert len(set(names)) == len(names)
    sizes = {name: len(order) for name, order in sk.ORDERS.items()}
    assert sizes == {
        "joints15": 15,
        "openpose18": 18,
        "openpose25": 25,
        "coco17": 17,
        "mediapipe33": 33,
    }


@pytest.mark.parametrize("name", sk.ORDERS)
def test_converting_goes_by_name(name):
    order = sk.ORDERS[name]
    joints = torch.arange(2.0 * len(order)).view(1, len(order), 2)
    out = sk.convert_joints(joints, order, sk.JOINTS_15)
    assert out.shape == (1, 15, 2)
    for i, joint in enumerate(sk.JOINTS_15):
        assert out[0, i].tolist() == joints[0, order.index(joint)].tolist()


def test_neck_is_the_middle_of_valid_shoulders_and_the_unknown_is_nan():
    joints = torch.full((2, 17, 2), 10.0)
    joints[0, sk.COCO_17.index("lshoulder")] = 20
    joints[1, sk.COCO_17.index("lshoulder")] = -1
    out = sk.convert_joints(joints, sk.COCO_17, ["cneck", "chip", "rheel"])
    assert out[0, 0].tolist() == [15, 15]
    assert out[1, 0].isnan().all()
    assert out[0, 1].tolist() == [10, 10]
    assert out[:, 2].isnan().all()
    joints = torch.tensor([[[10.0, 4], [20, 6], [-1, -1]], [[10, 4], [20, 6], [7, 7]]])
    out = sk.convert_joints(joints, ["lshoulder", "rshoulder", "cneck"], ["cneck"])
    assert out[:, 0].tolist() == [[15, 5], [7, 7]]


def test_converting_refuses_the_wrong_count_and_type():
    with pytest.raises(ValueError, match=r"joints must be \(..., 15, 2\), got \[1, 14, 2\]"):
        sk.convert_joints(torch.zeros(1, 14, 2), sk.JOINTS_15, sk.COCO_17)
    with pytest.raises(TypeError, match=r"floating point, got torch.int64"):
        sk.convert_joints(torch.zeros(1, 15, 2, dtype=torch.long), sk.JOINTS_15, sk.COCO_17)


@pytest.mark.parametrize(
    ("part", "without", "corners"),
    [
        (2, (), [(144.00, 83.20), (163.20, 70.40), (188.80, 108.80), (169.60, 121.60)]),
        (1, (), [(151.04, 7.68), (161.28, 74.24), (94.72, 84.48), (84.48, 17.92)]),
        (1, ("cnose",), [(148.48, 25.6), (153.6, 76.8), (102.4, 81.92), (97.28, 30.72)]),
        (6, (), [(120.57, 153.6), (171.27, 153.6), (171.27, 255.0), (120.57, 255.0)]),
    ],
    ids=["limb", "head", "head without nose", "thigh without knee"],
)
@pytest.mark.parametrize("missing", [NAN, -1.0], ids=["nan", "negative"])
def test_worked_examples(part, without, corners, missing):
    places = {name: at for name, at in EXAMPLE.items() if name not in without}
    box = sk.part_corners(joints_of(places, missing), SIZE)[0, part]
    torch.testing.assert_close(box, torch.tensor(corners).double(), atol=0.005, rtol=0)  # 2 digits


def test_the_trunk_is_its_joints_and_a_missing_joint_loses_its_parts():
    joints = person(torch.Generator().manual_seed(0))
    order = [sk.JOINTS_15.index(name) for name in sk.PARTS[0]]
    torch.testing.assert_close(sk.part_corners(joints, SIZE)[0, 0], joints[0, order].double())
    joints[0, sk.JOINTS_15.index("lshoulder")] = -1
    gone = sk.part_homographies(joints, SIZE, 2)[0].isnan().all(-1).all(-1)
    assert gone.tolist() == [True, True, True, False, False, False, False, False]


def test_the_head_without_nose_points_up_whichever_way_the_person_faces():
    for left, right in [((0.6, 0.5), (0.4, 0.5)), ((0.4, 0.5), (0.6, 0.5))]:
        box = sk.part_corners(joints_of({"lshoulder": left, "rshoulder": right}), SIZE)[0, 1]
        assert (box[0, 1] < box[1, 1]) and (box[3, 1] < box[2, 1])


def test_boxes_without_area_are_missing():
    places = EXAMPLE | {"lelbow": EXAMPLE["lshoulder"], "lhip": (0.5, 255 / 256)}
    missing = sk.part_corners(joints_of(places), SIZE)[0].isnan().all(-1).all(-1)
    assert missing[2] and missing[6] and not missing[1]


def test_three_corners_in_line_have_no_homography():
    joints = torch.full((1, 15, 2), NAN)
    corners = [(10.0, 10.0), (10.0, 90.0), (50.0, 50.0), (90.0, 10.0)]  # third between its sides
    for name, at in zip(sk.PARTS[0], corners, strict=True):
        joints[0, sk.JOINTS_15.index(name)] = torch.tensor(at)
    assert not sk.part_corners(joints, SIZE)[0, 0].isnan().any()
    assert sk.part_homographies(joints, SIZE, 2)[0, 0].isnan().all()


def test_homographies_are_those_of_opencv():
    joints = person(torch.Generator().manual_seed(1), 6)
    side = SIZE // 4
    ours = sk.part_homographies(joints, SIZE, 2).double().numpy()
    assert ours.dtype == np.float64 and ours.shape == (6, 8, 3, 3)
    square = np.float32([[0, 0], [0, side], [side, side], [side, 0]])
    for n in range(6):
        for p, corners in enumerate(sk.part_corners(joints, SIZE)[n].numpy()):
            theirs = cv2.getPerspectiveTransform(square, np.float32(corners))
            at = np.random.default_rng(p).uniform(0, side, (9, 2))
            at = np.concatenate([at, np.ones((9, 1))], 1)
            a, b = at @ ours[n, p].T, at @ theirs.T
            depth = np.abs(b[:, 2]) > 0.05  # a twisted trunk's horizon may cross the crop
            a, b = a[depth, :2] / a[depth, 2:], b[depth, :2] / b[depth, 2:]
            np.testing.assert_allclose(a, b, atol=0.02, rtol=1e-4)  # float32 corners and matrix


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"joints must be \(N, 15, 2\), got \[15, 2\]"):
        sk.part_homographies(torch.zeros(15, 2), SIZE, 2)
    with pytest.raises(ValueError, match="box_factor must leave crops"):
        sk.part_homographies(torch.zeros(1, 15, 2), 8, 4)
    assert sk.part_homographies(torch.zeros(0, 15, 2), SIZE, 2).shape == (0, 8, 3, 3)


def test_body_mask_is_limbs_of_a_width_closed_by_a_square():
    """Against scikit-image's way: filled capsules, binary dilation, erosion."""
    joints = torch.full((2, 18, 2), torch.nan)
    for (a, b), y in {(3, 4): 12.0, (6, 7): 23.0}.items():  # forearms, 2 rows apart
        joints[0, a], joints[0, b] = torch.tensor([10.0, y]), torch.tensor([30.0, y])
    joints[0, 9] = torch.tensor([5.0, 55.0])  # no known neighbour: no limb
    mask = sk.body_mask(joints, (64, 48), sk.OPENPOSE_18)
    y, x = np.mgrid[:64, :48]
    limbs = [(np.abs(y - at) <= 4) & (x >= 10) & (x <= 30) for at in (12, 23)]
    limbs += [(x - a) ** 2 + (y - b) ** 2 <= 16 for a in (10, 30) for b in (12, 23)]
    open_mask = np.any(limbs, axis=0)
    expected = binary_closing(np.pad(open_mask, 5), np.ones((5, 5)))[5:-5, 5:-5]
    np.testing.assert_array_equal(mask[0].numpy(), expected)
    assert not np.array_equal(expected, open_mask)
    assert not mask[1].any()  # nobody is known
