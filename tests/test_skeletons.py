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


# --- proportions --------------------------------------------------------------------------------


def standing(arm=20.0, leg=40.0, trunk=50.0, names=sk.JOINTS_15) -> torch.Tensor:
    """A frontal figure: hips at (100, 100) and 20 wide, shoulders 30, legs straight down."""
    neck, right, left = 100 - trunk, (85.0, 100 - trunk), (115.0, 100 - trunk)
    at = {"rshoulder": right, "lshoulder": left, "cnose": (100, neck - 15),
          "reye": (97, neck - 18), "leye": (103, neck - 18)}  # fmt: skip
    for side, sign in (("r", -1), ("l", 1)):
        x, y = at[f"{side}shoulder"]
        at |= {f"{side}elbow": (x + sign * arm, y), f"{side}wrist": (x + sign * arm, y + arm)}
        x = 100 + 10 * sign
        at |= {f"{side}hip": (x, 100), f"{side}knee": (x, 100 + leg)}
        at |= {f"{side}ankle": (x, 100 + 2 * leg)}
    return torch.tensor([at.get(name, (NAN, NAN)) for name in names], dtype=torch.float64)


def keep(source, driving):
    return sk.keep_proportions(source, driving[None], (SIZE, SIZE), sk.JOINTS_15)[0]


def at(joints, name):
    return joints[sk.JOINTS_15.index(name)].tolist()


def test_the_same_proportions_change_nothing_in_any_pose_and_scale():
    from nets.worlds.people.pose import pose_parameters, skeleton

    figures = skeleton(pose_parameters(0, torch.arange(50)))["joints"][..., :2] * SIZE
    for figure in figures:
        assert (keep(0.3 * figure, figure) - figure).abs().max() < 1e-9


def test_limbs_take_the_sources_lengths_and_the_driving_directions():
    """Trunk 50, arms 20 + 20, legs 40 + 40 get the ratios of 50, 40 + 40, 30 + 30."""
    result = keep(2 * standing(arm=40, leg=30), standing())
    scale = (50 + 40 + 80) / (50 + 80 + 60)
    expected = scale * torch.tensor([50, 40, 40, 30, 30], dtype=torch.float64)
    assert (sk.limb_lengths(result, sk.JOINTS_15) - expected).abs().max() < 1e-9
    ground, hip = 180.0, 180 - 60 * scale
    assert at(result, "rankle") == pytest.approx([90, ground])
    assert at(result, "lhip") == pytest.approx([110, hip])
    assert at(result, "lwrist") == pytest.approx([115 + 40 * scale, hip - 10 * scale])
    neck = hip - 50 * scale
    assert at(result, "reye") == pytest.approx([97, neck - 18])  # the head is the driving one


def test_a_limb_stays_as_foreshortened_as_in_the_driving_pose():
    driving = standing()
    elbow = driving[sk.JOINTS_15.index("relbow")]
    driving[sk.JOINTS_15.index("rwrist")] = elbow + torch.tensor([0.0, -5.0])
    result = keep(standing(arm=40), driving)
    left, right = (
        (torch.tensor(at(result, f"{s}wrist")) - torch.tensor(at(result, f"{s}elbow")))
        for s in "lr"
    )
    assert right[0] == pytest.approx(0) and -right[1] == pytest.approx(float(left.norm()) / 4)


def test_missing_joints_stay_missing_and_unknown_lengths_are_the_driving_ones():
    driving, source = standing(), standing(arm=40, leg=60)
    driving[sk.JOINTS_15.index("lknee")] = NAN
    driving[sk.JOINTS_15.index("rwrist")] = -1
    result = keep(source, driving)
    lost = [name for name in sk.JOINTS_15 if math.isnan(at(result, name)[0])]
    assert lost == ["rwrist", "lknee"]
    assert at(result, "lankle")[0] == pytest.approx(110)  # beside the hip as in the driving pose
    for name in ("rankle", "lankle"):  # a portrait
        source[sk.JOINTS_15.index(name)] = NAN
    result = keep(source, standing())
    lengths = sk.limb_lengths(result, sk.JOINTS_15)
    scale = (50 + 40 + 40) / (50 + 80 + 60)
    assert lengths[[0, 1, 3]].tolist() == pytest.approx([50 * scale, 40 * scale, 60 * scale])
    assert float(lengths[4]) == pytest.approx(40)
    nothing = torch.full((15, 2), NAN)
    assert torch.equal(keep(nothing, standing()), standing())
    assert keep(standing(), nothing).isnan().all()


def test_a_figure_that_would_leave_the_image_shrinks_on_its_ground():
    driving = standing(arm=55, leg=35, trunk=60)  # wrists 30 px from both borders
    result = keep(standing(arm=400, leg=35, trunk=60), driving)
    assert result[:, 0].min() == pytest.approx(0)
    assert result.min() >= 0 and result.max() <= SIZE - 1
    assert at(result, "lankle")[1] == pytest.approx(at(driving, "lankle")[1])
    lengths = sk.limb_lengths(result, sk.JOINTS_15)
    assert float(lengths[1] / lengths[3]) == pytest.approx(400 / 35)
    above = standing(leg=60, trunk=40) - torch.tensor([0.0, 20.0])
    result = keep(standing(arm=2, leg=0.5, trunk=90), above)
    shoulders = at(result, "lshoulder")[1] + at(result, "rshoulder")[1]
    assert 2 * at(result, "cnose")[1] - shoulders / 2 == pytest.approx(0, abs=1e-4)


def test_on_the_world_limbs_are_the_sources_and_joints_nearer_to_the_truth():
    """One person in another's pose has exact joints there, and proportions can be made stronger."""
    from nets.worlds.people.pose import POSE_FIELDS, pose_parameters, skeleton

    poses = pose_parameters(0, torch.arange(400))
    lengths = [POSE_FIELDS.index(name) for name in ("torso", "arm", "leg")]
    poses[:, lengths] = 1 + 3 * (poses[:, lengths] - 1)
    poses[:, POSE_FIELDS.index("scale")] *= 0.7  # room for longer limbs
    source, driving = poses[:200], poses[200:]
    truth = driving.clone()
    truth[:, lengths] = source[:, lengths]
    a, b, c = (skeleton(p)["joints"][..., :2] * SIZE for p in (source, driving, truth))
    result = torch.stack([keep(x, y) for x, y in zip(a, b, strict=True)])
    ratio = sk.limb_lengths(result, sk.JOINTS_15) / sk.limb_lengths(a, sk.JOINTS_15)
    assert (ratio.amax(1) / ratio.amin(1)).max() < 1 + 1e-6

    def error(joints):  # about the middle of the hips, in the truth's scale
        hips = [sk.JOINTS_15.index(name) for name in ("rhip", "lhip")]
        x, y = (j - j[:, hips].mean(1, keepdim=True) for j in (joints, c))
        scale = (x * y).sum((1, 2), keepdim=True) / (x * x).sum((1, 2), keepdim=True)
        return (scale * x - y).norm(dim=-1).mean()

    assert error(result) < 0.5 * error(b)  # measured 0.37


def test_68_vertices_of_the_mesh_are_points():
    assert len(sk.MESH_68) == len(set(sk.MESH_68)) == 68 and max(sk.MESH_68) < 468
    assert sk.MESH_68[30] == 4  # the tip of the nose
