"""Checkpoints: one file per step, written atomically, read without running any code.

A file holds tensors, numbers, strings, lists and dicts only:

    format    FORMAT
    system    name of the system, e.g. "vunet"
    options   the resolved options
    step      finished optimiser steps
    parts     name -> state dict: models, optimisers, EMA, loss scale
    best      {"step", "score"} of the best checkpoint so far, or None
    log       per rank, the losses added up since the last log line

Random states are not stored: step k draws from (seed, k, rank), and the order of an epoch from
(seed, epoch). The step is also the sampler's position.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nets.errors import UserError
from nets.listing import walk
from nets.run.files import write_atomic
from nets.tensor_files import read_plain, read_safetensors, require
from nets.tensorflow_files import prefix_of

FORMAT = 1
PATTERN = "step_*.pt"
MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer", "m", "v")  # shaped like their parameter


def path_of(folder: Path, step: int) -> Path:
    """checkpoints/step_00001000.pt"""
    return Path(folder) / f"step_{step:08d}.pt"


def step_of(path: Path) -> int:
    """Finished steps, from the name of a checkpoint."""
    return int(path.stem.removeprefix("step_"))


def stored(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first."""
    files = [path for path in Path(folder).glob(PATTERN) if path.stem[5:].isdigit()]
    return sorted(files, key=step_of, reverse=True)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint; a kill or a full disk at any moment leaves the older ones as they are."""
    write_atomic(path, lambda file: torch.save({"format": FORMAT, **content}, file))


def is_whole(path: Path) -> bool:
    """Whether a checkpoint's archive is complete and its checksums are right."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # damage is reported with a dozen exception types
        return False


def newest_whole(folder: Path) -> tuple[int | None, list[Path]]:
    """Step of the newest whole checkpoint or None, and the broken ones that are newer.

    Those are renamed to *.broken, so that they neither count as kept nor are looked at again.
    """
    broken: list[Path] = []
    for path in stored(folder):
        if is_whole(path):
            return step_of(path), broken
        broken.append(path.rename(path.with_name(f"{path.name}.broken")))
    return None, broken


def read(
    path: Path,
    system: str | None = None,
    published: Callable[[Path, Any], dict[str, Any] | None] | None = None,
) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU; only plain data is admitted.

    path       a checkpoint, or a .safetensors that `python -m nets.published` wrote
    system     raise where the checkpoint is of another one
    published  reads a file or folder of a published program: (path, what read_plain gave) -> its
               content as of a checkpoint with "kind", or None; None: such files are refused
    Raises UserError that names the file and what is wrong.
    """
    content = None if Path(path).is_dir() else read_plain(path)
    required = {"format", "system", "options", "step", "parts"}
    if not isinstance(content, dict) or not required <= content.keys():
        other = _weights_alone(Path(path))
        if other is None and published is not None:
            other = published(path, content)
        if other is None:
            raise UserError(f"{path}: not a checkpoint of guise, nor of a program that it reads")
        content = {"format": FORMAT, "best": None, "log": [], **other}
    if content["format"] > FORMAT:
        raise UserError(f"{path}: format {content['format']}; this version reads up to {FORMAT}")
    if system is not None and content["system"] != system:
        raise UserError(f"{path}: a checkpoint of {content['system']}, not of {system}")
    return content


def _weights_alone(path: Path) -> dict[str, Any] | None:
    """The content of a .safetensors that this project wrote; None for other files."""
    if path.suffix != ".safetensors" or path.is_dir():
        return None
    tensors, about = read_safetensors(path)
    if "guise" not in about:
        return None
    try:
        header = json.loads(about["guise"])
        system, step, trained = header["system"], int(header["step"]), dict(header["options"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: its header does not say which network it is of") from error
    model = {"model": tensors}
    kind = "weights alone"
    return {"system": system, "step": step, "options": trained, "parts": model, "kind": kind}


def describe(content: dict[str, Any], path: str | Path) -> str:
    """A line on a checkpoint: its path, system and step, and whose it is if not this project's."""
    kind = f" {content['kind']}" if "kind" in content else ""
    return f"{path}: {content['system']}{kind}, step {content['step']}"


