"""Options of the scripts: command line over YAML files over defaults, errors in one line.

Exit codes of every script, also where `user_errors` is what turns an error into one:

    0    done, or the time limit was reached and everything is saved
    1    a defect of the program (with a traceback)
    2    bad input: option, configuration, data, checkpoint, or a disk that takes no more
    3    the numbers went bad: losses that are not finite
    4    another rank died or cannot be reached
    130  SIGINT (Ctrl-C), 143 SIGTERM, 138 SIGUSR1: the step was finished and saved before
         (130 also at once, for a second Ctrl-C)
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt, restricted_number_type

from nets.errors import BadSample, UserError
from nets.run.files import write_text

PACKAGE = Path(__file__).resolve().parents[1]
# A checkout has the folder beside the package, an installed wheel inside it.
CONFIGS = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"
NonNegativeFloat = restricted_number_type("NonNegativeFloat", float, (">=", 0.0))
PositiveFloat = restricted_number_type("PositiveFloat", float, (">", 0.0))
Fraction = restricted_number_type("Fraction", float, [(">=", 0.0), ("<", 1.0)])
COMMAND_LINE = "command line"
WORDINGS = (  # jsonargparse's, and how we say it
    (r"<class '([\w.]+)'>", r"\1"),
    (r"(?:[a-z_]+\.)+(?=[A-Z])", ""),
    (
        r"Does not validate .* Subtypes: \[(.*?)\] Errors: .*Given value: (.*)",
        r"must be \1, got \2",
    ),
    (r"NoneType|None\b", "null"),
    (r"Expected an? (.+?)\. Got value: (.*)", r"must be \1, got \2"),
    (r"Not of type (\w+): (\S+) does not conform to restriction (.*)", r"must be \3, got \2"),
    (r"\bv *([<>]=?)", r"\1 "),
    (r"Not of type (\w+): (.*)", r"must be \1: \2"),
    (r"Literal\[(.*)\]", r"one of \1"),
    (r"PositiveFloat", "a number > 0"),
    (r"NonNegativeFloat", "a number >= 0"),
    (r"PositiveInt", "a whole number > 0"),
    (r"NonNegativeInt", "a whole number >= 0"),
    (r"Fraction", "a number >= 0 and < 1"),
)
Translate = Callable[[dict[str, Any], str], dict[str, Any]]


class NonFinite(RuntimeError):
    """A loss that is not finite, so that training stopped (exit code 3)."""


class RankLost(RuntimeError):
    """Another rank died or did not answer in time (exit code 4)."""


def add_flag(group: Any, name: str, default: bool, help: str) -> None:
    """Add a switch that takes `--name`, `--name true` and `--name false`, in any case."""
    group.add_argument(name, type=bool, nargs="?", const=True, default=default, help=help)


def tool_parser(description: str) -> ArgumentParser:
    """A parser with the options that every script has: configuration, seed, device, precision."""
    parser = ArgumentParser(description=description, exit_on_error=False, allow_abbrev=False)
    run = parser.add_argument_group("run")
    add = run.add_argument
    add("--config", type=str, nargs="+", default=None, metavar="FILE",
        help="YAML files, later over earlier; a bare name is looked up in configs/")  # fmt: skip
    add("--seed", type=NonNegativeInt, default=0, help="start of every random draw")
    add("--device", type=Literal["auto", "cpu", "cuda"], default="auto",
        help="where to compute; auto: cuda where there is one")  # fmt: skip
    add("--precision", type=Literal["auto", "fp32", "bf16", "fp16"], default="auto",
        help="of convolutions and products; auto: bf16 where the device is fast in it")  # fmt: skip
    add_flag(run, "--channels_last", True, "keep images and weights as NHWC in memory")
    return parser


def add_reading(parser: ArgumentParser) -> None:
    """Add the options of scripts that read a dataset."""
    add = parser.add_argument_group("reading data").add_argument
    add("--workers", type=NonNegativeInt, default=2,
        help="processes that read data, per rank; 0: read in the training process")  # fmt: skip
    add("--on_bad_sample", type=Literal["fail", "skip"], default="fail",
        help="a sample that cannot be read: stop, or report, replace and count it")  # fmt: skip


def parser(system: str, description: str) -> ArgumentParser:
    """A parser for the script that trains `system`: the options that all of them share."""
    result = tool_parser(description)
    add_reading(result)
    folder = result.add_argument_group("run folder")
    add = folder.add_argument
    add("--run_dir", type=str, default=f"runs/{system}", help="folder of the run folders")
    add("--name", type=str | None, default=None,
        help="name of the run folder; null: the time of its start")  # fmt: skip
    add("--resume", type=Literal["auto", "never"], default="auto",
        help="auto: the same command goes on where it was; never: start anew")  # fmt: skip
    add("--log_freq", type=PositiveInt, default=250, help="steps between two log lines")
    add("--start_log_freq", type=NonNegativeInt, default=0,
        help="also tell this step and twice, four times it, until log_freq; 0: not")  # fmt: skip
    add("--ckpt_freq", type=PositiveInt, default=1000, help="steps between two checkpoints")
    add("--keep_last", type=PositiveInt, default=3, help="newest checkpoints that are kept")
    add("--keep_every", type=NonNegativeInt, default=0,
        help="also keep the checkpoints of every so many steps; 0: none")  # fmt: skip
    loop = result.add_argument_group("loop")
    add = loop.add_argument
    add("--time_limit", type=NonNegativeFloat, default=0.0,
        help="minutes after which to save and end; 0: none")  # fmt: skip
    add("--accumulate", type=PositiveInt, default=1,
        help="batches whose gradients are averaged into one step")  # fmt: skip
    add_flag(
        loop,
        "--compile",
        False,
        "compile the networks with torch.compile; needs a C++ compiler, and "
        "the first pass of each kind (training, validation) waits for it, minutes on a few cores",
    )
    add("--ema", type=Fraction, default=0.0,
        help="decay per step of an exponential average of the weights; 0: none")  # fmt: skip
    add("--nan", type=Literal["stop", "skip", "halve"], default="stop",
        help="a loss or gradient that is not finite: stop; leave the step out; or, in fp16 only, "
        "leave it out and halve the loss scale, as an overflow of gradients always does there. "
        "The 20th step in a row stops")  # fmt: skip
    return result


def parse(
    parser: ArgumentParser, argv: Sequence[str] | None = None, translate: Translate | None = None
) -> Namespace:
    """The options as a namespace: command line > later config > earlier config > defaults.

    translate(keys, source)  maps the keys of a configuration file, nested as read, to the keys of
    `parser`; `source` is the file. `--a/b/c VALUE` on the command line is read as the nested key
    {a: {b: {c: VALUE}}}, translated as well, and stands above the files.
    Raises UserError: one line with key, source and the nearest known key.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    files, argv = _take_configs(argv)
    slashed, argv = _take_slashed(argv)
    layers = [(read_yaml(file), str(file)) for file in map(find_config, files)]
    if slashed:
        layers.append((slashed, COMMAND_LINE))
    known = _known(parser)
    args = parser.get_defaults()
    for keys, source in layers:
        translated = translate(keys, source) if translate else keys
        for key, value in _flatten(translated, known, source):
            args[key] = _checked(parser, key, value, source)
    _refuse_unknown(parser, known, argv)
    try:
        given = parser.parse_args(argv, defaults=False)
    except ArgumentError as error:
        raise UserError(_readable(str(error), COMMAND_LINE)) from error
    for key in known:
        args[key] = _builtin(given[key] if key in given else args[key])
    for key in known:  # numbers inside lists as plain ones, too: they end up in checkpoints
        args[key] = _plain(args[key])
    args["config"] = [str(file) for file in files]
    return args


