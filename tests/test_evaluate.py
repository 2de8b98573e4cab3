"""evaluate.py from the outside: which options of a configuration it takes, and its report."""

import json

import pytest

import evaluate
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
