"""Reading what a run left in its folder."""

import os

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nets.run import checkpoints
from nets.run.log import records

SPEED = ("seconds_per_step", "images_per_second", "gpu_mb")


def stored(run):
    """Steps of its checkpoints, newest first."""
    return [checkpoints.step_of(path) for path in checkpoints.stored(run / "checkpoints")]


def newest(run):
    """Content of its newest checkpoint."""
    return checkpoints.read(checkpoints.stored(run / "checkpoints")[0])


def logged(run):
    """The JSON lines of its log, without what says how fast it was."""
    return [
        {key: value for key, value in line.items() if key not in SPEED}
        for line in records(run / "log.txt")
    ]


def steps(run):
    return [line["step"] for line in records(run / "log.txt")]


def scalars(run, name="mse"):
    """(step, value) of a scalar in TensorBoard's files."""
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def assert_equal(a, b):
    """Bit for bit."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def fill(disk, room=0):
    """Leave `room` bytes and the ends of the pages that are begun; returns the file that fills."""
    free = os.statvfs(disk)
    filler = disk / "filler"
    filler.write_bytes(bytes(free.f_bavail * free.f_frsize - room))
    return filler
