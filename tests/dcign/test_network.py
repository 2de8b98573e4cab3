"""DC-IGN's network, losses and optimiser against the published definitions."""

import math

import pytest
import torch
import torch.nn.functional as F

from nets.dcign import DCIGN, RMSprop, bernoulli, gaussian, kl_divergence, lower_bound
from nets.dcign.network import UpConv, threshold


@pytest.mark.parametrize("latents, count", [(200, 4_131_137), (120, 2_834_977)])
def test_published_parameter_counts(latents, count):
    with torch.device("meta"):
        net = DCIGN(latents)
    assert sum(p.numel() for p in net.parameters()) == count


def test_published_sides_at_every_stage():
    net = DCIGN(6, 8)
    sides = []
    for layer in [*net.encoder, *net.decoder]:
        layer.register_forward_hook(lambda _, __, y: sides.append(tuple(y.shape[1:])))
    out, mu, log_variance = net(torch.rand(2, 1, 150, 150))
    assert sides[:3] == [(8, 146, 146), (4, 69, 69), (2, 30, 30)]
    assert sides[3:] == [(4, 24, 24), (8, 42, 42), (8, 78, 78), (1, 150, 150)]
    assert net.mu.in_features == net.expand.out_features == 2 * 15 * 15
    assert mu.shape == log_variance.shape == (2, 6)
    assert out.shape == (2, 1, 150, 150) and out.min() > 0 and out.max() < 1


@pytest.mark.parametrize("size", [48, 64, 160])
def test_other_sides_close(size):
    net = DCIGN(4, 4, size)
    assert net(torch.rand(2, 1, size, size))[0].shape == (2, 1, size, size)


def test_flat_order_is_the_published_one():
    """Weight, bias of the convolutions, mu, log variance, decoder's linear layer, convolutions."""
    with torch.device("meta"):
        shapes = [tuple(p.shape) for p in DCIGN().parameters()]
    assert shapes[:8:2] == [(96, 1, 5, 5), (48, 96, 5, 5), (24, 48, 5, 5), (200, 5400)]
    assert shapes[8::2] == [(200, 5400), (5400, 200), (48, 24, 7, 7), (96, 48, 7, 7),
                            (96, 96, 7, 7), (1, 96, 7, 7)]  # fmt: skip
    ends = torch.tensor([math.prod(s) for s in shapes]).cumsum(0).tolist()
    assert ends[5] == 146_568 and ends[7] == 1_226_768 and ends[11] == 3_392_368
    assert ends[-1] == 4_131_137 and ends[-2] == 4_131_136


def test_initial_statistics():
    torch.manual_seed(0)
    net = DCIGN(50, 32)
    for layer in (net.mu, net.log_variance, net.expand):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert layer.weight.mean().abs() < 1e-4 and layer.bias.std() < 0.02
    for layer in [*net.encoder, *net.decoder]:
        bound = 1 / math.sqrt(layer.weight[0].numel())
        assert layer.weight.abs().max() <= bound and layer.bias.abs().max() <= bound
        if layer.weight.numel() > 1000:
            assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    # sigma starts near 1
    assert net.encode(torch.rand(4, 1, 150, 150))[1].abs().max() < 0.5


