"""Networks of the published head avatars, and the published program's options.

An experiment is a folder:

    EXPERIMENT/args.txt                       the options, lines `name: value`
    EXPERIMENT/checkpoints/EPOCH_NETWORK.pth  a state dict each

Sizes come from the shapes of the weights, and other options from args.txt or the published
defaults. The published enhancer's experiment holds only the enhancer. The other networks come from
the experiment that its args.txt names as `init_experiment_dir`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nets.bilayer import DEFAULTS, NETWORKS, Bilayer
from nets.bilayer.defaults import ALL, BASE, OPTIMIZERS, READING, Names, words
from nets.bilayer.losses import DEFAULTS as LOSS
from nets.bilayer.network import build
from nets.bilayer.network.encoders import frequencies
from nets.bilayer.network.generators import identity_grid
from nets.bilayer.network.layers import PixelBias
from nets.errors import UserError
from nets.run.options import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    Parser,
    PositiveFloat,
    PositiveInt,
    add_flag,
)
from nets.spectral import settle
from nets.tensor_files import read_plain, require

RENAMED = {  # option of the published program, or of earlier versions of guise -> option here
    "data_root": "data",
    "random_seed": "seed",
    "num_workers_per_process": "workers",
}
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
        refuse(stored, f"{folder / 'args.txt'}: ", NETWORK_SWITCHES)
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
    unknown = [f"{name} {value}" for name, value in stored.items() if not classified(name)]
    if unknown:
        kind += f"; options unknown here and not followed: {', '.join(unknown)}"
    return {"step": 0, "options": settings, "parts": {"model": model}, "kind": kind}


def take(net: nn.Module, path: str | Path, name: str) -> None:
    """Load EPOCH_NETWORK.pth into a network of a run, for any way of storing spectral norms.

    name  of the network
    Raises UserError with the first three differences if the file does not fit; then the network is
    not changed.
    """
    state = _state(Path(path), name)
    folded, here = not _is_spectral(state), net.state_dict()
    for key in here:  # the weights of a folded file have a norm of about 1; `settle` computes u, v
        stem = key.removesuffix("_orig")
        if key.endswith("weight_orig") and key not in state and stem in state:
            state[key] = state.pop(stem)
            state[f"{stem}_u"], state[f"{stem}_v"] = here[f"{stem}_u"], here[f"{stem}_v"]
    net.load_state_dict(fitted(state, net, Path(path), name))
    if folded:
        settle(net, 50)


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
    """The state dict of a file. Raises UserError if it is not that of the network `name`."""
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


def read_args(path: Path) -> dict[str, Any]:
    """The options of an args.txt.

    Options of the networks have their own types, others the type that their text looks like.
    Raises UserError that names file and line.
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
    return values


def _value(name: str, text: str, where: str) -> Any:
    """The value of an option from its text in args.txt; `where` is for messages."""
    known = {**DEFAULTS, **READING, **SWITCHES}.get(name)
    if isinstance(known, list) or name.startswith(LISTS):
        return [] if text == "none" else words(text.strip("[]").replace("'", ""))
    if isinstance(known, bool):
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise UserError(f"{where}: {name} must be True or False, is {text!r}")
    if isinstance(known, int | float):
        try:
            return type(known)(text)
        except ValueError as error:
            rule = "a whole number" if isinstance(known, int) else "a number"
            raise UserError(f"{where}: {name} must be {rule}, is {text!r}") from error
    if isinstance(known, str):
        return text
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


