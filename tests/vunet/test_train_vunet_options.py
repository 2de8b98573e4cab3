"""Options of train_vunet.py from configurations and command lines, and its schedules."""

import pytest

from nets.errors import UserError
from nets.run import options
from nets.vunet import objective
from nets.vunet import options as settings

PORT = """
iterator: iterator.TrainModel
model: model.VUNet
batch_size: 8
num_epochs: 100
code_root: null
model_pars: {final_act: FINAL, nf_start: 64, nf_max: 128, image_size: 256, dropout_prob: 0.0,
  img_channels: 3, pose_channels: 3}
lr: 0.0001
integrations: {wandb: {active: false}, tensorboardX: {active: false}}
losses:
  color_L1: {weight: 0.5}
  color_gradient: {weight: 0.}
  color_L2: {weight: 0.}
  KL: {start_ramp_it: 2000, start_ramp_val: 0, end_ramp_it: 3500, end_ramp_val: 1}
  perceptual: {weight: 1., vgg_feat_weights: [1, 1, 1, 1, 1, 1]}
"""
MARKET = """
data_index: data/market/index.p
batch_size: 16
init_batches: 4
image_size: 128
box_factor: 1
bottleneck_factor: 1
drop_prob: 0.1
lr: 1.0e-3
lr_decay_begin: 1000
lr_decay_end: 100000
log_freq: 250
ckpt_freq: 1000
test_freq: 1000
feature_layers: [input_1, block1_conv2, block2_conv2, block3_conv2, block4_conv2, block5_conv2]
feature_weights: [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
gram_weights: [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
"""


@pytest.fixture
def config(tmp_path):
    def write(text, name="config.yaml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_flat_yaml_of_the_parts_form(config):
    args = settings.parse(["--config", config(MARKET)])
    assert (args.variant, args.appearance, args.conv) == ("parts", "crops", "weight")
    assert (args.image_size, args.box_factor, args.bottleneck_factor) == (128, 1, 1)
    assert (args.pairing, args.stickman, args.drop_prob, args.lr) == ("same", "parts", 0.1, 1e-3)
    shipped = settings.parse(["--config", "market.yaml"])
    given = {**vars(args), "config": None}
    assert given == {**vars(shipped), "config": None}


@pytest.mark.parametrize(
    "final, conv",
    [
        ("True", "none"),
        ("False", "weight_affine"),
        ("'True'", "none"),
        ("'False'", "weight_affine"),
    ],
)
def test_nested_yaml_of_the_image_form(config, capsys, final, conv):
    files = [config(PORT.replace("FINAL", final)), config("data_root: X\ndatasets: {}", "b.yaml")]
    args = settings.parse(["--config", *files])
    assert (args.variant, args.appearance, args.stickman) == ("image", "image", "image")
    assert (args.nf_start, args.nf_max, args.image_size) == (64, 128, 256)
    assert (args.tanh, args.conv) == ("true" in final.lower(), conv)
    assert (args.data, args.num_epochs, args.lr) == ("X", 100, 1e-4)
    assert (args.log_freq, args.start_log_freq) == (1000, 1)
    ramp = [objective.term_weights(args, step)["KL"] for step in (0, 2000, 2750, 3500, 9000)]
    assert ramp == [0, 0, 0.5, 1, 1]
    rest = {k: w for k, w in objective.term_weights(args, 0).items() if k != "KL"}
    assert rest == {"color_L1": 0.5, "perceptual": 1.0}
    assert (
        "iterator, model, code_root, integrations: options of another framework"
        in capsys.readouterr().out
    )


def test_a_final_act_that_is_neither_is_refused(config):
    with pytest.raises(UserError, match=r"model_pars\.final_act in .*: must be true or false, got"):
        settings.parse(["--config", config(PORT.replace("FINAL", "tanh"))])


def test_a_later_losses_replaces_an_earlier_one_but_the_command_line_adds(config):
    files = [config(PORT), config("losses: {color_L2: {weight: 2}}", "b.yaml")]
    files[0] = config(PORT.replace("FINAL", "True"), "a.yaml")
    args = settings.parse(["--config", *files])
    assert objective.term_weights(args, 9000) == {"color_L2": 2.0}
    args = settings.parse(["--config", files[0], "--losses/KL/end_ramp_val", "4"])
    assert objective.term_weights(args, 9000)["KL"] == 4.0


def test_the_image_form_has_the_published_losses_when_none_are_given():
    args = settings.parse(["--variant", "image"])
    assert objective.term_weights(args, 2750) == {"color_L1": 0.5, "KL": 0.5, "perceptual": 1.0}


def test_learning_rate_and_kl_of_the_shipped_schedule():
    args = settings.parse(["--config", "market.yaml"])
    rate = [settings.learning_rate(args, step, 100_000) for step in (0, 1000, 50_500, 100_000)]
    assert rate == pytest.approx([1e-3, 1e-3, 5e-4, 0])
    kl = [objective.kl_factor(args, s, 100_000) for s in (0, 50_000, 62_500, 75_000, 99_999)]
    assert kl == pytest.approx([1e-6, 1e-6, 0.5, 1, 1], abs=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--mode", "transfer"], "--mode transfer: needs --checkpoint"),
        (["--retrain"], "--retrain: needs --checkpoint"),
        (["--feature_weights", "[1.0]"], "feature_weights: must be 6 numbers"),
        (["--image_sise", "64"], "did you mean --image_size"),
        (["--image_size", "big"], "--image_size: "),
        (["--drop_prob", "1.5"], "--drop_prob: "),
        (["--variant", "image", "--losses.KL.start_ramp_it", "3"], "losses.KL: a ramp needs all"),
    ],
)
def test_bad_options_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        settings.parse(arguments)


def test_an_unknown_key_names_its_file_and_the_nearest(config):
    with pytest.raises(UserError, match=r"batch_sise in .*config.yaml.*batch_size"):
        settings.parse(["--config", config("batch_sise: 3")])
    with pytest.raises(UserError, match=r"lr in .*config.yaml"):
        settings.parse(["--config", config("lr: fast")])


def test_options_survive_their_file(tmp_path):
    given = ["--betas", "[0.9, 0.99]", "--feature_weights", "[1, 1, 1, 1, 1, 2.5]"]
    args = settings.parse(given)
    options.save(args, tmp_path / "config.yaml")
    again = settings.parse(["--config", str(tmp_path / "config.yaml")])
    assert options.plain(again) == options.plain(args)
    assert again.betas == pytest.approx([0.9, 0.99])
    assert {type(beta) for beta in args.betas} == {
        float
    }  # a checkpoint may only hold plain numbers
