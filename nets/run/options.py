"""Options of the scripts: command line over YAML files over defaults, errors in one line.

Exit codes of every script (see `user_errors`):

    0    done, or the time limit was reached and everything is saved
    1    a defect of the program (with a traceback)
    2    bad input: option, configuration, data, checkpoint, or a disk that takes no more
    3    losses that are not finite
    4    another rank died or cannot be reached
    130  SIGINT (Ctrl-C), 143 SIGTERM, 138 SIGUSR1, 129 SIGHUP (the terminal was closed), after the
         step was finished and saved
         (130 also for a second Ctrl-C, which ends the process at once)
    141  nobody reads the output any more, as after `| head`
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import difflib
import errno
import io
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, cast, get_args, get_origin

import jsonargparse
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse.typing import NonNegativeInt, PositiveInt, restricted_number_type

from nets import plain_yaml
from nets.errors import BadSample, UserError
from nets.listing import walk
from nets.run.files import write_text
from nets.run.shortage import shared_is_full, shortage

PACKAGE = Path(__file__).resolve().parents[1]
# A checkout has the folder beside the package, an installed wheel inside it.
if TYPE_CHECKING:
    # jsonargparse's class has all of a mapping's methods, with wider types.
    class Namespace(jsonargparse.Namespace, Mapping[str, Any]):  # type: ignore[misc]
        """Options by attribute and by key; jsonargparse does not call its own a Mapping."""

        def __getattr__(self, name: str) -> Any: ...
        def __iter__(self) -> Iterator[str]: ...
        def __len__(self) -> int: ...
else:
    Namespace = jsonargparse.Namespace

CONFIGS = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"
NonNegativeFloat = restricted_number_type("NonNegativeFloat", float, (">=", 0.0))
PositiveFloat = restricted_number_type("PositiveFloat", float, (">", 0.0))
Fraction = restricted_number_type("Fraction", float, [(">=", 0.0), ("<", 1.0)])
UNREAD = 128 + signal.SIGPIPE  # exit code where nobody reads the output
COMMAND_LINE = "command line"
MAX_MEGAPIXELS = "GUISE_MAX_MEGAPIXELS"  # environment variable of --max_megapixels
HELP_PUBLISHED = "--help_published"
LOCAL_RANK = ("--local-rank", "--local_rank")  # of torch.distributed.launch, now and before 2.0
KINDS: dict[Any, str] = {  # types of options, as messages call them
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
    PositiveInt: "a whole number > 0",
    NonNegativeInt: "a whole number >= 0",
    PositiveFloat: "a number > 0",
    NonNegativeFloat: "a number >= 0",
    Fraction: "a number >= 0 and < 1",
}
Translate = Callable[[dict[str, Any], str], dict[str, Any]]


class NonFinite(RuntimeError):
    """A loss is not finite, and training stopped (exit code 3)."""


class RankLost(RuntimeError):
    """Another rank died or did not answer in time (exit code 4)."""


class Parser(ArgumentParser):
    """A parser with options of the published programs, which --help_published lists.

    renamed    published name -> name of ours, for options that differ in nothing else
    launched   options of a published launcher -> what they mean here, for --help_published
    published  help texts of the published options that have no name of ours
    """

    def __init__(
        self,
        description: str,
        renamed: Mapping[str, str] | None = None,
        launched: Mapping[str, str] | None = None,
    ):
        epilog = f"{HELP_PUBLISHED} lists the options of the published programs that work as well."
        super().__init__(
            description=description, epilog=epilog, exit_on_error=False, allow_abbrev=False
        )
        self.renamed = dict(renamed or {})
        self.launched = dict(launched or {})
        self.published: dict[str, str] = {}

    def add_published(self, *names: str, help: str, **settings: Any) -> None:
        """Add an option that works like any other and is listed by --help_published only."""
        self.published[", ".join(names)] = help
        self.add_argument(*names, help=argparse.SUPPRESS, **settings)

    @property
    def hidden(self) -> _Hidden:
        """A group of options that only --help_published lists."""
        return _Hidden(self)

    def published_help(self) -> str:
        """The text of --help_published."""
        lines = ["Options of the published programs, which work as well.", "", "other names:"]
        lines += [f"  --{old:28} --{new}" for old, new in sorted(self.renamed.items())]
        lines += [f"  {old:30} {new}" for old, new in self.launched.items()]
        lines += ["", "options without another name:"]
        for name, help in self.published.items():
            default = self.get_default(name.partition(",")[0].lstrip("-"))
            lines.append(f"  {name:30} {help} (default: {_shown(default)})")
        return "\n".join(lines)


class _Hidden:
    """What an argument group has, for options that only --help_published lists."""

    def __init__(self, parser: Parser):
        self.add_argument = parser.add_published


def add_flag(group: Any, name: str, default: bool, help: str) -> None:
    """Add a switch that takes `--name`, `--name true` and `--name false`, in any case."""
    group.add_argument(name, type=bool, nargs="?", const=True, default=default, help=help)


def tool_parser(
    description: str,
    renamed: Mapping[str, str] | None = None,
    launched: Mapping[str, str] | None = None,
) -> Parser:
    """A parser with the options that every script has: configuration, seed, device, precision.

    renamed, launched  see `Parser`
    """
    parser = Parser(description, renamed, launched)
    run = parser.add_argument_group("run")
    add = run.add_argument
    add("--config", type=str, nargs="+", default=None, metavar="FILE",
        help="YAML files, later over earlier; a bare name is searched in configs/")  # fmt: skip
    add("--seed", type=NonNegativeInt, default=0, help="seed of all random numbers")
    add("--device", type=Literal["auto", "cpu", "cuda"], default="auto",
        help="device; auto: cuda if there is one")  # fmt: skip
    add("--precision", type=Literal["auto", "fp32", "bf16", "fp16"], default="auto",
        help="numerical precision; auto: bf16 if the device has bf16 arithmetic")  # fmt: skip
    add_flag(run, "--channels_last", True, "memory format of images and weights: NHWC")
    return parser


def add_max_megapixels(add: Callable[..., Any]) -> None:
    """Add the limit of images; `parse` hands it on to the readers of images, workers included."""
    add("--max_megapixels", type=PositiveFloat | None, default=None,
        help="largest image to read, megapixels; default: 256")  # fmt: skip


def add_reading(parser: ArgumentParser) -> None:
    """Add the options of scripts that read a dataset."""
    add = parser.add_argument_group("reading data").add_argument
    add_max_megapixels(add)
    add("--workers", type=NonNegativeInt, default=2,
        help="processes that read data, per rank; 0: the training process reads")  # fmt: skip
    add("--on_bad_sample", type=Literal["fail", "skip"], default="fail",
        help="at a sample that cannot be read: stop, or report, count and replace it")  # fmt: skip


def parser(
    system: str,
    description: str,
    renamed: Mapping[str, str] | None = None,
    launched: Mapping[str, str] | None = None,
) -> Parser:
    """A parser for the script that trains `system`: the options that all of them share.

    renamed, launched  see `Parser`
    """
    result = tool_parser(description, renamed, launched)
    add_reading(result)
    folder = result.add_argument_group("run folder")
    add = folder.add_argument
    add("--run_dir", type=str, default=f"runs/{system}", help="parent folder of the run folders")
    add("--name", type=str | None, default=None,
        help="name of the run folder; null: its starting time")  # fmt: skip
    add("--resume", type=Literal["auto", "never"], default="auto",
        help="auto: the same command continues its run; never: start anew")  # fmt: skip
    add("--log_freq", type=PositiveInt, default=250, help="steps between log lines")
    add("--start_log_freq", type=NonNegativeInt, default=0,
        help="also log at steps N, 2N, 4N, ... before log_freq; 0: off")  # fmt: skip
    add("--ckpt_freq", type=PositiveInt, default=1000, help="steps between checkpoints")
    add("--keep_last", type=PositiveInt, default=3, help="number of newest checkpoints to keep")
    add("--keep_every", type=NonNegativeInt, default=0,
        help="also keep every checkpoint at a multiple of N steps; 0: off")  # fmt: skip
    loop = result.add_argument_group("loop")
    add = loop.add_argument
    add("--time_limit", type=NonNegativeFloat, default=0.0,
        help="minutes until the run saves and ends; 0: no limit")  # fmt: skip
    add("--accumulate", type=PositiveInt, default=1,
        help="batches per step, whose gradients are averaged")  # fmt: skip
    add_flag(
        loop,
        "--compile",
        False,
        "compile the networks with torch.compile: needs a C++ compiler, and minutes before the "
        "first training step and the first validation",
    )
    add("--ema", type=Fraction, default=0.0,
        help="decay per step of an exponential moving average of the weights; 0: off")  # fmt: skip
    add("--nan", type=Literal["stop", "skip", "halve"], default="stop",
        help="at a loss that is not finite: stop, skip the step, or (fp16) skip it and halve the "
        "loss scale; the 20th such step in a row stops")  # fmt: skip
    return result


def parse(
    parser: ArgumentParser,
    argv: Sequence[str] | None = None,
    translate: Translate | None = None,
    training: Callable[[], Mapping[str, str]] | None = None,
) -> Namespace:
    """The options as a namespace: command line > later config > earlier config > defaults.

    translate  (keys, source) -> keys of `parser`, for the nested keys of a configuration file
    training   returns all names of the training scripts' options -> today's names. With it, a
               configuration of a training run is taken as well, see `_of_training`

    `--a/b/c VALUE` on the command line is the nested key {a: {b: {c: VALUE}}}. It is translated as
    well and overrides the files. `--local-rank=N`, which torch.distributed.launch adds, is left
    out, since the environment has it as well; so is its earlier spelling, `--local_rank N`.
    Raises UserError: one line with key, source and the nearest known key.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    renamed = parser.renamed if isinstance(parser, Parser) else {}
    if HELP_PUBLISHED in argv and isinstance(parser, Parser):
        print(parser.published_help())
        raise SystemExit(0)
    files, argv = _take_configs(argv)
    slashed, argv = _take_slashed(argv)
    argv = [_rename_token(token, renamed) for token in _without_local_rank(argv)]
    layers = [(read_yaml(file), str(file)) for file in map(find_config, files)]
    if slashed:
        layers.append((slashed, COMMAND_LINE))
    known = _known(parser)
    if training:
        layers = [(_of_training(keys, known, file, training), file) for keys, file in layers]
    args = cast(Namespace, parser.get_defaults())
    for keys, source in layers:
        translated = rename(translate(keys, source) if translate else keys, renamed, source)
        for key, value in _flatten(translated, known, source):
            args[key] = checked(parser, key, value, source)
    _refuse_unknown(parser, known, argv)
    try:
        given = parser.parse_args(argv, defaults=False)
    except ArgumentError as error:
        raise UserError(_command_line_error(parser, str(error), argv)) from error
    for key in known:
        args[key] = _builtin(given[key] if key in given else args[key])
    for key in known:  # also inside lists, for checkpoints hold plain numbers only
        args[key] = _plain(args[key])
    args["config"] = [str(file) for file in files]
    if args.get("max_megapixels"):
        os.environ[MAX_MEGAPIXELS] = repr(args["max_megapixels"])
    return args


