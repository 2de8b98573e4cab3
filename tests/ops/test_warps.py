"""Contract of all three warps: types, layouts, transforms of torch, determinism."""

import pytest
import torch

from nets.ops import kernel, perspective_crops, tps_fit, tps_warp, uv_sample

CONTROL = torch.tensor([[1.0, 1], [9, 2], [2, 8], [9, 9], [5, 4]])


def crops(image, geometry):
    return perspective_crops(image, geometry.detach(), (6, 5))


def tps(image, geometry):
    return tps_warp(image, CONTROL.to(geometry), geometry)


def uv(image, geometry):
    return uv_sample(image, geometry, image[:, :, :7, :9], image[:, :1, :7, :9])


def geometry(name, n=4, dtype=torch.double, device="cpu"):
    g = torch.Generator().manual_seed(2)

    def noise(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.double)

    if name == "crops":
        out = torch.eye(3).double() + 0.05 * noise(n, 3, 3, 3)
    elif name == "tps":
        out = tps_fit(CONTROL.double(), CONTROL.double() + noise(n, 5, 2))
    else:
        out = 0.3 * noise(n, 2, 7, 9)
    return out.to(device, dtype)


WARPS = {"crops": crops, "tps": tps, "uv": uv}
OPS = {"crops": "perspective_crops", "tps": "tps_warp", "uv": "uv_sample"}


def pixels(n=4, c=3, dtype=torch.double, device="cpu", size=(11, 12)):
    g = torch.Generator().manual_seed(1)
    return torch.rand(n, c, *size, generator=g, dtype=torch.double).to(device, dtype)


def same(a, b):
    """Equal up to the order in which a matrix product, in the reference, sums float64."""
    torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


@pytest.fixture(params=WARPS)
def warp(request):
    return request.param


def arguments(warp, device="cpu", backward=False):
    """The arguments of the operator below the public function."""
    image, shape = pixels(device=device), geometry(warp, device=device)
    grad = torch.rand_like(WARPS[warp](image, shape))
    if warp == "crops":
        return (grad, shape, 11, 12) if backward else (image, shape, 6, 5, 0.0)
    if warp == "tps":
        nodes = (CONTROL.double()[None] / 10).to(device)
        frame = torch.tensor([[5.0, 5.0, 0.1]], dtype=torch.double, device=device)
        given = image, nodes, frame, shape, 1
    else:
        given = image, shape, image[:, :, :7, :9], image[:, :1, :7, :9], -1.0, 0
    return (grad, *given) if backward else given


def test_a_kernel_serves(warp):
    if kernel("gaussian_heatmaps", "cpu") == "reference":
        pytest.skip("GUISE_OPS=reference, or no compiler")
    assert kernel(OPS[warp], "cpu") == kernel(f"{OPS[warp]}_backward", "cpu") == "compiled"


def test_gradients(warp, device):
    image, shape = pixels(device=device), geometry(warp, device=device)
    assert torch.autograd.gradcheck(
        WARPS[warp], (image.requires_grad_(), shape.requires_grad_(warp != "crops"))
    )


@pytest.mark.parametrize("backward", [False, True])
def test_opcheck(warp, device, backward):
    given = arguments(warp, device, backward)
    if not backward:
        given = [t.clone().requires_grad_() if i == 0 else t for i, t in enumerate(given)]
    name = OPS[warp] + ("_backward" if backward else "")
    torch.library.opcheck(getattr(torch.ops.guise, name).default, tuple(given))


def test_a_second_derivative_is_refused(warp):
    image = pixels().requires_grad_()
    (grad,) = torch.autograd.grad(
        WARPS[warp](image, geometry(warp)).square().sum(), image, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(warp, device, dtype):
    image = pixels(dtype=dtype, device=device).requires_grad_()
    shape = geometry(warp, dtype=dtype if warp == "uv" else torch.float32, device=device)
    out = WARPS[warp](image, shape)
    wide = image.detach().float().requires_grad_()
    exact = WARPS[warp](wide, shape.float())
    assert out.dtype == dtype
    assert torch.equal(out, exact.to(dtype))
    grad = torch.rand_like(out)
    out.backward(grad)
    exact.backward(grad.float())
    # one rounding, or a few where several gradients are summed
    few = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(image.grad.float(), wide.grad, rtol=few, atol=few)


def test_any_layout(warp, device):
    image, shape = pixels(device=device), geometry(warp, device=device)
    want = WARPS[warp](image, shape)
    strided = torch.rand(4, 3, 11, 24, dtype=torch.double, device=device)[..., ::2].copy_(image)
    last = image.to(memory_format=torch.channels_last)
    swapped = shape.mT.contiguous().mT
    for view, form in ((strided, shape), (last, shape), (image, swapped)):
        same(WARPS[warp](view, form), want)
    one = WARPS[warp](image[:1].expand(4, -1, -1, -1), shape)
    same(one, WARPS[warp](image[:1].repeat(4, 1, 1, 1), shape))


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (4, 1), (4, 9), (1, 3), (3, 2)], ids=str)
def test_any_batch_and_channels(warp, device, shape):
    n, c = shape
    if warp == "uv" and c == 0:
        pytest.skip("its mask here is a channel of the image")
    image = pixels(n, c, device=device).requires_grad_()
    form = geometry(warp, 4, device=device)[:n]
    out = WARPS[warp](image, form)
    for i in range(n):  # each image alone: nothing leaks from its neighbours
        same(out[i : i + 1], WARPS[warp](image[i : i + 1], form[i : i + 1]))
    out.sum().backward()
    assert image.grad.shape == image.shape


