"""elu_cat against the formula: values, gradients, layouts and types."""

import importlib

import pytest
import torch
import torch.nn.functional as F

from nets import ops

module = importlib.import_module("nets.ops.elu_cat")  # the package attribute is the function
needs_kernel = pytest.mark.skipif(
    ops.kernel("elu_cat", "cpu") != "compiled", reason="the operators are not compiled"
)


def tensors(a, b, dtype=torch.float32, last=True, scale=2.0, size=(2, 40, 30)):
    g = torch.Generator().manual_seed(0)
    n, h, w = size
    drawn = [torch.randn(n, c, h, w, generator=g) * scale for c in (a, b)]
    form = torch.channels_last if last else torch.contiguous_format
    return [t.to(dtype).contiguous(memory_format=form).requires_grad_() for t in drawn]


def plain(a, b):
    return F.elu(torch.cat([a, b], dim=1))


@pytest.mark.parametrize("last", [True, False], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("channels", [(16, 16), (5, 19), (8, 0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_values_and_gradients(monkeypatch, dtype, channels, last):
    monkeypatch.setattr(module, "LEAST", 0)
    a, b = tensors(*channels, dtype, last)
    exact = plain(*(t.detach().double().requires_grad_() for t in (a, b)))
    got = ops.elu_cat(a, b)
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    bits = {torch.float32: 24, torch.float64: 53, torch.bfloat16: 8}[dtype]
    # Half a unit in the last place, a whole one for the exponential in float32.
    assert ((got - exact).abs() <= 2.0 ** (1 - bits) * exact.abs() + 1e-300).all()
    grad = torch.randn(got.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    ours = torch.autograd.grad(got, [a, b], grad)
    wide = [t.detach().double().requires_grad_() for t in (a, b)]
    for mine, want in zip(
        ours, torch.autograd.grad(plain(*wide), wide, grad.double()), strict=True
    ):
        assert mine.shape == want.shape and mine.dtype == dtype
        # From the rounded value: e^x = value + 1 has an error of half a unit of 1, then is rounded.
        assert ((mine - want).abs() <= 2.0 ** (1 - bits) * (grad.abs().max() + want.abs())).all()


@needs_kernel
def test_special_values(monkeypatch):
    monkeypatch.setattr(module, "LEAST", 0)
    inf, nan = float("inf"), float("nan")
    values = [0.0, -0.0, -1e-30, -1e-6, -87.0, -90.0, -1e30, -inf, inf, nan, 1e30, 2.5]
    a = torch.tensor(values).view(1, -1, 1, 1)
    got = ops.elu_cat(a, a)[0, : len(values), 0, 0]
    want = F.elu(torch.tensor(values, dtype=torch.double)).float()
    torch.testing.assert_close(got, want, rtol=2e-7, atol=0, equal_nan=True)
    assert torch.equal(ops.elu_cat(a[:, :0], a)[0, :, 0, 0].isnan(), want.isnan())


@pytest.mark.parametrize("last", [True, False], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("least", [0, 1 << 30], ids=["kernel", "torch"])
def test_one_tensor_alone(monkeypatch, least, last):
    monkeypatch.setattr(module, "LEAST", least)
    a, _ = tensors(6, 10, last=last)
    got, want = ops.elu_cat(a), F.elu(a)
    torch.testing.assert_close(got, want)
    assert got.stride() == a.stride()
    grad = torch.randn_like(got)
    ours, theirs = (torch.autograd.grad(y, a, grad)[0] for y in (got, want))
    torch.testing.assert_close(ours, theirs)
    assert ours.stride() == a.stride()


def test_layouts_that_differ_and_views(monkeypatch):
    monkeypatch.setattr(module, "LEAST", 0)
    a, b = tensors(6, 10)
    plainly = b.detach().contiguous()
    torch.testing.assert_close(ops.elu_cat(a, plainly), plain(a, plainly))
    views = [t.detach()[:, ::2, 1:, :-3] for t in (a, b)]
    torch.testing.assert_close(ops.elu_cat(*views), plain(*views))
    one = a.detach()[:1].expand(2, -1, -1, -1)
    torch.testing.assert_close(ops.elu_cat(one, b), plain(one, b))
    empty = a.detach()[:0]
    assert ops.elu_cat(empty, empty).shape == (0, 12, 40, 30)


def test_small_and_half_tensors_go_to_torch(monkeypatch):
    monkeypatch.setattr(module, "_elu_cat", None)
    for a, b in (tensors(6, 10, torch.float16), tensors(2, 3, size=(1, 4, 4))):
        assert torch.equal(ops.elu_cat(a, b), plain(a, b))


def test_errors():
    a, b = tensors(6, 10)
    with pytest.raises(ValueError, match=r"must be \[N, A, H, W\] and .*got \[2, 6, 40, 30\] and"):
        ops.elu_cat(a, b[..., 1:])
    with pytest.raises(ValueError, match=r"got \[6, 40, 30\] and \[10, 40, 30\]"):
        ops.elu_cat(a[0], b[0])
    with pytest.raises(TypeError, match=r"got torch.float32 on cpu and torch.float64 on cpu"):
        ops.elu_cat(a, b.double())


@needs_kernel
def test_opcheck_and_a_second_derivative():
    a, b = tensors(3, 5, torch.float64, size=(1, 3, 4))
    torch.library.opcheck(torch.ops.guise.elu_cat, (a, b, True))
    value = ops.elu_cat(a, b).detach().contiguous(memory_format=torch.channels_last)
    torch.library.opcheck(torch.ops.guise.elu_cat_backward, (value, value, 3, True))
    call = lambda a, b: torch.ops.guise.elu_cat(a, b, True)  # noqa: E731
    torch.autograd.gradcheck(call, (a, b))
    (grad,) = torch.autograd.grad(call(a, b).square().sum(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@needs_kernel
@pytest.mark.parametrize("last", [True, False], ids=["channels_last", "contiguous"])
def test_the_kernel_takes_other_strides_than_a_tracer_promised(last):
    """A convolution's fake kernel may name a layout that its real one does not give."""
    a, b = (t.detach() for t in tensors(6, 10, last=not last))
    value = torch.ops.guise.elu_cat(a, b, last)
    torch.testing.assert_close(value, plain(a, b))
    assert value.is_contiguous(
        memory_format=torch.channels_last if last else torch.contiguous_format
    )
    grad, other = torch.randn_like(plain(a, b)), torch.empty_like(plain(a, b)).copy_(value)
    ours = torch.ops.guise.elu_cat_backward(grad, other, 6, last)
    want = module.elu_cat_backward_reference(grad, value, 6, last)
    torch.testing.assert_close(ours, want)
