"""Rows of the operators for layers of the networks, at sizes from training steps."""

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
    )


N, C, S = 8, 64, 64


def make_elu(device):
    shape, lay = (N, C, S, S), dict(memory_format=torch.channels_last)
    return tuple(torch.randn(shape, device=device).contiguous(**lay) for _ in range(2))


M, D = 4, 128  # images and their side in the landmarks' finest block


def make_norm(device):
    shape, lay = (M, C, D, D), dict(memory_format=torch.channels_last)
    return (3 * torch.randn(shape, device=device).contiguous(**lay) + 1,)


def make_modulate(device):
    lay = dict(memory_format=torch.channels_last)
    shapes = (M, C, D, D), (M, 2 * C, D, D)
    return tuple(torch.randn(shape, device=device).contiguous(**lay) for shape in shapes)


def modulate(x, both):
    y, scale = torch.empty_like(x), torch.empty_like(x)
    ops.modulate(x, both, 0.2, y, scale)
    return y, scale


def modulate_formula(x, both):
    scale, shift = both.chunk(2, dim=1)
    return F.leaky_relu(x * (1 + scale) + shift, 0.2), scale.contiguous(
        memory_format=torch.channels_last
    )


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
    ),
    Row(
        name="instance_norm",
        size=f"{M}x{C}x{D}x{D}",
        make=make_norm,
        ours=lambda x: ops.instance_norm(x, 0.0),
        formula=lambda x: F.relu(F.instance_norm(x)),
        reads=4 * M * C * D * D,
        writes=4 * M * C * D * D,
        grads=(0,),
    ),
    Row(
        name="modulate",
        size=f"{M}x{C}x{D}x{D}",
        make=make_modulate,
        ours=modulate,
        formula=modulate_formula,
        reads=4 * 3 * M * C * D * D,
        writes=4 * 2 * M * C * D * D,
    ),
]
