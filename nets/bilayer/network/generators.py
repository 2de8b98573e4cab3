"""The texture generator, the inference generator, and the projector of their parameters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.bilayer.network.encoders import EMBEDS
from nets.bilayer.network.layers import Chain, Pair, Residual, activation, doublings, norm2d
from nets.spectral import Conv, Linear, Spectral

BOTTLENECK = 32  # side, pixels, to which an embedding as wide as the generator is pooled


class Projector(nn.Module):
    """The pairs of a generator's adaptive layers, in the order of their use.

    Stage p reads embedding p. It predicts the pairs of block p's second norm and skip, and of the
    norm after the block. That norm is the first of block p + 1, or the final one. The channels of
    the embedding become the rows of the parameters. Three fully connected layers without
    activations predict each set.
    """

    def __init__(
        self,
        embeds: Sequence[int],  # channels of the embeddings
        hidden: Sequence[int],  # hidden widths, one per stage
        inputs: Sequence[int],  # input channels of each block of the generator
        outputs: Sequence[int],  # output channels of each block
        norm: str,  # norm of the generator
        skip: str = "ada_conv",
        pixel_bias: str = "none",
        eps: float = 1e-7,
    ):
        super().__init__()
        if len(embeds) != len(outputs):
            raise ValueError(
                f"bilayer: a generator of {len(outputs)} blocks needs as many embeddings, "
                f"got {len(embeds)}; tex_input_tensor_size and inf_input_tensor_size must agree"
            )
        self.shapes: list[tuple[int, int]] = []  # (rows, side) of each stage
        self.fc_blocks = nn.ModuleList()
        for c, h, a, b in zip(embeds, hidden, inputs, outputs, strict=True):
            side = BOTTLENECK * a // h
            if c * a != b * h or side * h != BOTTLENECK * a:
                raise ValueError(
                    f"bilayer: a stage with {c} embedding channels of hidden width {h} cannot "
                    f"serve a block {a} -> {b}; emb, tex and inf channels must be in one ratio"
                )
            self.shapes.append((b, side))
            sizes = _set_sizes(norm, skip, pixel_bias, a, b)
            features = c * side**2 // b
            stacks = [
                nn.Sequential(
                    Linear(features, h, eps),
                    Linear(h, h, eps),
                    Linear(h, size, eps),
                )
                for size in sizes
            ]
            self.fc_blocks.append(nn.ModuleList(stacks))

    def forward(self, embeds: Sequence[Tensor]) -> list[Pair]:
        """Pairs (weight, bias), each with one row per identity.

        norm             (b, C) and (b, C)
        1x1 convolution  (b, out, in, 1, 1) and (b, out)
        """
        pairs = []
        for embed, stacks, (rows, side) in zip(embeds, self.fc_blocks, self.shapes, strict=True):
            b, s = len(embed), embed.shape[-1]
            repeat = side // s
            if repeat * s != side:
                embed, repeat = F.adaptive_avg_pool2d(embed, side), 1
            x = embed.reshape(b * rows, -1)
            for stack in stacks.children():
                first, second, third = stack.children()
                assert isinstance(first, Linear)
                # Pooling to a multiple of the side repeats pixels. Summing the columns of one
                # pixel is the same and cheaper (test_projector_repeats_pixels).
                weight = _sum_repeats(first, side // repeat, repeat)
                y = F.linear(x, weight, first.bias)
                y = third(second(y)).view(b, rows, -1)
                weight, bias = y[..., :-1], y[..., -1]
                plain = weight.shape[-1] == 1
                pairs.append((weight[..., 0] if plain else weight[..., None, None], bias))
        return pairs


def _set_sizes(norm: str, skip: str, pixel_bias: str, a: int, b: int) -> list[int]:
    """Outputs of the sets of one stage, in the order of `Residual`: input channels + 1 each."""
    norms = ([b + 1] * 2 if "spade" in norm else [2]) if norm.startswith("ada") else []
    bias = [b + 1] if pixel_bias.startswith("adaptive") else []
    return bias + norms + bias + ([a + 1] if skip == "ada_conv" else []) + norms


def _sum_repeats(layer: Spectral, side: int, repeat: int) -> Tensor:
    """The layer's weight with the columns of repeated pixels summed."""
    weight = layer.effective_weight()
    if repeat == 1:
        return weight
    split = weight.view(len(weight), -1, side, repeat, side, repeat)
    return split.sum((3, 5)).flatten(1)


class Generator(nn.Module):
    """Residual blocks that each double the size, a final norm and activation, and the heads."""

    def __init__(
        self,
        widths: Sequence[int],  # channels before, between and after the blocks
        size: int,  # side of the input, pixels
        heads: Sequence[int],  # channels of each output
        norm: str,
        act: str,
        up: str,
        skip: str,
        efficient: bool,  # upsample after the first convolution of a block
        pixel_bias: str = "none",
        eps: float = 1e-7,
        momentum: float = 1.0,
    ):
        super().__init__()
        # The very first norm is static, since no stage of the projector is before it.
        first = norm.replace("ada_", "").replace("spade_", "")
        self.blocks = nn.ModuleList()
        for i, (a, b) in enumerate(pairwise(widths)):
            self.blocks.append(
                Residual(
                    a,
                    b,
                    (norm if i else first, norm),
                    act,
                    up=up,
                    side=size,
                    efficient=efficient,
                    skip=skip,
                    pixel_bias=pixel_bias,
                    eps=eps,
                    momentum=momentum,
                )
            )
            size *= 2
        self.blocks.append(norm2d(norm, widths[-1], size, eps, momentum))
        self.blocks.append(activation(act))
        self.heads = nn.ModuleList(nn.Sequential(Conv(widths[-1], c, 3, eps)) for c in heads)

        self.sets = sum(getattr(m, "sets", 0) for m in self.modules())

    def forward(self, x: Tensor, pairs: Sequence[Pair]) -> list[Tensor]:
        """The output of each head, (N, C, S, S), without its last nonlinearity.

        x      (N, C, s, s)
        pairs  of N / t identities, as `Projector` predicts them
        Raises ValueError on another number of pairs.
        """
        if len(pairs) != self.sets:
            raise ValueError(
                f"bilayer: this generator takes {self.sets} predicted pairs, got {len(pairs)}"
            )
        rest = iter(pairs)
        for block in self.blocks[:-2]:
            x = block(x, rest)[0]
        x = Chain(*self.blocks[-2:])(x, rest)
        return [head(x) for head in self.heads]


