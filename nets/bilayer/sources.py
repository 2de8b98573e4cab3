"""Faces of images as inputs of the networks: detected or given, cut out, normalised."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nets.data import detectors
from nets.data.heads.faces import (
    FaceBox,
    crop_square,
    face_crop_box,
    hull_mask,
    normalised_pose,
    points_from_array,
    points_in_crop,
    pose_points,
    read_array,
    read_keypoints,
    resize_square,
)
from nets.data.heads.videos import HeadFrame
from nets.errors import BadSample, UserError
from nets.listing import list_folder, report_left_out


class SeenFace(NamedTuple):
    """A face in an image.

    whole  the image, uint8 (3, H, W)
    box    the square that is cut out; None: the whole image is used
    pose   (136,) in [-1, 1] of the square
    """

    whole: Tensor
    box: FaceBox | None
    pose: Tensor


class Faces:
    """Frames from images, with points that are given or detected.

    options   of the network: image_size, num_keypoints, emb_apply_masks and others that need masks
    crop      cut out the square around the points; else images must be square and are used whole
    detector  name of the backend, see `for_heads`; it is opened when it is first needed
    """

    def __init__(
        self, options: Mapping[str, Any], crop: bool = True, detector: str = detectors.AUTO
    ):
        self.size, self.count = options["image_size"], options["num_keypoints"]
        masking = ("emb_apply_masks", "mask_source_and_target", "use_source_background")
        self.masks, self.crop = any(options.get(name) for name in masking), crop
        self._backend = detector
        self._detector: detectors.Detector | None = None

    @property
    def detector(self) -> detectors.Detector:
        """The detector. Raises UserError with the remedy if it is not installed."""
        if self._detector is None:
            self._detector = detectors.open_detector(detectors.for_heads(self._backend))
        return self._detector

    def find(
        self, person: int = 1, every: int = 1, fps: float | None = None
    ) -> Callable[[Tensor], Tensor | None]:
        """A detector of the points (68, 2) of a face, for the images of one video in their order.

        person  number of the face; 1: the largest
        every   frames from one search in the whole frame to the next, see `FollowFace`
        fps     frames a second; None: images that do not follow each other, each searched whole
        """
        if fps is None:
            return detectors.FollowFace(self.detector, 1, math.inf, person)
        return detectors.FollowFace(self.detector, every, 1 / fps, person)

    def look(
        self, image: Tensor, name: str, points: Tensor, box: FaceBox | None = None
    ) -> SeenFace:
        """Pose and place of a face in an image (3, H, W).

        points  (68, 2), pixels
        box     the square to cut out; None: that around the points
        Raises UserError that names the image on unusable points, and without `crop` on an image
        that is not square.
        """
        height, width = image.shape[1:]
        if self.crop:
            try:
                box = box or face_crop_box(points)
            except ValueError as error:
                raise UserError(f"{name}: {str(error).partition(': ')[2]}") from error
            return SeenFace(image, box, normalised_pose(points_in_crop(points, box, 1), 1))
        if height != width:
            raise UserError(f"{name}: must be square without cropping, is {width} x {height}")
        return SeenFace(image, None, normalised_pose(points, width))

    def cut(self, image: Tensor, box: FaceBox | None) -> Tensor:
        """The square of an image or mask as input of the networks, uint8 (C, S, S)."""
        if box is None:
            return resize_square(image, self.size)
        return crop_square(image, box, self.size)

    def frame(
        self, image: Tensor, name: str, points: Tensor | None = None, mask: Tensor | None = None
    ) -> HeadFrame:
        """The frame of a source image (3, H, W) uint8.

        points  (68, 2), pixels; None: by the detector
        mask    (1, H, W) uint8; None: by the detector. Without a detector, the hull of given points
        Raises UserError that names the image if no face is found, and on a mask of another size.
        """
        given = points is not None
        points = points if given else self.find()(image)
        if points is None:
            raise UserError(f"{name}: no face found; keypoints can be given by a file")
        if mask is not None and mask.shape[1:] != image.shape[1:]:
            (h, w), (height, width) = mask.shape[1:], image.shape[1:]
            raise UserError(f"{name}: is {width} x {height} pixels, its mask {w} x {h}")
        seen = self.look(image, name, points)
        cut = self.cut(image, seen.box)
        if mask is not None:
            mask = self.cut(mask, seen.box)
        elif self.masks:
            mask = self._mask(cut, seen.pose, given, name)
        return HeadFrame(cut, seen.pose, mask)

    def _mask(self, image: Tensor, pose: Tensor, given: bool, name: str) -> Tensor:
        """The detected mask; without a detector, the hull of `given` points."""
        try:
            return (self.detector.mask(image)[None] * 255).round().to(torch.uint8)
        except UserError:
            if not given:
                raise
            print(f"{name}: no mask and no detector; using the hull of its keypoints")
            return hull_mask(pose_points(pose, self.size), self.size)


def keypoints_of_frames(path: str | Path, count: int = 68) -> Tensor:
    """The points of several images, (T, count, 2) pixels.

    path  an .npy of shape (T, K, 2) or (T, 2 K), or a .json of the same form. Or one image's points
          in any form of `read_keypoints`. Or a folder of such files, one per image, sorted by name
          with numbers by value
    Raises UserError that names the unusable file.
    """
    path = Path(path)
    try:
        if path.is_dir():
            files, others = list_folder(path, lambda f: f.suffix.lower() in (".npy", ".json"))
            report_left_out(path, others, "keypoints")
            if not files:
                raise UserError(f"{path}: no .npy or .json file in this folder")
            return torch.stack([read_keypoints(file, count) for file in files])
        values = read_array(path)
        several = values.ndim == 3 or (
            values.ndim == 2 and values.shape[1] == 2 * count and len(values) > 1
        )
        if not several:
            return points_from_array(values, path, count)[None]
        return torch.stack([points_from_array(value, path, count) for value in values])
    except BadSample as error:
        raise UserError(str(error)) from error
