"""Files of the published landmarks program: weights, optimiser states, opt.yaml."""

import pickle

import pytest
import torch

import infer
from nets import published as originals
from nets.errors import UserError
from nets.landmarks import MultiscaleDiscriminator, build
from nets.landmarks import published as landmarks
from test_landmark_network import SMALL, images

OPT = """\
dataset_path: None
fixed_covar: 0.008
img_size: 64
learning_rate: 1e-04
rank: 0
resume_ckpt: None
resume_ckpt_D:
save_path: {folder}
torch_home:
use_identity_covariance: True
weight_decay: 5e-06
world_size: 1
"""


def written(folder, **options):
    """A checkpoint as the published program writes it, and its network."""
    torch.manual_seed(0)
    net = build({**SMALL, **options})
    folder.mkdir(exist_ok=True)
    torch.save(dict(net.state_dict()), folder / "checkpoint_6.ckpt")
    return folder / "checkpoint_6.ckpt", net.eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"naf": 0, "n_landmarks": 7, "nsf": 3, "ngc": 6, "n_filters": 9},
        {"use_fg_bg_mask": True},
        {"use_fg_bg_mask": True, "low_res_mask": True},
    ],
    ids=str,
)
def test_configuration_is_read_off_the_weights(tmp_path, options):
    path, net = written(tmp_path, **options)
    loaded, settings = originals.load("landmarks", path)
    expected = {**SMALL, **options}
    assert {key: settings[key] for key in expected if key != "fixed_covar"} == {
        key: value for key, value in expected.items() if key != "fixed_covar"
    }
    assert not loaded.training and settings["pooling"] == "mean"
    with torch.no_grad():
        assert torch.equal(loaded(*images()).reconstruction, net(*images()).reconstruction)


def test_what_weights_do_not_say_comes_from_opt_yaml_or_from_the_caller(tmp_path):
    path, _ = written(tmp_path)
    content = originals.read(path)
    assert content["system"] == "landmarks" and content["options"]["image_size"] == 128
    assert "assumed" in content["kind"] and "epoch 6" in content["kind"]
    (tmp_path / "opt.yaml").write_text(OPT.format(folder=tmp_path))
    net, settings = landmarks.load(path)
    assert (settings["image_size"], settings["use_identity_covariance"]) == (64, True)
    assert net.fixed_covariance == 0.008
    net, settings = landmarks.load(path, use_identity_covariance=False)
    assert net.fixed_covariance is None
    with pytest.raises(ValueError, match="load: colour must be one of"):
        landmarks.load(path, colour=1)


