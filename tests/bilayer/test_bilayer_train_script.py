"""train_bilayer.py as a user starts it: flags, presets, restarts, and errors."""

import re
from pathlib import Path

import pytest
import torch

import train_bilayer
from avatar_folder import write_folder
from nets import published
from nets.bilayer.defaults import NETWORKS
from nets.bilayer.experiment import network_file
from nets.bilayer.options import parse
from nets.errors import UserError
from nets.run import checkpoints

ROOT = Path(__file__).parents[2]
SMOKE = ["--config", "smoke_bilayer.yaml"]
BASE = ["identity_embedder", "texture_generator", "keypoints_embedder", "inference_generator"]


def options(*argv):
    return parse("text", [str(a) for a in argv])


def train(folder, *argv, name="run"):
    """The run's folder after training in this process."""
    where = ["--experiment_dir", folder, "--experiment_name", name]
    train_bilayer.main([str(a) for a in [*SMOKE, *where, *argv]])
    return Path(folder) / "runs" / name


def refused(capsys, folder, *argv):
    """The script's last line of output; asserts exit code 2."""
    with pytest.raises(SystemExit) as error:
        train(folder, *argv)
    assert error.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("word", ["True", "true", "TRUE", ""])
def test_bool_flags_take_true_in_any_case_and_bare(word):
    assert options("--calc_stats", *[word] * bool(word)).calc_stats is True
    assert options("--emb_apply_masks", "FALSE").emb_apply_masks is False
    harmonic = options("--pse_use_harmonic_enc", "False", "--pse_emb_source_pose", "False")
    assert not harmonic.pse_use_harmonic_enc and not harmonic.pse_emb_source_pose


def test_published_command_line_is_taken_as_it_is():
    args = options(
        *("--optims", "identity_embedder: adam, discriminator: sgd"),
        *("--lrs", "identity_embedder: 2e-4, discriminator: 1e-3"),
        *("--networks_train", "identity_embedder, discriminator"),
        *("--networks_test", "identity_embedder", "--networks_calc_stats", "identity_embedder"),
        *("--networks_to_train", "identity_embedder, discriminator"),
        *(
            "--spn_networks",
            "identity_embedder, texture_enhancer",
            "--spn_layers",
            "conv2d, linear",
        ),
        *("--tex_pred_segmentation", "False", "--pse_input_tensor", "poses"),
        *("--num_workers_per_process", 7, "--random_seed", 3, "--amp_opt_level", "O0"),
        *("--experiment_name", "007", "--project_dir", "somewhere"),
    )
    assert args.networks_train == ["identity_embedder", "discriminator"]
    assert args.lrs["discriminator"] == 1e-3 and args.optims["discriminator"] == "sgd"
    assert (args.workers, args.seed) == (7, 3)
    assert (args.run_dir, args.name) == ("somewhere/runs", "007")


def test_presets_say_what_the_published_scripts_say():
    base = options("--config", "bilayer_base.yaml")
    assert (base.batch_size, base.num_epochs, base.stats_calc_iters) == (40, 4000, 500)
    assert base.calc_stats and base.wpr_loss_weight == 0 and base.bn_momentum == 1
    assert base.networks_to_train == [*BASE, "discriminator"]
    tune = options("--config", "bilayer_finetune.yaml", "--init_experiment_dir", "e",
                   "--init_which_epoch", 2225)  # fmt: skip
    assert tune.frozen_networks == ["texture_generator", "inference_generator"]
    assert len(tune.init_networks) == 5 and "segmentation" not in tune.losses_train
    more = options("--config", "bilayer_enhancer.yaml", "--init_experiment_dir", "e",
                   "--init_which_epoch", 2225)  # fmt: skip
    assert more.networks_to_train == ["texture_enhancer", "discriminator"]
    assert more.dis_fake_imgs_name == "pred_enh_target_imgs" and more.inf_pred_source_data
    assert more.pse_emb_source_pose and more.inf_calc_grad


