"""VUNet: a variational U-Net for the appearance and the shape of an image.

Esser, Sutter, Ommer, "A Variational U-Net for Conditional Appearance and Shape Generation", CVPR
2018. A U-Net turns a stick figure into an image. An encoder turns an appearance into unit-variance
Gaussian latents at the two coarsest scales, which enter at the bottleneck. There are two forms:

`VUNet.parts`  the appearance is 8 rectified body-part crops; weight normalisation with
               data-dependent initialisation; coarsest map 2x2 or 4x4
`VUNet.image`  the appearance is a whole image; coarsest map 1x1

Parameters, equal to the published numbers. The published parts form has 1,230,848 more, which never
receive a gradient and are not built here.

    parts  256 px                                         46,042,118
    parts  128 px                                         46,188,422
    image  256 px, tanh                                   19,457,859
    image  256 px, normalised                             19,510,860
    image  128 px, tanh                                   17,358,915
    image  128 px, normalised                             17,406,540
    image  128 px, normalised, widths 32 and 64            4,367,660

tests/published/published_vunet.py computes both forms from the published programs' description and
weights alone. Image and means agree with it (`nets.vunet.published`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nets.layers import depth_to_space
from nets.vunet.layers import Down, NormConv2d, ResidualBlock, Up, space_to_depth

Pair = tuple[Tensor, Tensor]  # tensors of the two scales with latents: coarse, fine


class HiddenPrior(nn.Module):
    """Prior of the coarsest latent of the image form: the hidden state itself is the mean."""

    def forward(self, h: Tensor, value: Tensor, sample: bool) -> Pair:
        """Mean and latent of a hidden state.

        value   the latent; with `sample`, the noise that is added to the mean instead
        """
        return h, h + value if sample else value


class GroupPrior(nn.Module):
    """Autoregressive prior of the parts form, over the four positions of each 2x2 cell.

    Hidden states have 4C channels. 3x3 convolutions project them to the means.
    """

    def __init__(self, width: int, norm: str, dropout: float):
        super().__init__()
        self.block = ResidualBlock(width, 0, norm, dropout)
        self.means = nn.ModuleList(NormConv2d(4 * width, width, norm=norm) for _ in range(4))
        self.feedback = nn.ModuleList(
            ResidualBlock(4 * width, width, norm, dropout) for _ in range(3)
        )

    def forward(self, h: Tensor, value: Tensor, sample: bool) -> Pair:
        """Mean and latent of a hidden state; see `HiddenPrior`."""
        t = space_to_depth(self.block(h))
        groups = space_to_depth(value).chunk(4, dim=1)
        means, latents = [], []
        for i in range(4):
            means.append(self.means[i](t))
            latents.append(means[i] + groups[i] if sample else groups[i])
            if i < 3:
                t = self.feedback[i](t, latents[i])
        mean = depth_to_space(torch.cat(means, dim=1))
        return mean, depth_to_space(torch.cat(latents, dim=1)) if sample else value


class ReducedPrior(nn.Module):
    """Autoregressive prior of the fine latent of the image form, over the four positions of a cell.

    A 1x1 convolution reduces hidden states to C channels. The states are the means.

    wiring "chain"  t_{i+1} = A_{i+1}(t_i, group i): every block used once
    wiring "port"   t_1 = A_0(t_0), then A_1, A_2 with groups 1, 2: as in the published program
    Mean, latent and noise are in space-to-depth form, (N, 4C, 1, 1).
    """

    def __init__(self, width: int, norm: str, dropout: float, wiring: str):
        super().__init__()
        self.wiring = wiring
        self.blocks = nn.ModuleList(
            ResidualBlock(width, width if i else 0, norm, dropout, skip_activation=False)
            for i in range(4)
        )
        self.reduce = NormConv2d(4 * width, width, 1, norm=norm)

    def forward(self, h: Tensor, value: Tensor, sample: bool) -> Pair:
        """Mean and latent of a hidden state; see `HiddenPrior`."""
        t = self.reduce(space_to_depth(self.blocks[0](h)))
        groups = value.chunk(4, dim=1)
        means, latents = [], []
        for i in range(4):
            means.append(t)
            latents.append(t + groups[i] if sample else groups[i])
            if i == 3:
                break
            if self.wiring == "chain":
                t = self.blocks[i + 1](t, latents[i])
            else:
                t = self.blocks[i](t, latents[i]) if i else self.blocks[0](t)
        return torch.cat(means, dim=1), torch.cat(latents, dim=1) if sample else value


MODES = ("train", "transfer", "sample")
LATENTS = 2


class Noise(NamedTuple):
    """Standard normal noise, coarsest first; each tensor is shaped like the mean it is added to."""

    posterior: Pair
    prior: Pair

    def rows(self, rows: slice) -> Noise:
        """The noise of some of the images."""
        posterior, prior = ((coarse[rows], fine[rows]) for coarse, fine in self)
        return Noise(posterior, prior)


class VUNetOutput(NamedTuple):
    """An image, and the means of its latents."""

    image: Tensor  # (N, 3, S, S), about [-1, 1]; with tanh inside (-1, 1)
    posterior: Pair | None  # None in mode "sample"
    prior: Pair  # of the first images only, if asked for


class Encoder(nn.Module):
    """All block outputs of a stack of scales, finest first.

    Layers: a 1x1 convolution, then two residual blocks a scale.
    """

    def __init__(self, channels: int, widths: list[int], norm: str, padding: str, dropout: float):
        super().__init__()
        self.enter = NormConv2d(channels, widths[0], 1, norm=norm)
        self.blocks = nn.ModuleList(
            nn.ModuleList(ResidualBlock(w, 0, norm, dropout) for _ in range(2)) for w in widths
        )
        self.downs = nn.ModuleList(Down(a, b, norm, padding) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs, h = [], self.enter(x)
        for scale, blocks in enumerate(self.blocks):
            if scale:
                h = self.downs[scale - 1](h)
            for block in blocks.children():
                h = block(h)
                outputs.append(h)
        return outputs


class Posterior(nn.Module):
    """Posterior of the parts form: means of the latents, by a 3x3 projection at each scale."""

    def __init__(self, widths: list[int], norm: str, dropout: float):
        super().__init__()
        top, fine = widths[-1], widths[-2]
        self.enter = NormConv2d(top, top, 1, norm=norm)
        self.block = ResidualBlock(top, top, norm, dropout)
        self.mean = NormConv2d(top, top, norm=norm)
        self.merge = ResidualBlock(top, 2 * top, norm, dropout)
        self.up = Up(top, fine, norm)
        self.block_fine = ResidualBlock(fine, fine, norm, dropout)
        self.mean_fine = NormConv2d(fine, fine, norm=norm)

    def forward(self, kept: list[Tensor], noise: Pair | None) -> tuple[Tensor, Tensor, Tensor]:
        """Coarse mean, fine mean and coarse latent, from the outputs of an `Encoder`."""
        h = self.block(self.enter(kept[-1]), kept[-1])
        mean = self.mean(h)
        z = mean if noise is None else mean + noise[0]
        h = self.merge(h, torch.cat([kept[-2], z], dim=1))
        h = self.block_fine(self.up(h), kept[-3])
        return mean, self.mean_fine(h), z


class ImagePosterior(nn.Module):
    """Posterior of the image form: means of the latents, which are hidden states.

    The fine mean is in space-to-depth form, (N, 4C, 1, 1).
    """

    def __init__(self, widths: list[int], norm: str, dropout: float):
        super().__init__()
        top, fine = widths[-1], widths[-2]
        self.enter = NormConv2d(top, top, 1, norm=norm)
        self.block = ResidualBlock(top, top, norm, dropout, skip_activation=False)
        self.merge_z = NormConv2d(2 * top, top, 1, norm=norm)
        self.merge = ResidualBlock(top, top, norm, dropout, skip_activation=False)
        self.up = Up(top, fine, norm)
        self.block_fine = ResidualBlock(fine, fine, norm, dropout, skip_activation=False)

    def forward(self, kept: list[Tensor], noise: Pair | None) -> tuple[Tensor, Tensor, Tensor]:
        """Coarse mean, fine mean and coarse latent, from the outputs of an `Encoder`."""
        mean = self.block(self.enter(kept[-1]), kept[-2])
        z = mean if noise is None else mean + noise[0]
        h = self.merge(mean, self.merge_z(torch.cat([kept[-2], z], dim=1)))
        h = self.block_fine(self.up(h), kept[-4])
        return mean, space_to_depth(h), z


class Decoder(nn.Module):
    """The image of pose features and latents, and the priors' means of the latents."""

    def __init__(
        self,
        widths: list[int],
        priors: Sequence[nn.Module],
        norm: str,
        dropout: float,
        skip_activation: bool,
        out_channels: int,
        out_kernel: int,
    ):
        super().__init__()
        down = widths[::-1]
        self.enter = NormConv2d(down[0], down[0], 1, norm=norm)
        self.blocks = nn.ModuleList(
            nn.ModuleList(ResidualBlock(w, w, norm, dropout, skip_activation) for _ in range(2))
            for w in down
        )
        self.ups = nn.ModuleList(Up(a, b, norm) for a, b in pairwise(down))
        self.priors = nn.ModuleList(priors)
        self.merges = nn.ModuleList(NormConv2d(2 * w, w, 1, norm=norm) for w in down[:LATENTS])
        self.leave = NormConv2d(down[-1], out_channels, out_kernel, norm=norm)

    def forward(
        self, kept: list[Tensor], values: Pair, sample: bool, priors_of: int | None = None
    ) -> tuple[Tensor, Pair]:
        """Image and prior means, from the outputs of an `Encoder`.

        values     the latents; with `sample`, the noise that is added to the priors' means instead
        priors_of  the priors' means of the first images only; None: of all
        """
        kept, means = kept[::-1], []
        h = self.enter(kept[0])
        for scale, blocks in enumerate(self.blocks):
            first, second = blocks.children()
            if scale:
                h = self.ups[scale - 1](h)
            h = first(h, kept[2 * scale])
            if scale < LATENTS:
                z = values[scale]
                if priors_of is None:
                    mean, z = self.priors[scale](h, z, sample)
                else:
                    mean, _ = self.priors[scale](h[:priors_of], z[:priors_of], sample=False)
                means.append(mean)
                if z.shape[1] != h.shape[1]:  # a fine latent in space-to-depth form
                    z = depth_to_space(z)
                h = self.merges[scale](torch.cat([h, z], dim=1))
            h = second(h, kept[2 * scale + 1])
        coarse, fine = means
        return self.leave(h), (coarse, fine)


