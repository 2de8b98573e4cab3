"""Options of the published head avatars: their names here, and what each of them does.

Every name that may stand in an args.txt is in one group: followed (`DEFAULTS` and `READING` of
nets.bilayer.defaults), accepted at one value only (`SWITCHES`), or without effect on what a trained
network computes (`NO_NUMBER`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from nets.bilayer.defaults import ALL, BASE, DEFAULTS, NETWORKS, OPTIMIZERS, READING, Names
from nets.bilayer.losses import DEFAULTS as LOSS
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

RENAMED = {  # option of the published program, or of earlier versions of guise -> option here
    "data_root": "data",
    "random_seed": "seed",
    "num_workers_per_process": "workers",
}
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
accumulate adam_beta1 adam_beta2 amp_loss_scale amp_opt_level augment_with_general
augment_with_general_ratio batch_size calc_stats channels_last checkpoint_freq ckpt_freq compile
dataloader_name dataset_name debug device ema experiment_dir experiment_name export_published
general_data_root images_log_rate init_experiment_dir init_networks init_which_epoch keep_every
keep_last local_rank log_freq losses_test losses_train lr lr_decay_begin lrs max_grad_norm
max_megapixels metrics metrics_freq metrics_log_rate metrics_root name nan no_disk_write_ops
num_epochs num_gpus num_metrics_images num_steps num_visuals on_bad_sample optims perceptual
precision pretrained_weights_dir project_dir pse_input_tensor rank redirect_print_to_file resume
run_dir runner_name sample_general_dataset save_dataset_filenames save_initial_test_before_training
skip_metrics skip_test start_log_freq stats_calc_iters test_freq tex_pred_segmentation time_limit
torch_home train_size unet_input_channels unet_inputs unet_output_channels use_apex use_closure
use_half vgg_download visual_freq wgv_mode wgv_momentum which_epoch workers world_size
"""
NO_NUMBER = frozenset(_NAMES.split())
# Prefixes of the options of losses and metrics, which nothing but training and its log reads.
LOSS_OPTIONS = ("adv_", "fem_", "per_", "pix_", "seg_loss_", "wpr_", "kpc_", "ffe_", "psnr_",
                "csm_", "lps_", "ssm_", "nme_")  # fmt: skip


def classified(name: str) -> bool:
    """True if an option of an args.txt is followed, refused, or changes no number."""
    name = RENAMED.get(name, name)
    groups = (DEFAULTS, READING, SWITCHES, NO_NUMBER)
    return name.startswith(LOSS_OPTIONS) or any(name in group for group in groups)


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
    add("--augment_with_general_ratio", type=NonNegativeFloat | None, default=None,
        help="refused with augment_with_general; no effect without it")
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
    add("--fit_steps", type=NonNegativeInt, default=0,
        help="steps in which infer.py, evaluate.py and distil.py fit an avatar to its sources, "
        "unless told otherwise")
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
    add("--max_grad_norm", type=NonNegativeFloat, default=0.0,
        help="largest norm of each network's gradients, larger ones are scaled down; 0: no limit")
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
    add("pse_init", Literal["published", "whitened"],
        "start of the keypoints embedder; whitened: the principal components of the training "
        "poses, with small ones enlarged")
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
