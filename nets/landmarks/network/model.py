"""The networks of unsupervised landmarks: pose of one image, appearance of another.

Dundar, Shih, Garg, Pottorf, Tao, Catanzaro: Unsupervised Disentanglement of Pose, Appearance and
Background from Images and Videos, arXiv 2001.09518.

Tests compare this with the published networks:

- keys, order and shapes of the state dict
- parameters, with 30 landmarks and the widths for BBC Pose: 20,589,881; with masks 31,636,957; with
  masks at low resolution 31,587,613; also the count of each part
- outputs: tests/published/published_landmarks.py computes them from the description alone
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.landmarks.network.generator import HIDDEN, SpadeGenerator
from nets.landmarks.network.unet import UNet
from nets.ops import gaussian_heatmaps, heatmap_moments
from nets.ops.autocast import full_precision
from nets.spectral import Spectral, settle

POOLINGS = ("mean", "sum")
SPREAD = 0.02  # added to the standard deviation of a colour, whose range is [-1, 1]
FLOOR = 1e-6  # smallest eigenvalue of a covariance; a pixel is 1.6e-2 wide at S = 128


class Landmarks(NamedTuple):
    """Positions of K landmarks in N images. Pixel i of n has the coordinate -1 + 2 i / n."""

    means: Tensor  # (N, K, 2), (x, y) in [-1, 1)
    covariances: Tensor  # (N, K, 2, 2), x first; (1, 1, 2, 2) if fixed
    heatmaps: Tensor | None  # (N, K, S/2, S/2), each sums to 1; None: not found in an image


class Appearance(NamedTuple):
    """The appearance of an image, without its pose."""

    landmarks: Landmarks  # with heatmaps
    vectors: Tensor  # (N, K, C), one for each landmark
    mask: Tensor | None  # (N, 1, S, S) in (0, 1), 1 on the foreground; None without masks
    background: Tensor | None  # (N, 3, S, S) unbounded; None without masks
    colours: tuple[Tensor, Tensor] | None  # mean and spread, (N, 3, 1, 1); None: not restored


class LandmarkOutput(NamedTuple):
    """The output of a forward pass. Images are float in about [-1, 1], unbounded."""

    reconstruction: Tensor  # (N, 3, S, S)
    means: Tensor  # of the pose image, as in `Landmarks`
    covariances: Tensor
    heatmaps: Tensor | None
    gaussian_maps: Tensor  # (N, K, S, S), 1 at each landmark
    appearance_means: Tensor  # of the appearance image
    appearance_covariances: Tensor
    appearance_heatmaps: Tensor
    foreground: Tensor  # (N, 3, S, S) of the generator; without masks the reconstruction
    background: Tensor | None  # (N, 3, S, S) of the background network; None without masks
    mask: Tensor | None  # (N, 1, S, S) of the pose image
    appearance_mask: Tensor | None  # (N, 1, S, S) of the appearance image


class LandmarkModel(nn.Module):
    """Shape and appearance encoder, generator and, with masks, mask and background network.

    Images are (N, 3, S, S) float in [-1, 1]. S is a multiple of 16, at least 32.
    Raises ValueError for an argument out of range.
    """

    bg_net: UNet  # with masks only
    fg_mask_net: UNet | nn.Sequential  # with masks only

    def __init__(
        self,
        landmarks: int = 30,  # K
        vector: int = 32,  # C, length of a landmark's appearance vector
        shape_width: int = 6,  # channels of the shape encoder's first convolution
        appearance_width: int = 0,  # the same of the appearance encoder; 0: twice its input's
        generator_width: int = 64,  # channels of the generator at half the image's size
        masks: bool = False,  # separate foreground and background
        low_res_mask: bool = False,  # compute masks at a quarter of the size
        fixed_covariance: float | None = None,  # variance of every landmark; None: fitted
        pooling: str = "mean",  # of appearance vectors, "mean" or "sum"; see `pool`
        narrowing: int = 1,  # divisor of the widths without an argument, 1 to 8; 1: as published
        restore_colours: bool = False,  # give images the mean and spread of the appearance image's
        # colours, which instance norms remove; the background network then adds to its input
    ):
        super().__init__()
        if min(landmarks, vector, shape_width, generator_width) < 1 or appearance_width < 0:
            raise ValueError(
                "LandmarkModel: landmarks, vector, shape_width and generator_width must be at "
                f"least 1, got {landmarks}, {vector}, {shape_width}, {generator_width}; "
                f"appearance_width at least 0, got {appearance_width}"
            )
        if pooling not in POOLINGS:
            raise ValueError(
                f"LandmarkModel: pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}"
            )
        if fixed_covariance is not None and not fixed_covariance > 0:
            raise ValueError(
                f"LandmarkModel: fixed_covariance must be above 0, got {fixed_covariance}"
            )
        self.fixed_covariance, self.pooling = fixed_covariance, pooling
        if not 1 <= narrowing <= 8:
            raise ValueError(f"LandmarkModel: narrowing must be 1 to 8, got {narrowing}")
        self.restore_colours = restore_colours

        def narrowed(*widths: int) -> list[int]:
            return [width // narrowing for width in widths]

        hidden, width = narrowed(HIDDEN, 32)
        self.shape_encoder = UNet(3, [*narrowed(512, 256, 128), landmarks], 4, shape_width)
        self.appearance_encoder = UNet(
            landmarks + 4 * shape_width, [*narrowed(64), vector], 1, appearance_width
        )
        self.image_decoder = SpadeGenerator(landmarks, vector, generator_width, hidden)
        self.masks = masks
        if masks:
            self.bg_net = UNet(3, [*narrowed(32, 64, 128), 3], 3, width)
            if low_res_mask:
                self.fg_mask_net = nn.Sequential(UNet(landmarks, [width, 1], 3, width))
            else:
                self.fg_mask_net = UNet(landmarks, [width, width, width, 1], 3, width)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Initialise: Xavier-uniform weights, biases of 0.1, and vectors of the spectral norms."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                weight = module.weight_orig if isinstance(module, Spectral) else module.weight
                nn.init.xavier_uniform_(weight)
                if module.bias is not None:
                    nn.init.constant_(module.bias, 0.1)
        settle(self)  # for an untrained network in evaluation mode

    def landmarks(self, image: Tensor) -> Landmarks:
        """Landmarks of images, from the shape encoder alone."""
        return self._find(image)[0]

    def appearance(self, image: Tensor) -> Appearance:
        """Appearance of images; `render` combines it with any number of poses."""
        return self._look(image, *self._find(image))

    def render(self, pose: Landmarks, appearance: Appearance) -> LandmarkOutput:
        """Images with an appearance in the pose of landmarks, which may come from anywhere.

        appearance  of `self.appearance`; one for each pose, or one for all of them
        Raises ValueError if the appearance lacks heatmaps.
        """
        own, n = appearance.landmarks, pose.means.shape[0]
        if own.heatmaps is None:
            raise ValueError("render: appearance.landmarks must have heatmaps, got None")
        maps = self._maps(pose, own.heatmaps)
        vectors = appearance.vectors.expand(n, -1, -1)
        image = foreground = _coloured(self.image_decoder(maps, vectors), appearance.colours)
        mask = None
        if appearance.background is not None:
            mask = self._mask(maps)
            image = torch.lerp(appearance.background, foreground, mask)
        return LandmarkOutput(
            reconstruction=image,
            means=pose.means,
            covariances=pose.covariances,
            heatmaps=pose.heatmaps,
            gaussian_maps=maps,
            appearance_means=own.means,
            appearance_covariances=own.covariances,
            appearance_heatmaps=own.heatmaps,
            foreground=foreground,
            background=appearance.background,
            mask=mask,
            appearance_mask=appearance.mask,
        )

    def forward(self, pose_image: Tensor, appearance_image: Tensor) -> LandmarkOutput:
        """Images in the pose of one image, with the appearance and background of the other.

        Raises ValueError if the shapes differ, or for images of another size.
        """
        if pose_image.shape != appearance_image.shape:
            raise ValueError(
                "LandmarkModel: appearance_image must have pose_image's shape "
                f"{list(pose_image.shape)}, got {list(appearance_image.shape)}"
            )
        n = pose_image.shape[0]  # `len` would be a constant to torch.export
        both, features = self._find(torch.cat([pose_image, appearance_image]))
        pose, own = _rows(both, slice(n)), _rows(both, slice(n, None))
        return self.render(pose, self._look(appearance_image, own, features[n:]))

    def _find(self, image: Tensor) -> tuple[Landmarks, Tensor]:
        """Landmarks of images, and features (N, 4 shape_width, S/2, S/2) of the first level."""
        if image.ndim != 4 or image.shape[1] != 3 or min(image.shape[2:]) < 32:
            raise ValueError(
                "LandmarkModel: images must be [N, 3, S, S] with S a multiple of 16, at least 32, "
                f"got {list(image.shape)}"
            )
        if image.shape[2] % 16 or image.shape[3] % 16:
            raise ValueError(
                f"LandmarkModel: S must be a multiple of 16, got {list(image.shape[2:])}"
            )
        logits, features = self.shape_encoder(image)
        heatmaps, means, covariances = heatmap_moments(logits)
        if self.fixed_covariance is not None:
            eye = torch.eye(2, dtype=means.dtype, device=means.device)
            covariances = (self.fixed_covariance * eye)[None, None]
        return Landmarks(means, covariances, heatmaps), features

    def _look(self, image: Tensor, own: Landmarks, features: Tensor) -> Appearance:
        """Appearance of images.

        own, features  of the images, from `_find`
        """
        assert own.heatmaps is not None  # `_find` always gives them
        encoded = self.appearance_encoder(torch.cat([own.heatmaps, features], dim=1))[0]
        vectors = pool(encoded, own.heatmaps, self.pooling)
        mask = background = colours = None
        if self.restore_colours:  # instance norms remove the colours' mean and spread
            spread, mean = torch.std_mean(image, (2, 3), keepdim=True)
            colours = mean, spread + SPREAD
            image = (image - mean) / colours[1]
        if self.masks:
            mask = self._mask(self._maps(own, own.heatmaps))
            visible = (1 - mask) * image
            background = self.bg_net(visible)[0]
            if self.restore_colours:  # the network need only fill the hole in the visible part
                background = background.float() + visible
            background = _coloured(background, colours)
        return Appearance(own, vectors, mask, background, colours)

    def _maps(self, landmarks: Landmarks, heatmaps: Tensor) -> Tensor:
        """Gaussian maps of the landmarks, twice the heatmaps' size, 1 at each landmark."""
        size = 2 * heatmaps.shape[2], 2 * heatmaps.shape[3]
        return gaussian_heatmaps(landmarks.means, invertible(landmarks.covariances), size)

    def _mask(self, maps: Tensor) -> Tensor:
        """Foreground masks (N, 1, S, S) in (0, 1), float32, from Gaussian maps (N, K, S, S)."""
        if isinstance(self.fg_mask_net, UNet):
            return torch.sigmoid(self.fg_mask_net(maps)[0].float())
        logits = self.fg_mask_net[0](maps)[0].float()
        return torch.sigmoid(
            F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
        )


