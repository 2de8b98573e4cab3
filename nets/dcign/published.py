"""The published DC-IGN programs: their Torch7 files, read and written, and their options.

    parameters.t7                        all weights as one vector, in the order of
                                         `DCIGN.named_parameters`, row by row
    config.t7, state.t7                  settings and state of the optimiser; the state is in either
    lowerbound.t7, lowerbound_test.t7    (epochs, 1): mean lower bound per batch, nats
    cmd_options.txt                      the options of the run, one `key: value` per line
    vxnet.net                            the model as nested modules; read without parameters.t7
    test.log                             reconstruction error on test data, one line per epoch

Weights are not permuted: both programs have convolutions (out, in, rows, columns), not flipped, and
the order channel, row, column in the vector between encoder and decoder.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import IO, Any, Literal, cast

import torch
from torch import Tensor

from nets.data.io import torch7
from nets.dcign import DCIGN, RMSprop, build
from nets.errors import UserError
from nets.run.options import (
    Namespace,
    NonNegativeFloat,
    NonNegativeInt,
    Parser,
    PositiveInt,
    add_flag,
)

Content = Callable[[IO[bytes]], object]  # writes a file's content to the open file
Write = Callable[[str, Content], None]  # writes a file of this name

PARAMETERS = "parameters.t7"
MODEL = "vxnet.net"
NUMBERS = ("learningRate", "momentumDecay", "updateDecay")  # of config.t7
KIND = "of the published program"  # begins the "kind" of such a checkpoint
MAPS = 96
BUFFERS = {  # tensors of torch's modules that a forward pass fills
    "SpatialConvolution": ("finput", "fgradInput"),
    "SpatialMaxPooling": ("indices",),
}
GROUPS = ["azimuth=1", "elevation=1", "light=1", "shape=rest"]  # latents of each group
SHOWN = 3  # differences in an error message
RENAMED = {  # names in the published programs and in earlier versions of guise -> today's names
    "datasetdir": "data",
    "bsize": "batch_size",
    "learning_rate": "lr",
    "learningRate": "lr",
    "epochs": "num_epochs",
    "networks_dir": "run_dir",
    "import": "checkpoint",
}
NO_EFFECT = (  # options that the program of the entangled regime accepts and never uses
    ("--network", "-n"),
    ("--optimization", "-o"),
    ("--momentum", "-m"),  # -m is --model as well there; neither is used
    ("--maxIter", "-i"),
    ("--coefL1",),
    ("--coefL2",),
    ("--dumpTest",),
    ("--datasrc", "-d"),
    ("--fbmat", "-f"),
)

# Options of a cmd_options.txt that describe the network: name -> pattern of its values, in words.
GROUP = r"[\w-]+=\w+(?:@\w+)?"
FOLLOWED = {
    "dim_hidden": r"0*[1-9]\d*",
    "feature_maps": r"0*[1-9]\d*",
    "image_size": "150",
    "likelihood": "bernoulli",
    "regime": "disentangled|entangled",
    "groups": rf"\W*{GROUP}(\W+{GROUP})*\W*",
}
RULES = {
    "dim_hidden": "a whole number > 0",
    "feature_maps": "a whole number > 0",
    "image_size": "150",
    "likelihood": "bernoulli",
    "regime": "disentangled or entangled",
    "groups": "a list of NAME=LATENTS",
}
# The others change no number of a trained network: of training, of files, of the machine.
_NAMES = """
accumulate batch_size bsize channels_last checkpoint ckpt_freq clamp coefL1 coefL2 color compile
config data datasetdir datasrc device deviceId dumpTest ema epochs export_torch7 fbmat
force_invariance gradient_filter help import invariance_sign invariance_strength jitter keep_every
keep_last learningRate learning_rate log_freq lr maxIter max_megapixels mirror model momentum
momentum_decay name nan network networks_dir no_load num_epochs num_steps num_test_batches
num_test_batches_per_type num_train_batches num_train_batches_per_type on_bad_sample optimization
optimizer order plot precision published_folder reset_optimizer resume reuse run_dir sample save
seed shape_bias shape_bias_amount shuffle start_log_freq sweep_steps test_freq threads time_limit
update_decay useCuda useCudnn warm_down workers
"""
NO_NUMBER = frozenset(_NAMES.split())


# fmt: off
def add_options(p: Parser) -> None:
    """Add the options that --help_published lists."""
    g = p.hidden
    add = g.add_argument
    add_flag(g, "--no_load", False, "train from random weights, without --checkpoint")
    add("--save", "-s", type=str | None, default=None,
        help="run folder, instead of --run_dir and --name")
    add_flag(g, "--export_torch7", False,
        "also write the network to torch7/ in the run folder, as the published program does")
    add("--published_folder", type=bool | None, nargs="?", const=True, default=None,
        help="write the network into the run folder itself after each epoch, as the published "
        "program does; default: true with --networks_dir or --save")
    add("--num_test_batches", type=PositiveInt | None, default=None,
        help="test batches of all types together")
    add("--shape_bias_amount", type=NonNegativeInt, default=15,
        help="amount A with --shape_bias: types are drawn 1 : 1 : 1 : 1 + A; the paper: 9")
    add("--order", type=Literal["draws", "passes", "order"] | None, default=None,
        help="order of batches. draws: with replacement; passes: each once per epoch, at random; "
        "order: each once, by number; default: draws, or order with --regime entangled, as "
        "published")
    add_flag(g, "--shuffle", True,
        "shuffle the images in a batch, so that --clamp first takes a random one")
    add("--color", "-c", type=Literal[0], default=0, help="0 only; the network takes one channel")
    add("--model", type=Literal["convnet"], default="convnet", help="convnet only")
    add_flag(g, "--gradient_filter", True, "clamped latents receive no gradient")
    add("--invariance_sign", type=Literal["repaired", "original"], default="repaired",
        help="original: the sign of the published program, which drives the latents apart")
    add("--momentum_decay", type=NonNegativeFloat | None, default=None,
        help="1 - beta1; default: 0.1")
    add("--update_decay", type=NonNegativeFloat | None, default=None,
        help="1 - beta2; default: 0.01")
    add("--warm_down", type=NonNegativeInt, default=0,
        help="last steps, in which lr falls linearly to 0")
    add_flag(g, "--sample", False, "tests and images from sampled codes, as published")
    add("--sweep_steps", type=PositiveInt, default=7, help="images in a sweep of a latent")
    add("--threads", "-t", type=PositiveInt | None, default=None, help="processor threads")
    add_flag(g, "--useCuda", False, "same as --device cuda")
    add_flag(g, "--useCudnn", False, "needs --useCuda, which always uses cuDNN")
    add("--deviceId", type=PositiveInt | None, default=None, help="number of the GPU, from 1")
    add("--reuse", "-u", type=str | int | None, default=None,
        help="1: start from the network in the folder --save, or continue the run there")
    add("--plot", "-p", type=str | bool | None, nargs="?", const="true", default=None,
        help="false only; TensorBoard shows the curves of training and tests")
    for names in NO_EFFECT:
        add(*names, type=str, nargs="?", const="true", default=None, help="no effect")
# fmt: on


def apply_options(args: Namespace, argv: Sequence[str] = ()) -> None:
    """Apply published options: set the project's own ones, the threads and the visible GPU.

    argv  the command line
    Raises UserError for options that contradict, and for --plot on the command line, which is not
    implemented.
    """
    ignored = [_shown(names) for names in NO_EFFECT if args[names[0][2:]] is not None]
    if ignored:
        print(f"{', '.join(ignored)}: no effect, as in the published program")
    if args.datasrc is not None:
        print("--data is the option for the folder of batches")
    typed = {token.partition("=")[0] for token in argv}
    _plot_and_reuse(args, typed)
    if args.published_folder is None:
        args.published_folder = bool(args.save) or "--networks_dir" in typed
    if args.save:
        args.run_dir, args.name = str(Path(args.save).parent), Path(args.save).name
    if args.reuse == 1:
        _reuse(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.useCudnn and not args.useCuda:
        raise UserError("--useCudnn: needs --useCuda")
    if args.useCuda:
        args.device = "cuda"
    if args.deviceId:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", str(args.deviceId - 1))
    _test_batches(args)


def _shown(names: Sequence[str]) -> str:
    """The names of an option for a message: `--momentum (-m)`."""
    return names[0] if len(names) == 1 else f"{names[0]} ({names[1]})"


def _plot_and_reuse(args: Namespace, typed: Set[str]) -> None:
    """Check --plot and --reuse, and convert them to a bool and a number if they were typed.

    typed  the tokens of the command line before any "="
    Configurations of earlier versions hold them as text, since they had no effect there. Such texts
    stay as they are, so that the same run goes on.
    """
    if typed & {"--plot", "-p"}:
        if str(args.plot).lower() != "false":
            raise UserError("--plot: no plots are drawn; tensorboard --logdir RUN shows the curves")
        args.plot = False
    elif args.plot not in (None, False, "false"):
        print(f"plot: {args.plot} in a configuration: no effect; TensorBoard shows the curves")
    if typed & {"--reuse", "-u"}:
        if args.reuse not in ("0", "1"):
            raise UserError(f"--reuse: must be one of 0, 1 or null, got {args.reuse}")
        args.reuse = int(args.reuse)
    elif isinstance(args.reuse, str):
        print(f"reuse: {args.reuse!r} in a configuration: no effect, as in earlier versions")


def _reuse(args: Namespace) -> None:
    """Set --checkpoint to the folder that --save names."""
    if not args.save or not Path(args.save).is_dir():
        raise UserError(f"--reuse: --save must name an existing folder, got {args.save}")
    if args.no_load or args.checkpoint not in (None, args.save):
        raise UserError("--reuse: cannot be combined with --checkpoint or --no_load")
    args.checkpoint = args.save


def _test_batches(args: Namespace) -> None:
    """Set --num_test_batches_per_type from --num_test_batches."""
    if args.num_test_batches is None:
        return
    types = len(args.groups) if args.regime == "disentangled" else 1
    each, rest = divmod(args.num_test_batches, types)
    if args.num_test_batches_per_type not in (None, each) or rest or not each:
        raise UserError(
            f"--num_test_batches: must be {types} times --num_test_batches_per_type, "
            f"got {args.num_test_batches} and {args.num_test_batches_per_type}"
        )
    args.num_test_batches_per_type = each


def is_published(content: Mapping[str, Any]) -> bool:
    """True if a checkpoint's content is of the published program, or converted from it."""
    kind = str(content.get("kind", ""))
    return kind.startswith(KIND) or "command" in content["options"]


