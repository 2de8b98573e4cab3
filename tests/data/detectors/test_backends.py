"""Backends by name, and errors of missing packages."""

import importlib
import subprocess
import sys

import pytest

from nets.data.detectors.backends import BACKENDS, for_heads, open_detector
from nets.data.detectors.packages import imported_later
from nets.errors import UserError


def test_missing_packages_are_one_line_with_the_remedy(monkeypatch):
    for name in ("mediapipe", "face_alignment", "dlib"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"mediapipe is needed .*'\.\[extract\]'"):
        open_detector()
    with pytest.raises(UserError, match=r"face-alignment==1\.5\.0 is needed .*\.\[face-al"):
        open_detector("face-alignment")
    with pytest.raises(UserError, match=r"dlib-bin is needed .*\.\[dlib\]"):
        open_detector("dlib")
    with pytest.raises(UserError, match="must be one of mediapipe, face-alignment, dlib"):
        open_detector("magic")


def test_head_avatars_take_ibugs_points_where_they_are_installed(monkeypatch, capsys):
    monkeypatch.setattr("nets.data.detectors.backends.is_mediapipe_ready", lambda: True)
    for there, expected in ((True, "dlib"), (False, "mediapipe")):
        monkeypatch.setattr("nets.data.detectors.backends.has_dlib", lambda there=there: there)
        assert for_heads("auto") == expected
        line = capsys.readouterr().err
        assert line == "" if there else "pip install -e '.[dlib]'" in line and "jaw" in line
        for backend in ("mediapipe", "face-alignment"):
            assert for_heads(backend) == backend
        assert capsys.readouterr().err == ""


def test_every_script_takes_every_backend():
    import app
    import infer
    from nets import systems

    evaluate = importlib.import_module("evaluate").parser()
    systems.add_options(evaluate, "evaluate")
    for parser in (app.parser(), infer.parser(), evaluate):
        (action,) = (a for a in parser._actions if "--detector" in a.option_strings)
        assert action.metavar == "{" + ",".join(("auto", *BACKENDS)) + "}"


def test_packages_are_imported_on_use_only():
    code = (
        "import sys, nets.data.detectors; print({'mediapipe', 'face_alignment'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_what_a_package_imports_for_other_uses_is_imported_later(tmp_path, monkeypatch):
    for name, text in {
        "plots": "", "plots/__init__.py": "", "plots/draw.py": "line = 7",
        "detects.py": "import plots.draw as draw",
    }.items():  # fmt: skip
        path = tmp_path / name
        path.write_text(text) if path.suffix else path.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("plots", "plots.draw", "detects"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with imported_later("plots", "plots.draw", "json"):
        detects = importlib.import_module("detects")
        assert sys.modules["json"].loads("1") == 1  # imported before: stays
    assert not {"plots", "plots.draw"} & {*sys.modules}
    assert detects.draw.line == 7 and "plots.draw" in sys.modules
    assert importlib.import_module("plots.draw").line == 7


def test_mediapipe_opens_without_packages_for_plots_and_microphones():
    pytest.importorskip("mediapipe")
    code = "import sys; from nets.data.detectors import open_detector; open_detector(); "
    code += "print({'matplotlib', 'matplotlib.pyplot', 'sounddevice'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if "mediapipe_tasks" in done.stderr or "UserError" in done.stderr:
        pytest.skip("MediaPipe's files are missing")
    assert done.stdout.strip() == "set()", done.stderr
