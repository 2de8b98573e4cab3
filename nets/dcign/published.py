"""Networks of the published DC-IGN program: folders of Torch7 files, read and written.

    parameters.t7                        all weights as one vector, in the order of
                                         `DCIGN.named_parameters`, row by row
    config.t7, state.t7                  settings and state of the optimiser, in either of them
    lowerbound.t7, lowerbound_test.t7    (epochs, 1): mean lower bound a batch
    cmd_options.txt                      the options of the run, one `key: value` a line

A folder without parameters.t7 may have vxnet.net, the whole model with its buffers.

Weights need no permutation: convolutions are (out, in, rows, columns) and not flipped, and the
vector between encoder and decoder counts channel, row, column, here as there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from nets.data.io import torch7
from nets.dcign import DCIGN, RMSprop, build
from nets.errors import UserError

PARAMETERS = "parameters.t7"
MODEL = "vxnet.net"
NUMBERS = ("learningRate", "momentumDecay", "updateDecay")  # of config.t7
MAPS = 96
GROUPS = ["azimuth=1", "elevation=1", "light=1", "shape=rest"]  # who owns which latents
SHOWN = 3  # differences that an error names
RENAMED = {  # names of the published programs, and of earlier versions of guise -> names here
    "datasetdir": "data",
    "bsize": "batch_size",
    "learning_rate": "lr",
    "learningRate": "lr",
    "epochs": "num_epochs",
    "networks_dir": "run_dir",
    "import": "checkpoint",
}


def load(path: str | Path, **options: Any) -> tuple[DCIGN, dict[str, Any]]:
    """(model in eval mode, options) of a network folder, or of one of its files with the weights.

    options  dim_hidden, feature_maps: what must be there; else taken from cmd_options.txt, else 96
             maps and as many latents as the vector is long
    The options returned hold dim_hidden, feature_maps, image_size, likelihood, regime, groups and,
    of the folder's files: lr, momentum_decay, update_decay, num_epochs, lower_bound and
    lower_bound_test (lists, a value an epoch, nats a batch), command (the run's options as text).
    Raises UserError with the first three differences where the vector does not fit; nothing is
    loaded then.
    """
    path = Path(path)
    unknown = options.keys() - {"dim_hidden", "feature_maps", "image_size", "likelihood"}
    if unknown:
        raise UserError(f"{path}: {sorted(unknown)[0]} is no option of a DC-IGN network")
    folder = path if path.is_dir() else path.parent
    file = path / PARAMETERS if path.is_dir() else path
    if not file.is_file() and (path / MODEL).is_file():
        file = path / MODEL
    vector = torch7.read(file)
    if isinstance(vector, torch7.Record):
        vector = _of_model(file, vector)
    if not isinstance(vector, Tensor) or vector.ndim != 1 or not vector.is_floating_point():
        what = list(vector.shape) if isinstance(vector, Tensor) else type(vector).__name__
        raise UserError(f"{file}: must hold the weights as one vector of numbers, got {what}")
    available = _command(folder / "cmd_options.txt") if path.is_dir() else {}
    sizes = _sizes(file, len(vector), options, available)
    if not vector.isfinite().all():
        first = int((~vector.isfinite()).nonzero()[0])
        raise UserError(f"{file}: element {first + 1} of {len(vector)} is {vector[first].item()}")
    model = build(sizes)
    parts = vector.float().split([p.numel() for p in model.parameters()])
    with torch.no_grad():
        for p, part in zip(model.parameters(), parts, strict=True):
            p.copy_(part.view(p.shape))
    result = _training(folder, len(vector))[0] if path.is_dir() else {}
    # Only the program for disentangled training writes its options down.
    regime = "disentangled" if available or not path.is_dir() else "entangled"
    named = {"regime": regime, "groups": GROUPS}
    return model.eval(), {**sizes, **named, **result, "command": available}


def read(path: str | Path, **options: Any) -> dict[str, Any]:
    """The same as a checkpoint's content: {"step", "options", "parts", "kind"}; see `load`.

    parts  model, and optimizer, the state of an `RMSprop`, where the folder has it
    """
    model, result = load(path, **options)
    parts: dict[str, Any] = {"model": model.state_dict()}
    moments = optimizer_state(path, model)
    if moments is not None:
        parts["optimizer"] = moments
        result["optimizer"] = "rmsprop"
    step = max((state["step"] for state in moments["state"].values()), default=0) if moments else 0
    kind = (
        f"of the published program, {result['dim_hidden']} latents, {result['feature_maps']} maps"
    )
    return {"step": step, "options": result, "parts": parts, "kind": kind}


def optimizer_state(path: str | Path, model: DCIGN) -> dict[str, Any] | None:
    """The state dict of an `RMSprop` on the model's parameters, from a network folder; None where
    the folder has no state. Looked for in state.t7, then in config.t7, where the published program
    left it. Raises UserError where it does not fit.
    """
    path = Path(path)
    if not path.is_dir():
        return None
    count = sum(p.numel() for p in model.parameters())
    settings, state = _training(path, count)
    if state is None:
        return None
    step, *moments = state
    result = RMSprop(model.parameters()).state_dict()
    for group in result["param_groups"]:
        group["momentum_decay"] = settings.get("momentum_decay", group["momentum_decay"])
        group["update_decay"] = settings.get("update_decay", group["update_decay"])
        group["lr"] = settings.get("lr", group["lr"])
    start = 0
    for i, p in enumerate(model.parameters()):
        part = slice(start, start := start + p.numel())
        m, v = (moment[part].view(p.shape).float().clone() for moment in moments)
        # The published program ascends the bound: its first moment has the other sign.
        result["state"][i] = {"step": step, "m": -m, "v": v}
    return result


def save(
    write: Any,
    model: DCIGN,
    optimizer: RMSprop | None = None,
    lower_bounds: Mapping[str, list[float]] | None = None,
    command: Mapping[str, Any] | None = None,
) -> None:
    """Write a network as the published program does.

    write         takes a name and a function of a binary file, and makes the file
    lower_bounds  {"lowerbound": [...], "lowerbound_test": [...]}: nats a batch, a value an epoch
    command       the lines of cmd_options.txt; None: none is written
    """
    vector = torch.cat([p.detach().float().cpu().flatten() for p in model.parameters()])
    write(PARAMETERS, _object(vector))
    write("state.t7", _object(None))
    config: dict[str, Any] = {}
    if optimizer is not None:
        (group,) = optimizer.param_groups
        numbers = (-group["lr"], group["momentum_decay"], group["update_decay"])
        config = dict(zip(NUMBERS, numbers, strict=True))
        states = [optimizer.state.get(p) for p in model.parameters()]
        if all(states):
            m, v = (torch.cat([s[k].flatten().cpu() for s in states]) for k in ("m", "v"))
            config |= {"evalCounter": states[0]["step"], "m": -m, "v": v}
    write("config.t7", _object(config))
    for name, values in (lower_bounds or {}).items():
        write(f"{name}.t7", _object(torch.tensor(values, dtype=torch.float32).view(-1, 1)))
    if command is not None:
        lines = "".join(f"{key}: {value}\n" for key, value in command.items())
        write("cmd_options.txt", lambda file: file.write(lines.encode()))


def _of_model(file: Path, model: torch7.Record) -> Tensor:
    """The vector of weights out of the whole model: weight and bias of its modules, in order."""
    result: list[Tensor] = []

    def walk(module: Any) -> None:
        fields = module.fields if isinstance(module, torch7.Record) else None
        if not isinstance(fields, torch7.Table):
            raise UserError(f"{file}: holds a module that is none: {module!r}")
        if isinstance(fields.get("modules"), torch7.Table):
            try:
                children = fields["modules"].sequence()
            except ValueError as error:
                raise UserError(f"{file}: {module.name}: modules are no list") from error
            for child in children:
                walk(child)
            return
        for name in ("weight", "bias"):
            value = fields.get(name)
            if isinstance(value, Tensor) and value.numel():
                result.append(value.float().flatten())

    walk(model)
    if not result:
        raise UserError(f"{file}: holds no weights")
    return torch.cat(result)


def _object(value: Any):
    def write(file: IO[bytes]) -> None:
        torch7.write(file, value)

    return write


def _count(latents: int, maps: int) -> int:
    """Elements of the vector: grows with the latents by a number that the maps decide."""
    with torch.device("meta"):
        return sum(p.numel() for p in DCIGN(latents, maps).parameters())


def _sizes(
    file: Path, count: int, expected: Mapping[str, Any], available: Mapping[str, str]
) -> dict:
    """The network's options from what is wanted, what cmd_options.txt says, and the length."""
    said = {
        k: int(available[k])
        for k in ("dim_hidden", "feature_maps")
        if available.get(k, "").isdigit()
    }
    maps = expected.get("feature_maps") or said.get("feature_maps", MAPS)
    sizes = {"image_size": 150, "likelihood": "bernoulli"}
    differences = [
        f"{key} is {value} here, {sizes[key]} there"
        for key, value in expected.items()
        if key in sizes and value not in (None, sizes[key])
    ]
    differences += [
        f"{key} is {expected[key]} here, {value} in cmd_options.txt"
        for key, value in said.items()
        if expected.get(key) not in (None, value)
    ]
    try:
        base, each = 2 * _count(1, maps) - _count(2, maps), _count(2, maps) - _count(1, maps)
        latents = (count - base) / each
        asked = expected.get("dim_hidden") or said.get("dim_hidden")
        if not latents.is_integer() or latents < 1:
            differences.append(
                f"{count} elements fit no number of latents with feature_maps {maps} "
                f"({base} + {each} each)"
            )
        elif asked not in (None, latents):
            differences.append(
                f"{count} elements are those of dim_hidden {latents:g}, "
                f"not of {asked} ({base + each * asked})"
            )
    except ValueError as error:
        differences.append(str(error))
    if differences:
        raise UserError(f"{file}: does not fit: {'; '.join(differences[:SHOWN])}")
    return {"dim_hidden": int(latents), "feature_maps": maps, **sizes}


def _command(path: Path) -> dict[str, str]:
    """The `key: value` lines of cmd_options.txt; empty where there is none."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _training(folder: Path, count: int) -> tuple[dict[str, Any], tuple[int, Tensor, Tensor] | None]:
    """What the files beside the weights say: settings and histories; (step, m, v) or None."""
    tables = {}
    for name in ("state.t7", "config.t7"):
        if (folder / name).is_file():
            table = torch7.read(folder / name)
            if table is not None and not isinstance(table, torch7.Table):
                raise UserError(f"{folder / name}: must hold a table or nil")
            tables[name] = table or torch7.Table()
    result: dict[str, Any] = {}
    config = tables.get("config.t7", {})
    for available, here in zip(NUMBERS, ("lr", "momentum_decay", "update_decay"), strict=True):
        if isinstance(config.get(available), float) and math.isfinite(config[available]):
            result[here] = abs(config[available])  # negative there: it ascends
    for name, here in (("lowerbound", "lower_bound"), ("lowerbound_test", "lower_bound_test")):
        if (folder / f"{name}.t7").is_file():
            history = torch7.read(folder / f"{name}.t7")
            if not isinstance(history, Tensor):
                raise UserError(f"{folder / name}.t7: must hold a tensor, one row an epoch")
            result[here] = history.double().flatten().tolist()
    result["num_epochs"] = len(result.get("lower_bound", ()))
    for name, table in tables.items():
        if "m" in table and "v" in table:
            return result, _moments(folder / name, table, count)
    return result, None


def _moments(file: Path, table: torch7.Table, count: int) -> tuple[int, Tensor, Tensor]:
    for key in ("m", "v"):
        value = table[key]
        if not isinstance(value, Tensor) or value.numel() != count or value.ndim != 1:
            what = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"{file}: {key} must be a vector of {count} elements, got {what}")
    step = table.get("evalCounter")
    if not isinstance(step, float) or not step >= 1 or not step.is_integer():
        raise UserError(f"{file}: evalCounter must be a whole number above 0, got {step}")
    return int(step), table["m"], table["v"]
