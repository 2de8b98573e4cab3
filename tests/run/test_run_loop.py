"""A run from the inside: folder, log, images, bad numbers, limits. The script is toy.py."""

import json
import os

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import toy
from nets.run import checkpoints, seeds
from nets.run.log import records
from nets.run.run import Run
from runs import assert_equal, newest, scalars, steps, stored


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Start toy.py in this process; returns its run folder."""
    monkeypatch.chdir(tmp_path)

    def start(*argv, code=0, name="a"):
        given = ["--workers", "0", "--log_freq", "5", "--ckpt_freq", "6", *map(str, argv)]
        if name:
            given += ["--name", name]
        if code:
            with pytest.raises(SystemExit) as caught:
                toy.main(given)
            assert caught.value.code == code
        else:
            toy.main(given)
        return tmp_path / "runs/toy" / (name or "")

    return start


def test_the_folder_of_a_run_has_everything(train):
    run = train("--steps", 12, "--ema", 0.9)
    assert {path.name for path in run.iterdir() if path.name[0] != "."} == {
        *("config.yaml", "log.txt", "checkpoints", "images", "tensorboard", "environment.json")
    }
    facts = json.loads((run / "environment.json").read_text())
    assert facts["finished"] and facts["torch"] == torch.__version__ and facts["ranks"] == 1
    options = yaml.safe_load((run / "config.yaml").read_text())
    assert options["steps"] == 12 and options["ema"] == 0.9
    content = newest(run)
    assert content["system"] == "toy" and content["step"] == 12 and content["options"] == options
    assert set(content["parts"]) == {"model", "optimizer", "ema", "precision"}
    with Image.open(run / "images/sample_0000012.png") as image:
        assert image.size == (16, 16)


def test_log_and_tensorboard_tell_the_mean_since_the_last_line(train):
    every = records(train("--steps", 10, "--log_freq", 1, name="every") / "log.txt")
    run = train("--steps", 10)
    lines = records(run / "log.txt")
    assert [line["step"] for line in lines] == [1, 5, 10]
    losses = [line["mse"] for line in every]
    means = [losses[0], np.mean(losses[1:5]), np.mean(losses[5:])]
    np.testing.assert_allclose([line["mse"] for line in lines], means, rtol=1e-6)
    assert scalars(run) == [(line["step"], np.float32(line["mse"])) for line in lines]
    assert lines[1]["lr"] == 0.01 and lines[1]["images_per_second"] > 0
    assert "done 10" in (run / "log.txt").read_text()


@pytest.mark.parametrize(
    ("start", "freq", "steps"), [(1, 8, [1, 2, 4, 8, 16, 20]), (3, 10, [1, 3, 6, 10, 20])]
)
def test_the_first_lines_come_at_doubling_intervals(train, start, freq, steps):
    run = train("--steps", 20, "--log_freq", freq, "--start_log_freq", start)
    assert [line["step"] for line in records(run / "log.txt")] == steps


def test_checkpoints_come_when_due_and_at_the_end(train):
    assert stored(train("--steps", 20)) == [20, 18, 12]
    assert stored(train("--steps", 20, "--keep_last", 1, "--keep_every", 12, name="b")) == [20, 12]


def test_a_score_that_is_not_finite_is_never_the_best(train, monkeypatch):
    save, scores = Run.save, {5: float("nan"), 11: 2.0, 17: float("nan")}
    monkeypatch.setattr(Run, "save", lambda run, step: save(run, step, scores.get(step)))
    run = train("--steps", 24, "--keep_last", 1)
    assert newest(run)["best"] == {"step": 12, "score": 2.0} and stored(run) == [24, 12]


def test_the_same_name_goes_on_and_ends_as_if_never_stopped(train):
    whole = newest(train("--steps", 20, "--ema", 0.9, name="whole"))
    run = train("--steps", 9, "--ema", 0.9)
    train("--steps", 20, "--ema", 0.9)
    assert_equal(newest(run)["parts"], whole["parts"])
    text = (run / "log.txt").read_text()
    assert "going on from" in text and "option steps was 9, is 20" in text
    assert steps(run) == [1, 5, 9, 10, 15, 20]


def test_a_finished_run_only_makes_its_images_again(train):
    run = train("--steps", 6)
    (run / "images/sample_0000006.png").unlink()
    train("--steps", 6)
    assert (run / "images/sample_0000006.png").exists() and steps(run) == [1, 5, 6]


def test_what_was_logged_after_the_checkpoint_is_not_there_twice(train):
    whole = train("--steps", 20, name="whole")
    run = train("--steps", 11)
    checkpoints.path_of(run / "checkpoints", 11).unlink()  # as if killed after step 11
    with open(run / "log.txt", "a") as log:
        log.write('{"step": 11, "ms')  # inside a line
    train("--steps", 20)
    assert steps(run) == [1, 5, 10, 15, 20]
    assert [line["mse"] for line in records(run / "log.txt")] == [
        line["mse"] for line in records(whole / "log.txt")
    ]
    assert scalars(run) == scalars(whole)


def test_a_run_killed_before_its_first_checkpoint_begins_again(train):
    run = train("--steps", 5)
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    train("--steps", 10)
    assert steps(run) == [1, 5, 10]


def test_a_truncated_newest_checkpoint_is_said_and_the_one_before_used(train, capsys):
    run = train("--steps", 20)
    before = newest(run)
    path = checkpoints.path_of(run / "checkpoints", 20)
    path.write_bytes(path.read_bytes()[:-50])
    train("--steps", 20)
    said = capsys.readouterr().out
    assert "step_00000020.pt.broken: not whole; using the one before" in said
    assert "step_00000018.pt, step 18" in said
    assert_equal(newest(run)["parts"], before["parts"])


def test_without_a_name_the_same_command_goes_on_until_it_is_finished(train, tmp_path):
    train("--nan_at", "[8]", name=None, code=3)
    folders = list((tmp_path / "runs/toy").iterdir())
    train("--nan_at", "[8]", name=None, code=3)
    assert list((tmp_path / "runs/toy").iterdir()) == folders
    assert "going on from" in (folders[0] / "log.txt").read_text()
    train("--nan_at", "[8]", "--resume", "never", name=None, code=3)
    train("--seed", "1", name=None)
    assert len(list((tmp_path / "runs/toy").iterdir())) == 3
    train("--seed", "1", name=None)
    assert len(list((tmp_path / "runs/toy").iterdir())) == 4


def test_resume_never_does_not_write_over_checkpoints(train, capsys):
    run = train("--steps", 3)
    train("--steps", 4, "--resume", "never", code=2)
    assert "holds checkpoints; give another --name" in capsys.readouterr().err
    assert stored(run) == [3]


def test_a_checkpoint_of_another_size_or_system_is_one_line(train, capsys, monkeypatch):
    run = train("--steps", 3)
    train("--width", 4, code=2)
    error = capsys.readouterr().err.splitlines()[-1]
    assert "0.weight must be [4, 3, 3, 3], is [8, 3, 3, 3]" in error
    assert not json.loads((run / "environment.json").read_text())["finished"]
    path = checkpoints.path_of(run / "checkpoints", 3)
    checkpoints.write(path, {**checkpoints.read(path), "system": "vunet"})
    train(code=2)
    assert "a checkpoint of vunet, not of toy" in capsys.readouterr().err


def test_the_time_limit_saves_and_ends_well(train):
    run = train("--steps", 1000, "--time_limit", 1e-9)
    assert stored(run) == [] and "time limit reached after step 0" in (run / "log.txt").read_text()
    run = train("--steps", 10_000, "--time_limit", 0.03, name="b")
    done = stored(run)[0]
    assert 0 < done < 10_000 and f"done {done}" in (run / "log.txt").read_text()
    assert not json.loads((run / "environment.json").read_text())["finished"]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_batch(train, capsys):
    run = train("--nan_at", "[8]", code=3)
    assert "step 9: mse is nan; its batch is in" in capsys.readouterr().err
    kept = torch.load(run / "bad_batch.pt", weights_only=True)
    assert kept["step"] == 9 and kept["batch"]["x"].shape == (4, 3, 8, 8)
    assert np.isnan(kept["losses"]["mse"])
    assert stored(run) == [6]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gradient_that_is_not_finite_never_reaches_the_weights(train, capsys, precision):
    given = ["--precision", precision]
    run = train("--bad_gradient_at", "[8]", *given, code=3)
    assert "step 9: gradient_norm is" in capsys.readouterr().err and stored(run) == [6]
    run = train("--bad_gradient_at", "[8]", "--nan", "skip", *given, name="b")
    assert "step left out, 1 so far" in (run / "log.txt").read_text()
    assert all(t.isfinite().all() for t in newest(run)["parts"]["model"].values())


def test_only_fp16_has_a_scale_to_halve(train, capsys, tmp_path):
    train("--nan", "halve", "--precision", "bf16", code=2)
    error = capsys.readouterr().err
    assert "--nan halve: only fp16 has a loss scale to halve, --precision is bf16" in error
    assert "--nan skip leaves such steps out" in error and not (tmp_path / "runs").exists()


def scale(run):
    return newest(run)["parts"]["precision"]["scale"]


@pytest.mark.parametrize("nan", ["stop", "skip", "halve"])
def test_in_fp16_a_gradient_that_overflows_halves_the_scale(train, capsys, nan):
    given = ["--precision", "fp16", "--nan", nan]
    before = scale(train(*given, name="whole"))
    run = train("--bad_gradient_at", "[8, 9]", *given)
    said = (run / "log.txt").read_text()
    assert f"step left out, loss scale halved to {before / 4:g}, 2 so far" in said
    assert scale(run) == before / 4 and (run / "bad_batch.pt").exists()
    assert all(t.isfinite().all() for t in newest(run)["parts"]["model"].values())
    train("--bad_gradient_at", list(range(3, 60)), "--steps", 90, *given, name="b", code=3)
    assert "20 steps in a row" in capsys.readouterr().err


@pytest.mark.parametrize("nan, share", [("stop", None), ("skip", 1), ("halve", 2)])
@pytest.mark.parametrize("at", [0, 8])
def test_in_fp16_a_loss_halves_the_scale_if_asked_to(train, nan, share, at):
    given = ["--precision", "fp16", "--nan", nan]
    if share is None:
        train("--nan_at", f"[{at}]", *given, code=3)
        return
    before = scale(train(*given, name="whole"))
    assert scale(train("--nan_at", f"[{at}]", *given)) == before / share


def test_what_a_left_out_step_did_to_buffers_is_undone(train, monkeypatch):
    make = toy.Net

    def with_average(*layers):
        return make(layers[0], nn.BatchNorm2d(8, momentum=0.1), *layers[1:])

    monkeypatch.setattr(toy, "Net", with_average)
    monkeypatch.setattr(toy, "Numbers", Poisoned)
    run = train("--nan", "skip", "--on_bad_sample", "skip", "--steps", 12)
    assert "step left out" in (run / "log.txt").read_text()
    state = newest(run)["parts"]["model"]
    assert "1.running_mean" in state and all(t.isfinite().all() for t in state.values())


class Poisoned(toy.Numbers):
    """One image has a NaN."""

    def __getitem__(self, place):
        sample = super().__getitem__(place)
        if place[1] == 3:
            sample["x"][0, 0, 0] = float("nan")
        return sample


def test_such_steps_can_be_skipped_but_not_without_end(train, capsys):
    run = train("--nan_at", "[8]", "--nan", "skip")
    assert "step left out, 1 so far" in (run / "log.txt").read_text() and steps(run)[-1] == 20
    train("--nan_at", list(range(3, 60)), "--nan", "skip", "--steps", 90, name="b", code=3)
    assert "20 steps in a row" in capsys.readouterr().err
    train("--nan_at", list(range(3, 60, 2)), "--nan", "skip", "--steps", 70, name="c")


def test_a_bad_sample_is_one_line_or_skipped(train, capsys):
    train("--bad", 5, code=2)
    assert capsys.readouterr().err.splitlines()[-1].endswith("error: image_5.png: truncated")
    run = train("--bad", 5, "--on_bad_sample", "skip", name="b")
    assert "skipped (1): image_5.png: truncated" in (run / "log.txt").read_text()


def test_a_start_that_is_refused_leaves_no_folder(train, capsys):
    bad = ("--steps", 12, "--bad", 3)  # every epoch of 23 images has it
    assert not train(*bad, "--batch_size", 23, code=2).exists()
    assert "image_3.png: truncated" in capsys.readouterr().err
    kept = train("--steps", 6)
    train("--steps", 12, "--width", 4, code=2)
    assert stored(kept) == [6]


def test_a_refused_start_deletes_nothing_that_was_there(train, tmp_path):
    folder = tmp_path / "runs/toy/a"
    folder.mkdir(parents=True)
    assert train("--bad", 3, "--batch_size", 23, code=2).exists()


def test_accumulated_steps_equal_larger_ones(train):
    settings = ("--dropout", 0, "--precision", "fp32", "--steps", 5)
    small = newest(train("--batch_size", 2, "--accumulate", 3, *settings))
    large = newest(train("--batch_size", 6, *settings, name="b"))
    for name, weight in small["parts"]["model"].items():
        # Adam's first steps turn rounding errors of tiny gradients into up to 1e-5.
        torch.testing.assert_close(weight, large["parts"]["model"][name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("blocked", ["runs", "runs/toy/a/checkpoints"])
def test_a_folder_that_cannot_be_made_is_one_line(train, tmp_path, capsys, blocked):
    path = tmp_path / blocked
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a file")
    train(code=2)
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and ("File exists" in error[0] or "Not a directory" in error[0])
    assert "runs" in error[0]


def test_seeds_are_counted():
    assert seeds.counted_seed(1, "a", 2) == seeds.counted_seed(1, "a", 2)
    different = {seeds.counted_seed(*p) for p in [(1, "a", 2), (1, "a", 3), (1, "b", 2), (12, "a")]}
    assert len(different) == 4
    seeds.seed_everything(0, "step", 5, 0)
    draws = torch.rand(1).item(), np.random.rand(), os.urandom(0)
    seeds.seed_everything(0, "step", 5, 0)
    assert draws == (torch.rand(1).item(), np.random.rand(), b"")
