"""DC-IGN: a convolutional variational autoencoder whose latents stand for what a renderer is told.

Kulkarni, Whitney, Kohli, Tenenbaum, "Deep Convolutional Inverse Graphics Network", NIPS 2015. The
network alone is an ordinary autoencoder of grey images of 150x150; that single latents come to
stand for azimuth, elevation and light is a matter of training (`nets.dcign.code`).

Checked against the published numbers: 4,131,137 parameters with 200 latents and 96 maps, 2,834,977
with 120 latents; the side of the maps at every stage; `named_parameters` come in the order of the
published flat vector, weight before bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.dcign.losses import LIKELIHOODS
from nets.layers import depth_to_space

SIDE = 150  # of the published network's images
FLOOR = 1e-6  # what the published threshold leaves of anything not above 0
CODE_SPREAD = 0.01  # standard deviation of the fully connected layers' first weights and biases


class LinearCR(nn.Linear):
    """A fully connected layer whose weights and biases start as normal(0, 0.01)."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, 0.0, CODE_SPREAD)
        nn.init.normal_(self.bias, 0.0, CODE_SPREAD)


def threshold(x: Tensor) -> Tensor:
    """x where x > 0, else 1e-6; the gradient there is 0."""
    return F.threshold(x, 0.0, FLOOR)


