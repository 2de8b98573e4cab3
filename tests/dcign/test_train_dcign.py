"""train_dcign.py from end to end, on runs of seconds."""

import json
import math
import signal

import pytest
import torch
from PIL import Image

import train_dcign
from helpers import last_line, script
from nets.data.io import torch7
from nets.data.io.images import write_image
from nets.data.scenes.batches import Drawn, unit
from nets.dcign import DCIGN, RMSprop, build, convert, options
from nets.dcign import published as originals
from nets.dcign.data import open_batches
from nets.run import checkpoints, seeds
from nets.run.log import records

TINY = [
    "--image_size", "48", "--feature_maps", "8", "--dim_hidden", "6", "--bsize", "4",
    "--num_train_batches", "2", "--num_train_batches_per_type", "2", "--epochs", "2",
    "--num_test_batches_per_type", "1", "--log_freq", "2", "--ckpt_freq", "2", "--workers", "0",
    "--precision", "fp32", "--sweep_steps", "3",
]  # fmt: skip


def train(folder, *arguments, monkeypatch, tiny=TINY):
    monkeypatch.chdir(folder)
    train_dcign.main([*tiny, *map(str, arguments)])
    name = arguments[arguments.index("--name") + 1]
    return folder / "runs/dcign" / name


def weights(run, step=None):
    files = checkpoints.stored(run / "checkpoints")
    path = files[0] if step is None else checkpoints.path_of(run / "checkpoints", step)
    return checkpoints.read(path, "dcign")["parts"]["model"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def heads(root, *arguments):
    """Batches of the demo world below `root`."""
    shared = ["--heads", "--imwidth", "48", "--num_test_batches", "1", "--output_dir", str(root)]
    convert.main([*shared, *arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with one finished run, started as a user does."""
    folder = tmp_path_factory.mktemp("trained")
    done = script("train_dcign.py", *TINY, "--name", "a", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs/dcign/a", done


def test_a_run_reports_its_settings_and_ends_with_an_image(trained):
    run, done = trained
    assert "training a DC-IGN (disentangled" in done.stdout
    assert "2 azimuth, 2 elevation, 2 light, 2 shape" in done.stdout
    final = done.stdout.strip().splitlines()[-1].rsplit(": ", 1)[1]
    with Image.open(run.parents[2] / final) as image:  # 2 heads x 3 latents, 2 + 3 cells a row
        assert image.width > 5 * 48 and image.height > 6 * 48
    assert "rerender_azimuth+light" in done.stdout and "pooled_azimuth" in done.stdout
    names = {p.name for p in (run / "images").iterdir()}
    assert {"sweeps_0000002.png", "sweeps_0000004.png", "reconstructions_0000004.png"} <= names
    lines = records(run / "log.txt")
    assert {"lower_bound", "reconstruction", "kl", "kl_unclamped", "lr"} <= lines[0].keys()
    tests = [line for line in lines if "test_lower_bound" in line]
    assert [line["step"] for line in tests] == [2, 4]
    assert {"test_mse", "test_lower_bound_light", "within_azimuth", "pooled_light"} <= tests[
        0
    ].keys()
    per_type = [k for line in lines for k in line if k.startswith("lower_bound_")]
    assert per_type and set(per_type) <= {
        f"lower_bound_{t}" for t in ("azimuth", "elevation", "light", "shape")
    }
    assert list((run / "tensorboard").iterdir())


def test_logged_scores_equal_those_of_the_network_by_hand(trained):
    run = trained[0]
    logged = next(line for line in records(run / "log.txt")[::-1] if "test_lower_bound" in line)
    net = DCIGN(6, 8, 48)
    net.load_state_dict(weights(run))
    args = options.parse("", TINY)
    source = open_batches(args, options.sets(args), "test")
    errors = []
    with torch.no_grad():
        for kind in source.counts:
            image = source.read(kind, 0)["image"] / 255
            mu, _ = net.encode(image)
            errors.append((net.decode(mu) - image).square().mean().item())
    assert logged["test_mse"] == pytest.approx(sum(errors) / 4, rel=1e-4)


def test_a_stopped_run_goes_on_to_the_same_weights(trained, tmp_path, monkeypatch):
    train(tmp_path, "--name", "b", "--num_steps", 2, monkeypatch=monkeypatch)
    run = train(tmp_path, "--name", "b", "--num_steps", 4, monkeypatch=monkeypatch)
    assert same(weights(run, 4), weights(trained[0], 4))
    parts = [
        checkpoints.read(checkpoints.stored(r / "checkpoints")[0])["parts"]
        for r in (run, trained[0])
    ]
    state, expected = (p["optimizer"]["state"] for p in parts)
    assert state[0]["step"] == 4 and all(
        torch.equal(state[i]["m"], expected[i]["m"]) for i in state
    )


def test_a_signal_in_the_last_step_leaves_the_final_scores(tmp_path, monkeypatch, capsys):
    save = train_dcign.Run.save

    def saved(run, *arguments):
        save(run, *arguments)
        run._stop.request(signal.SIGTERM)

    monkeypatch.setattr(train_dcign.Run, "save", saved)
    run = train(tmp_path, "--name", "a", "--num_steps", 1, monkeypatch=monkeypatch)
    assert "test_mse" in capsys.readouterr().out and (run / "images/final_0000001.png").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--regime", "entangled"],
        ["--clamp", "mean", "--force_invariance", "--shape_bias", "--precision", "bf16"],
        ["--clamp", "off", "--gradient_filter", "false", "--optimizer", "adam", "--ema", "0.5"],
        ["--likelihood", "gaussian", "--sample", "--order", "passes", "--warm_down", "2"],
        ["--mirror", "--jitter", "0.2"],
        ["--invariance_sign", "original", "--force_invariance", "--invariance_strength", "0.1"],
    ],
    ids=" ".join,
)
def test_every_way_to_train_ends_with_finite_weights(tmp_path, monkeypatch, arguments):
    run = train(tmp_path, "--name", "a", *arguments, monkeypatch=monkeypatch)
    assert all(v.isfinite().all() for v in weights(run).values())
    line = next(line for line in records(run / "log.txt") if "lower_bound" in line)
    assert ("invariance" in line) == ("--force_invariance" in arguments)


def test_a_table_of_objects_that_turn_fully_trains_and_is_scored(tmp_path, monkeypatch):
    rows = ["file,azimuth,shape,split"]
    for n, (name, split) in enumerate(zip("abcdefg", ["train"] * 4 + ["test"] * 3, strict=True)):
        for k in range(24):
            image = torch.full((1, 10, 8), 30 * n, dtype=torch.uint8)
            image[0, :, k % 8] = 10 * k
            write_image(tmp_path / f"{name}{k}.png", image)
            rows.append(f"{name}{k}.png,{k * math.pi / 12},{name},{split}")
    (tmp_path / "factors.csv").write_text("\n".join(rows) + "\n")
    given = ["--name", "a", "--data", tmp_path, "--groups", "azimuth=2 shape=rest"]
    tiny = [*TINY, "--num_train_batches_per_type", "null", "--num_test_batches_per_type", "null"]
    run = train(tmp_path, *given, "--mirror", "--jitter", 0.1, monkeypatch=monkeypatch, tiny=tiny)
    last = records(run / "log.txt")[-1]
    assert 0 < last["within_azimuth"] <= 1 and 0 < last["pooled_azimuth"] <= 1
    images = open_batches(options.parse("", [*tiny, *map(str, given[2:])]),
                          {"azimuth": "", "shape": ""}, "test")  # fmt: skip
    assert images.counts == {"azimuth": 3, "shape": 24}  # all views of an object, all objects


def test_the_first_step_by_hand(tmp_path, monkeypatch):
    """Two accumulated batches: the first moment is a tenth of the mean of their gradients."""
    run = train(tmp_path, "--name", "a", "--accumulate", 2, "--num_steps", 1,
                monkeypatch=monkeypatch)  # fmt: skip
    moments = checkpoints.read(checkpoints.stored(run / "checkpoints")[0])["parts"]["optimizer"]
    torch.manual_seed(0)
    args = options.parse("", TINY)
    objective = train_dcign.Objective(build(args), args)
    data = Drawn(open_batches(args, options.sets(args), "train"), 2)
    noise = seeds.generator(0, "noise", 0)
    noise = torch.randn(8, 6, generator=noise)
    for i in range(2):
        batch = data[0, i]
        kind = torch.tensor([batch["kind"]])
        loss, _ = objective(unit(batch["image"]), kind, noise[4 * i : 4 * i + 4])
        (loss / 2).backward()
    for i, p in enumerate(objective.net.parameters()):
        first_moment = moments["state"][i]["m"]
        torch.testing.assert_close(
            first_moment, 0.1 * p.grad, rtol=1e-4, atol=1e-4 * first_moment.abs().max()
        )


@pytest.mark.slow
def test_two_ranks_equal_one_that_accumulates(tmp_path):
    shared = [*TINY, "--num_steps", 2, "--name", "a", "--run_dir"]
    two = script("train_dcign.py", *shared, "two", cwd=tmp_path, ranks=2)
    assert two.returncode == 0, two.stderr
    one = script("train_dcign.py", *shared, "one", "--accumulate", 2, cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    a, b = weights(tmp_path / "one/a"), weights(tmp_path / "two/a")
    for name, value in a.items():  # other orders of float32 sums
        torch.testing.assert_close(b[name], value, rtol=1e-3, atol=1e-5)


def published_network(folder):
    """A network as the published program writes it: (its model, TINY without sizes)."""
    torch.manual_seed(3)
    model = DCIGN(6, 8)
    optimizer = RMSprop(model.parameters(), lr=1e-3)
    model(torch.rand(2, 1, 150, 150), torch.randn(2, 6))[0].sum().backward()
    optimizer.step()
    folder.mkdir(parents=True)

    def write(name, content):
        with open(folder / name, "wb") as file:
            content(file)

    originals.save(
        write, model, optimizer, {"lowerbound": [-1.0]}, {"dim_hidden": 6, "feature_maps": 8}
    )
    tiny = [*TINY]
    for name in ("--image_size", "--feature_maps", "--dim_hidden"):
        del tiny[tiny.index(name) : tiny.index(name) + 2]
    return model, tiny


def test_a_network_of_the_published_program_is_a_start(tmp_path, monkeypatch):
    model, tiny = published_network(tmp_path / "runs/dcign/published")
    shared = ["--num_steps", 1, "--learning_rate", "-0.000000000001"]
    run = train(tmp_path, "--checkpoint", "published", "--name", "a", "--export_torch7", *shared,
                monkeypatch=monkeypatch, tiny=tiny)  # fmt: skip
    log = (run / "log.txt").read_text()
    assert "starting from" in log and "with its moments" in log
    content = checkpoints.read(checkpoints.stored(run / "checkpoints")[0])
    assert content["options"]["dim_hidden"] == 6 and content["options"]["lr"] == 1e-12
    assert content["parts"]["optimizer"]["state"][0]["step"] == 2
    for name, value in model.state_dict().items():
        torch.testing.assert_close(content["parts"]["model"][name], value, rtol=0, atol=1e-9)
    again, facts = originals.load(run / "torch7")
    assert same(again.state_dict(), content["parts"]["model"]) and facts["num_epochs"] == 1
    assert torch7.read(run / "torch7/lowerbound_test.t7").shape == (1, 1)
    # A run of this project can be the start as well.
    other = train(tmp_path, "--checkpoint", run, "--name", "b", "--num_steps", 1, "--learning_rate",
                  "1e-12", "--reset_optimizer", monkeypatch=monkeypatch, tiny=tiny)  # fmt: skip
    assert "without its moments" in (other / "log.txt").read_text()
    torch.testing.assert_close(weights(other), weights(run), rtol=0, atol=1e-9)


@pytest.mark.parametrize("part", ["model", "optimizer"])
def test_weights_that_do_not_fit_are_refused_first(trained, tmp_path, monkeypatch, capsys, part):
    content = checkpoints.read(checkpoints.find(trained[0]))
    held = content["parts"][part]
    held = held if part == "model" else held["state"][0]
    held["m" if part == "optimizer" else "mu.weight"] = torch.zeros(3)
    checkpoints.write(tmp_path / "wrong.pt", content)

    def slow(*_):
        raise AssertionError("data or network come first")

    for name in ("build", "open_batches"):
        monkeypatch.setattr(train_dcign, name, slow)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        train_dcign.main([*TINY, "--checkpoint", "wrong.pt", "--name", "a"])
    what = "not the model of these" if part == "model" else "optimizer does not fit this run: m of"
    assert f"wrong.pt: {what}" in capsys.readouterr().err
    assert not (tmp_path / "runs/dcign/a").exists()


def test_batches_of_a_folder(tmp_path, monkeypatch):
    heads(tmp_path / "D", "--bsize", "4", "--num_train_batches", "2", "--torch7")
    run = train(tmp_path, "--data", "D", "--name", "a", "--num_steps", 2, monkeypatch=monkeypatch)
    ours = train(tmp_path, "--name", "b", "--num_steps", 2, monkeypatch=monkeypatch)
    assert same(weights(run), weights(ours))  # the same images, read from files
    tests = [line for line in records(run / "log.txt") if "test_mse" in line]
    assert "within_azimuth" not in tests[0]  # such files have no labels
    mixed = train(tmp_path, "--data", "D", "--regime", "entangled", "--name", "c",
                  "--num_steps", 2, monkeypatch=monkeypatch)  # fmt: skip
    assert "(2 mixed)" in (mixed / "log.txt").read_text()


def test_options_of_both_published_programs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    published = ["--no_load", "--networks_dir", "networks", "--momentum_decay", "0.2", "--threads",
                 "1", "-p", "false", "--coefL1", "0", "-n", "x", "--model", "convnet", "-c", "0",
                 "-m", "0.9", "-d", "DATASET", "--num_test_batches", "4", "-r", "0.001",
                 "--checkpoint", "default"]  # fmt: skip
    train_dcign.main([*TINY, "--num_steps", "1", "--name", "x", *published])
    out = capsys.readouterr().out
    assert "--network (-n), --momentum (-m), --coefL1, --datasrc (-d): no effect" in out
    assert "--data is the option" in out
    stored = checkpoints.read(tmp_path / "networks/x/checkpoints/step_00000001.pt")["options"]
    assert stored["momentum_decay"] == 0.2 and stored["lr"] == 0.001
    train_dcign.main([*TINY, "--num_steps", "1", "-s", "logs/y", "--reuse", "0"])
    assert (tmp_path / "logs/y/log.txt").is_file()


def test_published_flags_write_the_published_folder_after_each_epoch(tmp_path, monkeypatch):
    """networks/NAME as the published program writes it; the first file of an epoch stays as .old"""
    monkeypatch.chdir(tmp_path)
    tiny = [*TINY]
    del tiny[tiny.index("--image_size") : tiny.index("--image_size") + 2]
    command = [*tiny, "--no_load", "--networks_dir", "networks", "--num_steps", "5"]
    for i, extra in enumerate((["--name", "x"], ["--name", "y", "--regime", "entangled"])):
        train_dcign.main([*command, *extra])
        folder = tmp_path / "networks" / extra[1]
        names = {path.name for path in folder.iterdir()}
        assert names >= {"cmd_options.txt", "vxnet.net", "vxnet.net.old", "parameters.t7",
                         "state.t7", "config.t7", "lowerbound.t7", "lowerbound_test.t7", "test.log",
                         "checkpoints", "config.yaml"}  # fmt: skip
        lines = records(folder / "log.txt")  # log lines at steps 1, 2, 4 and 5
        bounds = {line["step"]: line["lower_bound"] for line in lines if "lower_bound" in line}
        history = torch7.read(folder / "lowerbound.t7")
        epochs = [(bounds[1] + bounds[2]) / 2, bounds[4], bounds[5]]
        torch.testing.assert_close(history, torch.tensor(epochs)[:, None] * 4)
        tested = [line for line in lines if "test_mse" in line]
        assert torch7.read(folder / "lowerbound_test.t7").shape == (3, 1) and len(tested) == 3
        header, *rows = (folder / "test.log").read_text().splitlines()
        assert header == "% mean class accuracy (test set)"
        assert rows == [f"{line['test_mse'] / 3:11.4e}" for line in tested]
        # Both the vector and the nested modules give the trained weights.
        facts = originals.load(folder)[1]
        assert facts["regime"] == ("disentangled", "entangled")[i] and facts["num_epochs"] == 3
        assert facts["command"]["learning_rate"] == "-0.0005"
        for missing in ("", "parameters.t7"):
            (folder / missing).unlink() if missing else None
            assert same(originals.load(folder)[0].state_dict(), weights(folder))
        whole = torch7.read(folder / "vxnet.net").fields["modules"].sequence()
        assert [part.name for part in whole] == ["nn.Sequential", "nn.Reparametrize",
                                                 "nn.Sequential"]  # fmt: skip
        encoder, _, decoder = (part.fields.get("modules") for part in whole)
        assert len(encoder) == 11 and len(decoder) == 15
        head = encoder[11].fields["modules"][1]
        assert head.name == ("nn.Sequential", "nn.LinearCR")[i]
        (folder / "vxnet.net.old").rename(folder / "vxnet.net")  # of the epoch before
        before = originals.load(folder)[0].state_dict()
        assert not same(before, weights(folder)) and same(before, weights(folder, 4))


def test_the_published_folder_is_for_published_sizes_and_on_request(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train_dcign.main([*TINY, "--num_steps", "1", "--networks_dir", "networks", "--name", "x"])
    assert "no vxnet.net and parameters.t7 are written: the published" in capsys.readouterr().out
    assert not (tmp_path / "networks/x/vxnet.net").exists()
    assert not options.parse("", ["--name", "x"]).published_folder
    assert options.parse("", ["--name", "x", "--published_folder"]).published_folder
    assert not options.parse("", ["-s", "logs", "--published_folder", "false"]).published_folder


def test_reuse_starts_from_a_published_network_and_continues_its_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, tiny = published_network(tmp_path / "logs")
    command = [*tiny, "--save", "logs", "-u", "1", "--num_steps"]
    train_dcign.main([*command, "1"])
    assert "starting from logs (of the published program" in (tmp_path / "logs/log.txt").read_text()
    train_dcign.main([*command, "2"])
    assert (tmp_path / "logs/log.txt").read_text().count("starting from") == 1
    assert checkpoints.stored(tmp_path / "logs/checkpoints")[0].name == "step_00000002.pt"


@pytest.mark.parametrize(
    "typed",
    [
        ["light=1", "shape=rest"],
        ["light=1,shape=rest"],
        ["light=1, shape=rest"],
        ["[light=1,shape=rest]"],
        ["[light=1, shape=rest]"],
        ["light=1,", "shape=rest"],
    ],
    ids=" ".join,
)
def test_groups_have_a_form_that_one_can_guess(typed):
    args = options.parse("", ["--groups", *typed, "--lr", "0.1"])
    assert args.groups == ["light=1", "shape=rest"] and args.lr == 0.1
    assert options.parse("", ["--lr", "0.1", "--groups", *typed]).groups == args.groups


def test_groups_in_a_configuration_are_a_list_or_a_text(tmp_path):
    for text in ("[light=1, shape=rest]", "light=1 shape=rest", "light=1,shape=rest"):
        (tmp_path / "c.yaml").write_text(f"groups: {text}\n")
        args = options.parse("", ["--config", str(tmp_path / "c.yaml")])
        assert args.groups == ["light=1", "shape=rest"]


def test_defaults_of_both_regimes_are_the_published_ones():
    plain = options.parse("", ["--regime", "entangled"])
    assert (plain.dim_hidden, plain.batch_size, plain.order) == (120, 50, "order")
    single = options.parse("", [])
    assert (single.dim_hidden, single.batch_size, single.order) == (200, 20, "draws")
    typed = options.parse("", ["--regime", "entangled", "--dim_hidden", "9", "--bsize", "8"])
    assert (typed.dim_hidden, typed.batch_size) == (9, 8)


@pytest.mark.parametrize("stored", ["reuse: 'true'", "reuse: '1'", "plot: 'true'", "plot: 'x'"])
def test_a_run_of_an_earlier_version_goes_on(tmp_path, monkeypatch, capsys, stored):
    """There --plot and --reuse had no effect, and their values were stored as text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(f"{stored}\n")
    train_dcign.main([*TINY, "--num_steps", "1", "--config", "c.yaml"])
    (run,) = (tmp_path / "runs/dcign").iterdir()
    facts = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps({**facts, "finished": False}))
    capsys.readouterr()
    train_dcign.main(["--config", str(run / "config.yaml")])
    out = capsys.readouterr().out
    assert "step_00000001.pt, step 1" in out and "no effect" in out
    assert len(list((tmp_path / "runs/dcign").iterdir())) == 1


def broken_batch(folder):
    heads(folder / "D", "--bsize", "4", "--num_train_batches", "1", "--torch7")
    for path in (folder / "D").glob("*/FT_training/batch1"):
        path.write_bytes(path.read_bytes()[:-10])
    return [
        "--data",
        folder / "D",
        "--num_train_batches_per_type",
        1,
    ], "batch1: is not a whole Torch7 file"


def other_size(folder):
    heads(folder / "D", "--bsize", "3", "--num_train_batches", "1")
    return (["--data", folder / "D", "--num_train_batches_per_type", 1],
            "must be a batch of [4, 1, 48, 48], is [3, 1, 48, 48]")  # fmt: skip


def no_batches(folder):
    (folder / "D/th_AZ_VARIED/FT_training").mkdir(parents=True)
    return ["--data", folder / "D"], "th_AZ_VARIED/FT_training: holds no batches"


def nothing_to_import(folder):
    (folder / "N").mkdir()
    return ["--checkpoint", folder / "N"], "N: holds neither parameters.t7 nor checkpoints"


def other_latents(folder):
    (folder / "N").mkdir()
    (folder / "N/parameters.t7").write_bytes(torch7.dumps(torch.zeros(890_737 + 3 * 16_202)))
    return (["--checkpoint", folder / "N", "--feature_maps", 96, "--image_size", 150],
            "are those of dim_hidden 3, not of 6")  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [
        broken_batch,
        other_size,
        no_batches,
        nothing_to_import,
        other_latents,
        lambda f: (["--checkpoint", f / "no"], "no: no such folder or file"),
        lambda f: (["--bsize", 1], "--batch_size: must be 2 or more"),
        lambda f: (["--dim_hidden", 3], "3 latents are too few for shape"),
        lambda f: (["--feature_maps", 6], "maps must be a multiple of 4"),
        lambda f: (["--image_size", 100], "image_size must be 150"),
        lambda f: (["--groups", "[nose=1, shape=rest]"], "in which only nose changes"),
        lambda f: (["--groups", "[nose]"], "groups: entry 1"),
        lambda f: (["--groups", "light", "shape"], "for example --groups azimuth=1 light=1 shape="),
        lambda f: (["--groups", "shape=rest"], "for example --groups azimuth=1 light=1 shape=rest"),
        lambda f: (["--num_test_batches", 5], "must be 4 times"),
        lambda f: (["--invariance_strength", 0.1], "needs --force_invariance"),
        lambda f: (["--jitter", 1], "--jitter: must be below 1, got 1"),
        lambda f: (["--color", 1], "--color: must be"),
        lambda f: (["--useCudnn"], "needs --useCuda"),
        lambda f: (["--plot"], "--plot: no plots are drawn"),
        lambda f: (["-p", "true"], "--plot: no plots are drawn"),
        lambda f: (["--reuse", 1], "--reuse: --save must name an existing folder, got None"),
        lambda f: (["--reuse", 1, "--save", f / "no"], "must name an existing folder, got"),
        lambda f: (["--reuse", 1, "--save", f, "--no_load"], "--checkpoint or --no_load"),
        lambda f: (["--reuse", 2], "--reuse: must be one of 0, 1 or null, got 2"),
        lambda f: (["--momentum_decay", 0], "above 0"),
        lambda f: (["--export_torch7"], "--export_torch7: the published program has images of 150"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, case):
    arguments, message = case(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        train(tmp_path, "--name", "a", *arguments, monkeypatch=monkeypatch)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert ": error: " in line and message in line


def test_losses_that_are_not_finite_stop_the_run(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="3"):
        train(tmp_path, "--name", "a", "--learning_rate", 1e30, monkeypatch=monkeypatch)
    assert "lower_bound is" in capsys.readouterr().err
    assert (tmp_path / "runs/dcign/a/bad_batch.pt").is_file()


def test_the_papers_settings():
    args = options.parse("", ["--config", "paper_dcign.yaml"])
    assert (args.clamp, args.invariance_strength, args.dim_hidden) == ("mean", 0.01, 200)
    assert Drawn(open_batches(args, options.sets(args), "test"), 1, bias=9).weights == [1, 1, 1, 10]


def test_another_size_does_not_go_on(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained[0].parents[2])
    with pytest.raises(SystemExit, match="2"):
        train_dcign.main([*TINY, "--name", "a", "--dim_hidden", "8"])
    assert "step_00000004.pt" in capsys.readouterr().err


def test_help_and_a_typo_of_the_script(tmp_path):
    done = script("train_dcign.py", "--latents", "8", cwd=tmp_path)
    assert done.returncode == 2 and "--latents on the command line: unknown option" in last_line(
        done
    )


def test_the_log_is_json(trained):
    for line in (trained[0] / "log.txt").read_text().splitlines():
        if line.startswith("{"):
            json.loads(line)


@pytest.mark.slow
def test_a_minute_of_training_learns_to_draw_and_to_turn(tmp_path):
    """A smaller and shorter demo beats copied inputs and the mean image, on unseen heads.

    The mean image has an MSE of 0.026. In the order of the bounds, the worst results of seed 0 in
    float32 on AVX2 and of seed 1 in bfloat16 were 0.85, 0.78, 0.66, and 0.50 of that MSE. Elevation
    and light have no bound: this early they depend on the draw of the batches.
    """
    done = script(
        "train_dcign.py", "--config", "demo_dcign.yaml", "--name", "a", "--image_size", 80,
        "--feature_maps", 32, "--dim_hidden", 48,
        "--num_steps", 900, "--warm_down", 400, "--num_train_batches_per_type", 240,
        "--test_freq", 900, cwd=tmp_path, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    line = next(t for t in done.stdout.splitlines() if t.startswith("test_lower_bound"))
    words = line.split()
    scores = dict(zip(words[::2], map(float, words[1::2]), strict=True))
    assert scores["within_azimuth"] > 0.7 and scores["pooled_azimuth"] > 0.4, scores
    assert scores["rerender_azimuth+light"] < 0.85 and scores["test_mse"] < 0.65 * 0.026, scores
