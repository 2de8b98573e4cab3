import pytest

from boxes import Boxes
from nets.data.extraction import jobs


@pytest.fixture
def boxes(monkeypatch, tmp_path):
    """The detector of boxes, used by extraction in the test's folder."""
    detector = Boxes()
    monkeypatch.setattr(jobs, "detector", lambda backend: detector)
    monkeypatch.chdir(tmp_path)
    return detector