class UpConv(nn.Conv2d):
    """7x7 convolution of a map enlarged twice by nearest neighbour; (N, C, H, W) to 2H - 6, or 2H.

    Each output pixel sees 4x4 pixels of the small map: neighbours among the 7x7 taps fall on the
    same pixel, and which ones depends only on whether row and column are even. So one 4x4
    convolution to four times the maps, with the taps added up beforehand, and depth to space give
    the same with a third of the products. The weights stay those of the 7x7 convolution.
    padding  0, or 3 (rows and columns of the enlarged map), which keeps the size
    """

    taps: Tensor  # (8, 7)

    def __init__(self, channels_in: int, channels_out: int, padding: int = 0):
        super().__init__(channels_in, channels_out, 7, padding=padding)
        taps = torch.zeros(2, 4, 7)
        for phase, groups in enumerate(
            ([(0, 1), (2, 3), (4, 5), (6,)], [(0,), (1, 2), (3, 4), (5, 6)])
        ):
            for place, group in enumerate(groups):
                taps[phase, place, list(group)] = 1
        self.register_buffer("taps", taps.view(8, 7), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # The taps are added up in the precision of the weights.
        with torch.autocast(x.device.type, enabled=False):
            weight = self.taps @ self.weight @ self.taps.T
        o, i = weight.shape[:2]
        weight = weight.view(o, i, 2, 4, 2, 4).permute(2, 4, 0, 1, 3, 5).reshape(4 * o, i, 4, 4)
        layout = torch.channels_last if _is_channels_last(x) else torch.contiguous_format
        weight = weight.contiguous(memory_format=layout)
        if self.padding[0]:  # 4 rows of the enlarged map where 3 are wanted: one is cut off below
            x = F.pad(x, (2, 2, 2, 2))
        bias = None if self.bias is None else self.bias.repeat(4)
        y = depth_to_space(F.conv2d(x, weight, bias))
        return y[..., 1:-1, 1:-1] if self.padding[0] else y


class DCIGN(nn.Module):
    """The network. Images are (N, 1, S, S), grey in [0, 1] (0 black), as the originals take them.

    Its code is z (N, latents), a sample of N(mu, exp(log_variance)); prior N(0, 1).
    """

    def __init__(
        self,
        latents: int = 200,
        maps: int = 96,  # of the first convolution; divisible by 4
        image_size: int = SIDE,  # 150 as published; or a multiple of 16 from 48: see below
        likelihood: str = "bernoulli",  # or "gaussian": the decoder gives mean and log variance
    ):
        """A side other than 150 does not close with unpadded convolutions: there the encoder stays
        as it is, and the decoder starts at S / 16 and pads, which is an extension of ours.
        Raises ValueError where a number cannot be.
        """
        super().__init__()
        if maps < 4 or maps % 4:
            raise ValueError(f"DCIGN: maps must be a multiple of 4, got {maps}")
        if latents < 1:
            raise ValueError(f"DCIGN: latents must be 1 or more, got {latents}")
        if image_size != SIDE and (image_size < 48 or image_size % 16):
            raise ValueError(
                f"DCIGN: image_size must be {SIDE}, or a multiple of 16 from 48, got {image_size}"
            )
        if likelihood not in LIKELIHOODS:
            raise ValueError(
                f"DCIGN: likelihood must be one of {list(LIKELIHOODS)}, got {likelihood!r}"
            )
        self.latents, self.maps, self.image_size = latents, maps, image_size
        self.likelihood = likelihood
        inner = image_size
        for _ in range(3):
            inner = (inner - 4) // 2
        start = inner if image_size == SIDE else image_size // 16
        padding = 0 if image_size == SIDE else 3
        self.start = (maps // 4, start, start)
        self.encoder = nn.ModuleList(
            nn.Conv2d(a, b, 5) for a, b in ((1, maps), (maps, maps // 2), (maps // 2, maps // 4))
        )
        features = maps // 4 * inner**2
        self.mu = LinearCR(features, latents)
        self.log_variance = LinearCR(features, latents)
        self.expand = LinearCR(latents, maps // 4 * start**2)
        out = 1 if likelihood == "bernoulli" else 2
        self.decoder = nn.ModuleList(
            UpConv(a, b, padding)
            for a, b in ((maps // 4, maps // 2), (maps // 2, maps), (maps, maps), (maps, out))
        )

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, log_variance), both (N, latents) float32, of images (N, 1, S, S) in [0, 1].

        The outputs of the two heads: nothing is clamped here. Deterministic and differentiable.
        Raises ValueError for another shape.
        """
        if image.ndim != 4 or image.shape[1:] != (1, self.image_size, self.image_size):
            raise ValueError(
                f"encode: image must be [N, 1, {self.image_size}, {self.image_size}], "
                f"got {list(image.shape)}"
            )
        h = _one_channel_last(image) if _has_channels_last(self.encoder[1]) else image
        for layer in self.encoder:
            h = threshold(F.max_pool2d(layer(h), 2))
        with _exact(h):
            h = h.float().flatten(1)  # channel, row, column
            return self.mu(h), self.log_variance(h)

    def sample(self, mu: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
        """z = mu + exp(log_variance / 2) * noise; noise is standard normal, (N, latents)."""
        return mu + torch.exp(0.5 * log_variance) * noise

    def decode(self, z: Tensor) -> Tensor:
        """Images (N, 1, S, S) float32 in [0, 1] from codes (N, latents). Differentiable.

        The means of the likelihood; those of a gaussian one are clipped to [0, 1].
        """
        return self.image(self.decode_parameters(z))

    def image(self, parameters: Tensor) -> Tensor:
        """The image in [0, 1] that parameters of the likelihood mean; see `decode`."""
        if self.likelihood == "bernoulli":
            return torch.sigmoid(parameters)
        return parameters[:, :1].clamp(0, 1)

    def decode_parameters(self, z: Tensor) -> Tensor:
        """What the likelihood is computed from, float32: logits (N, 1, S, S) of a bernoulli one;
        (N, 2, S, S), mean and log variance, of a gaussian one. z (N, latents).

        Raises ValueError for another shape.
        """
        if z.ndim != 2 or z.shape[1] != self.latents:
            raise ValueError(f"decode: z must be [N, {self.latents}], got {list(z.shape)}")
        with _exact(z):
            h = threshold(self.expand(z.float()))
        h = h.view(-1, *self.start)
        if _has_channels_last(self.decoder[0]):
            h = h.contiguous(memory_format=torch.channels_last)
        for layer in self.decoder[:-1]:
            h = threshold(layer(h))
        return self.decoder[-1](h).float()

    def forward(self, image: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(image, mu, log_variance): the reconstruction, from the code's mean or a sample of it.

        noise  standard normal (N, latents), as the originals always add; None: z = mu
        """
        mu, log_variance = self.encode(image)
        z = mu if noise is None else self.sample(mu, log_variance, noise)
        return self.decode(z), mu, log_variance


def build(options: Mapping[str, Any]) -> DCIGN:
    """The network that the options `dim_hidden`, `feature_maps`, `image_size` and `likelihood`
    describe. Raises ValueError for sizes that cannot be.
    """
    return DCIGN(
        options["dim_hidden"],
        options["feature_maps"],
        options.get("image_size", SIDE),
        options.get("likelihood", "bernoulli"),
    )


def _exact(x: Tensor) -> torch.autocast:
    """The layers at the code run in float32: its latents reach 20, where bf16 has steps of 0.1."""
    return torch.autocast(x.device.type, enabled=False)


def _one_channel_last(image: Tensor) -> Tensor:
    """The image with strides that say NHWC. With one channel they say nothing by themselves, and
    the first convolution and its pooling would run as NCHW, at a third of the speed.
    """
    _, c, h, w = image.shape
    image = image.contiguous()
    return image.as_strided(image.shape, (c * h * w, 1, w * c, c))


def _has_channels_last(layer: nn.Module) -> bool:
    """True if the weights of a convolution are laid out as NHWC."""
    return isinstance(layer.weight, Tensor) and _is_channels_last(layer.weight)


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
