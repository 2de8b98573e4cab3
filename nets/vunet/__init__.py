"""VUNet: a conditional U-Net whose bottleneck is a variational code of the appearance."""

from nets.vunet.network import MODES, Noise, VUNet, VUNetOutput, build

__all__ = ["MODES", "Noise", "VUNet", "VUNetOutput", "build"]
