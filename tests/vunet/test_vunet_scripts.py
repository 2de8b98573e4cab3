"""train_vunet.py, infer.py and evaluate.py from end to end, in runs of seconds."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

import evaluate
import infer
import train_vunet
from helpers import FREE_PORT, ROOT, last_line, script
from nets.data.people.index import read_index
from nets.run import checkpoints
from nets.skeletons import JOINTS_15, stickman
from nets.vunet.data import open_people
from nets.vunet.infer import pair_people
from small_data import index_folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one finished run of smoke.yaml."""
    folder = tmp_path_factory.mktemp("trained")
    done = script("train_vunet.py", "--config", "smoke.yaml", "--name", "a", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def weights(run, step):
    content = checkpoints.read(checkpoints.path_of(run / "checkpoints", step), "vunet")
    return content["parts"]["model"]


def assert_same(ours, theirs, **tolerance):
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], **(tolerance or {"rtol": 0, "atol": 0}))


def train(folder, *arguments, monkeypatch):
    monkeypatch.chdir(folder)
    train_vunet.main(["--config", "smoke.yaml", *map(str, arguments)])


def test_a_run_logs_its_progress_and_ends_with_an_image(trained):
    folder, done = trained
    run = folder / "runs/vunet/a"
    assert "training a VUNet (parts" in done.stdout and "on people: 20000 images" in done.stdout
    assert "images/s" in done.stderr and "4/4" in done.stderr
    final = done.stdout.strip().splitlines()[-1].rsplit(": ", 1)[1]
    with Image.open(folder / final) as image:
        assert image.width > 5 * 32 and image.height > 9 * 32
    for name in ("config.yaml", "log.txt", "environment.json", "checkpoints/step_00000004.pt"):
        assert (run / name).is_file()
    names = {p.name for p in (run / "images").iterdir()}
    for name in ("x", "c", "sample", "test_sample", "valid_x", "valid_sample"):
        assert {n for n in names if n.startswith(f"{name}_0")} == {
            f"{name}_{step:07d}.png"
            for step in (1, 3, 4)  # every 2 steps from the first, and the last
        }
    assert {"transfer_0000002.png", "transfer_0000004.png"} <= names
    lines = [json.loads(t) for t in (run / "log.txt").read_text().splitlines() if t[0] == "{"]
    assert [t["step"] for t in lines if "L1_valid" in t] == [2, 4]
    assert {"likelihood_loss", "kl_loss", "loss", "lr", "kl_weight"} <= lines[0].keys()


def test_the_transfer_grid_has_poses_above_and_sources_to_the_left(trained):
    with Image.open(trained[0] / "runs/vunet/a/images/transfer_0000004.png") as grid:
        assert grid.size == (5 * 32, 5 * 32)
        assert grid.getpixel((16, 16)) in {(127,) * 3, (128,) * 3}  # the grey corner
        assert grid.getpixel((33, 1)) == (0, 0, 0)  # the background of a stick figure


def test_a_stopped_run_goes_on_to_the_same_weights(trained, monkeypatch, tmp_path):
    train(tmp_path, "--name", "b", "--num_steps", 2, monkeypatch=monkeypatch)
    train(tmp_path, "--name", "b", "--num_steps", 4, monkeypatch=monkeypatch)
    ours, theirs = (
        weights(f / "runs/vunet" / n, 4) for f, n in ((tmp_path, "b"), (trained[0], "a"))
    )
    assert_same(ours, theirs)


def test_the_kl_of_one_image_and_wider_latents_at_the_start(trained, monkeypatch, tmp_path):
    wide = ["--kl_images", 1, "--init_latent_std", 3]
    train(tmp_path, "--name", "wide", "--num_steps", 1, *wide, monkeypatch=monkeypatch)
    kl = []
    for run in (trained[0] / "runs/vunet/a", tmp_path / "runs/vunet/wide"):
        lines = (run / "log.txt").read_text().splitlines()
        kl.append(next(json.loads(t)["kl_loss"] for t in lines if t[0] == "{"))
    # Priors have variance 1, posteriors 1 or 9: 5 times, were all independent.
    assert 3 < kl[1] / kl[0] < 7


