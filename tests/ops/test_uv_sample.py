"""Offsets are (x, y) in [-1, 1] with pixel i of n at -1 + (2 i + 1) / n; NaN reads the padding."""

import pytest
import torch
from torch.nn.functional import grid_sample

from nets.ops import uv_sample
from nets.ops.uv import uv_sample_backward_reference, uv_sample_reference


def inputs(n=3, m=3, c=3, size=(11, 13), texture=(17, 9), dtype=torch.float32, device="cpu"):
    g = torch.Generator().manual_seed(n + c)

    def rand(*shape):
        return torch.rand(*shape, generator=g, dtype=torch.double).to(dtype).to(device)

    delta = rand(n, 2, *size) * 2 - 1
    return rand(m, c, *texture), delta, rand(n, c, *size), rand(n, 1, *size)


def composite(texture, delta, low_frequency, mask, padding="zeros", background=-1.0):
    """The same with grid_sample, one image for each texture."""
    h, w = delta.shape[2:]
    x = -1 + (2 * torch.arange(w, device=delta.device, dtype=delta.dtype) + 1) / w
    y = -1 + (2 * torch.arange(h, device=delta.device, dtype=delta.dtype) + 1) / h
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1) + delta.permute(0, 2, 3, 1)
    value = grid_sample(texture, grid, mode="bilinear", padding_mode=padding, align_corners=False)
    return (value + low_frequency) * mask + background * (1 - mask)


def test_no_offset_returns_the_texture_itself(device):
    texture = torch.rand(2, 3, 37, 41, device=device)
    assert torch.equal(uv_sample(texture, torch.zeros(2, 2, 37, 41, device=device)), texture)


def test_an_offset_of_one_pixel_shifts_by_one_pixel(device):
    texture = torch.arange(16.0, device=device).view(1, 1, 4, 4)
    delta = torch.zeros(1, 2, 4, 4, device=device)
    delta[:, 0] = 2 / 4  # x, to the right
    assert uv_sample(texture, delta)[0, 0, 1].tolist() == [5.0, 6.0, 7.0, 0.0]
    assert uv_sample(texture, delta, padding="border")[0, 0, 1].tolist() == [5.0, 6.0, 7.0, 7.0]


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_is_grid_sample(device, padding):
    tensors = [t.requires_grad_() for t in inputs(dtype=torch.double, device=device)]
    mine = uv_sample(*tensors, padding=padding, background=0.25)
    theirs = composite(*tensors, padding=padding, background=0.25)
    torch.testing.assert_close(mine, theirs, atol=1e-13, rtol=0)
    grad = torch.rand_like(mine)
    for a, b in zip(
        torch.autograd.grad(mine, tensors, grad),
        torch.autograd.grad(theirs, tensors, grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_is_as_exact_as_the_composite(device, dtype):
    tensors = inputs(size=(64, 64), texture=(64, 64), dtype=dtype, device=device)
    exact = composite(*(t.double() for t in tensors))
    plain = (composite(*(t.float() for t in tensors)).to(dtype) - exact).abs().max()
    mine = uv_sample(*tensors)
    assert mine.dtype == dtype
    assert (mine - exact).abs().max() <= 2 * plain


def test_layers_are_optional(device):
    texture, delta, low, mask = inputs(device=device)
    value = uv_sample(texture, delta)
    torch.testing.assert_close(uv_sample(texture, delta, low), value + low)
    torch.testing.assert_close(uv_sample(texture, delta, None, mask), value * mask - (1 - mask))
    torch.testing.assert_close(
        uv_sample(texture, delta, low, mask, background=0), (value + low) * mask
    )


def test_no_texture_gives_no_image(device):
    texture, delta, low = (torch.zeros(0, c, 5, 5, device=device) for c in (3, 2, 3))
    assert uv_sample(texture, delta, low).shape == (0, 3, 5, 5)
    arguments = (texture, delta, low, None, -1.0, 0)
    assert uv_sample_reference(*arguments).shape == (0, 3, 5, 5)
    grads = uv_sample_backward_reference(torch.zeros_like(low), *arguments)
    assert [list(g.shape) for g in grads] == [[0, 3, 5, 5], [0, 2, 5, 5], [0, 3, 5, 5], [0]]


def test_images_in_a_row_share_a_texture(device):
    texture, *rest = inputs(n=6, m=2, c=5, dtype=torch.double, device=device)
    shared = texture.clone().requires_grad_()
    repeated = texture.repeat_interleave(3, 0).requires_grad_()
    a, b = uv_sample(shared, *rest), uv_sample(repeated, *rest)
    assert torch.equal(a, b)
    grad = torch.rand_like(a)
    a.backward(grad)
    b.backward(grad)
    torch.testing.assert_close(shared.grad, repeated.grad.view(2, 3, 5, 17, 9).sum(1))


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38, -3e38])
def test_no_offset_reads_outside(device, padding, value):
    texture = torch.rand(1, 5, 4, 6, device=device) + 1
    delta = torch.zeros(1, 2, 9, 5, device=device)
    delta[0, 0, 2:], delta[0, 1, :, 3:] = value, -value
    texture.requires_grad_(), delta.requires_grad_()
    out = uv_sample(texture, delta, padding=padding)
    bad = delta.detach().ne(0).any(1, keepdim=True).expand_as(out)
    if padding == "zeros":
        assert (out[bad] == 0).all()
    else:
        assert (out[bad] >= 1).all() and (out[bad] <= 2).all()
    torch.testing.assert_close(
        out.detach(),
        uv_sample_reference(texture.detach(), delta.detach(), None, None, -1, padding == "border"),
    )
    out.sum().backward()
    assert texture.grad.isfinite().all()
    assert (delta.grad[delta.detach() != 0] == 0).all()  # no gradient outside


