"""What the published head avatars' args.txt and tensors tell of the options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nets.bilayer import DEFAULTS
from nets.bilayer.options import words
from nets.errors import UserError

LISTS = ("networks_", "frozen_networks", "init_networks", "spn_", "losses_", "metrics")
TEXT = ("_name", "_names", "_dir", "_root", "_weights", "_which_epoch", "_apply_to", "_home")


def read_args(path: Path) -> dict[str, Any]:
    """The options of an args.txt; those of the networks in their own types, others as they look."""
    values: dict[str, Any] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        name, colon, text = line.partition(":")
        if not line.strip():
            continue
        if not colon or not name.strip():
            raise UserError(f"{path}, line {number}: must be `name: value`, is {line!r}")
        values[name.strip()] = _value(name.strip(), text.strip(), f"{path}, line {number}")
    return values


def _value(name: str, text: str, where: str) -> Any:
    known = DEFAULTS.get(name)
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
            kind = "a whole number" if isinstance(known, int) else "a number"
            raise UserError(f"{where}: {name} must be {kind}, is {text!r}") from error
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
    """Sizes of one network's tensors, whichever way the norms are stored."""

    def __init__(self, state: Mapping[str, Tensor]):
        self.of = {key.replace("weight_orig", "weight"): v.shape for key, v in state.items()}

    def size(self, key: str, axis: int) -> int:
        """0 where there is no such tensor or axis."""
        shape = self.of.get(key, ())
        return shape[axis] if len(shape) > axis else 0

    def lengths(self, pattern: str) -> list[int]:
        r"""First sizes of the tensors whose keys fit, in the order of the number in them, (\d+)."""
        found = {}
        for key, shape in self.of.items():
            match = re.fullmatch(pattern, key)
            if match and shape:
                found[int(match[1])] = shape[0]
        return [found[number] for number in sorted(found)]


