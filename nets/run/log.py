"""The log of a run: log.txt and TensorBoard, each step once, also after a restart."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nets.run.files import Appending, write_atomic


class Window:
    """Sums of losses since the last log line, kept on the device so that nothing waits for it."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, losses: dict[str, Tensor]) -> None:
        """Add one step's scalars. A name that a step lacks counts as 0; a step without any scalar
        does not count.
        """
        if not losses:
            return
        for name, loss in losses.items():
            value = torch.as_tensor(loss).detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1

    def means(self) -> dict[str, Tensor]:
        """The mean of each loss over the window, which is then emptied."""
        means = {name: total / max(1, self.count) for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means

    def state(self) -> dict[str, Any]:
        """The window as plain numbers; float32 values survive Python's floats unchanged."""
        return {"count": self.count, "sums": {name: v.item() for name, v in self.sums.items()}}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        self.count = state["count"]
        self.sums = {
            name: torch.tensor(value, dtype=torch.float32, device=device)
            for name, value in state["sums"].items()
        }


class Board:
    """TensorBoard events of one folder, written before each call returns.

    So no event is lost with the process, and a full disk raises OSError here, with the file's name.
    (torch's SummaryWriter writes from a thread of its own, which only prints a traceback later.)
    """

    def __init__(self, folder: Path, step: int):
        """step  finished steps to go on from; later events of earlier attempts become void"""
        from tensorboard.compat.proto.event_pb2 import SessionLog  # takes a second, so not above
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        now = f"{time.time():017.6f}"  # names sort in the order of the attempts
        name = f"events.out.tfevents.{now}.{socket.gethostname()}.{os.getpid()}"
        self._file = Appending(folder / name)
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        start = SessionLog(status=SessionLog.START)
        self._write(step=step + 1, session_log=start)

    def scalar(self, name: str, value: float, step: int) -> None:
        from torch.utils.tensorboard import summary

        self._write(step=step, summary=summary.scalar(name, value))

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """An (H, W, 3) uint8 image."""
        from torch.utils.tensorboard import summary

        self._write(step=step, summary=summary.image(name, image, dataformats="HWC"))

    def close(self) -> None:
        self._file.close()

    def _write(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **event).SerializeToString())


class Log:
    """log.txt and tensorboard/ of a run folder. Only the main rank has one."""

    def __init__(self, folder: Path, step: int | None = None):
        """step  finished steps to go on from; None: a new run"""
        self.folder = Path(folder)
        self.path = self.folder / "log.txt"
        self._file: Appending | None = None
        self._board: Board | None = None
        self._step = step or 0
        forget_later(self.path, self._step)

    def line(self, text: str) -> None:
        """Append one line."""
        if self._file is None:
            self._file = Appending(self.path)
        self._file.write(text.encode(errors="backslashreplace") + b"\n")

    def record(self, step: int, numbers: dict[str, Any]) -> None:
        """Write one JSON line, and one TensorBoard scalar for each number."""
        self.line(json.dumps({"step": step, **{k: _jsonable(v) for k, v in numbers.items()}}))
        for name, value in numbers.items():
            if isinstance(value, int | float):
                self.board.scalar(name, value, step)

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Write an (H, W, 3) uint8 image to TensorBoard."""
        self.board.image(name, image, step)

    @property
    def board(self) -> Board:
        """The events of tensorboard/; the file is opened at the first use."""
        if self._board is None:
            self._board = Board(self.folder / "tensorboard", self._step)
        return self._board

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None
        if self._file is not None:
            self._file.close()
            self._file = None


def records(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a log.txt, in order."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.startswith('{"step":')]


def forget_later(path: Path, step: int) -> None:
    """Cut a log at its first JSON line of a step after `step`, or at a half-written last line."""
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
    """The value, with NaN and infinity as text, since JSON has none."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
