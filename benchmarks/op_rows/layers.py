"""Rows of the operators under the networks' layers, at sizes that the scripts' steps have."""

import torch
import torch.nn.functional as F

from benchmarks.op_rows.row import Row
from nets import ops


def make_conv(n, channels, side):
    def make(device):
        x = torch.randn(n, channels, side, side, device=device)
        weight = torch.randn(channels, channels, 3, 3, device=device) / (9 * channels) ** 0.5
        lay = dict(memory_format=torch.channels_last)
        return x.contiguous(**lay), weight.contiguous(**lay), torch.randn(channels, device=device)

    return make


def conv_row(n, channels, side):
    return Row(
        name="conv3x3",
        size=f"{n}x{channels}x{side}x{side}",
        make=make_conv(n, channels, side),
        ours=ops.conv3x3,
        formula=lambda x, weight, bias: F.conv2d(x, weight, bias, padding=1),
        reads=4 * (n * channels * side * side + 9 * channels * channels),
        writes=4 * n * channels * side * side,
        grads=(0, 1, 2),
        tolerance=1e-4,
    )


N, C, S = 8, 64, 64


def make_elu(device):
    shape, lay = (N, C, S, S), dict(memory_format=torch.channels_last)
    return tuple(torch.randn(shape, device=device).contiguous(**lay) for _ in range(2))


ROWS = [
    conv_row(8, 64, 64),
    conv_row(8, 128, 32),
    Row(
        name="elu_cat",
        size=f"{N}x({C}+{C})x{S}x{S}",
        make=make_elu,
        ours=ops.elu_cat,
        formula=lambda a, b: F.elu(torch.cat([a, b], 1)),
        reads=4 * 2 * N * C * S * S,
        writes=4 * 2 * N * C * S * S,
        grads=(0, 1),
        tolerance=1e-6,
    ),
]
