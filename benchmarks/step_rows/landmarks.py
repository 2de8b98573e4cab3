"""Landmarks: training steps and forward passes, with and without masks.

The peer is the same network by its formulas, one operation after another, NCHW: softmax as exp over
its sum, moments as sums over a coordinate grid, inverse covariances, the projection of vectors onto
maps through a tensor of N x K x C x H x W, both shape encodings on their own, and every modulation
with its own resized maps, scale and shift; Adam without fusing. Squared error of pixels, no VGG, 30
landmarks, four images a batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.landmarks import LandmarkModel, fold
from nets.landmarks.network.unet import UNet
from nets.run.precision import Precision


class Row(NamedTuple):
    """A row of the table."""

    name: str
    masks: bool
    bf16_error: float  # untrained, instance norms of nearly constant maps amplify its rounding
    size: int = 128
    batch: int = 4
    contenders: tuple[str, ...] = ("fp32", "bf16", "published")

    def contender(self, name: str, device: torch.device, compiled: bool) -> Contender:
        return Contender(self, name, device, compiled)


ROWS = [Row("landmarks-128", False, 0.15), Row("landmarks-128-masks", True, 0.6)]


class Published(nn.Module):
    """The network of a `LandmarkModel`, computed as its paper writes it down."""

    def __init__(self, net: LandmarkModel):
        super().__init__()
        self.net = net

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        net, size = self.net, a.shape[-1]
        heat_a, _ = heatmaps(net.shape_encoder, a)
        heat_b, features = heatmaps(net.shape_encoder, b)
        maps = gaussian_maps(heat_a, size)
        looks, _ = unet(net.appearance_encoder, torch.cat([heat_b, features], 1))
        pixels = looks.shape[2] * looks.shape[3]
        vectors = (looks[:, None] * heat_b[:, :, None]).sum((3, 4)) / pixels
        spread = vectors[:, :, :, None, None] * maps[:, :, None]  # N x K x C x H x W
        style = spread.sum(1) / (1 + maps.sum(1, keepdim=True))
        image = generate(net.image_decoder, maps, style)
        if not net.masks:
            return image
        mask_a = torch.sigmoid(unet(net.fg_mask_net, maps)[0])
        mask_b = torch.sigmoid(unet(net.fg_mask_net, gaussian_maps(heat_b, size))[0])
        behind, _ = unet(net.bg_net, (1 - mask_b) * b)
        return behind * (1 - mask_a) + image * mask_a


def cir(layer: nn.Sequential, x: Tensor) -> Tensor:
    return F.relu(F.instance_norm(layer[0](x)))


def unet(net: UNet, x: Tensor) -> tuple[Tensor, Tensor]:
    def down(layer: nn.Sequential, x: Tensor) -> Tensor:
        return cir(layer[1], cir(layer[0], x))

    first = net.encoder_layers[0]
    levels = [down(first[2], cir(first[1], cir(first[0], x)))]
    for layer in net.encoder_layers[1:]:
        levels.append(down(layer, levels[-1]))
    y = cir(net.decoder_layers[0], levels[-1])
    last = len(net.decoder_layers) - 1
    for i in range(1, last + 1):
        y = y + F.relu(net.skip_convs[i - 1][0](levels[-i]))
        layer = net.decoder_layers[i][0] if i == last else net.decoder_layers[i]
        y = cir(layer[0], y)
        y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=True)
        y = cir(layer[2], y)
    return net.decoder_layers[last][1](y), levels[0]


def grid(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    axis = -1 + 2 * torch.arange(n, dtype=like.dtype, device=like.device) / n
    return torch.meshgrid(axis, axis, indexing="xy")


def heatmaps(net: UNet, image: Tensor) -> tuple[Tensor, Tensor]:
    logits, features = unet(net, image)
    weight = torch.exp(logits)
    return weight / weight.sum((2, 3), keepdim=True), features


def gaussian_maps(heat: Tensor, size: int) -> Tensor:
    x, y = grid(heat.shape[-1], heat)
    points = torch.stack([x, y], -1)  # H x W x 2
    mean = (heat[..., None] * points).sum((2, 3))
    outer = points[..., :, None] * points[..., None, :]
    second = (heat[..., None, None] * outer).sum((2, 3))
    covariance = second - mean[..., :, None] * mean[..., None, :]
    x, y = grid(size, heat)
    away = torch.stack([x, y], -1) - mean[:, :, None, None]  # N x K x H x W x 2
    distance = ((away @ torch.inverse(covariance)[:, :, None]) * away).sum(-1)
    return 1 / (1 + distance)


def spade(norm: nn.Module, x: Tensor, maps: Tensor) -> Tensor:
    maps = F.interpolate(maps, size=x.shape[2:], mode="bilinear", align_corners=False)
    hidden = F.relu(norm.mlp_shared[0](maps))
    return F.instance_norm(x) * (1 + norm.mlp_gamma(hidden)) + norm.mlp_beta(hidden)


def block(net: nn.Module, x: Tensor, maps: Tensor) -> Tensor:
    y = net.conv_0(F.leaky_relu(spade(net.norm_0, x, maps), 0.2))
    y = net.conv_1(F.leaky_relu(spade(net.norm_1, y, maps), 0.2))
    return (net.conv_s(spade(net.norm_s, x, maps)) if net.learned else x) + y


def generate(net: nn.Module, maps: Tensor, style: Tensor) -> Tensor:
    def double(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    size = maps.shape[-1]
    coarse, fine = (
        block(net.head_0, net.fc(F.interpolate(style, size=(size // r,) * 2)), maps)
        for r in (16, 8)
    )
    x = 0.5 * double(coarse) + 0.5 * fine
    x = block(net.G_middle_1, block(net.G_middle_0, x, maps), maps)
    for name in ("up_0", "up_1", "up_4"):
        x = block(getattr(net, name), double(x), maps)
    return net.conv_img(F.leaky_relu(x, 0.2))


class Contender:
    """One way of computing a row: its training step and its forward pass."""

    def __init__(self, row: Row, name: str, device: torch.device, compiled: bool):
        peer = name == "published"
        self.precision = Precision("fp32" if peer else name, device, channels_last=not peer)
        nets = []
        for _ in range(2):  # one to train, one to use
            torch.manual_seed(0)
            nets.append(self.precision.place(LandmarkModel(masks=row.masks)))
        self.net, self.ready = (Published(n) if peer else n for n in nets)
        self.ready.eval()
        if not peer:
            fold(self.ready)
        generator = torch.Generator().manual_seed(0)
        made = [torch.rand(row.batch, 3, row.size, row.size, generator=generator) for _ in range(3)]
        self.a, self.b, self.target = (
            (2 * t - 1).to(device, memory_format=self.precision.memory_format) for t in made
        )
        settings = {"weight_decay": 5e-6, "fused": not peer}
        self.optimizer = torch.optim.Adam(self.net.parameters(), 1e-4, **settings)
        if compiled:
            self.net.compile()
            self.ready.compile()

    def step(self) -> None:
        with self.precision.autocast():
            made = self.image(self.net)
        loss = (made - self.target).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def forward(self, random: bool = True) -> Tensor:
        with self.precision.autocast():
            return self.image(self.ready)

    def image(self, net: nn.Module) -> Tensor:
        made = net(self.a, self.b)
        return made if isinstance(made, Tensor) else made.reconstruction
