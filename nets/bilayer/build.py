"""The model that a run's options describe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from nets.spectral import Conv, settle, spectral_layers

from .discriminator import Discriminator
from .embedders import IdentityEmbedder, KeypointsEmbedder
from .enhancer import TextureEnhancer
from .generators import InferenceGenerator, TextureGenerator
from .layers import doublings
from .model import Bilayer
from .options import DEFAULTS, NETWORKS, network_names, words


def build(options: Mapping[str, Any], networks: Sequence[str] | None = None) -> Bilayer:
    """A fresh model on the CPU, or on the device of `torch.device(...)` around the call.

    options   flags by their published names; `DEFAULTS` for those that are absent, others are
              ignored. Lists may be given comma separated
    networks  what it consists of; default: all that the options' networks_* lists name
    Raises ValueError for sizes that do not divide and for unknown names. The spectral norms'
    vectors are settled by power iterations, so that a fresh model is tame in evaluation mode too.
    """
    given = {**DEFAULTS, **options}
    if networks is None:
        keys = ("networks_train", "networks_test", "networks_calc_stats", "networks_to_train")
        networks = [name for key in keys for name in network_names(given, key)]
    else:
        networks = network_names({"networks": networks}, "networks")
    # In alphabetical order, as the published program draws its random numbers.
    built = {name: _MAKERS[name](given) for name in sorted(set(networks))}
    for name, net in built.items():
        _leave_plain(name, net, given)
        if not next(net.parameters()).is_meta:
            settle(net)
    return Bilayer(built, given)


def _leave_plain(name: str, net: nn.Module, options: Mapping[str, Any]) -> None:
    """Take the spectral norm off the layers that shall have none."""
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
    return "conv2d" if isinstance(layer, Conv) else "linear"


def _common(o: Mapping[str, Any]) -> dict[str, Any]:
    return {"eps": o["eps"], "momentum": o["bn_momentum"]}


def _texture_widths(o: Mapping[str, Any]) -> list[int]:
    """Channels of the embeddings, one a block of the texture generator."""
    names = "image_size / tex_input_tensor_size"
    count = doublings(o["image_size"], o["tex_input_tensor_size"], names)
    return [min(o["tex_num_channels"] * 2**i, o["tex_max_channels"]) for i in range(count)][::-1]


def _identity_embedder(o: Mapping[str, Any]) -> IdentityEmbedder:
    return IdentityEmbedder(
        size=o["image_size"],
        channels=o["emb_num_channels"],
        max_channels=o["emb_max_channels"],
        output_size=o["emb_output_tensor_size"],
        embeds=_texture_widths(o),
        stickman=not o["emb_no_stickman"],
        norm=o["emb_norm_layer_type"],
        act=o["emb_activation_type"],
        down=o["emb_downsampling_type"],
        **_common(o),
    )


def _keypoints_embedder(o: Mapping[str, Any]) -> KeypointsEmbedder:
    return KeypointsEmbedder(
        inputs=o["pse_in_channels"],
        channels=o["pse_num_channels"],
        blocks=o["pse_num_blocks"],
        output_channels=o["inf_max_channels"],
        output_size=o["inf_input_tensor_size"],
        harmonics=o["pse_num_harmonics"] if o["pse_use_harmonic_enc"] else 0,
        norm=o["pse_norm_layer_type"],
        act=o["pse_activation_type"],
        **_common(o),
    )


def _texture_generator(o: Mapping[str, Any]) -> TextureGenerator:
    return TextureGenerator(
        size=o["image_size"],
        channels=o["tex_num_channels"],
        max_channels=o["tex_max_channels"],
        input_size=o["tex_input_tensor_size"],
        norm=o["tex_norm_layer_type"],
        pixel_bias=o["tex_pixelwise_bias_type"],
        act=o["tex_activation_type"],
        up=o["tex_upsampling_type"],
        skip=o["tex_skip_layer_type"],
        embed_channels=o["emb_num_channels"],
        embed_max_channels=o["emb_max_channels"],
        **_common(o),
    )


def _inference_generator(o: Mapping[str, Any]) -> InferenceGenerator:
    return InferenceGenerator(
        size=o["image_size"],
        channels=o["inf_num_channels"],
        max_channels=o["inf_max_channels"],
        input_size=o["inf_input_tensor_size"],
        norm=o["inf_norm_layer_type"],
        act=o["inf_activation_type"],
        up=o["inf_upsampling_type"],
        skip=o["inf_skip_layer_type"],
        segmentation=o["inf_pred_segmentation"],
        embeds=_texture_widths(o),
        embed_channels=o["emb_num_channels"],
        embed_max_channels=o["emb_max_channels"],
        **_common(o),
    )


def _discriminator(o: Mapping[str, Any]) -> Discriminator:
    return Discriminator(
        size=o["image_size"],
        channels=o["dis_num_channels"],
        max_channels=o["dis_max_channels"],
        blocks=o["dis_num_blocks"],
        output_size=o["dis_output_tensor_size"],
        stickman=not o["dis_no_stickman"],
        norm=o["dis_norm_layer_type"],
        act=o["dis_activation_type"],
        down=o["dis_downsampling_type"],
        **_common(o),
    )


def _texture_enhancer(o: Mapping[str, Any]) -> TextureEnhancer:
    return TextureEnhancer(
        size=o["image_size"],
        channels=o["enh_num_channels"],
        max_channels=o["enh_max_channels"],
        bottleneck_size=o["enh_bottleneck_tensor_size"],
        blocks=o["enh_num_blocks"],
        steps=o["enh_unrolling_depth"],
        guide=o["enh_guiding_rgb_loss_type"],
        norm=o["enh_norm_layer_type"],
        act=o["enh_activation_type"],
        down=o["enh_downsampling_type"],
        up=o["enh_upsampling_type"],
        **_common(o),
    )


_MAKERS = {
    "identity_embedder": _identity_embedder,
    "keypoints_embedder": _keypoints_embedder,
    "texture_generator": _texture_generator,
    "inference_generator": _inference_generator,
    "discriminator": _discriminator,
    "texture_enhancer": _texture_enhancer,
}