def checked(parser: ArgumentParser, key: str, value: Any, source: str) -> Any:
    """The value of an option of `parser`, checked and converted as on the command line.

    source  where the value stands, for the message
    Raises UserError that names key, source and rule.
    """
    if value is None and parser.get_default(key) is not None:
        raise UserError(f"{key} in {source}: must not be null")
    try:
        return _builtin(parser.parse_object({key: value}, defaults=False)[key])
    except ArgumentError as error:
        raise UserError(f"{key} in {source}: must be {_rule(parser, key)}, got {value}") from error


def plain(args: Namespace) -> dict[str, Any]:
    """The options as nested dicts of plain values, without --config."""
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
        keys = plain_yaml.load(Path(path).read_text(encoding="utf-8-sig"))
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


def rename(keys: Mapping[str, Any], renamed: Mapping[str, str], source: str = "") -> dict[str, Any]:
    """The options under the names that they have here; see `Parser`.

    Raises UserError where an option is given by two of its names.
    """
    result: dict[str, Any] = {}
    for key, value in keys.items():
        new = renamed.get(key, key)
        before = result.get(new)
        if before is not None and value is not None and before != value:
            raise UserError(f"{key} in {source}: another name of {new}, which is given as well")
        result[new] = before if value is None else value
    return result


def find_config(name: str) -> Path:
    """The file that `--config name` means: a path, or the name of a file anywhere in configs/, with
    or without .yaml. Raises UserError where there is none, or two of that name.
    """
    if Path(name).is_file():
        return Path(name)
    files = sorted(file for file in walk(CONFIGS) if file.suffix == ".yaml")
    if Path(name).name == name:
        named = [path for path in files if name in (path.name, path.stem)]
        if len(named) > 1:
            places = ", ".join(str(path.relative_to(CONFIGS)) for path in named)
            raise UserError(
                f"--config {name}: the name of {len(named)} files in configs/: {places}"
            )
        if named:
            return named[0]
    names = [path.name for path in files]
    raise UserError(f"--config {name}: no such file{_nearest(name, names)}")