def test_one_pixel(device):
    image = torch.full((1, 2, 1, 1), 0.5, device=device)
    eye = torch.eye(3, device=device)[None, None]
    assert (perspective_crops(image, eye, 3) == 0.5).all()
    still = torch.zeros(1, 8, 2, device=device)
    assert torch.equal(tps_warp(image, CONTROL.to(device), still), image)
    assert torch.equal(uv_sample(image, torch.zeros(1, 2, 1, 1, device=device)), image)


def test_larger_than_a_chunk(warp, device):
    """Rows longer than a chunk of the CPU kernel, with a short last chunk."""
    if warp != "tps":
        pytest.skip("only the size of tps_warp follows the image")
    image = pixels(2, 5, size=(7, 150), device=device)
    still = torch.zeros(2, 8, 2, dtype=torch.double, device=device)
    still[:, 5, 0] = 3
    moved = tps_warp(image, CONTROL.double().to(device), still)
    assert torch.equal(moved[..., :147], image[..., 3:])
    assert torch.equal(moved[..., 147:], image[..., -1:].expand(-1, -1, -1, 3))


def test_compile_and_export(warp, device):
    image, shape = pixels(device=device), geometry(warp, device=device)
    want = WARPS[warp](image, shape)
    torch.compiler.reset()
    compiled = torch.compile(WARPS[warp], fullgraph=True, backend="aot_eager")
    leaf = image.clone().requires_grad_()
    same(compiled(leaf, shape), want)
    compiled(leaf, shape).sum().backward()
    plain = image.clone().requires_grad_()
    WARPS[warp](plain, shape).sum().backward()
    torch.testing.assert_close(leaf.grad, plain.grad)

    class Module(torch.nn.Module):
        def forward(self, image, shape):
            return WARPS[warp](image, shape)

    exported = torch.export.export(Module(), (image, shape))
    same(exported.module()(image, shape), want)


def test_vmap(warp, device):
    image = torch.stack([pixels(device=device), pixels(device=device).flip(3)])
    shape = geometry(warp, device=device)
    want = torch.stack([WARPS[warp](i, shape) for i in image])
    same(torch.vmap(WARPS[warp], in_dims=(0, None))(image, shape), want)


def test_autocast_gives_float32(warp, device):
    image, shape = pixels(device=device).bfloat16(), geometry(warp, device=device).float()
    with torch.autocast(device, torch.bfloat16):
        out = WARPS[warp](image, shape)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, WARPS[warp](image.float(), shape))


@pytest.mark.parametrize("n", [1, 3, 8])
def test_same_bits_for_any_number_of_threads(warp, n):
    image, shape = pixels(n, dtype=torch.float), geometry(warp, n, torch.float)

    def run(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            leaf = image.clone().requires_grad_()
            out = WARPS[warp](leaf, shape)
            out.square().sum().backward()
            return out, leaf.grad
        finally:
            torch.set_num_threads(before)

    for a, b in zip(run(1), run(4), strict=True):
        assert torch.equal(a, b)


@pytest.mark.gpu
def test_deterministic_on_cuda(warp):
    image, shape = pixels(device="cuda").float(), geometry(warp, device="cuda").float()
    torch.use_deterministic_algorithms(True)
    try:
        grads = []
        for _ in range(5):
            leaf = image.clone().requires_grad_()
            WARPS[warp](leaf, shape).square().sum().backward()
            grads.append(leaf.grad)
        assert all(torch.equal(grads[0], g) for g in grads)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
def test_side_stream_and_graph(warp):
    image, shape = pixels(device="cuda").float(), geometry(warp, device="cuda").float()
    want = WARPS[warp](image, shape)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        out = WARPS[warp](image, shape)
    stream.synchronize()
    assert torch.equal(out, want)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = WARPS[warp](image, shape)
    image.zero_()
    graph.replay()
    assert torch.equal(out, WARPS[warp](image, shape))
