"""Commands of the published programs, with files as those programs wrote them."""

import io
import itertools
import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
import infer
import train_vunet
from helpers import last_line, script
from nets.errors import UserError
from nets.published import main as convert
from nets.run import checkpoints
from nets.run.ranks import Ranks
from nets.vunet import evaluate as evaluation
from nets.vunet import options as settings
from published_vunet import Port, TensorFlow
from small_data import index_folder
from tensorflow_writer import write_checkpoint


def refused(capsys, main, *arguments):
    """The line of the error with which a script refuses its arguments."""
    with pytest.raises(SystemExit, match="2"):
        main([str(a) for a in arguments])
    return capsys.readouterr().err.strip().splitlines()[-1]


def values(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator) / 8


# A file of the user's own, with the keys of the original's market.yaml, for a network of 32 px.
MARKET = """
data_index: data/index.p
batch_size: 2
init_batches: 4
spatial_size: 32
box_factor: 1
bottleneck_factor: 1
drop_prob: 0.1
lr: 1.0e-3
lr_decay_begin: 1
lr_decay_end: 2
log_freq: 250
ckpt_freq: 1000
test_freq: 1000
feature_layers: [input_1, block1_conv2]
feature_weights: [1.0, 1.0]
gram_weights: [0.0, 0.0]
"""
TENSORFLOW = ["--config", "market.yaml", "--nf_start", "8", "--nf_max", "16", "--workers", "0",
              "--perceptual", "random"]  # fmt: skip


@pytest.fixture(scope="module")
def tensorflow(tmp_path_factory):
    """A folder with model.ckpt-500 of the TensorFlow program, market.yaml and data/index.p."""
    folder = tmp_path_factory.mktemp("tensorflow")
    index_folder(folder / "data")
    (folder / "market.yaml").write_text(MARKET)
    net = TensorFlow(5, 1, 8, 16, values())
    net(values(1)(2, 3, 32, 32), values(2)(2, 24, 16, 16))  # names and shapes of all variables
    variables = {name: tensor.numpy() for name, tensor in net.p.items()}
    variables |= {f"{name}/Adam": np.zeros_like(tensor) for name, tensor in variables.items()}
    variables |= {"global_step": np.int64(500), "beta1_power": np.float32(0.5)}
    write_checkpoint(folder / "model.ckpt-500", variables, shards=2)
    return folder


@pytest.fixture
def inside(tensorflow, monkeypatch):
    monkeypatch.chdir(tensorflow)
    return tensorflow


def test_a_tensorflow_checkpoint_transfers(inside, tmp_path):
    joints = ["--source_joints", "data/index.p:0", "--driving_joints", "data/index.p:1"]
    infer.main(["--checkpoint", "model.ckpt-500", "-s", "data/images/0.png", "-d",
                "data/images/1.png", *joints, "-o", str(tmp_path / "out.png")])  # fmt: skip
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (32, 32)


def test_a_tensorflow_checkpoint_is_trained_for_a_second_round(inside, tmp_path, capsys):
    shared = [*TENSORFLOW, "--checkpoint", "model.ckpt-500", "--run_dir", str(tmp_path)]
    train_vunet.main([*shared, "--retrain", "--name", "second"])
    text = "vunet of the published TensorFlow program, 32 px, step 500, as step 0, with fresh"
    assert text in capsys.readouterr().out
    assert checkpoints.stored(tmp_path / "second/checkpoints")[0].stem == "step_00000002"
    train_vunet.main([*shared, "--num_steps", "501", "--name", "first"])  # the first round goes on
    assert "as step 500" in capsys.readouterr().out


def test_a_tensorflow_checkpoint_becomes_one_of_guise(inside, tmp_path):
    for ending in ("pt", "safetensors"):
        convert(["model.ckpt-500", str(tmp_path / f"out.{ending}")])
        content = checkpoints.read(tmp_path / f"out.{ending}", "vunet")
        assert content["step"] == 500 and content["options"]["image_size"] == 32


