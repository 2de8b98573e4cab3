"""The experiment folder in the published program's layout, beside the run's own files.

It is written with export_published, which experiment_dir and experiment_name imply. Other runs have
the grids, as images/PHASE_STEP.png, and lists of files.

    args.txt                       sorted lines `name: value`
    checkpoints/EPOCH_NETWORK.pth  state dict of a trained network, with the published keys
    checkpoints/EPOCH_opt_NETWORK.pth
    images/train/, images/test/    grids, NUMBER_RANK.jpg
    losses.jsonl                   one line per log: step, epoch, phase, and the means
    losses.pkl                     the same for the published program: {name: list of means}
    metrics/                       events: learning rates, losses, metrics, images of single steps
    tensorboard_paper/             events: grids and means of train and test
    train_filenames.txt, test_filenames.txt

These files are for people and for programs that know the published layout. A restart reads the
run's own checkpoints/step_*.pt instead, and cuts off what these files hold about later steps.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from nets.bilayer.data import Mixed
from nets.bilayer.published_options import RENAMED
from nets.contracts import Dataset
from nets.data.heads.videos import AvatarFolder, AvatarList
from nets.errors import UserError
from nets.published import TRAINED
from nets.run import checkpoints, options
from nets.run.files import Appending, write_atomic, write_text
from nets.run.images import tile
from nets.run.log import Board, forget_later
from nets.run.run import Run

SHOWN = {  # name of a score -> its name in metrics/
    "G_PSNR": "PSNR", "G_SSIM": "SSIM", "G_SSIM2": "SSIM2", "G_LPIPS": "lpips", "G_CSIM": "CSIM",
    "G_PME": "pose_matching_metric",
}  # fmt: skip


class Experiment:
    """The writers of one run's experiment folder.

    Every rank has one. Each rank writes its grids, and rank 0 writes everything else.
    step_epoch  steps per epoch
    """

    def __init__(self, run: Run, args: options.Namespace, step_epoch: int):
        self.run, self.args, self.step_epoch = run, args, step_epoch
        self.folder, self.exporting = run.folder, args["export_published"]
        self._boards: dict[str, Board] = {}
        self._clock = (run.step, time.perf_counter())
        self._listed: dict[str, bool] = {}
        self._start = 0

    def open(self, start: int) -> None:
        """Create the folders, cut off lines of steps after `start`, and write args.txt."""
        self._start = start
        if self.run.is_main and self.exporting:
            losses = self.folder / "losses.jsonl"
            forget_later(losses, start)
            if not start:  # the test before the first step runs again
                losses.unlink(missing_ok=True)
            values = options.plain(self.args)
            values |= {old: values[new] for old, new in RENAMED.items()}  # for other programs
            write_args(self.folder / "args.txt", values)
        self.run.ranks.barrier()

    def epoch(self, step: int) -> int:
        """The count of finished epochs after step `step`."""
        return (step + 1) // self.step_epoch

    def ends(self, step: int, every: int) -> bool:
        """True if an epoch with a multiple of `every` ends at this step, or the run does."""
        last = step + 1 == self.run.total
        return last or ((step + 1) % self.step_epoch == 0 and self.epoch(step) % every == 0)

    def losses(self, step: int, phase: str, means: Mapping[str, float], seconds: float) -> None:
        """Print a phase's means since its last log; add them to losses.jsonl and the events."""
        if not self.run.is_main:
            return
        named = ", ".join(f"{name}: {value:.3f}" for name, value in means.items())
        self.run.print(f"epoch {self.epoch(step)} {phase}: {named}, {seconds:.1f} s")
        if not self.exporting:
            return
        line = {"step": step + 1, "epoch": self.epoch(step), "phase": phase, **means}
        with Appending(self.folder / "losses.jsonl") as file:
            file.write(json.dumps(line).encode() + b"\n")
        for name, value in means.items():
            self.board("tensorboard_paper").scalar(f"{name}_{phase}", value, step + 1)

    def grid(self, step: int, phase: str, number: int, image: np.ndarray) -> None:
        """Write a grid to images/PHASE/NUMBER_RANK.jpg; rank 0's to tensorboard_paper/ too."""
        if not self.exporting:
            self.run.image(phase, step, image)
            return
        path = self.folder / "images" / phase / f"{number:04d}_{self.run.rank:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pillow = Image.fromarray(np.ascontiguousarray(image))
        write_atomic(path, lambda file: pillow.save(file, format="JPEG", quality=95), durable=False)
        if self.run.is_main:
            board = self.board("tensorboard_paper")
            board.image(f"results_{phase}", image, step + 1)

    def step_metrics(
        self,
        step: int,
        data: Mapping[str, Tensor],
        terms: Mapping[str, Tensor],
        optimizers: Mapping[str, torch.optim.Optimizer],
        scores: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    ) -> None:
        """Log a single step in metrics/.

        Numbers are logged every `metrics_log_rate` steps, images every `images_log_rate` steps.
        data    of the step's forward pass
        terms   the weighted terms of its loss
        scores  computes the metrics from `data`
        """
        args = self.args
        if not self.exporting:
            return
        if step % args["metrics_log_rate"] == 0:
            numbers = {f"losses/{name}": value.item() for name, value in terms.items()}
            numbers["loss/train_loss"] = sum(numbers.values())
            for name, opt in optimizers.items():
                adam = "betas" in opt.param_groups[0]
                first = 1 - args["adam_beta1"] ** (step + 1) if adam else 1.0
                numbers[f"lrs/{name}"] = opt.param_groups[0]["lr"] / first
            numbers |= {f"metrics/{SHOWN[k]}": float(v) for k, v in scores(data).items()}
            (last, since), self._clock = self._clock, (step, time.perf_counter())
            numbers["timing/seconds_per_step"] = (self._clock[1] - since) / max(1, step - last)
            self.scalars(step, numbers)
        if step % args["images_log_rate"] == 0:
            shown = {"source_image": "source_imgs", "target_image": "target_imgs",
                     "generated_image": args["dis_fake_imgs_name"]}  # fmt: skip
            self.images(step, {k: data[v][0, 0] for k, v in shown.items() if v in data})

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log numbers of one step in metrics/."""
        if self.run.is_main:
            for name, value in numbers.items():
                self.board("metrics").scalar(name, value, step + 1)

    def images(self, step: int, images: Mapping[str, Tensor]) -> None:
        """Log images (3, S, S) in [-1, 1] of one step in metrics/."""
        if self.run.is_main:
            for name, image in images.items():
                self.board("metrics").image(f"images/{name}", tile(image[None]), step + 1)

    def board(self, name: str) -> Board:
        """The event writer of a folder; events after the run's start are declared void."""
        if name not in self._boards:
            self._boards[name] = Board(self.folder / name, self._start)
        return self._boards[name]

    def close(self) -> None:
        """Close the event writers."""
        for board in self._boards.values():
            board.close()
        self._boards = {}

    def open_list(self, phase: str, data: Dataset, samples: int) -> None:
        """Start PHASE_filenames.txt.

        samples  count of the samples before a restart, whose frames are kept
        Raises UserError for the demo world, which has no files.
        """
        if not isinstance(data, AvatarFolder | AvatarList | Mixed):
            raise UserError("save_dataset_filenames: the demo world has no files; give --data")
        path = self.folder / f"{phase}_filenames.txt"
        lines = samples * (self.args["num_source_frames"] + self.args["num_target_frames"])
        kept = []
        if path.exists() and lines:
            kept = path.read_text(encoding="utf-8").splitlines()[1:][:lines]
        self._listed[phase] = len(kept) == lines > 0
        if self.run.is_main:
            write_text(path, "\n".join([f"data-root: {data.root}", *kept]) + "\n")

    def append(self, phase: str, samples: Iterable[str]) -> None:
        """Append the lines of samples to PHASE_filenames.txt, in the order of their use."""
        if not self.run.is_main:
            return
        text = "".join(f"{sample}\n" for sample in samples)
        with Appending(self.folder / f"{phase}_filenames.txt") as file:
            file.write(text.encode())

    def append_tests(self, samples: list[list[str]]) -> None:
        """Append the frames of the first test pass; all passes have the same frames.

        samples  the lines of each rank
        """
        if self._listed.get("test", True):
            return
        self._listed["test"] = True
        rounds = itertools.zip_longest(*samples)  # rank r of R read samples r, r + R, r + 2R, ...
        self.append("test", [sample for row in rounds for sample in row if sample])

    def save_networks(
        self, epoch: int, networks: Mapping[str, nn.Module], optimizers: Mapping[str, Any]
    ) -> None:
        """Write EPOCH_NETWORK.pth and EPOCH_opt_NETWORK.pth of the trained networks; losses.pkl."""
        if not (self.run.is_main and self.exporting):
            return
        folder = self.folder / "checkpoints"
        parts = {name: net.state_dict() for name, net in networks.items()}
        parts |= {f"opt_{name}": optimizer.state_dict() for name, optimizer in optimizers.items()}
        for name, state in parts.items():
            write_atomic(folder / f"{epoch}_{name}.pth", partial(torch.save, to_cpu(state)))
        means = means_of(self.folder / "losses.jsonl")
        write_atomic(self.folder / "losses.pkl", lambda file: file.write(pickle.dumps(means, 2)))