@contextlib.contextmanager
def user_errors(prog: str | None = None) -> Iterator[None]:
    """Turn errors that the user can repair into one line and an exit code; also a decorator.

    prog  start of the line; default: the script's name
    """
    prog = prog or Path(sys.argv[0]).name
    code: Any  # of SystemExit it may be a text
    _print_any_name()
    try:
        yield
        code = None
    except KeyboardInterrupt:
        code = 130
        _complain(f"{prog}: interrupted")
    except SystemExit as error:
        code = error.code
    except Exception as error:
        if isinstance(error, BrokenPipeError) and output_is_closed():
            code = UNREAD
        else:
            code, text = _explain(error)
            if not code:
                raise
            ranks = int(os.environ.get("WORLD_SIZE", "1"))
            rank = f" [rank {os.environ.get('RANK')}]" if ranks > 1 else ""
            _complain(f"{prog}:{rank} error: {' '.join(text.split())}")
    try:
        sys.stdout.flush()  # here, since the interpreter would print a traceback
    except (OSError, ValueError, AttributeError):  # None if it was closed from the start
        silence()
        code = code or UNREAD
    if code is None:
        return
    _leave_ranks(code)
    # Raised outside of the handlers. A live exception would keep its frames, they the loader, and
    # the loader its workers, for which the interpreter would wait.
    raise SystemExit(code)


