"""Groups of latents; the clamp, the gradient filter and the invariance signal."""

import pytest
import torch

from nets.dcign import DCIGN, FACES, bernoulli, factor_slice, hold, invariance, kl_divergence
from nets.dcign.code import active_mask, parse_groups

D = 9


def masks():
    for group in FACES:
        yield active_mask(factor_slice(FACES, group.name, D), D)
    yield active_mask(None, D)


def published_clamp(a, active, mode):
    out = a.clone()
    for j in range(D):
        if not active[j]:
            for i in range(len(a)):
                out[i, j] = a[0, j] if mode == "first" else a[:, j].mean()
    return out


def test_the_four_groups():
    slices = [factor_slice(FACES, name, 200) for name in ("azimuth", "elevation", "light", "shape")]
    assert slices == [slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 200)]
    assert [g.set for g in FACES] == ["AZ_VARIED", "EL_VARIED", "LIGHT_AZ_VARIED", "SHAPE_VARIED"]


def test_groups_from_text():
    chairs = parse_groups(["azimuth=2", "rest=rest@CHAIRS"])
    assert factor_slice(chairs, "azimuth", 5) == slice(0, 2)
    assert factor_slice(chairs, "rest", 5) == slice(2, 5)
    assert [g.set for g in chairs] == ["AZ_VARIED", "CHAIRS"]
    for bad in (["azimuth=1"], ["azimuth=0", "a=rest"], ["a=rest", "b=rest"], ["a=1", "a=rest"]):
        with pytest.raises(ValueError, match="groups: "):
            parse_groups(bad)
    with pytest.raises(ValueError, match="3 latents are too few for shape"):
        factor_slice(FACES, "shape", 3)
    with pytest.raises(ValueError, match="must be one of"):
        factor_slice(FACES, "nose", 9)


@pytest.mark.parametrize("mode", ["first", "mean"])
@pytest.mark.parametrize("filtered", [True, False])
def test_clamp_and_filter(mode, filtered):
    torch.manual_seed(0)
    for active in masks():
        a = torch.randn(5, D, requires_grad=True)
        out = hold(a, active, mode, filtered)
        torch.testing.assert_close(
            out, published_clamp(a.detach(), active, mode), rtol=0, atol=1e-6
        )
        g = torch.randn(5, D)
        if out.requires_grad:
            out.backward(g)
        got = torch.zeros_like(a) if a.grad is None else a.grad
        assert torch.equal(got, g * active if filtered else g)


@pytest.mark.parametrize("filtered", [True, False])
def test_clamp_switched_off(filtered):
    a, active = torch.randn(5, D, requires_grad=True), active_mask(slice(1, 2), D)
    out = hold(a, active, "off", filtered)
    assert torch.equal(out, a)
    out.sum().backward()
    assert torch.equal(a.grad, (active if filtered else torch.ones(D)).float().expand(5, D))


def test_invariance_signal():
    torch.manual_seed(0)
    w, active = 0.3, active_mask(slice(1, 2), D)
    for sign, factor in (("repaired", 1.0), ("original", -2.0)):
        a = torch.randn(5, D, requires_grad=True)
        invariance(a, active, w, sign).backward()
        expected = factor * w * (a - a.mean(0)).detach() * ~active
        torch.testing.assert_close(a.grad, expected)
        torch.testing.assert_close(a.grad.sum(0), torch.zeros(D), rtol=0, atol=1e-6)
        stepped = (a - 0.1 * a.grad).detach().var(0)
        before = a.detach().var(0)
        assert torch.equal(stepped[active], before[active])
        assert ((stepped < before) == (sign == "repaired"))[~active].all()


def test_a_step_of_one_type_teaches_its_rows_and_the_whole_decoder():
    torch.manual_seed(0)
    net, image = DCIGN(D, 8), torch.rand(4, 1, 150, 150)
    active = active_mask(slice(0, 1), D)
    a_mu, a_s = net.encode(image)
    mu, s = hold(a_mu, active), hold(a_s, active)
    z = net.sample(mu, s, torch.randn(4, D))
    (bernoulli(net.decode_parameters(z), image) + kl_divergence(mu, s)).backward()
    for head in (net.mu, net.log_variance):
        assert (head.weight.grad[0] != 0).any() and head.bias.grad[0] != 0
        assert (head.weight.grad[1:] == 0).all() and (head.bias.grad[1:] == 0).all()
    for parameter in [*net.expand.parameters(), *net.decoder.parameters()]:
        assert (parameter.grad != 0).any()
    assert (net.expand.weight.grad != 0).any(0).all()  # the columns of every latent


def test_bad_arguments():
    a = torch.randn(2, D)
    with pytest.raises(ValueError, match="clamp must be one of"):
        hold(a, active_mask(None, D), "median")
    with pytest.raises(ValueError, match=r"active must be bool \[9\]"):
        hold(a, active_mask(None, 4))
    with pytest.raises(ValueError, match="sign must be"):
        invariance(a, active_mask(None, D), 1.0, "other")
