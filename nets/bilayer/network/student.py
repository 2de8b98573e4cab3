"""A small network that renders one avatar: trained on the frames of a larger one, its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nets.bilayer.network.build import keypoints_embedder
from nets.bilayer.network.generators import Generator, Layers
from nets.bilayer.network.layers import doublings
from nets.bilayer.network.model import Avatar
from nets.ops import uv_sample
from nets.spectral import spectral_layers


class Student(nn.Module):
    """The frames of one person in any pose, without an identity embedder and adaptive layers.

    The keypoints embedder is the teacher's. The generator has its structure with fewer channels,
    plain norms and convolutions, and lacks the last block: the heads predict cells of 2x2 pixels at
    half the size. No layer has a spectral norm. `Driver(student, student.avatar())` folds it.
    """

    texture: Tensor  # (1, 3, S, S), of the teacher's avatar
    source_image: Tensor  # (3, S, S) uint8, to be shown beside the results
    source_pose: Tensor  # (2 K,) in [-1, 1], for motion relative to it

    def __init__(
        self,
        options: Mapping[str, Any],  # all of the teacher's that describe its networks
        channels: int,  # of the generator at full size; they double with each halving
        max_channels: int,
    ):
        super().__init__()
        size, start = options["image_size"], options["inf_input_tensor_size"]
        count = doublings(size, start, "image_size / inf_input_tensor_size")
        if count < 2:
            raise ValueError(f"Student: image_size must be at least {4 * start}, got {size}")
        widths = [min(channels * 2**i, max_channels) for i in range(count, 0, -1)]
        self.keypoints_embedder = keypoints_embedder(options)
        self.generator = Generator(
            [options["inf_max_channels"], *widths[1:]],
            start,
            [4 * (6 if options["inf_pred_segmentation"] else 5)],
            "bn",
            options["inf_activation_type"],
            "nearest",
            "conv",
            True,
            momentum=0.1,
        )
        for layer in spectral_layers(self):
            layer.release()
        self.register_buffer("texture", torch.zeros(1, 3, size, size))
        self.register_buffer("source_image", torch.zeros(3, size, size, dtype=torch.uint8))
        self.register_buffer("source_pose", torch.zeros(options["pse_in_channels"]))

    def avatar(self) -> Avatar:
        """The person's avatar, as `Driver` takes it."""
        return Avatar(self.texture, [], self.source_image[None, None], self.source_pose[None, None])

    def forward(self, poses: Tensor) -> tuple[Tensor, Layers]:
        """The images (N, 3, S, S) of poses (N, 2 K), and their layers."""
        x = self.keypoints_embedder(poses[None])[0]
        (y,) = self.generator(x.contiguous(memory_format=torch.channels_last), [])
        y = pixels_of_cells(y.float())
        delta, low = y[:, :2].tanh(), y[:, 2:5].tanh()
        layers = Layers(delta, low, y[:, 5:] if y.shape[1] > 5 else None)
        return uv_sample(self.texture, delta, low), layers


def pixels_of_cells(y: Tensor) -> Tensor:
    """The pixels (N, C, 2 h, 2 w) of cells of 2x2, (N, 4 C, h, w): C channels a pixel in turn."""
    n, c, h, w = y.shape
    y = y.view(n, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, c // 4, 2 * h, 2 * w)