# Switches of the published programs that are accepted at these values only.
NETWORK_SWITCHES: dict[str, Any] = {
    "use_unet": False, "replace_AdaSpade_with_conv": False,
    "replace_Gtex_output_with_trainable_tensor": False, "replace_Gtex_output_with_source": False,
    "replace_source_specific_with_trainable_tensors": False, "texture_output_dim": 3,
    "folder_postfix": "2d_crop",
}  # fmt: skip
METRIC_SWITCHES = {"lps_calc_grad": False, "ssm_use_masks": False, "ssm_calc_grad": False}
SWITCHES = {**NETWORK_SWITCHES, **METRIC_SWITCHES}
WHY = {  # what the switches would do, for messages
    "texture_output_dim": "textures have 3 channels, for RGB",
    "folder_postfix": "stick figures have 68 points, which 2d and 3d name",
    "lps_calc_grad": "LPIPS is a metric here, without gradients",
    "ssm_calc_grad": "SSIM is a metric here, without gradients",
    "ssm_use_masks": "SSIM is of the whole image",
}
# Options that change no number of a trained network: of training, of files, of the machine.
_NAMES = """
accumulate adam_beta1 adam_beta2 adv_loss_weight adv_pred_type amp_loss_scale amp_opt_level
augment_with_general augment_with_general_ratio batch_size calc_stats channels_last checkpoint_freq
ckpt_freq compile csm_model dataloader_name dataset_name debug device ema experiment_dir
experiment_name export_published fem_loss_type fem_loss_weight ffe_loss_weight general_data_root
images_log_rate init_experiment_dir init_networks init_which_epoch keep_every keep_last
kpc_loss_weight local_rank log_freq losses_test losses_train lps_model lps_net lr lr_decay_begin lrs
max_megapixels metrics metrics_freq metrics_log_rate metrics_root name nan nme_num_threads
no_disk_write_ops num_epochs num_gpus num_metrics_images num_steps num_visuals on_bad_sample optims
per_full_net_names per_layer_weights per_loss_apply_to per_loss_names per_loss_type per_loss_weights
per_net_layers per_pooling perceptual pix_loss_apply_to pix_loss_names pix_loss_type
pix_loss_weights precision pretrained_weights_dir project_dir pse_input_tensor psnr_loss_apply_to
rank redirect_print_to_file resume run_dir runner_name sample_general_dataset save_dataset_filenames
save_initial_test_before_training seg_loss_apply_to seg_loss_names seg_loss_type seg_loss_weights
skip_metrics skip_test start_log_freq stats_calc_iters test_freq tex_pred_segmentation time_limit
torch_home train_size unet_input_channels unet_inputs unet_output_channels use_apex use_closure
use_half vgg_download visual_freq wgv_mode wgv_momentum which_epoch workers world_size
wpr_loss_apply_to wpr_loss_decay_schedule wpr_loss_type wpr_loss_weight wpr_loss_weight_decay
"""
NO_NUMBER = frozenset(_NAMES.split())


def classified(name: str) -> bool:
    """True if an option of an args.txt is followed, refused, or changes no number."""
    name = RENAMED.get(name, name)
    return any(name in group for group in (DEFAULTS, READING, SWITCHES, NO_NUMBER))


def refuse(
    values: Mapping[str, Any], where: str = "", switches: Mapping[str, Any] = SWITCHES
) -> None:
    """Raise UserError on a switch with a value that is not implemented; `where` starts the text."""
    for name, off in switches.items():
        value = values.get(name)
        if value is None or value == off:
            continue
        if name == "folder_postfix" and ("2d" in str(value) or "3d" in str(value)):
            continue
        shown, only = (str(v).lower() if isinstance(v, bool) else v for v in (value, off))
        why = f": {WHY[name]}" if name in WHY else ""
        raise UserError(f"{where}{name} {shown}: not implemented{why}; it must be {only}")


WITHOUT_EFFECT = {  # flags that the published scripts do not use, or set themselves
    "dataset_name": str, "tex_pred_segmentation": str, "pse_input_tensor": str, "local_rank": int,
    "rank": int, "world_size": int, "train_size": int, "unet_input_channels": int,
    "unet_output_channels": int, "unet_inputs": str,
}  # fmt: skip
SIZES = (
    "emb_num_channels", "emb_max_channels", "emb_output_tensor_size",
    "pse_num_channels", "pse_num_blocks", "pse_in_channels", "pse_num_harmonics",
    "tex_num_channels", "tex_max_channels", "tex_input_tensor_size",
    "inf_num_channels", "inf_max_channels", "inf_input_tensor_size",
    "dis_num_channels", "dis_max_channels", "dis_num_blocks", "dis_output_tensor_size",
    "enh_num_channels", "enh_max_channels", "enh_bottleneck_tensor_size",
    "enh_num_blocks", "enh_unrolling_depth",
)  # fmt: skip
Numbers = str | float | list[float]


