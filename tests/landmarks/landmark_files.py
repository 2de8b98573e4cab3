"""Small data sets for the landmarks scripts, and the run folder of an untrained network."""

import numpy as np
import torch
from scipy.io import savemat

from nets.data.io.images import write_image
from nets.landmarks import build
from nets.landmarks.options import parse
from nets.run import checkpoints
from nets.run.options import plain

SMOKE = ["--config", "smoke_landmarks.yaml"]
RUN = "runs/landmarks/a"
FIELDS = ("videoName", "type", "source", "train_frames", "train_joints", "test_frames",
          "test_joints")  # fmt: skip


def joints_of(video, count):
    """Joints (2, 7, count), different in every video and frame, inside an image of 200 x 160."""
    base = np.linspace(60, 120, 7)
    points = np.stack([base, base[::-1] * 0.8])[:, :, None]
    return points + np.arange(count) + video / 4


def bbc_folder(path, frames=(3, 8, 12), videos=20, image=(160, 200)):
    """A folder in the layout of BBC Pose; frame n of video v has the value 5 v + n."""
    records = np.zeros((1, videos), dtype=[(name, object) for name in FIELDS])
    for v in range(1, videos + 1):
        numbers = np.array([frames], np.float64)
        records[0, v - 1] = ("name", "train", "auto", numbers, joints_of(v, len(frames)),
                             numbers[:, :1], joints_of(v, 1))  # fmt: skip
        for number in frames:
            write_image(path / f"{v}/{number}.jpg", frame(5 * v + number, *image))
    (path / "code").mkdir(exist_ok=True)
    savemat(path / "code/bbcpose.mat", {"bbcpose": records})
    results = np.zeros((1, 1), dtype=[("gt", object), ("frame", object), ("video", object)])
    joints = np.concatenate([joints_of(16, 1), joints_of(20, 1)], 2)
    results[0, 0] = (joints, np.array([[8.0, 3.0]]), np.array([[16.0, 20.0]]))
    savemat(path / "code/results.mat", {"results": results})
    return path


def frame(value, height=40, width=60):
    """An image of one value, by which a test recognises it."""
    return torch.full((3, height, width), value, dtype=torch.uint8)


def untrained(folder, *arguments):
    """A run folder with a checkpoint of untrained networks."""
    args = parse("", [*SMOKE, *map(str, arguments)])
    torch.manual_seed(0)
    content = {"system": "landmarks", "step": 0, "parts": {"model": build(args).state_dict()}}
    (folder / RUN / "checkpoints").mkdir(parents=True)
    path = folder / RUN / "checkpoints/step_00000000.pt"
    checkpoints.write(path, content | {"options": plain(args), "best": None, "log": []})
    return folder / RUN
