"""gaussian_heatmaps: pixel i of n lies at -1 + 2 i / n, points are (x, y), value 1 at the mean."""

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nets import ops

module = importlib.import_module(
    "nets.ops.gaussian_heatmaps"
)  # the package attribute is the function
KINDS = ("rational", "exponential")


def gaussians(*shape, dtype=torch.float32, device="cpu", seed=0):
    g = torch.Generator().manual_seed(seed)
    mean = torch.rand(*shape, 2, generator=g, dtype=torch.float64) * 2 - 1
    a = torch.randn(*shape, 2, 2, generator=g, dtype=torch.float64) * 0.3
    covariance = a @ a.mT + 0.01 * torch.eye(2, dtype=torch.float64)
    return mean.to(device, dtype), covariance.to(device, dtype)


def formula(mean, covariance, size, kind):
    """The definition with a matrix inverse, independent of the code."""
    y, x = (-1 + 2 * torch.arange(n, dtype=mean.dtype, device=mean.device) / n for n in size)
    d = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1) - mean[:, :, None, None]
    q = (d @ torch.linalg.inv(covariance)[:, :, None] * d).sum(-1)
    return 1 / (1 + q) if kind == "rational" else torch.exp(-q / 2)


def test_by_hand(device):
    mean = torch.tensor([[[0.0, -0.5]]], device=device)  # x = 0 is column 2 of 4, y = -0.5 row 1
    covariance = torch.diag(torch.tensor([0.25, 1.0], device=device)).expand(1, 1, 2, 2)
    rational = ops.gaussian_heatmaps(mean, covariance, (4, 4))
    exponential = ops.gaussian_heatmaps(mean, covariance, (4, 4), "exponential")
    # One column right is dx = 0.5, q = 0.25 / 0.25 = 1; one row down dy = 0.5, q = 0.25.
    got = [rational[0, 0, r, c].item() for r, c in ((1, 2), (1, 3), (2, 2))]
    assert got == pytest.approx([1.0, 0.5, 0.8])
    assert exponential[0, 0, 1, 3].item() == pytest.approx(0.60653066)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("narrow", [1.0, 0.01], ids=["wide", "narrow"])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (64, 64), (37, 130)], ids=str)
def test_is_as_exact_as_the_plain_formula(kind, size, narrow, device):
    mean, covariance = gaussians(2, 7, device=device)
    covariance = covariance * narrow  # offsets from the mean must not be taken from the origin
    exact = formula(mean.double(), covariance.double(), size, kind)
    plain = (formula(mean, covariance, size, kind) - exact).abs().max()
    error = (ops.gaussian_heatmaps(mean, covariance, size, kind) - exact).abs().max()
    assert error <= 2 * plain + 1e-7  # 1e-7: one rounding, where the plain error happens to be tiny


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(0, 3), k=st.integers(0, 4), h=st.integers(1, 40), w=st.integers(1, 40),
    kind=st.sampled_from(KINDS), seed=st.integers(0, 9),
)  # fmt: skip
def test_any_shape_equals_the_reference(n, k, h, w, kind, seed):
    mean, covariance = gaussians(n, k, dtype=torch.float64, seed=seed)
    got = ops.gaussian_heatmaps(mean, covariance, (h, w), kind)
    want = formula(mean, covariance, (h, w), kind)
    assert got.shape == (n, k, h, w)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)  # float64, thin covariances


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind, device):
    mean, covariance = gaussians(1, 2, dtype=torch.float64, device=device)
    mean.requires_grad_()
    covariance = covariance + 0.05 * torch.eye(2, device=device)
    covariance.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda m, c: ops.gaussian_heatmaps(m, c, (5, 7), kind), (mean, covariance)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_as_exact_as_the_plain_formula(kind, device):
    inputs = [t.requires_grad_() for t in gaussians(2, 5, device=device)]
    weights = torch.randn(2, 5, 48, 64, device=device)
    exact_inputs = [t.detach().double().requires_grad_() for t in inputs]
    exact = torch.autograd.grad(
        formula(*exact_inputs, (48, 64), kind), exact_inputs, weights.double()
    )
    plain = torch.autograd.grad(formula(*inputs, (48, 64), kind), inputs, weights)
    ours = torch.autograd.grad(ops.gaussian_heatmaps(*inputs, (48, 64), kind), inputs, weights)
    for o, p, e in zip(ours, plain, exact, strict=True):
        scale = e.abs().max()
        assert (o - e).abs().max() <= 2 * (p - e).abs().max() + 1e-6 * scale


def test_a_second_derivative_is_refused(device):
    mean, covariance = gaussians(1, 1, device=device)
    mean.requires_grad_()
    maps = ops.gaussian_heatmaps(mean, covariance, (4, 4))
    (grad,) = torch.autograd.grad(maps.square().sum(), mean, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_types_are_float32_inside(dtype, kind, device):
    mean, covariance = (t.requires_grad_() for t in gaussians(2, 3, dtype=dtype, device=device))
    maps = ops.gaussian_heatmaps(mean, covariance, (16, 24), kind)
    wide = [t.detach().float().requires_grad_() for t in (mean, covariance)]
    want = ops.gaussian_heatmaps(*wide, (16, 24), kind)
    assert maps.dtype == dtype
    assert torch.equal(maps, want.to(dtype))
    weights = torch.randn_like(want).to(dtype)
    got = torch.autograd.grad(maps, (mean, covariance), weights)
    expected = torch.autograd.grad(want, wide, weights.float())
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e.to(dtype), rtol=1e-2, atol=1e-6)  # one rounding


