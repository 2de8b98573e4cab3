"""heatmap_moments: softmax over a map's pixels, moments in (x, y), pixel i of n at -1 + 2 i / n."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nets import ops


def logits_of(*shape, dtype=torch.float32, device="cpu", scale=3.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=g, dtype=torch.float64)).to(device, dtype)


def formula(logits):
    """The centred definition, pixel by pixel, independent of the code."""
    n, k, h, w = logits.shape
    p = logits.flatten(2).softmax(-1)
    coordinates = [2 * torch.arange(s, dtype=p.dtype, device=p.device) / s - 1 for s in (h, w)]
    y, x = torch.meshgrid(*coordinates, indexing="ij")
    points = torch.stack([x.flatten(), y.flatten()], -1)
    mean = (p[..., None] * points).sum(-2)
    d = points - mean[:, :, None]
    covariance = (p[..., None, None] * d[..., :, None] * d[..., None, :]).sum(2)
    return p.view(n, k, h, w), mean, covariance


def test_by_hand(device):
    logits = torch.full((1, 1, 4, 4), -torch.inf, device=device)
    logits[0, 0, 1, 2], logits[0, 0, 3, 2] = 0.0, torch.log(torch.tensor(3.0))
    map_, mean, covariance = ops.heatmap_moments(logits)
    # A quarter at (0, -0.5), three quarters at (0, 0.5): mean y 0.25, variance 3/16.
    torch.testing.assert_close(map_[0, 0, :, 2].cpu(), torch.tensor([0.0, 0.25, 0.0, 0.75]))
    torch.testing.assert_close(mean[0, 0].cpu(), torch.tensor([0.0, 0.25]))
    want = torch.tensor([[0.0, 0.0], [0.0, 0.1875]])
    torch.testing.assert_close(covariance[0, 0].cpu(), want)


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("size", [(1, 1), (6, 5), (64, 64), (50, 131)], ids=str)
def test_is_as_exact_as_the_plain_formula(scale, size, device):
    logits = logits_of(2, 9, *size, scale=scale, device=device)
    exact = formula(logits.double())
    for ours, plain, true in zip(ops.heatmap_moments(logits), formula(logits), exact, strict=True):
        # 1e-7: one rounding of a coordinate, where the plain error happens to be tiny
        assert (ours - true).abs().max() <= 2 * (plain - true).abs().max() + 1e-7


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(0, 3), k=st.integers(0, 4), h=st.integers(1, 40), w=st.integers(1, 40),
    scale=st.sampled_from([0.0, 1.0, 100.0, 1e30]), seed=st.integers(0, 9),
)  # fmt: skip
def test_any_shape_and_size_of_logits_equals_the_formula(n, k, h, w, scale, seed):
    logits = logits_of(n, k, h, w, dtype=torch.float64, scale=scale, seed=seed)
    for got, want in zip(ops.heatmap_moments(logits), formula(logits), strict=True):
        assert got.shape == want.shape
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-14)


def test_large_logits_and_masked_pixels(device):
    logits = logits_of(1, 3, 8, 8, device=device)
    shifted = ops.heatmap_moments(logits.double() + 1e6)  # exp would overflow at 710
    for a, b in zip(shifted, ops.heatmap_moments(logits.double()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)  # 1e6 costs ten digits
    logits[..., :4] = -torch.inf
    map_, mean, _ = ops.heatmap_moments(logits)
    assert (map_[..., :4] == 0).all()
    assert (mean[..., 0] >= 0).all()  # the right half starts at x = 0


def test_one_pixel_has_no_covariance(device):
    logits = torch.zeros(1, 1, 9, 9, device=device)
    logits[0, 0, 2, 7] = 1000
    _, mean, covariance = ops.heatmap_moments(logits)
    torch.testing.assert_close(mean[0, 0].cpu(), torch.tensor([14 / 9 - 1, 4 / 9 - 1]))
    assert (covariance == 0).all()


@pytest.mark.parametrize("outputs", [(0,), (1,), (2,), (1, 2), (0, 1, 2)], ids=str)
def test_gradients_from_any_of_the_outputs(outputs, device):
    logits = logits_of(1, 2, 4, 5, dtype=torch.float64, scale=1, device=device).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda t: tuple(ops.heatmap_moments(t)[i] for i in outputs), (logits,)
    )


def test_gradients_are_as_exact_as_the_plain_formula(device):
    logits = logits_of(2, 5, 48, 33, device=device).requires_grad_()
    exact_logits = logits.detach().double().requires_grad_()
    exact = formula(exact_logits)
    weights = [torch.randn_like(t) for t in exact]
    (true,) = torch.autograd.grad(exact, exact_logits, weights)
    narrow = [w.float() for w in weights]
    (plain,) = torch.autograd.grad(formula(logits), logits, narrow)
    (ours,) = torch.autograd.grad(ops.heatmap_moments(logits), logits, narrow)
    assert (ours - true).abs().max() <= 2 * (plain - true).abs().max() + 1e-7 * true.abs().max()


def test_a_second_derivative_is_refused(device):
    logits = logits_of(1, 1, 4, 4, device=device).requires_grad_()
    mean = ops.heatmap_moments(logits)[1]
    (grad,) = torch.autograd.grad(mean.square().sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_float32_inside(dtype, device):
    logits = logits_of(2, 3, 16, 24, dtype=dtype, device=device).requires_grad_()
    got, want = ops.heatmap_moments(logits), ops.heatmap_moments(logits.detach().float())
    for g, w in zip(got, want, strict=True):
        assert g.dtype == dtype
        torch.testing.assert_close(g, w.to(dtype), rtol=0, atol=0)
    sum((t.float() ** 2).sum() for t in got).backward()
    wide = logits.detach().float().requires_grad_()
    sum((t**2).sum() for t in ops.heatmap_moments(wide)).backward()
    # The saved map is rounded to 8 bits at worst, 2^-9 of each value.
    assert (logits.grad.float() - wide.grad).abs().max() <= 0.02 * wide.grad.abs().max()


def test_strided_logits(device):
    logits = logits_of(2, 3, 8, 6, device=device)
    last = logits.to(memory_format=torch.channels_last)
    wide = logits.repeat_interleave(2, -1)[..., ::2]
    shared = logits[:1, :1].expand(2, 3, 8, 6)
    for strided in (last, wide, shared):
        for a, b in zip(
            ops.heatmap_moments(strided), ops.heatmap_moments(strided.contiguous()), strict=True
        ):
            assert torch.equal(a, b)


def test_nan_and_infinity_stay_in_their_map(device):
    logits = logits_of(1, 4, 6, 6, device=device)
    clean = ops.heatmap_moments(logits)
    logits[0, 0, 2, 3], logits[0, 1, 0, 0], logits[0, 2] = torch.nan, torch.inf, -torch.inf
    for got, kept in zip(ops.heatmap_moments(logits), clean, strict=True):
        assert got[0, :3].isnan().all()
        assert torch.equal(got[0, 3], kept[0, 3])


def test_same_result_every_time_and_for_any_number_of_threads(device):
    logits = logits_of(2, 5, 33, 31, device=device).requires_grad_()
    threads = torch.get_num_threads()
    results = []
    torch.use_deterministic_algorithms(True)
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            outputs = ops.heatmap_moments(logits)
            loss = sum(t.square().sum() for t in outputs)
            results.append([*outputs, *torch.autograd.grad(loss, logits)])
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], result, strict=True))


def test_autocast_computes_and_returns_float32(device):
    logits = logits_of(1, 2, 8, 8, dtype=torch.bfloat16, device=device)
    with torch.autocast(device, torch.bfloat16):
        outputs = ops.heatmap_moments(logits)
    for got, want in zip(outputs, ops.heatmap_moments(logits.float()), strict=True):
        assert got.dtype == torch.float32
        assert torch.equal(got, want)


# Importing torch's compiler warns about its own use of torch.jit.
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_compile_export_vmap_and_opcheck(device):
    logits = logits_of(2, 3, 8, 12, device=device)

    class Moments(torch.nn.Module):
        def forward(self, logits):
            map_, mean, covariance = ops.heatmap_moments(2 * logits)
            return map_, mean + covariance.sum(-1)

    want = Moments()(logits)
    leaf = logits.clone().requires_grad_()
    compiled = torch.compile(Moments(), fullgraph=True)(leaf)
    torch.testing.assert_close(compiled, want)
    compiled[1].sum().backward()
    assert leaf.grad.abs().sum() > 0
    exported = torch.export.export(Moments(), (logits,))
    torch.testing.assert_close(exported.module()(logits), want)
    mapped = torch.func.vmap(Moments())(torch.stack([logits, logits + 1]))
    torch.testing.assert_close([m[0] for m in mapped], list(want))
    torch.library.opcheck(torch.ops.guise.heatmap_moments, (leaf.detach().requires_grad_(),))
    map_, mean, covariance = ops.heatmap_moments(logits)
    for grad_map in (torch.randn_like(map_), None):
        sample = (grad_map, torch.randn_like(mean), torch.randn_like(covariance), map_, mean)
        torch.library.opcheck(torch.ops.guise.heatmap_moments_backward, sample)


@pytest.mark.parametrize(
    ("logits", "error", "message"),
    [
        (torch.zeros(2, 4, 4), ValueError, r"logits must be \[N, K, H, W\] .* got \[2, 4, 4\]"),
        (torch.zeros(1, 2, 0, 4), ValueError, r"got \[1, 2, 0, 4\]"),
        (torch.zeros(1, 1, 1, 1).expand(1, 1, 1 << 16, 1 << 15), ValueError, "2\\^31 - 1 pixels"),
        (torch.zeros(1, 2, 4, 4, dtype=torch.int32), TypeError, "must be a floating tensor"),
    ],
)
def test_bad_arguments(logits, error, message):
    with pytest.raises(error, match="heatmap_moments: .*" + message):
        ops.heatmap_moments(logits)