def test_every_flag_of_the_published_tables_is_there():
    parser = train_bilayer.parse.__globals__["parser"]("x")
    known = {a.dest for a in parser._actions} | parser.renamed.keys()
    table = (
        "project_dir experiment_dir pretrained_weights_dir torch_home experiment_name "
        "dataloader_name dataset_name data_root debug runner_name no_disk_write_ops "
        "redirect_print_to_file random_seed skip_test save_dataset_filenames "
        "dataset_load_from_txt train_load_from_filename test_load_from_filename "
        "frame_num_from_paper metrics images_log_rate metrics_log_rate frozen_networks "
        "psnr_loss_apply_to folder_postfix save_initial_test_before_training "
        "unfreeze_texture_generator_last_layers unfreeze_inference_generator_last_layers "
        "init_experiment_dir init_networks init_which_epoch which_epoch num_gpus local_rank rank "
        "world_size train_size num_epochs checkpoint_freq test_freq batch_size "
        "num_workers_per_process calc_stats stats_calc_iters visual_freq num_visuals use_half "
        "use_closure use_apex amp_opt_level amp_loss_scale networks_train networks_test "
        "networks_calc_stats networks_to_train losses_train losses_test spn_networks "
        "spn_exceptions spn_layers wgv_mode wgv_momentum eps optims lrs bn_momentum adam_beta1 "
        "num_source_frames num_target_frames image_size num_keypoints output_segmentation "
        "output_stickmen stickmen_thickness emb_num_channels emb_max_channels emb_no_stickman "
        "emb_output_tensor_size emb_norm_layer_type emb_activation_type emb_downsampling_type "
        "emb_apply_masks pse_num_channels pse_num_blocks pse_in_channels pse_emb_source_pose "
        "pse_norm_layer_type pse_activation_type pse_use_harmonic_enc pse_num_harmonics "
        "tex_num_channels tex_max_channels tex_norm_layer_type tex_pixelwise_bias_type "
        "tex_input_tensor_size tex_activation_type tex_upsampling_type tex_skip_layer_type "
        "inf_num_channels inf_max_channels inf_pred_segmentation inf_norm_layer_type "
        "inf_input_tensor_size inf_activation_type inf_upsampling_type inf_skip_layer_type "
        "inf_pred_source_data inf_calc_grad inf_apply_masks dis_num_channels dis_max_channels "
        "dis_no_stickman dis_num_blocks dis_output_tensor_size dis_norm_layer_type "
        "dis_activation_type dis_downsampling_type dis_fake_imgs_name enh_num_channels "
        "enh_max_channels enh_bottleneck_tensor_size enh_num_blocks enh_unrolling_depth "
        "enh_guiding_rgb_loss_type enh_detach_inputs enh_norm_layer_type enh_activation_type "
        "enh_downsampling_type enh_upsampling_type enh_apply_masks adv_pred_type adv_loss_weight "
        "fem_loss_type fem_loss_weight per_full_net_names per_net_layers per_pooling "
        "per_loss_apply_to per_loss_type per_loss_weights per_layer_weights per_loss_names "
        "pix_loss_type pix_loss_weights pix_loss_apply_to pix_loss_names seg_loss_type "
        "seg_loss_weights seg_loss_apply_to seg_loss_names wpr_loss_type wpr_loss_weight "
        "wpr_loss_weight_decay wpr_loss_decay_schedule wpr_loss_apply_to csm_model lps_model "
        "lps_net lps_calc_grad ssm_use_masks ssm_calc_grad nme_num_threads "
        # Of the fork, and of scripts that pass options without effect:
        "metrics_root metrics_freq skip_metrics num_metrics_images general_data_root "
        "augment_with_general augment_with_general_ratio sample_general_dataset use_unet "
        "unet_input_channels unet_output_channels unet_inputs texture_output_dim "
        "replace_Gtex_output_with_trainable_tensor replace_source_specific_with_trainable_tensors "
        "replace_AdaSpade_with_conv replace_Gtex_output_with_source use_source_background "
        "mask_source_and_target tex_pred_segmentation pse_input_tensor"
    )
    assert set(table.split()) <= known


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--networks_train", "identity_embeder"], "did you mean identity_embedder"),
        (["--losses_train", "perceptul"], "no loss is called perceptul; did you mean perceptual"),
        (["--metrics", "fid"], "no metric is called fid; known: PSNR"),
        (["--lrs", "discriminator"], "lrs: must be `network: value, ...`"),
        (["--optims", "discriminator: adamw"], "discriminator must be one of adam"),
        (["--image_size", "100"], "image_size: must be a power of two, got 100"),
        (["--pse_in_channels", "394"], "must be 2 x num_keypoints = 136"),
        (["--num_gpus", "8"], "torchrun --nproc_per_node=8"),
        (["--output_segmentation", "false"], "needs --emb_apply_masks false"),
        (["--init_networks", "discriminator"], "give both or neither"),
        (["--save_dataset_filenames"], "give --data"),
        (["--num_source_frames", "0"], "num_source_frames"),
        (["--batch_sise", "2"], "did you mean --batch_size"),
        (
            [
                "--augment_with_general",
                "--general_data_root",
                "g",
                "--data",
                "d",
                "--augment_with_general_ratio",
                "0.5",
            ],
            "augment_with_general_ratio: not implemented",
        ),
        (["--pse_init", "whitened", "--pse_use_harmonic_enc"], "pse_init: whitened is not for"),
        (["--precision", "fp16", "--amp_loss_scale", "128"], "amp_loss_scale: must be dynamic"),
    ],
)
def test_contradictions_are_one_line(argv, why):
    with pytest.raises(UserError, match=re.escape(why)):
        options(*argv)


