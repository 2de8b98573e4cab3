"""MobileNetV2's features against the network written with torch.nn, and the weights in guise."""

import hashlib
import importlib
import sys

import pytest
import torch
from torch import nn

from nets.errors import UserError
from nets.perceptual import feature_distances, preprocess_caffe, preprocess_torchvision
from nets.pretrained import mobilenet
from nets.pretrained.features import load_features
from nets.pretrained.mobilenet import MobileNetV2
from nets.worlds.people.world import render

STAGES = [f"relu{block}_1" for block in range(1, 6)]


class Residual(nn.Module):
    """An inverted residual with torchvision's names."""

    def __init__(self, inputs, outputs, factor, stride):
        super().__init__()
        inner = inputs * factor

        def convolution(c_in, kernel, stride=1, groups=1):
            return nn.Sequential(
                nn.Conv2d(c_in, inner, kernel, stride, kernel // 2, groups=groups, bias=False),
                nn.BatchNorm2d(inner),
                nn.ReLU6(),
            )

        expansion = [convolution(inputs, 1)] if factor > 1 else []
        self.conv = nn.Sequential(
            *expansion,
            convolution(inner, 3, stride, inner),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.adds else self.conv(x)


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        stem = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        layers, inputs = [nn.Sequential(stem, nn.BatchNorm2d(32), nn.ReLU6())], 32
        widths = [16] + [24] * 2 + [32] * 3 + [64] * 4 + [96] * 3 + [160] * 3 + [320]
        for number, outputs in enumerate(widths, start=1):
            stride = 2 if number in (2, 4, 7, 14) else 1
            layers.append(Residual(inputs, outputs, 1 if number == 1 else 6, stride))
            inputs = outputs
        head = nn.Conv2d(320, 1280, 1, bias=False)
        layers.append(nn.Sequential(head, nn.BatchNorm2d(1280), nn.ReLU6()))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 10))


@pytest.fixture(scope="module")
def whole():
    """The published network with random weights and batch norms that are no identities."""
    torch.manual_seed(0)
    net = Whole().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.running_var):
                nn.init.uniform_(value, 0.5, 1.5)
            for value in (module.bias, module.running_mean):
                nn.init.normal_(value, std=0.3)
    return net


@pytest.fixture(scope="module")
def packed(whole):
    return mobilenet.pack(whole.state_dict(), "mine.pth")


