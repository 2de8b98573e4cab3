"""Weights, configurations and options of the two published VUNet programs.

The PyTorch program has the image form. Its checkpoints are {"model", "optimizer"}. The TensorFlow
program has the parts form. Its variables, name -> array, are read from an .npz or a file of
torch.save.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

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
from nets.tensor_files import read_plain, require, size_of
from nets.vunet import VUNet, build
from nets.vunet.layers import NormConv2d

# Options of the networks and their inputs that the two programs do not store with the weights.
COMMON = {
    "fit": "squash", "missing_part": 0.0, "drop_prob": 0.0, "box_factor": 0, "seed": 0,
    "bottleneck_factor": 2, "data": None,
}  # fmt: skip
PORT = {
    "variant": "image", "appearance": "image", "stickman": "image", "pairing": "identity",
    "wiring": "port", "out_channels": 3,
}  # fmt: skip
TENSORFLOW = {
    "variant": "parts", "stickman": "parts", "pairing": "same", "wiring": "chain",
    "conv": "weight", "tanh": False,
}  # fmt: skip
# Variables of the TensorFlow program that are not weights, and layers that get no gradient.
LEFT_OUT_VARIABLES = re.compile(
    r"global_step|beta[12]_power|.*/Adam(_1)?|enc_down/(dense_[45]|conv2d_[678])/[Vgb]"
)
AVERAGES = ("exp_avg", "exp_avg_sq")
Names = Iterator[tuple[str, str]]  # a convolution's prefix in this project and in the program's
Convert = Callable[[Tensor], Tensor]  # a tensor of the program to its layout in this project
# A convolution and the name of its parameter -> the parameter's shape in the program, conversion.
Layout = Callable[[NormConv2d, str], tuple[list[int], Convert]]


def load(path: str | Path, **options: Any) -> tuple[VUNet, dict[str, Any]]:
    """The network in eval mode and the options of `train_vunet.py` that describe it.

    options  override the options inferred from the weights. `image_size` is needed for TensorFlow
             weights of another size than the published ones: weights do not determine it
    Raises UserError, with the first three differences, if the file is not of a VUNet.
    """
    content = read(path, **options)
    net = build(content["options"])
    net.load_state_dict(content["parts"]["model"])
    return net.eval(), content["options"]


def read(path: str | Path, **options: Any) -> dict[str, Any]:
    """The content of a checkpoint: "step", "options", "parts", and "kind", a line for people.

    "parts" holds the model and, from the PyTorch program, the moments of Adam. Raises UserError;
    see `load`.
    """
    path, content = Path(path), read_plain(path)
    state = content.get("model", content) if isinstance(content, Mapping) else {}
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: not weights of a VUNet: must map names to tensors")
    state = {str(name).removeprefix("module."): value for name, value in state.items()}
    if any(name.startswith(("f_phi.", "e_theta.")) for name in state):
        return _port(path, state, content.get("optimizer"), options)
    if any(name.startswith(("enc_up/", "dec_down/")) for name in state):
        return _tensorflow(path, state, options)
    first = ", ".join(list(state)[:3]) or "nothing"
    raise UserError(f"{path}: not weights of a VUNet: it holds {first}")


def _port(
    path: Path, state: Mapping[str, Tensor], moments: Any, options: dict[str, Any]
) -> dict[str, Any]:
    """The content of a checkpoint, from one of the PyTorch program; see `read`.

    moments  the state of the program's Adam, or None
    """
    new = {"parametrizations.weight.original0": "weight_g",
           "parametrizations.weight.original1": "weight_v"}  # fmt: skip
    for old, name in new.items():
        state = {key.replace(old, name): value for key, value in state.items()}
    affine = "f_phi.in_op.gamma" in state
    kernel = "conv.weight_v" if affine else "weight"
    scales = _highest(r"e_theta\.blocks\.s(\d+)_1\..*", state)
    settings = {
        **COMMON,
        **PORT,
        "image_size": 2 ** (scales - 1),
        "conv": "weight_affine" if affine else "none",  # `final_act` chose both this and tanh
        "tanh": not affine,
        "nf_start": size_of(state, f"e_theta.in_op.{kernel}", 0),
        "nf_max": size_of(state, f"e_theta.blocks.s{scales}_1.conv2d.{kernel}", 0),
        "img_channels": size_of(state, f"f_phi.in_op.{kernel}", 1),
        "pose_channels": size_of(state, f"e_theta.in_op.{kernel}", 1),
    }
    leaves = {"weight": "weight", "bias": "bias"}
    if affine:
        leaves = {"weight": "conv.weight_v", "bias": "conv.bias", "gain": "conv.weight_g",
                  "gamma": "gamma", "beta": "beta"}  # fmt: skip

    def layout(conv: NormConv2d, leaf: str) -> tuple[list[int], Convert]:
        own = getattr(conv, leaf).shape
        wide = {"gain": (-1, 1, 1, 1), "gamma": (1, -1, 1, 1), "beta": (1, -1, 1, 1)}.get(leaf)
        shape = [own[0] if n == -1 else n for n in wide] if wide else list(own)
        return shape, lambda tensor: tensor.reshape(own)

    number = re.search(r"model-(\d+)", path.name)
    content, origins = _content(
        path, state, settings, options, _port_names(scales), leaves, layout,
        f"published PyTorch program, {'normalised' if affine else 'plain'} convolutions",
    )  # fmt: skip
    content["step"] = int(number[1]) if number else 0
    if isinstance(moments, Mapping) and moments.get("state"):
        content["parts"]["optimizer"] = _adam(
            content["parts"]["model"], origins, moments, state, path
        )
    return content


def _tensorflow(path: Path, state: Mapping[str, Tensor], options: dict[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint, from variables of the TensorFlow program; see `read`."""
    state = {name.removesuffix(":0"): value for name, value in state.items()}
    step = state.get("global_step")
    state = {name: value for name, value in state.items() if not LEFT_OUT_VARIABLES.fullmatch(name)}
    scales = [_highest(rf"{net}/conv2d_(\d+)/V", state) // 3 + 1 for net in ("dec_up", "enc_up")]
    channels = size_of(state, "enc_up/dense_0/V", 0)
    crops, box = channels % 24 == 0, scales[0] - scales[1]
    # Weights do not determine the sizes. The published networks have either box factor 1, images
    # of 128 px and a coarsest map of 2x2, or box factor 2, 256 px and 4x4.
    ratio = 2 ** (scales[0] - 1)
    size = options.get("image_size") or ratio * (2 if box == 1 else 4)
    settings = {
        **COMMON,
        **TENSORFLOW,
        "appearance": "crops" if crops else "image",
        "image_size": size,
        "bottleneck_factor": max(size // ratio, 1).bit_length() - 1,
        "box_factor": box,
        "nf_start": size_of(state, "dec_up/dense_0/V", 1),
        "nf_max": size_of(state, "dec_down/dense_0/V", 1),
        "img_channels": channels // 8 if crops else channels,
        "pose_channels": size_of(state, "dec_up/dense_0/V", 0),
        "out_channels": size_of(state, "dec_params/conv2d_0/V", 3),
    }

    def layout(conv: NormConv2d, leaf: str) -> tuple[list[int], Convert]:
        outputs, inputs, side, _ = conv.weight.shape
        if leaf != "weight":
            return [outputs], lambda tensor: tensor
        if side == 1:
            return [inputs, outputs], lambda tensor: tensor.t()[:, :, None, None]
        return [side, side, inputs, outputs], lambda tensor: tensor.permute(3, 2, 0, 1)

    content, _ = _content(
        path, state, settings, options, _tensorflow_names(*scales),
        {"weight": "V", "gain": "g", "bias": "b"}, layout, "published TensorFlow program",
    )  # fmt: skip
    content["step"] = 0 if step is None else int(step)
    return content


def _content(
    path: Path,
    state: Mapping[str, Tensor],
    settings: dict[str, Any],
    options: dict[str, Any],
    names: Names,
    leaves: dict[str, str],
    layout: Layout,
    program: str,
) -> tuple[dict[str, Any], dict[str, tuple[str, Convert]]]:
    """The content of a checkpoint, and the origin of each parameter.

    state     name -> tensor, as the program stored them
    settings  options inferred from the weights; `options` override them
    names     of all convolutions
    leaves    name of a convolution's parameter in this project -> in the program
    layout    shape of a parameter in the program, and its conversion
    program   its name, for messages
    returns   content without "step"; parameter -> (name in the program, conversion)
    Raises UserError if a tensor does not fit the network that the options describe.
    """
    unknown = sorted(options.keys() - settings.keys())
    if unknown:
        raise ValueError(f"load: {unknown[0]} must be one of {', '.join(sorted(settings))}")
    settings = {**settings, **options}
    try:
        with torch.device("meta"):
            net = build(settings)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    expected: dict[str, list[int]] = {}
    origins: dict[str, tuple[str, Convert]] = {}
    for here, prefix in names:
        conv = net.get_submodule(here)
        assert isinstance(conv, NormConv2d)  # the names are those of convolutions
        for leaf, name in leaves.items():
            name = f"{prefix}{'/' if '/' in prefix else '.'}{name}"
            expected[name], convert = layout(conv, leaf)
            origins[f"{here}.{leaf}"] = (name, convert)
    require(state, expected, path, f"the weights of a VUNet of {settings['image_size']} px")
    model = {k: convert(state[name]).float().contiguous() for k, (name, convert) in origins.items()}
    model = {name: model[name] for name in net.state_dict()}
    size = f"{settings['image_size']} px"
    return {
        "options": settings,
        "parts": {"model": model},
        "kind": f"of the {program}, {size}",
    }, origins


def _adam(
    model: dict[str, Tensor],
    origins: dict[str, tuple[str, Convert]],
    moments: Mapping[str, Any],
    state: Mapping[str, Tensor],
    path: Path,
) -> dict[str, Any]:
    """The state of an Adam over the parameters of `model`, in their order.

    moments  the state of the PyTorch program's Adam, over the tensors of `state` in their order
    """
    fresh = torch.optim.Adam([nn.Parameter(t) for t in model.values()], fused=True).state_dict()
    places = {name: place for place, name in enumerate(state)}
    for place, name in enumerate(model):
        origin, convert = origins[name]
        entry = moments["state"].get(places[origin])
        if entry is None:  # a parameter that never had a gradient
            continue
        require(entry, {"step": None} | dict.fromkeys(AVERAGES, state[origin]), path,
                f"the moments of {origin}")  # fmt: skip
        averages = {key: convert(entry[key]).float().clone() for key in AVERAGES}
        fresh["state"][place] = {"step": torch.tensor(float(entry["step"])), **averages}
    return fresh


def _port_names(n: int) -> Names:
    """Names of all convolutions of the image form with n scales."""
    for here, net in (("appearance", "f_phi"), ("pose", "e_theta")):
        yield f"{here}.enter", f"{net}.in_op"
        for k in range(1, n + 1):
            for i in (1, 2):
                yield f"{here}.blocks.{k - 1}.{i - 1}.conv", f"{net}.blocks.s{k}_{i}.conv2d"
            if k > 1:
                yield f"{here}.downs.{k - 2}", f"{net}.downs.s{k}.down"
    for i, here in enumerate(("block", "merge", "block_fine")):
        yield from _pair(f"posterior.{here}", f"zc.blocks.{i}")
    yield "posterior.enter", "zc.conv1x1"
    yield "posterior.up.conv", "zc.up.up"
    yield "posterior.merge_z", "zc.channel_norm"
    yield "decoder.enter", "bottleneck.conv1x1"
    for scale in range(n):
        k = n - scale
        place = "bottleneck" if scale < 2 else "decoder"
        for i in (2, 1):
            yield from _pair(f"decoder.blocks.{scale}.{2 - i}", f"{place}.blocks.s{k}_{i}")
        if scale < 2:
            yield f"decoder.merges.{scale}", f"bottleneck.channel_norm.s{k}"
        if k > 1:
            up = "bottleneck.up.up" if scale == 0 else f"decoder.ups.s{k}.up"
            yield f"decoder.ups.{scale}.conv", up
    yield "decoder.priors.1.blocks.0.conv", "bottleneck.auto_blocks.0.conv2d"
    for i in (1, 2, 3):
        yield from _pair(f"decoder.priors.1.blocks.{i}", f"bottleneck.auto_blocks.{i}")
    yield "decoder.priors.1.reduce", "bottleneck.param_converter"
    yield "decoder.leave", "decoder.final_layer"


def _pair(here: str, prefix: str) -> Names:
    """Names of both convolutions of a residual block with a skip."""
    yield f"{here}.conv", f"{prefix}.conv2d"
    yield f"{here}.pre", f"{prefix}.pre"


def _tensorflow_names(n: int, seen: int) -> Names:
    """Names of all convolutions of the parts form, n scales for the pose, `seen` for the crops.

    TensorFlow numbers layers in the order they run; 1x1 (dense) and 3x3 (conv2d) are counted apart.
    """
    for here, net, count in (("appearance", "enc_up", seen), ("pose", "dec_up", n)):
        yield f"{here}.enter", f"{net}/dense_0"
        for scale in range(count):
            for i in range(2):
                yield f"{here}.blocks.{scale}.{i}.conv", f"{net}/conv2d_{3 * scale + i}"
            if scale + 1 < count:
                yield f"{here}.downs.{scale}", f"{net}/conv2d_{3 * scale + 2}"
    yield from _in_turn("posterior", "enc_down", ["enter", "block", "mean", "merge", "up.conv",
                                                  "block_fine", "mean_fine"])  # fmt: skip
    layers = ["enter"]
    for scale in range(n):
        layers.append(f"blocks.{scale}.0")
        if scale < 2:
            prior = f"priors.{scale}"
            layers += [f"{prior}.block.conv", f"{prior}.means.0"]
            for i in range(3):
                layers += [f"{prior}.feedback.{i}", f"{prior}.means.{i + 1}"]
            layers.append(f"merges.{scale}")
        layers += [f"blocks.{scale}.1"] + [f"ups.{scale}.conv"] * (scale + 1 < n)
    yield from _in_turn("decoder", "dec_down", layers)
    yield "decoder.leave", "dec_params/conv2d_0"


def _in_turn(here: str, net: str, layers: list[str]) -> Names:
    """Names of layers in the order they run; a block with a skip is a dense layer and a 3x3 one."""
    dense = conv = 0
    for layer in layers:
        block = re.fullmatch(r"block(_fine)?|merge|blocks\.\d+\.\d|.*feedback\.\d", layer)
        if block or layer == "enter" or layer.startswith("merges."):
            yield f"{here}.{layer}{'.pre' if block else ''}", f"{net}/dense_{dense}"
            dense += 1
            if not block:
                continue
        yield f"{here}.{layer}{'.conv' if block else ''}", f"{net}/conv2d_{conv}"
        conv += 1


def _highest(pattern: str, state: Mapping[str, Tensor]) -> int:
    """The highest number in the names that match a pattern; 1 if no name matches."""
    matches = (re.fullmatch(pattern, name) for name in state)
    return max((int(match[1]) for match in matches if match), default=1)


RENAMED = {  # names in published files and in earlier versions of guise -> today's names
    "n_data_processes": "workers",
    "experiment_name": "name",
    "dropout_prob": "drop_prob",
    "spatial_size": "image_size",
    "data_index": "data",
    "data_root": "data",
    "log_dir": "run_dir",
}
GROUPS = ("model_pars",)  # keys that hold options of the network
LEFT_OUT = (
    "iterator",
    "model",
    "code_root",
    "integrations",
    "datasets",
    "debug_timing",
    "ckpt_zero",
    "max_batches_per_epoch",
    "n_prefetch",
    "test_batch_size",
    "eval_all",
    "eval_forever",
)
SETTINGS = ("weight", "start_ramp_it", "start_ramp_val", "end_ramp_it", "end_ramp_val")
TERMS = ("color_L1", "color_L2", "color_gradient", "KL", "perceptual")


EDFLOW = {  # options of the PyTorch program's framework -> options of train_vunet.py
    "-n": "--name",
    "-b": "--config",
    "--base": "--config",
    "-c": "--checkpoint",
    "-r": "--retrain",
}
EDFLOW_TRAIN = ("-t", "--train")
EDFLOW_PROJECT = ("-p", "--project")
EDFLOW_REFUSED = {"-l": "the log level is fixed", "-d": "python -m pdb train_vunet.py debugs"}
EDFLOW_HELP = {  # for --help_published
    "-n NAME": "--name NAME",
    "-b, --base FILE ...": "--config FILE ...",
    "-t, --train": "training, the default; without it edflow evaluates, as evaluate.py does",
    "-p, --project RUN": "goes on with a run folder of guise",
    "-c FILE": "--checkpoint FILE",
    "-r": "--retrain",
    "-l, -d": "refused",
}


def edflow(argv: Sequence[str]) -> list[str]:
    """The command line with edflow's options under today's names.

    `edflow -n NAME -b FILE ... -t`: -n is --name, -b --config, -c --checkpoint, -r --retrain. -t
    (or -t true) asks for training; without it edflow evaluates, which evaluate.py does. -p RUN goes
    on with a run of guise: its folder, and its options unless -b gives others. Raises UserError.
    """
    result: list[str] = []
    project: str | None = None
    short = train = False
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        name, equals, value = token.partition("=")
        if name in EDFLOW_REFUSED:
            raise UserError(f"{name}: not an option of train_vunet.py; {EDFLOW_REFUSED[name]}")
        short |= name in (*EDFLOW, *EDFLOW_PROJECT, *EDFLOW_TRAIN)
        if name in EDFLOW_PROJECT:
            if not equals and not tokens:
                raise UserError(f"{name}: must be followed by the folder of a run")
            project = value if equals else tokens.pop(0)
        elif name in EDFLOW_TRAIN:
            if not equals and tokens and tokens[0].lower() in ("true", "false"):
                value = tokens.pop(0)
            if value.lower() not in ("", "true", "false"):
                raise UserError(f"{name}: must be true or false, got {value}")
            train = value.lower() != "false"
        else:
            result.append(f"{EDFLOW.get(name, name)}{equals}{value}")
    if short and not train:
        raise UserError(
            "without -t edflow evaluates a run, which `evaluate.py --checkpoint RUN` does here; "
            "add -t to train"
        )
    return result if project is None else _project(project, result)


def _project(project: str, argv: list[str]) -> list[str]:
    """A command line that goes on with the run that edflow's -p names."""
    run = Path(project)
    if not (run / "config.yaml").is_file():
        raise UserError(
            f"-p {project}: not a run folder of guise; a run of edflow is gone on with by "
            "--checkpoint RUN/train/checkpoints/model-STEP.ckpt --wiring port"
        )
    own = [] if "--config" in argv else ["--config", str(run / "config.yaml")]
    return [*argv, *own, "--run_dir", str(run.parent), "--name", run.name]


def translate(keys: dict[str, Any], source: str) -> dict[str, Any]:
    """The keys of a configuration file, under the names of `train_vunet.py`.

    source  name of the file, for messages
    `model_pars` or `iterator` mean the image form. `final_act` chose both the activation of the
    output and the type of the convolutions: it sets `tanh` and `conv`. Raises UserError.
    """
    result: dict[str, Any] = {}
    if ("model_pars" in keys or "iterator" in keys) and "variant" not in keys:
        # The defaults of the PyTorch program.
        result |= {"variant": "image", "log_freq": 1000, "start_log_freq": 1}
    left_out = [key for key in keys if key in LEFT_OUT]
    if left_out:
        print(f"{source}: {', '.join(left_out)}: options of another framework, left out")
    for key, value in keys.items():
        if key == "model_pars":
            result |= _model(value, source)
        elif key == "losses":
            result[key] = _losses(value, source, replace=source != "command line")
        elif key == "ckpt_freq" and value is None:
            continue  # null meant once an epoch; the default applies
        elif key not in LEFT_OUT:
            result[key] = value
    return result


def _model(keys: Any, source: str) -> dict[str, Any]:
    """The options in `model_pars`."""
    if not isinstance(keys, dict):
        raise UserError(f"model_pars in {source}: must be a mapping, got {keys!r}")
    result = {key: value for key, value in keys.items() if key != "final_act"}
    if "final_act" in keys:
        bounded = {"true": True, "false": False}.get(str(keys["final_act"]).lower())
        if bounded is None:
            rule = f"must be true or false, got {keys['final_act']!r}"
            raise UserError(f"model_pars.final_act in {source}: {rule}")
        result["tanh"] = bounded
        result["conv"] = "none" if bounded else "weight_affine"
    return result


def _losses(terms: Any, source: str, replace: bool) -> dict[str, Any]:
    """Term -> settings; with `replace`, settings that are not given are None."""
    if not isinstance(terms, dict) or not all(isinstance(t, dict | None) for t in terms.values()):
        raise UserError(f"losses in {source}: must map each term to its settings, got {terms!r}")
    if not replace:
        return terms
    # The losses of a later file replace those of an earlier one: other terms have no weight.
    unset = dict.fromkeys(SETTINGS)
    return {
        name: {**unset, **(terms.get(name) or {})} for name in {**dict.fromkeys(TERMS), **terms}
    }


# fmt: off
def add_options(parser: Parser) -> None:
    """Add the options that only --help_published lists: settings of networks and losses."""
    g = parser.hidden
    add = g.add_argument
    add_flag(g, "--keep_kl", False, "the final KL weight from the first step on")
    add("--appearance", type=Literal["crops", "image", "picture"] | None, default=None,
        help="input of the appearance encoder; picture: earlier name of image; default: by variant")
    add("--stickman", type=Literal["parts", "image"] | None, default=None,
        help="style of the stick figure; default: by variant")
    add("--box_factor", type=NonNegativeInt, default=2, help="side of the crops: S / 2^box_factor")
    add("--bottleneck_factor", type=PositiveInt, default=2,
        help="side of the coarsest map, as a power of two")
    add("--img_channels", type=Literal[3, 4], default=3,
        help="channels of the image that gives the appearance; 4: with its opacity")
    add("--pose_channels", type=PositiveInt, default=3,
        help="channels of a pose; 3: a stick figure, 18: one heatmap a joint; others: only with "
        "a class of your own that gives a stickman")
    add("--out_channels", type=Literal[3], default=3, help="channels of the output")
    add("--conv", type=Literal["none", "weight", "weight_affine"] | None, default=None,
        help="image form: normalisation of the convolutions; parts form: always weight")
    add("--tanh", type=bool | None, default=None, help="image form: bounded output; default: true")
    add("--wiring", type=Literal["chain", "port"], default="chain",
        help="image form: wiring of the autoregressive prior; port: as in published checkpoints")
    add("--missing_part", type=float, default=0.0, help="value of a missing crop, in [-1, 1]")
    add("--init_batches", type=NonNegativeInt, default=4,
        help="batches for data-dependent initialisation of weight normalisation; 0: none")
    add("--init_latent_std", type=PositiveFloat, default=1.0,
        help="parts: standard deviation of the latents' means after this initialisation; their "
        "noise has 1")
    add("--kl_images", type=NonNegativeInt, default=0,
        help="images of a batch and rank whose KL is computed; few make training faster; 0: all")
    add("--kl_start", type=NonNegativeInt | None, default=None,
        help="last step with KL weight kl_min; default: lr_decay_end / 2")
    add("--kl_end", type=NonNegativeInt | None, default=None,
        help="first step with KL weight kl_max; default: 3/4 lr_decay_end")
    add("--kl_min", type=NonNegativeFloat, default=1e-6, help="first weight of the KL")
    add("--betas", type=tuple[Fraction, Fraction] | None, default=None,
        help="betas of Adam; default: 0.5, 0.9 for parts, 0.9, 0.999 for image")
    add("--gain_rate", type=PositiveFloat, default=1.0,
        help="learning rate of gains and biases, as a factor of --lr")
    for term in TERMS:
        add(f"--losses.{term}.weight", type=NonNegativeFloat | None, default=None,
            help=f"image form: weight of {term}")
        for field, kind, text in (("start_ramp_it", NonNegativeInt, "first step of a ramp"),
                                  ("start_ramp_val", NonNegativeFloat, "weight up to that step"),
                                  ("end_ramp_it", NonNegativeInt, "last step of a ramp"),
                                  ("end_ramp_val", NonNegativeFloat, "weight from that step on")):
            add(f"--losses.{term}.{field}", type=kind | None, default=None,
                help=f"image form, {term}: {text}")
    add("--losses.perceptual.vgg_feat_weights", type=list[NonNegativeFloat], default=[1.0] * 6,
        help="image form: weights of the image and of relu1_2 .. relu5_2")
# fmt: on
