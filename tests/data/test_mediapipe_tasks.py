"""Files of networks for MediaPipe from 1.0: found, downloaded and checked."""

import functools
import hashlib
import http.server
import sys
import threading
import types

import pytest

from nets.data import mediapipe_tasks
from nets.data.detectors import open_detector
from nets.data.mediapipe_tasks import FILES, file_of, main
from nets.errors import UserError

GOOD = {
    "pose_landmarker_full.task": b"networks of a pose",
    "face_landmarker.task": b"networks of a face",
    "selfie_segmenter.tflite": b"a network of masks",
}


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
        part: (name, f"{address}/{name}", hashlib.sha256(GOOD[name]).hexdigest())
        for part, (name, _, _) in FILES.items()
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
    cache.mkdir(parents=True)
    (cache / "pose_landmarker_full.task").write_bytes(GOOD["pose_landmarker_full.task"][:-1])
    (server / "face_landmarker.task").write_bytes(GOOD["face_landmarker.task"][:-1])
    with pytest.raises(SystemExit, match="2"):
        main(["--download"])
    lines = capsys.readouterr().err.splitlines()  # others show the progress
    pose, faces, masks = (line for line in lines if line.startswith(("pose:", "faces:", "masks:")))
    good = hashlib.sha256(GOOD["pose_landmarker_full.task"]).hexdigest()
    assert "is damaged, or not the file at http" in pose and f"must be {good}); delete it" in pose
    assert "face_landmarker.task failed (invalid hash value" in faces
    assert "download of http" in masks and "selfie_segmenter.tflite failed" in masks
    for name in ("face_landmarker.task", "selfie_segmenter.tflite"):  # not kept
        assert not (cache / name).exists()


def test_a_package_without_networks_names_the_command(cache, monkeypatch):
    package = types.ModuleType("mediapipe")
    monkeypatch.setitem(sys.modules, "mediapipe", package)
    monkeypatch.setitem(sys.modules, "mediapipe.tasks.python.vision", types.ModuleType("vision"))
    with pytest.raises(UserError, match=r"python -m nets\.data\.mediapipe_tasks --d"):
        open_detector()
