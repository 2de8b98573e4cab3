import pytest
import torch

from boxes import Boxes
from nets.data.detectors import open_detector
from nets.data.detectors.mediapipe import is_mediapipe_ready
from nets.data.extraction import jobs


@pytest.fixture
def boxes(monkeypatch, tmp_path):
    """The detector of boxes, used by extraction in the test's folder."""
    detector = Boxes()
    monkeypatch.setattr(jobs, "detector", lambda backend: detector)
    monkeypatch.chdir(tmp_path)
    return detector


@pytest.fixture(scope="session")
def mediapipe():
    pytest.importorskip("mediapipe", reason="is installed by the extra `extract`")
    if not is_mediapipe_ready():
        pytest.skip("the files of this mediapipe's networks are not there")
    return open_detector()


@pytest.fixture(scope="session")
def dlib():
    pytest.importorskip("dlib", reason="is installed by the extra `dlib`")
    return open_detector("dlib")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """torch's empty cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)  # an earlier test of this process may set it
    return tmp_path / "hub/checkpoints"
