"""Detectors compared with the demo worlds' ground truth, and errors of missing packages."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from nets.data.detectors import (
    FACE_WEIGHTS,
    Follow,
    FollowFace,
    FollowPeople,
    Person,
    _same,
    _sides,
    _starts,
    open_detector,
    person_box,
)
from nets.data.io.images import read_image
from nets.errors import UserError
from nets.skeletons import JOINTS_15, JOINTS_17, MESH_68, mesh_to_68
from nets.worlds.people.world import PeopleWorld


@pytest.fixture(scope="module")
def mediapipe():
    pytest.importorskip("mediapipe", reason="is installed by the extra `extract`")
    return open_detector()


def test_joints_of_demo_people_are_near_the_truth(mediapipe):
    world, errors = PeopleWorld("test", 384), []
    for i in range(8):
        sample = world[(0, i)]
        (person, *_) = mediapipe.people(sample["target"])
        assert person.joints.shape == (17, 2) and person.joints.dtype == torch.float32
        errors.append((person.joints[:15] - sample["joints"]).norm(dim=-1))
        for ear in person.joints[15:]:  # near the nose, if the ear is visible
            assert ear.isnan().all() or (ear - sample["joints"][14]).norm() < 60
    errors = torch.stack(errors)
    assert errors.isnan().float().mean() < 0.15
    assert errors[~errors.isnan()].median() < 12  # of 384 pixels


def test_several_people_are_sorted_by_size_and_one_can_be_followed(mediapipe):
    world = PeopleWorld("test", 320)
    small, large = PeopleWorld("test", 224)[(0, 3)], world[(0, 8)]
    image = torch.full((3, 340, 760), 120, dtype=torch.uint8)
    image[:, 60:284, 60:284] = small["target"]
    image[:, :320, 400:720] = large["target"]
    truth = [large["joints"] + torch.tensor([400, 0]), small["joints"] + torch.tensor([60, 60])]
    people = mediapipe.people(image)
    assert len(people) == 2 and people[0].extent > people[1].extent
    for person, joints in zip(people, truth, strict=True):
        assert (person.joints[:15] - joints).norm(dim=-1).nanmean() < 20
    (followed,) = mediapipe.people(image, near=people[1])
    assert (followed.joints[:15] - truth[1]).norm(dim=-1).nanmean() < 20


def test_masks_and_images_without_people(mediapipe):
    sample = PeopleWorld("test", 256)[(0, 1)]
    mask = mediapipe.mask(sample["target"])
    assert mask.shape == (256, 256) and mask.min() >= 0 and mask.max() <= 1
    inside, outside = mask[sample["mask"]].mean(), mask[~sample["mask"]].mean()
    assert inside > outside + 0.3
    empty = torch.full((3, 96, 128), 90, dtype=torch.uint8)
    assert mediapipe.people(empty) == [] and mediapipe.faces(empty) == []


def test_missing_packages_are_one_line_with_the_remedy(monkeypatch):
    for name in ("mediapipe", "face_alignment", "dlib"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"mediapipe==0\.10\.21 is needed .*'\.\[extract\]'"):
        open_detector()
    with pytest.raises(UserError, match=r"face-alignment==1\.5\.0 is needed .*\.\[face-al"):
        open_detector("face-alignment")
    with pytest.raises(UserError, match=r"dlib-bin is needed .*\.\[dlib\]"):
        open_detector("dlib")
    with pytest.raises(UserError, match="must be one of mediapipe, face-alignment, dlib"):
        open_detector("magic")


@pytest.fixture(scope="module")
def dlib():
    pytest.importorskip("dlib", reason="is installed by the extra `dlib`")
    return open_detector("dlib")


def test_dlib_without_a_face_and_without_mediapipe(dlib, monkeypatch):
    for size in ((96, 128), (1, 1), (3000, 40)):
        assert dlib.faces(torch.full((3, *size), 90, dtype=torch.uint8)) == []
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    for what, call in (("people", dlib.people), ("masks", dlib.mask)):
        with pytest.raises(UserError, match=f"dlib finds no {what}, .*mediapipe==0"):
            call(torch.zeros(3, 64, 64, dtype=torch.uint8))


def test_dlib_without_its_models_is_one_line(monkeypatch):
    pytest.importorskip("dlib", reason="is installed by the extra `dlib`")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"shape_predictor_68.*\.\[dlib\]"):
        open_detector("dlib")


def test_dlib_places_points_at_any_size(dlib):
    """A real face at two sizes."""
    folder = os.environ.get("GUISE_REAL_FILES")
    if not folder:
        pytest.skip("no GUISE_REAL_FILES")
    image = read_image(Path(folder) / "face_selfie.jpg", None)
    (whole,) = dlib.faces(image)
    half = torch.nn.functional.interpolate(image[None].float(), scale_factor=0.5, mode="area")
    (small,) = dlib.faces(half[0].round().to(torch.uint8))
    inner = (whole[36] - whole[45]).norm()  # between the outer corners of the eyes
    assert (2 * small - whole).norm(dim=-1).mean() < 0.1 * inner
    assert whole[8, 1] > whole[27, 1] and whole[36, 0] < whole[45, 0]  # chin, bridge; eyes


@pytest.fixture
def face_alignment(tmp_path, monkeypatch):
    """The package face_alignment without internet, with an empty folder for its weights."""
    pytest.importorskip("mediapipe", reason="is installed by the extra `extract`")
    package = pytest.importorskip("face_alignment", reason="is installed by `face-alignment`")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://localhost:1")  # no server is there
    return package


def test_missing_weights_of_face_alignment_are_named(face_alignment, tmp_path, capsys):
    with pytest.raises(UserError, match=r"its weights cannot be loaded .*urlopen error") as error:
        open_detector("face-alignment")
    printed = capsys.readouterr().err.splitlines()[0]
    for name in FACE_WEIGHTS:
        assert name in printed and name in str(error.value)
    folder = tmp_path / "hub" / "checkpoints"
    assert str(folder) in printed and "mediapipe needs no download" in str(error.value)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FACE_WEIGHTS[0]).write_bytes(b"half a file")
    with pytest.raises(UserError, match="its weights cannot be loaded"):
        open_detector("face-alignment")


def test_face_alignment_gives_68_points_in_pixels(face_alignment, tmp_path, capsys):
    """With weights in the right format that detect a face of 128 pixels with random points."""
    from face_alignment.detection.sfd.net_s3fd import s3fd
    from face_alignment.models import FAN

    torch.manual_seed(0)
    faces, points = s3fd(), FAN(4)
    with torch.no_grad():
        for name, values in faces.named_parameters():
            if "_mbox_" in name:
                values.zero_()
            if name.endswith("_mbox_conf.bias"):  # probable face at one scale only
                values.copy_(torch.tensor([9.0] * (len(values) - 1) + [-9.0]))
        faces.fc7_mbox_conf.bias.copy_(torch.tensor([-9.0, 9.0]))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    for name, net in zip(FACE_WEIGHTS, (faces, points), strict=True):
        torch.save(net.state_dict(), folder / name)
    detector = open_detector("face-alignment")
    assert "internet" not in capsys.readouterr().err
    image = torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8)
    detected = detector.faces(image)
    assert len(detected) > 0
    for face in detected:
        assert face.shape == (68, 2) and face.dtype == torch.float32
    extents = [(face.amax(0) - face.amin(0)).max().item() for face in detected]
    assert extents == sorted(extents, reverse=True)
    assert min(extents) > 100 and max(extents) < 264  # points lie in 200 / 195 * 256 pixels
    assert detector.mask(image).shape == (64, 96) and detector.people(image) == []


def test_packages_are_imported_on_use_only():
    code = (
        "import sys, nets.data.detectors; print({'mediapipe', 'face_alignment'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_a_box_includes_the_head_and_ignores_missing_joints():
    joints = torch.full((15, 2), torch.nan)
    place = {"rshoulder": (10, 50), "lshoulder": (30, 50), "cnose": (20, 40), "lhip": (25, 90)}
    for name, at in place.items():
        joints[JOINTS_15.index(name)] = torch.tensor(at, dtype=torch.float32)
    assert person_box(joints) == (10, 30, 30, 90)
    assert Person(joints, person_box(joints)).extent == 60
    joints = torch.full((17, 2), torch.nan)
    for name, at in {"lear": (40, 50), "rear": (20, 50), "cnose": (30, 56)}.items():
        joints[JOINTS_17.index(name)] = torch.tensor(at, dtype=torch.float32)
    assert person_box(joints) == (10, 32, 50, 72)  # only a head: its box is around all of it


def test_a_person_and_its_mirror_image_are_the_same():
    joints = torch.rand(17, 2, generator=torch.Generator().manual_seed(0)) * 100
    names = [{"l": "r", "r": "l"}.get(name[0], "c") + name[1:] for name in JOINTS_17]
    other = torch.stack([joints[JOINTS_17.index(name)] for name in names]) + 3
    one, mirrored, elsewhere = (Person(j, person_box(j)) for j in (joints, other, joints + 60))
    assert _same(one, mirrored) and _same(mirrored, one) and not _same(one, elsewhere)


def test_a_followed_person_is_not_replaced_by_a_part_of_it():
    """If the search near the last place finds only a hand, the whole image is searched."""
    joints = torch.zeros(15, 2)
    small, large, gone = (
        Person(joints, (float(x), 20.0, x + side / 3, 20.0 + side))
        for x, side in ((30, 25), (28, 100), (300, 100))
    )

    class Scripted:
        def people(self, image, near=None):
            return [small] if near else everybody

    follow, image = Follow(Scripted(), 2), torch.zeros(3, 8, 8, dtype=torch.uint8)
    everybody = [gone]
    assert follow(image) is None  # no second person yet
    everybody = [gone, large]
    assert follow(image) is large
    everybody = [gone, small, large]
    assert follow(image) is large
    everybody = [gone, small]
    assert follow(image) is None


class Moving:
    """A detector of one face that moves with the first pixel's level; it counts its searches."""

    def __init__(self):
        self.whole, self.near = [], []

    def faces(self, image, near=None):
        level = float(image[0, 0, 0])
        (self.whole if near is None else self.near).append(level)
        if level == 255:
            return []  # nobody
        face = torch.rand(68, 2, generator=torch.Generator().manual_seed(0)) * 40
        if near is None:
            return [face + level]
        shift = 0.01 * (near[0, 0].item() - level)  # remembers where it was: so tests see the past
        return [face + level + shift] if (near[0, 0] - face[0, 0] - level).abs() < 30 else []