def test_a_restart_ends_in_the_same_weights_and_files(tmp_path):
    data = write_folder(tmp_path / "d")
    argv = ["--data", data, "--save_dataset_filenames", "--batch_size", 2, "--wgv_mode",
            "running_average", "--test_freq", 3]  # fmt: skip
    whole = train(tmp_path, *argv, "--num_epochs", 5, name="whole")
    train(tmp_path, *argv, "--num_epochs", 3, name="parts")
    parts = train(tmp_path, *argv, "--num_epochs", 5, name="parts")
    one, other = (
        checkpoints.read(f / "checkpoints" / "step_00000005.pt")["parts"] for f in (whole, parts)
    )
    assert one.keys() == other.keys() and "ema" in one and "optimizer_discriminator" in one
    for name, state in one.items():
        torch.testing.assert_close(other[name], state, rtol=0, atol=0)
    assert (whole / "train_filenames.txt").read_text() == (
        parts / "train_filenames.txt"
    ).read_text()
    assert (whole / "test_filenames.txt").read_text() == (parts / "test_filenames.txt").read_text()


def test_all_networks_learn_and_only_they(tmp_path):
    folder = train(tmp_path, "--checkpoint_freq", 1, "--num_epochs", 2, "--skip_test")
    for name in [*BASE, "discriminator"]:
        one, two = (torch.load(folder / "checkpoints" / f"{epoch}_{name}.pth") for epoch in (1, 2))
        changed = [k for k in one if "weight_orig" in k and not torch.equal(one[k], two[k])]
        assert len(changed) > 3, name


def test_max_grad_norm_limits_the_gradients_of_each_network(tmp_path):
    def weights(rate, limit):
        each = ", ".join(f"{name}: {{}}" for name in NETWORKS)
        argv = ["--optims", each.replace("{}", "sgd"), "--lrs", each.replace("{}", str(rate))]
        argv += ["--num_steps", 1, "--max_grad_norm", limit, "--skip_test"]
        folder = train(tmp_path, *argv, name=f"{rate}_{limit}")
        return checkpoints.read(checkpoints.find(folder))["parts"]["model"]

    start, free, limited = weights(1e-30, 0), weights(1.0, 0), weights(1.0, 1e-3)

    def moved(model, name):
        own = [k for k in model if k.startswith(f"{name}.") and k.endswith(("weight_orig", "bias"))]
        return sum(float((model[k] - start[k]).square().sum()) for k in own) ** 0.5

    for name in BASE:
        assert moved(free, name) > 2e-3 and 0.5e-3 < moved(limited, name) < 1.01e-3


