"""Reads the networks of the published head avatars.

An experiment is a folder:

    EXPERIMENT/args.txt                       the options, lines `name: value`
    EXPERIMENT/checkpoints/EPOCH_NETWORK.pth  a state dict each

Sizes come from the shapes of the weights, and other options from args.txt or the published
defaults. The published enhancer's experiment holds only the enhancer. The other networks come from
the experiment that its args.txt names as `init_experiment_dir`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nets.bilayer import DEFAULTS, NETWORKS, Bilayer
from nets.bilayer.defaults import READING, words
from nets.bilayer.network import build
from nets.bilayer.network.encoders import frequencies
from nets.bilayer.network.generators import identity_grid
from nets.bilayer.network.layers import PixelBias
from nets.bilayer.options import check_values, parser
from nets.bilayer.published_options import (
    NETWORK_SWITCHES,
    RENAMED,
    SWITCHES,
    classified,
    refuse,
)
from nets.errors import UserError
from nets.run import checkpoints
from nets.run import options as run_options
from nets.spectral import settle
from nets.tensor_files import read_plain, require

BEGINNINGS = {  # network -> prefix of some of its keys, which no other network has
    "identity_embedder": "net.enc.",
    "texture_generator": "gen_tex.",
    "keypoints_embedder": "net.mlp.",
    "inference_generator": "gen_inf.",
    "discriminator": "net.first_conv.",
    "texture_enhancer": "net.blocks.",
}
FILE = re.compile(r"(?P<epoch>[^_/]+)_(?P<network>[a-z]+_?[a-z]+)\.pth")
PARAMETRISED = {
    "parametrizations.weight.original": "weight_orig",
    "parametrizations.weight.0._u": "weight_u",
    "parametrizations.weight.0._v": "weight_v",
}


def load(path: str | Path, **options: Any) -> tuple[Bilayer, dict[str, Any]]:
    """The networks of an experiment in eval mode, and the options that describe them.

    path     an experiment's folder; or an EPOCH_NETWORK.pth, for all files of its epoch
    options  override what the weights and args.txt say. `which_epoch`: default, the newest.
             `networks`: default, those of an avatar that the experiment has.
             `init_experiment_dir`, `init_networks`, `init_which_epoch`: networks from another
             experiment
    Raises UserError if a file is missing, or does not fit, with the first three differences.
    """
    content = read(path, **options)
    with torch.device("meta"):
        model = build(content["options"], content["options"]["networks_test"])
    model.load_state_dict(content["parts"]["model"], assign=True)
    return model.eval(), content["options"]


def read(path: str | Path, **options: Any) -> dict[str, Any]:
    """The content of the files as a checkpoint: "step", "options", "parts" and "kind".

    path, options  as in `load`
    "kind" is a line for the log.
    """
    path = Path(path)
    folder, epoch, only = _place(path)
    epoch = str(options.pop("which_epoch", epoch or "")) or None
    stored: dict[str, Any] = {}
    if folder and (folder / "args.txt").is_file():
        stored = read_args(folder / "args.txt")
    given = {**stored, **options}
    chosen = options.pop("networks", None)
    if chosen is not None:
        only = words(chosen)
    files = _files(path, folder, epoch, given, only, chosen is not None)
    states = {name: _state(file, name) for name, file in files.items()}
    settings = {**DEFAULTS, **stored}
    settings |= sizes(states, settings)
    ours = folder is not None and (folder / "config.yaml").is_file()
    if settings["tex_pixelwise_bias_type"] == "adaptive" and not ours:
        settings["tex_pixelwise_bias_type"] = "adaptive_original"
    if "texture_enhancer" in states:  # it needs renderings of the sources
        settings |= {"pse_emb_source_pose": True, "inf_pred_source_data": True}
    settings |= options
    if folder and stored:
        check_values({**READING, **settings}, f" in {folder / 'args.txt'}")
    names = [name for name in NETWORKS if name in states]
    for key in ("networks_train", "networks_test", "networks_calc_stats", "networks_to_train"):
        settings[key] = list(names)
    settings["spn_networks"] = [name for name in names if _is_spectral(states[name])]
    settings["spn_exceptions"] = [
        f"{name}.{layer}"
        for name in settings["spn_networks"]
        for layer in _plain_layers(states[name])
    ]
    settings["frozen_networks"] = []
    try:
        with torch.device("meta"):
            expected = build(settings, names)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    model: dict[str, Tensor] = {}
    for name, state in states.items():
        fitting = fitted(state, getattr(expected, name), files[name], name)
        model |= {f"{name}.{key}": value for key, value in fitting.items()}
    where = ", ".join(f"{name} ({files[name].name})" for name in names)
    kind = f"of the published program, {settings['image_size']} px: {where}"
    return {"step": 0, "options": settings, "parts": {"model": model}, "kind": kind}


def take(net: nn.Module, path: str | Path, name: str) -> None:
    """Load EPOCH_NETWORK.pth into a network of a run, for any way of storing spectral norms.

    name  of the network
    Raises UserError with the first three differences if the file does not fit; then the network is
    not changed.
    """
    state, folded = matched(net, Path(path), name)
    net.load_state_dict(state)
    if folded:
        settle(net, 50)


def matched(net: nn.Module, path: Path, name: str) -> tuple[dict[str, Tensor], bool]:
    """The state in EPOCH_NETWORK.pth for a network; True if its spectral norms are folded.

    net, name  the network, which may be on the meta device, and its name
    Raises UserError with the first three differences if the file does not fit.
    """
    state = _state(path, name)
    folded, here = not _is_spectral(state), net.state_dict()
    for key in here:  # the weights of a folded file have a norm of about 1; `settle` computes u, v
        stem = key.removesuffix("_orig")
        if key.endswith("weight_orig") and key not in state and stem in state:
            state[key] = state.pop(stem)
            state[f"{stem}_u"], state[f"{stem}_v"] = here[f"{stem}_u"], here[f"{stem}_v"]
    return fitted(state, net, path, name), folded


def fitted(state: Mapping[str, Tensor], net: nn.Module, path: Path, name: str) -> dict[str, Tensor]:
    """The state in float32, checked against the network, with missing constants added.

    path, name  for messages
    Raises UserError with the first three differences.
    """
    state, expected = dict(state), net.state_dict()
    for place, module in net.named_modules():
        available = [key for key in state if key.startswith(f"{place}.")]
        # The name of a pixel bias differs between versions; its module does not.
        if isinstance(module, PixelBias) and len(available) == 1:
            value, shape = state.pop(available[0]), module.bias.shape
            state[f"{place}.bias"] = value.view(shape) if value.numel() == shape.numel() else value
    for key, one in expected.items():
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, torch.zeros((), dtype=torch.int64))
        elif key == "frequencies":
            state.setdefault(key, frequencies(one.numel()))
        elif key == "identity_grid" and (key not in state or state[key].shape != one.shape):
            state[key] = identity_grid(one.shape[1])
    require(state, expected, path, f"a bilayer {name.replace('_', ' ')} of these options")
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def _place(path: Path) -> tuple[Path | None, str | None, list[str] | None]:
    """The experiment's folder, the epoch in the file's name, and the networks of this epoch.

    Each is None if `path` does not tell it.
    Raises UserError if `path` is missing.
    """
    if path.is_dir():
        return (path.parent if path.name == "checkpoints" else path), None, None
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder")
    match = FILE.fullmatch(path.name)
    if not match or match["network"] not in NETWORKS:
        return None, None, None
    experiment = path.parent.parent if path.parent.name == "checkpoints" else None
    beside = [n for n in NETWORKS if (path.parent / f"{match['epoch']}_{n}.pth").is_file()]
    return experiment or path.parent, match["epoch"], beside


def _files(
    path: Path,
    folder: Path | None,
    epoch: str | None,
    given: dict[str, Any],
    only: list[str] | None,
    chosen: bool,
) -> dict[str, Path]:
    """Network -> file. Raises UserError if a file is missing.

    folder, epoch  as `_place` returns them; without an epoch, the newest
    given          the options
    only           the networks; default: those of an avatar that the experiment has
    chosen         whether the caller asks for these networks only
    """
    if folder is None:  # a file of another name: its content tells which network it holds
        state = _plain(path)
        for name, start in BEGINNINGS.items():
            if any(key.startswith(start) for key in state):
                return {name: path}
        first = ", ".join(list(state)[:3]) or "nothing"
        raise UserError(f"{path}: not a network of head avatars: it holds {first}")
    available = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    epochs: dict[str, list[str]] = {}
    for file in available.glob("*.pth"):
        match = FILE.fullmatch(file.name)
        if match and match["network"] in NETWORKS:
            epochs.setdefault(match["epoch"], []).append(match["network"])
    if not epochs:
        raise UserError(f"{available}: holds no EPOCH_NETWORK.pth")
    newest = max(epochs, key=lambda e: (e.isdigit(), int(e) if e.isdigit() else 0, e))
    epoch = epoch or newest
    if epoch not in epochs:
        known = ", ".join(sorted(epochs, key=lambda e: (len(e), e)))
        raise UserError(f"{available}: no networks of epoch {epoch}; epochs: {known}")
    result = {name: available / f"{epoch}_{name}.pth" for name in epochs[epoch]}
    other = _other_experiment(folder, given)
    if other is not None:
        if only and not chosen:  # a file stands for its epoch and for what this was trained on
            more = [n for n in words(given.get("init_networks")) if n != "discriminator"]
            only = [n for n in NETWORKS if n in only or n in more]
        for name in words(given.get("init_networks")):
            file = other / "checkpoints" / f"{given.get('init_which_epoch')}_{name}.pth"
            if name not in result and (file.is_file() or name in (only or NETWORKS[:4])):
                result[name] = file
    expected = only or [name for name in NETWORKS[:5] if name in result] or list(result)
    for name in expected:
        if name not in NETWORKS:
            raise UserError(f"networks: must be of {', '.join(NETWORKS)}, got {name}")
        if not result.get(name, available / f"{epoch}_{name}.pth").is_file():
            raise UserError(f"{result.get(name, available / f'{epoch}_{name}.pth')}: no such file")
    return {name: result[name] for name in expected}


def _other_experiment(folder: Path, given: dict[str, Any]) -> Path | None:
    """The experiment of the networks that this one did not train; None if all are its own.

    It is the folder that `init_experiment_dir` names, or one of that name beside this one.
    """
    named = str(given.get("init_experiment_dir") or "")
    if not named or named == "none":
        return None
    beside = folder.resolve().parent / Path(named).name
    return Path(named) if Path(named).is_dir() else beside


def _plain(path: Path) -> dict[str, Tensor]:
    """The state dict of a file, with torch's classic keys of spectral norms."""
    held = read_plain(path)
    if not isinstance(held, Mapping) or not all(isinstance(v, Tensor) for v in held.values()):
        raise UserError(f"{path}: not a network's state dict: must map names to tensors")
    state = {}
    for key, value in held.items():
        key = str(key).removeprefix("module.")
        for old, new in PARAMETRISED.items():
            key = key.replace(old, new)
        state[key] = value
    return state


