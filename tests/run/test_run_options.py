"""Options: precedence, what a bad one says, what is written."""

import re
from typing import Literal

import pytest
import yaml

from nets.errors import BadSample, UserError
from nets.run import options


def make_parser():
    parser = options.parser("toy", "Train a toy.")
    add = parser.add_argument_group("toy").add_argument
    add("--batch_size", type=options.PositiveInt, default=16, help="images per step and rank")
    add("--lr", type=options.PositiveFloat, default=1e-3, help="learning rate")
    add("--fit", type=Literal["squash", "letterbox"] | None, default=None, help="how to fit")
    add("--weights", type=list[float], default=[1.0, 2.0], help="one a layer")
    add("--losses.KL.weight", type=float, default=1.0, help="factor of the KL")
    return parser


def parse(*argv, translate=None):
    return options.parse(make_parser(), argv, translate)


@pytest.fixture
def config(tmp_path):
    def write(text, name="c.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def test_command_line_beats_later_config_beats_earlier_config_beats_default(config):
    first = config("{batch_size: 2, lr: 2e-4, seed: 2}", "first.yaml")
    second = config("{batch_size: 3, lr: 3e-4}", "second.yaml")
    args = parse("--batch_size", "4", "--config", first, second)
    assert (args.batch_size, args.lr, args.seed, args.keep_last) == (4, 3e-4, 2, 3)
    again = parse("--config", first, "--batch_size", "4", "--config", second)
    assert options.plain(again) == options.plain(args)
    assert parse("--config", second, first).lr == 2e-4


def test_a_bare_name_is_looked_up_in_the_configs_folder(config, tmp_path, monkeypatch):
    config("batch_size: 7", "market.yaml")
    monkeypatch.setattr(options, "CONFIGS", tmp_path)
    assert parse("--config", "market.yaml").batch_size == 7
    assert parse("--config", "market").batch_size == 7
    with pytest.raises(UserError, match=r"--config markt.yaml: no such .*mean market.yaml\?"):
        parse("--config", "markt.yaml")
    with pytest.raises(UserError, match=r"no such file$"):  # what is not near is not suggested
        parse("--config", "nothing.yaml")


def test_configs_lie_in_folders_and_two_of_one_name_are_refused(config, tmp_path, monkeypatch):
    for folder in ("vunet", "dcign"):
        (tmp_path / folder).mkdir()
    config("batch_size: 7", "vunet/market.yaml")
    monkeypatch.setattr(options, "CONFIGS", tmp_path)
    assert parse("--config", "market.yaml").batch_size == 7
    config("batch_size: 8", "dcign/market.yaml")
    with pytest.raises(UserError, match=r"name of 2 files in configs/: dcign/.*vunet/market.yaml"):
        parse("--config", "market.yaml")


def test_no_two_configs_share_a_name():
    names = [path.name for path in options.CONFIGS.rglob("*.yaml")]
    assert names and len(names) == len(set(names))


@pytest.mark.parametrize(
    "given, value",
    [
        ([], False),
        (["--compile"], True),
        (["--compile", "True"], True),
        (["--compile", "FALSE"], False),
        (["--compile=true"], True),
        (["--compile", "--seed", "1"], True),
    ],
    ids=str,
)
def test_switches_take_bare_and_spelt_out_values(given, value):
    assert parse(*given).compile is value


def test_numbers_are_plain(config):
    args = parse("--batch_size", "4", "--config", config("lr: 1e-4"))
    assert type(args.batch_size) is int and type(args.lr) is float and args.lr == 1e-4


def test_slashes_set_nested_keys_above_the_files(config):
    path = config("losses: {KL: {weight: 3}}")
    assert parse("--config", path).losses.KL.weight == 3
    assert parse("--losses/KL/weight", "4", "--config", path).losses.KL.weight == 4
    assert parse("--losses/KL/weight=4", "--config", path).losses.KL.weight == 4
    with pytest.raises(UserError, match=r"^--losses/KL/weight on the command line: a value"):
        parse("--losses/KL/weight")


def test_translate_maps_the_keys_of_files_and_slashes(config):
    seen = []

    def translate(keys, source):
        seen.append(source)
        if "model_pars" in keys:
            keys = {"batch_size": keys["model_pars"]["size"]}
        return keys

    path = config("model_pars: {size: 5}")
    assert parse("--config", path, translate=translate).batch_size == 5
    args = parse("--config", path, "--model_pars/size", "6", translate=translate)
    assert args.batch_size == 6
    assert seen == [path, path, "command line"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("batch_siz: 3", "batch_siz in {}: unknown key; did you mean batch_size?"),
        ("zzz: 3", "zzz in {}: unknown key"),
        ("losses: {KM: {weight: 1}}", "losses.KM in {}: unknown key; did you mean losses.KL"),
        ("losses: 3", "losses in {}: unknown key"),
        ("batch_size: 0", "batch_size in {}: must be a whole number > 0, got 0"),
        ("batch_size: 1.5", "batch_size in {}: must be a whole number > 0, got 1.5"),
        ("batch_size: many", "batch_size in {}: must be a whole number > 0, got many"),
        ("batch_size: null", "batch_size in {}: must not be null"),
        ("lr: fast", "lr in {}: must be a number > 0, got fast"),
        ("ema: 1", "ema in {}: must be a number >= 0 and < 1, got 1"),
        ("weights: 1", "weights in {}: must be a list, each a number, got 1"),
        ("weights: [1, a]", "weights in {}: must be a list, each a number, got [1"),
        ("fit: crop", "fit in {}: must be one of squash, letterbox or null, got crop"),
        ("compile: 3", "compile in {}: must be true or false, got 3"),
        ("lr: 1\nseed: 2\nlr: 1", "{}, line 3: not plain YAML: lr stands twice"),
        ("batch_size: [3\nlr: 1", "{}, line 2: not plain YAML: "),
        ("- a\n- b", "{}: must hold `key: value` pairs, got a list"),
        ("lr: !!python/object/apply:os.system ['true']", "{}, line 1: not plain YAML: "),
    ],
)
def test_a_bad_config_is_named_with_its_key(config, text, message):
    path = config(text)
    with pytest.raises(UserError) as caught:
        parse("--config", path)
    assert str(caught.value).startswith(message.format(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given, message",
    [
        (["--bach_size", "3"], "--bach_size on the command line: unknown option; did you mean --b"),
        (["--batch-size", "3"], "--batch-size on the command line: unknown option; did you mean -"),
        (["--batch", "3"], "--batch on the command line: unknown option"),
        (["--batch_size", "0"], "--batch_size: must be a whole number > 0, got 0"),
        (["--batch_size"], "--batch_size: expected one argument"),
        (["--precision", "fp8"], "--precision: must be one of auto, fp32, bf16, fp16, got"),
        (["--compile", "maybe"], "--compile: must be true or false, got maybe"),
        (["--config"], "--config: expected at least one argument"),
        (["--config", "no/such.yaml"], "--config no/such.yaml: no such file"),
        (["stray"], "command line: unrecognized arguments: stray"),
    ],
)
def test_a_bad_argument_is_named(given, message):
    with pytest.raises(UserError) as caught:
        parse(*given)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_config_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as a configuration"):
        parse("--config", str(path))


def test_saved_options_can_be_passed_back(tmp_path, config):
    given = [
        "--lr",
        "3e-5",
        "--weights",
        "[0.1, 2]",
        "--fit",
        "letterbox",
        "--losses/KL/weight",
        "0",
    ]
    args = parse(*given, "--config", config("seed: 5"))
    options.save(args, tmp_path / "saved.yaml")
    again = parse("--config", str(tmp_path / "saved.yaml"))
    assert options.plain(again) == options.plain(args)
    assert "config" not in yaml.safe_load((tmp_path / "saved.yaml").read_text())


def test_help_names_every_option_in_its_group(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    for group in ("run:", "run folder:", "loop:", "toy:"):
        assert f"\n{group}\n" in text
    for action in make_parser()._actions:
        if action.dest not in ("help", "print_shtab"):
            assert f"--{action.dest}" in text and action.help
    assert "--help_published lists the options" in text


def published_parser():
    parser = options.parser("toy", "Train a toy.", {"img_size": "image_size", "num": "workers"})
    parser.add_argument("--image_size", type=options.PositiveInt, default=64, help="pixels")
    parser.add_published("--tex_channels", type=int, default=8, help="channels of the texture")
    return parser


def test_published_names_mean_ours_everywhere(config):
    for given in (["--img_size", "32"], ["--img_size=32"], ["--config", config("img_size: 32")]):
        args = options.parse(published_parser(), [*given, "--num", "0"])
        assert (args.image_size, args.workers) == (32, 0) and "img_size" not in args
    path = config("{img_size: 32, image_size: 64}", "both.yaml")
    with pytest.raises(UserError, match=r"image_size in .*: another name of image_size"):
        options.parse(published_parser(), ["--config", path])
    with pytest.raises(UserError, match="--image_size: must be a whole number > 0, got many"):
        options.parse(published_parser(), ["--img_size", "many"])


def test_published_options_are_listed_apart(capsys):
    parser = published_parser()
    assert options.parse(parser, ["--tex_channels", "9"]).tex_channels == 9
    with pytest.raises(SystemExit):
        options.parse(parser, ["--help"])
    assert "tex_channels" not in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        options.parse(parser, ["--help_published"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and re.search(r"--img_size +--image_size", text)
    assert re.search(r"--tex_channels +channels of the texture \(default: 8\)", text)


@pytest.mark.parametrize(
    "error, code, line",
    [
        (UserError("no such key"), 2, "error: no such key"),
        (BadSample("a.jpg", "truncated"), 2, "error: a.jpg: truncated"),
        (OSError(28, "No space left on device", "run/x.pt"), 2, "error: run/x.pt: No space left"),
        (options.NonFinite("loss KL is nan"), 3, "error: loss KL is nan"),
        (RuntimeError("[gloo/pair.cc:5] closed by peer"), 4, "error: another rank died"),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed. "), 2, "reads data"),
        (OSError(28, "No space left on device"), 2, "error: No space left"),
        (KeyboardInterrupt(), 130, ": interrupted"),
        (SystemExit(143), 143, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_become_one_line_and_a_code(capsys, error, code, line):
    with pytest.raises(SystemExit) as caught, options.user_errors():
        raise error
    assert caught.value.code == code
    assert line in (said := capsys.readouterr().err)
    assert len(said.splitlines()) == (1 if line else 0)


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), options.user_errors():
        _ = 1 / 0
