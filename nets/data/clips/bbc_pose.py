"""BBC Pose in its published layout: sign language interpreters on television, seven joints.

    PATH/1/ ... PATH/20/       a folder a video, frames named <frame number>.jpg
    PATH/code/bbcpose.mat      joints of all videos, annotated automatically
    PATH/code/results.mat      joints of the test frames, annotated by hand

Coordinates in the files count from 1, as in MATLAB. They are used unchanged, as in the published
evaluation, so a crop is shifted by one pixel to the right and down.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nets.contracts import Place, Sample
from nets.data.clips.clips import Box
from nets.data.io.files import whole_file
from nets.data.io.images import image_size, read_crop
from nets.errors import UserError

JOINTS_7 = ("head", "rwrist", "lwrist", "relbow", "lelbow", "rshoulder", "lshoulder")
VIDEOS = {"train": range(1, 11), "val": range(11, 16)}
TRAIN_FRAMES, TRAIN_JOINTS, TEST_FRAMES, TEST_JOINTS = 3, 4, 5, 6  # positions in a record
MARGIN = 60.0  # pixels around the joints, in training
HALF = 150.0  # half of the box's side, in evaluation


class BBCPose:
    """The annotated frames of the training or validation videos, a source for `clips.Clips`.

    split     "train" (videos 1 to 10) or "val" (11 to 15)
    fraction  use only the first part of each video's frames, at least one if it has any
    strict    check now that all annotated frames exist; else a missing one raises when it is read
    The box of a frame extends 60 pixels beyond its joints; its image is stretched to a square.
    Raises UserError if files are missing, or the numbers of joints and frames differ.
    """

    joint_order: tuple[str, ...] = JOINTS_7

    def __init__(self, path: str | Path, split: str, fraction: float = 1.0, strict: bool = True):
        self.path, self.name = Path(path), str(path)
        self.videos = VIDEOS[split]
        self._annotations = read_annotations(self.path, self.videos)
        for video, (frames, joints) in zip(self.videos, self._annotations, strict=True):
            if strict:
                _check_frames(self.path, video, frames)
            if fraction < 1 and len(frames):
                keep = max(1, int(len(frames) * fraction))
                self._annotations[video - self.videos[0]] = frames[:keep], joints[:, :, :keep]
        self.counts = [len(frames) for frames, _ in self._annotations]
        if not sum(self.counts):
            raise UserError(f"{path}: has no annotated frame in videos {_span(self.videos)}")

    def image(self, clip: int, frame: int) -> Path:
        number = int(self._annotations[clip][0][frame])
        return self.path / str(self.videos[clip]) / f"{number}.jpg"

    def box(self, clip: int, frame: int) -> Box:
        w, h = image_size(self.image(clip, frame))
        joints = self._annotations[clip][1][:, :, frame]
        (x0, y0), (x1, y1) = joints.min(1) - MARGIN, joints.max(1) + MARGIN
        return max(0.0, x0), max(0.0, y0), min(float(w), x1), min(float(h), y1)

    def file(self, clip: int, frame: int) -> str:
        return f"{self.videos[clip]}_{frame}.png"

    def read(self, clip: int, frame: int, box: Box | None, size: int) -> Tensor:
        return read_crop(self.image(clip, frame), box, size)

    def joints(self, clip: int, frame: int, box: Box, size: int) -> Tensor:
        """Joints (7, 2) float32, in pixels of the box stretched to a square of side `size`."""
        x0, y0, x1, y1 = box
        points = torch.from_numpy(self._annotations[clip][1][:, :, frame].T.copy())
        scale = torch.tensor([size / (x1 - x0), size / (y1 - y0)], dtype=torch.float64)
        return ((points - torch.tensor([x0, y0], dtype=torch.float64)) * scale).float()


class BBCEvaluation:
    """A dataset of frames with boxes of 300 x 300 pixels around the joints, for evaluation.

    partition  "train", "val": automatic annotation of the videos 1 to 10, 11 to 15;
               "val_manual": frames of 11 to 15 annotated by hand; "test": results.mat

    [(epoch, index)] gives
        frame     (3, S, S) uint8, the box clipped to the image and stretched to a square
        gt        (14,) float64, x of the seven joints, then y, from -0.5 to 0.5 over the box
        bbox      (4,) float64, x_min, y_min, x_max, y_max, pixels, not rounded
        vid, img  places of the video in the partition and of the frame in the video; for the test
                  partition the numbers of both
        index
    """

    def __init__(self, path: str | Path, partition: str, size: int):
        self.path, self.size = Path(path), size
        self.name = f"{path} ({partition})"
        if partition == "test":
            joints, frames, videos = read_results(self.path / "code/results.mat")
            self.joints, self._ids = joints, np.stack([videos, frames], 1)
            self._images = self._ids
        else:
            numbers = VIDEOS[partition.removesuffix("_manual")]
            annotations = read_annotations(self.path, numbers, partition == "val_manual")
            counts = [len(frames) for frames, _ in annotations]
            self.joints = np.concatenate([joints for _, joints in annotations], 2)
            clip = np.repeat(np.arange(len(numbers)), counts)
            place = np.concatenate([np.arange(count) for count in counts])
            self._ids = np.stack([clip, place], 1)
            frames = np.concatenate([frames for frames, _ in annotations])
            self._images = np.stack([clip + numbers[0], frames], 1)
        if not len(self):
            raise UserError(f"{self.name}: has no annotated frame")

    def __len__(self) -> int:
        return self.joints.shape[2]

    def __getitem__(self, place: Place) -> Sample:
        index = place[1]
        video, frame = self._images[index]
        file = self.path / str(video) / f"{frame}.jpg"
        w, h = image_size(file)
        joints = self.joints[:, :, index]
        x, y = (joints.min(1) + joints.max(1)) / 2
        box = max(0.0, x - HALF), max(0.0, y - HALF), min(w, x + HALF), min(h, y + HALF)
        corner, side = np.array(box[:2])[:, None], np.array([box[2] - box[0], box[3] - box[1]])
        gt = (joints - corner - side[:, None] / 2) / side[:, None]
        vid, img = self._ids[index].tolist()
        return {
            "frame": read_crop(file, box, self.size),
            "gt": torch.from_numpy(gt.flatten()),
            "bbox": torch.tensor(box, dtype=torch.float64),
            "vid": vid,
            "img": img,
            "index": index,
        }


def read_annotations(
    path: Path, videos: range, manual: bool = False
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Frame numbers (N,) int64 and joints (2, 7, N) float64 of each video, from code/bbcpose.mat.

    manual  the annotation by hand instead of the automatic one
    Raises UserError if the numbers of frames and joints differ.
    """
    file = path / "code/bbcpose.mat"
    at_frames, at_joints = (TEST_FRAMES, TEST_JOINTS) if manual else (TRAIN_FRAMES, TRAIN_JOINTS)
    records = read_mat(file, "bbcpose", 1 + at_joints).reshape(-1)
    if len(records) < videos[-1]:
        raise UserError(f"{file}: describes {len(records)} videos, not {videos[-1]}")
    return [
        _aligned(
            file, f"video {video}", records[video - 1][at_frames], records[video - 1][at_joints]
        )
        for video in videos
    ]


