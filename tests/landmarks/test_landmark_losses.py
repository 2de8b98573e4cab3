"""Losses of the landmarks system, against values by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from nets.landmarks import (
    MultiscaleDiscriminator,
    discriminator_loss,
    gan_loss,
    generator_gan_loss,
    perceptual_loss,
)
from nets.pretrained import vgg


@pytest.fixture(scope="module")
def net():
    return vgg.load_vgg(source="random", normalise=False)


def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1 for _ in range(2)]


@pytest.mark.parametrize("reduced", [False, True])
def test_perceptual_loss_is_the_weighted_sum_of_five_terms(net, reduced):
    y, t = images()
    weights = [1 / 32, 1 / 16, 1 / 8, 1 / 4] if reduced else [1.0] * 4
    expected, x, z = F.mse_loss(y, t), y, t
    for position, convolution in enumerate(net.convolutions[:10], start=1):
        if position in (3, 5, 9):  # first convolution of a block
            x, z = F.max_pool2d(x, 2), F.max_pool2d(z, 2)
        x, z = F.relu(convolution(x)), F.relu(convolution(z))
        if position in (2, 4, 6, 10):  # relu1_2, 2_2, 3_2, 4_2
            expected = expected + weights[(2, 4, 6, 10).index(position)] * F.mse_loss(x, z)
    torch.testing.assert_close(perceptual_loss(y, t, net, reduced), expected)


def test_normalised_images_are_another_loss(net):
    y, t = images()
    other = vgg.load_vgg(source="random")
    raw = perceptual_loss(y, t, net)
    assert not torch.isclose(perceptual_loss(y, t, other), raw, rtol=1e-2)
    features = other(y, ["relu2_2"])["relu2_2"]
    torch.testing.assert_close(net(other.preprocess(y), ["relu2_2"])["relu2_2"], features)


def test_without_vgg_it_is_the_squared_error_of_pixels():
    y, t = images()
    torch.testing.assert_close(perceptual_loss(y, t), F.mse_loss(y, t))
    torch.testing.assert_close(perceptual_loss(y, t, reduced=True), F.mse_loss(y, t))


def test_masked_pixels_count_as_zero_and_the_prediction_stays():
    y, t = images()
    t[:, :, :4] = 0
    before, y = y.clone(), y.requires_grad_()
    loss = perceptual_loss(y, t, mask=t != 0)
    loss.backward()
    expected = (y[:, :, 4:] - t[:, :, 4:]).square().sum() / t.numel()
    torch.testing.assert_close(loss, expected)
    assert torch.equal(y, before)
    assert not y.grad[:, :, :4].any() and y.grad[:, :, 4:].any()


def test_gan_losses_by_hand():
    """The losses of two scales are added, not averaged."""
    scores = [torch.tensor([[0.0, 2.0]]), torch.tensor([[3.0]])]
    assert gan_loss(scores, True).item() == pytest.approx((1 + 1) / 2 + 4)
    assert gan_loss(scores, False).item() == pytest.approx((0 + 4) / 2 + 9)
    sigmoid = [1 / (1 + math.exp(-s)) for s in (0.0, 2.0, 3.0)]
    real = -(math.log(sigmoid[0]) + math.log(sigmoid[1])) / 2 - math.log(sigmoid[2])
    fake = -(math.log(1 - sigmoid[0]) + math.log(1 - sigmoid[1])) / 2 - math.log(1 - sigmoid[2])
    assert gan_loss(scores, True, lsgan=False).item() == pytest.approx(real, rel=1e-5)
    assert gan_loss(scores, False, lsgan=False).item() == pytest.approx(fake, rel=1e-5)


def test_gan_loss_of_extreme_scores_is_finite():
    for real in (True, False):
        scores = [torch.tensor([-1e4, 1e4], requires_grad=True)]
        loss = gan_loss(scores, real, lsgan=False)
        loss.backward()
        assert loss.isfinite() and scores[0].grad.isfinite().all()


def test_scores_of_one_count_and_two_shapes():
    """Shapes (2, 3) and (1, 6) both work: labels take the shape of the scores."""
    for shape in ((2, 3), (1, 6)):
        assert gan_loss([torch.zeros(shape)], True).item() == 1


@pytest.mark.parametrize("lsgan", [True, False])
def test_discriminator_gets_no_gradient_from_the_generators_loss(lsgan):
    torch.manual_seed(0)
    net = MultiscaleDiscriminator(width=4, layers=2)
    fake, real = images()
    fake.requires_grad_()
    loss = generator_gan_loss(net, fake, lsgan)
    loss.backward()
    torch.testing.assert_close(loss, gan_loss(net(fake), True, lsgan))
    assert fake.grad.abs().max() > 0
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    fake.grad = None
    loss, terms = discriminator_loss(net, fake, real, lsgan)
    loss.backward()
    assert fake.grad is None
    assert all(p.grad is not None for p in net.parameters())
    expected = gan_loss(net(fake), False, lsgan), gan_loss(net(real), True, lsgan)
    torch.testing.assert_close((terms["d_fake"], terms["d_real"]), expected)
    torch.testing.assert_close(loss, sum(expected) / 2)


def test_discriminator_stays_frozen_no_longer_than_a_failing_step():
    net = MultiscaleDiscriminator(width=4, layers=2)
    with pytest.raises(RuntimeError):
        generator_gan_loss(net, torch.zeros(1, 5, 16, 16))
    assert all(p.requires_grad for p in net.parameters())
