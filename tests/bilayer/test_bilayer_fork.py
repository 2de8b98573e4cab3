"""Command lines and options files of the fork's scripts: taken, followed, or refused by name."""

import json

import pytest
import torch

import infer
import train_bilayer
from avatar_folder import write_folder
from bilayer_tiny import batch, model
from nets import published as originals
from nets.bilayer import NETWORKS
from nets.bilayer.data import open_avatars, prepare
from nets.bilayer.options import parse
from nets.bilayer.published import read
from nets.errors import UserError
from test_bilayer_published import write

BASE = NETWORKS[:4]
# What train_with_pretrained_weights_of_paper.sh and train_base_model_8gpus.sh pass besides.
SCRIPT = {
    "augment_with_general": False, "general_data_root": "somewhere",
    "use_source_background": False, "replace_AdaSpade_with_conv": False,
    "replace_Gtex_output_with_trainable_tensor": False,
    "replace_Gtex_output_with_source": False,
    "replace_source_specific_with_trainable_tensors": False, "sample_general_dataset": False,
    "texture_output_dim": 3, "use_unet": False, "unet_input_channels": 16,
    "unet_output_channels": 3, "unet_inputs": "hf", "metrics_freq": 3, "metrics_root": "nowhere",
    "skip_metrics": True, "mask_source_and_target": False, "augment_with_general_ratio": 0.5,
}  # fmt: skip
REFUSED = ("use_unet", "replace_AdaSpade_with_conv", "replace_Gtex_output_with_trainable_tensor",
           "replace_Gtex_output_with_source", "replace_source_specific_with_trainable_tensors",
           "lps_calc_grad", "ssm_use_masks", "ssm_calc_grad")  # fmt: skip


def flags(values):
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def train(folder, *argv, name="run"):
    where = ["--experiment_dir", folder, "--experiment_name", name]
    train_bilayer.main([str(a) for a in ["--config", "smoke_bilayer.yaml", *where, *argv]])
    return folder / "runs" / name


def last_line(capsys, call, *argv):
    with pytest.raises(SystemExit) as error:
        call(*argv)
    assert error.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def losses(run, phase="train"):
    lines = [json.loads(line) for line in (run / "losses.jsonl").read_text().splitlines()]
    return [line for line in lines if line["phase"] == phase]


def test_the_forks_command_line_is_taken_and_changes_nothing(tmp_path):
    argv = ["--num_epochs", 1, "--skip_test"]
    plain, forked = train(tmp_path, *argv), train(tmp_path, *argv, *flags(SCRIPT), name="fork")
    assert losses(plain) == losses(forked)