def read_results(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Joints (2, 7, N) float64, frame numbers and video numbers (N,) int64 of the test frames."""
    record = read_mat(file, "results", 3).reshape(-1)[0]
    frames, joints = _aligned(file, "results", record[1], record[0])
    videos = np.asarray(record[2]).reshape(-1).astype(np.int64)
    if len(videos) != len(frames):
        raise UserError(f"{file}: has {len(frames)} frame numbers and {len(videos)} video numbers")
    return joints, frames, videos


def read_points(file: Path) -> np.ndarray:
    """Joints (2, 7, N) float64 in a file of predictions or ground truth. Raises UserError.

    Read from the variable `my_pred`, else from `results` as in results.mat.
    """
    content = _load(file)
    if "my_pred" in content:
        points = np.asarray(content["my_pred"], np.float64)
    elif "results" in content:
        points = np.asarray(content["results"].reshape(-1)[0][0], np.float64)
    else:
        raise UserError(f"{file}: holds neither my_pred nor results")
    if points.ndim != 3 or points.shape[:2] != (2, 7):
        raise UserError(
            f"{file}: joints must be 2 x 7 x N, are {' x '.join(map(str, points.shape))}"
        )
    return points


def write_points(file: Path, points: np.ndarray) -> None:
    """Write joints (2, 7, N) as the variable `my_pred`, float64, whole or not at all."""
    scipy_io = _scipy_io(file)
    with whole_file(file) as stream:
        scipy_io.savemat(stream, {"my_pred": np.asarray(points, np.float64)})


def validation_truth(path: str | Path) -> np.ndarray:
    """Joints (2, 7, N) of the validation frames, in the order of the partition "val"."""
    return np.concatenate([j for _, j in read_annotations(Path(path), VIDEOS["val"])], 2)


def read_mat(file: Path, name: str, fields: int) -> np.ndarray:
    """The array of structures `name` of a .mat file, with at least that many fields.

    Raises UserError.
    """
    content = _load(file)
    if name not in content:
        raise UserError(f"{file}: holds no variable {name}")
    value = content[name]
    if not getattr(value, "size", 0) or len(value.dtype.names or ()) < fields:
        raise UserError(f"{file}: {name} must be an array of structures of {fields} fields")
    return value


def _load(file: Path) -> dict[str, Any]:
    if not Path(file).is_file():
        raise UserError(f"{file}: no such file; BBC Pose has it beside its videos")
    scipy_io = _scipy_io(file)
    # SciPy's reader crashes on some damaged files, so another process reads the file first.
    first = subprocess.run(
        [sys.executable, "-c", "import sys, scipy.io; scipy.io.loadmat(sys.argv[1])", str(file)],
        capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    if first.returncode:
        last = " ".join(first.stderr.strip().rpartition("\n")[2].split())[:200]
        reason = last if first.returncode > 0 and last else "SciPy's reader crashes on it"
        raise UserError(f"{file}: cannot be read as a .mat file ({reason})")
    return scipy_io.loadmat(file)


def _scipy_io(file: Path) -> ModuleType:
    """SciPy's module for .mat files. Raises UserError where SciPy is not installed."""
    try:
        import scipy.io
    except ImportError as error:
        raise UserError(f"{file}: .mat files need SciPy: pip install -e '.[eval]'") from error
    return scipy.io


def _aligned(file: Path, what: str, frames: Any, joints: Any) -> tuple[np.ndarray, np.ndarray]:
    frames = np.asarray(frames).reshape(-1)
    joints = np.asarray(joints, np.float64)
    if not frames.size:
        return np.zeros(0, np.int64), np.zeros((2, 7, 0))
    joints = joints[..., None] if joints.ndim == 2 else joints
    if joints.shape != (2, 7, len(frames)):
        shape = " x ".join(map(str, joints.shape))
        raise UserError(
            f"{file}: {what}: {len(frames)} frames need joints 2 x 7 x {len(frames)}, got {shape}"
        )
    return frames.astype(np.int64), joints


def _check_frames(path: Path, video: int, frames: np.ndarray) -> None:
    folder = path / str(video)
    if not len(frames):
        return
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; code/bbcpose.mat has {len(frames)} frames of it"
        )
    names = {file.name for file in folder.iterdir()}
    missing = [number for number in frames.tolist() if f"{number}.jpg" not in names]
    if missing:
        raise UserError(
            f"{folder}: code/bbcpose.mat has {len(frames)} frames of it, {len(missing)} of which "
            f"are missing, e.g. {missing[0]}.jpg; --on_bad_sample skip trains on the others"
        )


def _span(videos: range) -> str:
    return f"{videos[0]} to {videos[-1]}"