def plain(args: Namespace) -> dict[str, Any]:
    """The options as nested dicts of plain values, without the names of configuration files."""
    keys = args.as_dict() if isinstance(args, Namespace) else dict(vars(args))
    keys.pop("config", None)
    return _plain(keys)


def save(args: Namespace, path: Path) -> None:
    """Write the resolved options as YAML that `--config` takes."""
    text = yaml.safe_dump(plain(args), sort_keys=False, default_flow_style=None, width=100)
    write_text(path, text)


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a YAML file, plain values only. Raises UserError that names file and line."""
    try:
        keys = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a configuration: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{path}{line}: not plain YAML: {problem}") from error
    keys = {} if keys is None else keys
    if not isinstance(keys, dict):
        raise UserError(f"{path}: must hold `key: value` pairs, got a {type(keys).__name__}")
    return keys


def find_config(name: str) -> Path:
    """The file that `--config name` means: a path, or the name of a file anywhere in configs/, with
    or without .yaml. Raises UserError where there is none, or two of that name.
    """
    if Path(name).is_file():
        return Path(name)
    files = sorted(CONFIGS.rglob("*.yaml"))
    if Path(name).name == name:
        named = [path for path in files if name in (path.name, path.stem)]
        if len(named) > 1:
            places = ", ".join(str(path.relative_to(CONFIGS)) for path in named)
            raise UserError(
                f"--config {name}: the name of {len(named)} files in configs/: {places}"
            )
        if named:
            return named[0]
    there = [path.name for path in files]
    raise UserError(f"--config {name}: no such file{_nearest(name, there)}")


@contextlib.contextmanager
def user_errors(prog: str | None = None) -> Iterator[None]:
    """Turn errors that the user can repair into one line and an exit code; also a decorator.

    prog  what begins the line; default: the script's name
    """
    prog = prog or Path(sys.argv[0]).name
    try:
        yield
        return
    except KeyboardInterrupt:
        code = 130
        print(f"{prog}: interrupted", file=sys.stderr, flush=True)
    except SystemExit as error:
        code = error.code
    except Exception as error:
        code, text = _explain(error)
        if not code:
            raise
        ranks = int(os.environ.get("WORLD_SIZE", "1"))
        rank = f" [rank {os.environ.get('RANK')}]" if ranks > 1 else ""
        print(f"{prog}:{rank} error: {' '.join(text.split())}", file=sys.stderr, flush=True)
    # Outside of the handlers: an error that were still known would keep its frames, those the
    # loader, and that its workers, for whose end the interpreter would wait.
    raise SystemExit(code)


def _explain(error: Exception) -> tuple[int, str]:
    """Exit code and text of an error that is not a defect of the program, else (0, "")."""
    text = str(error)
    if isinstance(error, UserError | BadSample):
        return 2, text
    if isinstance(error, NonFinite):
        return 3, text
    if isinstance(error, RankLost):
        return 4, text
    if isinstance(error, OSError) and error.filename is not None:
        return 2, f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return 2, f"{error.strerror}, while writing to the run folder or a temporary file"
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker"):
        return 2, f"a process that reads data died: {text.split('. ')[0]}"
    if isinstance(error, RuntimeError) and re.search(r"gloo|NCCL|ProcessGroup|TCPStore", text):
        return 4, f"another rank died or cannot be reached: {text.splitlines()[0]}"
    return 0, ""


def _take_configs(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split the values of every --config from the other arguments."""
    scanner = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    scanner.add_argument("--config", nargs="+", action="extend", default=[])
    try:
        found, rest = scanner.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(f"--config: {error.message}") from error
    return found.config, rest


