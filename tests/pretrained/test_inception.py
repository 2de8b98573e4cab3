"""InceptionV3 of FID: its layers, against torch-fidelity where it is installed, and its file."""

import hashlib
import re

import pytest
import torch

from nets.errors import UserError
from nets.pretrained import inception
from nets.pretrained.inception import Inception, load_inception

# Every 256th feature of `pattern()`, the last one too, with the weights of `drawn_state`: by
# torch-fidelity 0.4.0.
KNOWN = (0.0, 21.303303, 9.395631, 0.726101, 0.465556, 0.091992, 16.501822, 2.908264)


@pytest.fixture(scope="module")
def net():
    """The network of random weights, with statistics that are not those of a fresh norm."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Inception("random")
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    return net


@pytest.fixture
def file(net, tmp_path, monkeypatch):
    """A file of the random weights, and the table of official files in which it is one."""
    state = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    path = tmp_path / "pt_inception.pth"
    torch.save(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    official = {path.name: ("sha256", digest, "https://x.invalid/pt")}
    monkeypatch.setattr(inception, "OFFICIAL", official)
    return path


def images(count, size=40):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def test_the_file_of_pytorch_fid_is_read(net, file, tmp_path):
    loaded = load_inception([tmp_path])
    assert "sha256 verified" in loaded.description
    features, logits = loaded(images(2))
    torch.testing.assert_close(features, net(images(2))[0], rtol=0, atol=0)
    torch.testing.assert_close(logits, features @ net.fc.weight.T)
    assert features.shape == (2, 2048) and logits.shape == (2, 1008)
    assert sum(p.numel() for p in net.parameters()) == 23_850_960


def test_a_wrong_file_or_none_is_named(file, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(UserError, match=r"no Inception weights of FID: .*https://x\.invalid/pt"):
        load_inception([tmp_path / "other"])
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(UserError, match=re.escape(f"{file} is damaged or not the official")):
        load_inception([tmp_path])
    with pytest.raises(ValueError, match=r"Inception: images must be uint8"):
        Inception()(torch.zeros(1, 3, 8, 8))


def test_official_files_have_an_address_and_a_digest():
    for name, (kind, digest, url) in inception.OFFICIAL.items():
        assert kind == "sha256" and digest in name and url.endswith(name)


def drawn_state(net):
    """Weights that are the same on every machine: uniform draws in the order of their names."""
    generator, state = torch.Generator().manual_seed(7), {}
    for name, value in sorted(net.state_dict().items()):
        draw = torch.rand(value.shape, generator=generator)
        if value.ndim > 1:
            bound = (6 / value[0].numel()) ** 0.5
            state[name] = (2 * draw - 1) * bound
        elif name.endswith(("weight", "running_var")):
            state[name] = 0.5 + draw
        else:
            state[name] = (0.2 * draw - 0.1).to(value.dtype)
    return state


def test_features_are_those_of_torch_fidelity():
    """Against numbers that were computed by it; the next test compares where it is installed."""
    net = Inception()
    net.load_state_dict(drawn_state(net))
    features = net.features((pattern().float() - 128) / 128)[0]
    expected = torch.tensor(KNOWN)
    # float32 differs from float64 by 1.5e-5 here; another order of sums by as much
    torch.testing.assert_close(features[255::256], expected, rtol=0, atol=1e-4)


def pattern():
    y, x = torch.meshgrid(torch.arange(299), torch.arange(299), indexing="ij")
    return torch.stack([x * y % 256, (x + 2 * y) % 256, x * 3 % 256])[None].byte()


def test_torch_fidelity_agrees_where_it_is_installed(tmp_path):
    fidelity = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3", exc_type=(ImportError, RuntimeError)
    )
    net = Inception()
    net.load_state_dict(drawn_state(net))
    torch.save(net.state_dict(), tmp_path / "w.pth")
    theirs = fidelity.FeatureExtractorInceptionV3(
        "x", ["2048"], feature_extractor_weights_path=str(tmp_path / "w.pth")
    )
    expected = theirs(pattern())[0]  # at 299 pixels: its resizing is TensorFlow's
    torch.testing.assert_close(net.features((pattern().float() - 128) / 128), expected)
