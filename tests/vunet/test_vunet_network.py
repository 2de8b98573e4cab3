"""The network in both forms: sizes, modes, wiring, training of one batch, compilation."""

import pytest
import torch

from nets.vunet import Noise, VUNet
from nets.vunet.layers import NormConv2d, fold, initialise_from_data
from nets.vunet.losses import kl_of_first, kl_unit_gaussians

UNTRAINED = 1_230_848  # parameters of the published parts form that never receive a gradient


def small(form: str, **options) -> tuple[VUNet, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    if form == "parts":
        net = VUNet.parts(32, 1, 1, width=8, max_width=16, **options)
        return net, torch.randn(2, 3, 32, 32), torch.randn(2, 24, 16, 16)
    net = VUNet.image(32, 8, 16, **options)
    return net, torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)


def zeros(net: VUNet, n: int) -> Noise:
    return Noise(*(tuple(t * 0 for t in group) for group in net.noise(n)))


def parameters(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    "net, published",
    [
        (lambda: VUNet.parts(256, 2, 2), 47_272_966 - UNTRAINED),
        (lambda: VUNet.parts(128, 1, 1), 47_419_270 - UNTRAINED),
        (lambda: VUNet.image(256), 19_457_859),
        (lambda: VUNet.image(256, norm="weight_affine", tanh=False), 19_510_860),
        (lambda: VUNet.image(128), 17_358_915),
        (lambda: VUNet.image(128, norm="weight_affine", tanh=False), 17_406_540),
        (lambda: VUNet.image(128, 32, 64, norm="weight_affine", tanh=False), 4_367_660),
        (lambda: VUNet.image(256, appearance_channels=4, pose_channels=18), 19_458_883),
    ],
)
def test_parameter_counts_are_the_published_ones(net, published):
    with torch.device("meta"):
        assert parameters(net()) == published


def test_parameter_counts_by_network():
    with torch.device("meta"):
        parts, image = VUNet.parts(256, 2, 2), VUNet.image(256)
    assert parameters(parts.appearance) == 2_071_296
    assert parameters(parts.posterior) == 3_085_568 - UNTRAINED
    assert parameters(parts.pose) == 2_253_216
    assert parameters(parts.decoder) == 39_862_016 + 870
    assert parameters(image.appearance) == parameters(image.pose) == 3_542_400
    assert parameters(image.posterior) == 1_574_400
    assert parameters(image.decoder) == 3_066_752 + 7_731_907


@pytest.mark.parametrize(
    "make, pose, appearance, latents",
    [
        (lambda: VUNet.parts(256, 2, 2), 256, (24, 64), [(128, 4), (128, 8)]),
        (lambda: VUNet.parts(128, 1, 1), 128, (24, 64), [(128, 2), (128, 4)]),
        (lambda: VUNet.image(256), 256, (3, 256), [(128, 1), (512, 1)]),
        (lambda: VUNet.image(128, 32, 64), 128, (3, 128), [(64, 1), (256, 1)]),
    ],
)
def test_shapes(make, pose, appearance, latents):
    with torch.device("meta"):
        net = make()
        c, side = appearance
        x, a = torch.empty(2, 3, pose, pose), torch.empty(2, c, side, side)
        noise = Noise(*(tuple(torch.empty(2, *s) for s in net.latent_shapes) for _ in range(2)))
        out = net(x, a, noise=noise)
    assert out.image.shape == (2, 3, pose, pose)
    expected = [(2, c, s, s) for c, s in latents]
    assert [tuple(m.shape) for m in out.posterior] == expected
    assert [tuple(m.shape) for m in out.prior] == expected


@pytest.mark.parametrize("form", ["parts", "image"])
def test_transfer_is_deterministic_and_equals_training_without_noise(form):
    net, pose, appearance = small(form)
    transfer = net(pose, appearance, "transfer")
    assert torch.equal(transfer.image, net(pose, appearance, "transfer").image)
    quiet = net(pose, appearance, "train", zeros(net, 2))
    torch.testing.assert_close(quiet.image, transfer.image)
    loud = net(pose, appearance, "train")
    assert not torch.allclose(loud.image, transfer.image)