@pytest.mark.parametrize("name", REFUSED)
def test_options_without_an_implementation_are_refused_by_name(name):
    with pytest.raises(UserError, match=f"^{name} true: not implemented"):
        parse("x", [f"--{name}", "True"])


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--texture_output_dim", "16"], "texture_output_dim 16: not implemented"),
        (["--folder_postfix", "vector"], "folder_postfix vector: not implemented"),
        (["--augment_with_general"], "augment_with_general: needs --data and --general_data_root"),
        (["--mask_source_and_target", "--output_segmentation", "false", "--emb_apply_masks",
          "false", "--losses_train", "pixelwise"],
         "mask_source_and_target: needs --output_segmentation"),
        (["--use_source_background", "--inf_pred_segmentation", "false"],
         "use_source_background: needs --inf_pred_segmentation"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_followed_are_one_line(argv, why):
    with pytest.raises(UserError, match=why):
        parse("x", argv)


@pytest.mark.parametrize("name", [*REFUSED[:5], "texture_output_dim"])
def test_an_options_file_that_changes_the_networks_is_refused(tmp_path, name):
    value = 16 if name == "texture_output_dim" else True
    folder = write(tmp_path, model(), BASE, args={**SCRIPT, name: value})
    with pytest.raises(UserError, match=rf"args\.txt: {name} .*not implemented"):
        originals.load("bilayer", folder)


def test_an_options_file_with_all_switches_off_is_read(tmp_path):
    options = read(write(tmp_path, model(), BASE, args={**SCRIPT, "lps_calc_grad": True}))
    assert options["options"]["use_unet"] is False and "unknown" not in options["kind"]


def test_unknown_options_of_a_file_are_refused_by_name(tmp_path):
    args = {"use_magic": "True", "lps_more": 3, "seg_net": "x"}
    folder = write(tmp_path, model(), BASE, args=args)
    with pytest.raises(UserError, match=r"args\.txt: unknown options: seg_net, use_magic; if"):
        read(folder)
    kept = [line for line in (folder / "args.txt").read_text().splitlines()
            if not line.startswith(("use_magic", "seg_net"))]  # fmt: skip
    (folder / "args.txt").write_text("\n".join(kept))
    assert read(folder)["options"]["lps_more"] == 3  # an option of a metric


def test_unknown_options_that_are_off_are_named_and_read(tmp_path, capsys):
    folder = write(tmp_path, model(), BASE, args={"use_magic": "False", "magic_dir": "None"})
    assert read(folder)["options"]
    line = "args.txt: unknown options, which are off and have no effect here: magic_dir, use_magic"
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("mask_source_and_target", "perhaps", "true or false"),
        ("num_target_frames", "two", "a whole number > 0"),
        ("inf_activation_type", "relus", "one of leakyrelu, relu"),
        ("tex_upsampling_type", "cubic", "one of nearest, bilinear, pixelshuffle"),
        ("bn_momentum", "-1", "a number > 0"),
        ("random_seed", "-1", "a whole number >= 0"),
    ],
)
def test_values_of_the_file_have_the_checks_of_the_command_line(tmp_path, name, value, rule):
    today = {"random_seed": "seed"}.get(name, name)
    where = rf"{today} in .*args\.txt, line \d+: must be {rule}, got {value}"
    with pytest.raises(UserError, match=where):
        read(write(tmp_path, model(), BASE, args={name: value}))


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"num_keypoints": 60}, "pse_in_channels in .*args.txt: must be 2 x num_keypoints = 120"),
        ({"use_source_background": True, "inf_pred_segmentation": False},
         "use_source_background in .*args.txt: needs --inf_pred_segmentation"),
        ({"mask_source_and_target": True, "output_segmentation": False},
         "mask_source_and_target in .*args.txt: needs --output_segmentation"),
    ],
)  # fmt: skip
def test_values_of_the_file_must_fit_each_other(tmp_path, values, why):
    net = model(inf_pred_segmentation=values.get("inf_pred_segmentation", True))
    with pytest.raises(UserError, match=why):
        read(write(tmp_path, net, BASE, args=values))


def test_every_option_is_read_listed_or_refused():
    """An options file may hold any option of the training script."""
    from nets.bilayer.options import parser
    from nets.bilayer.published_options import classified

    p = parser("x")
    names = {a.dest for a in p._actions} - {"help", "config", "print_shtab"} | p.renamed.keys()
    assert not [name for name in sorted(names) if not classified(name)]


def test_source_and_target_are_masked_by_their_own_masks(tmp_path):
    data = write_folder(tmp_path / "d", size=32)
    settings = parse("x", ["--data", str(data), "--image_size", "32"])
    sample = open_avatars(settings, "train")[0, 0]
    whole = prepare({name: value[None] for name, value in sample.items()}, settings)
    settings["mask_source_and_target"] = True
    cut = prepare({name: value[None] for name, value in sample.items()}, settings)
    for role in ("source", "target"):
        mask = whole[f"{role}_segs"]
        expected = whole[f"{role}_imgs"] * mask - (1 - mask)
        assert torch.equal(cut[f"{role}_imgs"], expected)
        assert cut[f"{role}_imgs"][..., 0, 0].eq(-1).all()