def _leave_ranks(code: Any) -> None:
    """End a process whose process group was not closed, without tearing it down.

    Closing it could wait for ranks that are gone. The interpreter would take the libraries apart
    while torch's threads still run, which now and then aborts the process.
    """
    dist = sys.modules.get("torch.distributed")
    if not code or dist is None or not dist.is_available() or not dist.is_initialized():
        return
    if not isinstance(code, int):
        _complain(str(code))
        code = 1
    atexit._run_exitfuncs()  # stops the workers
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def summary(doc: str | None) -> str:
    """The first paragraph of a script's docstring, which `python -OO` removes."""
    return (doc or "").split("\n\n")[0]


def silence() -> None:
    """Send what is still printed nowhere: nobody reads it."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a stream without a file
            if _is_closed(stream):
                os.dup2(nothing, stream.fileno())
    os.close(nothing)


def output_is_closed() -> bool:
    """True if the reader of this process's output, or its terminal, is gone."""
    return _is_closed(sys.stdout) or _is_closed(sys.stderr)


def _end_quietly() -> None:
    """Keep half-made workers, and modules that cannot clean up, from adding tracebacks."""
    sys.unraisablehook = lambda _: None
    atexit.register(_hush)


def _hush() -> None:
    sys.stderr = io.StringIO()