def _state(path: Path, name: str) -> dict[str, Tensor]:
    """The state dict of a file, or of the network `name` in a checkpoint of guise.

    Raises UserError if it is not that of this network.
    """
    if path.suffix in (".pt", ".safetensors"):
        parts = checkpoints.read(path, "bilayer")["parts"]
        model = parts["model"] | parts.get("ema", {}).get("average", {})
        state = {
            key.removeprefix(f"{name}."): value
            for key, value in model.items()
            if key.startswith(f"{name}.")
        }
    else:
        state = _plain(path)
    if not any(key.startswith(BEGINNINGS[name]) for key in state):
        first = ", ".join(list(state)[:3]) or "nothing"
        raise UserError(f"{path}: not a bilayer {name.replace('_', ' ')}: it holds {first}")
    if "net.frequencies" in state:
        state["frequencies"] = state.pop("net.frequencies")
    return state


def _is_spectral(state: Mapping[str, Tensor]) -> bool:
    """True if a layer has a spectral norm."""
    return any(key.endswith("weight_orig") for key in state)


def _plain_layers(state: Mapping[str, Tensor]) -> list[str]:
    """The convolutions and fully connected layers without a spectral norm."""
    return [
        key.removesuffix(".weight")
        for key, value in state.items()
        if key.endswith(".weight") and value.ndim > 1
    ]