def means_of(losses: Path) -> dict[str, list[float]]:
    """Name -> its means in losses.jsonl, in order: those of training, or of tests if it has none.

    The published program goes on from them, as plain floats in losses.pkl. guise reads no pickles.
    """
    lines = losses.read_text(encoding="utf-8").splitlines() if losses.is_file() else []
    result: dict[str, list[float]] = {}
    for phase in ("train", "test"):
        means: dict[str, list[float]] = {}
        for line in map(json.loads, lines):
            if line["phase"] == phase:
                for name in line.keys() - {"step", "epoch", "phase"}:
                    means.setdefault(name, []).append(float(line[name]))
        result = means | result
    return result


@contextlib.contextmanager
def printing_to(folder: Path, rank: int) -> Iterator[None]:
    """Redirect prints to stdout_RANK.txt and stderr_RANK.txt of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        open(folder / f"stdout_{rank}.txt", "a", encoding="utf-8", buffering=1) as out,
        open(folder / f"stderr_{rank}.txt", "a", encoding="utf-8", buffering=1) as error,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
    ):
        yield


def to_cpu(state: Any) -> Any:
    """A state dict with its tensors on the CPU, contiguous."""
    if isinstance(state, Tensor):
        return state.detach().cpu().contiguous()
    if isinstance(state, Mapping):
        return {key: to_cpu(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [to_cpu(value) for value in state]
    return state


def network_file(experiment: str | Path, epoch: str | int, name: str) -> Path:
    """The path EXPERIMENT/checkpoints/EPOCH_NAME.pth; without an epoch a checkpoint of guise.

    experiment  a folder; with epoch "none" also a run folder or a checkpoint of guise, or
                "trained": the weights that come with guise
    Raises UserError that lists the available epochs if it is missing.
    """
    if experiment == "trained":
        experiment = TRAINED / "bilayer.safetensors"
    folder = Path(experiment) / "checkpoints"
    if str(epoch) == "none":
        if epochs(experiment, name) and not any(folder.glob("step_*.pt")):
            raise UserError(f"init_which_epoch: must be given with {experiment}")
        try:
            return checkpoints.find(experiment)
        except UserError as error:
            raise UserError(
                f"init_experiment_dir {experiment}: neither a checkpoint nor a folder with one"
            ) from error
    path = folder / f"{epoch}_{name}.pth"
    if path.is_file():
        return path
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; an experiment's networks are in checkpoints/")
    available = epochs(experiment, name)
    what = (
        f"there are epochs {', '.join(map(str, available))}" if available else f"there is no {name}"
    )
    if not available and any(folder.glob("step_*.pt")):
        what += "; a run writes such files with --export_published"
    raise UserError(f"{path}: no such file; {what}")


def epochs(experiment: str | Path, name: str) -> list[int]:
    """The epochs of which an experiment holds a network, in order."""
    files = (Path(experiment) / "checkpoints").glob(f"*_{name}.pth")
    numbers = [file.name.removesuffix(f"_{name}.pth") for file in files]
    return sorted(int(number) for number in numbers if number.isdigit())


def write_args(path: Path, values: Mapping[str, Any]) -> None:
    """Write sorted lines `name: value`; lists and dicts have the form of the command line."""
    lines = [f"{name}: {_text(value)}" for name, value in sorted(values.items())]
    write_text(path, "\n".join(lines) + "\n")


def _text(value: Any) -> str:
    """A value in the form of the command line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