@pytest.mark.parametrize("file", ["model.ckpt-500", "out.pt", "out.safetensors", "model-7.ckpt"])
def test_a_published_file_is_scored_on_the_data_that_is_named_or_not_at_all(
    inside, tmp_path, capsys, file
):
    if file == "model-7.ckpt":
        torch.save({"model": Port(6, 8, 16, False, values()).p}, tmp_path / file)
    elif file.startswith("out"):
        convert(["model.ckpt-500", str(tmp_path / file)])
    given = ["--checkpoint", file if file == "model.ckpt-500" else tmp_path / file]
    given += ["--out", tmp_path / "scores.json", "--workers", "0"]
    line = refused(capsys, evaluate.main, *given)
    assert "which does not say where its data lies; --data names images" in line
    for named in (["--data", "data/index.p"], ["--config", "market.yaml"]):
        evaluate.main(list(map(str, [*given, *named])))
        scores = json.loads((tmp_path / "scores.json").read_text())
        assert scores["data"] == "data/index.p" and scores["images"] == 4


@pytest.mark.parametrize("mode", ["transfer", "test", "add_reconstructions"])
def test_modes_take_a_published_file_with_data(inside, tmp_path, capsys, mode):
    shared = ["--mode", mode, "--checkpoint", "model.ckpt-500", "--run_dir", tmp_path]
    shared += ["--workers", "0", "--batch_size", "2"]
    line = refused(capsys, train_vunet.main, *shared, "--name", "no")
    assert "which does not say where its data lies; --data names images" in line
    train_vunet.main([*map(str, shared), "--data", "data/index.p", "--name", "a"])
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_long_stage_has_a_progress_bar_on_a_terminal_only(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def shown(stderr, seconds):
        clock = itertools.count(0, seconds)
        monkeypatch.setattr("tqdm.std.time", lambda: next(clock))
        monkeypatch.setattr(sys, "stderr", stderr)
        batches = evaluation.with_progress(iter([{}] * 4), "transfer", range(8), 2, Ranks("cpu"))
        assert len(list(batches)) == 4
        return stderr.getvalue()

    assert "transfer" in shown(Terminal(), 3) and "/4" in shown(Terminal(), 3)
    assert shown(Terminal(), 0.1) == "" and shown(io.StringIO(), 3) == ""


def test_a_run_on_the_demo_world_is_scored_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_vunet.main(["--config", "smoke.yaml", "--num_steps", "1", "--name", "a"])
    evaluate.main(["--images", "2", "--workers", "0", "--out", "scores.json"])
    assert json.loads((tmp_path / "scores.json").read_text())["data"] == "people"


# A start that is refused


def refused_start(folder, *arguments):
    """The last line of a start of train_vunet.py that is refused before its first batch."""
    done = script("train_vunet.py", *arguments, "--run_dir", "runs", cwd=folder,
                  TORCH_HOME=str(folder / "cache"))  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert not (folder / "runs").exists() or not list((folder / "runs").iterdir())
    assert "initialis" not in done.stdout and "Traceback" not in done.stderr
    return last_line(done)


def test_missing_vgg_weights_are_told_before_the_first_batch(tmp_path):
    index = index_folder(tmp_path / "data/market")
    for image in (index.parent / "images").iterdir():
        image.write_bytes(b"")  # the first batch would be refused
    line = refused_start(tmp_path, "--config", "market.yaml")
    assert "--vgg_weights" in line and "market.yaml" not in line


def test_a_start_that_is_refused_leaves_no_run_folder(tensorflow, tmp_path):
    index = tensorflow / "data/index.p"
    shared = ["--config", "smoke.yaml", "--data", index, "--pairing", "same"]
    for arguments, message in (
        (["--config", "market.yaml"], "data/market/index.p: no such index file"),
        ([*shared, "--checkpoint", "nothing"], "nothing: no such file or run folder"),
        ([*shared, "--checkpoint", tensorflow / "model.ckpt-500"], "not the model of these"),
        ([*shared, "--checkpoint", index], "index.p"),
    ):
        assert message in refused_start(tmp_path, *arguments, "--name", "a")


def test_weights_that_do_not_fit_are_refused_before_the_network_is_built(
    inside, tmp_path, capsys, monkeypatch
):
    def slow(*_):
        raise AssertionError("the network or VGG19 comes first")

    monkeypatch.setattr(train_vunet, "build", slow)
    monkeypatch.setattr(train_vunet, "open_vgg", slow)
    start = [*TENSORFLOW, "--checkpoint", "model.ckpt-500", "--run_dir", tmp_path, "--name", "a"]
    line = refused(capsys, train_vunet.main, *start, "--nf_max", 24)
    assert "model.ckpt-500: not the model of these options" in line
    convert(["model.ckpt-500", str(tmp_path / "x.pt")])
    content = checkpoints.read(tmp_path / "x.pt")
    parts = content["parts"]
    parameters = [torch.nn.Parameter(value) for value in parts["model"].values()]
    adam = torch.optim.Adam(parameters)
    parts["optimizer"] = adam.state_dict()
    parts["optimizer"]["state"] = {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3),
                                       "exp_avg_sq": torch.zeros(3)}}  # fmt: skip
    checkpoints.write(tmp_path / "y.pt", content)
    start[start.index("model.ckpt-500")] = tmp_path / "y.pt"
    line = refused(capsys, train_vunet.main, *start)
    assert "y.pt: optimizer does not fit this run: exp_avg of parameter 0 must be" in line
    assert not (tmp_path / "a").exists()