# Prefixes of options that are lists, and endings of options that are text.
LISTS = ("networks_", "frozen_networks", "init_networks", "spn_", "losses_", "metrics")
TEXT = ("_name", "_names", "_dir", "_root", "_weights", "_which_epoch", "_apply_to", "_home")

OFF = ("false", "none", "", "0", "0.0")  # values with which an unknown option does nothing


def read_args(path: Path) -> dict[str, Any]:
    """The options of an args.txt, under the names that stand there.

    What a trained network depends on has the types and checks of the command line. The other
    options have the type that their text looks like.
    Raises UserError that names file and line, and one for options that are unknown or refused.
    """
    values: dict[str, Any] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        name, colon, text = line.partition(":")
        if not line.strip():
            continue
        if not colon or not name.strip():
            raise UserError(f"{path}, line {number}: must be `name: value`, is {line!r}")
        if name.strip() in values:
            raise UserError(f"{path}, line {number}: {name.strip()} stands twice")
        values[name.strip()] = _value(name.strip(), text.strip(), f"{path}, line {number}")
    new = [name for name in values if not classified(name)]
    unknown = [name for name in new if str(values[name]).lower() not in OFF]
    if len(unknown) < len(new):
        off = ", ".join(name for name in new if name not in unknown)
        print(f"note: {path}: unknown options, which are off and have no effect here: {off}")
    if unknown:
        raise UserError(
            f"{path}: unknown options: {', '.join(unknown)}; if the networks do not depend on "
            "them, delete these lines"
        )
    refuse(values, f"{path}: ", NETWORK_SWITCHES)
    return values