def levels(*values):
    return [torch.full((3, 4, 4), value, dtype=torch.uint8) for value in values]


def test_a_followed_face_is_searched_whole_now_and_then_and_when_lost():
    detector = Moving()
    follow = FollowFace(detector, 4)
    found = [follow(image) for image in levels(0, 1, 2, 3, 4, 5, 60, 61, 62)]
    assert detector.whole == [0, 4, 60, 62]  # the 60 jumped; 62 is the ninth
    assert detector.near == [1, 2, 3, 5, 60, 61]
    for level, points in zip((0, 1, 2, 3, 4, 5, 60, 61, 62), found, strict=True):
        assert abs(points.mean().item() - level - found[0].mean().item()) < 1
    detector = Moving()
    follow = FollowFace(detector, 4)
    assert [follow(image) is None for image in levels(0, 255, 255, 3, 4)] == [
        False, True, True, False, False]  # fmt: skip
    assert detector.whole == [0, 255, 255, 3, 4]  # after a frame without a face too
    detector = Moving()
    for image in levels(0, 1, 2):
        FollowFace(detector, 4, seconds=0.5)(image)
    assert detector.whole == [0, 1, 2] and not detector.near  # frames too far apart


@pytest.mark.parametrize("known", [{1, 2}, {0, 1, 2, 3, 4}, {2, 3, 5, 6}, {0, 1, 2, 3, 4, 5, 6}])
def test_skipped_frames_do_not_change_the_points_of_the_others(known):
    """A run that continues gets the points of one that was never interrupted."""
    images = levels(0, 3, 6, 9, 12, 15, 18, 21)
    whole = FollowFace(Moving(), 4)
    expected = [whole(image) for image in images]
    assert not torch.equal(expected[3], Moving().faces(images[3])[0])  # depends on earlier frames
    follow = FollowFace(Moving(), 4)
    for number, image in enumerate(images):
        if number in known:
            follow.skip(image)
        else:
            assert torch.equal(follow(image), expected[number])


