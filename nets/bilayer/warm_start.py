"""Starting a training from trained networks, and loading them and students for inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nets.bilayer import DEFAULTS, NETWORKS, Bilayer
from nets.bilayer.defaults import READING
from nets.bilayer.experiment import epochs, network_file
from nets.bilayer.network import Student, build
from nets.bilayer.objective import naming_options
from nets.bilayer.options import schedule
from nets.bilayer.published import matched, take
from nets.contracts import Dataset
from nets.errors import UserError
from nets.run import checkpoints, options
from nets.run.files import Lock
from nets.run.precision import Precision
from nets.run.run import Run
from nets.tensor_files import read_plain


def go_back(args: options.Namespace, open_data: Callable[[], Dataset]) -> list[str]:
    """Set aside what a run folder holds after the epoch `which_epoch`; notes for the log.

    Call it before the run opens its folder, on one rank. A run that the same command began goes on
    from its newest checkpoint, and nothing is set aside.
    open_data  the training data, which tell the steps of an epoch
    Raises UserError if the folder is further on and holds no networks of that epoch.
    """
    folder = Path(args.run_dir) / str(args.name)
    later = checkpoints.stored(folder / "checkpoints")
    epoch = str(args.which_epoch)
    if args.name is None or not epoch.isdigit() or not later or args.resume == "never":
        return []
    lock = Lock(folder / ".lock")
    if not lock.acquire():  # the run will name the other one that writes there
        return []
    try:
        newest, _ = checkpoints.newest_whole(folder / "checkpoints")
        if newest is None:
            return []
        path = checkpoints.path_of(folder / "checkpoints", newest)
        before, now = checkpoints.read(path)["options"], options.plain(args)
        if all(before[key] == now[key] for key in before.keys() & now.keys()):
            return []
        length, _ = schedule(args, len(open_data()))
        here = checkpoints.path_of(folder / "checkpoints", int(epoch) * length)
        own = [name for name in args.networks_to_train if name not in args.init_networks]
        if here not in later and own:
            network_file(folder, epoch, own[0])
        later = [file for file in later if file != here]
        if here in checkpoints.stored(folder / "checkpoints"):
            later = [file for file in later if checkpoints.step_of(file) > int(epoch) * length]
        for name in NETWORKS:
            for number in epochs(folder, name):
                if number > int(epoch):
                    files = (folder / "checkpoints").glob(f"{number}_*{name}.pth")
                    later += sorted(files)
        return _set_aside(later, folder, epoch)
    finally:
        lock.release()


def _set_aside(files: list[Path], folder: Path, epoch: str) -> list[str]:
    """Move files of checkpoints/ into a new folder there; a line that names them."""
    if not files:
        return []
    place = folder / "checkpoints" / f"after_epoch_{epoch}"
    for number in range(2, 1000):
        if not place.exists():
            break
        place = place.with_name(f"after_epoch_{epoch}_{number}")
    place.mkdir()
    for file in files:
        file.rename(place / file.name)
    names = ", ".join(file.name for file in files)
    return [f"which_epoch {epoch}: going back; set aside in {place}: {names}"]


def start(
    run: Run,
    args: Mapping[str, Any],
    net: Bilayer,
    optimizers: Mapping[str, torch.optim.Optimizer],
    step_epoch: int,
) -> None:
    """Load networks from published checkpoints before the first step.

    `init_networks` come from the experiment `init_experiment_dir`. With `which_epoch`, the other
    trained networks and the step come from an epoch of this run's folder. Their optimisers do too,
    unless `init_experiment_dir` is given.
    step_epoch  steps per epoch
    Raises UserError that names the file that is missing or does not fit.
    """
    for name in args["init_networks"]:
        if name not in net.names:
            raise UserError(f"init_networks: {name} is not among the networks of this run")
        path = network_file(args["init_experiment_dir"], args["init_which_epoch"], name)
        take(getattr(net, name), path, name)
        run.print(f"{name} from {path}")
    epoch, own = _own_epoch(run.folder, args)
    if epoch is None:
        if own and str(args["which_epoch"]) != "none":
            what = f"which_epoch {args['which_epoch']}: no such checkpoint in {run.folder}"
            run.print(f"{what}; starting from scratch")
        return
    for name in own:
        take(getattr(net, name), network_file(run.folder, epoch, name), name)
        if not args["init_experiment_dir"] and name in optimizers:
            _load_optimizer(optimizers[name], network_file(run.folder, epoch, f"opt_{name}"))
    run.step = int(epoch) * step_epoch
    run.print(f"going on from epoch {epoch} of {run.folder}: {', '.join(own)}")


def check_start(folder: Path, args: options.Namespace) -> None:
    """Raise UserError if a file that `start` loads is missing or does not fit.

    For a run without checkpoints. No network is initialised.
    """
    files: dict[str, Path] = {}
    moments: dict[str, Path] = {}
    for name in args["init_networks"]:
        files[name] = network_file(args["init_experiment_dir"], args["init_which_epoch"], name)
    epoch, own = _own_epoch(folder, args)
    for name in own if epoch else []:
        files[name] = network_file(folder, str(epoch), name)
        if not args["init_experiment_dir"] and name not in args["frozen_networks"]:
            moments[name] = network_file(folder, str(epoch), f"opt_{name}")
    if not files:
        return
    with naming_options(), torch.device("meta"):
        net = build(options.plain(args))
    for name, path in files.items():
        if name not in net.names:
            raise UserError(f"init_networks: {name} is not among the networks of this run")
        matched(getattr(net, name), path, name)
    parameters = dict(net.trainable())
    for name, path in moments.items():
        if name in parameters:
            like = torch.optim.SGD(parameters[name], 1.0)
            checkpoints.check_moments(read_plain(path), like, path, name)


def _own_epoch(folder: Path, args: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    """The epoch of the folder's published files to start from, or None; the networks to load."""
    epoch = str(args["which_epoch"])
    own = [name for name in args["networks_to_train"] if name not in args["init_networks"]]
    if epoch == "none" or not own:
        return None, own
    available = epochs(folder, own[0])
    if epoch == "latest" and available:
        return str(available[-1]), own
    if epoch in ("1", "latest") and 1 not in available:
        return None, own
    if not epoch.isdigit():
        raise UserError(f"which_epoch: must be a number, none or latest, got {epoch}")
    return epoch, own


