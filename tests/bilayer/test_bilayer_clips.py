"""evaluate.py --clips: self- and cross-identity on whole clips, by answers that are known."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

import evaluate
import train_bilayer
from avatar_folder import write_folder
from nets.bilayer import evaluate_clips as clips
from nets.bilayer.evaluate_clips import Measures, distances, driver_of, read_clip, turned
from nets.bilayer.warm_start import load_model
from nets.data.heads.videos import AvatarFolder
from nets.errors import UserError
from nets.pretrained import inception
from nets.published import find, read_checkpoint
from nets.run.images import to_uint8
from nets.run.precision import Precision


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    argv = ["--config", "smoke_bilayer.yaml", "--experiment_dir", root, "--num_epochs", 1]
    train_bilayer.main([str(a) for a in [*argv, "--skip_test"]])
    return root / "runs" / "test"


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


def folder(root, **options):
    return AvatarFolder(write_folder(root, ("test",), **options), "test", 48)


def test_a_clip_is_its_first_frame_and_others_at_equal_distances(tmp_path):
    data = folder(tmp_path, frames=6)
    reds = {}
    for many in (1, 2, 5, 20):
        clip = read_clip(data, data.items[0], many)
        assert clip.sample["source_imgs"][0, 0, 24, 24] < 10
        middle = clip.sample["target_imgs"][:, 0, 24, 24]
        reds[many] = (middle.float() / 40).round().int().tolist()
    assert reds == {1: [5], 2: [2, 5], 5: [1, 2, 3, 4, 5], 20: [1, 2, 3, 4, 5]}
    short = folder(tmp_path / "short", frames=1)
    assert read_clip(short, short.items[0], 3) is None


def test_the_driver_is_another_person():
    made = [clips.Clip(person, "", {}) for person in "aabbc"]
    assert [driver_of(made, i) for i in range(5)] == [2, 2, 4, 4, 0]
    assert driver_of(made[:2], 0) is None


def test_point_errors_by_hand():
    truth = torch.zeros(68, 2)
    truth[36:42] = torch.tensor([10.0, 0.0])  # eyes 20 apart
    truth[42:48] = torch.tensor([30.0, 0.0])
    found = truth + torch.tensor([3.0, 4.0])
    given = (truth + torch.tensor([0.0, 4.0]))[None].expand(4, -1, -1)
    result = distances([found, None, found, truth], [truth, truth, None, truth], given)
    assert result["akd"].tolist() == [5, 0] and result["akd_given"].tolist() == [3, 4]
    assert result["pme"].tolist() == [0.25, 0]
    assert result["missed"].tolist() == [0, 1, 0]  # the third frame's truth has no face
    assert distances([None], [None]) == {} and turned([None], [truth]) == {}


class Reader:
    """A detector that finds the points of the folder's faces by their colour."""

    def __init__(self, data: AvatarFolder):
        self.known = {}
        for item in data.items:
            clip = read_clip(data, item, 99)
            for role in ("source", "target"):
                images, poses = (clip.sample[f"{role}_{n}"] for n in ("imgs", "poses"))
                for image, pose in zip(images, poses, strict=True):
                    self.known[self.key(image)] = (pose.view(68, 2) + 1) * 24

    @staticmethod
    def key(image):
        return tuple((image[:2, 24, 24].float() / 20).round().int().tolist())

    def __call__(self, image):
        return self.known.get(self.key(image))


def measures_of(run, detect):
    content = read_checkpoint(find(str(run)), "bilayer")
    model = load_model(content, run, Precision("fp32", torch.device("cpu")))
    measures = Measures(model, detect, download=False, source="random")
    measures.inception = lambda images: (images.float().flatten(1)[:, ::97], None)
    return model, measures


