"""Kernels called with tensors of another device refuse them: torch checks no devices before.

The kernels of the CPU are called directly, with a meta tensor in turn for each further tensor. The
checks are those of the CUDA kernels.
"""

import pytest
import torch

from nets import ops

CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
IMAGE, SPLINE = torch.zeros(2, 3, 4, 4), [torch.zeros(1, 5, 2), torch.zeros(1, 3)]
MEAN, COVARIANCE, MAP = torch.zeros(2, 3, 2), torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 4, 4)
WARP = [IMAGE, *SPLINE, torch.zeros(2, 8, 2)]
SAMPLE = [IMAGE, torch.zeros(2, 2, 4, 4), torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4)]
SPLINE_NAMES = ["nodes", "frame", "coefficients"]
UV_NAMES = ["delta", "low_frequency", "mask"]
# operator -> (arguments, position of the tensor whose device counts, names of the others in order)
CASES = {
    "gaussian_heatmaps": ([MEAN, COVARIANCE, 4, 4, 0], 0, ["covariance"]),
    "gaussian_heatmaps_backward": ([MAP, MEAN, COVARIANCE, 0], 1, ["grad", "covariance"]),
    "heatmap_moments_backward": (
        [MAP, MEAN, COVARIANCE, MAP, MEAN],
        3,
        ["grad_map", "grad_mean", "grad_covariance", "mean"],
    ),
    "perspective_crops": ([IMAGE, torch.zeros(2, 1, 3, 3), 2, 2, 0.0], 0, ["homographies"]),
    "perspective_crops_backward": (
        [torch.zeros(2, 1, 3, 2, 2), torch.zeros(2, 1, 3, 3), 4, 4],
        0,
        ["homographies"],
    ),
    "tps_warp": ([*WARP, 0], 0, SPLINE_NAMES),
    "tps_warp_backward": ([IMAGE, *WARP, 0], 1, ["grad", *SPLINE_NAMES]),
    "uv_sample": ([*SAMPLE, 0.0, 0], 0, UV_NAMES),
    "uv_sample_backward": ([IMAGE, *SAMPLE, 0.0, 0], 1, ["grad", *UV_NAMES]),
}


@pytest.mark.parametrize("name", CASES)
def test_each_tensor_must_be_on_the_firsts_device(name):
    if ops.kernel(name, "cpu") != "compiled":
        pytest.skip("the operators are not compiled")
    arguments, first, names = CASES[name]
    call = getattr(torch.ops.guise, name).default.redispatch
    call(CPU, *arguments)
    others = [i for i, a in enumerate(arguments) if isinstance(a, torch.Tensor) and i != first]
    for i, argument in zip(others, names, strict=True):
        mixed = [a.to("meta") if j == i else a for j, a in enumerate(arguments)]
        with pytest.raises(RuntimeError, match=f"{argument} must be on cpu, got another device"):
            call(CPU, *mixed)
