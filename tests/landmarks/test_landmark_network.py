"""The networks of the landmarks system: keys, sizes, and outputs against values by hand."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from nets.landmarks import (
    LandmarkModel,
    Landmarks,
    MultiscaleDiscriminator,
    build,
    build_discriminator,
)
from nets.landmarks.network.generator import halve, project
from nets.landmarks.network.model import invertible, pool
from nets.spectral import Spectral, fold

BBC = {
    "n_landmarks": 30,
    "n_filters": 32,
    "ngc": 64,
    "nsf": 6,
    "naf": 0,
    "use_fg_bg_mask": False,
    "low_res_mask": False,
    "use_identity_covariance": False,
    "fixed_covar": 0.008,
}
SMALL = {**BBC, "n_landmarks": 4, "n_filters": 5, "ngc": 8, "nsf": 2, "naf": 6}


def small(**options) -> LandmarkModel:
    torch.manual_seed(0)
    return build({**SMALL, **options})


def images(n=2, size=32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(n, 3, size, size, generator=generator) * 2 - 1 for _ in range(2)]


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def published() -> dict[str, dict[str, list[int]]]:
    """Sections of published_state_dict.txt: section -> key -> shape, in published order."""
    sections: dict[str, dict[str, list[int]]] = {}
    for line in (Path(__file__).parent / "published_state_dict.txt").read_text().splitlines():
        if line.startswith("["):
            keys = sections.setdefault(line[1:-1], {})
        else:
            key, shape = line.split()
            keys[key] = [int(n) for n in shape.split(",")]
    return sections


@pytest.mark.parametrize(
    "options, section, entries, count",
    [
        ({}, None, 211, 20_589_881),
        ({"use_fg_bg_mask": True}, "masks", 287, 31_636_957),
        ({"use_fg_bg_mask": True, "low_res_mask": True}, "low_res_masks", 275, 31_587_613),
    ],
)
def test_state_dict_is_the_published_one(options, section, entries, count):
    with torch.device("meta"):
        net = build({**BBC, **options})
    keys = published()["plain"] | published().get(section, {})
    state = net.state_dict()
    assert list(state) == list(keys)
    assert {key: list(value.shape) for key, value in state.items()} == keys
    assert len(state) == entries and parameters(net) == count
    # An optimiser's state numbers parameters in this order.
    trained = [key for key in keys if not key.endswith(("weight_u", "weight_v"))]
    assert [name for name, _ in net.named_parameters()] == trained


def test_parameter_counts_by_part():
    with torch.device("meta"):
        net = build({**BBC, "use_fg_bg_mask": True})
        low = build({**BBC, "use_fg_bg_mask": True, "low_res_mask": True})
    counts = {
        net.shape_encoder: 6_260_362,
        net.appearance_encoder: 3_445_068,
        net.image_decoder: 10_884_451,
        net.image_decoder.fc: 73_984,
        net.image_decoder.head_0: 2_430_208,
        net.image_decoder.G_middle_1: 2_430_208,
        net.image_decoder.up_0: 2_055_296,
        net.image_decoder.up_1: 960_896,
        net.image_decoder.up_4: 502_784,
        net.image_decoder.conv_img: 867,
        net.bg_net: 5_641_827,
        net.fg_mask_net: 5_405_249,
        low.fg_mask_net: 5_355_905,
    }
    assert {part: parameters(part) for part in counts} == counts


def test_discriminator_is_the_published_one():
    with torch.device("meta"):
        net = build_discriminator({"ndf": 64, "n_layers_D": 3, "num_D": 2})
    keys = published()["discriminator"]
    assert {key: list(value.shape) for key, value in net.state_dict().items()} == keys
    assert list(net.state_dict()) == list(keys) and parameters(net) == 5_529_474
    sizes = [score.shape[1:] for score in net(torch.empty(1, 3, 128, 128, device="meta"))]
    assert sizes == [(1, 19, 19), (1, 11, 11)]


def test_discriminator_sees_the_image_and_its_half():
    net = MultiscaleDiscriminator(width=4, layers=2)
    x = images()[0]
    fine, coarse = net(x)
    torch.testing.assert_close(fine, net.layer1(x))
    half = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
    assert half[0, 0, 0, 0] == pytest.approx(x[0, 0, :2, :2].mean().item(), rel=1e-5)
    torch.testing.assert_close(coarse, net.layer0(half))
    convolutions = list(net.layer1)
    y = F.leaky_relu(convolutions[0](x), 0.2)
    for convolution in convolutions[1:-1]:
        y = F.leaky_relu(F.instance_norm(convolution(y)), 0.2)
    torch.testing.assert_close(fine, convolutions[-1](y))


@pytest.mark.parametrize("size", [32, 48, 112])
@pytest.mark.parametrize("masks", [{}, {"use_fg_bg_mask": True}, "low"], ids=str)
def test_shapes(size, masks):
    masks = {"use_fg_bg_mask": True, "low_res_mask": True} if masks == "low" else masks
    a, b = images(2, size)
    with torch.no_grad():
        out = small(**masks)(a, b)
    assert out.reconstruction.shape == out.foreground.shape == (2, 3, size, size)
    assert out.means.shape == out.appearance_means.shape == (2, 4, 2)
    assert out.covariances.shape == out.appearance_covariances.shape == (2, 4, 2, 2)
    assert out.heatmaps.shape == out.appearance_heatmaps.shape == (2, 4, size // 2, size // 2)
    assert out.gaussian_maps.shape == (2, 4, size, size)
    for part, channels in ((out.background, 3), (out.mask, 1), (out.appearance_mask, 1)):
        assert part is None if not masks else part.shape == (2, channels, size, size)
    assert all(t is None or t.isfinite().all() for t in out)


@pytest.mark.parametrize("size", [16, 40, 130])
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match=r"multiple of 16"):
        small().landmarks(torch.zeros(1, 3, size, size))


def test_images_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match=r"appearance_image must have pose_image's shape"):
        small()(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 48, 48))


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"n_landmarks": 0}, "at least 1"),
        ({"pooling": "max"}, "pooling must be one of mean, sum"),
        ({"use_identity_covariance": True, "fixed_covar": 0.0}, "fixed_covariance must be above 0"),
    ],
)
def test_wrong_options_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        small(**wrong)


def test_every_convolution_starts_from_xavier():
    net = small(use_fg_bg_mask=True)
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            weight = module.weight_orig if isinstance(module, Spectral) else module.weight
            area = weight[0, 0].numel()
            bound = (6 / (area * (weight.shape[0] + weight.shape[1]))) ** 0.5
            assert weight.abs().max() <= bound and weight.std() > bound / 4
            assert module.bias is None or (module.bias == 0.1).all()


def test_projection_by_hand():
    """Two landmarks, one pixel: (2 * 1 + 3 * 0.5) / (1 + 1.5)."""
    vectors = torch.tensor([[[2.0, 4.0], [3.0, -1.0]]])
    maps = torch.tensor([1.0, 0.5]).view(1, 2, 1, 1)
    torch.testing.assert_close(
        project(vectors, maps).flatten(), torch.tensor([3.5 / 2.5, 3.5 / 2.5])
    )


def test_pooling_by_hand():
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 8.0]]]])
    heatmaps = torch.tensor([[[[0.5, 0.0], [0.0, 0.5]]]])
    torch.testing.assert_close(pool(features, heatmaps, "sum"), torch.tensor([[[2.5, 4.0]]]))
    torch.testing.assert_close(pool(features, heatmaps), torch.tensor([[[2.5, 4.0]]]) / 4)


def test_halved_maps_are_means_about_the_centres():
    maps = torch.rand(1, 2, 32, 32)
    for times in (1, 2, 3):
        step, half = 2**times, 2 ** (times - 1)
        corners = [
            maps[:, :, half - 1 + i :: step, half - 1 + j :: step] for i in (0, 1) for j in (0, 1)
        ]
        torch.testing.assert_close(halve(maps, times), sum(corners) / 4)


def test_generator_looks_at_the_projection_where_the_published_one_does():
    """Resizing by nearest neighbour to S/8 and S/16 picks every 8th and 16th pixel."""
    maps, vectors = torch.rand(1, 3, 48, 48), torch.randn(1, 3, 2)
    whole = project(vectors, maps)
    sampled = project(vectors, maps[:, :, ::8, ::8])
    torch.testing.assert_close(F.interpolate(whole, size=(6, 6)), sampled)
    torch.testing.assert_close(F.interpolate(whole, size=(3, 3)), sampled[:, :, ::2, ::2])


def test_singular_covariances_get_a_floor_and_others_do_not_change():
    line = torch.tensor([[1.0, 2.0], [2.0, 4.0]]) / 8
    ordinary = torch.tensor([[0.3, 0.1], [0.1, 2e-4 + 0.1**2 / 0.3]])
    given = torch.stack([torch.zeros(2, 2), line, ordinary])[None]
    result = invertible(given)
    assert torch.equal(result[0, 2], ordinary)
    torch.testing.assert_close(result[0, :2] - given[0, :2], 1e-6 * torch.eye(2).expand(2, 2, 2))
    assert torch.linalg.inv(result.double()).isfinite().all()


def test_a_heatmap_on_one_pixel_gives_finite_images_and_gradients():
    net = small()
    with torch.no_grad():
        net.shape_encoder.decoder_layers[3][1].weight.mul_(
            1e4
        )  # logits far above 88, where float32 exp overflows
    out = net(*images())
    assert out.heatmaps.amax((2, 3)).min() > 0.999
    out.reconstruction.square().mean().backward()
    assert out.reconstruction.isfinite().all()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_fixed_covariance_draws_the_closed_form():
    net = small(use_identity_covariance=True, fixed_covar=0.05)
    out = net(*images())
    assert torch.equal(out.covariances, 0.05 * torch.eye(2)[None, None])
    axis = -1 + 2 * torch.arange(32) / 32
    x, y = out.means[..., 0, None, None], out.means[..., 1, None, None]
    squared = (axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2
    torch.testing.assert_close(out.gaussian_maps, 1 / (1 + squared / 0.05))


def test_reconstruction_is_foreground_over_background():
    net = small(use_fg_bg_mask=True).eval()
    a, b = images()
    with torch.no_grad():
        out = net(a, b)
        behind = net.bg_net((1 - out.appearance_mask) * b)[0]
        mask = torch.sigmoid(net.fg_mask_net(out.gaussian_maps)[0])
    torch.testing.assert_close(out.mask, mask)
    torch.testing.assert_close(out.background, behind)
    expected = behind * (1 - mask) + out.foreground * mask
    torch.testing.assert_close(out.reconstruction, expected)


def test_low_resolution_masks_are_enlarged_before_the_sigmoid():
    net = small(use_fg_bg_mask=True, low_res_mask=True).eval()
    with torch.no_grad():
        out = net(*images())
        logits = net.fg_mask_net[0](out.gaussian_maps)[0]
    assert logits.shape == (2, 1, 8, 8)
    large = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
    torch.testing.assert_close(out.mask, torch.sigmoid(large))


@pytest.mark.parametrize("masks", [False, True])
def test_pieces_give_what_the_whole_gives(masks):
    net = small(use_fg_bg_mask=masks).eval()
    a, b = images()
    with torch.no_grad():
        whole = net(a, b)
        pose = net.landmarks(a)
        pieces = net.render(pose, net.appearance(b))
        one = net.render(pose, net.appearance(b[:1]))
        own = net.render(Landmarks(pose.means, pose.covariances, None), net.appearance(b))
    for name, part in whole._asdict().items():  # rounding depends on the batch size
        torch.testing.assert_close(getattr(pieces, name), part, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(one.reconstruction[0], whole.reconstruction[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(own.reconstruction, pieces.reconstruction)
    assert own.heatmaps is None


def test_pose_comes_from_one_image_and_appearance_from_the_other():
    net = small(pooling="sum").eval()
    (a, b), (c, d) = images(), images(seed=2)
    with torch.no_grad():
        ab, cb, ad = net(a, b), net(c, b), net(a, d)
    torch.testing.assert_close(ab.means, ad.means)
    torch.testing.assert_close(ab.appearance_means, cb.appearance_means)
    assert not torch.allclose(ab.means, cb.means, atol=1e-3)
    assert not torch.allclose(ab.reconstruction, ad.reconstruction, atol=1e-3)


@pytest.mark.parametrize("masks", [{}, {"use_fg_bg_mask": True, "low_res_mask": True}], ids=str)
def test_gradients_reach_all_parts(masks):
    net = small(**masks)
    out = net(*images())
    out.reconstruction.square().mean().backward()
    missing = [name for name, p in net.named_parameters() if p.grad is None]
    assert not missing
    # A bias before an instance norm has no effect.
    weights = [p.grad for name, p in net.named_parameters() if not name.endswith("bias")]
    assert all(grad.isfinite().all() and grad.abs().max() > 0 for grad in weights)


def test_bf16_is_near_fp32():
    net = small(use_fg_bg_mask=True)
    a, b = images(size=96)
    for name, buffer in net.named_buffers():
        assert buffer.dtype == torch.float32, name
    with torch.autocast("cpu", torch.bfloat16):
        out = net(a, b)
    out.reconstruction.square().mean().backward()
    assert all(t.dtype == torch.float32 and t.isfinite().all() for t in out)
    assert all(p.grad.isfinite().all() for p in net.parameters())
    with torch.no_grad():
        exact = net.eval()(a, b)
        assert (
            out.means - exact.means
        ).abs().max() < 0.05  # instance norm amplifies 8-bit rounding


def test_state_dict_restores_the_function(tmp_path):
    net, other = small(use_fg_bg_mask=True).eval(), build({**SMALL, "use_fg_bg_mask": True}).eval()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    other.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    with torch.no_grad():
        assert torch.equal(net(*images()).reconstruction, other(*images()).reconstruction)


def test_folded_network_gives_the_same_images():
    net, folded = small().eval(), small().eval()
    assert not any(name.endswith("weight_u") for name in fold(folded).state_dict())
    with torch.no_grad():
        expected = net(*images()).reconstruction
        torch.testing.assert_close(folded(*images()).reconstruction, expected)


def test_overfits_one_batch():
    net = small(pooling="sum", use_fg_bg_mask=True)
    a, b = images()
    target = F.interpolate(torch.rand(2, 3, 4, 4) * 2 - 1, size=32, mode="bilinear")
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    losses = []
    for _ in range(20):
        loss = (net(a, b).reconstruction - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * target.var().item(), losses[::6]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # raised in torch's tracer
def test_a_training_step_compiles_as_one_graph():
    """Forward and backward pass without a graph break, in float64, with fixed spectral vectors."""
    net = small(use_fg_bg_mask=True).double().eval()
    both = [image.double() for image in images()]

    def gradients(forward):
        loss = forward(*both).reconstruction.square().mean()
        return torch.autograd.grad(loss, list(net.parameters()))

    expected = gradients(net)
    compiled = gradients(torch.compile(net, backend="aot_eager", fullgraph=True))
    for mine, theirs in zip(compiled, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)