def test_followed_people_are_searched_whole_when_one_is_lost():
    joints = torch.zeros(17, 2)
    here, there = (Person(joints + x, (x, 0.0, x + 40, 100.0)) for x in (0.0, 300.0))
    asked = []

    class TwoPeople:
        def people(self, image, near=None):
            asked.append(None if near is None else near.box[0])
            if near is None:
                return [here, there]
            return [] if image[0, 0, 0] == 9 and near is there else [near]

    follow = FollowPeople(TwoPeople(), 3)
    for image in levels(0, 1, 9, 3, 4):
        assert [person.box[0] for person in follow(image)] == [0, 300]
    assert asked == [None, 0, 300, 0, 300, None, None, 0, 300]


@pytest.mark.parametrize("backend", ["mediapipe", "dlib"])
def test_a_followed_face_has_the_points_of_a_searched_one(backend, request):
    """A real face that moves a few pixels."""
    detector = request.getfixturevalue(backend)
    folder = os.environ.get("GUISE_REAL_FILES")
    if not folder:
        pytest.skip("no GUISE_REAL_FILES")
    image = read_image(Path(folder) / "face_selfie.jpg", None)
    follow = FollowFace(detector, 10)
    for shift in range(4):
        moved = image[:, 3 * shift :, 5 * shift :]
        (points, searched) = follow(moved), detector.faces(moved)[0]
        away = (points - searched).norm(dim=-1).mean() / (points[36] - points[45]).norm()
        assert away < 0.03  # of the distance of the eyes; benchmarks/detectors.py has the means
    assert detector.faces(moved, near=searched)
    assert not detector.faces(torch.zeros_like(moved), near=searched)


