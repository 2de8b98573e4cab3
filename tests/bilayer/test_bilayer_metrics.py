"""Metrics against closed forms; weight files that fit, do not fit, or are missing."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nets.bilayer.metrics import METRICS, Metrics
from nets.errors import UserError
from nets.metrics import pose_error, signed_psnr, signed_ssim
from nets.pretrained.arcface import (
    IRSE50,
    TEMPLATE,
    aligned,
    csim,
    five_points,
    load_recognition,
    similarity_transform,
)
from nets.pretrained.lpips import load_lpips


def images(n=2, size=64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(n, 3, size, size, generator=g) * 2 - 1 for _ in range(2))


@pytest.fixture
def empty_cache(tmp_path):
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path / "hub")
    yield tmp_path / "hub" / "checkpoints"
    torch.hub.set_dir(before)


def test_psnr_by_hand():
    truth = torch.zeros(2, 3, 4, 4)
    assert signed_psnr(truth + 0.2, truth).item() == pytest.approx(20)
    assert signed_psnr(truth, truth).item() == math.inf


def test_ssim_by_an_independent_formula():
    from scipy.ndimage import correlate1d

    x, y = images(1, 20)
    line = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    line /= line.sum()

    def blur(p):
        return correlate1d(correlate1d(p, line, 0, mode="constant"), line, 1, mode="constant")

    for data_range in (1.0, 2.0):
        c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
        maps = []
        for a, b in zip(x[0].double().numpy(), y[0].double().numpy(), strict=True):
            ma, mb = blur(a), blur(b)
            va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
            top = (2 * ma * mb + c1) * (2 * cov + c2)
            maps.append(top / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
        assert signed_ssim(x, y, data_range).item() == pytest.approx(np.mean(maps), abs=1e-4)
    assert signed_ssim(x, x).item() == pytest.approx(1)
    assert signed_ssim(x, 0.9 * x, 2.0) > signed_ssim(x, 0.9 * x, 1.0)


def test_lpips_by_its_definition():
    net = load_lpips(source="random")
    x, y = images(2, 32)
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)

    def features(v):
        v, out = (v - shift) / scale, []
        for position, row in enumerate(net.net.rows):
            if position and row.place == 1:
                v = F.max_pool2d(v, 2)
            v = F.relu(net.net.convolutions[position](v))
            if row.place == (2 if row.block < 3 else 3):
                out.append(v / (v.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return out

    expected = 0
    for k, (a, b) in enumerate(zip(features(x), features(y), strict=True)):
        weight = net.state_dict()[f"lin{k}.model.1.weight"].view(1, -1, 1, 1)
        expected = expected + ((a - b).square() * weight).sum(1).mean((1, 2))
    torch.testing.assert_close(net(x, y), expected)
    assert net(x, x).abs().max() == 0
    x.requires_grad_()
    net(x, y).sum().backward()
    assert x.grad.abs().sum() > 0


def test_recognition_network_is_the_published_one():
    with torch.device("meta"):
        net = IRSE50()
    assert sum(p.numel() for p in net.parameters()) == 43_797_696
    state = net.state_dict()
    assert len(state) == 397
    for name, shape in {
        "input_layer.0.weight": (64, 3, 3, 3), "input_layer.2.weight": (64,),
        "body.3.shortcut_layer.0.weight": (128, 64, 1, 1),
        "body.3.res_layer.5.fc1.weight": (8, 128, 1, 1),
        "body.23.res_layer.4.running_var": (512,), "output_layer.3.weight": (512, 25088),
        "output_layer.4.running_mean": (512,),
    }.items():  # fmt: skip
        assert tuple(state[name].shape) == shape
    assert "body.0.shortcut_layer.0.weight" not in state  # a pooling, which has no weights


def test_similarity_transform_and_alignment():
    template = torch.tensor(TEMPLATE, dtype=torch.float64)
    angle, size, move = 0.3, 1.7, torch.tensor([5.0, -3.0], dtype=torch.float64)
    a, b = size * math.cos(angle), size * math.sin(angle)
    turn = torch.tensor([[a, -b], [b, a]], dtype=torch.float64)
    matrix = similarity_transform(template, (template @ turn.T + move)[None])[0]
    torch.testing.assert_close(matrix, torch.cat([turn, move[:, None]], 1))
    noisy = template @ turn.T + move + torch.randn(5, 2, dtype=torch.float64)
    best = similarity_transform(template, noisy[None])[0]

    def error(a, b, x, y):
        moved = template @ torch.stack([torch.stack([a, -b]), torch.stack([b, a])]).T
        return (moved + torch.stack([x, y]) - noisy).square().sum()

    numbers = [best[0, 0], best[1, 0], best[0, 2], best[1, 2]]
    for k, step in ((k, step) for k in range(4) for step in (-1e-3, 1e-3)):
        other = [n + step * (k == place) for place, n in enumerate(numbers)]
        assert error(*other) > error(*numbers)  # all similar transforms nearby are worse
    # An image of the template's size whose points are the template's is not changed.
    points = torch.zeros(1, 68, 2)
    points[0, 36:42], points[0, 42:48] = torch.tensor(TEMPLATE[0]), torch.tensor(TEMPLATE[1])
    points[0, 30], points[0, 48], points[0, 54] = (torch.tensor(TEMPLATE[k]) for k in (2, 3, 4))
    torch.testing.assert_close(five_points(points)[0], torch.tensor(TEMPLATE))
    image = F.interpolate(torch.rand(1, 3, 14, 14), size=112, mode="bilinear")
    torch.testing.assert_close(aligned(image, points), image, atol=1e-4, rtol=0)
    # In an image of twice the width, x is scaled by the width and y by the height.
    wide = F.interpolate(image, size=(112, 224), mode="bilinear")
    wide_points = points * torch.tensor([2.0, 1.0])
    face = aligned(wide, wide_points)
    assert face.shape == (1, 3, 112, 112) and face.isfinite().all()


def test_csim_of_the_same_face_is_one():
    net = load_recognition(source="random")
    x, y = images(2, 128)
    points = torch.rand(2, 68, 2) * 128
    torch.testing.assert_close(csim(net, x, x, points), torch.ones(2))
    assert (csim(net, x, y, points) < 0.9999).all()


def test_pose_error_by_hand():
    base = torch.zeros(68, 2)
    base[36:42] = torch.tensor([10.0, 0.0])  # eyes at a distance of 10 pixels
    seen = {0: base, 255: base + torch.tensor([3.0, 4.0]), 128: None}

    def detect(image):
        assert image.dtype == torch.uint8
        return seen[int(image[0, 0, 0])]

    levels = torch.tensor([-1.0, 1.0, 2 * 128.5 / 255 - 1])
    make = lambda k: levels[k].expand(3, 8, 8)  # noqa: E731
    truth = torch.stack([make(0), make(0), make(0)])
    prediction = torch.stack([make(0), make(1), make(2)])
    errors, left_out = pose_error(detect, prediction, truth)
    assert errors.tolist() == pytest.approx([0, 0.5]) and left_out == 1


def test_all_metrics_of_a_pass():
    x, y = images(4, 64)
    data = {"pred_target_imgs": x.view(2, 2, 3, 64, 64), "target_imgs": y.view(2, 2, 3, 64, 64),
            "target_poses": torch.rand(2, 2, 136) * 2 - 1}  # fmt: skip
    points = torch.rand(68, 2)
    metrics = Metrics(
        "PSNR, ssim, lpips, csim, pose_matching_metric", detect=lambda _: points, source="random"
    )
    assert metrics.absent == [] and len(metrics.descriptions) == 2
    out = metrics(data)
    assert list(out) == ["G_PSNR", "G_SSIM", "G_SSIM2", "G_LPIPS", "G_CSIM", "G_PME"]
    assert out["G_PSNR"].item() == pytest.approx(signed_psnr(x, y).item())
    assert out["G_PME"].item() == 0 and all(v.ndim == 0 for v in out.values())
    blind = Metrics(["pose_matching"], detect=lambda _: None)
    assert blind(data) == {} and blind.left_out == 4


def test_absent_weights_are_named_once_and_left_out(empty_cache, tmp_path):
    metrics = Metrics(METRICS, folders=lambda part: [tmp_path / "pretrained_weights" / part])
    assert metrics.names == ["PSNR", "ssim"]
    lpips, face, pose = metrics.absent
    assert "lpips is left out" in lpips and "vgg16-397923af.pth" in lpips
    assert "csim is left out" in face and str(tmp_path / "pretrained_weights" / "csim") in face
    assert "--pretrained_weights_dir" in face and "no detector" in pose
    with pytest.raises(ValueError, match=r"a metric must be of PSNR, .* got 'fid'"):
        Metrics(["fid"])


def test_weight_files_are_checked(empty_cache, tmp_path):
    net = IRSE50()
    file = tmp_path / "csim" / "insight_face.pth"
    file.parent.mkdir()
    state = net.state_dict()
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, file)
    loaded = load_recognition(folders=[file.parent])
    assert str(file) in loaded.description
    face = torch.rand(1, 3, 112, 112)
    torch.testing.assert_close(loaded(face), net(face))
    del state["body.7.res_layer.2.weight"]
    torch.save(state, file)
    with pytest.raises(
        UserError, match=r"not an IR-SE50 state dict: body\.7\.res_layer\.2\.weight is"
    ):
        load_recognition(file)
    lin = tmp_path / "vgg.pth"
    torch.save({f"lin{k}.model.1.weight": torch.zeros(1, 8, 1, 1) for k in range(5)}, lin)
    vgg = tmp_path / "mine.pth"
    rand = load_lpips(source="random")
    names = [f"features.{row.number}" for row in rand.net.rows]
    torch.save({f"{n}.{p}": getattr(c, p) for n, c in zip(names, rand.net.convolutions, strict=True)
                for p in ("weight", "bias")}, vgg)  # fmt: skip
    with pytest.raises(
        UserError, match=r"linear weights of LPIPS .*lin0.model.1.weight must be \[1, 64"
    ):
        load_lpips(lin, vgg)
    torch.save({k: v for k, v in rand.state_dict().items() if k.startswith("lin")}, lin)
    x, y = images(1, 32)
    torch.testing.assert_close(load_lpips(lin, vgg)(x, y), rand(x, y))
    with pytest.raises(UserError, match="no such LPIPS weight file"):
        load_lpips(tmp_path / "none.pth", vgg)
