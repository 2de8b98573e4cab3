"""LPIPS with AlexNet: its definition, and the files that it is read from."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nets.errors import UserError
from nets.pretrained import lpips
from nets.pretrained.lpips import load_lpips


def pair(size=64):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(2, 2, 3, size, size, generator=generator).mul(2).sub(1).unbind(0)


def published(net):
    """torchvision's `features` of AlexNet with the weights of a network."""
    layers = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    for theirs, ours in zip(convolutions, net.net.convolutions, strict=True):
        theirs.load_state_dict(ours.state_dict())
    return layers


def test_alexnet_by_its_definition():
    net = load_lpips(source="random", network="alex")
    x, y = pair()
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    layers, expected = published(net), torch.zeros(2)
    v, w = (x - shift) / scale, (y - shift) / scale
    stage = 0
    for layer in layers:
        v, w = layer(v), layer(w)
        if isinstance(layer, nn.ReLU):
            a, b = F.normalize(v, dim=1, eps=1e-10), F.normalize(w, dim=1, eps=1e-10)
            weight = getattr(net, f"lin{stage}").model[1].weight
            expected += F.conv2d((a - b) ** 2, weight).mean((1, 2, 3)).detach()
            stage += 1
    assert stage == 5
    torch.testing.assert_close(net(x, y), expected)
    assert net(x, x).abs().max() == 0 and net(x, y).min() > 0


def test_alexnet_and_its_calibration_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    random = load_lpips(source="random", network="alex")
    features = published(random).state_dict()
    torch.save({f"features.{k}": v for k, v in features.items()}, tmp_path / "net.pth")
    calibration = {k: v for k, v in random.state_dict().items() if k.startswith("lin")}
    torch.save(calibration, tmp_path / "lin.pth")
    x, y = pair()
    read = load_lpips(tmp_path / "lin.pth", tmp_path / "net.pth", network="alex")
    torch.testing.assert_close(read(x, y), random(x, y))
    with pytest.raises(UserError, match=r"alexnet-owt-7be5be79\.pth .*download\.pytorch\.org"):
        load_lpips(network="alex")
    with pytest.raises(UserError, match=r"lin\.pth: .*not an AlexNet state dict"):
        load_lpips(tmp_path / "lin.pth", tmp_path / "lin.pth", network="alex")
    (tmp_path / "alex.pth").write_bytes((tmp_path / "lin.pth").read_bytes())
    with pytest.raises(UserError, match=r"alex\.pth is damaged or not the official file"):
        load_lpips(None, tmp_path / "net.pth", folders=[tmp_path], network="alex")
    with pytest.raises(ValueError, match="network must be vgg or alex"):
        load_lpips(network="squeeze")


def test_the_calibrations_have_an_address_and_a_digest():
    for official in (lpips.OFFICIAL, lpips.OFFICIAL_ALEX, lpips.OFFICIAL_ALEXNET):
        for kind, digest, url in official.values():
            assert kind == "sha256" and len(digest) == 8 and url.startswith("https://")
