"""Files of networks for MediaPipe from 1.0: found, downloaded, checked, and used."""

import functools
import hashlib
import http.server
import io
import sys
import threading
import types
import zipfile

import pytest
import torch

from nets.data import mediapipe_tasks
from nets.data.detectors import MediaPipe, MediaPipeTasks, open_detector
from nets.data.mediapipe_tasks import FILES, file_of, main
from nets.errors import UserError
from nets.skeletons import MESH_68
from nets.worlds.people.world import PeopleWorld


def bundle(**networks):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as file:
        for name, network in networks.items():
            file.writestr(f"{name}.tflite", network)
    return content.getvalue()


GOOD = {
    "pose_landmarker_full.task": bundle(pose_detector=b"1", pose_landmarks_detector=b"2"),
    "face_landmarker.task": bundle(face_detector=b"1", face_landmarks_detector=b"2"),
    "selfie_segmenter.tflite": b"\x1c\0\0\0TFL3....",
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """torch's empty cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)  # an earlier test of this process may set it
    return tmp_path / "hub/checkpoints"


@pytest.fixture
def server(tmp_path, monkeypatch, cache):
    """A folder that a server on this machine serves as the files' publisher."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *given):
            pass

    serving = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=folder)
    )
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{serving.server_port}"
    served = {
        part: (name, f"{address}/{name}", inside) for part, (name, _, inside) in FILES.items()
    }
    monkeypatch.setattr(mediapipe_tasks, "FILES", served)
    yield folder
    serving.shutdown()
    serving.server_close()


def test_files_are_downloaded_only_when_asked(server, cache, capsys):
    for name, content in GOOD.items():
        (server / name).write_bytes(content)
    with pytest.raises(UserError, match=r"needs pose_landmarker_full\.task for pose .*--download"):
        file_of("pose")
    assert not cache.exists()
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert not cache.exists()
    main(["--download"])
    printed = capsys.readouterr().out
    for name, content in GOOD.items():
        assert (cache / name).read_bytes() == content
        assert hashlib.sha256(content).hexdigest() in printed
    for name in GOOD:
        (server / name).unlink()
    main([])  # what is there needs no server
    assert file_of("masks") == cache / "selfie_segmenter.tflite"


def test_damaged_files_and_a_silent_server_are_one_line(server, cache, capsys):
    (server / "pose_landmarker_full.task").write_bytes(GOOD["pose_landmarker_full.task"][:-9])
    (server / "face_landmarker.task").write_bytes(bundle(face_detector=b"1"))
    with pytest.raises(SystemExit, match="2"):
        main(["--download"])
    lines = capsys.readouterr().err.splitlines()  # others show the progress
    pose, face, masks = (line for line in lines if line.startswith(("pose:", "faces:", "masks:")))
    for line in (pose, face):
        assert "is damaged or no file of mediapipe's networks" in line and "delete it" in line
    assert "download of http" in masks and "selfie_segmenter.tflite failed" in masks
    assert not (cache / "selfie_segmenter.tflite").exists()


def test_a_package_without_networks_names_the_command(cache, monkeypatch):
    package = types.ModuleType("mediapipe")
    monkeypatch.setitem(sys.modules, "mediapipe", package)
    monkeypatch.setitem(sys.modules, "mediapipe.tasks.python.vision", types.ModuleType("vision"))
    with pytest.raises(UserError, match=r"python -m nets\.data\.mediapipe_tasks --d"):
        open_detector()


class Mark:
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


@pytest.fixture
def both(tmp_path, cache):
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