def test_perfect_frames_get_perfect_scores(run, tmp_path, monkeypatch, no_weights):
    data = folder(tmp_path / "data", people=3, frames=5)
    model, measures = measures_of(run, Reader(data))

    def nearly(model, avatar, driver):  # the error of equal images has no PSNR in dB
        frames = driver.truth.clone()
        frames[:, :, 20, 20] ^= 1
        return frames

    monkeypatch.setattr(clips, "avatars_of", lambda *given: None)
    monkeypatch.setattr(clips, "_driven", nearly)
    report = clips.score_clips(model, data, 4, measures)
    own, cross = report["self"], report["cross"]
    assert report["clips"] == 3 and own["l1"]["count"] == 12
    for name in ("l1", "akd", "akd_given", "pme", "pose", "missed", "lpips"):
        assert own[name]["mean"] == pytest.approx(0, abs=1e-3), name
    assert own["ssim"]["mean"] == pytest.approx(1, abs=1e-3) and own["psnr"]["mean"] > 60
    assert own["csim"]["mean"] == pytest.approx(1, abs=1e-3)
    assert own["fid"] == pytest.approx(0, abs=1)  # a grey level in one of 72 features
    assert own["l1_copy_source"]["mean"] > 0.05 and own["akd_copy_source"]["mean"] > 1
    assert own["csim_copy_source"]["mean"] < own["csim"]["mean"]
    # The frames are the driver's: its pose and expression, and not the source's identity.
    assert cross["pose"]["mean"] == pytest.approx(0, abs=1e-4)
    assert cross["expression"]["mean"] == pytest.approx(0, abs=1e-6)
    assert cross["csim"]["mean"] < 1 - 1e-5
    assert set(cross) >= {"pose_copy_source", "expression_copy_source", "missed"}


def test_frames_of_the_source_alone_score_as_copies(run, tmp_path, monkeypatch, no_weights):
    data = folder(tmp_path / "data", people=2, frames=5)
    model, measures = measures_of(run, Reader(data))

    def still(model, source, driver):
        return to_uint8(source[0]).expand(len(driver.truth), -1, -1, -1)

    monkeypatch.setattr(clips, "avatars_of", lambda model, data, steps: data["source_imgs"])
    monkeypatch.setattr(clips, "_driven", still)
    report = clips.score_clips(model, data, 4, measures)
    for name in ("l1", "psnr", "ssim", "lpips", "csim", "akd"):
        own = report["self"]
        assert own[name]["mean"] == pytest.approx(own[f"{name}_copy_source"]["mean"]), name
    cross = report["cross"]
    assert cross["pose"]["mean"] == pytest.approx(cross["pose_copy_source"]["mean"])
    assert cross["expression"]["mean"] == pytest.approx(cross["expression_copy_source"]["mean"])
    assert cross["csim"]["mean"] == pytest.approx(1, abs=1e-4)


def test_missing_networks_are_named_with_address_and_digest(run, tmp_path, capsys, no_weights):
    write_folder(tmp_path / "data", ("test",), frames=3)
    out = tmp_path / "o.json"
    evaluate.main(["--checkpoint", str(run), "--data", str(tmp_path / "data"), "--clips", "2",
                   "--detector", "mediapipe", "--out", str(out)])  # fmt: skip
    report, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert {"l1", "psnr", "ssim", "l1_copy_source"} <= set(report["self"])
    for name in ("lpips", "csim", "fid", "no detector"):
        (line,) = [line for line in report["left_out"] if name in line.split(": ")[0] + line[-12:]]
        assert line in printed
    (line,) = [line for line in report["left_out"] if line.startswith("fid")]
    for file, (_, digest, address) in inception.OFFICIAL.items():
        assert file in line and digest in line and address in line
        break  # one of the two is named first
    assert "cross" in report["protocol"]["clips"]


def test_clips_need_a_folder_of_clips(run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        evaluate.main(["--checkpoint", str(run), "--data", "heads", "--clips", "2"])
    assert "--clips: for data in a folder, PERSON/VIDEO; give --data" in capsys.readouterr().err
    silent = SimpleNamespace(left_out=[], descriptions=[])
    with pytest.raises(UserError, match="no clip of phase test has two frames"):
        clips.score_clips(None, folder(tmp_path, frames=1), 2, silent)
