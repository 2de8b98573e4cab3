"""The demo world of people is exact: by id, whatever the batch, worker or order."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from nets.random import uniform
from nets.skeletons import JOINTS_15
from nets.worlds import shapes
from nets.worlds.people import world as people
from nets.worlds.people.body import figure
from nets.worlds.people.look import background_parameters, outfit_parameters
from nets.worlds.people.pose import POSE_FIELDS, mirror, pose_parameters, skeleton
from nets.worlds.people.world import PeopleWorld, render

IDS = torch.arange(24)


@pytest.fixture(autouse=True)
def one_thread():
    """As in a worker of a loader; two threads that wait for a third process take minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_counted_numbers_are_uniform_and_depend_on_everything():
    draw = uniform(0, "a", torch.arange(4000), 8)
    assert ((draw >= 0) & (draw < 1)).all()
    # Standard errors: of a mean 0.29 / sqrt(4000) = 0.005, of a correlation 1 / sqrt(4000) = 0.016.
    assert (draw.mean(0) - 0.5).abs().max() < 0.025
    off_diagonal = torch.corrcoef(torch.cat([draw[:-1].t(), draw[1:].t()])) - torch.eye(16)
    assert off_diagonal.abs().max() < 0.08
    first = uniform(0, "a", torch.arange(4), 2)
    for other in (
        uniform(1, "a", torch.arange(4), 2),
        uniform(1 << 32, "a", torch.arange(4), 2),
        uniform(0, "b", torch.arange(4), 2),
        uniform(0, "a", torch.arange(4) + (1 << 32), 2),
    ):
        assert (first != other).all()
    # Field k does not depend on how many are asked for.
    assert torch.equal(uniform(0, "a", torch.arange(4), 9)[:, :2], first)


@pytest.mark.parametrize("size", [64, 100, 128])
def test_a_image_depends_on_its_ids_alone(size):
    whole = render(IDS, IDS + 5, IDS + 9, size)
    assert whole["image"].shape == (24, 3, size, size) and whole["image"].dtype == torch.uint8
    assert whole["mask"].shape == (24, size, size) and whole["mask"].dtype == torch.bool
    assert whole["joints"].shape == (24, 15, 2) and whole["joints"].dtype == torch.float32
    order = torch.tensor([7, 3, 23, 0, 11])
    for split in (order, order[:1], order[1:]):
        again = render(IDS[split], IDS[split] + 5, IDS[split] + 9, size)
        for key, value in again.items():
            assert torch.equal(value, whole[key][split]), key
    other = render(IDS, IDS + 5, IDS + 9, size, seed=1)
    assert (other["image"] != whole["image"]).float().mean() > 0.5


@pytest.mark.parametrize("size", [64, 128])
def test_joints_lie_on_the_person_and_inside_the_image(size):
    ids = torch.arange(160)
    rendered = render(ids, ids, ids, size)
    joints = rendered["joints"]
    assert len(JOINTS_15) == 15 and joints.min() > 0 and joints.max() < size - 1
    mask = torch.nn.functional.max_pool2d(rendered["mask"].float()[:, None], 3, 1, 1)[:, 0] > 0
    near = joints.round().long()
    assert mask[ids[:, None], near[..., 1], near[..., 0]].all()
    # So does the middle of every bone: limbs run between the right joints.
    for side in "rl":
        for bone in (("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle")):
            points = joints[:, [JOINTS_15.index(side + name) for name in bone]]
            middle = ((points[:, 1:] + points[:, :-1]) / 2).round().long()
            assert mask[ids[:, None], middle[..., 1], middle[..., 0]].all(), (side, bone)
    share = rendered["mask"].float().mean((1, 2))
    assert share.min() > 0.04 and share.max() < 0.5
    # Nobody is cut off: the image's frame stays background.
    frame = torch.ones(size, size, dtype=torch.bool)
    frame[1:-1, 1:-1] = False
    assert not rendered["mask"][:, frame].any()