def test_enhancer_stage_on_a_trained_base(tmp_path, capsys):
    base = train(tmp_path, "--num_epochs", 2, "--pse_emb_source_pose", name="base")
    argv = ["--config", "bilayer_enhancer.yaml", "smoke_bilayer.yaml", "--losses_train",
            "adversarial, feature_matching, pixelwise", "--num_epochs", "2"]  # fmt: skip
    where = ["--experiment_dir", str(tmp_path), "--experiment_name", "enh"]
    init = ["--init_experiment_dir", str(base), "--init_which_epoch", "2"]
    train_bilayer.main([*argv, *where, *init])
    files = {f.name for f in (tmp_path / "runs/enh/checkpoints").glob("*.pth")}
    assert {"2_texture_enhancer.pth", "2_discriminator.pth"} <= files
    assert "2_texture_generator.pth" not in files
    content = checkpoints.read(checkpoints.find(tmp_path / "runs/enh"))["parts"]["model"]
    kept = torch.load(base / "checkpoints/2_texture_generator.pth")
    assert torch.equal(content["texture_generator.gen_tex_input"], kept["gen_tex_input"])


def test_fine_tuning_freezes_and_goes_on_from_an_epoch(tmp_path, capsys):
    base = train(tmp_path, "--num_epochs", 2, name="base")
    argv = ["--init_experiment_dir", base, "--init_which_epoch", 2, "--init_networks",
            ", ".join([*BASE, "discriminator"]), "--frozen_networks",
            "texture_generator, inference_generator", "--inf_calc_grad", "--inf_apply_masks",
            "false", "--num_epochs", 2,
            "--unfreeze_texture_generator_last_layers", "false"]  # fmt: skip
    tuned = train(tmp_path, *argv, name="tuned")
    for name, same in (("inference_generator", True), ("identity_embedder", False)):
        content = checkpoints.read(checkpoints.find(tuned))["parts"]["model"]
        before = torch.load(base / f"checkpoints/2_{name}.pth")
        weights = [k for k in before if k.endswith("weight_orig")]
        assert all(torch.equal(content[f"{name}.{k}"], before[k]) for k in weights) == same


def test_a_run_starts_from_a_run_or_from_weights_alone(tmp_path, capsys):
    base = train(tmp_path, "--num_epochs", 2, "--skip_test", name="base")
    for file in (base / "checkpoints").glob("*.pth"):
        file.unlink()
    step = checkpoints.find(base)
    before = checkpoints.read(step)
    weights = tmp_path / "base.safetensors"
    published.write_weights(weights, before)
    more = ["--init_networks", ", ".join(BASE), "--frozen_networks", "inference_generator",
            "--num_epochs", 1, "--skip_test"]  # fmt: skip
    for place, source in (("newest", base), ("file", step), ("weights", weights)):
        folder = train(tmp_path, "--init_experiment_dir", source, *more, name=place)
        after = checkpoints.read(checkpoints.find(folder))["parts"]["model"]
        key = "inference_generator.gen_inf.blocks.0.block.1.weight_orig"
        assert torch.equal(after[key], before["parts"]["model"][key])
        assert "inference_generator from" in capsys.readouterr().out
    args = options("--config", "faces_128.yaml", "real_heads.yaml", "--data", "d")
    weights = network_file(args.init_experiment_dir, args.init_which_epoch, "identity_embedder")
    assert weights == ROOT / "nets/trained/bilayer.safetensors" and weights.is_file()
    landmarks = ROOT / "nets/trained/landmarks.safetensors"
    said = refused(capsys, tmp_path, "--init_experiment_dir", landmarks, *more)
    assert "a checkpoint of landmarks, not of bilayer" in said
    said = refused(capsys, tmp_path, "--init_experiment_dir", "nowhere", *more)
    assert "init_experiment_dir nowhere: neither a checkpoint nor a folder with one" in said