def load(path: str | Path, training: bool = False, **options: Any) -> tuple[DCIGN, dict[str, Any]]:
    """(model in eval mode, options) of a network folder, or of a file of weights in it.

    training  True: files of the optimiser that do not fit are an error. False: a line names them
    options  expected dim_hidden, feature_maps, image_size, likelihood. Sizes that are not given
             come from cmd_options.txt. Otherwise there are 96 maps, and the length of the vector
             gives the latents
    The returned options are dim_hidden, feature_maps, image_size, likelihood, regime and groups.
    From a folder they also hold lr, momentum_decay, update_decay, num_epochs, lower_bound and
    lower_bound_test (lists, one value per epoch, nats per batch) and command, the run's options as
    text.
    Raises UserError with the first three differences if the vector does not fit.
    """
    path = Path(path)
    unknown = options.keys() - {"dim_hidden", "feature_maps", "image_size", "likelihood"}
    if unknown:
        raise UserError(f"{path}: {sorted(unknown)[0]} is not an option of a DC-IGN network")
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
    result: dict[str, Any] = {}
    if path.is_dir():
        try:
            result = _training(folder, len(vector))[0]
        except UserError as error:
            if training:
                raise
            print(f"{error}; only training needs it")
    # Only the program of the disentangled regime writes its options to a file; guise always does.
    regime = "disentangled" if available or not path.is_dir() else "entangled"
    if available.get("regime") == "entangled":
        regime = "entangled"
    groups = re.findall(GROUP, available.get("groups", "")) or GROUPS
    named = {"regime": regime, "groups": groups}
    return model.eval(), {**sizes, **named, **result, "command": available}


