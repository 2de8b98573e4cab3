"""What a run tells: log.txt and TensorBoard, each step once, also after a restart."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nets.run.files import write_atomic


class Window:
    """Sums of losses since the last log line, on the device, so that adding waits for nothing."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, losses: dict[str, Tensor]) -> None:
        """Add one step's scalars; a step without a name counts as 0 for it, one without any does
        not count.
        """
        if not losses:
            return
        for name, loss in losses.items():
            value = torch.as_tensor(loss).detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1

    def means(self) -> dict[str, Tensor]:
        """Mean of each loss over the window, which is empty afterwards."""
        means = {name: total / max(1, self.count) for name, total in self.sums.items()}
        self.__init__()
        return means

    def state(self) -> dict[str, Any]:
        """Plain numbers; float32 survives the way through Python's floats unchanged."""
        return {"count": self.count, "sums": {name: v.item() for name, v in self.sums.items()}}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        self.count = state["count"]
        self.sums = {
            name: torch.tensor(value, dtype=torch.float32, device=device)
            for name, value in state["sums"].items()
        }


class Log:
    """log.txt and tensorboard/ of a run folder. Only the main rank has one."""

    def __init__(self, folder: Path, step: int | None = None):
        """step  finished steps to go on from; None: from none"""
        self.folder = Path(folder)
        self.path = self.folder / "log.txt"
        self._file = None
        self._writer = None
        self._step = step or 0
        forget_later(self.path, self._step)

    def line(self, text: str) -> None:
        """Append one line, at once."""
        if self._file is None:
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115  open for the run
        try:
            self._file.write(text.encode() + b"\n")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def record(self, step: int, numbers: dict[str, Any]) -> None:
        """One JSON line and one TensorBoard scalar a number."""
        self.line(json.dumps({"step": step, **{k: _jsonable(v) for k, v in numbers.items()}}))
        for name, value in numbers.items():
            if isinstance(value, int | float):
                self.writer.add_scalar(name, value, step)

    def picture(self, name: str, step: int, picture: np.ndarray) -> None:
        """An (H, W, 3) uint8 picture for TensorBoard."""
        self.writer.add_image(name, picture, step, dataformats="HWC")

    @property
    def writer(self):
        """TensorBoard's writer; its import takes a second and waits for the first use.

        Events of earlier attempts that are later than the step to go on from are declared void.
        """
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            folder = self.folder / "tensorboard"
            self._writer = SummaryWriter(str(folder), purge_step=self._step + 1)
        return self._writer

    def flush(self) -> None:
        """Hand all events to the file: what a checkpoint is written after is not logged again."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._file is not None:
            self._file.close()
            self._file = None


def records(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a log.txt, in their order."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.startswith('{"step":')]


def forget_later(path: Path, step: int) -> None:
    """Cut a file at its first JSON line of a step after `step`, and a half-written last line."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = []
    for line in lines:
        if not line.endswith(b"\n") or _step_of(line) > step:
            break
        kept.append(line)
    if len(kept) < len(lines):
        write_atomic(path, lambda file: file.write(b"".join(kept)))


def _step_of(line: bytes) -> int:
    """The step of a JSON line, -1 for other lines."""
    if not line.startswith(b'{"step":'):
        return -1
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return -1


def _jsonable(value: Any) -> Any:
    """JSON has no NaN and no infinity: they are written as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