def test_which_epoch_goes_on_where_that_epoch_ended(tmp_path, capsys):
    folder = train(tmp_path, "--num_epochs", 4)
    for file in (folder / "checkpoints").glob("step_*.pt"):
        file.unlink()
    train(tmp_path, "--num_epochs", 4, "--which_epoch", 2)
    assert "going on from epoch 2" in capsys.readouterr().out
    assert (folder / "checkpoints" / "step_00000008.pt").exists()


def test_which_epoch_goes_back_and_says_what_is_set_aside(tmp_path, capsys):
    argv = ["--ckpt_freq", 2, "--checkpoint_freq", 1]
    folder = train(tmp_path, *argv, "--num_epochs", 4)
    later = folder / "checkpoints/after_epoch_2"
    for more in ([], ["--num_epochs", 3]):  # the second is another command, and goes back again
        capsys.readouterr()
        train(tmp_path, *argv, "--which_epoch", 2, *more)
        printed = capsys.readouterr().out
        assert "which_epoch 2: going back; set aside in" in printed and "3_discriminator" in printed
        assert "epoch 3 train" in printed and "step_00000004.pt, step 4" in printed
    assert {"step_00000008.pt", "4_texture_generator.pth", "4_opt_discriminator.pth"} <= {
        file.name for file in later.iterdir()
    }
    assert not (folder / "checkpoints/step_00000008.pt").exists()
    assert checkpoints.step_of(checkpoints.find(folder)) == 6
    train(tmp_path, *argv, "--which_epoch", 2, "--num_epochs", 3)  # the same command goes on
    assert "going back" not in capsys.readouterr().out
    assert "no such file; there are epochs 1, 2, 3" in refused(
        capsys, tmp_path, *argv, "--which_epoch", 9
    )


def test_which_epoch_goes_back_to_the_published_files_alone(tmp_path, capsys):
    folder = train(tmp_path, "--num_epochs", 4)  # holds step 8 and the files of epochs 2 and 4
    train(tmp_path, "--num_epochs", 4, "--which_epoch", 2)
    printed = capsys.readouterr().out
    assert "set aside in" in printed and "going on from epoch 2" in printed
    assert "step_00000008.pt" in printed and (folder / "checkpoints/step_00000008.pt").exists()
    steps = [line.split()[1] for line in printed.splitlines() if line.startswith("epoch ")]
    assert steps[-1] == "4" and "epoch 3 train" in printed


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--data", "nowhere"], "nowhere/imgs/train: no such folder"),
        (["--dataset_load_from_txt", "--train_load_from_filename", "x"], "x: cannot be read"),
        (["--perceptual", "pretrained", "--losses_train", "perceptual"], "no "),
        (["--pix_loss_apply_to", "pred_nothing, target_imgs"], "pred_nothing"),
        (["--which_epoch", "7"], "7_identity_embedder.pth: no such file"),
        (
            [
                "--init_experiment_dir",
                "e",
                "--init_networks",
                "discriminator",
                "--init_which_epoch",
                "1",
            ],
            "e/checkpoints: no such folder",
        ),
        (["--emb_num_channels", "6"], "must be in one ratio"),
    ],
)
def test_bad_input_ends_in_one_line(tmp_path, capsys, monkeypatch, argv, why):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    assert why in refused(capsys, tmp_path, *argv)


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--losses_train", "perceptual", "--perceptual", "pretrained"], "vgg19-dcbb9e9d.pth"),
        (["--losses_train", "perceptual", "--perceptual", "pretrained", "--per_full_net_names",
          "vgg16_face_caffe", "--per_loss_weights", "1", "--per_net_layers", "1,6,11,18,25",
          "--per_loss_names", "F"], "vgg16_face_caffe.pth"),
        (["--losses_train", "perceptual", "--perceptual", "mobilenet", "--per_full_net_names",
          "vgg16_face_caffe", "--per_loss_weights", "1", "--per_net_layers", "1,6,11,18,25",
          "--per_loss_names", "F"], "no features of faces"),
        (["--which_epoch", "7"], "7_identity_embedder.pth: no such file"),
        (["--init_experiment_dir", "e", "--init_networks", "discriminator", "--init_which_epoch",
          "1"], "e/checkpoints: no such folder"),
        (["--metrics_root", "nowhere", "--data", "DATA"], "nowhere/imgs/metrics: no such folder"),
    ],
)  # fmt: skip
def test_what_is_missing_is_found_before_networks_are_built(
    tmp_path, capsys, monkeypatch, argv, why
):
    def build(*args):
        raise AssertionError("networks are built before all files were looked for")

    monkeypatch.setattr(train_bilayer, "build", build)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    if "DATA" in argv:
        argv = [*argv[:-1], write_folder(tmp_path / "d")]
    assert why in refused(capsys, tmp_path, *argv)
    assert not (tmp_path / "runs/run").exists()


