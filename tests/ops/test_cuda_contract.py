"""Contract of every operator on a GPU: the caller's stream and device, and CUDA graphs."""

import pytest
import torch

from nets import ops, skeletons

pytestmark = pytest.mark.gpu


def random(*shape, device):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)).to(device)


def covariances(device):
    return torch.eye(2, device=device).mul(0.02).expand(2, 5, 2, 2).contiguous()


def spline(device):
    control = random(6, 2, device=device) * 12
    return ops.tps_fit(control, control + random(2, 6, 2, device=device)), control


def channels_last(image):
    return image.contiguous(memory_format=torch.channels_last)


def modulated(x, both):
    y, scale = torch.empty_like(x), torch.empty_like(x)
    ops.modulate(x, both, 0.2, y, scale)
    return y


# operator -> device -> (call, the input that changes)
CASES = {
    "gaussian_heatmaps": lambda d: (
        lambda mean: ops.gaussian_heatmaps(mean, covariances(d), (16, 24), "rational"),
        random(2, 5, 2, device=d),
    ),
    "heatmap_moments": lambda d: (
        lambda logits: torch.cat([t.flatten() for t in ops.heatmap_moments(logits)]),
        random(2, 5, 16, 24, device=d),
    ),
    "draw_skeleton": lambda d: (
        lambda joints: ops.draw_skeleton(joints, skeletons.PARTS_STYLE, 32),
        random(2, 15, 2, device=d) * 32,
    ),
    "perspective_crops": lambda d: (
        lambda image: ops.perspective_crops(
            image, torch.eye(3, device=d).expand(2, 4, 3, 3).contiguous(), (8, 8)
        ),
        random(2, 3, 16, 16, device=d),
    ),
    "instance_norm": lambda d: (
        lambda x: ops.instance_norm(x, 0.2),
        channels_last(random(2, 8, 16, 24, device=d)),
    ),
    "modulate": lambda d: (
        lambda x: modulated(x, channels_last(random(2, 16, 16, 24, device=d))),
        channels_last(random(2, 8, 16, 24, device=d)),
    ),
    "tps_warp": lambda d: (
        lambda image, s=None: ops.tps_warp(image, *(s or spline(d))[::-1]),
        random(2, 3, 12, 12, device=d),
    ),
    "uv_sample": lambda d: (
        lambda image: ops.uv_sample(image, random(2, 2, 16, 16, device=d) * 0.2),
        random(2, 3, 16, 16, device=d),
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return CASES[request.param]


def frozen(case, device):
    """The call with all other arguments computed before, so that a graph can capture it."""
    call, changing = case(device)
    if case is CASES["tps_warp"]:
        coefficients, control = spline(device)
        return lambda image: ops.tps_warp(image, control, coefficients), changing
    if case is CASES["modulate"]:
        both = channels_last(random(2, 16, 16, 24, device=device))
        return lambda x: modulated(x, both), changing
    if case is CASES["uv_sample"]:
        delta = random(2, 2, 16, 16, device=device) * 0.2
        return lambda image: ops.uv_sample(image, delta), changing
    return call, changing


def test_side_stream(case):
    call, changing = frozen(case, "cuda")
    before, want = call(changing), call(changing * 2)
    assert not torch.equal(before, want)  # else a kernel on another stream would pass
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # the input changes late, on this stream alone
        changing.mul_(2)
        got = call(changing)
    stream.synchronize()
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_cuda_graph(case):
    call, changing = frozen(case, "cuda")
    warm = torch.cuda.Stream()
    with torch.cuda.stream(warm):
        call(changing)
    warm.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = call(changing)
    changing.mul_(0.5)
    graph.replay()
    torch.testing.assert_close(got, call(changing), rtol=0, atol=0)


def test_second_device(case):
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    call, changing = frozen(case, "cuda:1")
    with torch.cuda.device(0):
        got = call(changing)
    cpu_call, cpu_changing = frozen(case, "cpu")
    assert got.device == torch.device("cuda:1")
    torch.testing.assert_close(got.cpu(), cpu_call(cpu_changing), rtol=1e-4, atol=1e-4)
