"""conv3x3: F.conv2d's result and gradients, from fewer products."""

import importlib

import pytest
import torch
import torch.nn.functional as F

from nets import ops

module = importlib.import_module("nets.ops.conv3x3")  # the package attribute is the function

needs_kernel = pytest.mark.skipif(
    ops.kernel("conv3x3", "cpu") != "compiled", reason="the operators are not compiled"
)
SIZES = [  # N, I, O, H, W
    (2, 16, 32, 16, 16),
    (1, 32, 16, 33, 31),  # odd: the last tiles reach over the edge
    (3, 48, 80, 13, 16),  # widths that fill no whole block of registers
    (1, 16, 16, 1, 512),
    (2, 160, 144, 24, 24),
]


def inputs(n, i, o, h, w, added=True):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, i, h, w, generator=g)
    weight = torch.randn(o, i, 3, 3, generator=g) / (9 * i) ** 0.5
    bias, more = torch.randn(o, generator=g), torch.randn(n, o, h, w, generator=g)
    return [x, weight, bias, more if added else None]


def plain(x, weight, bias, added):
    y = F.conv2d(x, weight, bias, padding=1)
    return y if added is None else added + y


def gradients(function, tensors, grad):
    leaves = [t.clone().requires_grad_() for t in tensors]
    return torch.autograd.grad(function(*leaves), leaves, grad.to(leaves[0].dtype))


@needs_kernel
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_values_and_gradients_are_as_exact_as_those_of_torch(size):
    tensors = inputs(*size)
    exact = plain(*(t.double() for t in tensors))
    got = ops.conv3x3(*tensors)
    assert got.is_contiguous(memory_format=torch.channels_last)
    # Twice torch's error, as for every operator; 1e-6 where torch's error happens to be tiny.
    limit = 2 * (plain(*tensors) - exact).abs().max() + 1e-6
    assert (got - exact).abs().max() <= limit
    grad = torch.randn(exact.shape, generator=torch.Generator().manual_seed(1))
    exact_gradients = gradients(plain, [t.double() for t in tensors], grad)
    torchs, ours = gradients(plain, tensors, grad), gradients(ops.conv3x3, tensors, grad)
    for mine, theirs, want in zip(ours, torchs, exact_gradients, strict=True):
        assert mine.shape == want.shape
        assert (mine - want).abs().max() <= 2 * (theirs - want).abs().max() + 1e-5


@needs_kernel
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_bfloat16_has_at_most_three_times_the_error_of_torch(size):
    """Tiles and filters are rounded after their transforms, which makes their rounding larger."""
    x, weight, bias, added = inputs(*size)
    rounded = [x.bfloat16(), weight, bias, added.bfloat16()]
    exact = [t.double() for t in rounded]
    grad = torch.randn(added.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    got = [ops.conv3x3(*rounded), *gradients(ops.conv3x3, rounded, grad)]
    brain = [t.bfloat16() for t in rounded]
    torchs = [plain(*brain), *gradients(plain, brain, grad)]
    exact_results = [plain(*exact), *gradients(plain, exact, grad)]
    assert [t.dtype for t in got[:4]] == [torch.bfloat16] * 2 + [torch.float32] * 2
    for mine, theirs, want in zip(got, torchs, exact_results, strict=True):
        # Root mean square: a gradient of the weight sums a rounding for each pixel.
        errors = [(t - want).square().mean().sqrt() for t in (mine, theirs)]
        assert errors[0] <= 3 * errors[1] + 1e-6


@needs_kernel
def test_bfloat16_keeps_nan_in_its_tile():
    x, weight, _, _ = inputs(1, 16, 16, 32, 32)
    x[0, 3, 9, 20] = float("nan")
    got = ops.conv3x3(x.bfloat16(), weight).isnan()
    assert got[0, :, 8:11, 19:22].all() and not got[0, :, :6].any() and not got[0, :, 13:].any()


@needs_kernel
def test_hand_computed():
    x, weight = torch.zeros(1, 16, 24, 24), torch.zeros(16, 16, 3, 3)
    x[0, 3, 5, 7], x[0, 3, 0, 0] = 2.0, 1.0
    weight[4, 3] = torch.arange(9.0).view(3, 3)
    got = ops.conv3x3(x, weight, torch.full((16,), 0.5))
    want = torch.full((1, 16, 24, 24), 0.5)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):  # a cross-correlation: the filter appears rotated by 180 degrees
            want[0, 4, 5 - dy, 7 - dx] += 2 * weight[4, 3, dy + 1, dx + 1]
            if dy <= 0 and dx <= 0:
                want[0, 4, -dy, -dx] += weight[4, 3, dy + 1, dx + 1]
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


