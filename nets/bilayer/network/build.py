"""Building the model that a run's options describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from nets.bilayer.defaults import DEFAULTS, NETWORKS, network_names, words
from nets.bilayer.network.encoders import Discriminator, IdentityEmbedder, KeypointsEmbedder
from nets.bilayer.network.enhancer import TextureEnhancer
from nets.bilayer.network.generators import InferenceGenerator, TextureGenerator
from nets.bilayer.network.layers import doublings
from nets.bilayer.network.model import Bilayer
from nets.spectral import Conv, settle, spectral_layers


def build(options: Mapping[str, Any], networks: Sequence[str] | None = None) -> Bilayer:
    """A new model on the CPU, or on the device of `torch.device(...)` around the call.

    options   flags by their published names; absent ones are those of `DEFAULTS`, unknown ones are
              ignored. Lists may be words separated by commas
    networks  names of its networks; default: all that the options' networks_* lists name
    Raises ValueError on sizes that do not divide and on unknown names.

    Power iterations settle the vectors of the spectral norms. Without them, a new model could
    return huge values in evaluation mode.
    """
    settings = {**DEFAULTS, **options}
    if networks is None:
        keys = ("networks_train", "networks_test", "networks_calc_stats", "networks_to_train")
        networks = [name for key in keys for name in network_names(settings, key)]
    else:
        networks = network_names({"networks": networks}, "networks")
    # Alphabetical order is the order in which the published program draws its random numbers.
    built = {name: _make(name, settings) for name in sorted(set(networks))}
    for name, net in built.items():
        _leave_plain(name, net, settings)
        if not next(net.parameters()).is_meta:
            settle(net)
    return Bilayer(built, settings)


def _leave_plain(name: str, net: nn.Module, options: Mapping[str, Any]) -> None:
    """Remove the spectral norm of the layers that the options exclude."""
    listed = name in network_names(options, "spn_networks")
    kinds = words(options["spn_layers"])
    plain = [m for m in spectral_layers(net) if not listed or _kind(m) not in kinds]
    for path in words(options["spn_exceptions"]):
        network, _, inner = path.partition(".")
        if network not in NETWORKS:
            raise ValueError(f"bilayer: spn_exceptions must start with a network, got {path!r}")
        if network == name:
            try:
                plain += spectral_layers(net.get_submodule(inner))
            except AttributeError as error:
                raise ValueError(f"bilayer: spn_exceptions: no module {path}") from error
    for layer in plain:
        layer.release()


def _kind(layer: nn.Module) -> str:
    """The name of a layer in `spn_layers`."""
    return "conv2d" if isinstance(layer, Conv) else "linear"


def keypoints_embedder(options: Mapping[str, Any]) -> KeypointsEmbedder:
    """A new keypoints embedder of a run's options."""
    made = _make("keypoints_embedder", {**DEFAULTS, **options})
    assert isinstance(made, KeypointsEmbedder)
    return made


def _texture_widths(o: Mapping[str, Any]) -> list[int]:
    """Channels of the embeddings, one per block of the texture generator."""
    names = "image_size / tex_input_tensor_size"
    count = doublings(o["image_size"], o["tex_input_tensor_size"], names)
    return [min(o["tex_num_channels"] * 2**i, o["tex_max_channels"]) for i in range(count)][::-1]


def _make(name: str, o: Mapping[str, Any]) -> nn.Module:
    """A network with the arguments that the options give."""
    network, prefix, alike, others = _MAKERS[name]
    arguments = {"eps": o["eps"], "momentum": o["bn_momentum"]}
    arguments |= {key: o[f"{prefix}_{_OPTIONS[key]}"] for key in alike.split()}
    return network(**arguments, **others(o))


# Argument -> ending of its option, after the prefix of the network.
_OPTIONS = {
    "channels": "num_channels",
    "max_channels": "max_channels",
    "blocks": "num_blocks",
    "input_size": "input_tensor_size",
    "output_size": "output_tensor_size",
    "norm": "norm_layer_type",
    "act": "activation_type",
    "down": "downsampling_type",
    "up": "upsampling_type",
    "skip": "skip_layer_type",
}

# Class, prefix of its options, arguments that `_OPTIONS` lists, and a function for the others.
_Arguments = Callable[[Mapping[str, Any]], dict[str, Any]]
_MAKERS: dict[str, tuple[type[nn.Module], str, str, _Arguments]] = {
    "identity_embedder": (
        IdentityEmbedder,
        "emb",
        "channels max_channels output_size norm act down",
        lambda o: {
            "size": o["image_size"],
            "embeds": _texture_widths(o),
            "stickman": not o["emb_no_stickman"],
        },
    ),
    "keypoints_embedder": (
        KeypointsEmbedder,
        "pse",
        "channels blocks norm act",
        lambda o: {
            "inputs": o["pse_in_channels"],
            "output_channels": o["inf_max_channels"],
            "output_size": o["inf_input_tensor_size"],
            "harmonics": o["pse_num_harmonics"] if o["pse_use_harmonic_enc"] else 0,
        },
    ),
    "texture_generator": (
        TextureGenerator,
        "tex",
        "channels max_channels input_size norm act up skip",
        lambda o: {
            "size": o["image_size"],
            "pixel_bias": o["tex_pixelwise_bias_type"],
            "embed_channels": o["emb_num_channels"],
            "embed_max_channels": o["emb_max_channels"],
        },
    ),
    "inference_generator": (
        InferenceGenerator,
        "inf",
        "channels max_channels input_size norm act up skip",
        lambda o: {
            "size": o["image_size"],
            "segmentation": o["inf_pred_segmentation"],
            "embeds": _texture_widths(o),
            "embed_channels": o["emb_num_channels"],
            "embed_max_channels": o["emb_max_channels"],
        },
    ),
    "discriminator": (
        Discriminator,
        "dis",
        "channels max_channels blocks output_size norm act down",
        lambda o: {"size": o["image_size"], "stickman": not o["dis_no_stickman"]},
    ),
    "texture_enhancer": (
        TextureEnhancer,
        "enh",
        "channels max_channels blocks norm act down up",
        lambda o: {
            "size": o["image_size"],
            "bottleneck_size": o["enh_bottleneck_tensor_size"],
            "steps": o["enh_unrolling_depth"],
            "guide": o["enh_guiding_rgb_loss_type"],
        },
    ),
}