# fmt: off
def add_options(p: Parser) -> None:
    """Add the options of the published training script, which --help_published lists."""
    g = p.hidden
    add = g.add_argument
    add("--experiment_dir", type=str | None, default=None,
        help="parent of runs/; the run folder is EXPERIMENT_DIR/runs/EXPERIMENT_NAME")
    add("--experiment_name", type=str | None, default=None,
        help="name of the run folder; default with experiment_dir: test")
    add("--project_dir", type=str | None, default=None,
        help="default of experiment_dir and pretrained_weights_dir")
    add("--pretrained_weights_dir", type=str | None, default=None,
        help="folder that holds pretrained_weights/, the weights of losses and metrics")
    add("--torch_home", type=str, default="", help="folder of torch's cache")
    add_flag(g, "--no_disk_write_ops", False, "write to a temporary folder and delete it")
    add_flag(g, "--redirect_print_to_file", False, "print to logs/stdout_RANK.txt")
    add("--images_log_rate", type=PositiveInt, default=100,
        help="steps between images in metrics/")
    add("--metrics_log_rate", type=PositiveInt, default=2, help="steps between numbers in metrics/")
    add("--visual_freq", type=int, default=-1,
        help="steps between log lines and grids of training; -1: an epoch")
    add("--num_visuals", type=PositiveInt, default=32, help="rows of a grid")
    add("--dataloader_name", type=Literal["voxceleb2"], default="voxceleb2",
        help="layout of the data")
    add_flag(g, "--save_dataset_filenames", False,
        "write the used frames to train_filenames.txt and test_filenames.txt")
    add_flag(g, "--dataset_load_from_txt", False, "read the frames from such lists")
    add("--train_load_from_filename", type=str, default="train_filenames.txt",
        help="list of training frames")
    add("--test_load_from_filename", type=str, default="test_filenames.txt",
        help="list of test frames")
    add("--num_target_frames", type=PositiveInt, default=1, help="target frames of a sample")
    add("--num_keypoints", type=PositiveInt, default=68, help="points of a face")
    add_flag(g, "--augment_with_general", False, "mix the data with those of general_data_root")
    add("--general_data_root", type=str | None, default=None,
        help="folder of many persons, with the layout of --data")
    add_flag(g, "--sample_general_dataset", False,
        "an epoch draws as many general videos as there are others; false: all of them")
    add_flag(g, "--mask_source_and_target", False, "cut out all images by the masks of the data")
    add_flag(g, "--use_source_background", False,
        "put the source's background behind prediction and target, by the predicted mask")
    add("--metrics_root", type=str | None, default=None,
        help="folder of phase metrics: fixed pairs, the first frames of each video; default: "
        "--data, if it has this phase")
    add("--metrics_freq", type=PositiveInt, default=5, help="epochs between passes over them")
    add("--num_metrics_images", type=NonNegativeInt, default=0, help="count of pairs; 0: all")
    add_flag(g, "--skip_metrics", False, "no such passes")
    add_flag(g, "--output_segmentation", True, "read masks")
    add_flag(g, "--output_stickmen", True, "draw stick figures of the points")
    add("--stickmen_thickness", type=PositiveInt, default=2,
        help="width of a stick figure's lines, pixels")
    add("--demo_train", type=NonNegativeInt, default=0,
        help="people of the demo world to train on; 0: 2000")
    add("--demo_test", type=NonNegativeInt, default=0,
        help="people of the demo world to test on; 0: 64")
    add_flag(g, "--unfreeze_texture_generator_last_layers", True,
        "train the projector and the last layers of a frozen texture generator")
    add_flag(g, "--unfreeze_inference_generator_last_layers", False,
        "train the projector and the last layers of a frozen inference generator")
    add_flag(g, "--save_initial_test_before_training", True, "test before the first epoch")
    add("--stats_calc_iters", type=PositiveInt, default=100,
        help="batches for the standing statistics of BatchNorm")
    add("--optims", type=str | dict[str, str], default=", ".join(f"{n}: adam" for n in NETWORKS),
        help=f"optimiser of each network: {', '.join(OPTIMIZERS)}")
    add("--lrs", type=str | dict[str, float], default=", ".join(f"{n}: 2e-4" for n in NETWORKS),
        help="learning rate of each network")
    add("--adam_beta1", type=Fraction, default=0.5, help="beta1 of Adam")
    add("--adam_beta2", type=Fraction, default=0.999, help="beta2 of Adam")
    add("--lr_decay_begin", type=NonNegativeInt | None, default=None,
        help="first step of a linear decay of all learning rates to 0; default: never")
    add("--eps", type=PositiveFloat, default=1e-7, help="eps of norms, spectral norms and Adam")
    add("--bn_momentum", type=PositiveFloat, default=1.0, help="momentum of BatchNorm")
    add("--wgv_mode", type=Literal["none", "running_average", "average"], default="none",
        help="averaged weights for tests and inference")
    add("--wgv_momentum", type=Fraction, default=0.999, help="decay of running_average")
    add_flag(g, "--debug", False, "one batch an epoch, anomaly detection")
    add("--num_gpus", type=NonNegativeInt, default=1,
        help="0: CPU; more than one: as many ranks must be started with torchrun")
    for name, text in (("use_half", "--precision fp16"), ("use_apex", "mixed precision"),
                       ("use_closure", "optimisers evaluate the loss themselves")):
        add_flag(g, f"--{name}", False, text)
    add("--amp_opt_level", type=Literal["O0", "O1", "O2", "O3"], default="O0",
        help="level of use_apex: O0 is fp32, the others are --precision fp16")
    add("--amp_loss_scale", type=str, default="dynamic", help="loss scale of fp16: always dynamic")
    add("--runner_name", type=Literal["default"], default="default", help="training pass")
    add("--networks_train", type=Names, default=ALL, help="networks that run in training")
    add("--networks_test", type=Names, default=BASE,
        help="networks that run in tests and inference")
    add("--networks_calc_stats", type=Names, default=BASE, help="networks that run with calc_stats")
    add("--spn_networks", type=Names, default=", ".join(NETWORKS),
        help="networks with spectral norm")
    add("--spn_exceptions", type=Names, default="",
        help="modules without spectral norm, network.module.name")
    add("--spn_layers", type=Names, default="conv2d, linear",
        help="kinds of layers with spectral norm")
    _networks(p)
    _losses(p)
    for name, kind in WITHOUT_EFFECT.items():
        add(f"--{name}", type=kind | None, default=None, help="no effect")