@needs_kernel
def test_any_layout_and_any_optional_input():
    x, weight, bias, added = inputs(2, 16, 32, 20, 18)
    want = plain(x, weight, bias, added)
    torch.testing.assert_close(
        ops.conv3x3(
            x.transpose(2, 3).contiguous().transpose(2, 3),
            weight.to(memory_format=torch.channels_last),
            bias.repeat_interleave(2)[::2],
            added.expand(1, *added.shape)[0],
        ),
        want,
    )
    torch.testing.assert_close(ops.conv3x3(x, weight), F.conv2d(x, weight, padding=1))
    one = x[:1].expand(2, -1, -1, -1)  # stride 0
    torch.testing.assert_close(ops.conv3x3(one, weight), F.conv2d(one, weight, padding=1))
    grad = torch.ones(()).expand(2, 32, 20, 18)
    for mine, theirs in zip(
        gradients(ops.conv3x3, [x, weight], grad),
        gradients(lambda a, b: F.conv2d(a, b, padding=1), [x, weight], grad),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        lambda x, w, b, a: (x.double(), w.double(), b.double(), a.double()),
        lambda x, w, b, a: (x.bfloat16(), w.bfloat16(), b.bfloat16(), a.bfloat16()),
        lambda x, w, b, a: (x[:, :15], w[:, :15], b, a),
        lambda x, w, b, a: (x[:, :, :8, :8], w, b, a[:, :, :8, :8]),
        lambda x, w, b, a: (x, w[:30], b[:30], a[:, :30]),
        lambda x, w, b, a: (x[:0], w, b, a[:0]),
    ],
    ids=["float64", "bfloat16", "15 channels", "few pixels", "30 outputs", "empty"],
)
def test_what_the_kernel_does_not_serve_goes_to_torch(change, monkeypatch):
    monkeypatch.setattr(module, "_conv", None)
    tensors = change(*inputs(2, 16, 32, 20, 18))
    assert torch.equal(ops.conv3x3(*tensors), plain(*tensors))


def test_autocast_is_followed_and_the_reference_goes_to_torch(monkeypatch):
    tensors = inputs(2, 16, 32, 20, 18, added=False)
    with torch.autocast("cpu", torch.bfloat16):
        got = ops.conv3x3(*tensors)
        few = ops.conv3x3(tensors[0][:, :3], tensors[1][:, :3])  # not served
    assert got.dtype == few.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), plain(*tensors), rtol=0.05, atol=0.05)
    monkeypatch.setattr(module, "kernel", lambda name, device: "reference")
    assert torch.equal(ops.conv3x3(*tensors), plain(*tensors))


def test_wrong_inputs_raise_the_errors_of_torch():
    x, weight, bias, _ = inputs(2, 16, 32, 20, 18)
    with pytest.raises(RuntimeError, match="to have 32 channels"):
        ops.conv3x3(x, weight.transpose(0, 1), bias)
    with pytest.raises(RuntimeError, match="bias"):
        ops.conv3x3(x, weight, bias[:5])


@needs_kernel
def test_opcheck():
    x, weight, bias, added = inputs(2, 16, 16, 17, 18)
    last = dict(memory_format=torch.channels_last)
    arguments = [t.to(**last).requires_grad_() for t in (x, weight)]
    for more in ((bias.requires_grad_(), added.to(**last).requires_grad_()), (None, None)):
        torch.library.opcheck(torch.ops.guise.conv3x3, (*arguments, *more))
    grad = added.detach().to(**last)
    torch.library.opcheck(torch.ops.guise.conv3x3_input_backward, (grad, arguments[1].detach()))
    torch.library.opcheck(torch.ops.guise.conv3x3_weight_backward, (grad, arguments[0].detach()))


@needs_kernel
def test_a_second_derivative_is_refused():
    x, weight, _, _ = inputs(2, 16, 16, 17, 18)
    x.requires_grad_()
    (grad,) = torch.autograd.grad(ops.conv3x3(x, weight).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@needs_kernel
def test_the_number_of_threads_changes_only_rounding():
    x, weight, bias, _ = inputs(4, 32, 32, 40, 40)
    grad = torch.ones(4, 32, 40, 40)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(gradients(ops.conv3x3, [x, weight, bias], grad))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert torch.equal(results[0][0], other[0])
        torch.testing.assert_close(results[0][1:], other[1:], rtol=1e-5, atol=1e-3)


@needs_kernel
def test_a_frozen_weight_leaves_the_bias_its_gradient():
    x, weight, bias, _ = inputs(2, 16, 32, 20, 18)
    grad = torch.randn(2, 32, 20, 18, generator=torch.Generator().manual_seed(1))
    whole = gradients(ops.conv3x3, [x, weight, bias], grad)
    bias = bias.detach().requires_grad_()
    (alone,) = torch.autograd.grad(ops.conv3x3(x, weight.detach(), bias), bias, grad)
    torch.testing.assert_close(alone, whole[2], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(alone, grad.sum((0, 2, 3)), rtol=1e-5, atol=1e-4)


@needs_kernel
def test_the_kernel_takes_other_strides_than_a_tracer_promised():
    x, weight, bias, added = inputs(*SIZES[0])
    assert x.is_contiguous() and weight.is_contiguous()
    exact = plain(x, weight, bias, added)
    torch.testing.assert_close(torch.ops.guise.conv3x3(x, weight, bias, added), exact)
    grad = torch.randn_like(exact)
    want = gradients(lambda x, weight: plain(x, weight, None, None), [x, weight], grad)
    ours = (
        torch.ops.guise.conv3x3_input_backward(grad, weight),
        torch.ops.guise.conv3x3_weight_backward(grad, x)[0],
    )
    torch.testing.assert_close(ours, want, rtol=1e-4, atol=1e-4)