def test_one_covariance_for_all_and_strided_inputs(device):
    mean, covariance = gaussians(3, 4, device=device)
    one = covariance[:1, :1]
    maps = ops.gaussian_heatmaps(mean, one, (8, 9))
    assert torch.equal(maps, ops.gaussian_heatmaps(mean, one.expand(3, 4, 2, 2).clone(), (8, 9)))
    turned = mean.transpose(0, 1).contiguous().transpose(0, 1)
    flipped = covariance.mT.contiguous().mT
    assert torch.equal(
        ops.gaussian_heatmaps(turned, flipped, (8, 9)),
        ops.gaussian_heatmaps(mean, covariance, (8, 9)),
    )
    shared = one.clone().requires_grad_()
    ops.gaussian_heatmaps(mean, shared, (8, 9)).sum().backward()
    every = one.expand(3, 4, 2, 2).clone().requires_grad_()
    ops.gaussian_heatmaps(mean, every, (8, 9)).sum().backward()
    torch.testing.assert_close(shared.grad, every.grad.sum((0, 1), keepdim=True))


def test_only_the_symmetric_part_of_a_covariance_counts(device):
    mean, covariance = gaussians(1, 1, device=device)
    askew = covariance + torch.tensor([[0.0, 0.125], [-0.125, 0.0]], device=device)
    torch.testing.assert_close(
        ops.gaussian_heatmaps(mean, askew, (8, 8)), ops.gaussian_heatmaps(mean, covariance, (8, 8))
    )


def test_nan_and_infinity_stay_in_their_map(device):
    mean, covariance = gaussians(1, 4, device=device)
    clean = ops.gaussian_heatmaps(mean, covariance, (6, 6))
    mean[0, 0, 0], mean[0, 1, 1], covariance[0, 2] = float("nan"), float("inf"), 0.0
    maps = ops.gaussian_heatmaps(mean, covariance, (6, 6))
    assert maps[0, 0].isnan().all()
    assert not (maps[0, 1] > 0).any()
    assert maps[0, 2].isnan().any()
    assert torch.equal(maps[0, 3], clean[0, 3])
    ops.gaussian_heatmaps(mean.requires_grad_(), covariance, (6, 6)).sum().backward()
    assert mean.grad[0, 3].isfinite().all()


def test_same_result_every_time_and_for_any_number_of_threads(device):
    inputs = [t.requires_grad_() for t in gaussians(2, 5, device=device)]
    threads = torch.get_num_threads()
    results = []
    torch.use_deterministic_algorithms(True)
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            maps = ops.gaussian_heatmaps(*inputs, (33, 31))
            results.append([maps, *torch.autograd.grad(maps.square().sum(), inputs)])
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], result, strict=True))


def test_autocast_computes_and_returns_float32(device):
    mean, covariance = gaussians(1, 2, dtype=torch.bfloat16, device=device)
    with torch.autocast(device, torch.bfloat16):
        maps = ops.gaussian_heatmaps(mean, covariance, (8, 8))
    assert maps.dtype == torch.float32
    assert torch.equal(maps, ops.gaussian_heatmaps(mean.float(), covariance.float(), (8, 8)))


# Importing torch's compiler warns about its own use of torch.jit.
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_compile_export_vmap_and_opcheck(device):
    mean, covariance = gaussians(2, 3, device=device)

    class Maps(torch.nn.Module):
        def forward(self, mean, covariance):
            return 2 * ops.gaussian_heatmaps(mean, covariance, (8, 12), "exponential")

    want = Maps()(mean, covariance)
    leaf = mean.clone().requires_grad_()
    compiled = torch.compile(Maps(), fullgraph=True)(leaf, covariance)
    torch.testing.assert_close(compiled, want)
    compiled.sum().backward()
    assert leaf.grad.abs().sum() > 0
    exported = torch.export.export(Maps(), (mean, covariance))
    torch.testing.assert_close(exported.module()(mean, covariance), want)
    mapped = torch.func.vmap(Maps(), in_dims=(0, None))(torch.stack([mean, mean + 0.1]), covariance)
    torch.testing.assert_close(mapped, torch.stack([want, Maps()(mean + 0.1, covariance)]))
    sample = (leaf.detach().requires_grad_(), covariance.clone().requires_grad_(), 5, 6, 1)
    torch.library.opcheck(torch.ops.guise.gaussian_heatmaps, sample)
    grad = torch.randn(2, 3, 5, 6, device=device)
    torch.library.opcheck(torch.ops.guise.gaussian_heatmaps_backward, (grad, mean, covariance, 0))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mean": torch.zeros(2, 3)}, ValueError, r"mean must be \[N, K, 2\], got \[2, 3\]"),
        ({"mean": torch.zeros(1, 3, 2, dtype=torch.int64)}, TypeError, "mean must be a floating"),
        ({"covariance": torch.zeros(1, 4, 2, 2)}, ValueError, r"covariance must be \[N, K, 2, 2\]"),
        ({"covariance": torch.zeros(1, 3, 2)}, ValueError, r"got \[1, 3, 2\]"),
        ({"covariance": torch.zeros(1, 3, 2, 2).double()}, TypeError, "covariance must have mean"),
        ({"size": (0, 4)}, ValueError, r"size must be \(H, W\)"),
        ({"size": (1 << 16, 1 << 16)}, ValueError, "fewer than 2\\^31"),
        ({"kind": "gauss"}, ValueError, "kind must be one of rational, exponential, got 'gauss'"),
    ],
)
def test_bad_arguments(change, error, message):
    right = {"mean": torch.zeros(1, 3, 2), "covariance": torch.eye(2).expand(1, 3, 2, 2)}
    with pytest.raises(error, match="gaussian_heatmaps: .*" + message):
        ops.gaussian_heatmaps(**{**right, "size": (4, 4), **change})
