"""Scores of landmarks on clips without joints, and clips that are held out of training."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import evaluate
import train_landmarks
from nets.data.clips.clips import Clips, Folders
from nets.data.io.images import write_image
from nets.errors import UserError
from nets.landmarks import clip_metrics
from nets.landmarks.data import open_folders
from nets.layers import signed

SIDE = 32


def write_clips(folder, names, frames=12):
    """Clips of a bright square of 8 x 8 that moves over a dark wall."""
    for n, name in enumerate(names):
        for i in range(frames):
            image = torch.full((3, SIDE, SIDE), 20 + n, dtype=torch.uint8)
            image[:, 8:16, 2 * i : 2 * i + 8] = 220
            write_image(folder / name / f"{i:02d}.png", image)
    return folder


class Copying:
    """A model that returns the appearance, its truth mask, and one landmark at each corner."""

    def __call__(self, pose, appearance):
        mask = (pose[:, :1] > 0).float()
        return SimpleNamespace(reconstruction=appearance, mask=mask)

    def landmarks(self, frame):
        corners = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]])
        return SimpleNamespace(means=corners.expand(len(frame), -1, -1))


def test_scores_of_a_model_that_copies_are_those_of_copying(tmp_path):
    write_clips(tmp_path, ["a", "b"])
    data = Clips(Folders(tmp_path, SIDE, pairs=True), SIDE, pairs=True)
    samples = [data[0, i] for i in range(len(data))]
    batch = {key: torch.stack([s[key] for s in samples]) for key in ("frame", "partner")}
    batch["index"] = torch.arange(len(data))
    mean = torch.full((3, SIDE, SIDE), 20, dtype=torch.uint8)
    report = clip_metrics.scores(Copying(), [batch], data, mean)
    rebuilt = report["reconstruction"]
    assert rebuilt["ratio_to_copy"] == 1 and rebuilt["ratio_to_copy_moving"] == 1
    # The mean image lacks the square: 64 pixels of 1024 are off by 200, clip b's wall by 1.
    walls = (64 * 200 + (64 * 200 + 960 * 1)) / 2 / 1024 / 255
    assert rebuilt["l1_mean_image"]["mean"] == pytest.approx(walls)
    # The square crosses column 8 to 23, so a place is bright in 4 of 12 frames: the median is dark.
    assert report["mask"]["iou"]["mean"] == 1 and report["mask"]["recall"]["mean"] == 1
    assert report["spread"]["landmarks"]["mean"] == pytest.approx(np.sqrt(2) / 4)
    assert report["spread"]["pixels"]["mean"] == pytest.approx(np.sqrt(2 * 63 / 12) / SIDE)
    assert 0 < report["spread"]["inside"]["mean"] < 0.5


def test_landmarks_inside_the_moving_pixels_are_counted(tmp_path):
    write_clips(tmp_path, ["a"])
    data = Clips(Folders(tmp_path, SIDE, pairs=True), SIDE, pairs=True)

    class Centred(Copying):
        def landmarks(self, frame):
            bright = (frame[:, 0] > 0).double()
            x = (bright.sum(1) * (torch.arange(SIDE) + 0.5)).sum(1) / bright.sum((1, 2))
            y = (bright.sum(2) * (torch.arange(SIDE) + 0.5)).sum(1) / bright.sum((1, 2))
            return SimpleNamespace(means=torch.stack([x, y], 1)[:, None] / SIDE * 2 - 1)

    batch = {"frame": data[0, 3]["frame"][None], "partner": data[0, 9]["frame"][None]}
    batch["index"] = torch.tensor([3])
    report = clip_metrics.scores(Centred(), [batch], data, batch["frame"][0])
    assert report["spread"]["inside"]["mean"] == 1
    assert report["spread"]["landmarks"]["mean"] == 0
    assert report["reconstruction"]["l1_mean_image"]["mean"] == 0


def test_clips_that_do_not_move_have_no_masks_to_compare(tmp_path):
    for i in range(4):
        write_image(tmp_path / "still" / f"{i}.png", torch.full((3, SIDE, SIDE), 90).byte())
    data = Clips(Folders(tmp_path, SIDE, pairs=True), SIDE, pairs=True)
    frame = data[0, 0]["frame"][None]
    batch = {"frame": frame, "partner": frame, "index": torch.tensor([0])}
    with pytest.raises(UserError, match="no pixel of the clips moves"):
        clip_metrics.scores(Copying(), [batch], data, frame[0])
    assert signed(frame).shape == (1, 3, SIDE, SIDE)


def settings(**changed):
    return {"image_size": SIDE, "frame_cache": None, "seed": 0, "hold_out": [], **changed}


def test_held_out_clips_are_not_trained_on(tmp_path):
    write_clips(tmp_path, ["anna_1", "anna_2", "bert_1", "carl_1"])

    def names(held_out, *patterns):
        data = open_folders(settings(hold_out=patterns), tmp_path, held_out, False)
        return [clip.name for clip in data.source.clips]

    assert names(False, "anna_*", "carl_1") == ["bert_1"]
    assert names(True, "anna_*", "carl_1") == ["anna_1", "anna_2", "carl_1"]
    assert names(False) == names(True) == ["anna_1", "anna_2", "bert_1", "carl_1"]
    with pytest.raises(UserError, match=r"--hold_out dora_\*: no clip of .* has such a name"):
        names(False, "dora_*")
    with pytest.raises(UserError, match=r"leaves no clip of .* to train on"):
        names(False, "*")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--use_temporal"], "--hold_out: names clips; needs --dataset clips"),
        (["--dataset", "clips", "--data", "x", "--val_path", "y", "--use_temporal"],
         "--hold_out, --val_path: give one of them"),
    ],
)  # fmt: skip
def test_hold_out_needs_clips(given, message, capsys):
    with pytest.raises(SystemExit) as left:
        train_landmarks.main([*given, "--hold_out", "a"])
    assert left.value.code == 2 and message in capsys.readouterr().err


def test_a_run_is_scored_on_the_clips_that_it_held_out(tmp_path, capsys):
    write_clips(tmp_path / "clips", ["anna_1", "anna_2", "bert_1"])
    run = tmp_path / "run"
    clips = str(tmp_path / "clips")
    train_landmarks.main(
        ["--config", "smoke_landmarks.yaml", "--dataset", "clips", "--data", clips,
         "--hold_out", "bert_*", "--num_steps", "1", "--save_path", str(run)]
    )  # fmt: skip
    evaluate.main(["--checkpoint", str(run)])
    report = json.loads((run / "evaluation.json").read_text())
    assert report["clips"] == ["bert_1"] and report["held_out"] == 12
    assert report["reconstruction"]["ratio_to_copy"] > 0
    assert "median of the clip's frames" in report["protocol"]["moving"]
    evaluate.main(["--checkpoint", str(run), "--data", clips])
    report = json.loads((run / "evaluation.json").read_text())
    assert report["clips"] == ["anna_1", "anna_2", "bert_1"]
    capsys.readouterr()
