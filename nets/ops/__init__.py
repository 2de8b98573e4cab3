"""The operators: C++ and CUDA kernels, each with its definition in stock PyTorch.

Importing this compiles and loads nothing. The first call of an operator does, and prints a line.
`python -m nets.ops` prints what is in use.
"""

from nets.ops._library import NAMES, kernel
from nets.ops.conv3x3 import conv3x3, conv3x3_backward
from nets.ops.crops import perspective_crops
from nets.ops.elu_cat import elu_cat
from nets.ops.gaussian_heatmaps import gaussian_heatmaps
from nets.ops.heatmap_moments import heatmap_moments
from nets.ops.instance_norm import instance_norm
from nets.ops.padded_conv import conv3x3_keep_padding, conv3x3_padded, conv3x3_upsampled
from nets.ops.raster import draw_mesh, rasterise
from nets.ops.skeleton import draw_skeleton
from nets.ops.spade import (
    SpadeLayers,
    modulate,
    modulate_backward,
    spade_modulate,
    spade_modulate_conv1x1,
)
from nets.ops.tps import tps_fit, tps_warp
from nets.ops.uv import uv_sample

__all__ = [
    "NAMES",
    "SpadeLayers",
    "conv3x3",
    "conv3x3_backward",
    "conv3x3_keep_padding",
    "conv3x3_padded",
    "conv3x3_upsampled",
    "draw_mesh",
    "draw_skeleton",
    "elu_cat",
    "gaussian_heatmaps",
    "heatmap_moments",
    "instance_norm",
    "kernel",
    "modulate",
    "modulate_backward",
    "perspective_crops",
    "rasterise",
    "spade_modulate",
    "spade_modulate_conv1x1",
    "tps_fit",
    "tps_warp",
    "uv_sample",
]
