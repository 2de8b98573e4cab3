"""DC-IGN: a convolutional variational autoencoder of grey images.

Kulkarni, Whitney, Kohli, Tenenbaum, "Deep Convolutional Inverse Graphics Network", NIPS 2015.
Single latents come to stand for azimuth, elevation and light by the training (`nets.dcign.code`),
not by the network.

The tests compare it with the published network: 4,131,137 parameters with 200 latents and 96 maps,
2,834,977 with 120 latents; and the side of the maps at each stage. `named_parameters` has the order
of the published flat vector, weight before bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.dcign.losses import LIKELIHOODS
from nets.layers import depth_to_space

SIDE = 150  # side of the published network's images, pixels
FLOOR = 1e-6  # output of the published threshold for inputs not above 0
CODE_SPREAD = 0.01  # standard deviation of initial weights and biases of fully connected layers


class LinearCR(nn.Linear):
    """A fully connected layer with initial weights and biases from normal(0, 0.01)."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, 0.0, CODE_SPREAD)
        nn.init.normal_(self.bias, 0.0, CODE_SPREAD)


def threshold(x: Tensor) -> Tensor:
    """x where x > 0, else 1e-6; the gradient there is 0."""
    return F.threshold(x, 0.0, FLOOR)


class UpConv(nn.Conv2d):
    """7x7 convolution of maps that nearest neighbour enlarges twice: (N, C, H, W) to side 2H - 6.

    padding  0; or 3 rows and columns of the enlarged map, which give side 2H

    It is computed without the enlarged map. Neighbouring taps of the 7x7 fall on the same pixel of
    the small map, so each output pixel depends on 4x4 of its pixels. Which taps coincide depends
    only on whether row and column are even. The taps are therefore added up for the four cases,
    one 4x4 convolution gives four times the maps, and depth to space interleaves them. This takes a
    third of the products. The parameters are those of the 7x7 convolution.
    """

    taps: Tensor  # (8, 7): for both parities, which of the 7 taps fall on each of 4 pixels

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
        # Autocast is off, so the taps are added up in the precision of the weights.
        with torch.autocast(x.device.type, enabled=False):
            weight = self.taps @ self.weight @ self.taps.T
        o, i = weight.shape[:2]
        weight = weight.view(o, i, 2, 4, 2, 4).permute(2, 4, 0, 1, 3, 5).reshape(4 * o, i, 4, 4)
        layout = torch.channels_last if _is_channels_last(x) else torch.contiguous_format
        weight = weight.contiguous(memory_format=layout)
        if self.padding[0]:  # 2 small rows are 4 enlarged ones; the surplus one is cut off below
            x = F.pad(x, (2, 2, 2, 2))
        bias = None if self.bias is None else self.bias.repeat(4)
        y = depth_to_space(F.conv2d(x, weight, bias))
        return y[..., 1:-1, 1:-1] if self.padding[0] else y


class DCIGN(nn.Module):
    """The network. Images are (N, 1, S, S), grey in [0, 1], 0 black, as in the published program.

    The code z (N, latents) is a sample of N(mu, exp(log_variance)). Its prior is N(0, 1).
    """

    def __init__(
        self,
        latents: int = 200,
        maps: int = 96,  # maps of the first convolution, a multiple of 4
        image_size: int = SIDE,  # pixels: 150 as published, or a multiple of 16 from 48
        likelihood: str = "bernoulli",  # or "gaussian": the decoder gives mean and log variance
    ):
        """Raises ValueError for an argument out of range.

        Unpadded convolutions return to the input's side for side 150 only. Other sides are an
        extension of this project: the encoder is the same, the decoder starts at S / 16 and pads.
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
        """The outputs of both heads, (mu, log_variance), each (N, latents) float32; no clamp.

        image  (N, 1, S, S) in [0, 1]
        Deterministic and differentiable. Raises ValueError for another shape.
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
        """The code z = mu + exp(log_variance / 2) * noise, all (N, latents).

        noise  standard normal
        """
        return mu + torch.exp(0.5 * log_variance) * noise

    def decode(self, z: Tensor) -> Tensor:
        """Images (N, 1, S, S) float32 in [0, 1] from codes z (N, latents). Differentiable.

        An image is the mean of the likelihood. A gaussian mean is clipped to [0, 1].
        """
        return self.image(self.decode_parameters(z))

    def image(self, parameters: Tensor) -> Tensor:
        """The image in [0, 1] from parameters of the likelihood; see `decode`."""
        if self.likelihood == "bernoulli":
            return torch.sigmoid(parameters)
        return parameters[:, :1].clamp(0, 1)

    def decode_parameters(self, z: Tensor) -> Tensor:
        """The parameters of the likelihood, float32, from codes z (N, latents).

        bernoulli  logits, (N, 1, S, S)
        gaussian   mean and log variance, (N, 2, S, S)
        Raises ValueError for another shape of z.
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
        """(reconstruction, mu, log_variance) of images (N, 1, S, S) in [0, 1].

        noise  standard normal (N, latents), which the published program always adds; None: z = mu
        """
        mu, log_variance = self.encode(image)
        z = mu if noise is None else self.sample(mu, log_variance, noise)
        return self.decode(z), mu, log_variance


def build(options: Mapping[str, Any]) -> DCIGN:
    """The network of the options dim_hidden, feature_maps, image_size and likelihood.

    Raises ValueError for an option out of range.
    """
    return DCIGN(
        options["dim_hidden"],
        options["feature_maps"],
        options.get("image_size", SIDE),
        options.get("likelihood", "bernoulli"),
    )


def _exact(x: Tensor) -> torch.autocast:
    """Autocast off, for the layers at the code: latents reach 20, where bf16 has steps of 0.1."""
    return torch.autocast(x.device.type, enabled=False)


def _one_channel_last(image: Tensor) -> Tensor:
    """The image (N, 1, H, W) with the strides of NHWC.

    With one channel both layouts have the same memory order, and PyTorch takes it for NCHW. The
    first convolution and its pooling would then run at a third of the speed.
    """
    _, c, h, w = image.shape
    image = image.contiguous()
    return image.as_strided(image.shape, (c * h * w, 1, w * c, c))


def _has_channels_last(layer: nn.Module) -> bool:
    """True if the weights of a convolution are laid out as NHWC."""
    return isinstance(layer.weight, Tensor) and _is_channels_last(layer.weight)


def _is_channels_last(x: Tensor) -> bool:
    """True if a tensor is laid out as NHWC and not also as NCHW."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