def _take_slashed(argv: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Split `--a/b value` and `--a/b=value` into a nested dict from the other arguments."""
    keys: dict[str, Any] = {}
    rest: list[str] = []
    tokens = iter(argv)
    for token in tokens:
        name, equals, value = token.partition("=")
        if not name.startswith("--") or "/" not in name:
            rest.append(token)
            continue
        if not equals and (value := next(tokens, None)) is None:
            raise UserError(f"{name} on the command line: a value must follow")
        *groups, last = name[2:].split("/")
        inner = keys
        try:
            for group in groups:
                inner = inner.setdefault(group, {})
            inner[last] = yaml.safe_load(value)
        except (yaml.YAMLError, AttributeError, TypeError) as error:
            raise UserError(f"{name} on the command line: cannot be set to {value}") from error
    return keys, rest


def _known(parser: ArgumentParser) -> list[str]:
    """The keys that may stand in a configuration."""
    unwanted = {"help", "config", "print_shtab"}
    return [action.dest for action in parser._actions if action.dest not in unwanted]


def _flatten(
    keys: dict, known: list[str], source: str, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) pairs of nested keys; a dict stays whole where its key is an option."""
    for name, value in keys.items():
        key = f"{prefix}{name}"
        if key in known:
            yield key, value
        elif isinstance(value, dict) and any(other.startswith(f"{key}.") for other in known):
            yield from _flatten(value, known, source, f"{key}.")
        elif key != "config":
            raise UserError(f"{key} in {source}: unknown key{_nearest(key, known)}")


def _checked(parser: ArgumentParser, key: str, value: Any, source: str) -> Any:
    """The value in the option's type."""
    if value is None and parser.get_default(key) is not None:
        raise UserError(f"{key} in {source}: must not be null")
    try:
        return parser.parse_object({key: value}, defaults=False)[key]
    except ArgumentError as error:
        raise UserError(_readable(str(error), source)) from error


def _refuse_unknown(parser: ArgumentParser, known: list[str], argv: list[str]) -> None:
    """Raise on an option that the parser does not have."""
    for token in argv:
        name = token.partition("=")[0]
        if name.startswith("--") and name not in parser._option_string_actions:
            nearest = _nearest(name[2:], known, "--")
            raise UserError(f"{name} on the command line: unknown option{nearest}")


def _nearest(name: str, known: Sequence[str], prefix: str = "") -> str:
    """`; did you mean X?` for the most similar known name, or an empty text."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def _readable(message: str, source: str) -> str:
    """jsonargparse's message as `key in source: must be this, got that`."""
    text = " ".join(message.split())
    key = re.match(r"(?:Parser key \"|argument -*)([\w.]+)\"?:\s*", text)
    if not key:
        return f"{source}: {text}"
    detail = text[key.end() :]
    for pattern, better in WORDINGS:
        detail = re.sub(pattern, better, detail)
    where = f"--{key[1]}" if source == COMMAND_LINE else f"{key[1]} in {source}"
    return f"{where}: {detail}"


def _builtin(value: Any) -> Any:
    """int and float instead of the parser's restricted kinds of them."""
    if isinstance(value, list):
        return [_builtin(item) for item in value]
    if isinstance(value, bool):
        return value
    kind = next((kind for kind in (int, float) if isinstance(value, kind)), None)
    return kind(value) if kind else value


def _plain(value: Any) -> Any:
    """Dicts, lists, strings, numbers and None only."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float):  # restricted numbers are subclasses, which YAML does not know
        if isinstance(value, kind):
            return kind(value)
    return str(value)