@functools.cache
def _parser() -> run_options.Parser:
    """The parser of the training script, by whose rules an args.txt is read."""
    return parser("")


def _value(name: str, text: str, where: str) -> Any:
    """The value of an option from its text in args.txt; `where` is for messages."""
    followed = {**DEFAULTS, **READING, **SWITCHES}
    today = RENAMED.get(name, name)
    if isinstance(followed.get(today), list) or name.startswith(LISTS):
        return [] if text == "none" else words(text.strip("[]").replace("'", ""))
    if today in followed:
        if text == "None" and followed[today] is None:
            return None
        return run_options.checked(_parser(), today, text, where)
    if text in ("True", "False"):
        return text == "True"
    if name.endswith(TEXT):
        return text
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


class Shapes:
    """Sizes of one network's tensors, for any way of storing spectral norms."""

    def __init__(self, state: Mapping[str, Tensor]):
        self.of = {key.replace("weight_orig", "weight"): v.shape for key, v in state.items()}

    def size(self, key: str, axis: int) -> int:
        """The size of a tensor's axis; 0 if the tensor or the axis is missing."""
        shape = self.of.get(key, ())
        return shape[axis] if len(shape) > axis else 0

    def lengths(self, pattern: str) -> list[int]:
        r"""First sizes of the tensors whose keys match, in the order of their number, (\d+)."""
        result = {}
        for key, shape in self.of.items():
            match = re.fullmatch(pattern, key)
            if match and shape:
                result[int(match[1])] = shape[0]
        return [result[number] for number in sorted(result)]


