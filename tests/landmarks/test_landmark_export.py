"""Runs of landmarks as files of the published program: names, content, and the way back."""

import pytest
import torch
import yaml

import train_landmarks
from landmark_files import SMOKE, bbc_folder, untrained
from nets.landmarks import build, build_discriminator
from nets.landmarks import published as landmarks
from nets.landmarks.options import parse
from nets.run import checkpoints
from nets.run.options import CONFIGS
from runs import assert_equal
from test_landmark_network import published

SMALL = ["--narrowing", "1", "--ngc", "2", "--use_fg_bg_mask", "false", "--use_gan", "--ndf", "2"]
FILES = ["latest_optimizer_d_state.ckpt", "latest_optimizer_g_state.ckpt", "opt.yaml"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a run of BBC Pose that was started as the published program is."""
    folder = tmp_path_factory.mktemp("published")
    data = bbc_folder(folder / "bbc", videos=20)  # 30 frames to train: 2 steps of 16 an epoch
    train_landmarks.main(
        [*SMOKE, *SMALL, "--dataset", "bbc_pose", "--dataset_path", str(data), "--batch_size", "15",
         "--epochs", "3", "--num_steps", "null", "--save_freq", "1", "--save_path",
         str(folder / "S"), "--export_published"]
    )  # fmt: skip
    return folder / "S"


def content_of(run):
    return checkpoints.read(checkpoints.find(run), "landmarks")


def test_an_export_has_the_files_of_every_epoch(exported):
    names = {file.name for file in exported.iterdir() if file.suffix in (".ckpt", ".yaml")}
    epochs = [f"checkpoint{part}_{epoch}.ckpt" for part in ("", "_D") for epoch in range(3)]
    assert names == {*epochs, *FILES, "config.yaml"}


def test_the_files_hold_the_published_keys_in_their_order(exported):
    options = content_of(exported)["options"]
    for name, net in (("", build(options)), ("_D", build_discriminator(options))):
        state = torch.load(exported / f"checkpoint{name}_2.ckpt", weights_only=True)
        assert [*state] == [*net.state_dict()]
        assert all(tensor.dtype == torch.float32 for tensor in state.values())
    state = torch.load(exported / "checkpoint_2.ckpt", weights_only=True)
    assert [*state] == [*published()["plain"]]
    adam = torch.load(exported / "latest_optimizer_g_state.ckpt", weights_only=True)
    assert adam.keys() == {"state", "param_groups"}
    # Parameter i is the i-th key without the vectors of spectral norms.
    learned = [key for key in state if not key.endswith(("weight_u", "weight_v"))]
    assert adam["param_groups"][0]["params"] == [*range(len(learned))]
    for number, one in adam["state"].items():
        assert one["exp_avg"].shape == state[learned[number]].shape
        assert one["step"] == 6 and isinstance(one["step"], int)  # as of torch 1.1


def test_old_torch_reads_the_files(exported):
    for file in exported.glob("*.ckpt"):
        assert file.read_bytes()[:2] != b"PK", file  # no archive, which torch 1.1 does not know


def test_what_is_exported_is_read_back_bit_for_bit(exported):
    content = content_of(exported)
    parts, options = content["parts"], content["options"]
    read = landmarks.read(exported / "checkpoint_2.ckpt")
    assert_equal(read["parts"]["model"], dict(parts["model"]))
    assert_equal(
        landmarks.read_discriminator(exported / "checkpoint_D_2.ckpt")[0],
        dict(parts["discriminator"]),
    )
    for letter, part, net in (
        ("g", "optimizer", build(options)),
        ("d", "optimizer_D", build_discriminator(options)),
    ):
        adam = torch.optim.Adam(net.parameters())
        path = exported / f"latest_optimizer_{letter}_state.ckpt"
        assert_equal(landmarks.read_optimizer(path, adam, net)["state"], parts[part]["state"])
    stored = landmarks.read_options(exported / "opt.yaml")
    assert {key: options[key] for key in stored.keys() - {"save_path"}} == {
        key: value for key, value in stored.items() if key != "save_path"
    }
    assert read["options"]["dataset"] == "bbc_pose" and read["options"]["data"] == options["data"]


def test_opt_yaml_has_the_published_options_and_types(exported):
    keys = yaml.safe_load((exported / "opt.yaml").read_text())
    defaults = yaml.safe_load((CONFIGS / "landmarks/defaults.yaml").read_text())
    assert keys.keys() == defaults.keys() - {"use_DDP"} and [*keys] == sorted(keys)
    for name, value in keys.items():
        assert name.startswith("resume_ckpt") or type(value) is type(defaults[name]), name
    assert keys["epochs"] == 3 and keys["img_size"] == 32 and keys["save_path"] == str(exported)
    assert all(keys[name] is None for name in keys if name.startswith("resume_ckpt"))


def test_training_goes_on_from_an_export(exported, tmp_path, monkeypatch, capsys):
    """The published command to resume, with all four files."""
    monkeypatch.chdir(tmp_path)
    files = {"": "checkpoint_2", "_D": "checkpoint_D_2", "_opt_G": "latest_optimizer_g_state",
             "_opt_D": "latest_optimizer_d_state"}  # fmt: skip
    resume = [f"--resume_ckpt{part}={exported / name}.ckpt" for part, name in files.items()]
    config = ["--config", str(exported / "opt.yaml")]
    train_landmarks.main([*config, "--save_path", "T", "--epochs", "1", *resume])
    output = capsys.readouterr().out
    for part in ("model", "discriminator", "optimizer", "optimizer_D"):
        assert f"{part}: started from {exported}" in output
    adam = content_of(tmp_path / "T")["parts"]["optimizer"]["state"]
    assert {float(one["step"]) for one in adam.values()} == {6.0 + 2}


def test_a_run_is_exported_later(tmp_path, capsys):
    run = untrained(tmp_path, "--narrowing", "1", "--ngc", "2")
    landmarks.main([str(run), str(tmp_path / "out")])
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"checkpoint_0.ckpt", "opt.yaml"}
    assert f"written: {tmp_path / 'out/checkpoint_0.ckpt'}" in capsys.readouterr().out
    landmarks.main([str(run), str(tmp_path / "out"), "--epoch", "7"])
    read = landmarks.read(tmp_path / "out/checkpoint_7.ckpt")
    assert "epoch 7" in read["kind"] and read["options"]["image_size"] == 32
    assert_equal(read["parts"]["model"], dict(content_of(run)["parts"]["model"]))


def test_networks_that_are_not_published_are_refused(tmp_path, monkeypatch, capsys):
    run = untrained(tmp_path)
    with pytest.raises(SystemExit):
        landmarks.main([str(run), str(tmp_path / "out")])
    message = "narrowing: must be 1 to export the networks, got 8"
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        train_landmarks.main([*SMOKE, "--export_published"])
    assert message in capsys.readouterr().err
    parse("", [*SMOKE])  # without the option, any network