def test_opt_yaml_means_what_its_writer_meant(tmp_path):
    (tmp_path / "opt.yaml").write_text(OPT.format(folder=tmp_path))
    assert landmarks.read_options(tmp_path / "opt.yaml") == {
        "data": "None",  # a possible folder name; only resume_ckpt* becomes null
        "fixed_covar": 0.008,
        "image_size": 64,
        "lr": 1e-4,
        "checkpoint": None,
        "resume_ckpt_D": None,
        "save_path": str(tmp_path),
        "torch_home": "",
        "use_identity_covariance": True,
        "weight_decay": 5e-6,
    }
    (tmp_path / "opt.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"opt.yaml, line 1: not plain YAML"):
        landmarks.read_options(tmp_path / "opt.yaml")


def test_quoted_values_of_opt_yaml_are_values(tmp_path):
    """infer.py --checkpoint checkpoint_6.ckpt, beside an opt.yaml with quoted values."""
    path, _ = written(tmp_path)
    quoted = "use_identity_covariance: '{}'\nfixed_covar: '0.008'\nimg_size: '64'\n"
    for value, variance in (("False", None), ("True", 0.008)):
        (tmp_path / "opt.yaml").write_text(quoted.format(value))
        net, settings = landmarks.load(path)
        assert settings["use_identity_covariance"] is (value == "True")
        assert settings["fixed_covar"] == 0.008 and settings["image_size"] == 64
        assert net.fixed_covariance == variance


@pytest.mark.parametrize(
    "line, message",
    [
        ("use_identity_covariance: 'maybe'", "use_identity_covariance in {}: must be true or fal"),
        ("fixed_covar: wide", "fixed_covar in {}: must be a number > 0, got wide"),
        ("fixed_covar: -1", "fixed_covar in {}: must be a number > 0, got -1"),
        ("img_size: 100", "image_size in {}: must be a multiple of 16 and at least 32, got 100"),
        ("n_landmarks: 2.5", "n_landmarks in {}: must be a whole number > 0, got 2.5"),
        ("use_gam: True", "use_gam in {}: unknown key; did you mean use_gan?"),
    ],
)
def test_a_bad_value_of_opt_yaml_is_named(tmp_path, monkeypatch, capsys, line, message):
    path, _ = written(tmp_path)
    (tmp_path / "opt.yaml").write_text(line + "\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        infer.main(["--checkpoint", str(path)])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1
    assert message.format(tmp_path / "opt.yaml") in error


def test_what_does_not_fit_is_named(tmp_path):
    path, net = written(tmp_path)
    state = net.state_dict()
    del state["image_decoder.fc.bias"]
    state["image_decoder.conv_img.weight"] = torch.zeros(3, 5, 3, 3)
    state["strange"] = torch.zeros(1)
    state["stranger"] = torch.zeros(1)
    torch.save(state, path)
    with pytest.raises(UserError) as error:
        landmarks.load(path)
    text = str(error.value)
    assert str(path) in text and "image_decoder.fc.bias is missing" in text
    assert "conv_img.weight must be [3, 4, 3, 3], is [3, 5, 3, 3]" in text
    assert "strange does not belong there" in text and "and 1 more" in text


@pytest.mark.parametrize("content", [{"weights": torch.zeros(2)}, [1, 2], {}], ids=str)
def test_other_files_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"x.ckpt: not the weights of landmark networks"):
        landmarks.load(tmp_path / "x.ckpt")


def test_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    (tmp_path / "x.ckpt").write_bytes(pickle.dumps({"shape_encoder.x": Evil()}, protocol=2))
    with pytest.raises(UserError, match=r"x.ckpt: holds more than tensors|not a whole"):
        landmarks.load(tmp_path / "x.ckpt")


def test_discriminator_sizes_are_read_off_the_weights(tmp_path):
    net = MultiscaleDiscriminator(width=6, layers=2, scales=3)
    torch.save(net.state_dict(), tmp_path / "checkpoint_D_6.ckpt")
    state, sizes = landmarks.read_discriminator(tmp_path / "checkpoint_D_6.ckpt")
    assert sizes == {"ndf": 6, "n_layers_D": 2, "num_D": 3}
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    with pytest.raises(UserError, match="not the weights of a discriminator"):
        landmarks.read_discriminator(written(tmp_path)[0])


def stepped(net):
    """An Adam after one step."""
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, weight_decay=5e-6)
    generator = torch.Generator().manual_seed(3)
    for parameter in net.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("old", [False, True], ids=["by place", "by address"])
def test_training_goes_on_with_the_moments(tmp_path, old):
    nets = [MultiscaleDiscriminator(width=4, layers=2) for _ in range(2)]
    theirs = stepped(nets[0])
    state = theirs.state_dict()
    if old:  # torch 1.1: parameters numbered by address, steps a plain number
        state["state"] = {
            1000 - place: {**one, "step": int(one["step"])} for place, one in state["state"].items()
        }
        state["param_groups"][0]["params"] = [1000 - n for n in state["param_groups"][0]["params"]]
    torch.save(state, tmp_path / "latest_optimizer_d_state.ckpt")
    nets[1].load_state_dict(nets[0].state_dict())
    ours = torch.optim.Adam(nets[1].parameters(), 1e-3, weight_decay=5e-6, fused=True)
    path = tmp_path / "latest_optimizer_d_state.ckpt"
    ours.load_state_dict(landmarks.read_optimizer(path, ours, nets[1]))
    assert ours.param_groups[0]["fused"] is True
    for net, optimizer in zip(nets, (theirs, ours), strict=True):
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_moments_of_another_network_are_refused(tmp_path):
    theirs, ours = (
        MultiscaleDiscriminator(width=4, layers=2),
        MultiscaleDiscriminator(width=5, layers=2),
    )
    torch.save(stepped(theirs).state_dict(), tmp_path / "x.ckpt")
    optimizer = torch.optim.Adam(ours.parameters())
    with pytest.raises(UserError, match=r"exp_avg of layer0.0.weight must be \[5, 3, 4, 4\], is"):
        landmarks.read_optimizer(tmp_path / "x.ckpt", optimizer, ours)
    other = MultiscaleDiscriminator(width=4, layers=3)
    with pytest.raises(UserError, match="it has 16 parameters, the network 20"):
        landmarks.read_optimizer(tmp_path / "x.ckpt", torch.optim.Adam(other.parameters()), other)
    assert not optimizer.state
    torch.save({"a": 1}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="not the state of an optimiser"):
        landmarks.read_optimizer(tmp_path / "x.ckpt", optimizer, ours)