def sizes(
    states: Mapping[str, Mapping[str, Tensor]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The options that follow from the tensors of an experiment's networks.

    states    network -> its state dict
    settings  options, for sizes in pixels that no tensor has
    """
    reported: dict[str, Any] = {}
    shapes = {name: Shapes(state) for name, state in states.items()}
    if "keypoints_embedder" in shapes:
        reported |= _keypoints(shapes["keypoints_embedder"], states["keypoints_embedder"])
    for short, network in (("inf", "inference_generator"), ("tex", "texture_generator")):
        if network in shapes:
            reported |= _generator(short, shapes[network])
    if "texture_generator" in shapes:
        reported["tex_pixelwise_bias_type"] = _pixel_bias(shapes["texture_generator"], settings)
    outputs = reported.pop("outputs", 0)
    channels = reported.get("inf_max_channels", settings["inf_max_channels"])
    side = round((outputs / channels) ** 0.5)
    if outputs and side**2 * channels == outputs:
        reported["inf_input_tensor_size"] = side
    if "image_size" not in reported and "blocks" in reported:
        reported["image_size"] = (
            reported.get("inf_input_tensor_size", settings["inf_input_tensor_size"])
            * 2 ** reported["blocks"]
        )
    reported.pop("blocks", None)
    size = reported.get("image_size", settings["image_size"])
    if "identity_embedder" in shapes:
        one = shapes["identity_embedder"]
        coder = one.lengths(r"net\.enc\.(\d+)\.block\.\d+\.bias")
        decoder = one.lengths(r"net\.dec_blocks\.(\d+)\.block\.\d+\.bias")
        reported["emb_num_channels"] = one.size("net.enc.0.weight", 0)
        widest = max([reported["emb_num_channels"], reported.get("emb_max_channels", 0), *coder])
        reported["emb_max_channels"] = widest
        reported["emb_no_stickman"] = one.size("net.enc.0.weight", 1) == 3
        reported["emb_output_tensor_size"] = size >> len(coder)
        if decoder:
            reported |= {"tex_num_channels": decoder[-1], "tex_max_channels": max(decoder)}
    if "discriminator" in shapes:
        one = shapes["discriminator"]
        blocks = one.lengths(r"net\.blocks\.(\d+)\.block\.\d+\.bias")
        reported["dis_num_channels"] = one.size("net.first_conv.weight", 0)
        reported["dis_max_channels"] = max([reported["dis_num_channels"], *blocks])
        reported["dis_no_stickman"] = one.size("net.first_conv.weight", 1) == 3
        reported["dis_num_blocks"] = len(blocks)
    if "texture_enhancer" in shapes:
        one = shapes["texture_enhancer"]
        blocks = one.lengths(r"net\.blocks\.(\d+)\.block\.\d+\.bias")
        halvings = len(one.lengths(r"net\.blocks\.(\d+)\.skip\.0\.bias"))
        reported["enh_num_channels"] = one.size("net.blocks.0.weight", 0)
        reported["enh_max_channels"] = max([reported["enh_num_channels"], *blocks])
        reported["enh_num_blocks"] = len(blocks) - 2 * halvings
        reported["enh_bottleneck_tensor_size"] = size >> halvings
    return {name: value for name, value in reported.items() if value or isinstance(value, bool)}


def _keypoints(one: Shapes, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The options of a keypoints embedder, and "outputs": values per pose."""
    layers = one.lengths(r"net\.mlp\.(\d+)\.bias")
    inputs, harmonics = one.size("net.mlp.0.weight", 1), 0
    if "frequencies" in state:
        harmonics = state["frequencies"].numel()
    elif inputs == 8 * DEFAULTS["pse_in_channels"]:  # 1088: sine and cosine at four frequencies
        harmonics = 4
    reported = {
        "pse_in_channels": inputs // (2 * harmonics) if harmonics else inputs,
        "pse_use_harmonic_enc": bool(harmonics),
        "pse_num_blocks": len(layers),
        "outputs": layers[-1] if layers else 0,
    }
    reported |= {"pse_num_harmonics": harmonics} if harmonics else {}
    return reported | ({"pse_num_channels": layers[0]} if len(layers) > 1 else {})


def _pixel_bias(one: Shapes, settings: Mapping[str, Any]) -> str:
    """The kind of the texture generator's pixel bias."""
    conv, bias = "gen_tex.blocks.0.block.0.", "gen_tex.blocks.0.block.1."
    shape = next((shape for key, shape in one.of.items() if key.startswith(bias)), None)
    if shape is None or conv + "weight" not in one.of:
        return "none"
    if shape.numel() == one.size(conv + "weight", 0):
        return "stochastic"
    norm, skip = settings["tex_norm_layer_type"], settings["tex_skip_layer_type"]
    sets = len(one.lengths(r"prj_tex\.fc_blocks\.0\.(\d+)\.0\.bias"))
    others = 2 * ((1 + ("spade" in norm)) if norm.startswith("ada") else 0) + (skip == "ada_conv")
    return "adaptive" if sets > others else "fixed"


def _generator(short: str, one: Shapes) -> dict[str, Any]:
    """The options of a generator, with those of the embedder that its projector's widths imply.

    short    prefix of its options, tex or inf
    returns  also "blocks", their number
    """
    places = (3, 0) if short == "tex" else (2, 1)  # indices of the two convolutions in a block
    after = one.lengths(rf"gen_{short}\.blocks\.(\d+)\.block\.{places[1]}\.weight")
    first = one.size(f"gen_{short}.blocks.0.block_feats.{places[0]}.weight", 1)
    if not after or not first:
        return {}
    reported = {f"{short}_num_channels": after[-1], f"{short}_max_channels": first}
    reported["blocks"] = len(after)
    if short == "tex":
        reported["tex_input_tensor_size"] = one.size("gen_tex_input", 2)
        reported["image_size"] = reported["tex_input_tensor_size"] * 2 ** len(after)
    else:
        reported["inf_pred_segmentation"] = len(one.lengths(r"gen_inf\.heads\.(\d+)\.0\.bias")) > 2
    hidden = one.lengths(rf"prj_{short}\.fc_blocks\.(\d+)\.0\.0\.bias")
    if len(hidden) == len(after):
        reported |= {"emb_num_channels": hidden[-1] // 2, "emb_max_channels": max(hidden)}
        before = [first, *after[:-1]]
        inputs = [one.size(f"prj_{short}.fc_blocks.{p}.0.0.weight", 1) for p in range(len(after))]
        # A row of the projector's input has c / b embedding channels of (32 a / h)^2 pixels.
        channels = [
            round(f * b / (32 * a / h) ** 2)
            for f, b, a, h in zip(inputs, after, before, hidden, strict=True)
        ]
        if short == "inf":
            reported |= {"tex_num_channels": channels[-1], "tex_max_channels": max(channels)}
    return reported
