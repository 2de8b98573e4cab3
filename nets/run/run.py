"""One training run: its steps, what it saves, what it tells, and how it stops."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import math
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from nets.errors import BadSample, UserError
from nets.run import checkpoints, images, options, seeds
from nets.run.files import Lock
from nets.run.folder import describe, discard, open_folder
from nets.run.guard import Guard, floats
from nets.run.log import Log, Window
from nets.run.ranks import Ranks, bare
from nets.run.stop import Stop

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_NEVER, _LARGEST = -1, 1 << 30

Item = TypeVar("Item")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room, quota, or limit of a file's size
TIME_IS_UP, FIRST_SIGNAL = 1, 2  # reasons to leave; signal n is reason n - 1 + FIRST_SIGNAL


class Run:
    """A training run and its folder. All ranks call it together; only rank 0 writes.

        with Run("vunet", args, ranks) as run:
            ...
            run.resume(model=model, optimizer=optimizer)
            for step in run.steps(total, images):
                ...
                run.log(step, losses, lr=lr)
                run.save(step)                      # the last line of the loop

    system  name of the system; a checkpoint of another one is refused
    args    namespace of options.parser's options
    renamed  names that options had in earlier versions -> today's, for folders that those began
    step    number of finished optimiser steps. The loop's `step` counts from 0; logs, images and
            checkpoints of step k carry the number k + 1
    On SIGTERM, SIGINT, SIGUSR1 and SIGHUP, and where nobody reads its output any more, the run
    finishes the step, saves it and raises SystemExit.
    """

    def __init__(
        self, system: str, args: Any, ranks: Ranks, renamed: Mapping[str, str] | None = None
    ):
        if args.nan == "halve" and args.precision != "fp16":
            raise UserError(
                f"--nan halve: only fp16 has a loss scale to halve, --precision is "
                f"{args.precision}; --nan skip leaves such steps out"
            )
        self.system = system
        self.args = args
        self._renamed = dict(renamed or {})
        self.ranks = ranks
        self.device, self.rank, self.world_size = ranks.device, ranks.rank, ranks.world_size
        self.is_main = ranks.is_main
        if self.device.type == "cpu":
            keep_freed_memory()
        self.step = 0
        self.total = 0
        self._started = time.monotonic()
        self._last_line = (0, 0.0)
        self._images = 0
        self._parts: dict[str, Any] = {}
        self._window = Window()
        self._best: dict[str, Any] | None = None
        self._saved = 0
        self._bar: tqdm | None = None
        self._stop = Stop()
        self._lock: Lock | None = None
        self._new = False  # whether this start made the folder
        self.folder, self._found, notes = ranks.on_main(self._open)
        self._log = Log(self.folder, self._found) if self.is_main else None
        halve = (lambda: self._parts["precision"].halve()) if args.precision == "fp16" else None
        self._guard = Guard(self.folder, ranks, args.nan, self.print, halve)
        for note in notes:
            self.print(note)

    def _open(self) -> tuple[Path, int | None, list[str]]:
        """The folder, the step of its newest whole checkpoint or None, and notes; on rank 0."""
        try:
            folder, self._lock, self._new = open_folder(self.args, self._renamed)
            describe(folder, self.device, self.world_size, finished=False)
        except OSError as error:
            raise UserError(
                f"{error.filename}: {error.strerror}; a run needs a folder that it can write to, "
                "which --run_dir names"
            ) from error
        step, broken = checkpoints.newest_whole(folder / "checkpoints")
        return folder, step, [f"{path}: not whole; using the one before" for path in broken]

    def __enter__(self) -> Run:
        self._stop.install()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Describe and release the folder. Raises UserError for an OSError of a full disk.

        A folder that is new is deleted if the start was refused before a step was finished.
        """
        self._stop.remove()
        self._close_bar()
        if self.is_main:
            try:
                if error is None:
                    # An unfinished run is what the same command, without a name, goes on with.
                    finished = self.step >= self.total
                    describe(self.folder, self.device, self.world_size, finished)
            finally:
                if self._log:
                    self._log.close()
                if isinstance(error, UserError | BadSample) and self._new and self.step == 0:
                    discard(self.folder)
                if self._lock:
                    self._lock.release()
        if isinstance(error, OSError) and error.errno in FULL:
            file = error.filename or self.folder
            raise UserError(
                f"{file}: {error.strerror}, in step {self.step + 1}; the last checkpoint is of "
                f"step {self._saved}; with more room the same command goes on"
            ) from error

    # Steps

    def steps(self, total: int, images: int = 0) -> Iterator[int]:
        """The numbers of the remaining steps, up to total - 1, with a progress bar.

        images  images in a step, of all ranks, for the images/s of bar and log
        Before each step the global generators are seeded from (seed, step, rank). Saves at the end,
        at the time limit, and on a signal, after which it raises SystemExit(128 + signal).
        """
        self.total = total
        self._images = images
        self._last_line = (self.step, time.perf_counter())
        if self.is_main:
            every = 0.5 if sys.stderr.isatty() else 10.0
            with self._printing():
                self._bar = tqdm(
                    total=total,
                    initial=self.step,
                    unit="step",
                    dynamic_ncols=True,
                    mininterval=every,
                )
        while self.step < total and not self._leave():
            seeds.seed_everything(self.args.seed, "step", self.step, self.rank)
            self._guard.begin(p for p in self._parts.values() if isinstance(p, nn.Module))
            yield self.step
            self.step += 1
            if self._bar is not None:
                with self._printing():
                    self._bar.update(1)
        self._save_once()
        self._close_bar()
        self.stop_listening()
        self._stop.number = 0  # one that came in the last step must not cut the final scores short

    def _leave(self) -> bool:
        """True if the time limit is reached. Saves and raises SystemExit on a signal."""
        limit = self.args.time_limit * 60
        reason = self._stop.number and self._stop.number - 1 + FIRST_SIGNAL
        if not reason and limit and time.monotonic() - self._started > limit:
            reason = TIME_IS_UP
        reason = int(self.ranks.max(reason))
        if reason > TIME_IS_UP:
            self._save_once()
            self._close_bar()
            number = reason + 1 - FIRST_SIGNAL
            name = signal.Signals(number).name
            self.print(f"{name}: stopped after step {self.step}; the same command goes on")
            raise SystemExit(128 + number)
        if reason == TIME_IS_UP:
            self.print(f"time limit reached after step {self.step}; the same command goes on")
        return reason == TIME_IS_UP

    def listen(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, until a signal asks this rank to stop; for validation and warm-up."""
        for item in items:
            if self._stop.number:
                return
            yield item

    def stop_listening(self) -> None:
        """Let signals end the process at once from now on; for code that saves nothing."""
        self._stop.remove()

    def stopping(self) -> bool:
        """True if a signal asked any rank to stop; all ranks must call it together."""
        return self.ranks.any(bool(self._stop.number))

    def due(self, step: int, every: int) -> bool:
        """True if `step` is a multiple of `every`, or the run's last step; False if `every` is 0.

        A step at which a signal or the time limit ends the run does not count as the last.
        """
        return bool(every) and ((step + 1) % every == 0 or step + 1 == self.total)

    def generator(
        self, step: int, stream: str = "noise", device: torch.device | str | None = None
    ) -> torch.Generator:
        """A generator seeded from (seed, stream, step), equal on all ranks, on the run's device.

        Draw for the images of all ranks and take `ranks.part(noise)`. Two ranks with batch b then
        draw what one rank with batch 2b does.
        """
        return seeds.generator(self.args.seed, stream, step, device=device or self.device)

    # Checkpoints

    @property
    def resumes(self) -> bool:
        """True if the folder holds a checkpoint, which `resume` will load."""
        return self._found is not None

    def resume(self, **parts: Any) -> int:
        """Register the parts of checkpoints, and load the folder's newest whole one, if any.

        parts    objects with state_dict and load_state_dict, by name; None is ignored. Models are
                 saved without the wrappers of ranks and compilation
        returns  the number of finished steps
        """
        self._parts = {name: bare(part) for name, part in parts.items() if part is not None}
        if self._found is None:
            return self.step
        path = checkpoints.path_of(self.folder / "checkpoints", self._found)
        content = checkpoints.read(path, self.system)
        checkpoints.load_parts(content, self._parts, path)
        self.step = self._saved = content["step"]
        self._best = content["best"]
        if len(content["log"]) == self.world_size:
            self._window.restore(content["log"][self.rank], self.device)
        self.print(f"going on from {path}, step {self.step}")
        if self.is_main:
            options.save(self.args, self.folder / "config.yaml")
        now, before = options.plain(self.args), options.rename(content["options"], self._renamed)
        for key in sorted(now.keys() & before.keys()):  # others are of another version
            if now[key] != before[key]:
                self.print(f"option {key} was {before[key]}, is {now[key]}")
        return self.step

    def save(self, step: int, score: float | None = None, every: int | None = None) -> None:
        """Write a checkpoint every `ckpt_freq` (or `every`) steps, and at every step with a score.

        score  of the current weights, lower is better; the best one's checkpoint is kept
        """
        if score is not None or (step + 1) % (every or self.args.ckpt_freq) == 0:
            self._save(step + 1, score)

    def _save_once(self) -> None:
        """Save the last finished step, unless it is saved already or there is none."""
        if self._saved != self.step:
            self._save(self.step)

    def _save(self, step: int, score: float | None = None) -> None:
        best = math.inf if self._best is None else self._best["score"]
        if score is not None and score < best:  # NaN is not
            self._best = {"step": step, "score": float(score)}
        windows = self.ranks.gather(self._window.state())
        self.ranks.on_main(lambda: self._write(step, windows))
        self._saved = step

    def _write(self, step: int, windows: list[dict[str, Any]]) -> None:
        """Write the checkpoint of a step and delete old ones; on rank 0."""
        content = {
            "system": self.system,
            "options": options.plain(self.args),
            "step": step,
            "parts": {name: part.state_dict() for name, part in self._parts.items()},
            "best": self._best,
            "log": windows,
        }
        folder = self.folder / "checkpoints"
        checkpoints.write(checkpoints.path_of(folder, step), content)
        best = self._best["step"] if self._best else None
        checkpoints.prune(folder, self.args.keep_last, self.args.keep_every, best)

    # Log and images

    def print(self, text: str) -> None:
        """Print one line to the terminal and to log.txt, from rank 0."""
        if self._log:
            self._log.line(text)
            with self._printing():
                tqdm.write(text)

    def log(
        self, step: int, losses: dict[str, Tensor], every: int | None = None, **numbers: float
    ) -> dict[str, float] | None:
        """Add this step's losses to the means that the next log line holds, and write it if due.

        A line is due at step 1, every `log_freq` (or `every`) steps, at the last, and when `early`.
        losses   scalars by name, of this rank. The line has their means over ranks and over the
                 steps since the last line; nothing waits for a GPU in between
        numbers  further numbers of this step for the line, such as the learning rate
        returns  the means if a line is due, on every rank, else None
        """
        self._window.add(losses)
        if self.device.type == "cpu":
            self._show(losses)
        due = step == 0 or self.due(step, every or self.args.log_freq) or self.early(step)
        if not due:
            return None
        means = floats(self.ranks.mean(self._window.means()))
        if self._log:
            self._log.record(step + 1, {**means, **numbers, **self._speed(step + 1)})
            self._show(means)
        return means

    def early(self, step: int) -> bool:
        """True if step is N, 2N, 4N, ... for N = `start_log_freq`, before the first `log_freq`."""
        times, rest = divmod(step + 1, self.args.start_log_freq or self.args.log_freq)
        return step + 1 < self.args.log_freq and not rest and times & (times - 1) == 0

    def record(self, step: int, numbers: dict[str, float]) -> None:
        """Log numbers of this step as they are, such as those of a validation; from rank 0."""
        if self._log and numbers:
            self._log.record(step + 1, numbers)

    def image(self, name: str, step: int | None, content: Tensor | np.ndarray) -> Path:
        """Write images/<name>_<step>.png and show it in TensorBoard; from rank 0.

        step     None: of no step, images/<name>.png
        content  (N, C, H, W) in [-1, 1] or uint8, tiled; or one finished (H, W, 3) uint8 array
        """
        number = 0 if step is None else step + 1
        file = f"{name}.png" if step is None else f"{name}_{number:07d}.png"
        path = self.folder / "images" / file
        if self._log:
            tiled = content if isinstance(content, np.ndarray) else images.tile(content)
            images.save_png(path, tiled)
            self._log.image(name, number, tiled)
        return path

    def check(self, losses: dict[str, Tensor], batch: Any) -> bool:
        """True if these numbers are finite on all ranks; waits for the device.

        losses  scalars by name: the losses before the backward pass, or the norm of the gradients,
                as gradient_norm, before the optimiser step
        If not, the batch is saved as bad_batch.pt. --nan stop then raises NonFinite. --nan skip and
        halve return False on all ranks, and raise at the 20th step in a row. In fp16, gradients
        that overflow always return False and halve the loss scale.
        """
        return self._guard.check(self.step + 1, losses, batch)

    def _speed(self, step: int) -> dict[str, float]:
        """Time and memory per step since the last log line."""
        (last, since), now = self._last_line, time.perf_counter()
        self._last_line = (step, now)
        seconds = (now - since) / max(1, step - last)
        speed = {"seconds_per_step": round(seconds, 5)}
        if self._images:
            speed["images_per_second"] = round(self._images / seconds, 2)
        if self.device.type == "cuda":
            speed["gpu_mb"] = torch.cuda.max_memory_allocated(self.device) >> 20
        return speed

    def _show(self, losses: dict[str, Any]) -> None:
        if self._bar is not None:
            facts = self._bar.format_dict
            rate = facts["rate"] or (self.step + 1 - facts["initial"]) / facts["elapsed"]
            speed = {"images/s": f"{rate * self._images:.1f}"} if self._images else {}
            shown = {name: f"{value:.4g}" for name, value in floats(losses).items()}
            self._bar.set_postfix({**speed, **shown}, refresh=False)

    def _close_bar(self) -> None:
        if self._bar is not None:
            with self._printing():
                self._bar.close()
            self._bar = None

    @contextlib.contextmanager
    def _printing(self) -> Iterator[None]:
        """Nothing printed is worth a step: if nobody reads it any more, the run saves and ends."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            options.silence()
            if error.errno == errno.EPIPE:  # a closed terminal sends SIGHUP besides
                self._stop.request(signal.SIGPIPE)


def keep_freed_memory() -> bool:
    """Make malloc keep freed memory for the next step; True if it does (glibc on Linux only).

    Each step frees large tensors and asks for the same again. By default glibc returns them to the
    system, which clears every page anew: about a tenth of the processor time of a training step.
    Peak memory stays the same.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    # In this order: if the first is refused, malloc adapts both thresholds, as by default.
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _NEVER))