def test_gains_and_biases_learn_at_a_rate_of_their_own(trained, monkeypatch, tmp_path, capsys):
    start = trained[0] / "runs/vunet/a"
    options = ["--name", "a", "--checkpoint", start, "--retrain", "--reset_optimizer"]
    options += ["--lr", 1e-3, "--lr_decay_begin", 9, "--lr_decay_end", 10, "--gain_rate", 5]
    train(tmp_path, *options, "--num_steps", 1, monkeypatch=monkeypatch)
    before, after = weights(start, 4), weights(tmp_path / "runs/vunet/a", 1)
    moved = {True: 0.0, False: 0.0}  # Adam's first step moves weights by the rate
    for name, value in after.items():
        single = value.ndim == 1
        moved[single] = max(moved[single], float((value - before[name]).abs().max()))
    assert moved == pytest.approx({True: 5e-3, False: 1e-3}, rel=1e-3)
    train(tmp_path, *options, "--num_steps", 2, monkeypatch=monkeypatch)  # the same command resumes
    assert weights(tmp_path / "runs/vunet/a", 2).keys() == before.keys()
    with pytest.raises(SystemExit):
        train(tmp_path, *options[2:5], "--gain_rate", 5, "--name", "b", monkeypatch=monkeypatch)
    assert "its moments are of another --gain_rate; --reset_optimizer" in capsys.readouterr().err


@pytest.mark.parametrize("signal_name", [pytest.param("SIGTERM", marks=pytest.mark.slow), "SIGINT"])
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path, signal_name):
    command = [sys.executable, str(ROOT / "train_vunet.py"), "--config", "smoke.yaml"]
    command += ["--num_steps", "100000", "--lr_decay_end", "100000", "--test_freq", "100000"]
    command += ["--name", "a"]
    run = tmp_path / "runs/vunet/a"
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    while not list(run.glob("checkpoints/step_*.pt")):
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(getattr(signal, signal_name))
    assert process.wait(60) == 128 + getattr(signal, signal_name)
    step = checkpoints.step_of(checkpoints.stored(run / "checkpoints")[0])
    log = (run / "log.txt").read_text()
    assert f"{signal_name}: stopped after step {step}" in log


