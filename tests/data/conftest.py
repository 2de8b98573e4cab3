import pytest

from boxes import Boxes
from nets.data.extraction import jobs


@pytest.fixture
def boxes(monkeypatch, tmp_path):
    """Extraction that sees boxes, in the test's folder."""
    detector = Boxes()
    monkeypatch.setattr(jobs, "detector", lambda backend: detector)
    monkeypatch.chdir(tmp_path)
    return detector