def find(
    path: str | Path | None = None,
    root: str | Path = "runs",
    recognise: Callable[[Path], str | None] | None = None,
) -> Path:
    """The checkpoint that `path` names: a file, or the newest of a run folder or of all in `root`.

    recognise  returns the system of an original program's folder, which then names itself, or None
    Raises UserError if there is none.
    """
    if path is not None and (Path(path).is_file() or (not Path(path).is_dir() and prefix_of(path))):
        return Path(path)
    if path is not None and not Path(path).is_dir():
        raise UserError(f"--checkpoint {path}: no such file or run folder")
    folder = Path(root if path is None else path)
    files = list(below(folder))
    if not files:
        if path is not None and recognise is not None and recognise(Path(path)):
            return Path(path)
        where = f"under {folder}/" if path is None else f"in {folder}"
        raise UserError(f"no checkpoint {where}: train first, or give --checkpoint")
    newest = max(files, key=lambda file: (file.stat().st_mtime_ns, file.name))
    for file in stored(newest.parent):
        if is_whole(file):
            return file
    raise UserError(f"{newest.parent}: no whole checkpoint")


def below(folder: Path) -> Iterator[Path]:
    """The checkpoints of all run folders in `folder` and below."""
    files = walk(folder) if Path(folder).is_dir() else ()
    return (file for file in files if file.parent.name == "checkpoints" and file.match(PATTERN))


def load_parts(content: dict[str, Any], parts: dict[str, Any], path: Path) -> None:
    """Put the states of a checkpoint into the parts of the same names.

    Raises UserError as `check_parts` does, before anything is changed.
    """
    check_parts(content, parts, path)
    for name, part in parts.items():
        try:
            part.load_state_dict(content["parts"][name])
        except (ValueError, RuntimeError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: {name} does not fit this run: {reason}") from error


def check_parts(content: dict[str, Any], parts: dict[str, Any], path: Path) -> None:
    """Raise UserError if a checkpoint lacks a part, or a tensor of it has another shape.

    parts  networks and their optimisers, which may be on the meta device, and other objects
    """
    states = content["parts"]
    for name, part in parts.items():
        if name not in states:
            raise UserError(f"{path}: holds no {name}, only {', '.join(sorted(states))}")
        if isinstance(part, nn.Module):
            require(states[name], part.state_dict(), path, f"the {name} of these options")
        elif isinstance(part, torch.optim.Optimizer):
            check_moments(states[name], part, path, name)


def check_moments(state: Any, optimizer: torch.optim.Optimizer, path: Path, name: str) -> None:
    """Raise UserError if an optimiser's state does not fit the parameters of `optimizer`.

    path, name  for the message
    """
    try:
        order = [int(number) for group in state["param_groups"] for number in group["params"]]
        stored = {
            (number, key): held[key]
            for number, held in state["state"].items()
            for key in MOMENTS
            if held.get(key) is not None
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: {name} is not the state of an optimiser") from error
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if len(order) != len(parameters):
        raise UserError(
            f"{path}: {name} does not fit this run: it is of {len(order)} parameters, "
            f"not of {len(parameters)}"
        )
    for place, (number, parameter) in enumerate(zip(order, parameters, strict=True)):
        for key in MOMENTS:
            shape = getattr(stored.get((number, key), parameter), "shape", ())
            if shape != parameter.shape:
                raise UserError(
                    f"{path}: {name} does not fit this run: {key} of parameter {place} must be "
                    f"{list(parameter.shape)}, is {list(shape)}"
                )


def load_weights(
    content: dict[str, Any], model: nn.Module, path: Path, part: str = "model"
) -> None:
    """Put a checkpoint's weights into a model: averaged ones where the run kept an average."""
    load_parts(content, {part: model}, path)
    average = content["parts"].get("ema" if part == "model" else f"ema_{part}")
    if average is not None:
        model.load_state_dict(average["average"], strict=False)


def prune(folder: Path, keep_last: int, keep_every: int = 0, best: int | None = None) -> None:
    """Delete checkpoints except the newest `keep_last`, every `keep_every`-th step and the best."""
    for path in stored(folder)[keep_last:]:
        step = step_of(path)
        if step != best and not (keep_every and step % keep_every == 0):
            path.unlink()