def _load_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Load an optimiser's moments and counts; it keeps this run's settings."""
    state = read_plain(path)
    settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state)
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: does not fit this run's optimiser: {error}") from error
    for group, setting in zip(optimizer.param_groups, settings, strict=True):
        group.update(setting)


class Loaded(NamedTuple):
    """A model for inference, in evaluation mode, and the options it was trained with."""

    net: Bilayer
    options: dict[str, Any]
    precision: Precision

    @property
    def device(self) -> torch.device:
        return self.precision.device


def load_model(content: dict[str, Any], path: Path, precision: Precision) -> Loaded:
    """The networks of a checkpoint, with averaged weights if it has them.

    content  of the checkpoint, as `nets.run.checkpoints.read` returns it
    path     of the checkpoint, for messages
    Raises UserError on a student, which is no network of many persons.
    """
    if is_student(content):
        raise UserError(
            f"{path}: a distilled avatar of one person; only infer.py takes it, with -d"
        )
    trained = {**DEFAULTS, **READING, **content["options"]}
    names = {key.partition(".")[0] for key in content["parts"]["model"]}
    net = build(trained, sorted(names))
    checkpoints.load_weights(content, net, path)
    return Loaded(precision.place(net.eval()), trained, precision)


class LoadedStudent(NamedTuple):
    """A student for inference, in evaluation mode, and its teacher's options."""

    net: Student
    options: dict[str, Any]
    precision: Precision

    @property
    def device(self) -> torch.device:
        return self.precision.device


def is_student(content: Mapping[str, Any]) -> bool:
    """True if a checkpoint is of distil.py."""
    return content["options"].get("teacher") is not None


def student_of(trained: Mapping[str, Any]) -> Student:
    """A new student of the options of distil.py."""
    try:
        return Student(trained["teacher"], trained["inf_num_channels"], trained["inf_max_channels"])
    except ValueError as error:
        raise UserError(str(error)) from error


def load_student(content: dict[str, Any], path: Path, precision: Precision) -> LoadedStudent:
    """The student of a checkpoint, with averaged weights if it has them; see `load_model`."""
    student = student_of(content["options"])
    checkpoints.load_weights(content, student, path)
    # A student needs no images of its person, and so no masks.
    trained = {**DEFAULTS, **READING, **content["options"]["teacher"], "emb_apply_masks": False}
    return LoadedStudent(precision.place(student.eval()), trained, precision)
