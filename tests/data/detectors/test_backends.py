"""Backends by name, and errors of missing packages."""

import importlib
import subprocess
import sys

import pytest

from nets.data.detectors.backends import BACKENDS, for_heads, open_detector
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