def test_threshold():
    x = torch.tensor([0.0, -1.0, 2e-6, 3.0], requires_grad=True)
    y = threshold(x)
    assert torch.equal(y, torch.tensor([1e-6, 1e-6, 2e-6, 3.0]))
    y.sum().backward()
    assert x.grad.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("shape", [(2, 3, 5, 6), (1, 4, 4, 4), (3, 1, 15, 9)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_up_convolution_equals_enlarging_then_convolving(shape, padding, layout):
    torch.manual_seed(0)
    layer = UpConv(shape[1], 5, padding).double().to(memory_format=layout)
    x = torch.randn(shape, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    enlarged = F.interpolate(x, scale_factor=2, mode="nearest")
    expected = F.conv2d(enlarged, layer.weight, layer.bias, padding=padding)
    weight = torch.randn_like(expected)
    inputs = (x, layer.weight, layer.bias)
    gradients = torch.autograd.grad((expected * weight).sum(), inputs)
    out = layer(x)
    torch.testing.assert_close(out, expected)  # the same up to the order of float64 sums
    torch.testing.assert_close(torch.autograd.grad((out * weight).sum(), inputs), gradients)


def test_bf16_gives_nearly_the_same_code_and_image():
    torch.manual_seed(0)
    net, image = DCIGN(8, 8), torch.rand(3, 1, 150, 150)
    exact, mu, _ = net(image)
    with torch.autocast("cpu", torch.bfloat16):
        close, mu_close, _ = net(image)
    assert close.dtype == mu_close.dtype == torch.float32
    assert (close - exact).abs().max() < 0.01 and (mu - mu_close).abs().max() < 0.01


def test_sampling_gradients():
    net = DCIGN(3, 4)
    mu, s = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    noise = torch.randn(2, 3)
    net.sample(mu, s, noise).sum().backward()
    assert torch.equal(mu.grad, torch.ones(2, 3))
    torch.testing.assert_close(s.grad, 0.5 * torch.exp(0.5 * s.detach()) * noise)


def test_bernoulli_against_the_published_formula():
    torch.manual_seed(0)
    x, logits = torch.rand(2, 1, 4, 4), torch.randn(2, 1, 4, 4, requires_grad=True)
    y = torch.sigmoid(logits.detach()).requires_grad_()
    e = 1e-12
    published = -(x * torch.log(y + e) + (1 - x) * torch.log(1 - y + e)).sum()
    value = bernoulli(logits, x)
    torch.testing.assert_close(value, published)
    value.backward()
    at_y = -(x - y) / ((1 - y + e) * (y + e))
    torch.testing.assert_close(logits.grad, (at_y * y * (1 - y)).detach())


def test_kl_divergence_is_minus_the_published_kld():
    m, s = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    value = kl_divergence(m, s)
    torch.testing.assert_close(-value, 0.5 * (1 + s - m**2 - s.exp()).sum())
    value.backward()
    torch.testing.assert_close(m.grad, m.detach())
    torch.testing.assert_close(s.grad, 0.5 * (s.exp() - 1).detach())
    assert kl_divergence(torch.zeros(2, 3), torch.zeros(2, 3)) == 0
    assert lower_bound(torch.tensor(3.0), torch.tensor(2.0)) == -5


def test_gaussian_against_the_published_formula():
    parameters = torch.randn(2, 2, 3, 3, requires_grad=True)
    x = torch.rand(2, 1, 3, 3)
    mean, v = parameters.detach().split(1, 1)
    value = gaussian(parameters, x)
    published = (-0.5 * (v + math.log(2 * math.pi)) - 0.5 * (x - mean) ** 2 * torch.exp(-v)).sum()
    torch.testing.assert_close(value, -published)
    value.backward()
    to_mean = (x - mean) * torch.exp(-v)
    to_variance = 0.5 * (x - mean) ** 2 * torch.exp(-v) - 0.5
    torch.testing.assert_close(parameters.grad, -torch.cat([to_mean, to_variance], 1))
    flat = torch.stack([x[:, 0], torch.full_like(x[:, 0], -50.0)], 1)
    assert gaussian(flat, x).isfinite() and gaussian(flat, x) / x.numel() > -5


def test_gaussian_network_has_two_maps_and_gives_an_image():
    net = DCIGN(3, 4, 48, "gaussian")
    assert net.decode_parameters(torch.randn(2, 3)).shape == (2, 2, 48, 48)
    assert net.decode(torch.randn(2, 3)).shape == (2, 1, 48, 48)


def test_three_steps_of_the_published_optimiser():
    """Ascent of the bound with rate -0.0005 is descent of the loss with rate 0.0005."""
    torch.manual_seed(0)
    ours = torch.randn(7, requires_grad=True)
    x, m, v = ours.detach().double(), torch.zeros(7).double(), torch.zeros(7).double()
    optimizer = RMSprop([ours], lr=5e-4)
    for t in range(1, 4):
        grad = torch.randn(7)
        ours.grad = grad
        optimizer.step()
        g = -grad.double()  # of the bound
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        gamma = math.sqrt(1 - 0.99**t) / (1 - 0.9**t)
        x = x - (-5e-4) * gamma * m / (v + 1e-8).sqrt()
        torch.testing.assert_close(ours.detach().double(), x, rtol=1e-6, atol=1e-7)


def test_optimiser_goes_on_from_its_state():
    def steps(optimizer, p, first, last):
        for t in range(first, last):
            p.grad = torch.full((3,), float(t + 1))
            optimizer.step()

    a, b = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    one, two = RMSprop([a]), RMSprop([b])
    steps(one, a, 0, 4)
    steps(two, b, 0, 2)
    c = b.detach().clone().requires_grad_()
    three = RMSprop([c])
    three.load_state_dict(two.state_dict())
    steps(three, c, 2, 4)
    assert torch.equal(a, c)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: DCIGN(8, 6), "maps must be a multiple of 4, got 6"),
        (lambda: DCIGN(0), "latents must be 1 or more"),
        (lambda: DCIGN(8, 4, 100), "image_size must be 150, or a multiple of 16 from 48, got 100"),
        (lambda: DCIGN(8, 4, 150, "poisson"), "likelihood"),
        (lambda: DCIGN(8, 4).encode(torch.rand(1, 3, 150, 150)), "image must be"),
        (lambda: DCIGN(8, 4).decode(torch.rand(1, 9)), r"z must be \[N, 8\], got \[1, 9\]"),
        (lambda: RMSprop([torch.ones(1)], lr=-1), "lr must be 0 or more"),
        (lambda: RMSprop([torch.ones(1)], update_decay=0), "update_decay"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_overfits_one_batch():
    torch.manual_seed(0)
    net = DCIGN(8, 16, 48)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 48), indexing="ij")
    image = torch.stack([((x - c) ** 2 + y**2 < 0.3).float() for c in (-0.5, 0.0, 0.5, 0.9)])
    image = image[:, None]
    optimizer = RMSprop(net.parameters(), lr=2e-3)
    for _ in range(400):
        mu, s = net.encode(image)
        z = net.sample(mu, s, torch.randn_like(mu))
        loss = bernoulli(net.decode_parameters(z), image) + kl_divergence(mu, s)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    error = (net(image)[0] - image).square().mean()
    assert error < 0.2 * image.var(0, unbiased=False).mean()  # the error of the mean image