def read(path: str | Path, training: bool = False, **options: Any) -> dict[str, Any]:
    """The content of a checkpoint, {"step", "options", "parts", "kind"}; see `load`.

    parts  "model", and "optimizer", the state of an `RMSprop`, if the folder has it
    """
    model, result = load(path, training, **options)
    parts: dict[str, Any] = {"model": model.state_dict()}
    # Without num_epochs, `load` could not read the files of the optimiser.
    moments = optimizer_state(path, model) if "num_epochs" in result else None
    if moments is not None:
        parts["optimizer"] = moments
        result["optimizer"] = "rmsprop"
    step = max((state["step"] for state in moments["state"].values()), default=0) if moments else 0
    kind = f"{KIND}, {result['dim_hidden']} latents, {result['feature_maps']} maps"
    return {"step": step, "options": result, "parts": parts, "kind": kind}


def optimizer_state(path: str | Path, model: DCIGN) -> dict[str, Any] | None:
    """The state dict of an `RMSprop` on the model's parameters, from a network folder.

    None if the folder has no state. It is read from state.t7, else from config.t7, where the
    published program left it. Raises UserError if it does not fit.
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
        # The published program maximises the bound, so its first moment has the opposite sign.
        result["state"][i] = {"step": step, "m": -m, "v": v}
    return result


def save(
    write: Write,
    model: DCIGN,
    optimizer: RMSprop | None = None,
    lower_bounds: Mapping[str, list[float]] | None = None,
    command: Mapping[str, Any] | None = None,
    errors: Sequence[float] | None = None,
) -> None:
    """Write a network as the published program does.

    model         of the published sizes: 150 px, likelihood bernoulli
    write         writes a file, from its name and a function that writes to an open binary file
    optimizer     its settings and moments go to config.t7; None: an empty table
    lower_bounds  {"lowerbound": [...], "lowerbound_test": [...]}: nats per batch, one per epoch
    command       the lines of cmd_options.txt; None: no such file
    errors        mean squared errors on test data, one per epoch, for test.log; None: no such file.
                  The file has a third of them, as published (for three channels)
    """
    vector = torch.cat([p.detach().float().cpu().flatten() for p in model.parameters()])
    write(MODEL, _object(_modules(model, vector, command)))
    write(PARAMETERS, _object(vector))
    write("state.t7", _object(None))
    config: dict[str, Any] = {}
    if optimizer is not None:
        (group,) = optimizer.param_groups
        numbers = (-group["lr"], group["momentum_decay"], group["update_decay"])
        config = dict(zip(NUMBERS, numbers, strict=True))
        states = [optimizer.state.get(p, {}) for p in model.parameters()]
        if all(states):
            m, v = (torch.cat([s[k].flatten().cpu() for s in states]) for k in ("m", "v"))
            config |= {"evalCounter": states[0]["step"], "m": -m, "v": v}
    write("config.t7", _object(config))
    for name, values in (lower_bounds or {}).items():
        write(f"{name}.t7", _object(torch.tensor(values, dtype=torch.float32).view(-1, 1)))
    if command is not None:
        lines = "".join(f"{key}: {value}\n" for key, value in command.items())
        write("cmd_options.txt", lambda file: file.write(lines.encode()))
    if errors is not None:
        log = "% mean class accuracy (test set)\n"
        log += "".join(f"{error / 3:11.4e}\n" for error in errors)
        write("test.log", lambda file: file.write(log.encode()))


def _modules(model: DCIGN, vector: Tensor, command: Mapping[str, Any] | None) -> torch7.Record:
    """The model as the published program's modules; all weights are views of `vector`."""
    gradients = torch.zeros_like(vector)
    start = 0

    def module(name: str, **fields: Any) -> torch7.Record:
        buffers = {key: torch.empty(0) for key in ("output", "gradInput", *BUFFERS.get(name, ()))}
        shared = {"_type": "torch.FloatTensor", "train": True, **buffers}
        return torch7.Record(f"nn.{name}", {**shared, **fields})

    def sequence(name: str, modules: Sequence[torch7.Record]) -> torch7.Record:
        return module(name, modules=list(modules))

    def layer(of: torch.nn.Module) -> torch7.Record:
        nonlocal start
        fields: dict[str, Any] = {}
        for key, p in (("Weight", of.weight), ("Bias", of.bias)):
            p = cast(Tensor, p)
            part = slice(start, start := start + p.numel())
            fields[key.lower()] = vector[part].view(p.shape)
            fields[f"grad{key}"] = gradients[part].view(p.shape)
        if isinstance(of, torch.nn.Linear):
            return module("LinearCR", **fields)
        planes, inputs, h, w = fields["weight"].shape
        sides = {"kW": w, "kH": h, "dW": 1, "dH": 1, "padW": 0, "padH": 0}
        return module("SpatialConvolution", nInputPlane=inputs, nOutputPlane=planes, **sides,
                      **fields)  # fmt: skip

    def reshape(*sides: int) -> torch7.Record:
        size, batchsize = torch7.LongStorage(sides), torch7.LongStorage((1, *sides))
        return module("Reshape", size=size, batchsize=batchsize, nelement=math.prod(sides))

    def threshold() -> torch7.Record:
        return module("Threshold", threshold=0, val=1e-6, inplace=False)

    def head(of: torch.nn.Module) -> torch7.Record:
        if (command or {}).get("regime") == "entangled":
            return layer(of)
        held = [module(name, passthrough=False)
                for name in ("SelectiveGradientFilter", "SelectiveOutputClamp")]  # fmt: skip
        return sequence("Sequential", [layer(of), *held])

    encoder = []
    for convolution in model.encoder:
        pool = module("SpatialMaxPooling", kW=2, kH=2, dW=2, dH=2, padW=0, padH=0, ceil_mode=False)
        encoder += [layer(convolution), pool, threshold()]
    both = [head(model.mu), head(model.log_variance)]
    heads = module("ConcatTable", modules=both, output={})
    encoder += [reshape(math.prod(model.start)), heads]
    sampler = module("Reparametrize", dimension=model.latents, gradInput={})
    decoder = [layer(model.expand), threshold(), reshape(*model.start)]
    for i, convolution in enumerate(model.decoder, 1):
        last = module("Sigmoid") if i == len(model.decoder) else threshold()
        sizes = {name: torch7.LongStorage((0,) * 4) for name in ("inputSize", "outputSize")}
        up = module("SpatialUpSamplingNearest", scale_factor=2, **sizes)
        decoder += [up, layer(convolution), last]
    parts = [sequence("Sequential", encoder), sampler, sequence("Sequential", decoder)]
    return sequence("Sequential", parts)


