"""The published programs' options: each is taken, or refused by name, and docs/published.md has it.

The lists are those of the programs' own tables and files.
"""

import re
from pathlib import Path

import pytest

import evaluate
import infer
from nets import systems
from nets.dcign.convert import main as convert
from nets.errors import UserError
from nets.run import options

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/published.md").read_text(encoding="utf-8")
TRAINING = {  # of the programs that train: on the command line, or in a configuration
    "vunet": """
        config mode log_dir checkpoint retrain data_index batch_size spatial_size box_factor
        bottleneck_factor drop_prob init_batches lr lr_decay_begin lr_decay_end log_freq ckpt_freq
        test_freq feature_layers feature_weights gram_weights

        iterator model num_epochs code_root model_pars final_act nf_start nf_max dropout_prob
        img_channels pose_channels integrations losses color_L1 color_L2 color_gradient KL
        perceptual weight start_ramp_it start_ramp_val end_ramp_it end_ramp_val vgg_feat_weights
        data_root datasets debug_timing num_steps start_log_freq ckpt_zero max_batches_per_epoch
        n_data_processes n_prefetch test_batch_size experiment_name eval_all eval_forever
    """,
    "landmarks": """
        config epochs batch_size n_landmarks dataset dataset_path save_path resume_ckpt
        resume_ckpt_D resume_ckpt_opt_G resume_ckpt_opt_D img_size disable_spade weight_decay
        use_DDP torch_home num_workers color_jitter model learning_rate vgg_lambda use_gan use_vgg
        no_grad_clip reduced_w num_D n_layers_D no_lsgan n_filters ndf ngc nsf naf local_rank
        val_frac save_freq val_freq flip_probability color_jitter_targets trans_lb trans_ub
        scale_lb scale_ub rot_lb rot_ub use_identity_covariance fixed_covar use_warped
        use_temporal use_fg_bg_mask low_res_mask
    """,
    "bilayer": """
        project_dir experiment_dir pretrained_weights_dir torch_home experiment_name
        dataloader_name dataset_name data_root debug runner_name no_disk_write_ops
        redirect_print_to_file random_seed skip_test save_dataset_filenames dataset_load_from_txt
        train_load_from_filename test_load_from_filename frame_num_from_paper metrics
        images_log_rate metrics_log_rate frozen_networks psnr_loss_apply_to folder_postfix
        save_initial_test_before_training unfreeze_texture_generator_last_layers
        unfreeze_inference_generator_last_layers init_experiment_dir init_networks
        init_which_epoch which_epoch num_gpus local_rank rank world_size train_size num_epochs
        checkpoint_freq test_freq batch_size num_workers_per_process calc_stats stats_calc_iters
        visual_freq num_visuals use_half use_closure use_apex amp_opt_level amp_loss_scale
        networks_train networks_test networks_calc_stats networks_to_train losses_train
        losses_test spn_networks spn_exceptions spn_layers wgv_mode wgv_momentum eps optims lrs
        bn_momentum adam_beta1 num_source_frames num_target_frames image_size num_keypoints
        output_segmentation output_stickmen stickmen_thickness emb_num_channels emb_max_channels
        emb_no_stickman emb_output_tensor_size emb_norm_layer_type emb_activation_type
        emb_downsampling_type emb_apply_masks pse_num_channels pse_num_blocks pse_in_channels
        pse_emb_source_pose pse_norm_layer_type pse_activation_type pse_use_harmonic_enc
        pse_num_harmonics tex_num_channels tex_max_channels tex_norm_layer_type
        tex_pixelwise_bias_type tex_input_tensor_size tex_activation_type tex_upsampling_type
        tex_skip_layer_type inf_num_channels inf_max_channels inf_pred_segmentation
        inf_norm_layer_type inf_input_tensor_size inf_activation_type inf_upsampling_type
        inf_skip_layer_type inf_pred_source_data inf_calc_grad inf_apply_masks dis_num_channels
        dis_max_channels dis_no_stickman dis_num_blocks dis_output_tensor_size
        dis_norm_layer_type dis_activation_type dis_downsampling_type dis_fake_imgs_name
        enh_num_channels enh_max_channels enh_bottleneck_tensor_size enh_num_blocks
        enh_unrolling_depth enh_guiding_rgb_loss_type enh_detach_inputs enh_norm_layer_type
        enh_activation_type enh_downsampling_type enh_upsampling_type enh_apply_masks
        adv_pred_type adv_loss_weight fem_loss_type fem_loss_weight per_full_net_names
        per_net_layers per_pooling per_loss_apply_to per_loss_type per_loss_weights
        per_layer_weights per_loss_names pix_loss_type pix_loss_weights pix_loss_apply_to
        pix_loss_names seg_loss_type seg_loss_weights seg_loss_apply_to seg_loss_names
        wpr_loss_type wpr_loss_weight wpr_loss_weight_decay wpr_loss_decay_schedule
        wpr_loss_apply_to csm_model lps_model lps_net lps_calc_grad ssm_use_masks ssm_calc_grad
        nme_num_threads

        tex_pred_segmentation pse_input_tensor metrics_root metrics_freq skip_metrics
        num_metrics_images general_data_root augment_with_general augment_with_general_ratio
        sample_general_dataset use_unet unet_input_channels unet_output_channels unet_inputs
        texture_output_dim replace_Gtex_output_with_trainable_tensor
        replace_source_specific_with_trainable_tensors replace_AdaSpade_with_conv
        replace_Gtex_output_with_source use_source_background mask_source_and_target
    """,
    "dcign": """
        import networks_dir name datasetdir dim_hidden feature_maps force_invariance
        invariance_strength no_load shape_bias shape_bias_amount learning_rate momentum_decay
        threads num_train_batches num_train_batches_per_type num_test_batches
        num_test_batches_per_type bsize useCuda useCudnn deviceId help

        save learningRate color reuse plot network model optimization momentum maxIter coefL1
        coefL2 dumpTest datasrc fbmat
    """,
}
OTHERS = {  # of the programs for tests and images; taken under these names, or named with ours
    "landmarks": "gaussians_save_path gaussian_path out_path results_path test_anno_path "
    "val_anno_path",
    "bilayer": "preprocess from_video source_img_path target_img_path video_path source_frame_num "
    "target_frame_num dataset_root source_relative_path target_relative_path",
    "dcign": "search_str base_dir cnndataset_dir name_mod data_loc imwidth num_steps lower_bound "
    "upper_bound custom_bounds reconstruct generalize set_name dataset_dir output_dir",
}
SHORT = {"vunet": "-n -b -t -p -c -r -l -d", "dcign": "-s -r -t -c -u -p -n -m -o -i -d -f"}
HEADINGS = {"vunet": "VUNet", "landmarks": "Landmarks", "bilayer": "Head avatars",
            "dcign": "DC-IGN"}  # fmt: skip