@pytest.mark.parametrize("form", ["parts", "image"])
def test_published_transfer_samples_only_the_coarse_latent(form):
    net, pose, appearance = small(form)
    noise = net.noise(2)
    random = net(pose, appearance, "transfer", noise)
    exact = net(pose, appearance, "transfer")
    assert torch.equal(random.posterior[0], exact.posterior[0])
    assert not torch.allclose(random.posterior[1], exact.posterior[1])
    trained = net(pose, appearance, "train", noise)
    assert torch.equal(random.posterior[1], trained.posterior[1])


@pytest.mark.parametrize("form", ["parts", "image"])
def test_sampling_needs_no_appearance_and_follows_its_noise(form):
    net, pose, _ = small(form)
    noise = net.noise(2, generator=torch.Generator().manual_seed(1))
    again = net.noise(2, generator=torch.Generator().manual_seed(1))
    one, two = net(pose, mode="sample", noise=noise), net(pose, mode="sample", noise=again)
    assert one.posterior is None and torch.equal(one.image, two.image)
    assert not torch.allclose(one.image, net(pose, mode="sample").image)


def _influence(wiring: str) -> list[list[bool]]:
    """Row i, column j: a change of latent group i changes mean j of the fine prior."""
    net, pose, _ = small("image", wiring=wiring)
    coarse, fine = (torch.randn(2, *s) for s in net.latent_shapes)
    before = net.decode(pose, (coarse, fine))[1][1].chunk(4, dim=1)
    rows = []
    for i in range(4):
        moved = fine.clone()
        moved.chunk(4, dim=1)[i].add_(1.0)
        after = net.decode(pose, (coarse, moved))[1][1].chunk(4, dim=1)
        rows.append([not torch.equal(a, b) for a, b in zip(before, after, strict=True)])
    return rows


def test_autoregressive_wiring():
    chain = [[j > i for j in range(4)] for i in range(4)]
    assert _influence("chain") == chain
    no, late, last = [False] * 4, [False, False, True, True], [False, False, False, True]
    assert _influence("port") == [no, late, last, no]


def test_parts_prior_is_autoregressive_over_the_cell():
    net, pose, _ = small("parts")
    latents = [torch.randn(2, *s) for s in net.latent_shapes]
    before = net.decode(pose, tuple(latents))[1][0]
    moved = latents[0].clone()
    moved[:, :, 0::2, 1::2] += 1.0  # group 1
    after = net.decode(pose, (moved, latents[1]))[1][0]
    changed = [
        not torch.equal(before[:, :, r::2, c::2], after[:, :, r::2, c::2])
        for r, c in [(0, 0), (0, 1), (1, 0), (1, 1)]
    ]
    assert changed == [False, False, True, True]


@pytest.mark.parametrize("form", ["parts", "image"])
def test_every_parameter_learns(form):
    net, pose, appearance = small(form)
    out = net(pose, appearance)
    (out.image.square().mean() + kl_unit_gaussians(out.posterior, out.prior).mean()).backward()
    idle = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


@pytest.mark.parametrize("form", ["parts", "image"])
def test_priors_of_the_first_images_only(form):
    net, pose, appearance = small(form)
    noise = net.noise(2)
    whole = net(pose, appearance, "train", noise)
    some = net(pose, appearance, "train", noise, priors_of=1)
    torch.testing.assert_close(some.image, whole.image)
    for mean, of_all in zip(some.prior, whole.prior, strict=True):
        torch.testing.assert_close(mean, of_all[:1])
    kl = kl_of_first(some.posterior, some.prior)
    first = kl_unit_gaussians(whole.posterior, whole.prior)[0]
    torch.testing.assert_close(kl, first.expand(2))
    (some.image.square().mean() + kl.mean()).backward()
    idle = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


@pytest.mark.parametrize("form", ["parts", "image"])
def test_overfits_one_batch(form):
    net, pose, appearance = small(form)
    if form == "parts":
        initialise_from_data(net, lambda: net(pose, appearance))
    target = torch.rand(2, 3, 32, 32) * 2 - 1
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    first = None
    for _ in range(80):
        out = net(pose, appearance, "transfer")
        loss = (out.image - target).abs().mean()
        first = first or float(loss.detach())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.5 * first


