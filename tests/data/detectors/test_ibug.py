"""The 68 points of dlib and of face-alignment."""

import os
import sys
from pathlib import Path

import pytest
import torch

from nets.data.detectors.backends import open_detector, require_masks
from nets.data.detectors.ibug import FACE_WEIGHTS
from nets.data.io.images import read_image
from nets.errors import UserError


def test_dlib_without_a_face_and_without_mediapipe(dlib, monkeypatch):
    for size in ((96, 128), (1, 1), (3000, 40)):
        assert dlib.faces(torch.full((3, *size), 90, dtype=torch.uint8)) == []
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    for what, call in (("people", dlib.people), ("masks", dlib.mask)):
        with pytest.raises(UserError, match=f"dlib finds no {what}, .*mediapipe is needed"):
            call(torch.zeros(3, 64, 64, dtype=torch.uint8))
    monkeypatch.setattr(dlib, "has_mediapipe", False)
    with pytest.raises(UserError, match=r"no masks, .*mediapipe is needed .*--output_seg"):
        require_masks(dlib)


def test_dlib_without_its_models_is_one_line(monkeypatch):
    pytest.importorskip("dlib", reason="is installed by the extra `dlib`")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"shape_predictor_68.*\.\[dlib\]"):
        open_detector("dlib")


def test_dlib_places_points_at_any_size(dlib):
    """A real face at two sizes."""
    folder = os.environ.get("GUISE_REAL_FILES")
    if not folder:
        pytest.skip("no GUISE_REAL_FILES")
    image = read_image(Path(folder) / "face_selfie.jpg", None)
    (whole,) = dlib.faces(image)
    half = torch.nn.functional.interpolate(image[None].float(), scale_factor=0.5, mode="area")
    (small,) = dlib.faces(half[0].round().to(torch.uint8))
    inner = (whole[36] - whole[45]).norm()  # between the outer corners of the eyes
    assert (2 * small - whole).norm(dim=-1).mean() < 0.1 * inner
    assert whole[8, 1] > whole[27, 1] and whole[36, 0] < whole[45, 0]  # chin, bridge; eyes


@pytest.fixture
def face_alignment(tmp_path, monkeypatch):
    """The package face_alignment without internet, with an empty folder for its weights."""
    mediapipe = pytest.importorskip("mediapipe", reason="is installed by the extra `extract`")
    package = pytest.importorskip("face_alignment", reason="is installed by `face-alignment`")
    if not hasattr(mediapipe, "solutions"):
        pytest.skip("the networks of this mediapipe are files, which the empty folder lacks")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://localhost:1")  # no server is there
    return package


def test_missing_weights_of_face_alignment_are_named(face_alignment, tmp_path, capsys):
    with pytest.raises(UserError, match=r"its weights cannot be loaded .*urlopen error") as error:
        open_detector("face-alignment")
    printed = capsys.readouterr().err.splitlines()[0]
    for name in FACE_WEIGHTS:
        assert name in printed and name in str(error.value)
    folder = tmp_path / "hub" / "checkpoints"
    assert str(folder) in printed and "mediapipe needs no download" in str(error.value)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FACE_WEIGHTS[0]).write_bytes(b"half a file")
    with pytest.raises(UserError, match="its weights cannot be loaded"):
        open_detector("face-alignment")


def test_face_alignment_gives_68_points_in_pixels(face_alignment, tmp_path, capsys):
    """With weights in the right format that detect a face of 128 pixels with random points."""
    from face_alignment.detection.sfd.net_s3fd import s3fd
    from face_alignment.models import FAN

    torch.manual_seed(0)
    faces, points = s3fd(), FAN(4)
    with torch.no_grad():
        for name, values in faces.named_parameters():
            if "_mbox_" in name:
                values.zero_()
            if name.endswith("_mbox_conf.bias"):  # probable face at one scale only
                values.copy_(torch.tensor([9.0] * (len(values) - 1) + [-9.0]))
        faces.fc7_mbox_conf.bias.copy_(torch.tensor([-9.0, 9.0]))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    for name, net in zip(FACE_WEIGHTS, (faces, points), strict=True):
        torch.save(net.state_dict(), folder / name)
    detector = open_detector("face-alignment")
    assert "internet" not in capsys.readouterr().err
    image = torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8)
    detected = detector.faces(image)
    assert len(detected) > 0
    for face in detected:
        assert face.shape == (68, 2) and face.dtype == torch.float32
    extents = [(face.amax(0) - face.amin(0)).max().item() for face in detected]
    assert extents == sorted(extents, reverse=True)
    assert min(extents) > 100 and max(extents) < 264  # points lie in 200 / 195 * 256 pixels
    assert detector.mask(image).shape == (64, 96) and detector.people(image) == []
