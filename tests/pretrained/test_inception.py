"""InceptionV3 of FID: its layers, against torch-fidelity where it is installed, and its file."""

import hashlib
import re

import pytest
import torch

from nets.errors import UserError
from nets.pretrained import inception
from nets.pretrained.inception import Inception, load_inception


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


def test_features_are_those_of_torch_fidelity(net, tmp_path):
    fidelity = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3", exc_type=(ImportError, RuntimeError)
    )
    torch.save(net.state_dict(), tmp_path / "w.pth")
    theirs = fidelity.FeatureExtractorInceptionV3(
        "x", ["2048"], feature_extractor_weights_path=str(tmp_path / "w.pth")
    )
    x = images(2, 299)  # no resizing: torch-fidelity's is TensorFlow's
    expected = theirs(x)[0]
    torch.testing.assert_close(net.features((x.float() - 128) / 128), expected)