def test_the_sources_background_is_behind_prediction_and_target():
    net = model(inf_apply_masks=False).eval()
    data = batch(t=2)
    plain = net(data, BASE)
    behind = torch.rand(2, 3, 32, 32)
    done = net({**data, "source_background": behind}, BASE)
    mask = plain["pred_target_segs"]
    for name in ("pred_target_imgs", "target_imgs"):
        expected = plain[name] * mask + behind[:, None] * (1 - mask)
        torch.testing.assert_close(done[name], expected)


def test_training_and_inference_with_masks_and_the_sources_background(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = write_folder(tmp_path / "d", size=64)
    argv = ["--data", data, "--num_epochs", 1, "--mask_source_and_target", "True",
            "--use_source_background", "True"]  # fmt: skip
    run = train(tmp_path, *argv)
    file, points = (data / kind / "test/id0/video/00" for kind in ("imgs", "keypoints"))
    masks = data / "segs/test/id0/video/00/0.png"
    argv = ["--checkpoint", run, "-s", file / "0.jpg", "--source_keypoints", points / "0.npy",
            "--source_masks", masks, "-d", file / "1.jpg", "--driving_keypoints",
            points / "1.npy", "-o", "o.png"]  # fmt: skip
    infer.main([str(a) for a in argv])
    assert (tmp_path / "o.png").is_file()


def test_a_person_is_mixed_with_general_data(tmp_path):
    person = write_folder(tmp_path / "one", people=1)
    general = write_folder(tmp_path / "all", people=5)
    argv = ["--data", person, "--augment_with_general", "True", "--general_data_root", general,
            "--image_size", 32]  # fmt: skip
    settings = parse("x", [str(a) for a in argv])
    mixed = open_avatars(settings, "train")
    greens = [int(mixed[0, i]["target_imgs"][0, 1].float().mean()) for i in range(len(mixed))]
    assert len(mixed) == 6 and greens[0] == greens[1] and len(set(greens)) == 5
    assert [int(mixed[0, i]["indices"]) for i in range(6)] == list(range(6))
    assert len(open_avatars(settings, "test")) == 1
    settings["sample_general_dataset"] = True
    drawn = open_avatars(settings, "train", with_names=True)
    assert len(drawn) == 2
    lines = {drawn[epoch, 1]["files"].splitlines()[0] for epoch in range(12)}
    assert len(lines) > 3 and all(str(general / "imgs/train") in line for line in lines)
    argv += ["--num_epochs", 2, "--batch_size", 2, "--save_dataset_filenames", "True"]
    run = train(tmp_path, *argv, "--sample_general_dataset", "True")
    assert len((run / "train_filenames.txt").read_text().splitlines()) == 1 + 2 * 2 * 2


def test_phases_of_unseen_persons_and_of_fixed_pairs(tmp_path):
    data = write_folder(tmp_path / "d", phases=("train", "test", "unseen_test"))
    pairs = write_folder(tmp_path / "m", phases=("metrics",), people=3)
    argv = ["--data", data, "--num_epochs", 4, "--metrics_root", pairs, "--metrics_freq", 4,
            "--test_freq", 2, "--batch_size", 2, "--save_initial_test_before_training",
            "False"]  # fmt: skip
    run = train(tmp_path, *argv)
    assert [line["epoch"] for line in losses(run, "unseen_test")] == [2, 4]
    assert [line["epoch"] for line in losses(run, "metrics")] == [4]
    assert (run / "images/unseen_test/0002_00.jpg").is_file()
    settings = parse("x", [*map(str, argv), "--image_size", "32"])
    fixed = open_avatars(settings, "metrics")
    reds = [int(fixed[0, 1][f"{role}_imgs"][0, 0, 16, 16]) for role in ("source", "target")]
    assert len(fixed) == 3 and reds[0] < 20 and 20 < reds[1] < 60  # frames 0 and 1
    skipped = train(tmp_path, *argv, "--skip_metrics", "True", name="skipped")
    assert not losses(skipped, "metrics") and losses(skipped, "unseen_test")
