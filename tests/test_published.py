"""Which checkpoint is meant without --checkpoint; weights stored in float16."""

import pytest
import torch

from nets import published
from nets.errors import UserError
from nets.run import checkpoints
from nets.tensor_files import read_safetensors


def content(system="vunet", step=3, **model):
    model = model or {"w": torch.tensor([1.0, 0.1]), "count": torch.tensor(7)}
    return {"system": system, "options": {}, "step": step, "parts": {"model": model}, "best": None,
            "log": []}  # fmt: skip


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A folder of trained weights of two systems; the working directory is empty."""
    folder = tmp_path / "trained"
    monkeypatch.setattr(published, "TRAINED", folder)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for system in ("vunet", "dcign"):
        checkpoints.write(tmp_path / f"{system}.pt", content(system))
        published.main([f"{tmp_path}/{system}.pt", f"{folder}/{system}.safetensors", "--half"])
    return folder


def run(system, step=5):
    folder = checkpoints.path_of(f"runs/{system}/a/checkpoints", step)
    folder.parent.mkdir(parents=True)
    checkpoints.write(folder, content(system, step))
    return folder


def test_without_runs_the_weights_that_come_with_guise_serve(trained):
    assert published.find() == trained / "vunet.safetensors"
    assert published.find(system="dcign") == trained / "dcign.safetensors"
    read = published.read_checkpoint(published.find(), "vunet")
    assert "come with guise" in checkpoints.describe(read, published.find())
    with pytest.raises(UserError, match="no checkpoint under runs/bilayer/: train first"):
        published.find(system="bilayer")


def test_a_run_comes_first_and_a_system_chooses(trained):
    own = run("vunet")
    assert published.find() == own and published.find(system="vunet") == own
    assert published.find(system="dcign") == trained / "dcign.safetensors"
    assert published.find("runs") == own
    with pytest.raises(UserError, match="a checkpoint of vunet, not of dcign"):
        published.read_checkpoint(own, "dcign")


def test_half_halves_floats_alone(trained):
    tensors, _ = read_safetensors(trained / "vunet.safetensors")
    assert tensors["w"].dtype == torch.float16 and tensors["count"].dtype == torch.int64
    assert torch.equal(tensors["w"], torch.tensor([1.0, 0.1]).half())


def test_half_keeps_the_statistics_of_norms(tmp_path):
    norm = {"a.running_var": torch.tensor([1e6, 1e-9]), "a.running_mean": torch.tensor([0.1, 1e5])}
    checkpoints.write(tmp_path / "a.pt", content(w=torch.ones(1), **norm))
    published.main([f"{tmp_path}/a.pt", f"{tmp_path}/a.safetensors", "--half"])
    tensors, _ = read_safetensors(tmp_path / "a.safetensors")
    assert all(torch.equal(tensors[name], value) for name, value in norm.items())


def test_half_refuses_what_it_cannot_hold(tmp_path, capsys):
    checkpoints.write(tmp_path / "a.pt", content(w=torch.tensor([1e6])))
    for out, message in (("a.safetensors", "--half: w has values"), ("b.pt", "--half: only for")):
        with pytest.raises(SystemExit):
            published.main([f"{tmp_path}/a.pt", f"{tmp_path}/{out}", "--half"])
        assert message in capsys.readouterr().err
        assert not (tmp_path / out).exists()


RELATIVES = {
    "VunetAlter": {"state_dict": ["eu.first.weight", "ed.first.weight", "du.a", "dd.b"]},
    "first-order-motion-model": {"generator": ["a"], "kp_detector": ["b"], "epoch": ["c"]},
    "a generator of SPADE": ["module.fc.weight", "module.head_0.conv_0.bias",
                             "module.G_middle_0.conv_0.bias", "module.up_0.conv_0.bias"],
    "a VGG of torchvision": ["features.0.weight", "features.0.bias", "features.2.weight"],
    "IR-SE50": ["input_layer.0.weight", "body.0.res_layer.0.weight"],
}  # fmt: skip


@pytest.mark.parametrize("relative", RELATIVES)
def test_a_relative_is_refused_by_its_name(tmp_path, relative):
    def tensors(names):
        if isinstance(names, dict):
            return {name: tensors(inner) for name, inner in names.items()}
        return {name: torch.ones(2) for name in names}

    torch.save(tensors(RELATIVES[relative]), tmp_path / "weights.pth")
    with pytest.raises(UserError, match=rf"weights.pth: not of a network.*{relative}"):
        published.read_checkpoint(tmp_path / "weights.pth")