def test_metrics_without_weights_are_named_before_networks_are_built(tmp_path, capsys, monkeypatch):
    def build(*args):
        raise UserError("reached")

    monkeypatch.setattr(train_bilayer, "build", build)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    with pytest.raises(SystemExit):
        train(tmp_path, "--losses_test", "lpips, csim", "--pretrained_weights_dir", tmp_path)
    printed = capsys.readouterr()
    assert "lpips is left out: no lpips weights" in printed.out and "reached" in printed.err
    assert "csim/insight_face.pth" in printed.out


def test_the_published_folder_is_written_for_published_flags_or_on_request(tmp_path):
    short = [*SMOKE, "--num_epochs", "2", "--data", str(write_folder(tmp_path / "d", people=4))]
    published = {"args.txt", "losses.jsonl", "metrics", "tensorboard_paper"}
    runs = {
        "plain": ["--run_dir", tmp_path / "a", "--name", "x"],
        "asked": ["--run_dir", tmp_path / "b", "--name", "x", "--export_published"],
        "flags": ["--experiment_dir", tmp_path / "c", "--experiment_name", "x"],
    }
    for where in runs.values():
        train_bilayer.main([str(a) for a in [*short, *where]])
    for name, folder in (("plain", "a/x"), ("asked", "b/x"), ("flags", "c/runs/x")):
        folder = tmp_path / folder
        files = {path.name for path in folder.iterdir()}
        networks = list((folder / "checkpoints").glob("2_*.pth"))
        assert (folder / "checkpoints/step_00000002.pt").is_file()
        if name == "plain":
            assert not files & published and not networks
            images = {path.name for path in (folder / "images").iterdir()}
            assert images == {"train_0000001.png", "train_0000002.png", "test_0000000.png",
                              "test_0000002.png"}  # fmt: skip
        else:
            assert published <= files and len(networks) == 10
            assert (folder / "images/test/0001_00.jpg").is_file()
    with pytest.raises(UserError, match="with --export_published"):
        network_file(tmp_path / "a/x", 2, "discriminator")


def test_files_that_do_not_fit_are_named_before_networks_are_built(tmp_path, capsys, monkeypatch):
    def build(*args):
        raise AssertionError("networks are built before the files were checked")

    base = train(tmp_path, "--num_epochs", 2, name="base")
    init = ["--init_experiment_dir", base, "--init_networks", "discriminator", "--init_which_epoch"]
    monkeypatch.setattr(train_bilayer, "build", build)
    line = refused(capsys, tmp_path, "--dis_num_channels", 8, *init, 2)
    assert "2_discriminator.pth" in line and "must be [8, 6, 3, 3], is [4, 6, 3, 3]" in line
    line = refused(capsys, tmp_path, *init, 9)
    assert "9_discriminator.pth: no such file; there are epochs 2" in line
    assert not (tmp_path / "runs/run").exists()
    for file in (base / "checkpoints").glob("step_*.pt"):  # as the published program leaves it
        file.unlink()
    file = base / "checkpoints/2_opt_discriminator.pth"
    moments = torch.load(file, weights_only=True)
    moments["state"][1]["exp_avg"] = torch.zeros(3)
    torch.save(moments, file)
    with pytest.raises(SystemExit):
        train(tmp_path, "--which_epoch", 2, name="base")
    line = capsys.readouterr().err
    assert "2_opt_discriminator.pth: discriminator does not fit this run: exp_avg of par" in line
    assert (base / "checkpoints/2_discriminator.pth").is_file()
