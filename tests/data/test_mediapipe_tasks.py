"""Files of networks for MediaPipe from 1.0: found, downloaded and checked."""

import functools
import hashlib
import http.server
import sys
import threading
import types

import pytest

from helpers import bundle
from nets.data import mediapipe_tasks
from nets.data.detectors import open_detector
from nets.data.mediapipe_tasks import FILES, file_of, main
from nets.errors import UserError

GOOD = {
    "pose_landmarker_full.task": bundle(pose_detector=b"1", pose_landmarks_detector=b"2"),
    "face_landmarker.task": bundle(face_detector=b"1", face_landmarks_detector=b"2"),
    "selfie_segmenter.tflite": b"\x1c\0\0\0TFL3....",
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
