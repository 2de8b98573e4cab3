"""Measures of codes with known answers."""

import math

import pytest
import torch

from nets.dcign import metrics as measures


def test_correlations_of_known_series():
    a = torch.tensor([[1.0, 2, 3, 4], [1, 2, 3, 4], [1, 1, 1, 1]])
    b = torch.tensor([[2.0, 4, 6, 8], [8, 6, 4, 2], [1, 2, 3, 4]])
    assert measures.pearson(a, b).tolist() == pytest.approx([1, -1, 0])
    assert measures.ranks(torch.tensor([3.0, 1, 3, 2])).tolist() == [2.5, 0, 2.5, 1]
    x = torch.tensor([0.0, 1, 2, 3, 4])
    assert measures.spearman(x, x.exp()).item() == pytest.approx(1)
    assert measures.pearson(x, x.exp()) < 0.95
    assert measures.within_batch(a[:2], b[:2])["pearson"] == pytest.approx(1)


def test_pooled_correlation_sees_a_jump_at_zero():
    factor = torch.linspace(-1, 1, 200)
    jumping = torch.where(factor < 0, factor + 1, factor - 1)
    correlation = measures.pooled(-jumping, factor)
    assert correlation["pearson"] == pytest.approx(0.5, abs=0.02)
    assert correlation["negative_half"] == pytest.approx(-1) == correlation["positive_half"]


def test_leakage_of_a_perfect_and_of_a_leaking_code():
    torch.manual_seed(0)
    owners = {"light": slice(0, 1), "shape": slice(1, 3)}
    codes = {t: torch.zeros(4, 50, 3) for t in owners}
    codes["light"][..., 0] = torch.randn(4, 50)
    codes["shape"][..., 1:] = torch.randn(4, 50, 2)
    clean = measures.leakage(codes, owners)
    assert clean.active == pytest.approx({"light": 1.0, "shape": 1.0})
    assert clean.own["light"].tolist() == pytest.approx([1.0])
    codes["light"][..., 1] = codes["light"][..., 0]
    leaking = measures.leakage(codes, owners)
    assert leaking.active["light"] == pytest.approx(0.5)
    assert leaking.own["light"].tolist() == pytest.approx([1.0])
    assert leaking.own["shape"].tolist() == pytest.approx([0.5, 1.0], abs=0.1)


def test_a_map_is_fitted_and_evaluated():
    torch.manual_seed(0)
    factor = torch.rand(2000) * 2 - 1
    latent = 3 * factor.abs() + 0.01 * torch.randn(2000)
    latent[::50] = 100  # outliers do not move medians
    latent_map = measures.fit_map(factor, latent[:, None])
    asked = torch.tensor([[-0.8, 0.55], [0.3, 5.0]])
    value = latent_map(asked)[..., 0]
    expected = torch.tensor([[2.4, 1.65], [0.9, 2.85]])  # constant beyond the last bin's mean
    torch.testing.assert_close(value, expected, rtol=0, atol=0.06)
    assert latent_map.factor.diff().min() > 0


def test_a_map_of_one_value():
    latent_map = measures.fit_map(torch.ones(3), torch.tensor([[1.0], [2.0], [3.0]]))
    assert latent_map(torch.tensor([0.0, 1.0])).tolist() == [[2.0], [2.0]]
    with pytest.raises(ValueError, match="latent must have the shape"):
        measures.fit_map(torch.ones(3), torch.ones(2, 1))


def test_a_map_of_a_full_turn_has_no_ends():
    angle = torch.arange(72) * (2 * math.pi / 72) - math.pi  # every 5 degrees
    circle = torch.stack([3 * angle.cos(), 3 * angle.sin()], -1)
    latent_map = measures.fit_map(angle, circle)
    assert latent_map.turns
    asked = torch.tensor([0.0, 3.1, -3.1, 6.2, 40.0])
    expected = torch.stack([3 * asked.cos(), 3 * asked.sin()], -1)
    # Chords between knots 18 degrees apart, and medians of 3 or 4 points of the arc.
    torch.testing.assert_close(latent_map(asked), expected, rtol=0, atol=0.15)
    half = angle[angle < 0]
    assert not measures.fit_map(half, circle[angle < 0]).turns


def test_correlation_of_an_angle_with_several_latents():
    angle = torch.arange(72) * (2 * math.pi / 72)
    circle = torch.stack([angle.cos() + 5, angle.sin() * 2], -1)
    turned = torch.stack([circle[:, 0] + circle[:, 1], circle[:, 0] - circle[:, 1]], -1)
    assert measures.multiple_correlation(circle, angle, True).item() == pytest.approx(1)
    assert measures.multiple_correlation(turned, angle, True).item() == pytest.approx(1)
    half = measures.multiple_correlation(circle[:, :1], angle, True).item()
    assert half == pytest.approx(math.sqrt(0.5))  # the cosine alone: R^2 of 1 and of 0
    torch.manual_seed(0)
    latent, factor = torch.randn(3, 50, 1), torch.randn(3, 50)
    single = measures.multiple_correlation(latent, factor, False)
    torch.testing.assert_close(single, measures.pearson(latent[..., 0], factor).abs())
    assert measures.multiple_correlation(latent, torch.ones(3, 50), False).tolist() == [0, 0, 0]


def test_one_latent_is_set_and_errors_are_per_image():
    code = torch.arange(6.0).view(2, 3)
    latent_map = measures.LatentMap(
        torch.tensor([0.0, 1.0]).double(), torch.tensor([[10.0], [20.0]]).double()
    )
    seen = measures.set_latents(code, slice(1, 2), latent_map(torch.tensor([0.5, 1.0])))
    assert seen.tolist() == [[0, 15, 2], [3, 20, 5]]
    assert code[0, 1] == 1
    a, b = torch.zeros(2, 1, 2, 2), torch.tensor([0.5, 1.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    assert measures.mean_squared_error(a, b).tolist() == [0.25, 1.0]
    with pytest.raises(ValueError, match="truth must be"):
        measures.mean_squared_error(a, b[:1])
