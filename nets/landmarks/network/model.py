"""Landmarks that nobody annotated: pose from one image, appearance from another, both drawn.

Dundar, Shih, Garg, Pottorf, Tao, Catanzaro: Unsupervised Disentanglement of Pose, Appearance and
Background from Images and Videos, arXiv 2001.09518.

Checked against the published numbers: 20,589,881 parameters with 30 landmarks and the BBC widths,
31,636,957 with masks, 31,587,613 with masks at low resolution, and the counts of every part; names,
order and shapes of the state dict. Whole passes agree with tests/published/published_landmarks.py,
which computes them from their description alone.
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
SPREAD = 0.02  # the least spread of a colour, in [-1, 1]
FLOOR = 1e-6  # of a covariance's smaller eigenvalue; a pixel of 128 is 1.6e-2 wide


class Landmarks(NamedTuple):
    """Where the K landmarks of N images are. Pixel i of n lies at -1 + 2 i / n."""

    means: Tensor  # (N, K, 2), (x, y) in [-1, 1)
    covariances: Tensor  # (N, K, 2, 2), x first; (1, 1, 2, 2) where it is fixed
    heatmaps: Tensor | None  # (N, K, S/2, S/2), each sums to 1; None for landmarks from elsewhere


class Appearance(NamedTuple):
    """What an image looks like, apart from its pose."""

    landmarks: Landmarks
    vectors: Tensor  # (N, K, C), one a landmark
    mask: Tensor | None  # (N, 1, S, S) in (0, 1), 1 on the foreground; None without masks
    background: Tensor | None  # (N, 3, S, S) unbounded; None without masks
    colours: tuple[Tensor, Tensor] | None  # mean and spread, (N, 3, 1, 1); None: not restored


class LandmarkOutput(NamedTuple):
    """Everything that one pass gives; images are float in about [-1, 1], unbounded."""

    reconstruction: Tensor  # (N, 3, S, S)
    means: Tensor  # of the pose image, as in `Landmarks`
    covariances: Tensor
    heatmaps: Tensor | None
    gaussian_maps: Tensor  # (N, K, S, S), 1 at each landmark
    appearance_means: Tensor  # of the appearance image
    appearance_covariances: Tensor
    appearance_heatmaps: Tensor
    foreground: Tensor  # (N, 3, S, S) the generator's image; without masks the reconstruction
    background: Tensor | None  # (N, 3, S, S) the background network's; None without masks
    mask: Tensor | None  # (N, 1, S, S) of the pose image
    appearance_mask: Tensor | None  # (N, 1, S, S) of the appearance image


class LandmarkModel(nn.Module):
    """Shape and appearance encoder, generator and, with masks, mask and background network.

    Images are (N, 3, S, S) float in [-1, 1]; S is a multiple of 16, 32 or more.
    """

    def __init__(
        self,
        landmarks: int = 30,  # K
        vector: int = 32,  # C, numbers that describe a landmark's appearance
        shape_width: int = 6,  # channels of the shape encoder's first convolution
        appearance_width: int = 0,  # of the appearance encoder's; 0: twice its input's
        generator_width: int = 64,
        masks: bool = False,  # split the image into foreground and background
        low_res_mask: bool = False,  # masks are made at a quarter of the size
        fixed_covariance: float | None = None,  # sigma^2 of every landmark; None: fitted
        pooling: str = "mean",  # vectors are heatmap-weighted sums of features, or those / pixels
        narrowing: int = 1,  # divides the widths that have no argument of their own; 1: published
        restore_colours: bool = False,  # instance norm removes an image's mean colours and spread;
        # true: what is drawn gets the appearance's, and the background network adds to what it sees
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

        def of(*widths: int) -> list[int]:
            return [width // narrowing for width in widths]

        self.shape_encoder = UNet(3, [*of(512, 256, 128), landmarks], 4, shape_width)
        self.appearance_encoder = UNet(
            landmarks + 4 * shape_width, [*of(64), vector], 1, appearance_width
        )
        self.image_decoder = SpadeGenerator(landmarks, vector, generator_width, *of(HIDDEN))
        self.masks = masks
        if masks:
            self.bg_net = UNet(3, [*of(32, 64, 128), 3], 3, *of(32))
            if low_res_mask:
                self.fg_mask_net = nn.Sequential(UNet(landmarks, [*of(32), 1], 3, *of(32)))
            else:
                self.fg_mask_net = UNet(landmarks, [*of(32, 32, 32), 1], 3, *of(32))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Xavier-uniform weights, biases of 0.1; u and v near the first singular vectors."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                spectral = isinstance(module, Spectral)
                nn.init.xavier_uniform_(module.weight_orig if spectral else module.weight)
                if module.bias is not None:
                    nn.init.constant_(module.bias, 0.1)
        settle(self)  # so that an untrained network can be evaluated

    def landmarks(self, image: Tensor) -> Landmarks:
        """Where the landmarks of images are; the only network that runs is the shape encoder."""
        return self._find(image)[0]

    def appearance(self, image: Tensor) -> Appearance:
        """What images look like: computed once, it dresses any number of poses with `render`."""
        return self._look(image, *self._find(image))

    def render(self, pose: Landmarks, appearance: Appearance) -> LandmarkOutput:
        """The appearance in the pose of landmarks, which may come from anywhere.

        As many poses as appearances, or one appearance for all of them.
        """
        seen, n = appearance.landmarks, len(pose.means)
        maps = self._maps(pose, seen.heatmaps)
        vectors = appearance.vectors.expand(n, -1, -1)
        image = foreground = _coloured(self.image_decoder(maps, vectors), appearance.colours)
        mask = None
        if self.masks:
            mask = self._mask(maps)
            image = torch.lerp(appearance.background, foreground, mask)
        behind = appearance.background, mask, appearance.mask
        return LandmarkOutput(image, *pose, maps, *seen, foreground, *behind)

    def forward(self, pose_image: Tensor, appearance_image: Tensor) -> LandmarkOutput:
        """The pose of one image with the appearance, and background, of the other."""
        if pose_image.shape != appearance_image.shape:
            raise ValueError(
                "LandmarkModel: appearance_image must have pose_image's shape "
                f"{list(pose_image.shape)}, got {list(appearance_image.shape)}"
            )
        n = len(pose_image)
        both, features = self._find(torch.cat([pose_image, appearance_image]))
        pose, seen = _rows(both, slice(n)), _rows(both, slice(n, None))
        return self.render(pose, self._look(appearance_image, seen, features[n:]))

    def _find(self, image: Tensor) -> tuple[Landmarks, Tensor]:
        """Landmarks, and the first level's features (N, 4 nsf, S/2, S/2)."""
        if image.ndim != 4 or image.shape[1] != 3 or min(image.shape[2:]) < 32:
            raise ValueError(
                "LandmarkModel: images must be [N, 3, S, S] with S a multiple of 16, 32 or more, "
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

    def _look(self, image: Tensor, seen: Landmarks, features: Tensor) -> Appearance:
        result = torch.cat([seen.heatmaps, features], dim=1)
        vectors = pool(self.appearance_encoder(result)[0], seen.heatmaps, self.pooling)
        mask = background = colours = None
        if self.restore_colours:  # instance norm takes them out of everything that is computed
            spread, mean = torch.std_mean(image, (2, 3), keepdim=True)
            colours = mean, spread + SPREAD
            image = (image - mean) / colours[1]
        if self.masks:
            mask = self._mask(self._maps(seen, seen.heatmaps))
            seen_through = (1 - mask) * image
            drawn = self.bg_net(seen_through)[0]
            # Where it is restored, what can be seen is there already; the network fills the hole.
            drawn = drawn.float() + seen_through if self.restore_colours else drawn
            background = _coloured(drawn, colours)
        return Appearance(seen, vectors, mask, background, colours)

    def _maps(self, landmarks: Landmarks, heatmaps: Tensor) -> Tensor:
        """Maps of twice the heatmaps' size, with value 1 at each landmark."""
        size = 2 * heatmaps.shape[2], 2 * heatmaps.shape[3]
        return gaussian_heatmaps(landmarks.means, invertible(landmarks.covariances), size)

    def _mask(self, maps: Tensor) -> Tensor:
        if isinstance(self.fg_mask_net, UNet):
            return torch.sigmoid(self.fg_mask_net(maps)[0].float())
        logits = self.fg_mask_net[0](maps)[0].float()
        return torch.sigmoid(
            F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
        )


def _coloured(image: Tensor, colours: tuple[Tensor, Tensor] | None) -> Tensor:
    """The image in float32, and with a mean and spread that were taken from another."""
    if colours is None:
        return image.float()
    mean, spread = colours
    return mean + spread * image.float()


def pool(features: Tensor, heatmaps: Tensor, pooling: str = "mean") -> Tensor:
    """One vector a landmark: (N, C, H, W), (N, K, H, W) that sum to 1 -> (N, K, C), float32.

    "sum" is the weighted mean of the features; "mean" is that divided by H W, what the published
    weights were trained with.
    """
    with full_precision(features):
        columns = features.to(heatmaps.dtype).flatten(2).transpose(1, 2)
        total = heatmaps.flatten(2) @ columns
    return total / heatmaps[0, 0].numel() if pooling == "mean" else total


def invertible(covariances: Tensor) -> Tensor:
    """The same matrices (..., 2, 2), 1e-6 added to the diagonal where an eigenvalue is below that.

    A heatmap that has shrunk to one pixel or to one line has no inverse. Others are not changed.
    """
    with torch.no_grad():
        xx, xy, yy = (covariances[..., i, j] for i, j in ((0, 0), (0, 1), (1, 1)))
        smaller = (xx + yy) / 2 - torch.hypot((xx - yy) / 2, xy)
        added = FLOOR * (smaller < FLOOR).to(covariances.dtype)
    return covariances + torch.diag_embed(torch.stack([added, added], -1))


def _rows(landmarks: Landmarks, rows: slice) -> Landmarks:
    """Some of the images; a covariance that is fixed serves them all."""
    means, covariances, heatmaps = landmarks
    own = covariances if len(covariances) != len(means) else covariances[rows]
    return Landmarks(means[rows], own, heatmaps[rows])


def build(options: Mapping[str, Any]) -> LandmarkModel:
    """The network that a run's options describe; see `python train_landmarks.py --help` for them.

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
