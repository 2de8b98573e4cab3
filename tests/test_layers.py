"""Convolutions, residual blocks and space-to-depth against hand-computed cases and formulas."""

import pytest
import torch
import torch.nn.functional as F

from nets.layers import depth_to_space
from nets.vunet.layers import (
    Down,
    NormConv2d,
    ResidualBlock,
    Up,
    fold,
    initialise_from_data,
    space_to_depth,
)


def test_space_to_depth_groups_are_the_positions_of_a_cell():
    x = torch.arange(2 * 4 * 4.0).reshape(1, 2, 4, 4)  # channel 1 = channel 0 + 16
    y = space_to_depth(x)
    assert y.shape == (1, 8, 2, 2)
    for group, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        expected = x[:, :, row::2, column::2]
        torch.testing.assert_close(y[:, 2 * group : 2 * group + 2], expected, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(2, 8, 4, 6), (1, 4, 1, 1), (3, 12, 2, 2)], ids=str)
def test_depth_to_space_inverts_it_in_both_layouts(shape):
    x = torch.randn(shape)
    y = depth_to_space(x)
    torch.testing.assert_close(space_to_depth(y), x, rtol=0, atol=0)
    last = depth_to_space(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, y, rtol=0, atol=0)
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(space_to_depth(last), x, rtol=0, atol=0)


def test_weight_normalised_convolution_is_its_formula():
    conv = NormConv2d(3, 5, norm="weight")
    with torch.no_grad():
        conv.gain.uniform_(0.5, 2)
        conv.bias.normal_()
    x = torch.randn(2, 3, 6, 6)
    v = conv.weight / conv.weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    expected = F.conv2d(x, v, padding=1) * conv.gain.view(1, -1, 1, 1) + conv.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize("form", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("kernel", [1, 3])
def test_normalised_weights_and_their_gradients_lie_as_the_parameter_does(form, kernel):
    torch.manual_seed(0)
    conv = NormConv2d(6, 5, kernel, norm="weight").to(memory_format=form)
    with torch.no_grad():
        conv.gain.uniform_(0.5, 2)
    weight, _ = conv.effective()
    length = conv.weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    expected = conv.weight / length * conv.gain.view(-1, 1, 1, 1)
    torch.testing.assert_close(weight, expected)
    grad = torch.randn(weight.shape).contiguous(memory_format=form)
    ours, theirs = (
        torch.autograd.grad(w, [conv.weight, conv.gain], grad, retain_graph=True)
        for w in (weight, expected)
    )
    torch.testing.assert_close(ours, theirs)
    for tensor in (weight, ours[0]):
        assert tensor.is_contiguous(memory_format=form)


def test_affine_weight_norm_is_its_formula_and_starts_as_the_plain_convolution():
    conv = NormConv2d(3, 5, norm="weight_affine")
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1))
    with torch.no_grad():
        conv.gamma.uniform_(0.5, 2)
        conv.beta.normal_()
    plain = F.conv2d(x, conv.weight, conv.bias, padding=1)
    expected = plain * conv.gamma.view(1, -1, 1, 1) + conv.beta.view(1, -1, 1, 1)
    torch.testing.assert_close(conv(x), expected)


def test_same_padding_of_a_downsampling_is_behind():
    x = torch.randn(1, 2, 6, 6)
    same, symmetric = Down(2, 4, "none", "same"), Down(2, 4, "none", "symmetric")
    symmetric.load_state_dict(same.state_dict())
    expected = F.conv2d(F.pad(x, (0, 1, 0, 1)), same.weight, same.bias, stride=2)
    torch.testing.assert_close(same(x), expected)
    assert same(x).shape == symmetric(x).shape == (1, 4, 3, 3)
    assert not torch.allclose(same(x), symmetric(x))