def _networks(p: Parser) -> None:
    """Add the options of the networks."""
    g = p.hidden

    def add(name: str, kind: Any, text: str) -> None:
        g.add_argument(f"--{name}", type=kind, default=DEFAULTS[name], help=text)

    def switch(name: str, text: str) -> None:
        add_flag(g, f"--{name}", DEFAULTS[name], text)

    for name in SIZES:
        add(name, PositiveInt, name.partition("_")[2].replace("_", " ").replace("num", "number of"))
    for part in ("emb", "pse", "tex", "inf", "dis", "enh"):
        add(f"{part}_norm_layer_type", str, "kind of norm")
        add(f"{part}_activation_type", Literal["leakyrelu", "relu"], "activation")
    for part in ("emb", "dis", "enh"):
        add(f"{part}_downsampling_type", Literal["avgpool", "maxpool", "pixelunshuffle"],
            "downsampling to half the size")
    for part in ("tex", "inf", "enh"):
        add(f"{part}_upsampling_type", Literal["nearest", "bilinear", "pixelshuffle"],
            "upsampling to twice the size")
    for part in ("tex", "inf"):
        add(f"{part}_skip_layer_type", Literal["ada_conv", "conv"], "skip convolution")
    add("tex_pixelwise_bias_type",
        Literal["none", "fixed", "adaptive", "adaptive_original", "stochastic"],
        "bias per pixel; adaptive_original: predicted and not used, as published")
    switch("emb_no_stickman", "no stick figures as input of the identity embedder")
    switch("emb_apply_masks", "cut out the images of the identity embedder by their masks")
    switch("pse_emb_source_pose", "embed the source's pose as well")
    switch("pse_use_harmonic_enc", "harmonic encoding of the points")
    switch("inf_pred_segmentation", "predict masks")
    switch("inf_pred_source_data", "render the source as well")
    switch("inf_calc_grad", "gradients through an inference generator that is not trained")
    switch("inf_apply_masks", "cut images out by the predicted mask")
    switch("dis_no_stickman", "no stick figures as input of the discriminator")
    add("dis_fake_imgs_name", str, "images that the discriminator takes as fake")
    add("enh_guiding_rgb_loss_type", Literal["sse", "l1"],
        "loss whose gradient guides the enhancer")
    switch("enh_detach_inputs", "no gradient from the enhancer to other networks")
    switch("enh_apply_masks", "cut the enhanced image out by the predicted mask")
    switch("published_masking", "mask several times, as the published enhancer and test do")


