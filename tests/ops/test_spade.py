"""SPADE modulation against its reference, gradients too."""

import types

import pytest
import torch
import torch.nn.functional as F

from nets.ops import SpadeLayers, spade, spade_modulate, spade_modulate_conv1x1
from nets.ops.spade import spade_modulate_conv1x1_reference, spade_modulate_reference


def drawn(*shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


def agree(got, expected, inputs, rtol=1e-7, atol=1e-7):
    """Values, and gradients of a weighted sum."""
    torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)
    weight = torch.randn(got.shape, dtype=got.dtype, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad((got * weight).sum(), inputs)
    theirs = torch.autograd.grad((expected * weight).sum(), inputs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def layers(maps, hidden, outputs, dtype=torch.float64):
    half = (outputs + 1) // 2
    last = [(n, *rest) for n in (half, outputs - half) for rest in ((hidden, 3, 3), ())]
    return SpadeLayers(*drawn((hidden, maps, 3, 3), (hidden,), *last, dtype=dtype))


def test_the_reference_by_hand():
    """Filters with a centre only: each pixel is computed by itself."""
    x, maps = (torch.tensor(t).view(1, 1, 1, 2) for t in ([3.0, -5.0], [2.0, -2.0]))
    first, scale, shift = torch.zeros(3, 1, 1, 3, 3)
    first[..., 1, 1], scale[..., 1, 1], shift[..., 1, 1] = 1, 10, 100
    biases = (torch.tensor([value]) for value in (0.5, 1.0, 7.0))
    filters = (first, scale, shift)
    parameters = SpadeLayers(*(t for pair in zip(filters, biases, strict=True) for t in pair))
    # The hidden layer is 2.5 and 0, the scale 26 and 1, the shift 257 and 7.
    y = spade_modulate_reference(x, maps, parameters, 0.2)
    torch.testing.assert_close(y.flatten(), torch.tensor([3 * 27 + 257, 0.2 * (-5 * 2 + 7)]))
    y = spade_modulate_conv1x1_reference(x, maps, parameters, torch.full((1, 1, 1, 1), 2.0))
    torch.testing.assert_close(y.flatten(), torch.tensor([2 * 3 * 27 + 257.0, 2 * -5 * 2 + 7.0]))


@pytest.mark.parametrize("padded", [False, True])
def test_modulation(padded):
    x, maps = drawn((2, 4, 6, 6), (2, 3, 6, 6))
    parameters = layers(3, 5, 8)
    expected = spade_modulate_reference(x, maps, parameters, 0.2)
    given = F.pad(maps, (0, 0, 0, 0, 0, 2)) if padded else maps
    agree(spade_modulate(x, given, parameters, 0.2), expected, [x, maps, *parameters])


def test_modulation_through_a_1x1_convolution():
    x, maps, weight = drawn((2, 4, 6, 6), (2, 3, 6, 6), (3, 4, 1, 1))
    parameters = layers(3, 5, 7)
    expected = spade_modulate_conv1x1_reference(x, maps, parameters, weight)
    agree(
        spade_modulate_conv1x1(x, maps, parameters, weight),
        expected,
        [x, maps, weight, *parameters],
    )


def test_modulation_of_a_few_images_at_once(monkeypatch):
    monkeypatch.setattr(spade, "PIXELS", 200)
    for inputs in [(5, 4, 6, 6), (3, 4, 12, 12)]:  # two at once, and larger than the limit
        x, maps = drawn(inputs, (inputs[0], 3, *inputs[2:]))
        parameters = layers(3, 5, 8)
        got = spade_modulate(x, maps, parameters, 0.2)
        ours = torch.autograd.grad(got.square().sum(), [x, maps, *parameters])
        monkeypatch.setattr(spade, "PIXELS", 1 << 14)
        expected = spade_modulate(x, maps, parameters, 0.2)
        theirs = torch.autograd.grad(expected.square().sum(), [x, maps, *parameters])
        monkeypatch.setattr(spade, "PIXELS", 200)
        torch.testing.assert_close([got, *ours], [expected, *theirs])


@pytest.mark.parametrize("through", [False, True])
def test_a_hidden_layer_that_is_kept_changes_nothing(monkeypatch, through):
    monkeypatch.setattr(spade, "PIXELS", 1024)
    x, maps, weight = drawn((3, 16, 32, 32), (3, 32, 32, 32), (16, 16, 1, 1), dtype=torch.float32)
    x, maps, weight = (t.detach().bfloat16().requires_grad_() for t in (x, maps, weight))
    parameters, results = layers(32, 16, 32, torch.float32), []
    for recompute in (False, True):
        if through:
            last = spade_modulate_conv1x1(x, maps, parameters, weight, recompute)
        else:
            last = spade_modulate(x, maps, parameters, 0.2, recompute)
        inputs = [x, maps, *parameters, *([weight] if through else [])]
        results.append([last, *torch.autograd.grad(last.float().square().sum(), inputs)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert results[0][1].abs().sum() > 0


@pytest.mark.parametrize(
    "device, dtype, recomputes",
    [
        ("cpu", torch.float32, True),
        ("cpu", torch.bfloat16, False),
        ("cuda", torch.bfloat16, False),
        ("cuda", torch.float32, False),
        ("small cuda", torch.float32, True),
    ],
)
def test_the_hidden_layer_is_kept_where_memory_is_there(monkeypatch, device, dtype, recomputes):
    """4 x 128 x 64 x 64 numbers are 8 MB in float32, and a GPU keeps 1/64 of its memory at most."""
    memory = 1 << (28 if device.startswith("small") else 30)
    properties = types.SimpleNamespace(total_memory=memory)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    maps = types.SimpleNamespace(
        dtype=dtype, device=types.SimpleNamespace(type=device.split()[-1]), shape=(4, 3, 64, 64)
    )
    assert spade._recomputes(maps, 128) is recomputes


def test_modulation_by_the_fast_convolution():
    """float32, multiples of 16 channels, 512 pixels: the sizes that a compiled kernel takes."""
    x, maps = drawn((2, 16, 16, 16), (2, 32, 16, 16), dtype=torch.float32)
    parameters = layers(32, 16, 32, torch.float32)
    with torch.no_grad():
        parameters.scale.mul_(0.1)
        parameters.shift.mul_(0.1)
    expected = spade_modulate_reference(x, maps, parameters, 0.2)
    agree(
        spade_modulate(x, maps, parameters, 0.2),
        expected,
        [x, maps, *parameters],
        rtol=1e-3,
        atol=2e-2,
    )


@pytest.mark.parametrize("through", [False, True])
def test_a_second_derivative_is_refused(through):
    x, maps, weight = drawn((2, 4, 6, 6), (2, 3, 6, 6), (4, 4, 1, 1))
    parameters = layers(3, 5, 8)
    if through:
        y = spade_modulate_conv1x1(x, maps, parameters, weight)
    else:
        y = spade_modulate(x, maps, parameters, 0.2)
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
