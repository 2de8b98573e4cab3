"""evaluate.py from the outside: which options of a configuration it takes, and its report."""

import json

import pytest

import evaluate
import infer
from nets.run import checkpoints


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder of an unknown kind of weights, and what evaluate.py was asked for."""
    calls = []

    def score(system, part, function, args, content, path, ranks):
        calls.append((args, path))
        return {
            "data": args.data or "own",
            args.stage: {"score": 1.0},
            "protocol": {args.stage: ""},
        }

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate.systems, "call", score)
    content = {"system": "landmarks", "options": {}, "step": 3, "parts": {"model": {}},
               "best": None, "log": []}  # fmt: skip
    path = checkpoints.path_of(tmp_path / "runs/landmarks/a/checkpoints", 3)
    path.parent.mkdir(parents=True)
    checkpoints.write(path, content)
    return path.parent.parent, calls


def test_a_runs_own_configuration_means_the_run(run, capsys):
    folder, calls = run
    config = folder / "config.yaml"
    config.write_text("n_landmarks: 30\nbatch_size: 3\ndata: other\ncheckpoint: first/round\n")
    evaluate.main(["--config", str(config)])
    (args, path), *_ = calls
    assert path.parent.parent == folder
    assert args.batch_size == 16 and args.data is None
    assert f"{config}: of a training run; used here: checkpoint" in capsys.readouterr().out


def test_an_originals_options_give_the_data(run, tmp_path, capsys):
    folder, calls = run
    config = tmp_path / "opt.yaml"
    config.write_text("dataset_path: BBC\nimg_size: 128\nuse_gan: true\nresume_ckpt: null\n")
    evaluate.main(["--config", str(config), "--checkpoint", str(folder)])
    (args, _), *_ = calls
    assert args.data == "BBC"
    assert "used here: data" in capsys.readouterr().out
    config.write_text("dataset_path: BBC\nuse_gam: true\n")
    with pytest.raises(SystemExit):
        evaluate.main(["--config", str(config), "--checkpoint", str(folder)])
    assert "unknown key" in capsys.readouterr().err


# The keys of the original's base.yaml and prjoti.yaml.
PORT = """
iterator: iterator.Iterator
model: vunet.VUNet
batch_size: 8
num_epochs: 100
code_root: null
model_pars: {final_act: true, nf_start: 64, nf_max: 128, spatial_size: 256, dropout_prob: 0.0,
  img_channels: 3, pose_channels: 3}
lr: 0.0001
integrations: {wandb: {active: false}, tensorboardX: {active: false}}
losses:
  color_L1: {weight: 0.5}
  KL: {start_ramp_it: 2000, start_ramp_val: 0, end_ramp_it: 3500, end_ramp_val: 1}
  perceptual: {weight: 1.0, vgg_feat_weights: [1, 1, 1, 1, 1, 1]}
"""
PRJOTI = """
data_root: prjoti_data
datasets: {train: prjoti.Train, validation: prjoti.Validation}
"""


@pytest.mark.parametrize("script", [evaluate, infer])
def test_the_ports_configuration_is_taken(run, tmp_path, capsys, monkeypatch, script):
    """edflow's base.yaml with model_pars and losses, and prjoti.yaml with the data."""
    folder, calls = run
    (tmp_path / "base.yaml").write_text(PORT)
    (tmp_path / "prjoti.yaml").write_text(PRJOTI)
    if script is infer:
        monkeypatch.setattr(infer.systems, "call", lambda *arguments: None)
    script.main(["--config", "base.yaml", "prjoti.yaml", "--checkpoint", str(folder)])
    out = capsys.readouterr().out
    assert "base.yaml: of a training run; used here: " in out
    if script is evaluate:
        (args, _), *_ = calls
        assert args.data == "prjoti_data" and args.batch_size == 8
    (tmp_path / "mine.yaml").write_text(PORT.replace("model_pars", "model_part"))
    with pytest.raises(SystemExit):
        script.main(["--config", "mine.yaml", "--checkpoint", str(folder)])
    error = capsys.readouterr().err
    assert "model_part in mine.yaml: unknown key; did you mean model_pars?" in error


def test_a_stage_keeps_the_scores_of_the_others(run):
    folder, _ = run
    report = folder / "evaluation.json"
    evaluate.main(["--stage", "dump"])
    evaluate.main(["--stage", "score"])
    scores = json.loads(report.read_text())
    assert {"dump", "score"} <= scores.keys() and scores["protocol"].keys() == {"dump", "score"}
    evaluate.main(["--stage", "regress", "--data", "other"])  # nothing in common
    assert not {"dump", "score"} & json.loads(report.read_text()).keys()
    evaluate.main([])
    assert json.loads(report.read_text()).keys() >= {"all"}
    report.write_text("not JSON")
    evaluate.main(["--stage", "score"])
    assert "score" in json.loads(report.read_text())