@pytest.mark.slow
def test_two_ranks_equal_one_with_twice_the_batch(tmp_path):
    options = ["--config", "smoke.yaml", "--test_freq", 100, "--run_dir"]
    two = script("train_vunet.py", *options, "two", "--name", "a", "--batch_size", 4,
                 cwd=tmp_path, ranks=2)  # fmt: skip
    assert two.returncode == 0, two.stderr
    one = script("train_vunet.py", *options, "one", "--name", "a", "--batch_size", 8, cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    # Float32 sums are in another order. In its first steps Adam divides by small second moments,
    # which enlarges the difference.
    assert_same(
        weights(tmp_path / "two/a", 4), weights(tmp_path / "one/a", 4), rtol=1e-3, atol=2e-4
    )
    assert (tmp_path / "two/a/log.txt").read_text().count("training a VUNet") == 1


def test_gradients_add_up_over_accumulated_batches(tmp_path, monkeypatch):
    shared = ["--test_freq", 100, "--num_steps", 2, "--init_batches"]
    train(tmp_path, "--name", "whole", "--batch_size", 8, *shared, 1, monkeypatch=monkeypatch)
    train(tmp_path, "--name", "parts", "--batch_size", 4, "--accumulate", 2, *shared, 2,
          monkeypatch=monkeypatch)  # fmt: skip
    runs = tmp_path / "runs/vunet"
    assert_same(weights(runs / "whole", 2), weights(runs / "parts", 2), rtol=1e-3, atol=2e-4)
    logged = []  # the losses of the whole step, not of its last batch
    for name in ("whole", "parts"):
        lines = (runs / name / "log.txt").read_text().splitlines()
        logged.append(json.loads(next(line for line in lines if line[0] == "{"))["loss"])
    assert logged[0] == pytest.approx(logged[1], rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_other_precisions_and_averaged_weights(tmp_path, monkeypatch, precision):
    train(tmp_path, "--name", "a", "--precision", precision, "--ema", 0.5, monkeypatch=monkeypatch)
    content = checkpoints.read(tmp_path / "runs/vunet/a/checkpoints/step_00000004.pt")
    average, last = content["parts"]["ema"]["average"], content["parts"]["model"]
    assert all(v.isfinite().all() for v in last.values())
    if precision == "bf16":  # in fp16 the first steps overflow and are left out
        assert any(not torch.equal(average[k], last[k]) for k in average)


def test_the_image_form_trains_with_a_random_vgg(tmp_path, monkeypatch, capsys):
    train(tmp_path, "--variant", "image", "--perceptual", "random", "--num_steps", 2, "--name", "a",
          monkeypatch=monkeypatch)  # fmt: skip
    assert "perceptual loss: random VGG19" in capsys.readouterr().out


def test_own_data_from_an_index(tmp_path, monkeypatch, capsys):
    index = index_folder(tmp_path / "data")
    train(tmp_path, "--data", index, "--name", "a", "--pairing", "same",
          monkeypatch=monkeypatch)  # fmt: skip
    monkeypatch.chdir(tmp_path)
    train_vunet.main(["--mode", "add_reconstructions", "--checkpoint", "runs/vunet/a",
                      "--name", "r", "--workers", "0"])  # fmt: skip
    written = read_index(tmp_path / "runs/vunet/r/reconstructions/index.p")
    assert len(written["imgs"]) == 4 and not any(written["train"])
    evaluate.main(["--data", str(index), "--out", "scores.json", "--workers", "0",
                   "--checkpoint", "runs/vunet/a"])  # fmt: skip
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["images"] == 4 and "transfer" not in scores
    assert 0 < scores["reconstruction"]["l1"]["mean"] < 1
    with pytest.raises(SystemExit, match="2"):
        evaluate.main(["--data", str(index), "--world_seed", "1", "--checkpoint",
                       "runs/vunet/a"])  # fmt: skip
    assert "--world_seed: an option of the demo world, the data is" in capsys.readouterr().err


@pytest.mark.parametrize(
    "mode, names", [("transfer", ["transfer"]), ("test", ["testing_cond", "testing_test_sample"])]
)
def test_modes_without_training(trained, monkeypatch, mode, names):
    monkeypatch.chdir(trained[0])
    train_vunet.main(["--mode", mode, "--checkpoint", "runs/vunet/a", "--name", mode,
                      "--batch_size", "3", "--workers", "0"])  # fmt: skip
    written = {p.name for p in (trained[0] / "runs/vunet" / mode / "images").iterdir()}
    assert {f"{n}_{i}.png" for n in names for i in range(10)} == written


def test_retraining_begins_at_step_0_with_the_weights_and_moments(trained, tmp_path, monkeypatch):
    first = trained[0] / "runs/vunet/a"
    shared = ["--retrain", "--checkpoint", first, "--num_steps", 1, "--lr", 1e-12]
    train(tmp_path, "--name", "a", *shared, monkeypatch=monkeypatch)
    assert_same(weights(tmp_path / "runs/vunet/a", 1), weights(first, 4), rtol=0, atol=1e-9)
    path = tmp_path / "runs/vunet/a/checkpoints/step_00000001.pt"
    moments = checkpoints.read(path)["parts"]["optimizer"]["state"]
    assert {float(state["step"]) for state in moments.values()} == {5.0}
    train(tmp_path, "--name", "b", "--reset_optimizer", *shared, monkeypatch=monkeypatch)
    moments = checkpoints.read(str(path).replace("/a/", "/b/"))["parts"]["optimizer"]["state"]
    assert {float(state["step"]) for state in moments.values()} == {1.0}


def test_infer_without_arguments_takes_the_newest_run(trained, tmp_path):
    done = script("infer.py", "-o", tmp_path / "out.png", cwd=trained[0])
    assert done.returncode == 0, done.stderr
    assert "runs/vunet/a/checkpoints/step_00000004.pt: vunet, step 4" in done.stdout
    assert "no -s and no -d: people of the test data, the demo world" in done.stdout
    with Image.open(tmp_path / "out.png") as image:  # four people, four columns
        assert image.width >= 4 * 256 and 4 * 256 <= image.height <= 4 * 256 + 60


def test_the_demo_shows_four_people_in_the_poses_of_others_and_the_truth(
    trained, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr("nets.vunet.infer.write_demo", lambda *given: seen.append(given))
    run_infer(trained, monkeypatch, "-o", tmp_path / "out.png")
    ((_, columns, rows),) = seen
    assert columns == ["source", "pose", "result", "ground truth"] and len(rows) == 4
    data = open_people({"data": None, "seed": 0, "image_size": 32, "pairing": "identity",
                        "fit": "squash"}, "test")  # fmt: skip
    first, second = pair_people(data, 4)
    assert len({int(data.identities[place]) for place in first}) == 4
    for (source, pose, _, truth), one, other in zip(rows, first, second, strict=True):
        person, driving = data[0, one], data[0, other]
        assert torch.equal(source, person["appearance"])
        figure = stickman(driving["joints"][None], 32, "parts", data.joint_order)[0]
        assert torch.equal(pose, figure)
        ids = (torch.tensor([person["outfit"]]), torch.tensor([driving["pose"]]),
               torch.tensor([driving["background"]]))  # fmt: skip
        assert torch.equal(truth, data.transfer_truth(*ids)["image"][0])


def test_a_folder_as_output_of_the_demo_holds_one_transfer(trained, tmp_path, monkeypatch):
    run_infer(trained, monkeypatch, "-o", tmp_path / "o", "--grid")
    names = sorted(path.name for path in (tmp_path / "o").iterdir())
    assert names == ["grid.png", "source--driving.png"]


@pytest.mark.parametrize("length", [1, 2, 5, 100])
@pytest.mark.parametrize("people", [None, 1, 3, 50])
def test_pairs_of_the_demo_differ_where_they_can(length, people):
    class Data(list):
        identities = None if people is None else torch.arange(length) % people

    first, second = pair_people(Data(range(length)), 4)
    assert len(first) == len(second) and 1 <= len(first) <= 4
    assert len(set(first)) == len(first)
    known = min(length, people or length, 4)
    if people is not None:
        assert len({place % people for place in first}) == known
    if length >= 8:
        assert len(first) == 4 and not set(first) & set(second)


@pytest.fixture
def people(tmp_path):
    """A folder of images, and a JSON file of their joints."""
    index = index_folder(tmp_path / "people", count=3)
    content = read_index(index)
    joints = {
        f"{i}.png": {n: p.tolist() for n, p in zip(JOINTS_15, row[:15], strict=True)}
        for i, row in enumerate(content["joints"])
    }
    (tmp_path / "joints.json").write_text(json.dumps(joints))
    return tmp_path / "people/images", tmp_path / "joints.json"


def run_infer(trained, monkeypatch, *arguments):
    monkeypatch.chdir(trained[0])
    infer.main(["--checkpoint", "runs/vunet/a", *map(str, arguments)])


def test_one_image_out_of_two(trained, people, tmp_path, monkeypatch):
    folder, joints = people
    index = folder.parent / "index.p"
    pair = ["-s", folder / "0.png", "-d", folder / "1.png"]
    for number, source_joints in enumerate((joints, f"{index}:0", f"{index}:images/0.png")):
        run_infer(trained, monkeypatch, *pair, "-o", tmp_path / f"{number}.png",
                  "--source_joints", source_joints, "--driving_joints", joints)  # fmt: skip
    first, second, third = ((tmp_path / f"{i}.png").read_bytes() for i in range(3))
    assert first == second == third
    with Image.open(tmp_path / "0.png") as image:
        assert image.size == (32, 32)


def test_a_folder_of_drivings_gives_a_grid_and_single_images(
    trained, people, tmp_path, monkeypatch
):
    folder, joints = people
    run_infer(trained, monkeypatch, "-s", folder / "0.png", "-d", folder, "-o", tmp_path / "o",
              "--source_joints", joints, "--driving_joints", joints)  # fmt: skip
    names = sorted(p.name for p in (tmp_path / "o").iterdir())
    assert names == ["0--0.png", "0--1.png", "0--2.png", "grid.png"]


def test_samples_need_no_source_and_follow_the_seed(trained, people, tmp_path, monkeypatch):
    folder, joints = people
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run_infer(trained, monkeypatch, "-d", folder / "1.png", "--driving_joints", joints,
                  "--samples", 2, "--seed", seed, "-o", tmp_path / name)  # fmt: skip
    one, again, other = (
        [(tmp_path / n / f"sample_{i}--1.png").read_bytes() for i in (1, 2)] for n in "abc"
    )
    assert one == again and one != other and one[0] != one[1]


def test_evaluation_reports_transfer_against_the_truth(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained[0])
    evaluate.main(["--checkpoint", "runs/vunet/a", "--images", "8", "--workers", "0"])
    scores = json.loads((trained[0] / "runs/vunet/a/evaluation.json").read_text())
    transfer = scores["transfer"]
    best = min(transfer[f"masked_l1_{name}"]["mean"] for name in ("copy_source", "mean_image"))
    assert transfer["ratio_to_best_baseline"] == pytest.approx(transfer["masked_l1"]["mean"] / best)
    assert 0 <= transfer["nearest_outfit"] <= 1
    assert "Gaussian window 11x11" in capsys.readouterr().out
    evaluate.main(["--checkpoint", "runs/vunet/a", "--images", "8", "--workers", "0",
                   "--world_seed", "1", "--out", "others.json"])  # fmt: skip
    others = json.loads((trained[0] / "others.json").read_text())
    assert others["world_seed"] == 1 and scores["world_seed"] == 0
    copied = [s["transfer"]["masked_l1_copy_source"]["mean"] for s in (scores, others)]
    assert copied[0] != copied[1]  # scores of other people, without the network


@pytest.mark.slow  # tests/run has a fast one, with a small model
def test_a_rank_that_dies_ends_the_run(tmp_path):
    """torchrun ends the other ranks and reports the signal within a minute."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += [*FREE_PORT, str(ROOT / "train_vunet.py"), "--config", "smoke.yaml"]
    command += ["--num_steps", "100000", "--lr_decay_end", "100000", "--test_freq", "100000"]
    process = subprocess.Popen(
        [*command, "--name", "a"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while not list(tmp_path.glob("runs/vunet/a/checkpoints/step_*.pt")):
        assert process.poll() is None
        time.sleep(0.2)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0 and time.monotonic() - began < 60
    assert "Signal 9" in errors or "exitcode  : -9" in errors


def broken_image(tmp_path):
    index = index_folder(tmp_path / "data")
    image = tmp_path / "data/images/1.png"
    image.write_bytes(image.read_bytes()[:100])
    return ["--data", index, "--pairing", "same"], "images/1.png: "


def empty_index(tmp_path):
    (tmp_path / "index.p").write_bytes(b"")
    return ["--data", tmp_path / "index.p"], "index.p: "


def missing_vgg(tmp_path):
    layers = "[input_1, block1_conv2]"
    return (
        ["--feature_layers", layers, "--feature_weights", "[1, 1]", "--gram_weights", "[0, 0]"],
        "--vgg_weights",
    )


def not_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    return ["--run_dir", tmp_path / "file"], "file"


@pytest.mark.parametrize(
    "case",
    [
        broken_image,
        empty_index,
        missing_vgg,
        not_a_folder,
        lambda p: (["--data", p / "nothing"], "nothing"),
        lambda p: (["--image_size", "48"], "image_size must be 2 times a power of two, got 48"),
        lambda p: (["--box_factor", "5"], "box_factor must be 0 to 3"),
        lambda p: (["--feature_layers", "[block9_conv2]"], "block9_conv2"),
        lambda p: (["--checkpoint", p / "nothing"], "nothing: no such file or run folder"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, case):
    arguments, message = case(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    with pytest.raises(SystemExit, match="2"):
        train(tmp_path, *arguments, monkeypatch=monkeypatch)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert ": error: " in line and message in line


def test_bad_input_of_a_script_is_one_line_and_status_2(tmp_path):
    done = script("train_vunet.py", "--config", "smoke.yaml", "--data", "nothing.p",
                  cwd=tmp_path)  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert last_line(done) == "train_vunet.py: error: nothing.p: no such index file"


def test_a_checkpoint_of_another_size_or_system_is_refused(trained, tmp_path, monkeypatch):
    first = trained[0] / "runs/vunet/a"
    with pytest.raises(SystemExit, match="2"):
        train(tmp_path, "--checkpoint", first, "--nf_max", 16, monkeypatch=monkeypatch)
    content = checkpoints.read(first / "checkpoints/step_00000004.pt")
    checkpoints.write(tmp_path / "other.pt", {**content, "system": "dcign"})
    with pytest.raises(SystemExit, match="2"):
        train(tmp_path, "--checkpoint", tmp_path / "other.pt", monkeypatch=monkeypatch)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-s", "0.png", "-d", "1.png", "--start", "1"], "--start: only with a driving video"),
        (["-s", "0.png"], "-d: an image or video that gives the pose is needed"),
        (["-d", "1.png"], "-s: an image that gives the appearance is needed"),
        (["-s", "9.png", "-d", "1.png", "--source_joints", "j.json"], "9.png"),
        (["--checkpoint", "nowhere"], "nowhere: no such file or run folder"),
    ],
)
def test_bad_input_of_infer_is_one_line(trained, people, monkeypatch, capsys, arguments, message):
    folder, joints = people
    start = ["--checkpoint", str(trained[0] / "runs/vunet/a")]
    monkeypatch.chdir(folder)
    (folder / "j.json").write_text(joints.read_text())
    with pytest.raises(SystemExit, match="2"):
        infer.main([*start, *arguments])
    assert message in capsys.readouterr().err