def _coloured(image: Tensor, colours: tuple[Tensor, Tensor] | None) -> Tensor:
    """The image in float32: mean + spread * image for colours (mean, spread)."""
    if colours is None:
        return image.float()
    mean, spread = colours
    return mean + spread * image.float()


def pool(features: Tensor, heatmaps: Tensor, pooling: str = "mean") -> Tensor:
    """Appearance vectors (N, K, C) of landmarks, float32.

    features  (N, C, H, W)
    heatmaps  (N, K, H, W); each sums to 1
    pooling   "sum": the sum of the features, weighted by a heatmap. "mean": that sum divided by
              H W, as the published networks were trained
    """
    with full_precision(features):
        columns = features.to(heatmaps.dtype).flatten(2).transpose(1, 2)
        total = heatmaps.flatten(2) @ columns
    return total / heatmaps[0, 0].numel() if pooling == "mean" else total


def invertible(covariances: Tensor) -> Tensor:
    """Covariances (..., 2, 2) with an inverse: FLOOR is added to the diagonal where needed.

    It is added to matrices with an eigenvalue below FLOOR. A heatmap on one pixel or on one line
    has such a covariance. Other matrices do not change.
    """
    with torch.no_grad():
        xx, xy, yy = (covariances[..., i, j] for i, j in ((0, 0), (0, 1), (1, 1)))
        smaller = (xx + yy) / 2 - torch.hypot((xx - yy) / 2, xy)
        added = FLOOR * (smaller < FLOOR).to(covariances.dtype)
    return covariances + torch.diag_embed(torch.stack([added, added], -1))


def _rows(landmarks: Landmarks, rows: slice) -> Landmarks:
    """The landmarks of some of the images. A fixed covariance belongs to all of them."""
    means, covariances, heatmaps = landmarks
    own = covariances if covariances.shape[0] != means.shape[0] else covariances[rows]
    return Landmarks(means[rows], own, None if heatmaps is None else heatmaps[rows])


def build(options: Mapping[str, Any]) -> LandmarkModel:
    """The network of a run's options, those of `python train_landmarks.py --help`.

    Raises ValueError for values out of range.
    """
    return LandmarkModel(
        landmarks=options["n_landmarks"],
        vector=options["n_filters"],
        shape_width=options["nsf"],
        appearance_width=options["naf"],
        generator_width=options["ngc"],
        masks=options["use_fg_bg_mask"],
        low_res_mask=options["low_res_mask"],
        fixed_covariance=options["fixed_covar"] if options["use_identity_covariance"] else None,
        pooling=options.get("pooling", "mean"),
        narrowing=options.get("narrowing", 1),
        restore_colours=options.get("restore_colours", False),
    )
