"""VUNet: a conditional U-Net whose bottleneck is a variational code of the appearance."""

from nets.vunet.network import MODES, Noise, Output, VUNet, build

__all__ = ["MODES", "Noise", "Output", "VUNet", "build"]