@pytest.mark.parametrize("given", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("padding", [0, 1])
def test_backward_equals_the_reference(device, given, padding):
    tensors = inputs(n=4, m=2, c=6, device=device)
    low, mask = (t if g else None for t, g in zip(tensors[2:], given, strict=True))
    arguments = torch.rand_like(tensors[2]), *tensors[:2], low, mask, -1.0, padding
    for a, b in zip(
        torch.ops.guise.uv_sample_backward(*arguments),
        uv_sample_backward_reference(*arguments),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(texture=torch.zeros(2, 3, 8, 8).int()), "texture must be a floating tensor"),
        (dict(texture=torch.zeros(3, 3, 8, 8)), "N a multiple of the 3 textures, got .4, 2, 5, 6."),
        (dict(texture=torch.zeros(0, 3, 8, 8)), "N a multiple of the 0 textures"),
        (dict(delta=torch.zeros(4, 3, 5, 6)), r"delta must be \[N, 2, H, W\]"),
        (dict(delta=torch.zeros(4, 2, 5)), r"delta must be \[N, C, H, W\], got \[4, 2, 5\]"),
        (dict(delta=torch.zeros(4, 2, 5, 6, device="meta")), "delta must be on cpu, got meta"),
        (dict(low_frequency=torch.zeros(4, 3, 6, 5)), r"low_frequency must be \[4, 3, 5, 6\]"),
        (dict(mask=torch.zeros(4, 3, 5, 6)), r"mask must be \[4, 1, 5, 6\], got \[4, 3, 5, 6\]"),
        (dict(mask=torch.zeros(4, 1, 5, 6).bool()), "mask must be a floating tensor"),
        (dict(padding="reflection"), "padding must be one of zeros, border, got 'reflection'"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = dict(texture=torch.zeros(2, 3, 8, 8), delta=torch.zeros(4, 2, 5, 6))
    with pytest.raises((TypeError, ValueError), match="uv_sample: .*" + message):
        uv_sample(**{**arguments, **change})
