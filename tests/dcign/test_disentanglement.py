"""Disentanglement scores of codes whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch

from nets.dcign import disentanglement as scores

OWNERS = {"a": slice(0, 1), "b": slice(1, 2)}


def factors(n: int = 400) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"a": torch.rand(n) * 2 - 1, "b": torch.rand(n) * 2 - 1}


def test_dci_of_a_perfect_a_mixed_and_a_dead_code():
    f = factors()
    perfect = scores.dci(scores.importance(torch.stack([f["b"] * 3, f["a"]], 1), f))
    assert perfect["disentanglement"] > 0.98 and perfect["completeness"] > 0.98
    turned = torch.stack([f["a"] + f["b"], f["a"] - f["b"]], 1)
    mixed = scores.dci(scores.importance(turned, f))
    assert mixed["disentanglement"] < 0.02 and mixed["completeness"] < 0.02
    assert scores.dci(scores.importance(torch.zeros(400, 2), f)) == {
        "disentanglement": 0.0,
        "completeness": 0.0,
    }
    assert scores.dci(torch.tensor([[3.0, 0], [0, 1], [0, 1]]).double()) == pytest.approx(
        {"disentanglement": 1.0, "completeness": (1 + 1 - math.log(2) / math.log(3)) / 2}
    )


def test_information_and_gaps():
    same = torch.arange(200) % 4
    assert scores.mutual_information(same, same) == pytest.approx((math.log(4),) * 2)
    other = torch.arange(200) // 4 % 5
    assert scores.mutual_information(same, other)[0] == pytest.approx(0, abs=1e-9)
    f = factors(4000)
    ids = {"a": f["a"], "b": (f["b"] * 5 + 5).long()}  # numbers, and classes
    code = torch.stack([f["a"], f["b"].cos(), f["b"], torch.randn(4000)], 1)
    table = scores.information_table(code, ids)
    assert table[0, 0] == pytest.approx(1) and table[2, 1] > 0.85 and table[3].max() < 0.05
    gaps = scores.gaps(table, OWNERS)
    assert gaps["a"] > 0.9 and gaps["a_own"] == pytest.approx(gaps["a"])
    assert gaps["b_own"] < -0.3  # the third latent scores higher than the own one, the second
    linear = scores.explained_table(code, ids)
    assert linear[0, 0] == pytest.approx(1) and linear[2, 1] > 0.95 and linear[1, 1] > 0.5
    assert linear[3].max() < 0.05 and linear[1, 0] < 0.01


def three_factors() -> dict[str, torch.Tensor]:
    """4000 images: two numbers, and persons of class numbers that do not begin at 0."""
    return {**factors(4000), "person": torch.arange(4000) % 10 + 70}


def as_columns(known: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(
        [(v.float() - v.float().mean()) / v.float().std() for v in known.values()], 1
    )


def test_images_of_a_set_share_the_class_of_its_factor():
    known = three_factors()
    rows, factor = scores.sharing(known, 50, 8, seed=1)
    first, second, of_pair = scores.sharing_pairs(known, 50, 8, seed=1)
    assert factor.unique().tolist() == of_pair.unique().tolist() == [0, 1, 2]
    for k, values in enumerate(known.values()):
        numbers = scores.classes(values)
        of_sets = numbers[rows[factor == k]]
        assert (of_sets == of_sets[:, :1]).all() and of_sets[:, 0].unique().numel() > 3
        a, b = numbers[first[of_pair == k]], numbers[second[of_pair == k]]
        assert (a == b).all() and (a != a[:, :1]).any()  # each pair has a class of its own
        others = numbers[rows[factor != k]]
        assert (others != others[:, :1]).any(1).all()


def test_one_latent_a_factor_is_named_and_noise_is_not():
    known = three_factors()
    code = as_columns(known)
    assert scores.factor_vae_score(code, known) > 0.99
    assert scores.beta_vae_score(code, known) > 0.99
    noise = torch.randn(4000, 5)
    for score in (scores.factor_vae_score, scores.beta_vae_score):
        assert score(noise, known) == pytest.approx(1 / 3, abs=0.08)  # chance; 800 sets
    assert scores.factor_vae_score(code.roll(1, 1) * 7 + 3, known) > 0.99  # order and scale


def test_a_factor_without_latent_costs_a_third_but_not_in_the_beta_vae_score():
    """The case for which Kim and Mnih (2018, section 4) proposed their score."""
    known = three_factors()
    code = as_columns(known)[:, :2]
    assert scores.beta_vae_score(code, known) > 0.99  # neither difference is small: the third
    assert scores.factor_vae_score(code, known) == pytest.approx(2 / 3, abs=0.04)


def test_a_turned_code_loses_the_vote_of_least_variance():
    known = three_factors()
    code = as_columns(known)
    turned = torch.stack([code[:, 0] + code[:, 1], code[:, 0] - code[:, 1], code[:, 2]], 1)
    # The two turned latents cannot tell their factors apart; the third is right.
    assert scores.factor_vae_score(turned, known) == pytest.approx(2 / 3, abs=0.06)


def test_collapsed_latents_do_not_vote():
    known = three_factors()
    code = as_columns(known)
    collapsed = torch.randn(4000, 4) * 0.1  # variance 0.01
    assert scores.factor_vae_score(torch.cat([collapsed, code], 1), known) > 0.99
    assert scores.factor_vae_score(collapsed, known) == 0