def test_joints_and_masks_do_not_see_the_background_and_joints_not_the_outfit():
    one = render(IDS, IDS, IDS, 64)
    two = render(IDS, IDS, IDS + 100, 64)
    three = render(IDS + 100, IDS, IDS, 64)
    assert torch.equal(one["mask"], two["mask"])
    assert torch.equal(one["joints"], two["joints"])
    assert torch.equal(one["joints"], three["joints"])
    differs = (one["image"] != two["image"]).any(1)
    assert differs[~one["mask"]].float().mean() > 0.9
    # Inside, the person is the same before every background; the background shines through
    # hairlines between limbs, where the soft edges of two of them meet.
    inside = -torch.nn.functional.max_pool2d(-one["mask"].float()[:, None], 5, 1, 2)[:, 0] > 0
    strongly = ((one["image"].int() - two["image"].int()).abs() > 12).any(1)
    assert inside.any() and strongly[inside].float().mean() < 0.01


def test_clothes_keep_their_colours_in_every_pose():
    outfits, poses = torch.arange(40), torch.arange(40)
    colours = []
    for shift in (0, 13):
        rendered = render(outfits, poses + shift, poses, 128)
        joints = rendered["joints"]
        chest = joints[:, [JOINTS_15.index(n) for n in ("rshoulder", "lshoulder", "rhip", "lhip")]]
        colours.append(
            torch.stack([patch(i, p) for i, p in zip(rendered["image"], chest, strict=True)])
        )
    same = (colours[0] - colours[1]).abs().mean(1)
    other = (colours[0] - colours[1].roll(1, 0)).abs().mean(1)
    # Arms before the chest and the phase of a texture move the mean of a few.
    assert same.median() < 10 and other.median() > 3 * same.median()
    nearest = torch.cdist(colours[0], colours[1]).argmin(1)
    assert (nearest == outfits).float().mean() > 0.6


def patch(image: torch.Tensor, corners: torch.Tensor) -> torch.Tensor:
    """Mean colour in the middle half of a body region given by its corners."""
    low, high = corners.amin(0), corners.amax(0)
    (x0, y0), (x1, y1) = (low + (high - low) / 4).int(), (high - (high - low) / 4).int() + 1
    return image[:, y0:y1, x0:x1].float().mean((1, 2))


def test_right_is_at_smaller_x_for_who_faces_the_viewer_and_mirroring_exchanges_sides():
    pose = pose_parameters(0, torch.arange(300))
    frontal = pose[pose[:, POSE_FIELDS.index("yaw")].abs() < 20]
    joints = dict(zip(JOINTS_15, skeleton(frontal)["joints"].unbind(1), strict=True))
    assert (joints["rshoulder"][:, 0] < joints["lshoulder"][:, 0]).all()
    assert (joints["reye"][:, 0] < joints["leye"][:, 0]).all()
    pose[:, POSE_FIELDS.index("x")] = 0
    original, mirrored = skeleton(pose)["joints"], skeleton(mirror(pose))["joints"]
    sides = [JOINTS_15.index({"r": "l", "l": "r", "c": "c"}[n[0]] + n[1:]) for n in JOINTS_15]
    flip = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(mirrored, original[:, sides] * flip, rtol=0, atol=1e-12)


def test_a_mixed_pose_lies_between_its_ends():
    ends = pose_parameters(0, torch.arange(40)).reshape(2, 20, -1)
    mixed = torch.stack([torch.lerp(*ends, t / 60) for t in range(61)])
    joints = skeleton(mixed.flatten(0, 1))["joints"][..., :2].reshape(61, 20, 15, 2)
    assert (joints[1:] - joints[:-1]).norm(dim=-1).max() < 0.05  # no jump: images' sides a frame
    mixed = mixed[:, 3]
    look = outfit_parameters(0, torch.zeros(61, dtype=torch.int64))
    behind = background_parameters(0, torch.zeros(61, dtype=torch.int64))
    images = people.render_parameters(look, mixed, behind, 64)["image"]
    zeros = torch.zeros(2, dtype=torch.int64)
    whole = render(zeros, torch.tensor([3, 23]), zeros, 64)["image"]
    assert torch.equal(images[[0, 60]], whole)


def test_what_is_nearer_is_painted_later():
    pose = pose_parameters(0, torch.zeros(2, dtype=torch.int64))
    yaw = POSE_FIELDS.index("yaw")
    pose[:, yaw] = torch.tensor([50.0, -50.0])
    _, table, _ = figure(outfit_parameters(0, torch.zeros(2, dtype=torch.int64)), pose, 128)
    depth = table[..., shapes.FIELDS.index("depth")]
    right, left = depth[:, 3], depth[:, 4]  # the upper arms
    torso = depth[:, 0]
    assert right[0] > torso[0] > left[0] and left[1] > torso[1] > right[1]