def sizes(
    states: Mapping[str, Mapping[str, Tensor]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The options that the tensors of an experiment's networks tell.

    states    network -> its state dict
    settings  what is otherwise assumed: sizes in pixels are not all to be seen
    """
    told: dict[str, Any] = {}
    shapes = {name: Shapes(state) for name, state in states.items()}
    if "keypoints_embedder" in shapes:
        told |= _keypoints(shapes["keypoints_embedder"], states["keypoints_embedder"])
    for short, network in (("inf", "inference_generator"), ("tex", "texture_generator")):
        if network in shapes:
            told |= _generator(short, shapes[network])
    if "texture_generator" in shapes:
        told["tex_pixelwise_bias_type"] = _pixel_bias(shapes["texture_generator"], settings)
    outputs = told.pop("outputs", 0)
    channels = told.get("inf_max_channels", settings["inf_max_channels"])
    side = round((outputs / channels) ** 0.5)
    if outputs and side**2 * channels == outputs:
        told["inf_input_tensor_size"] = side
    if "image_size" not in told and "blocks" in told:
        told["image_size"] = (
            told.get("inf_input_tensor_size", settings["inf_input_tensor_size"])
            * 2 ** told["blocks"]
        )
    told.pop("blocks", None)
    size = told.get("image_size", settings["image_size"])
    if "identity_embedder" in shapes:
        one = shapes["identity_embedder"]
        coder = one.lengths(r"net\.enc\.(\d+)\.block\.\d+\.bias")
        decoder = one.lengths(r"net\.dec_blocks\.(\d+)\.block\.\d+\.bias")
        told["emb_num_channels"] = one.size("net.enc.0.weight", 0)
        widest = max([told["emb_num_channels"], told.get("emb_max_channels", 0), *coder])
        told["emb_max_channels"] = widest
        told["emb_no_stickman"] = one.size("net.enc.0.weight", 1) == 3
        told["emb_output_tensor_size"] = size >> len(coder)
        if decoder:
            told |= {"tex_num_channels": decoder[-1], "tex_max_channels": max(decoder)}
    if "discriminator" in shapes:
        one = shapes["discriminator"]
        blocks = one.lengths(r"net\.blocks\.(\d+)\.block\.\d+\.bias")
        told["dis_num_channels"] = one.size("net.first_conv.weight", 0)
        told["dis_max_channels"] = max([told["dis_num_channels"], *blocks])
        told["dis_no_stickman"] = one.size("net.first_conv.weight", 1) == 3
        told["dis_num_blocks"] = len(blocks)
    if "texture_enhancer" in shapes:
        one = shapes["texture_enhancer"]
        blocks = one.lengths(r"net\.blocks\.(\d+)\.block\.\d+\.bias")
        halvings = len(one.lengths(r"net\.blocks\.(\d+)\.skip\.0\.bias"))
        told["enh_num_channels"] = one.size("net.blocks.0.weight", 0)
        told["enh_max_channels"] = max([told["enh_num_channels"], *blocks])
        told["enh_num_blocks"] = len(blocks) - 2 * halvings
        told["enh_bottleneck_tensor_size"] = size >> halvings
    return {name: value for name, value in told.items() if value or isinstance(value, bool)}


def _keypoints(one: Shapes, state: Mapping[str, Tensor]) -> dict[str, Any]:
    layers = one.lengths(r"net\.mlp\.(\d+)\.bias")
    inputs, harmonics = one.size("net.mlp.0.weight", 1), 0
    if "frequencies" in state:
        harmonics = state["frequencies"].numel()
    elif inputs == 8 * DEFAULTS["pse_in_channels"]:  # 1088: sine and cosine of four each
        harmonics = 4
    told = {
        "pse_in_channels": inputs // (2 * harmonics) if harmonics else inputs,
        "pse_use_harmonic_enc": bool(harmonics),
        "pse_num_blocks": len(layers),
        "outputs": layers[-1] if layers else 0,
    }
    told |= {"pse_num_harmonics": harmonics} if harmonics else {}
    return told | ({"pse_num_channels": layers[0]} if len(layers) > 1 else {})


def _pixel_bias(one: Shapes, settings: Mapping[str, Any]) -> str:
    """What the texture generator adds behind its convolutions, told by what stands there."""
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
    """Of a generator and its projector, whose widths tell those of the embedder."""
    places = (3, 0) if short == "tex" else (2, 1)  # of the two convolutions in a block
    after = one.lengths(rf"gen_{short}\.blocks\.(\d+)\.block\.{places[1]}\.weight")
    first = one.size(f"gen_{short}.blocks.0.block_feats.{places[0]}.weight", 1)
    if not after or not first:
        return {}
    told = {f"{short}_num_channels": after[-1], f"{short}_max_channels": first}
    told["blocks"] = len(after)
    if short == "tex":
        told["tex_input_tensor_size"] = one.size("gen_tex_input", 2)
        told["image_size"] = told["tex_input_tensor_size"] * 2 ** len(after)
    else:
        told["inf_pred_segmentation"] = len(one.lengths(r"gen_inf\.heads\.(\d+)\.0\.bias")) > 2
    hidden = one.lengths(rf"prj_{short}\.fc_blocks\.(\d+)\.0\.0\.bias")
    if len(hidden) == len(after):
        told |= {"emb_num_channels": hidden[-1] // 2, "emb_max_channels": max(hidden)}
        before = [first, *after[:-1]]
        inputs = [one.size(f"prj_{short}.fc_blocks.{p}.0.0.weight", 1) for p in range(len(after))]
        # A row of the projector's input holds that many embedding channels of 32 a / h squared.
        channels = [
            round(f * b / (32 * a / h) ** 2)
            for f, b, a, h in zip(inputs, after, before, hidden, strict=True)
        ]
        if short == "inf":
            told |= {"tex_num_channels": channels[-1], "tex_max_channels": max(channels)}
    return told