def test_the_mesh_gives_68_points():
    mesh = torch.arange(478 * 3.0).reshape(1, 478, 3)
    points = mesh_to_68(mesh)
    assert points.shape == (1, 68, 2) and len(set(MESH_68)) == 68
    assert points[0, 30].tolist() == [12, 13]  # the tip of the nose is vertex 4
    with pytest.raises(ValueError, match="468 or 478"):
        mesh_to_68(torch.zeros(68, 2))


@pytest.mark.parametrize("shape", [(20, 4000), (4000, 20), (1, 60_000), (200, 40_000), (90, 8)])
def test_the_tiles_of_a_narrow_strip_are_few_and_cover_it(shape):
    tiles = 0
    for side in _sides(*shape):
        starts = [_starts(length, side) for length in shape]
        tiles += len(starts[0]) * len(starts[1])
        for length, begins in zip(shape, starts, strict=True):
            assert begins[0] == 0 and begins[-1] + side >= length
            assert all(b - a <= side / 2 + 1 for a, b in pairwise(begins))
    assert tiles <= 160


@pytest.mark.parametrize("shape", [(480, 640), (1080, 1920), (3000, 1000), (9, 9)])
def test_usual_images_have_tiles_of_their_shorter_side(shape):
    assert _sides(*shape) == list(dict.fromkeys([max(shape), min(shape), (min(shape) + 1) // 2]))
