"""Bilayer head avatars: training steps with the discriminator and all losses but VGG's, and frames.

The peer is the same networks computed the way their published program did: 1x1 skips behind the
upsampling and before the pooling, embeddings repeated to the projectors' 1024 or 512 inputs, NCHW,
Adam without fusing, a lookup with a grid in memory, nothing folded and nothing kept between frames
but the avatar. (That program leaves the discriminator untrained by mistake; here it is trained.)
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.bilayer import Avatar, Bilayer, Driver, fold
from nets.bilayer.losses import Losses
from nets.bilayer.network import build
from nets.bilayer.network.generators import Projector
from nets.bilayer.network.layers import Pair, Residual
from nets.run.precision import Precision

NO_VGG = "adversarial, feature_matching, pixelwise, segmentation, warping_regularizer"
TEST = ("identity_embedder", "texture_generator", "keypoints_embedder", "inference_generator")


class Row(NamedTuple):
    """A row of the table; `widths` of the finest maps, half of that for the inference generator."""

    name: str
    size: int
    width: int
    most: int

    batch = 2
    contenders = ("fp32", "bf16", "published")

    @property
    def options(self) -> dict[str, Any]:
        """Flags of train_bilayer.py."""
        of = {f"{net}_num_channels": self.width for net in ("emb", "tex", "dis")}
        of |= {f"{net}_max_channels": self.most for net in ("emb", "tex", "dis")}
        of |= {"inf_num_channels": self.width // 2, "inf_max_channels": self.most // 2}
        return of | {"image_size": self.size, "losses_train": NO_VGG}

    def contender(self, name: str, device: torch.device, compiled: bool) -> Contender:
        return Contender(self, name, device, compiled)


ROWS = [Row("bilayer-64", 64, 16, 128), Row("bilayer-128", 128, 32, 256)]


def published_block(self: Residual, x: Tensor, pairs: Any = None) -> tuple[Tensor, Tensor]:
    feats = self.block_feats(x, pairs)
    return self.block(feats, pairs) + self.skip(x, pairs), feats


def published_projector(self: Projector, embeds: Sequence[Tensor]) -> list[Pair]:
    pairs = []
    for embed, stacks, (rows, side) in zip(embeds, self.fc_blocks, self.shapes, strict=True):
        b = len(embed)
        x = F.adaptive_avg_pool2d(embed, side).reshape(b * rows, -1)
        for stack in stacks:
            y = stack(x).view(b, rows, -1)
            weight, bias = y[..., :-1], y[..., -1]
            plain = weight.shape[-1] == 1
            pairs.append((weight[..., 0] if plain else weight[..., None, None], bias))
    return pairs


def as_published(net: Bilayer) -> Bilayer:
    """The networks with every block and projector computed the published way."""
    for module in net.modules():
        if isinstance(module, Residual):
            module.forward = types.MethodType(published_block, module)
        if isinstance(module, Projector):
            module.forward = types.MethodType(published_projector, module)
    return net


@torch.no_grad()
def published_frame(net: Bilayer, avatar: Avatar, poses: Tensor) -> tuple[Tensor, Tensor]:
    """Image and mask of each pose (N, 136), of one identity, as the published program has them."""
    embeds = net.keypoints_embedder(poses[None])[0]
    delta, low, logits = net.inference_generator(embeds, avatar.pairs)
    texture = avatar.texture.expand(len(poses), -1, -1, -1)
    uvs = net.inference_generator.uvs(delta)
    return low + F.grid_sample(texture, uvs, align_corners=False), logits.sigmoid()


def trained_like(net: Bilayer) -> Bilayer:
    """Statistics of BatchNorm as training leaves them, seeded."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.3)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    return net


def batch_of(size: int, n: int, device: torch.device, seed: int = 0) -> dict[str, Tensor]:
    """A seeded batch for `Bilayer.forward`."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return (torch.rand(n, 1, *shape, generator=generator) * 2 - 1).to(device)

    data = {}
    for role in ("source", "target"):
        data |= {f"{role}_{kind}": draw(3, size, size) for kind in ("imgs", "stickmen")}
        data |= {f"{role}_segs": draw(1, size, size).abs(), f"{role}_poses": draw(136)}
    return data


class Contender:
    """One way of computing a row: its training step and its frames."""

    def __init__(self, row: Row, name: str, device: torch.device, compiled: bool):
        self.peer = name == "published"
        self.precision = Precision("fp32" if self.peer else name, device, not self.peer)
        torch.manual_seed(0)
        self.net = self.precision.place(build(row.options))
        self.losses = Losses(row.options)
        self.optimizer = torch.optim.Adam(
            [p for _, some in self.net.trainable() for p in some],
            2e-4, (0.5, 0.999), 1e-7, fused=not self.peer,
        )  # fmt: skip
        self.data = batch_of(row.size, row.batch, device)
        torch.manual_seed(0)
        ready = fold(trained_like(build(row.options, TEST)).to(device).eval())
        one = {key: value[:1] for key, value in self.data.items()}
        avatar = ready.create_avatar(
            one["source_imgs"], None, one["source_stickmen"], one["source_segs"]
        )
        self.poses = self.data["target_poses"][:, 0]
        if self.peer:
            as_published(self.net), as_published(ready)
            self.frames = lambda: published_frame(ready, avatar, self.poses)
        else:
            self.frames = Driver(ready, avatar, self.precision.dtype)
            driver = torch.compile(self.frames) if compiled else self.frames
            self.frames = lambda: driver(self.poses)
        if compiled:
            self.net.compile()

    def step(self) -> None:
        with self.precision.autocast():
            terms = self.losses(self.net(self.data))
        self.optimizer.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        self.optimizer.step()

    @torch.no_grad()
    def forward(self, random: bool = True) -> Tensor:
        """An image for each pose of the batch, of one identity; nothing in it is random."""
        return self.frames()[0]