class TextureGenerator(nn.Module):
    """The RGB texture of a head, in a fixed frame.

    55,664,993 parameters at 256 px with the published widths.
    """

    def __init__(
        self,
        size: int = 256,  # side of the texture, pixels
        channels: int = 64,
        max_channels: int = 512,
        input_size: int = 4,
        norm: str = "ada_spade_bn",
        pixel_bias: str = "none",
        act: str = "leakyrelu",
        up: str = "nearest",
        skip: str = "ada_conv",
        embed_channels: int = 64,  # of the identity embedder; sets the projector's hidden widths
        embed_max_channels: int = 512,
        eps: float = 1e-7,
        momentum: float = 1.0,
    ):
        super().__init__()
        count = doublings(size, input_size, "image_size / tex_input_tensor_size")
        widths = [min(channels * 2**i, max_channels) for i in range(count, -1, -1)]
        hidden = [min(embed_channels * 2**i, embed_max_channels) for i in range(count, 0, -1)]
        self.gen_tex_input = nn.Parameter(torch.randn(1, widths[0], input_size, input_size))
        self.gen_tex = Generator(
            widths, input_size, [3], norm, act, up, skip, False, pixel_bias, eps, momentum
        )
        self.prj_tex = Projector(
            widths[1:], hidden, widths[:-1], widths[1:], norm, skip, pixel_bias, eps
        )

    def forward(self, embeds: Sequence[Tensor]) -> Tensor:
        """The textures of b identities, (b, 3, S, S) in [-1, 1].

        embeds  of `IdentityEmbedder`, (b, C, s, s) each
        """
        start = self.gen_tex_input.expand(len(embeds[0]), -1, -1, -1)
        return self.gen_tex(start, self.prj_tex(embeds))[0].tanh()


class Layers(NamedTuple):
    """The layers of N images.

    delta          (N, 2, S, S) in [-1, 1], offsets (x, y) from a pixel to its place in the texture
    low_frequency  (N, 3, S, S) in [-1, 1]
    logits         (N, 1, S, S), of the foreground; None if the network predicts no mask
    """

    delta: Tensor
    low_frequency: Tensor
    logits: Tensor | None


def identity_grid(size: int) -> Tensor:
    """The centres (x, y) of the pixels in [-1, 1], (1, size, size, 2)."""
    centres = (torch.arange(size) * 2 + 1) / size - 1
    return torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1)[None]


class InferenceGenerator(nn.Module):
    """The layers of an image, frame by frame.

    11,844,068 parameters at 256 px with the published widths.
    """

    identity_grid: Tensor  # (1, S, S, 2)

    def __init__(
        self,
        size: int = 256,  # side of the images, pixels
        channels: int = 32,
        max_channels: int = 256,
        input_size: int = 4,
        norm: str = "ada_bn",
        act: str = "leakyrelu",
        up: str = "nearest",
        skip: str = "ada_conv",
        segmentation: bool = True,  # predict a mask
        embed_channels: int = 64,
        embed_max_channels: int = 512,
        embeds: Sequence[int] = EMBEDS,  # channels of the embeddings
        eps: float = 1e-7,
        momentum: float = 1.0,
    ):
        super().__init__()
        if norm.startswith("ada_spade"):
            raise ValueError("bilayer: inf_norm_layer_type must not have maps of its own (spade)")
        count = doublings(size, input_size, "image_size / inf_input_tensor_size")
        widths = [min(channels * 2**i, max_channels) for i in range(count, -1, -1)]
        hidden = [min(embed_channels * 2**i, embed_max_channels) for i in range(count, 0, -1)]
        self.register_buffer("identity_grid", identity_grid(size))
        heads = [2, 3, 1] if segmentation else [2, 3]
        self.gen_inf = Generator(
            widths, input_size, heads, norm, act, up, skip, True, "none", eps, momentum
        )
        self.prj_inf = Projector(embeds, hidden, widths[:-1], widths[1:], norm, skip, "none", eps)

    def forward(self, pose_embeds: Tensor, pairs: Sequence[Pair]) -> Layers:
        """The layers of N images.

        pose_embeds  (N, C, s, s)
        pairs        of N / t identities, from `prj_inf`
        """
        delta, low, *rest = self.gen_inf(pose_embeds, pairs)
        return Layers(delta.tanh(), low.tanh(), rest[0] if rest else None)

    def uvs(self, delta: Tensor) -> Tensor:
        """Places (x, y) in the texture, (N, S, S, 2), of offsets (N, 2, S, S).

        The texture is [-1, 1], pixel centres (align_corners=False).
        """
        return self.identity_grid + delta.permute(0, 2, 3, 1)
