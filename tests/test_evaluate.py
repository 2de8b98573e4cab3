"""evaluate.py from the outside: which options of a configuration it takes, and its report."""

import json
import os

import pytest

import evaluate
from helpers import last_line, script
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


def test_json_alone_is_on_stdout(run, capfd, monkeypatch):
    folder, _ = run
    score = evaluate.systems.call

    def noisy(*given):
        os.system("echo compiled")  # as a compiler that is started here writes to stdout
        return score(*given)

    monkeypatch.setattr(evaluate.systems, "call", noisy)
    evaluate.main(["--json", "-"])
    out, err = capfd.readouterr()
    assert "compiled" in err
    assert json.loads(out) == json.loads((folder / "evaluation.json").read_text())
    assert "score" in err and "written:" in err
    evaluate.main(["--json", str(folder / "copy.json")])
    out, err = capfd.readouterr()
    assert "written:" in out
    assert (folder / "copy.json").read_text() == (folder / "evaluation.json").read_text()


def test_json_of_a_failure_is_empty(tmp_path):
    done = script("evaluate.py", "--json", "-", "--checkpoint", "none", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert "none" in last_line(done)


def reports(folder):
    """Two runs with reports, and the second one's file."""
    first = {"data": "people", "images": 4, "step": 3,
             "transfer": {"masked_l1": {"mean": 0.25, "std": 0.1, "count": 4}, "candidates": 16},
             "protocol": {"ssim": "one"}}  # fmt: skip
    second = {"data": "people", "images": 5, "transfer": {"masked_l1": {"mean": 0.125, "std": 0.0}},
              "network": {"nearest_target": 0.5, "table": [1, 2]},
              "protocol": {"ssim": "another"}}  # fmt: skip
    for name, report in (("a", first), ("b", second)):
        (folder / name / "checkpoints").mkdir(parents=True)
        (folder / name / "evaluation.json").write_text(json.dumps(report))
    return str(folder / "a/checkpoints"), str(folder / "b/evaluation.json")


def test_reports_stand_side_by_side(tmp_path, capsys):
    one, two = reports(tmp_path)
    evaluate.main(["--compare", one, two])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        f"|  | {one} | {two} |",
        "| --- | ---: | ---: |",
        "| transfer masked_l1 | 0.2500 | 0.1250 |",
        "| transfer candidates | 16 |  |",
        "| network nearest_target |  | 0.5000 |",
    ]
    assert "images differs: 4, 5" in lines and "the protocol of ssim differs" in lines
    assert not any(line.startswith("data differs") for line in lines)


def test_a_run_without_a_report_is_named(tmp_path, capsys):
    reports(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        evaluate.main(["--compare", str(tmp_path / "a"), str(tmp_path)])
    assert f"--compare {tmp_path}: no report" in capsys.readouterr().err
