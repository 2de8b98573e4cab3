"""Names and defaults of the networks' options, and the parsing of lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

NETWORKS = (
    "identity_embedder",
    "texture_generator",
    "keypoints_embedder",
    "inference_generator",
    "texture_enhancer",
    "discriminator",
)
BASE = ", ".join(NETWORKS[:4])
ALL = f"{BASE}, discriminator"
OPTIMIZERS = ["adam", "fusedadam", "sgd", "fusedsgd", "lbfgs"]
Names = str | list[str]  # of an option that lists words

# The published defaults, by the names of the published program's flags.
DEFAULTS: dict[str, Any] = {
    "image_size": 256,
    "num_source_frames": 1,
    "networks_train": [n for n in NETWORKS if n != "texture_enhancer"],
    "networks_test": list(NETWORKS[:4]),
    "networks_calc_stats": list(NETWORKS[:4]),
    "networks_to_train": [n for n in NETWORKS if n != "texture_enhancer"],
    "frozen_networks": [],
    "unfreeze_texture_generator_last_layers": True,
    "unfreeze_inference_generator_last_layers": False,
    "spn_networks": list(NETWORKS),
    "spn_layers": ["conv2d", "linear"],
    "spn_exceptions": [],
    "eps": 1e-7,
    "bn_momentum": 1.0,
    "emb_num_channels": 64,
    "emb_max_channels": 512,
    "emb_no_stickman": False,
    "emb_output_tensor_size": 8,
    "emb_norm_layer_type": "none",
    "emb_activation_type": "leakyrelu",
    "emb_downsampling_type": "avgpool",
    "emb_apply_masks": True,
    "pse_num_channels": 256,
    "pse_num_blocks": 4,
    "pse_in_channels": 136,
    "pse_emb_source_pose": False,
    "pse_norm_layer_type": "none",
    "pse_activation_type": "leakyrelu",
    "pse_use_harmonic_enc": False,
    "pse_num_harmonics": 4,
    "pse_init": "published",
    "tex_num_channels": 64,
    "tex_max_channels": 512,
    "tex_norm_layer_type": "ada_spade_bn",
    "tex_pixelwise_bias_type": "none",
    "tex_input_tensor_size": 4,
    "tex_activation_type": "leakyrelu",
    "tex_upsampling_type": "nearest",
    "tex_skip_layer_type": "ada_conv",
    "inf_num_channels": 32,
    "inf_max_channels": 256,
    "inf_pred_segmentation": True,
    "inf_norm_layer_type": "ada_bn",
    "inf_input_tensor_size": 4,
    "inf_activation_type": "leakyrelu",
    "inf_upsampling_type": "nearest",
    "inf_skip_layer_type": "ada_conv",
    "inf_pred_source_data": False,
    "inf_calc_grad": False,
    "inf_apply_masks": True,
    "dis_num_channels": 64,
    "dis_max_channels": 512,
    "dis_no_stickman": False,
    "dis_num_blocks": 6,
    "dis_output_tensor_size": 8,
    "dis_norm_layer_type": "bn",
    "dis_activation_type": "leakyrelu",
    "dis_downsampling_type": "avgpool",
    "dis_fake_imgs_name": "pred_target_imgs",
    "enh_num_channels": 64,
    "enh_max_channels": 128,
    "enh_bottleneck_tensor_size": 128,
    "enh_num_blocks": 8,
    "enh_unrolling_depth": 4,
    "enh_guiding_rgb_loss_type": "sse",
    "enh_detach_inputs": True,
    "enh_norm_layer_type": "none",
    "enh_activation_type": "leakyrelu",
    "enh_downsampling_type": "avgpool",
    "enh_upsampling_type": "nearest",
    "enh_apply_masks": True,
    "published_masking": False,  # ours; see `Bilayer`
}

READING: dict[str, Any] = {  # what inference and evaluation read besides, with defaults
    "num_target_frames": 1,
    "num_keypoints": 68,
    "output_segmentation": True,
    "output_stickmen": True,
    "stickmen_thickness": 2,
    "mask_source_and_target": False,
    "use_source_background": False,
    "data": None,
    "dataset_load_from_txt": False,
    "train_load_from_filename": "train_filenames.txt",
    "test_load_from_filename": "test_filenames.txt",
    "frame_num_from_paper": True,
    "seed": 0,
    "demo_train": 0,
    "demo_test": 0,
    "fit_steps": 0,
}


def network_names(options: Mapping[str, Any], key: str) -> list[str]:
    """The networks that an option lists. Raises ValueError on an unknown name.

    options[key]  a list, or names separated by commas
    """
    names = words(options[key])
    unknown = [name for name in names if name not in NETWORKS]
    if unknown:
        raise ValueError(
            f"bilayer: {key} must name networks of {', '.join(NETWORKS)}, got {unknown[0]!r}"
        )
    return names


def words(value: str | Iterable[str] | None) -> list[str]:
    """The words of an option: a list, words separated by commas, or None for an empty list."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return list(value or ())