@pytest.mark.parametrize("form", ["parts", "image"])
def test_channels_last_and_folding_keep_the_image(form):
    net, pose, appearance = small(form)
    before = net(pose, appearance, "transfer").image
    net = fold(net).to(memory_format=torch.channels_last)
    last = [t.to(memory_format=torch.channels_last) for t in (pose, appearance)]
    after = net(*last, "transfer").image
    # Sums are in another order, and some layouts use other kernels: measured 2e-5.
    torch.testing.assert_close(after, before, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("channels", [(3, 16), (32, 48)], ids=str)
def test_1x1_convolutions_that_train_equal_plain_ones(channels):
    layer = NormConv2d(*channels, 1, norm="weight").to(memory_format=torch.channels_last)
    x = torch.randn(2, channels[0], 8, 6).to(memory_format=torch.channels_last).requires_grad_()
    y = layer(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    weight, bias = layer.effective()
    plain = torch.nn.functional.conv2d(x, weight, bias)
    torch.testing.assert_close(y, plain)
    variables = [x, *layer.parameters()]
    grad = torch.randn_like(y)
    ours, theirs = (torch.autograd.grad(out, variables, grad) for out in (y, plain))
    for one, other in zip(ours, theirs, strict=True):  # sums of 96 products in another order
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_output_is_bounded_with_tanh():
    net, pose, appearance = small("image")
    assert net(pose, appearance).image.abs().max() < 1


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: VUNet.parts(96, 1, 1), "image_size must be 2 times a power of two, got 96"),
        (lambda: VUNet.parts(64, 5, 1), "box_factor must be 0 to 4"),
        (lambda: VUNet.parts(64, 1, 0), "bottleneck_factor must be >= 1, got 0"),
        (lambda: VUNet.image(100), "image_size must be 1 times a power of two, got 100"),
        (lambda: VUNet.image(2), "image_size must be >= 4, got 2"),
        (lambda: small("image")[0](torch.zeros(1, 3, 32, 32)), "mode 'train' needs an appearance"),
        (
            lambda: small("image")[0](torch.zeros(1, 3, 32, 32), mode="x"),
            "mode must be one of train, transfer, sample, got 'x'",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["parts", "image"])
def test_a_training_step_compiles_as_one_graph(form):
    """Forward and backward pass are traced ahead of time without a graph break.

    In float64, since in float32 the order of sums alone changes a gradient by 1e-3 of itself. Code
    generation is left to torch's own tests.
    """
    net, pose, appearance = (part.double() for part in small(form))
    noise = Noise(*(tuple(draw.double() for draw in drawn) for drawn in net.noise(2)))

    def gradients(forward):
        out = forward(pose, appearance, "train", noise)
        loss = out.image.square().mean() + kl_unit_gaussians(out.posterior, out.prior).mean()
        return torch.autograd.grad(loss, list(net.parameters()))

    eager = gradients(net)
    compiled = gradients(torch.compile(net, backend="aot_eager", fullgraph=True))
    for gradient, expected in zip(compiled, eager, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-10)


def test_a_narrow_network_computes_the_middle_with_the_weights_of_a_square_one():
    torch.manual_seed(0)
    square = VUNet.parts(32, 1, 2, 8, 16)
    narrow = VUNet.parts(32, 1, 2, 8, 16, image_width=16)
    narrow.load_state_dict(square.state_dict())
    assert narrow.latent_shapes == [(16, 4, 2), (16, 8, 4)]
    pose, crops = torch.randn(2, 3, 32, 32), torch.randn(2, 24, 16, 8)
    image = narrow(pose, crops, "transfer").image
    assert image.shape == (2, 3, 32, 32)
    assert (image[..., :8] == -1).all() and (image[..., 24:] == -1).all()
    middle = square.decoder(square.pose(pose[..., 8:24]), square.encode(crops)[0], sample=False)[0]
    torch.testing.assert_close(image[..., 8:24], middle)
    assert narrow(pose, mode="sample").image.shape == (2, 3, 32, 32)
    assert narrow(pose, crops, "train").image.shape == (2, 3, 32, 32)


@pytest.mark.parametrize("width", [0, 8, 24, 48])
def test_a_narrow_network_needs_whole_cells_of_its_prior(width):
    with pytest.raises(ValueError, match="image_width must be a multiple of 16 up to image_size"):
        VUNet.parts(32, 1, 2, 8, 16, image_width=width)