# edflow -n NAME -b base.yaml prjoti.yaml -t


def test_the_short_options_of_edflow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = settings.parse(["-n", "mine", "-b", "base.yaml", "prjoti.yaml", "-t", "--lr", "0.1",
                           "-c", "model-7.ckpt", "--losses/KL/end_ramp_val", "4"])  # fmt: skip
    assert (args.name, args.variant, args.data) == ("mine", "image", "data/prjoti")
    assert (args.checkpoint, args.lr, args.retrain) == ("model-7.ckpt", 0.1, False)
    assert args.losses["KL"]["end_ramp_val"] == 4
    assert settings.parse(["-b", "base.yaml", "-c", "model-7.ckpt", "-r", "-t"]).retrain


@pytest.mark.parametrize("train", [["-t"], ["-t", "true"], ["-t=True"], ["--train", "TRUE"]])
def test_t_takes_a_value(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert settings.parse([*train, "-n", "mine", "-b", "base.yaml", "-r", "false"]).name == "mine"


def test_edflows_options_are_listed(capsys):
    with pytest.raises(SystemExit):
        settings.parse(["--help_published"])
    text = capsys.readouterr().out
    for option, here in (("-n NAME", "--name NAME"), ("-b, --base FILE ...", "--config FILE ..."),
                         ("-c FILE", "--checkpoint FILE"), ("-t, --train", "training"),
                         ("-p, --project RUN", "goes on with a run folder")):  # fmt: skip
        assert re.search(rf"^  {re.escape(option)} +{re.escape(here)}", text, re.MULTILINE)


def test_p_goes_on_with_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_vunet.main(["-n", "a", "-b", "smoke.yaml", "-t", "--num_steps", "1"])
    run = tmp_path / "runs/vunet/a"
    train_vunet.main(["-p", "runs/vunet/a", "-t", "--num_steps", "2"])
    assert checkpoints.stored(run / "checkpoints")[0].stem == "step_00000002"
    assert [path.name for path in run.parent.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-n", "a", "-b", "smoke.yaml"], "without -t edflow evaluates .* add -t to train"),
        (["-p", "logs/2020_a", "-t"], "-p logs/2020_a: not a run folder of guise; .* --checkpoint"),
        (["-p"], "-p: must be followed by the folder of a run"),
        (["-n", "a", "-t", "false"], "without -t edflow evaluates"),
        (["-n", "a", "-t=perhaps"], "-t: must be true or false, got perhaps"),
        (["-n", "a", "-t", "-l", "info"], "-l: not an option of train_vunet.py"),
    ],
)
def test_what_has_no_counterpart_is_told_in_one_line(arguments, message):
    with pytest.raises(UserError, match=message):
        settings.parse(arguments)