def _of_model(file: Path, model: torch7.Record) -> Tensor:
    """The vector of weights of a whole model: weight and bias of its modules, in order."""
    result: list[Tensor] = []

    def walk(module: Any) -> None:
        fields = module.fields if isinstance(module, torch7.Record) else None
        if not isinstance(fields, torch7.Table):
            raise UserError(f"{file}: must hold modules with fields, got {module!r}")
        if isinstance(fields.get("modules"), torch7.Table):
            try:
                children = fields["modules"].sequence()
            except ValueError as error:
                raise UserError(f"{file}: {module.name}: modules must be a list") from error
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


def _object(value: Any) -> Content:
    """A function that writes a value to an open file in Torch7's format."""

    def write(file: IO[bytes]) -> None:
        torch7.write(file, value)

    return write


def _count(latents: int, maps: int) -> int:
    """The number of parameters, which is linear in the latents."""
    with torch.device("meta"):
        return sum(p.numel() for p in DCIGN(latents, maps).parameters())


def _sizes(
    file: Path, count: int, expected: Mapping[str, Any], available: Mapping[str, str]
) -> dict[str, Any]:
    """The sizes of a network whose vector has `count` elements.

    expected   sizes that the caller asks for
    available  the lines of cmd_options.txt
    Raises UserError with the first three differences.
    """
    written = {k: int(available[k]) for k in ("dim_hidden", "feature_maps") if k in available}
    maps = expected.get("feature_maps") or written.get("feature_maps", MAPS)
    sizes = {"image_size": 150, "likelihood": "bernoulli"}
    differences = [
        f"{key} must be {sizes[key]}, the options say {value}"
        for key, value in expected.items()
        if key in sizes and value not in (None, sizes[key])
    ]
    differences += [
        f"{key} is {value} in cmd_options.txt, the options say {expected[key]}"
        for key, value in written.items()
        if expected.get(key) not in (None, value)
    ]
    try:
        base, each = 2 * _count(1, maps) - _count(2, maps), _count(2, maps) - _count(1, maps)
        latents = (count - base) / each
        asked = expected.get("dim_hidden") or written.get("dim_hidden")
        if not latents.is_integer() or latents < 1:
            differences.append(
                f"{count} elements fit no number of latents with feature_maps {maps} "
                f"({base} + {each} per latent)"
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
    """The `key: value` lines of cmd_options.txt; empty if there is no such file.

    Raises UserError for a value that no network has, and for options that are not known.
    """
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    pairs = (line.partition(":") for line in lines if ":" in line)
    result = {key.strip(): value.strip() for key, _, value in pairs}
    for name, rule in FOLLOWED.items():
        if name in result and not re.fullmatch(rule, result[name]):
            raise UserError(f"{path}: {name} must be {RULES[name]}, got {result[name]}")
    unknown = sorted(result.keys() - FOLLOWED.keys() - NO_NUMBER)
    if unknown:
        raise UserError(
            f"{path}: unknown options: {', '.join(unknown)}; if the network does not depend on "
            "them, delete these lines"
        )
    return result


def _training(folder: Path, count: int) -> tuple[dict[str, Any], tuple[int, Tensor, Tensor] | None]:
    """(settings and histories, (step, m, v) or None) from the files beside the weights."""
    tables: dict[str, torch7.Table] = {}
    for name in ("state.t7", "config.t7"):
        if (folder / name).is_file():
            table = torch7.read(folder / name)
            if table is not None and not isinstance(table, torch7.Table):
                raise UserError(f"{folder / name}: must hold a table or nil")
            tables[name] = table or torch7.Table()
    result: dict[str, Any] = {}
    config = tables.get("config.t7", torch7.Table())
    for name, option in zip(NUMBERS, ("lr", "momentum_decay", "update_decay"), strict=True):
        if isinstance(config.get(name), float) and math.isfinite(config[name]):
            result[option] = abs(config[name])  # the published program's rate is negative
    for name, option in (("lowerbound", "lower_bound"), ("lowerbound_test", "lower_bound_test")):
        if (folder / f"{name}.t7").is_file():
            history = torch7.read(folder / f"{name}.t7")
            if not isinstance(history, Tensor):
                raise UserError(f"{folder / name}.t7: must hold a tensor, one row an epoch")
            result[option] = history.double().flatten().tolist()
    result["num_epochs"] = len(result.get("lower_bound", ()))
    for name, table in tables.items():
        if "m" in table and "v" in table:
            return result, _moments(folder / name, table, count)
    return result, None


def _moments(file: Path, table: torch7.Table, count: int) -> tuple[int, Tensor, Tensor]:
    """(step, m, v) of an optimiser's table. Raises UserError if they do not fit."""
    for key in ("m", "v"):
        value = table[key]
        if not isinstance(value, Tensor) or value.numel() != count or value.ndim != 1:
            what = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"{file}: {key} must be a vector of {count} elements, got {what}")
    step = table.get("evalCounter")
    if not isinstance(step, float) or not step >= 1 or not step.is_integer():
        raise UserError(f"{file}: evalCounter must be a whole number above 0, got {step}")
    return int(step), table["m"], table["v"]