def _scales(side: int, coarsest: int, name: str) -> int:
    """Number of halvings from `side` to `coarsest`, plus one."""
    ratio = side // coarsest
    if ratio < 1 or side != ratio * coarsest or ratio & (ratio - 1):
        raise ValueError(f"VUNet: {name} must be {coarsest} times a power of two, got {side}")
    return ratio.bit_length()


class VUNet(nn.Module):
    """The network of both forms; build it with `VUNet.parts` or `VUNet.image`."""

    def __init__(
        self,
        appearance: Encoder,
        posterior: nn.Module,
        pose: Encoder,
        decoder: Decoder,
        latent_shapes: list[tuple[int, int, int]],  # of the means, coarsest first
        tanh: bool,
        border: int = 0,  # columns at the left and at the right that are black, not computed
    ):
        super().__init__()
        self.appearance, self.posterior = appearance, posterior
        self.pose, self.decoder = pose, decoder
        self.latent_shapes, self.tanh, self.border = latent_shapes, tanh, border

    @classmethod
    def parts(
        cls,
        image_size: int = 256,  # S, side of image and pose, pixels
        box_factor: int = 2,  # appearance crops have side S / 2^box_factor
        bottleneck_factor: int = 2,  # the coarsest map has side 2^bottleneck_factor
        width: int = 32,  # channels of the finest scale, doubled at each coarser one
        max_width: int = 128,  # maximum of channels
        dropout: float = 0.0,
        appearance_channels: int = 24,  # 8 crops of 3
        pose_channels: int = 3,
        out_channels: int = 3,
        image_width: int | None = None,  # computed columns, in the middle; None: all
    ) -> VUNet:
        """The network of the parts form. Raises ValueError for sizes that do not divide."""
        coarsest = 2**bottleneck_factor
        n = _scales(image_size, coarsest, "image_size")
        if box_factor < 0 or n - box_factor < LATENTS:
            raise ValueError(
                f"VUNet: box_factor must be 0 to {n - LATENTS} for image_size {image_size} "
                f"and bottleneck_factor {bottleneck_factor}, got {box_factor}"
            )
        if bottleneck_factor < 1:
            raise ValueError(f"VUNet: bottleneck_factor must be >= 1, got {bottleneck_factor}")
        image_width = image_size if image_width is None else image_width
        cell = 2 * image_size // coarsest  # the prior of the coarsest map takes 2x2 positions
        if not 0 < image_width <= image_size or image_width % cell:
            raise ValueError(
                f"VUNet: image_width must be a multiple of {cell} up to image_size {image_size}, "
                f"got {image_width}"
            )
        columns = coarsest * image_width // image_size
        norm, padding = "weight", "same"
        widths = [min(width * 2**k, max_width) for k in range(n)]
        seen = widths[box_factor:]
        priors = [GroupPrior(w, norm, dropout) for w in widths[::-1][:LATENTS]]
        return cls(
            Encoder(appearance_channels, seen, norm, padding, dropout),
            Posterior(seen, norm, dropout),
            Encoder(pose_channels, widths, norm, padding, dropout),
            Decoder(widths, priors, norm, dropout, True, out_channels, 3),
            [(w, coarsest << k, columns << k) for k, w in enumerate(widths[::-1][:LATENTS])],
            tanh=False,
            border=(image_size - image_width) // 2,
        )

    @classmethod
    def image(
        cls,
        image_size: int = 256,  # S, side of image, appearance and pose; a power of two >= 4
        width: int = 64,  # channels of the finest scale, doubled at each coarser one
        max_width: int = 128,  # maximum of channels
        norm: str = "none",  # of the convolutions, see `NormConv2d`
        tanh: bool = True,  # the output is bounded to (-1, 1)
        dropout: float = 0.0,
        appearance_channels: int = 3,
        pose_channels: int = 3,
        out_channels: int = 3,
        wiring: str = "chain",  # of the autoregressive prior, see `ReducedPrior`
        box_factor: int = 0,  # the appearance has side S / 2^box_factor
    ) -> VUNet:
        """The network of the image form. Raises ValueError for sizes that do not divide."""
        n = _scales(image_size, 1, "image_size")
        widths = [min(width * 2**k, max_width) for k in range(n)]
        if n < 3:
            raise ValueError(f"VUNet: image_size must be >= 4, got {image_size}")
        if not 0 <= box_factor <= n - LATENTS:
            raise ValueError(
                f"VUNet: box_factor must be 0 to {n - LATENTS} for image_size {image_size}, "
                f"got {box_factor}"
            )
        padding, seen = "symmetric", widths[box_factor:]
        priors = [HiddenPrior(), ReducedPrior(widths[-2], norm, dropout, wiring)]
        return cls(
            Encoder(appearance_channels, seen, norm, padding, dropout),
            ImagePosterior(seen, norm, dropout),
            Encoder(pose_channels, widths, norm, padding, dropout),
            Decoder(widths, priors, norm, dropout, False, out_channels, 1),
            [(widths[-1], 1, 1), (4 * widths[-2], 1, 1)],
            tanh=tanh,
        )

    def noise(
        self,
        n: int,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Noise:
        """Standard normal noise for n images: posterior coarse, fine, then prior coarse, fine."""
        draws = [
            torch.randn(n, *shape, device=device, generator=generator)
            for shape in [*self.latent_shapes, *self.latent_shapes]
        ]
        return Noise((draws[0], draws[1]), (draws[2], draws[3]))

    def encode(self, appearance: Tensor, noise: Pair | None = None) -> tuple[Pair, Pair]:
        """Posterior means and latents of an appearance in [-1, 1]: two pairs (coarse, fine).

        appearance  (N, 24, s, s) stacked crops or (N, 3, S, S) images, as narrow as the image
        noise       added to the means; None: the latents are the means at both scales
        """
        coarse, fine, z = self.posterior(self.appearance(appearance), noise)
        return (coarse, fine), (z, fine if noise is None else fine + noise[1])

    def decode(
        self,
        pose: Tensor,
        latents: Pair | None = None,
        noise: Pair | None = None,
        priors_of: int | None = None,
    ) -> tuple[Tensor, Pair]:
        """Image (N, 3, S, S) and prior means for a stick figure (N, 3, S, S) in [-1, 1].

        latents    from `encode`; None: samples of the prior, its means plus `noise`
        noise      None: fresh noise
        priors_of  with latents: the means of the first images only, which saves work; None: of all
        """
        if latents is None and noise is None:
            noise = self.noise(len(pose), pose.device).prior
        values = noise if latents is None else latents
        pose = pose[..., self.border : pose.shape[-1] - self.border]
        sample = latents is None
        image, prior = self.decoder(self.pose(pose), values, sample, None if sample else priors_of)
        image = torch.tanh(image) if self.tanh else image
        if self.border:
            image = nn.functional.pad(image, (self.border, self.border), value=-1.0)
        return image, prior

    def forward(
        self,
        pose: Tensor,
        appearance: Tensor | None = None,
        mode: str = "train",
        noise: Noise | None = None,
        priors_of: int | None = None,
    ) -> VUNetOutput:
        """One pass: the image, the posterior's means and the prior's, each coarse and fine.

        Tensors in [-1, 1]; see `encode` and `decode` for their shapes.

        mode "train"     latents are posterior samples: means plus `noise` (None: fresh noise)
        mode "transfer"  latents are the posterior means; deterministic. With `noise` given, the
                         fine mean follows a sampled coarse latent, as in the published code
        mode "sample"    latents are prior samples; the appearance is ignored
        With noise of zeros, train and transfer are the same function.

        priors_of  as in `decode`; no matter in mode "sample"
        """
        if mode not in MODES:
            raise ValueError(f"VUNet: mode must be one of {', '.join(MODES)}, got {mode!r}")
        if mode == "sample":
            image, prior = self.decode(pose, None, None if noise is None else noise.prior)
            return VUNetOutput(image, None, prior)
        if appearance is None:
            raise ValueError(f"VUNet: mode {mode!r} needs an appearance")
        if mode == "train" and noise is None:
            noise = self.noise(len(pose), pose.device)
        means, latents = self.encode(appearance, None if noise is None else noise.posterior)
        latents = means if mode == "transfer" else latents
        image, prior = self.decode(pose, latents, priors_of=priors_of)
        return VUNetOutput(image, means, prior)


def build(options: Mapping[str, Any]) -> VUNet:
    """The network that a run's options describe; see `python train_vunet.py --help` for them.

    Raises ValueError for an unknown variant and for sizes that do not divide.
    """
    crops = options["appearance"] == "crops"
    common = {
        "image_size": options["image_size"],
        "width": options["nf_start"],
        "max_width": options["nf_max"],
        "dropout": options["drop_prob"],
        "pose_channels": options["pose_channels"],
        "out_channels": options["out_channels"],
        "appearance_channels": options["img_channels"] * (8 if crops else 1),
        "box_factor": options["box_factor"] if crops else 0,
    }
    narrow = options.get("image_width")
    if options["variant"] == "parts":
        bottleneck = options["bottleneck_factor"]
        return VUNet.parts(bottleneck_factor=bottleneck, image_width=narrow, **common)
    if narrow not in (None, options["image_size"]):
        raise ValueError("VUNet: image_width must be image_size for the variant image")
    if options["variant"] == "image":
        return VUNet.image(
            norm=options["conv"], tanh=options["tanh"], wiring=options["wiring"], **common
        )
    raise ValueError(f"VUNet: variant must be parts or image, got {options['variant']!r}")