def _is_closed(stream: Any) -> bool:
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
    except (OSError, ValueError, AttributeError):
        return False


def _complain(line: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(line, file=sys.stderr, flush=True)


def _print_any_name() -> None:
    """Let names of files that are not UTF-8, or not of the terminal's encoding, be printed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _explain(error: Exception) -> tuple[int, str]:
    """The exit code and text of an error that is not a defect of the program, else (0, "")."""
    text = str(error)
    if "process that reads data died" in text or text.startswith("DataLoader worker"):
        _end_quietly()
    if isinstance(error, UserError | BadSample):
        if shortage(text):
            _end_quietly()
        return 2, text
    if isinstance(error, NonFinite):
        return 3, text
    if isinstance(error, RankLost):
        return 4, text
    if remedy := shortage(text) if isinstance(error, OSError | RuntimeError) else "":
        named = getattr(error, "filename", None)
        _end_quietly()
        return 2, f"{named}: {remedy}" if named else remedy
    if isinstance(error, RuntimeError) and text.startswith("Could not determine home directory"):
        return 2, "there is no home directory for ~: set the environment variable HOME"
    if isinstance(error, OSError) and error.filename is not None:
        return 2, f"{os.fsdecode(error.filename)}: {error.strerror}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and shared_is_full():
        return 2, shortage("shared memory")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return 2, f"{error.strerror}, while writing to the run folder or a temporary file"
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker"):
        return 2, f"a process that reads data died: {text.split('. ')[0]}"
    if isinstance(error, RuntimeError) and re.search(r"gloo|NCCL|ProcessGroup|TCPStore", text):
        return 4, f"another rank died or cannot be reached: {text.splitlines()[0]}"
    return 0, ""


def _take_configs(argv: list[str]) -> tuple[list[str], list[str]]:
    """(files of every --config, the other arguments)."""
    scanner = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    scanner.add_argument("--config", nargs="+", action="extend", default=[])
    try:
        found, rest = scanner.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(f"--config: {error.message}") from error
    return found.config, rest


def _without_local_rank(argv: list[str]) -> list[str]:
    """The command line without `--local-rank N`, in any of its spellings."""
    result: list[str] = []
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        name, equals, _ = token.partition("=")
        if name not in LOCAL_RANK:
            result.append(token)
        elif not equals and tokens and tokens[0].isdigit():
            tokens.pop(0)
    return result


def _take_slashed(argv: list[str]) -> tuple[dict[str, Any], list[str]]:
    """(nested dict of `--a/b value` and `--a/b=value`, the other arguments)."""
    keys: dict[str, Any] = {}
    rest: list[str] = []
    tokens = iter(argv)
    for token in tokens:
        name, equals, text = token.partition("=")
        if not name.startswith("--") or "/" not in name:
            rest.append(token)
            continue
        value = text if equals else next(tokens, None)
        if value is None:
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
    """(dotted key, value) pairs of nested keys; a dict whose key is an option stays whole."""
    for name, value in keys.items():
        key = f"{prefix}{name}"
        if key in known:
            yield key, value
        elif isinstance(value, dict) and any(other.startswith(f"{key}.") for other in known):
            yield from _flatten(value, known, source, f"{key}.")
        elif key != "config":
            depth = key.count(".") + 1
            level = [".".join(other.split(".")[:depth]) for other in known]
            raise UserError(f"{key} in {source}: unknown key{_nearest(key, level)}")


def _of_training(
    keys: dict[str, Any], known: Sequence[str], file: str, training: Callable[[], Mapping[str, str]]
) -> dict[str, Any]:
    """What infer.py and evaluate.py use of a training run's configuration; other keys unchanged.

    A run's own config.yaml means its checkpoints, and says nothing else that they do not say.
    """
    if all(key in known or key == "config" for key in keys):
        return keys
    names = training()
    for key in keys:
        if key not in names and key not in known:
            nearest = _nearest(key, known) or _nearest(key, list(names))
            raise UserError(f"{key} in {file}: unknown key{nearest}")
    used = {}
    if (Path(file).parent / "checkpoints").is_dir():
        used["checkpoint"] = str(Path(file).parent)
    else:
        today = {names.get(key, key): value for key, value in keys.items() if value is not None}
        used = {key: value for key, value in today.items() if key in {*known} - {"checkpoint"}}
    print(f"{file}: of a training run; used here: {', '.join(used) or 'nothing'}")
    return used


def _refuse_unknown(parser: ArgumentParser, known: list[str], argv: list[str]) -> None:
    """Raise on an option that the parser does not have."""
    for token in argv:
        name = token.partition("=")[0]
        if name.startswith("--") and name not in parser._option_string_actions:
            nearest = _nearest(name[2:], known, "--")
            raise UserError(f"{name} on the command line: unknown option{nearest}")


def _nearest(name: str, known: Sequence[str], prefix: str = "") -> str:
    """`; did you mean X?` for the most similar known name, or an empty text."""
    stems = {key.removesuffix(".yaml"): key for key in known}
    close = difflib.get_close_matches(name.removesuffix(".yaml"), stems, n=1, cutoff=0.7)
    return f"; did you mean {prefix}{stems[close[0]]}?" if close else ""


def _rename_token(token: str, renamed: Mapping[str, str]) -> str:
    """`--img_size` or `--img_size=64` under the name that the option has here."""
    name, equals, value = token.partition("=")
    if name.startswith("--") and name[2:] in renamed:
        return f"--{renamed[name[2:]]}{equals}{value}"
    return token


def _rule(parser: ArgumentParser, key: str) -> str:
    """What the value of an option must be."""
    action = next(action for action in parser._actions if action.dest == key)
    return _kind(getattr(action, "_typehint", None) or action.type)


def _kind(hint: Any) -> str:
    """A type, in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint in KINDS:
        return KINDS[hint]
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (Union, UnionType):
        return " or ".join(_kind(part) for part in inner)
    if origin is list:
        return f"a list, each {_kind(inner[0])}"
    if origin is tuple:
        return f"a list of {len(inner)}, each {_kind(inner[0])}"
    if origin is dict:
        return "a mapping"
    return getattr(hint, "__name__", str(hint))


def _command_line_error(parser: ArgumentParser, message: str, argv: Sequence[str]) -> str:
    """One line on an argument that the parser refused with this message."""
    text = " ".join(message.split())
    key = re.match(r"(?:Parser key \"|argument (?:-\w/|-\w, )?-*)([\w.]+)", text)
    if not key:
        return f"command line: {text}"
    action = next((a for a in parser._actions if key[1] == a.dest), None)
    values = [
        token.partition("=")[2] if "=" in token else "".join(argv[place + 1 : place + 2])
        for place, token in enumerate(argv)
        if action is not None and token.partition("=")[0] in action.option_strings
    ]
    if not values or "expected" in text.partition(": ")[2].split(". ")[0].split():
        return f"--{key[1]}: {text.partition(': ')[2]}"
    return f"--{key[1]}: must be {_rule(parser, key[1])}, got {values[-1]}"


def _shown(default: Any) -> str:
    """A default as one would type it."""
    if isinstance(default, bool) or default is None:
        return "null" if default is None else str(default).lower()
    return str(default)


def _builtin(value: Any) -> Any:
    """The value with int and float in place of the parser's restricted numbers."""
    if isinstance(value, list):
        return [_builtin(item) for item in value]
    if isinstance(value, bool):
        return value
    kind = next((kind for kind in (int, float) if isinstance(value, kind)), None)
    return kind(value) if kind else value


def _plain(value: Any) -> Any:
    """The value as dicts, lists, strings, numbers and None only."""
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
