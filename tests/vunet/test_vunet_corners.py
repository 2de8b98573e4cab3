"""Edge cases of train_vunet.py, infer.py and evaluate.py: little data, rare options, mistakes."""

import json
import os
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
import infer
import train_vunet
from helpers import script
from nets.data.io.images import write_image
from nets.data.people.index import read_index, write_index
from nets.data.people.meta import PrjotiDataset, write_meta
from nets.errors import UserError
from nets.run import checkpoints
from nets.skeletons import JOINTS_15
from nets.vunet import objective
from nets.vunet import options as settings
from nets.worlds.people.world import PeopleWorld
from small_data import index_folder

IMAGE = ["--variant", "image", "--losses.color_L1.weight", "1"]


def train(*arguments):
    train_vunet.main(["--config", "smoke.yaml", "--num_steps", "1", *map(str, arguments)])


def refused(capsys, main, *arguments):
    """The line of the error with which a script refuses its arguments."""
    with pytest.raises(SystemExit, match="2"):
        main([str(a) for a in arguments])
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run of one step, runs/vunet/a, and a dataset, data/index.p."""
    folder = tmp_path_factory.mktemp("trained")
    index_folder(folder / "data")
    before = os.getcwd()
    os.chdir(folder)
    train("--name", "a")
    os.chdir(before)
    return folder


@pytest.fixture
def inside(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


def test_a_weight_of_zero_takes_the_place_of_the_published_losses():
    given = ["--variant", "image", "--losses.color_L1.weight", "0", "--losses.color_L2.weight", "2"]
    assert objective.term_weights(settings.parse(given), 9) == {"color_L2": 2.0}
    with pytest.raises(UserError, match="losses: no term has a weight above 0"):
        settings.parse(given[:4])


@pytest.mark.parametrize(
    "given, message",
    [
        (["--losses.perceptual.vgg_feat_weights", "[1, 1]"], "must be 6 numbers, got 2"),
        (
            ["--losses/KL", "{start_ramp_it: 5, start_ramp_val: 0, end_ramp_it: 2, "
             "end_ramp_val: 1}"],
            "losses.KL: a ramp must end",
        ),
        (["--losses/KL", "{a"], "--losses/KL on the command line: cannot be set"),
        (["--losses/KL", "3", "--losses/KL/weight", "3"], "--losses/KL/weight on the command line"),
    ],
)  # fmt: skip
def test_impossible_losses_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        settings.parse(["--variant", "image", *given])


def test_the_logged_weight_of_the_kl_is_that_of_the_form():
    args = settings.parse(["--variant", "image"])
    assert [objective.kl_factor(args, step, 9000) for step in (0, 2750, 9000)] == [0, 0.5, 1]
    args = settings.parse(["--variant", "image", "--keep_kl"])
    assert objective.term_weights(args, 0)["KL"] == 1


@pytest.mark.parametrize("more", [["--appearance", "crops"], ["--wiring", "port"]])
def test_the_image_form_with_other_parts(tmp_path, monkeypatch, more):
    monkeypatch.chdir(tmp_path)
    train(*IMAGE, *more, "--name", "a")
    names = {path.name for path in (tmp_path / "runs/vunet/a/images").iterdir()}
    of_the_program = {"appearance", "target", "pose", "images_prediction"}
    assert {f"{name}_0000001.png" for name in ("final", *of_the_program)} <= names


def test_a_dataset_of_one_image_and_a_larger_batch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    index = index_folder(tmp_path / "data", count=2)  # one for training, one for testing
    train("--data", index, "--pairing", "any", "--name", "a")
    names = {path.name for path in (tmp_path / "runs/vunet/a/images").iterdir()}
    assert {"final_0000001.png", "testing_cond_0000001.png"} <= names
    assert "testing_test_sample_0000001.png" in names


def test_a_broken_test_image_is_left_out_with_on_bad_sample_skip(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    index = index_folder(tmp_path / "data")
    (tmp_path / "data/images/0.png").write_text("no image")  # every third image is for testing
    shared = ["--data", index, "--pairing", "same", "--name"]
    train(*shared, "a", "--on_bad_sample", "skip")
    assert "images/0.png: is not an image" in capsys.readouterr().out
    error = refused(capsys, train_vunet.main, "--config", "smoke.yaml", *shared, "b")
    assert "images/0.png: is not an image" in error


def test_a_refused_command_leaves_the_run_as_it_is(inside, capsys):
    config = inside / "runs/vunet/a/config.yaml"
    before = config.read_text()
    shared = ["--checkpoint", "runs/vunet/a", "--name", "a"]
    error = refused(capsys, train_vunet.main, "--mode", "transfer", *shared)
    assert "runs/vunet/a is a training run; give another --name" in error
    refused(capsys, train_vunet.main, "--config", "smoke.yaml", "--name", "a", "--nf_max", "16")
    assert config.read_text() == before


def test_modes_take_other_data_than_the_checkpoint_was_trained_on(inside):
    shared = ["--checkpoint", "runs/vunet/a", "--workers", "0", "--batch_size", "2"]
    train_vunet.main(["--mode", "add_reconstructions", *shared, "--name", "r",
                      "--data", "data/index.p"])  # fmt: skip
    written = read_index(inside / "runs/vunet/r/reconstructions/index.p")
    assert written["imgs"].tolist() == [b"images/%06d.png" % i for i in range(4)]
    train_vunet.main(["--mode", "transfer", *shared, "--name", "t", "--data", "data/index.p"])
    names = {path.name for path in (inside / "runs/vunet/t/images").iterdir()}
    assert names == {f"transfer_{i}.png" for i in range(10)}


@pytest.mark.slow
def test_reconstructions_of_two_ranks_make_one_index(inside):
    done = script("train_vunet.py", "--mode", "add_reconstructions", "--checkpoint", "runs/vunet/a",
                  "--name", "two", "--data", "data/index.p", cwd=inside, ranks=2)  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = read_index(inside / "runs/vunet/two/reconstructions/index.p")
    assert written["imgs"].tolist() == [b"images/%06d.png" % i for i in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--wiring", "port"]])
def test_two_ranks_train_the_image_form_when_some_parameters_get_no_gradient(tmp_path, more):
    done = script("train_vunet.py", "--config", "smoke.yaml", *IMAGE, *more, "--name", "a",
                  cwd=tmp_path, ranks=2)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_two_images_are_enough_to_evaluate_a_transfer_and_one_is_not(inside):
    for images, reported in ((2, True), (1, False)):
        evaluate.main(["--checkpoint", "runs/vunet/a", "--images", str(images), "--workers", "0",
                       "--batch_size", "1", "--out", "scores.json"])  # fmt: skip
        assert ("transfer" in json.loads((inside / "scores.json").read_text())) is reported


def joints_file(index, path):
    names = train_vunet.open_people({"data": str(index), "seed": 0,
        "image_size": 32, "pairing": "same", "fit": "squash"}, "train").joint_order  # fmt: skip
    rows = read_index(index)["joints"]
    one = {n: p.tolist() for n, p in zip(names, rows[0], strict=True)}
    path.write_text(json.dumps(one))
    return path


def test_names_and_kinds_of_what_infer_writes(inside, tmp_path):
    joints = joints_file(inside / "data/index.p", tmp_path / "j.json")
    images = [str(inside / f"data/images/{i}.png") for i in (0, 1)]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/0.png").write_bytes((inside / "data/images/1.png").read_bytes())
    shared = ["--checkpoint", "runs/vunet/a", "-d", images[1], "--source_joints", str(joints),
              "--driving_joints", str(joints), "-s", images[0]]  # fmt: skip
    infer.main([*shared, str(tmp_path / "other/0.png"), "-o", str(tmp_path / "my.folder") + "/"])
    names = sorted(path.name for path in (tmp_path / "my.folder").iterdir())
    assert names == ["0_1--1.png", "0_2--1.png", "grid.png"]
    infer.main([*shared, "--grid", "-o", str(tmp_path / "grid.jpg")])
    with Image.open(tmp_path / "grid.jpg") as image:
        assert image.format == "JPEG"


def test_prjoti_folders_train_both_forms_and_know_their_pairing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    index = index_folder(tmp_path / "data", count=20)
    points = np.random.default_rng(0).random((20, 18, 2))
    paths = np.array([path.decode() for path in read_index(index)["imgs"]])
    write_meta(tmp_path / "data", {"crop": paths, "kps_rel": points}, "", {"crop": "image"}, {})
    assert "appearance" not in PrjotiDataset(tmp_path / "data", pairing="same")[0, 0]
    assert "appearance" in PrjotiDataset(tmp_path / "data")[0, 0]
    train("--data", "data", "--pairing", "same", "--name", "parts")
    train_vunet.main(["--config", "smoke.yaml", "prjoti.yaml", *IMAGE, "--data", "data",
                      "--num_steps", "5", "--name", "image", "--log_freq", "100",
                      "--start_log_freq", "1"])  # fmt: skip
    run = tmp_path / "runs/vunet/image"
    assert checkpoints.stored(run / "checkpoints")
    steps = {path.stem.rsplit("_", 1)[1] for path in (run / "images").glob("images_prediction_*")}
    assert steps == {"0000001", "0000002", "0000004", "0000005"}


def test_a_full_disk_names_the_image(inside, tmp_path, capsys):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a small disk")
    try:
        (folder / "filler").write_bytes(b"x" * 4096)
        error = refused(capsys, infer.main, "--checkpoint", "runs/vunet/a", "-o", folder / "o.png")
        assert f"{folder}/o.png: No space left on device" in error
        assert [path.name for path in folder.iterdir()] == ["filler"]
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_steps_left_out_do_not_spoil_the_means():
    from nets.run.log import Window

    window = Window()
    for losses in ({"total": torch.tensor(2.0)}, {}, {"total": torch.tensor(4.0)}):
        window.add(losses)
    assert window.means()["total"] == 3


def test_pairs_of_tall_images_are_trained_in_folds_and_scored_on_new_people(
    tmp_path, monkeypatch, capsys
):
    """As market_pairs.yaml, on tall images of the demo world: 4 people of 3 images, 2 folds."""
    monkeypatch.chdir(tmp_path)
    world = PeopleWorld("train", 48, length=12)
    names, joints, annotations = [], [], {}
    for i in range(12):
        sample = world[(0, i)]
        names.append(f"images/{i % 4}/{i}.png")
        write_image(tmp_path / names[i], sample["target"][:, :, 12:36])
        points = sample["joints"] - torch.tensor([12, 0])
        points = torch.where((points < 0) | (points > torch.tensor([23, 47])), torch.nan, points)
        places = {n: p.nan_to_num(5).tolist() for n, p in zip(JOINTS_15, points, strict=True)}
        annotations[f"{i % 4}/{i}.png"] = places
        joints.append((points.nan_to_num(5) / torch.tensor([24, 48])).numpy())
    people = [f"p{i % 4}" for i in range(12)]
    write_index("index.p", list(JOINTS_15), names, np.array(joints), [True] * 12, people)
    (tmp_path / "annotation.json").write_text(json.dumps(annotations))
    pairs = [f"{i % 4}/{i}.png,{i % 4}/{(i + 4) % 12}.png" for i in range(12)]
    (tmp_path / "pairs.csv").write_text("\n".join(["from,to", *pairs]))
    tall = ["--data", "index.p", "--fit", "letterbox", "--image_width", "16", "--folds", "2"]
    tall += ["--bottleneck_factor", "2", "--flip_probability", "0.5", "--color_jitter"]
    tall += ["--texture_weight", "0.5", "--background_weight", "0.3"]
    scored = 0
    for fold in range(2):
        train(*tall, "--fold", fold, "--name", f"fold{fold}")
        assert "on index.p: 6 images" in capsys.readouterr().out
        given = ["--checkpoint", f"runs/vunet/fold{fold}", "--pairs", "pairs.csv", "--unseen"]
        given += ["--joints", "annotation.json", "--pairs_out", "out", "--out", "report.json"]
        evaluate.main(given)
        scored += json.loads((tmp_path / "report.json").read_text())["pairs"]
    assert scored == 12 and len(list((tmp_path / "out").iterdir())) == 12
    with Image.open(next((tmp_path / "out").iterdir())) as image:
        assert image.size == (24, 48)
    capsys.readouterr()
    line = refused(capsys, train_vunet.main, "--config", "smoke.yaml", "--folds", "2", "--fold", 2)
    assert line.endswith("--fold: must be 0 to 1 with --folds 2")
    line = refused(capsys, train_vunet.main, "--config", "smoke.yaml", "--folds", "2")
    assert line.endswith("--folds: works with an index; others have their own split")