def _losses(p: Parser) -> None:
    """Add the options of losses and metrics."""
    g = p.hidden

    def add(name: str, kind: Any, text: str) -> None:
        g.add_argument(f"--{name}", type=kind, default=LOSS[name], help=text)

    one, many = "prediction, target", "pairs `prediction, target`, with ; between pairs"
    add("adv_pred_type", Literal["gan", "rgan", "ragan"], "hinge loss, relativistic or not")
    add("adv_loss_weight", NonNegativeFloat, "weight of adversarial")
    add("fem_loss_type", Literal["l1", "mse"], "distance")
    add("fem_loss_weight", NonNegativeFloat, "weight of feature_matching")
    add("per_full_net_names", Names, "feature networks")
    add("per_net_layers", str, "layers of the feature networks, with ; between networks")
    add("per_pooling", Literal["avgpool", "maxpool"], "pooling of the feature networks")
    add("per_loss_apply_to", str, many)
    add("per_loss_type", Literal["l1", "mse"], "distance")
    add("per_loss_weights", Numbers, "weight of each feature network")
    add("per_layer_weights", Numbers, "weight of each layer")
    add("per_loss_names", str, "names in the log")
    add("pix_loss_type", Literal["l1", "mse", "ce"], "distance")
    add("pix_loss_weights", Numbers, "weight of each pair")
    add("pix_loss_apply_to", str, many)
    add("pix_loss_names", Names, "names in the log")
    add("seg_loss_type", Literal["bce", "dice"], "distance")
    add("seg_loss_weights", Numbers, "weight of segmentation")
    add("seg_loss_apply_to", str, one)
    add("seg_loss_names", Names, "name in the log")
    add("wpr_loss_type", Literal["l1", "mse"], "distance from 0")
    add("wpr_loss_weight", NonNegativeFloat, "first weight of warping_regularizer")
    add("wpr_loss_weight_decay", PositiveFloat, "factor of the weight at a decay")
    add("wpr_loss_decay_schedule", int, "steps between decays; -1: none")
    add("wpr_loss_apply_to", str, "offsets")
    add("kpc_loss_weight", NonNegativeFloat, "weight of keypoint_correspondence")
    add("ffe_loss_weight", NonNegativeFloat, "weight of face_features")
    for name, kind, value, text in (
        ("psnr_loss_apply_to", str, "pred_target_imgs, target_imgs", one),
        ("csm_model", Literal["insight_face"], "insight_face", "network of csim"),
        ("lps_model", Literal["net-lin"], "net-lin", "version of lpips"),
        ("lps_net", Literal["vgg"], "vgg", "network of lpips"),
        ("nme_num_threads", PositiveInt, 1, "no effect: one detector is enough"),
    ):
        g.add_argument(f"--{name}", type=kind, default=value, help=text)
    for name, off in SWITCHES.items():
        if isinstance(off, bool):
            add_flag(g, f"--{name}", off, "refused if true")
        else:
            g.add_argument(f"--{name}", type=type(off), default=off, help=f"must be {off}")
# fmt: on