def taken(system):
    """All names that the training script of a system takes, in configurations too."""
    module = systems.module(system, "published")
    parser = systems.module(system, "options").parser("")
    names = {part for action in parser._actions for part in (action.dest, *action.dest.split("."))}
    names |= parser.renamed.keys() | set(getattr(module, "LEFT_OUT", ()))
    if system == "vunet":
        names |= {*module.GROUPS, "final_act"}
    return names


@pytest.mark.parametrize("system", systems.SYSTEMS)
def test_the_training_script_takes_every_published_option(system):
    assert not set(TRAINING[system].split()) - taken(system)


@pytest.mark.parametrize("system", systems.SYSTEMS)
def test_the_page_lists_every_published_option(system):
    section = PAGE.partition(f"\n### Options of {HEADINGS[system]}\n")[2].partition("\n### ")[0]
    assert section
    listed = {word.lstrip("-").partition(" ")[0] for word in re.findall(r"`([^`]+)`", section)}
    names = f"{TRAINING[system]} {OTHERS.get(system, '')}".split()
    assert not [name for name in names if name not in listed]
    codes = {word.partition(" ")[0] for word in re.findall(r"`(-\w[^`]*)`", section)}
    assert not set(SHORT.get(system, "").split()) - codes


def test_the_scripts_for_tests_and_images_take_their_published_options():
    scores, images = evaluate.parser(), infer.parser()
    systems.add_options(scores, "evaluate")
    systems.add_options(images, "infer")
    known = {a.dest for parser in (scores, images) for a in parser._actions}
    known |= scores.renamed.keys()
    ours = {"search_str", "base_dir", "cnndataset_dir", "name_mod", "data_loc", "imwidth",
            "num_steps", "lower_bound", "upper_bound", "set_name", "dataset_dir",
            "output_dir"}  # fmt: skip
    assert {name for text in OTHERS.values() for name in text.split()} - known == ours


@pytest.mark.parametrize(
    "rank", ["--local-rank=3", "--local_rank=3", "--local-rank 3", "--local_rank 3"]
)
def test_every_script_takes_what_the_launcher_adds(rank):
    parsers = [systems.module(system, "options").parser("") for system in systems.SYSTEMS]
    for parser in (*parsers, evaluate.parser(), infer.parser()):
        args = options.parse(parser, [*rank.split(), "--seed", "7"])
        assert args.seed == 7
        with pytest.raises(UserError, match="unknown option"):
            options.parse(parser, ["--local_ranks=3"])


def test_the_first_recipe_of_the_readme_is_the_way_to_published_weights():
    recipes = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Recipes")[2]
    first = re.findall(r"```bash\n(.*?)```", recipes, re.DOTALL)[0]
    place = PAGE.partition("## Where published weights lie")[2].partition("\n## ")[0]
    assert f"```bash\n{first}```" in place
    assert len(re.findall(r"```bash", place)) == 4  # head avatars, VUNet, DC-IGN, VGG19


def test_the_converter_takes_the_published_options(tmp_path, capsys):
    with pytest.raises(SystemExit):
        convert(["--help"])
    text = capsys.readouterr().out
    names = "bsize imwidth num_train_batches num_test_batches set_name dataset_dir output_dir"
    assert all(f"--{name}" in text for name in names.split())
