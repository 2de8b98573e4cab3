"""MediaPipe from 1.0: meshes as points, and the same results as the older interface."""

import hashlib
import types

import pytest
import torch

from helpers import bundle
from nets.data import mediapipe_tasks
from nets.data.detectors.solutions import MediaPipe
from nets.data.detectors.tasks import MediaPipeTasks
from nets.data.mediapipe_tasks import FILES
from nets.skeletons import MESH_68
from nets.worlds.people.world import PeopleWorld


class Mark:
    visibility = 1.0

    def __init__(self, x, y):
        self.x, self.y = x, y


class Scripted(MediaPipeTasks):
    """A face whose mesh has the corners of the image, as MediaPipe gives it."""

    def __init__(self):
        self.searched = []

    def _run(self, part, image):
        self.searched.append(tuple(image.shape[1:]))
        mesh = [Mark(i / 477, 1 - i / 477) for i in range(478)]
        return types.SimpleNamespace(face_landmarks=[mesh])


def test_the_mesh_of_a_face_becomes_68_points_in_pixels():
    detector = Scripted()
    (face,) = detector.faces(torch.zeros(3, 100, 200, dtype=torch.uint8))
    assert face.shape == (68, 2) and detector.searched == [(100, 200)]  # no tiles
    at = MESH_68[30] / 477
    assert face[30].tolist() == pytest.approx([200 * at, 100 * (1 - at)], abs=1e-3)
    near = torch.tensor([[60.0, 40.0], [80.0, 60.0]]).repeat(34, 1)
    (face,) = detector.faces(torch.zeros(3, 100, 200, dtype=torch.uint8), near=near)
    assert detector.searched[-1] == (44, 44)  # a square around the face
    assert face.amin(0).tolist() >= [48, 28] and face.amax(0).tolist() <= [92, 72]


class Body(MediaPipeTasks):
    """A body of 40 x 160 pixels, whose marks are off by 90 in a tile that cuts it off.

    Images say where their pixels are: x / 2 and y in the first two channels.
    """

    def __init__(self):
        self.searched = []

    def _run(self, part, image):
        h, w = image.shape[1:]
        self.searched.append((w, h))
        left, top = 2 * int(image[0, 0, 0]), int(image[1, 0, 0])
        if left > 140 or left + w < 100 or top > 180 or top + h < 20:
            return types.SimpleNamespace(pose_landmarks=[])
        cut = left > 100 or left + w < 140 or top > 20 or top + h < 180
        marks = [Mark((100 + 40 * (i % 2) + 90 * cut - left) / w, (20 + 5 * i - top) / h)
                 for i in range(33)]  # fmt: skip
        return types.SimpleNamespace(pose_landmarks=[marks])


def test_a_body_that_a_tile_cuts_off_is_searched_in_a_square_of_its_own():
    image = torch.zeros(3, 200, 400, dtype=torch.uint8)
    image[0] = torch.arange(400) // 2
    image[1] = torch.arange(200)[:, None]
    (person,) = Body().people(image)
    assert person.joints[:, 0].amax() <= 140.01
    body = Body()
    (near,) = body.people(image, near=person)
    assert torch.equal(near.joints, person.joints) and len(body.searched) == 1


@pytest.fixture
def both(cache, monkeypatch):
    """MediaPipe's two detectors with the same networks, those in the package up to 0.10.21."""
    mediapipe = pytest.importorskip("mediapipe", reason="is installed by the extra `extract`")
    if not hasattr(mediapipe, "solutions"):
        pytest.skip("this mediapipe holds no networks")
    from importlib.resources import files

    from mediapipe.tasks.python.metadata.metadata_writers.metadata_writer import MetadataWriter

    def network(name, mean, deviation):
        content = (files("mediapipe") / "modules" / f"{name}.tflite").read_bytes()
        writer = MetadataWriter.create(bytearray(content))
        writer.add_image_input([mean], [deviation])
        return bytes(writer.populate()[0])

    cache.mkdir(parents=True)
    pose = bundle(
        pose_detector=network("pose_detection/pose_detection", 127.5, 127.5),
        pose_landmarks_detector=network("pose_landmark/pose_landmark_full", 0.0, 255.0),
    )
    (cache / "pose_landmarker_full.task").write_bytes(pose)
    masks = network("selfie_segmentation/selfie_segmentation", 0.0, 255.0)
    (cache / "selfie_segmenter.tflite").write_bytes(masks)
    for part, content in (("pose", pose), ("masks", masks)):
        digest = hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(mediapipe_tasks.FILES, part, (*FILES[part][:2], digest))
    return MediaPipe(mediapipe), MediaPipeTasks(mediapipe)


# MediaPipe's writer of metadata leaves files open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_tasks_find_the_people_and_masks_of_the_older_interface(both):
    new = both[1]
    world, errors = PeopleWorld("test", 384), []
    for i in range(3):
        sample = world[(0, i)]
        (person, *_), (again, *_) = (detector.people(sample["target"]) for detector in both)
        errors.append((again.joints - person.joints).norm(dim=-1))
        (near,) = new.people(sample["target"], near=again)
        assert abs(near.extent - again.extent) < 0.15 * again.extent
    assert torch.cat(errors).nanmean() < 8  # of 384 pixels: other crops around the people
    masks = [detector.mask(sample["target"]) for detector in both]
    assert masks[1].shape == (384, 384) and (masks[0] - masks[1]).abs().mean() < 0.03
    assert new.people(torch.full((3, 96, 128), 90, dtype=torch.uint8)) == []