@pytest.mark.parametrize("activation", [True, False])
def test_residual_with_skip_is_its_formula(activation):
    block = ResidualBlock(3, 5, "weight", skip_activation=activation)
    h, skip = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    pre = block.pre(F.elu(skip) if activation else skip)
    expected = h + block.conv(F.elu(torch.cat([h, pre], dim=1)))
    torch.testing.assert_close(block(h, skip), expected)


def test_dropout_only_while_training():
    torch.manual_seed(0)
    block, h = ResidualBlock(4, dropout=0.5), torch.randn(1, 4, 4, 4)
    assert not torch.equal(block(h), block(h))
    block.eval()
    assert torch.equal(block(h), block(h))


@pytest.mark.parametrize("norm", ["weight", "weight_affine"])
def test_folding_keeps_the_function(norm):
    torch.manual_seed(0)
    net = torch.nn.Sequential(NormConv2d(3, 8, norm=norm), Down(8, 8, norm, "same"), Up(8, 4, norm))
    x = torch.randn(2, 3, 8, 8)
    before = net(x)
    fold(net)
    torch.testing.assert_close(net(x), before)
    names = {name.rsplit(".", 1)[-1] for name, _ in net.named_parameters()}
    assert names == {"weight", "bias"}


def test_initialisation_from_data_gives_every_layer_mean_zero_variance_one():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        NormConv2d(3, 8, norm="weight"), Up(8, 4, "weight"), ResidualBlock(4, 0, "weight")
    )
    directions = [p.clone() for n, p in net.named_parameters() if n.endswith("weight")]
    x = torch.randn(8, 3, 16, 16) * 3 + 1
    initialise_from_data(net, lambda: net(x))
    for module in net.modules():
        if isinstance(module, NormConv2d):
            module.register_forward_hook(lambda m, x, y: seen.append(y - sum(x[1:])))
    seen = []
    net(x)
    assert len(seen) == 3
    for y in seen:
        torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(y.shape[1]), atol=1e-4, rtol=0)
        variance = y.var((0, 2, 3), unbiased=False)
        torch.testing.assert_close(variance, torch.ones(y.shape[1]), atol=1e-3, rtol=0)
    after = [p for n, p in net.named_parameters() if n.endswith("weight")]
    assert all(torch.equal(a, b) for a, b in zip(directions, after, strict=True))


def test_initialisation_from_data_gives_a_layer_another_deviation():
    torch.manual_seed(0)
    net = torch.nn.Sequential(NormConv2d(3, 8, norm="weight"), NormConv2d(8, 4, norm="weight"))
    net[0].initial_std = 3.0
    x = torch.randn(8, 3, 16, 16)
    initialise_from_data(net, lambda: net(x))
    first = net[0](x)
    for y, std in ((first, 3.0), (net[1](first), 1.0)):  # the next layer is set on its output
        measured = y.std((0, 2, 3), correction=0)
        torch.testing.assert_close(measured, torch.full_like(measured, std), rtol=1e-3, atol=0)


def test_initialisation_from_data_averages_over_ranks():
    x = torch.randn(8, 3, 8, 8)
    halves, moments = x.chunk(2), []
    whole, split = NormConv2d(3, 4, norm="weight"), NormConv2d(3, 4, norm="weight")
    split.load_state_dict(whole.state_dict())
    initialise_from_data(whole, lambda: whole(x))
    other = NormConv2d(3, 4, norm="weight")
    other.load_state_dict(split.state_dict())
    initialise_from_data(other, lambda: other(halves[1]), lambda m: moments.append(m) or m)
    initialise_from_data(split, lambda: split(halves[0]), lambda m: (m + moments[0]) / 2)
    torch.testing.assert_close(split.gain, whole.gain)
    torch.testing.assert_close(split.bias, whole.bias)


def test_unknown_norm_is_refused():
    with pytest.raises(
        ValueError, match="norm must be one of none, weight, weight_affine, got 'x'"
    ):
        NormConv2d(1, 1, norm="x")
