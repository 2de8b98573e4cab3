"""MediaPipe's networks up to 0.10.21 compared with the demo world's ground truth."""

from types import SimpleNamespace

import torch

from nets.data.detectors.solutions import MediaPipe
from nets.worlds.people.world import PeopleWorld


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
    places = mediapipe.places(image)
    assert all(side > 100 for _, _, side in places)
    x0, y0, x1, y1 = people[0].box
    assert any(x0 < x < x1 and y0 < y < y1 for x, y, _ in places)
    (followed,) = mediapipe.people(image, near=people[1])
    assert (followed.joints[:15] - truth[1]).norm(dim=-1).nanmean() < 20


def test_masks_and_images_without_people(mediapipe):
    sample = PeopleWorld("test", 256)[(0, 1)]
    mask = mediapipe.mask(sample["target"])
    assert mask.shape == (256, 256) and mask.min() >= 0 and mask.max() <= 1
    inside, outside = mask[sample["mask"]].mean(), mask[~sample["mask"]].mean()
    assert inside > outside + 0.3
    empty = torch.full((3, 96, 128), 90, dtype=torch.uint8)
    assert mediapipe.people(empty) == mediapipe.faces(empty) == mediapipe.places(empty) == []


def test_a_search_ends_when_a_face_is_in_the_known_place(monkeypatch):
    ran = []
    detector = MediaPipe(SimpleNamespace(solutions=None))
    monkeypatch.setattr(detector, "_face_boxes", lambda reach, image: ran.append(reach) or [reach])
    face = torch.rand(68, 2, generator=torch.Generator().manual_seed(0)) * 100
    monkeypatch.setattr(
        detector, "_add_meshes", lambda image, reach, faces: faces.append(face + len(faces))
    )
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    for known, count in ((None, 2), (face + 10, 1), (face + 60, 2)):
        ran.clear()
        assert len(detector.faces(image, known=known)) == len(ran) == count
