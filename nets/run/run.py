"""One training run: its folder, its steps, what it saves and what it tells."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import yaml
from torch import Tensor
from tqdm import tqdm

from nets.errors import UserError
from nets.run import checkpoints, images, options
from nets.run.files import Lock, write_atomic, write_text
from nets.run.log import Log, Window
from nets.run.options import NonFinite
from nets.run.ranks import Ranks, bare
from nets.run.stop import Stop

Item = TypeVar("Item")
SKIPS_IN_A_ROW = 20
TIME_IS_UP = 1  # no signal that is listened to has this number


def counted_seed(*parts: object) -> int:
    """A seed in [0, 2**63) from numbers and names; the same parts always give the same one."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Run:
    """A run in its folder, `<run_dir>/<name>/`: config.yaml, log.txt, checkpoints/, images/,
    tensorboard/ and environment.json. All ranks have one; only rank 0 writes.

        with Run("vunet", args, ranks) as run:
            ...
            run.resume(model=model, optimizer=optimizer)
            for step in run.steps(args.steps, images=...):
                ...
                run.log(step, losses, lr=lr)
                run.save(step)

    step     finished optimiser steps; the loop's `step` counts from 0, and what the loop's step k
             logs, draws and saves carries the number k + 1
    Exit by SIGTERM, SIGINT or SIGUSR1: the step is finished, saved, and SystemExit is raised.
    """

    def __init__(self, system: str, args: Any, ranks: Ranks):
        self.system = system
        self.args = args
        self.ranks = ranks
        self.device, self.rank, self.world_size = ranks.device, ranks.rank, ranks.world_size
        self.is_main = ranks.is_main
        self.step = 0
        self.total = 0
        self._started = time.monotonic()
        self._parts: dict[str, Any] = {}
        self._window = Window()
        self._best: dict[str, Any] | None = None
        self._skips = 0
        self._saved = -1
        self._bar: tqdm | None = None
        self._lock: Lock | None = None
        self._stop = Stop()
        self._last_log = (0, time.perf_counter())
        self.folder = Path(ranks.on_main(self._open_folder))
        self.logger = Log(self.folder) if self.is_main else None

    def __enter__(self) -> Run:
        self._stop.install()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.remove()
        self._close_bar()
        if self.logger:
            self.logger.close()
        if self._lock:
            self._lock.release()

    # The folder

    def _open_folder(self) -> str:
        """Choose, make and lock the folder; on rank 0."""
        root = Path(self.args.run_dir)
        if self.args.name:
            folder = root / self.args.name
            folder.mkdir(parents=True, exist_ok=True)
            if not self._take(folder):
                raise UserError(f"{folder}: another run is writing there; give another --name")
        else:
            folder = self._unfinished(root) or self._new_folder(root)
        holds = checkpoints.stored(folder / "checkpoints")
        if holds and self.args.resume == "never":
            raise UserError(f"{folder}: holds checkpoints; give another --name or --resume auto")
        for name in ("checkpoints", "images", "tensorboard"):
            (folder / name).mkdir(exist_ok=True)
        for leftover in (folder / "checkpoints").glob(".*.tmp"):
            leftover.unlink()
        options.save(self.args, folder / "config.yaml")
        self._describe(folder, finished=False)
        return str(folder)

    def _take(self, folder: Path) -> bool:
        self._lock = Lock(folder / ".lock")
        return self._lock.acquire()

    def _unfinished(self, root: Path) -> Path | None:
        """The newest folder that the same options began and did not finish, locked."""
        if self.args.resume == "never":
            return None
        for config in sorted(root.glob("*/config.yaml"), reverse=True):
            folder = config.parent
            with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
                same = yaml.safe_load(config.read_text()) == options.plain(self.args)
                facts = json.loads((folder / "environment.json").read_text())
                if same and not facts["finished"] and self._take(folder):
                    return folder
        return None

    def _new_folder(self, root: Path) -> Path:
        """A folder named after the time, locked."""
        stamp = time.strftime("%Y-%m-%dT%H-%M-%S")
        for suffix in ("", *(f"_{i}" for i in range(2, 100))):
            folder = root / f"{stamp}{suffix}"
            with contextlib.suppress(FileExistsError):
                folder.mkdir(parents=True)
                self._take(folder)
                return folder
        raise UserError(f"{root}: cannot make a new run folder")

    def _describe(self, folder: Path, finished: bool) -> None:
        """environment.json: versions, revision, command line, device."""
        facts = {
            "finished": finished,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "device": _device_name(self.device),
            "ranks": self.world_size,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "platform": platform.platform(),
            "revision": _revision(),
        }
        write_text(folder / "environment.json", json.dumps(facts, indent=1) + "\n")

    # Steps

    def steps(self, total: int, images: int = 0) -> Iterator[int]:
        """The numbers of the steps that are still to do, 0 to total - 1, with a progress bar.

        images  pictures in a step, over all ranks, for the bar's images/s
        Before each step the global generators are seeded from (seed, step, rank). Saves at the end,
        at the time limit, and on a signal, after which it raises SystemExit(128 + signal).
        """
        self.total = total
        self._images = images
        self._last_log = (self.step, time.perf_counter())
        if self.is_main:
            self._bar = tqdm(
                total=total,
                initial=self.step,
                unit="step",
                dynamic_ncols=True,
                mininterval=0.5 if sys.stderr.isatty() else 10,
            )
        while self.step < total and not self._leave():
            step = self.step
            self.seed(step)
            yield step
            self.step = step + 1
            self._advance_bar()
        self._save_once()
        self._close_bar()
        self._stop.remove()

    def _leave(self) -> bool:
        """Whether the time is up; on a signal saves and raises SystemExit. All ranks agree."""
        limit = self.args.time_limit * 60
        reason = self._stop.number
        if not reason and limit and time.monotonic() - self._started > limit:
            reason = TIME_IS_UP
        reason = int(self.ranks.max(reason))
        if reason > TIME_IS_UP:
            self._save_once()
            self._close_bar()
            name = signal.Signals(reason).name
            self.print(f"{name}: stopped after step {self.step}; the same command goes on")
            raise SystemExit(128 + reason)
        if reason == TIME_IS_UP:
            self.print(f"time limit reached after step {self.step}")
        return reason == TIME_IS_UP

    def listen(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, until a signal asks this rank to stop: for validation and warm-up."""
        for item in items:
            if self._stop.number:
                return
            yield item

    def stopping(self) -> bool:
        """Whether a signal asked any rank to stop; all ranks must ask together."""
        return self.ranks.any(bool(self._stop.number))

    def due(self, step: int, every: int) -> bool:
        """Whether something that is done every so many steps is done after this one, or the last.

        every  0: never
        """
        return bool(every) and ((step + 1) % every == 0 or step + 1 == self.total)

    def seed(self, step: int) -> None:
        """Seed torch, numpy and random from (seed, step, rank)."""
        seed = counted_seed(self.args.seed, "step", step, self.rank)
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)

    def generator(
        self, step: int, stream: str = "noise", device: torch.device | str | None = None
    ) -> torch.Generator:
        """A generator from (seed, step, stream), equal on all ranks.

        Draw for all ranks' pictures and take `ranks.part(noise)`: then two ranks with batch b draw
        what one rank with batch 2b does.
        """
        generator = torch.Generator(device or self.device)
        return generator.manual_seed(counted_seed(self.args.seed, stream, step))

    # Checkpoints

    def resume(self, **parts: Any) -> int:
        """Register what checkpoints hold, and load the newest whole one of the folder if any.

        parts   objects with state_dict and load_state_dict, by name; None is left out. Models are
                saved without the wrappers of ranks and compilation.
        returns the number of finished steps
        """
        self._parts = {name: bare(part) for name, part in parts.items() if part is not None}
        path = self.ranks.on_main(self._newest)
        if path is not None:
            content = checkpoints.read(Path(path), self.system)
            checkpoints.load_parts(content, self._parts, Path(path))
            self.step = self._saved = content["step"]
            self._best = content.get("best")
            windows = content.get("log") or []
            if len(windows) == self.world_size:
                self._window.restore(windows[self.rank], self.device)
        if self.logger:
            self.logger.go_on_from(self.step)
        if path is not None:
            self.print(f"going on from {path}, step {self.step}")
            self._tell_changes(content["options"])
        return self.step

    def _newest(self) -> str | None:
        """The newest whole checkpoint; broken ones are said and set aside. On rank 0."""
        for path in checkpoints.stored(self.folder / "checkpoints"):
            if checkpoints.is_whole(path):
                return str(path)
            aside = path.with_name(path.name + ".broken")
            path.rename(aside)
            tqdm.write(f"{path}: not whole; kept as {aside.name}, using the one before")
        return None

    def _tell_changes(self, before: dict[str, Any]) -> None:
        """Name the options that are not what the checkpoint was trained with."""
        now = options.plain(self.args)
        for key in sorted(now.keys() | before.keys()):
            if now.get(key) != before.get(key):
                self.print(f"  option {key} was {before.get(key)}, is {now.get(key)}")

    def save(self, step: int, score: float | None = None, every: int | None = None) -> None:
        """Write a checkpoint after this step if it is due: every `ckpt_freq` steps.

        score  of the weights as they are, lower is better: the best checkpoint is kept, and a
               score makes the checkpoint due
        """
        if score is not None or (step + 1) % (every or self.args.ckpt_freq) == 0:
            self._save(step + 1, score)

    def _save_once(self) -> None:
        if self._saved != self.step and self._parts:
            self._save(self.step)

    def _save(self, step: int, score: float | None = None) -> None:
        if score is not None and (self._best is None or score < self._best["score"]):
            self._best = {"step": step, "score": score}
        windows = self.ranks.gather(self._window.state())
        self.ranks.on_main(lambda: self._write(step, windows))
        self._saved = step

    def _write(self, step: int, windows: list[dict[str, Any]]) -> None:
        """On rank 0."""
        assert self.logger is not None
        self.logger.flush()
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

    # Telling

    def print(self, text: str) -> None:
        """One line to the terminal and to log.txt, from rank 0."""
        if self.logger:
            tqdm.write(text)
            self.logger.line(text)

    def log(
        self, step: int, losses: dict[str, Tensor], every: int | None = None, **numbers: float
    ) -> None:
        """Count this step's losses; at step 1, every `log_freq` steps and the last, tell the means.

        losses   scalars by name, of this rank; the line has their mean over ranks and over the
                 steps since the last line. Nothing waits for the device in between.
        numbers  learning rate and the like, told as they are
        """
        self._window.add(losses)
        if self._bar is not None and self.device.type == "cpu":
            self._show(losses)
        every = every or self.args.log_freq
        if step != 0 and not self.due(step, every):
            return
        means = self.ranks.mean(self._window.means())
        if not self.logger:
            return
        self.logger.record(step + 1, {**_floats(means), **numbers, **self._speed(step)})
        self._show(means)

    def _speed(self, step: int) -> dict[str, float]:
        """Time and memory of the steps since the last line."""
        last, since = self._last_log
        now = time.perf_counter()
        self._last_log = (step + 1, now)
        seconds = (now - since) / max(1, step + 1 - last)
        speed = {"seconds_per_step": round(seconds, 5)}
        if self._images:
            speed["images_per_second"] = round(self._images / seconds, 2)
        if self.device.type == "cuda":
            speed["gpu_mb"] = torch.cuda.max_memory_allocated(self.device) >> 20
        return speed

    def record(self, step: int, numbers: dict[str, float]) -> None:
        """Tell numbers of this step as they are, e.g. of a validation; from rank 0."""
        if self.logger:
            self.logger.record(step + 1, numbers)

    def image(self, name: str, step: int, pictures: Tensor | np.ndarray) -> Path:
        """Write images/<name>_<step>.png and show it in TensorBoard; from rank 0.

        pictures  (N, C, H, W) in [-1, 1] or uint8, tiled; or one finished (H, W, 3) uint8 array
        """
        path = self.folder / "images" / f"{name}_{step + 1:07d}.png"
        if self.logger:
            done = isinstance(pictures, np.ndarray)
            picture = pictures if done else images.tile(pictures)
            images.save_png(path, picture)
            self.logger.picture(name, step + 1, picture)
        return path

    def _show(self, losses: dict[str, Tensor]) -> None:
        if self._bar is not None:
            shown = {name: f"{value:.4g}" for name, value in _floats(losses).items()}
            rate = self._bar.format_dict["rate"]
            speed = {"images/s": f"{rate * self._images:.1f}"} if rate and self._images else {}
            self._bar.set_postfix({**speed, **shown}, refresh=False)

    def _advance_bar(self) -> None:
        if self._bar is not None:
            self._bar.update(1)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def close(self) -> None:
        """The script is through: note it, so that the same command starts a new run next time."""
        if self.is_main:
            self._describe(self.folder, finished=self.step >= self.total)
        self.ranks.close()

    # Bad numbers

    def check(self, losses: dict[str, Tensor], batch: dict[str, Any]) -> bool:
        """Whether the step may go on: all ranks' losses are finite. Waits for the device.

        A loss that is not finite: its batch is saved as bad_batch.pt in the run folder. With
        --nan stop raises NonFinite; with --nan skip says so and returns False on all ranks, the
        20th time in a row raises.
        """
        values = torch.stack([torch.as_tensor(v).detach().float() for v in losses.values()])
        finite = bool(values.isfinite().all())
        if not self.ranks.any(not finite):
            self._skips = 0
            return True
        bad = {k: v for k, v in _floats(losses).items() if not np.isfinite(v)}
        if bad:
            saved = self._save_batch(losses, batch)
        self._skips += 1
        named = ", ".join(f"{name} is {value}" for name, value in bad.items())
        text = f"step {self.step + 1}: loss {named}; batch saved as {saved}" if bad else ""
        text = text or f"step {self.step + 1}: a loss is not finite on another rank"
        if self.args.nan == "stop":
            raise NonFinite(f"{text}; --nan skip would leave such steps out")
        if self._skips >= SKIPS_IN_A_ROW:
            raise NonFinite(f"{text}; {self._skips} steps in a row")
        self.print(f"{text}; step left out")
        return False

    def _save_batch(self, losses: dict[str, Tensor], batch: dict[str, Any]) -> Path:
        suffix = f"_rank{self.rank}" if self.rank else ""
        path = self.folder / f"bad_batch{suffix}.pt"
        content = {"step": self.step + 1, "losses": _floats(losses), "batch": batch}
        write_atomic(path, lambda file: torch.save(content, file))
        return path


def _floats(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(torch.as_tensor(value).detach()) for name, value in values.items()}


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor()
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def _revision() -> str | None:
    """The git revision of this program, with a + where files were changed."""
    here = Path(__file__).parent
    ask = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
