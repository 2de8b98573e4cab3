"""Small runs of all systems, and an opened page, for the tests of app.py."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import app
import train_vunet
from bilayer_tiny import OPTIONS, model
from dcign_tiny import write_run
from landmark_files import untrained
from nets.run import checkpoints
from nets.run.options import parse


def write_runs(folder):
    """Runs under folder/runs, each named `a`: a VUNet of one step, the others untrained."""
    train_vunet.main([
        "--config", "smoke.yaml", "--num_steps", "1", "--name", "a",
        "--run_dir", str(folder / "runs/vunet"),
    ])  # fmt: skip
    net = model(networks=["identity_embedder", "texture_generator", "keypoints_embedder",
                          "inference_generator"])  # fmt: skip
    path = folder / "runs/bilayer/a/checkpoints/step_00000003.pt"
    path.parent.mkdir(parents=True)
    content = {"system": "bilayer", "step": 3, "options": OPTIONS}
    checkpoints.write(path, content | {"parts": {"model": net.state_dict()}})
    write_run(folder / "runs/dcign/a")
    untrained(folder)
    return folder


def open_page(folder, *arguments):
    """The page's handlers, as app.py opens them, with temporary files in `folder`."""
    arguments = ["--device", "cpu", "--precision", "fp32", *arguments]
    return app.open_page(parse(app.parser(), arguments), folder)


@contextlib.contextmanager
def serving(folder, *arguments, before=""):
    """The address of the page and its process, started in a folder; stopped at the end.

    before  Python that runs before app.main
    """
    code = f"import sys\nsys.path[:0] = {sys.path!r}\n{before}\nimport app\napp.main()"
    arguments = ["--device", "cpu", "--precision", "fp32", *map(str, arguments)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(Path(folder)), "OMP_NUM_THREADS": "1"},
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("guise: http://127.0.0.1:"), line + process.stdout.read()
        yield line.split()[1].rstrip(";"), process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def write_tone(path, seconds=1.0):
    """A sound file: a tone."""
    import av

    tone = np.sin(np.arange(int(48000 * seconds)) * 0.05).astype(np.float32)[None] * 0.5
    with av.open(str(path), "w") as out:
        voice = out.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate = 48000
        out.mux(voice.encode(frame))
        out.mux(voice.encode(None))
    return path


class FakeDetector:
    """Finds a face of fixed points in any image that is not empty; it is never the first one."""

    def __init__(self, points):
        self.points = points

    def people(self, image, near=None):
        return []

    def faces(self, image, near=None, known=None):
        scale = torch.tensor([image.shape[2], image.shape[1]]) / 192
        return [self.points * scale] if image.float().std() > 1 else []

    def mask(self, image):
        return torch.ones(image.shape[1:])