def test_splits_share_nothing():
    worlds = [PeopleWorld(split, size=64, length=3000) for split in ("train", "test")]
    used = [world._ids(torch.arange(3000)) for world in worlds]
    for train, test in zip(*used, strict=True):
        assert not set(train.tolist()) & set(test.tolist())
    for world, ids, outfits, poses in zip(worlds, used, (2000, 64), (10000, 512), strict=True):
        assert len(set(world.identities.tolist())) <= outfits
        assert int(world.identities.max()) < outfits and len(world.identities) == 3000
        assert poses / 4 < len(set(ids[1].tolist())) <= poses
        assert poses / 4 < len(set(ids[3].tolist())) <= poses and (ids[1] != ids[3]).all()


@pytest.mark.parametrize("kept", [0, 1 << 15], ids=["drawn for each image", "drawn once"])
def test_samples_follow_the_agreement(monkeypatch, kept):
    monkeypatch.setattr(people, "_KEPT", kept)
    world = PeopleWorld("train", size=64, seed=3, length=50, pairing="identity")
    keys = [(0, 4), (0, 49), (7, 0)]
    samples = world.__getitems__(keys)
    for (epoch, index), sample in zip(keys, samples, strict=True):
        single = world[epoch, index]
        assert sample.keys() == single.keys() and sample["index"] == index
        for key, value in single.items():
            same = (
                torch.equal(sample[key], value) if torch.is_tensor(value) else sample[key] == value
            )
            assert same, key
        ids = [torch.tensor([sample[key]]) for key in ("outfit", "pose", "background")]
        truth = world.transfer_truth(*ids)
        assert torch.equal(truth["image"][0], sample["target"])
        assert torch.equal(truth["mask"][0], sample["mask"])
        assert sample["appearance"].shape == (3, 64, 64)
        assert not torch.equal(sample["appearance_joints"], sample["joints"])
    assert "appearance" not in PeopleWorld(size=64, length=2)[0, 0]
    with pytest.raises(IndexError, match="index must be 0 to 49"):
        world[0, 50]


def first(batch: list) -> list:
    return batch


def test_workers_make_the_same_images():
    world = PeopleWorld("test", size=64, length=12)
    keys = [(0, i) for i in range(12)]
    loader = torch.utils.data.DataLoader(
        world, sampler=keys, batch_size=4, num_workers=2, collate_fn=first
    )
    rendered = [sample for batch in loader for sample in batch]
    for sample, key in zip(rendered, keys, strict=True):
        assert torch.equal(sample["target"], world[key]["target"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: render(IDS.float(), IDS, IDS, 64), "render: outfit must be an"),
        (lambda: render(IDS, IDS, IDS[:3], 64), "render: background must be an"),
        (lambda: render(IDS, IDS, IDS, 8), "render: size must be 16 pixels or more, got 8"),
        (lambda: PeopleWorld("valid"), "split must be one of train, test, got 'valid'"),
        (lambda: PeopleWorld(pairing="x"), "pairing must be one of same, identity, got 'x'"),
        (lambda: PeopleWorld(poses=0), "poses must be 1 or more, got 0"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_sheet_is_written(tmp_path):
    out = tmp_path / "sheet.png"
    command = [sys.executable, "-m", "nets.worlds.people.world", "--out", str(out)]
    subprocess.run([*command, "--outfits", "3", "--poses", "2", "--size", "64"], check=True)
    from PIL import Image

    with Image.open(out) as image:
        assert image.size == (192, 128)
    sheet = people.contact_sheet(3, 2, 64)
    ids = torch.tensor([1])
    assert torch.equal(sheet[:, 64:, 64:128], render(torch.tensor([1]), ids, ids, 64)["image"][0])


@pytest.mark.gpu
def test_a_gpu_paints_the_same_people():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    on_cpu, on_cuda = render(IDS, IDS, IDS, 128), render(*3 * [IDS.cuda()], 128)
    assert on_cuda["image"].is_cuda
    torch.testing.assert_close(on_cuda["joints"].cpu(), on_cpu["joints"], rtol=0, atol=1e-4)
    # Rounding differs by the last bit: a colour by one step, an outline's pixel now and then.
    away = (on_cuda["image"].cpu().int() - on_cpu["image"].int()).abs()
    assert (away <= 1).float().mean() > 0.999
    assert (on_cuda["mask"].cpu() == on_cpu["mask"]).float().mean() > 0.999
