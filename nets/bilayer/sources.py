"""Faces of images, as the networks take them: found or given, cut out, normalised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

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
    """A face in an image: the whole image, where it is cut out (None: nowhere), its pose."""

    whole: Tensor
    box: FaceBox | None
    pose: Tensor


class Faces:
    """Makes frames of images, with points that are given or that a detector finds.

    options   image_size, num_keypoints, emb_apply_masks of the network
    crop      cut the square around the points out; else images must be square, and are all
    detector  name of the backend, opened where it is first needed
    """

    def __init__(self, options: Mapping[str, Any], crop: bool = True, detector: str = "mediapipe"):
        self.size, self.count = options["image_size"], options["num_keypoints"]
        self.masks, self.crop = options["emb_apply_masks"], crop
        self._backend, self._detector = detector, None

    @property
    def detector(self) -> Any:
        if self._detector is None:
            from nets.data.detectors import open_detector

            self._detector = open_detector(self._backend)
        return self._detector

    def find(self, person: int = 1) -> Callable[[Tensor], Tensor | None]:
        """What finds the points (68, 2) of an image's face number `person`, 1 the largest."""

        def points(image: Tensor) -> Tensor | None:
            result = self.detector.faces(image)
            return result[person - 1] if len(result) >= person else None

        return points

    def look(self, image: Tensor, name: str, points: Tensor) -> SeenFace:
        """Pose and place of a face with points (68, 2) in pixels of an image (3, H, W)."""
        height, width = image.shape[1:]
        if self.crop:
            try:
                box = face_crop_box(points)
            except ValueError as error:
                raise UserError(f"{name}: {str(error).partition(': ')[2]}") from error
            return SeenFace(image, box, normalised_pose(points_in_crop(points, box, 1), 1))
        if height != width:
            raise UserError(f"{name}: must be square without cropping, is {width} x {height}")
        return SeenFace(image, None, normalised_pose(points, width))

    def cut(self, image: Tensor, box: FaceBox | None) -> Tensor:
        """The image, or mask, as the networks see it: uint8 (C, S, S)."""
        if box is None:
            return resize_square(image, self.size)
        return crop_square(image, box, self.size)

    def frame(
        self, image: Tensor, name: str, points: Tensor | None = None, mask: Tensor | None = None
    ) -> HeadFrame:
        """What the networks see of a source image (3, H, W) uint8: `HeadFrame`.

        points  (68, 2) pixels of it; None: found by the detector
        mask    (1, H, W) uint8 of it; None: the detector's, or where that cannot be had the hull
                of the points
        Raises UserError that names the image where there is no face, or the mask is another's.
        """
        given = points is not None
        points = points if given else self.find()(image)
        if points is None:
            raise UserError(f"{name}: no face is found; keypoints can be given by a file")
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
        try:
            return (self.detector.mask(image)[None] * 255).round().to(torch.uint8)
        except UserError:
            if not given:
                raise
            print(f"{name}: no mask and no detector; the hull of its keypoints serves")
            return hull_mask(pose_points(pose, self.size), self.size)


def keypoints_of_frames(path: str | Path, count: int = 68) -> Tensor:
    """Points of several images, (T, count, 2): from an .npy (T, K, 2) or (T, 2 K), a .json
    of the same form, one image's in any form of `read_keypoints`, or a folder of such files, by
    name (numbers in names by value).
    """
    path = Path(path)
    try:
        if path.is_dir():
            files, others = list_folder(path, lambda f: f.suffix.lower() in (".npy", ".json"))
            report_left_out(path, others, "keypoints")
            if not files:
                raise UserError(f"{path}: no .npy and no .json in this folder")
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