def image(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(("family", "unit"), [("torchvision", 1.0), ("caffe", 64.0)])
def test_maps_are_the_published_ones_over_their_deviation(whole, packed, family, unit):
    x = 6 * image(2, 3, 70, 50)  # so that some activations reach the 6 of ReLU6
    maps = MobileNetV2(packed, family)(x, ["input_1", *STAGES])
    assert list(maps) == ["input_1", *STAGES]
    preprocess = preprocess_caffe if family == "caffe" else preprocess_torchvision
    assert torch.equal(maps["input_1"], preprocess(x))
    y = preprocess_torchvision(x)
    for number, layer in enumerate(whole.features):
        with torch.no_grad():
            y = layer(y)
        for name, end in zip(STAGES, (1, 3, 6, 13, 17), strict=True):
            if number != end:
                continue
            adds = {1: [1], 3: [2, 3], 6: [4, 5, 6], 13: [11, 12, 13], 17: [17]}[end]
            variance = sum(whole.features[k].conv[-1].weight.detach() ** 2 for k in adds)
            expected = y * unit / variance.mean().sqrt()
            torch.testing.assert_close(maps[name], expected, rtol=1e-4, atol=1e-4 * unit)


def test_layers_have_vggs_names_and_no_more_is_computed(packed, monkeypatch):
    net = MobileNetV2(packed)
    a = net(image(1, 3, 16, 16), ["block2_conv1", "relu2_2"])
    assert torch.equal(a["block2_conv1"], a["relu2_2"]) and a["relu2_2"].shape == (1, 24, 4, 4)
    for name in ("relu6_1", "features.3"):
        with pytest.raises(ValueError, match=f"layer must be .*got '{name}'"):
            net(image(1, 3, 16, 16), [name])
    computed, compute = [], net._block

    def counted(x, block, position):
        computed.append(block.number)
        return compute(x, block, position)

    monkeypatch.setattr(net, "_block", counted)
    net(image(1, 3, 16, 16), ["relu2_1", "relu1_1"])
    assert computed == [1, 2, 3]


def test_gradients_reach_the_image_and_not_the_parameters():
    net = load_features("mobilenet", family="caffe")
    x = image(1, 3, 32, 32).requires_grad_()
    distances = feature_distances(x, -x.detach(), STAGES[:3], STAGES[:1], net)
    assert set(distances) == {*(f"feature_{name}" for name in STAGES[:3]), f"gram_{STAGES[0]}"}
    sum(distances.values()).sum().backward()
    assert (x.grad != 0).float().mean() > 0.9
    assert not any(p.requires_grad or p.grad is not None for p in net.parameters())


def test_the_weights_in_guise_see_drawn_people_at_their_deviation():
    """A file of other numbers, or a wrong order of channels, would miss the unit."""
    ids = torch.arange(16)
    images = render(ids, ids, ids, 64)["image"] / 127.5 - 1
    net = load_features("mobilenet")
    assert "MobileNetV2" in net.description
    for name, value in net(images, STAGES[:4]).items():
        assert 0.3 < value.std() < 3, name
    halves = list(net.weight)
    assert all(torch.equal(value, value.half().float()) for value in halves)


def test_packing_is_a_command(whole, tmp_path, monkeypatch, capsys):
    path = tmp_path / "mine.pth"
    torch.save(whole.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    monkeypatch.setattr(mobilenet, "OFFICIAL", {path.name: ("sha256", digest, "https://x")})
    monkeypatch.setattr(mobilenet, "NAME", path.name)
    monkeypatch.setattr(mobilenet, "PACKED", tmp_path / "packed.safetensors")
    monkeypatch.setattr(sys, "argv", ["mobilenet", str(path)])
    mobilenet.main()
    assert "packed.safetensors: 3.60 MB" in capsys.readouterr().out
    x = image(1, 3, 32, 32)
    expected = MobileNetV2(mobilenet.pack(whole.state_dict(), path))(x, STAGES[:2])
    for name, value in mobilenet.load_mobilenet()(x, STAGES[:2]).items():
        torch.testing.assert_close(value, expected[name], rtol=0.02, atol=0.02)  # float16
    path.write_bytes(b"half a file")
    with pytest.raises(SystemExit):
        mobilenet.main()
    assert "damaged or not the official file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("system", "argv"),
    [
        ("vunet", ["--config", "smoke.yaml", "--feature_layers", "[input_1,relu1_1,relu2_1]",
                   "--feature_weights", "[1,1,1]", "--gram_weights", "[0,0,0.01]"]),
        ("landmarks", ["--config", "smoke_landmarks.yaml", "--use_vgg"]),
        ("bilayer", ["--config", "smoke_bilayer.yaml", "--losses_train", "pixelwise, perceptual"]),
    ],
)  # fmt: skip
def test_it_serves_the_systems(system, argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    argv = [*argv, "--perceptual", "mobilenet", "--num_steps", "1"]
    importlib.import_module(f"train_{system}").main(argv)
    printed = capsys.readouterr().out
    assert "perceptual loss: MobileNetV2, torchvision weights" in printed
    assert ("without vgg16_face_caffe" in printed) == (system == "bilayer")


def test_wrong_files_and_arguments_are_named(whole, packed):
    state = whole.state_dict()
    few = {k: v for k, v in state.items() if not k.startswith("features.3.")}
    message = r"mine.pth: not a MobileNetV2 state dict: features\.3\..* missing"
    with pytest.raises(UserError, match=message):
        mobilenet.pack(few, "mine.pth")
    with pytest.raises(ValueError, match="family must be torchvision or caffe, got 'face'"):
        MobileNetV2(packed, "face")
    with pytest.raises(UserError, match=r"--vgg_weights x\.pth: mobilenet has its weights with it"):
        load_features("mobilenet", "x.pth")
