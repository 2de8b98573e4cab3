"""The generator: an image from landmark maps and an appearance vector for each landmark.

SPADE (Park et al., CVPR 2019) with landmark maps instead of a segmentation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.landmarks.network.unet import BiasedConv, first_convolution
from nets.ops import (
    SpadeLayers,
    conv3x3_padded,
    instance_norm,
    spade_modulate,
    spade_modulate_conv1x1,
)
from nets.ops.autocast import as_autocast, full_precision
from nets.ops.conv3x3 import LANES
from nets.spectral import Conv

HIDDEN = 128  # channels between the maps and the scale and shift of a modulation
SLOPE = 0.2  # of the leaky ReLUs
EPS = 1e-12  # of the spectral norms


class Spade(nn.Module):
    """Modulation of `channels` normalised channels: scale and shift from landmark maps."""

    def __init__(self, maps: int, channels: int, hidden: int = HIDDEN):
        super().__init__()
        self.mlp_shared = nn.Sequential(BiasedConv(maps, hidden, 3, padding=1))
        self.mlp_gamma = BiasedConv(hidden, channels, 3, padding=1)
        self.mlp_beta = BiasedConv(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor, maps: Tensor) -> Tensor:
        """leaky_relu(x (1 + scale) + shift), in the shape of x.

        x     (N, channels, H, W), normalised
        maps  (N, maps, H, W)
        """
        layers = self._layers(self.mlp_beta.weight, self.mlp_beta.bias)
        return spade_modulate(x, maps, layers, SLOPE)

    def through(self, x: Tensor, maps: Tensor, weight: Tensor) -> Tensor:
        """A 1x1 convolution of x (1 + scale) + shift, without a bias or an activation.

        weight  (O, channels, 1, 1)
        The shift is linear in the hidden layer, and so is the convolution of the shift. One
        convolution from the hidden layer to O channels therefore computes both.
        """
        matrix = weight[:, :, 0, 0]
        with full_precision(weight):
            shift = torch.einsum("oc,cikl->oikl", matrix, self.mlp_beta.weight)
            layers = self._layers(shift, matrix @ self.mlp_beta.bias)
        return spade_modulate_conv1x1(x, maps, layers, weight)

    def _layers(self, shift: Tensor, constant: Tensor) -> SpadeLayers:
        first, scale = first_convolution(self.mlp_shared), self.mlp_gamma
        return SpadeLayers(first.weight, first.bias, scale.weight, scale.bias, shift, constant)


class SpadeBlock(nn.Module):
    """Residual block of two modulated convolutions.

    The shortcut is a modulated 1x1 convolution if the block changes the number of channels.
    """

    def __init__(self, channels_in: int, channels_out: int, maps: int, hidden: int = HIDDEN):
        super().__init__()
        middle = min(channels_in, channels_out)
        self.conv_0 = Conv(channels_in, middle, eps=EPS)
        self.conv_1 = Conv(middle, channels_out, eps=EPS)
        self.learned = channels_in != channels_out
        if self.learned:
            self.conv_s = Conv(channels_in, channels_out, 1, eps=EPS, bias=False)
        self.norm_0 = Spade(maps, channels_in, hidden)
        self.norm_1 = Spade(maps, middle, hidden)
        if self.learned:
            self.norm_s = Spade(maps, channels_in, hidden)

    def forward(self, x: Tensor, maps: Tensor) -> Tensor:
        normal = instance_norm(x)
        y = self._conv(self.conv_0, self.norm_0(normal, maps))
        y = self.norm_1(instance_norm(y, inplace=True), maps)
        if self.learned:
            x = self.norm_s.through(normal, maps, self.conv_s.effective_weight())
        return self._conv(self.conv_1, y, x)

    @staticmethod
    def _conv(layer: Conv, x: Tensor, added: Tensor | None = None) -> Tensor:
        return conv3x3_padded(x, layer.effective_weight(), layer.bias, added)


def project(vectors: Tensor, maps: Tensor) -> Tensor:
    """Appearance vectors spread over the maps: sum_k v_k g_k / (1 + sum_k g_k), (N, C, H, W).

    vectors  (N, K, C); maps  (N, K, H, W)
    """
    return torch.einsum("nkc,nkhw->nchw", vectors, maps / (1 + maps.sum(1, keepdim=True)))


def halve(maps: Tensor, times: int) -> Tensor:
    """Maps at 1 / 2^times of their size, bilinear without smoothing.

    Each new pixel is the mean of the four old ones nearest to its centre.
    """
    if times == 0:
        return maps
    return F.interpolate(maps, scale_factor=0.5**times, mode="bilinear", align_corners=False)


class SpadeGenerator(nn.Module):
    """Image (N, 3, S, S), unbounded, from landmark maps (N, K, S, S) and vectors (N, K, C).

    S is a multiple of 16.
    """

    def __init__(
        self,
        maps: int,  # K
        vectors: int,  # C
        width: int,  # channels at half the image's size
        hidden: int = HIDDEN,
    ):
        super().__init__()
        self.fc = nn.Conv2d(vectors, 4 * width, 3, padding=1)
        self.head_0 = SpadeBlock(4 * width, 4 * width, maps, hidden)
        self.G_middle_0 = SpadeBlock(4 * width, 4 * width, maps, hidden)
        self.G_middle_1 = SpadeBlock(4 * width, 4 * width, maps, hidden)
        self.up_0 = SpadeBlock(4 * width, 2 * width, maps, hidden)
        self.up_1 = SpadeBlock(2 * width, width, maps, hidden)
        self.up_4 = SpadeBlock(width, width // 2, maps, hidden)
        self.conv_img = nn.Conv2d(width // 2, 3, 3, padding=1)

    def forward(self, maps: Tensor, vectors: Tensor) -> Tensor:
        # The published generator resizes the projection by nearest neighbour to S/8 and S/16. That
        # picks every 8th or 16th pixel, so only every 8th is computed.
        style = project(vectors, maps[:, :, ::8, ::8].contiguous())
        # Zero channels up to a multiple of LANES: faster, with the same result.
        maps = F.pad(maps, (0, 0, 0, 0, 0, -maps.shape[1] % LANES))
        maps = maps.contiguous(memory_format=torch.channels_last)
        maps, s2, s4, s8, s16 = (as_autocast(halve(maps, times)) for times in range(5))
        coarse = self.head_0(self.fc(style[:, :, ::2, ::2]), s16)
        fine = self.head_0(self.fc(style), s8)
        x = 0.5 * double(coarse) + 0.5 * fine
        x = self.G_middle_1(self.G_middle_0(x, s8), s8)
        x = self.up_0(double(x), s4)
        x = self.up_1(double(x), s2)
        x = self.up_4(double(x), maps)
        return self.conv_img(F.leaky_relu(x, SLOPE, inplace=True))


def double(x: Tensor) -> Tensor:
    """Feature maps at twice the size, bilinear with align_corners=False."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
