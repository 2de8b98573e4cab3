"""Weights of the published VUNets: equal outputs, inferred options, and refusal of other files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nets import published as originals
from nets.errors import UserError
from nets.published import main as convert
from nets.run import checkpoints
from nets.tensor_files import write_safetensors
from published_vunet import Port, TensorFlow
from tensorflow_writer import write_checkpoint

ROOT = Path(__file__).resolve().parents[2]


def values(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator)


def port(tmp_path, affine, moments=False):
    net = Port(4, 8, 16, affine, values())
    path = tmp_path / "model-1500.ckpt"
    content = {"model": net.p}
    if moments:
        state = {
            i: {"step": 1500, "exp_avg": 2 * t, "exp_avg_sq": t**2}
            for i, (name, t) in enumerate(net.p.items())
            if "auto_blocks.3" not in name
        }
        group = {"lr": 1e-4, "params": list(range(len(net.p)))}
        content["optimizer"] = {"state": state, "param_groups": [group]}
    torch.save(content, path)
    return net, path


def tensorflow(tmp_path, suffix=".npz", **more):
    net = TensorFlow(4, 1, 8, 16, values())
    expected = net(values(1)(2, 3, 16, 16), values(2)(2, 24, 8, 8))
    path = tmp_path / f"weights{suffix}"
    variables = {name: value.numpy() for name, value in {**net.p, **more}.items()}
    if suffix == ".npz":
        np.savez(path, **variables)
    elif suffix == ".ckpt":
        write_checkpoint(path, variables)
    else:
        torch.save({**net.p, **more}, path)
    return net, path, expected


def same(out, expected):
    outputs = (out.image, *out.posterior, *out.prior)
    for ours, theirs in zip(outputs, expected, strict=True):
        assert ours.shape == theirs.shape
        # 50 layers round: measured 3e-6 of the largest value.
        assert (ours - theirs).abs().max() <= 3e-5 * theirs.abs().max()


@pytest.mark.parametrize("affine", [False, True])
def test_the_port_gives_the_same_numbers(tmp_path, affine):
    theirs, path = port(tmp_path, affine)
    pose, appearance = values(1)(2, 3, 8, 8), values(2)(2, 3, 8, 8)
    net, options = originals.load("vunet", path)
    assert not net.training
    assert options["wiring"] == "port" and options["stickman"] == "image"
    assert options["tanh"] is not affine
    assert options["conv"] == ("weight_affine" if affine else "none")
    assert (options["image_size"], options["nf_start"], options["nf_max"]) == (8, 8, 16)
    with torch.no_grad():
        same(net(pose, appearance, "transfer"), theirs(pose, appearance))


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".ckpt"])
def test_tensorflow_variables_give_the_same_numbers(tmp_path, suffix):
    beside = {"global_step": torch.tensor(77), "enc_up/dense_0/V/Adam": torch.zeros(24, 16)}
    _, path, expected = tensorflow(tmp_path, suffix, **beside)
    net, options = originals.load("vunet", path)
    assert options["variant"] == "parts" and options["appearance"] == "crops"
    assert (options["image_size"], options["box_factor"]) == (16, 1)
    assert options["bottleneck_factor"] == 1 and options["drop_prob"] == 0
    with torch.no_grad():
        same(net(values(1)(2, 3, 16, 16), values(2)(2, 24, 8, 8), "transfer"), expected)
    assert originals.read_checkpoint(path)["step"] == 77


def test_an_option_overrides_what_the_weights_do_not_determine(tmp_path):
    _, path, _ = tensorflow(tmp_path)
    net, options = originals.load("vunet", path, image_size=32)
    assert options["bottleneck_factor"] == 2
    assert net(torch.zeros(1, 3, 32, 32), torch.zeros(1, 24, 16, 16)).image.shape[-1] == 32
    with pytest.raises(ValueError, match="load: colour must be one of appearance, "):
        originals.load("vunet", path, colour=True)


def test_new_names_of_weight_normalisation_are_the_same(tmp_path):
    theirs, path = port(tmp_path, affine=True)
    new = {
        k.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): v
        for k, v in theirs.p.items()
    }
    renamed = tmp_path / "new.ckpt"
    torch.save({"model": new}, renamed)
    one, two = originals.load("vunet", path)[0], originals.load("vunet", renamed)[0]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("affine", [False, True])
def test_moments_of_adam_go_with_their_parameters(tmp_path, affine):
    _, path = port(tmp_path, affine, moments=True)
    content = originals.read_checkpoint(path, "vunet")
    net, _ = originals.load("vunet", path)
    optimizer = torch.optim.Adam(net.parameters())
    checkpoints.load_parts(content, {"model": net, "optimizer": optimizer}, path)
    assert content["step"] == 1500
    for name, parameter in net.named_parameters():
        if "priors.1.blocks.3" in name:  # it never had a gradient
            assert parameter not in optimizer.state
        else:
            assert torch.equal(optimizer.state[parameter]["exp_avg"], 2 * parameter)
            assert torch.equal(optimizer.state[parameter]["exp_avg_sq"], parameter**2)


def refused(path, message):
    with pytest.raises(UserError, match=message) as caught:
        originals.load("vunet", path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_first_three_differences_are_named(tmp_path):
    theirs, path = port(tmp_path, affine=False)
    state = dict(theirs.p)
    del state["zc.conv1x1.bias"]
    state["decoder.final_layer.weight"] = torch.zeros(4, 8, 1, 1)
    state["extra"], state["another"] = torch.zeros(1), torch.zeros(1)
    torch.save({"model": state}, path)
    refused(
        path,
        r"not the weights of a VUNet of 8 px: zc.conv1x1.bias is missing; "
        r"decoder.final_layer.weight must be \[3, 8, 1, 1\], is \[4, 8, 1, 1\]; "
        r"extra does not belong there; and 1 more",
    )
    _, path, _ = tensorflow(tmp_path, more=torch.zeros(1))
    refused(path, "more does not belong there")


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_other_files_are_refused(tmp_path):
    path, mark = tmp_path / "a.ckpt", tmp_path / "it_ran"
    for new in (True, False):
        torch.save({"model": Evil(mark)}, path, _use_new_zipfile_serialization=new)
        refused(path, "holds more than tensors and plain values; refused")
    np.savez(tmp_path / "a.npz", **{"enc_up/dense_0/V": np.array([Evil(mark)])})
    refused(tmp_path / "a.npz", "not a whole checkpoint or file of tensors")
    assert not mark.exists()
    torch.save({"model": {"weight": torch.zeros(1)}}, path)
    refused(path, "not weights of a VUNet: it holds weight")
    torch.save([1], path)
    refused(path, "must map names to tensors|it holds nothing")
    path.write_bytes(path.read_bytes()[:-200])
    refused(path, "not a whole checkpoint or file of tensors")
    refused(tmp_path / "absent", "No such file")
    with pytest.raises(ValueError, match="system must be one of vunet, landmarks, bilayer, dcign"):
        originals.load("other", path)


def test_conversion_writes_a_checkpoint_and_safetensors(tmp_path, capsys):
    _, path = port(tmp_path, affine=True, moments=True)
    convert([str(path), str(tmp_path / "out.pt")])
    assert "vunet of the published PyTorch program, normalised" in capsys.readouterr().out
    content = checkpoints.read(tmp_path / "out.pt", "vunet")
    assert content["step"] == 1500 and "optimizer" in content["parts"]
    convert([str(path), str(tmp_path / "out.safetensors")])
    data = (tmp_path / "out.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    assert json.loads(header.pop("__metadata__")["guise"])["system"] == "vunet"
    assert set(header) == set(content["parts"]["model"]) and start % 8 == 0
    for name, tensor in content["parts"]["model"].items():
        low, high = header[name]["data_offsets"]
        held = np.frombuffer(data[start + low : start + high], np.float32)
        assert header[name]["dtype"] == "F32"
        assert np.array_equal(held.reshape(header[name]["shape"]), tensor.numpy())
    back = checkpoints.read(tmp_path / "out.safetensors", "vunet")
    assert back["step"] == 1500 and back["options"] == content["options"]
    assert set(back["parts"]["model"]) == set(content["parts"]["model"])
    for name, tensor in content["parts"]["model"].items():
        assert torch.equal(back["parts"]["model"][name], tensor)
    convert([str(tmp_path / "out.safetensors"), str(tmp_path / "again.pt")])
    assert "vunet weights alone, step 1500" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        convert([str(path), str(tmp_path / "out.pt")])
    assert "exists already" in capsys.readouterr().err


def test_an_originals_weights_may_be_safetensors(tmp_path):
    theirs, path = port(tmp_path, affine=False)
    other = tmp_path / "weights.safetensors"
    parallel = {
        f"module.{name}": value for name, value in theirs.p.items()
    }  # names of DistributedDataParallel
    with other.open("wb") as file:
        write_safetensors(file, parallel, {"format": "pt"})
    assert originals.recognise(other) == "vunet"
    one, two = originals.load("vunet", path)[0], originals.load("vunet", other)[0]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    whole = other.read_bytes()
    other.write_bytes(whole[:-1])
    refused(other, "not a whole file of safetensors")
    other.write_bytes(whole.replace(b'"F32"', b'"F64"', 1))
    refused(other, "not a whole file of safetensors")
    with other.open("wb") as file:
        write_safetensors(file, {"a": torch.ones(12, 10)}, {})
    for wrong in ((b"[12,10]", b"[-8,-5]"), (b"[0,480]", b"[8,488]")):
        spoilt = other.with_name("spoilt.safetensors")
        spoilt.write_bytes(other.read_bytes().replace(*wrong))
        refused(spoilt, "not a whole file of safetensors")


def test_conversion_writes_averaged_weights(tmp_path):
    parts = {
        "model": {"a": torch.zeros(2), "b": torch.zeros(1)},
        "ema": {"decay": 0.9, "steps": 1, "average": {"a": torch.ones(2)}},
    }
    content = {"system": "vunet", "options": {}, "step": 3, "parts": parts}
    checkpoints.write(tmp_path / "run.pt", content)
    convert([str(tmp_path / "run.pt"), str(tmp_path / "run.safetensors")])
    model = checkpoints.read(tmp_path / "run.safetensors")["parts"]["model"]
    assert model["a"].tolist() == [1, 1] and model["b"].tolist() == [0]


def test_the_scripts_take_the_file_as_it_is(tmp_path):
    net = Port(5, 8, 16, False, values())
    torch.save({"model": net.p}, tmp_path / "model-7.ckpt")

    def script(name, *options):
        command = [sys.executable, str(ROOT / name), "--checkpoint", "model-7.ckpt", *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [*command, "--device", "cpu"],
            cwd=tmp_path, env=environment, capture_output=True, text=True,
        )  # fmt: skip

    done = script("infer.py", "-o", "out.png")
    assert done.returncode == 0, done.stderr
    assert "model-7.ckpt: vunet of the published PyTorch program, plain" in done.stdout
    assert (tmp_path / "out.png").is_file()
    size = "--variant image --image_size 16 --nf_start 8 --nf_max 16 --num_steps 8"
    small = [*size.split(), "--batch_size", "1", "--losses.color_L1.weight", "1"]
    done = script("train_vunet.py", *small)
    assert done.returncode == 2
    assert "error: model-7.ckpt: these weights need --wiring port" in done.stderr
    done = script("train_vunet.py", *small, "--wiring", "port", "--test_images", "1")
    assert done.returncode == 0, done.stderr
    assert "step 7, as step 7, with fresh moments" in done.stdout
