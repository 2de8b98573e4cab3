"""Scores of codes whose answers are known, and evaluate.py on small networks."""

from __future__ import annotations

import io
import json
import math

import pytest
import torch
from PIL import Image

import evaluate
import infer
from benchmarks import experiments_dcign, learning
from dcign_tiny import LATENTS, SIZE, network, write_run
from nets import published
from nets.data.io import torch7
from nets.data.scenes.batches import unit, write_batch
from nets.dcign import DCIGN, FACES
from nets.dcign import demo_metrics as truth
from nets.dcign import latents as latents_module
from nets.dcign import metrics as scores
from nets.dcign import published as originals
from nets.dcign.latents import Latents
from nets.dcign.options import parse
from nets.errors import UserError
from nets.run import checkpoints, seeds
from nets.worlds.heads.batches import HeadBatches
from nets.worlds.heads.world import RANGES, SPLITS

EXACT = ("--precision", "fp32")
OWNERS = {"a": slice(0, 1), "b": slice(1, 2)}


def factors(n: int = 400) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"a": torch.rand(n) * 2 - 1, "b": torch.rand(n) * 2 - 1}


def test_ridge_explains_what_is_linear_and_chooses_its_strength():
    f = factors()
    noise = torch.randn(400, 30)
    code = torch.cat([f["a"][:, None] * 100 + 7, noise], 1)
    assert scores.r_squared(code[:200], f["a"][:200], code[200:], f["a"][200:]) > 0.999
    # Noise explains nothing. R^2 is hardly below 0: held-out samples choose the strength.
    assert -0.1 < scores.r_squared(noise[:200], f["a"][:200], noise[200:], f["a"][200:]) < 0.05
    # The dual form, for more latents than samples, is the same regression.
    x, y = torch.randn(10, 30).double(), torch.randn(10, 2).double()
    primal = torch.linalg.solve(x.T @ x / 10 + 0.1 * torch.eye(30).double(), x.T @ y / 10)
    torch.testing.assert_close(scores.ridge(x, y, 0.1), primal)
    assert scores.standardise(torch.full((5, 1), 0.3)).abs().max() == 0


def test_decoding_measures_leaks_into_the_wrong_latents():
    f = factors()
    clean = torch.stack([f["a"], f["b"], torch.randn(400)], 1)
    leaking = torch.stack([f["a"] + torch.randn(400), f["a"], f["b"]], 1)
    one = scores.decoding(clean[:300], f["a"][:300], clean[300:], f["a"][300:], OWNERS["a"])
    two = scores.decoding(leaking[:300], f["a"][:300], leaking[300:], f["a"][300:], OWNERS["a"])
    assert one["own"] > 0.999 and one["all"] > 0.999 and abs(one["others"]) < 0.1
    assert two["others"] > 0.999 and two["own"] < 0.6


def test_people_are_recognised_by_what_is_theirs():
    torch.manual_seed(0)
    people = torch.arange(20).repeat_interleave(4) + SPLITS["test"]
    own = torch.randn(20, 6).repeat_interleave(4, 0)
    codes = torch.cat([own * 5, torch.randn(80, 6)], 1) + 3
    first = torch.arange(80) % 4 < 2
    rates = scores.recognition(codes[first], people[first], codes[~first], people[~first])
    assert rates["nearest"] > 0.95 and rates["linear"] > 0.6
    noise = torch.randn(80, 12)
    lost = scores.recognition(noise[first], people[first], noise[~first], people[~first])
    assert max(lost.values()) < 0.25  # chance is 0.05
    assert scores.spread(own, people) == 0 and scores.spread(noise, people) == pytest.approx(1, 0.1)
    assert scores.similarity(own + 3, -own + 3, torch.full((6,), 3.0)).max() == pytest.approx(-1)


class Knobs(torch.nn.Module):
    """A perfect graphics engine: its code is (azimuth, elevation, light, person), drawn exactly."""

    latents, image_size = 4, SIZE

    def __init__(self, world: HeadBatches):
        super().__init__()
        self.world, self.bias = world, torch.nn.Parameter(torch.zeros(1))
        self.codes: dict[bytes, torch.Tensor] = {}
        self.people: dict[int, torch.Tensor] = {}

    def draw(self, scene):
        """The world's images; records the code of each."""
        image = self.world.draw(scene)
        numbers = [scene["azimuth"] * 8, scene["elevation"] * -20, scene["light"] * 5]
        person = scene["person"] % 1009  # small enough for float32
        self.people |= {int(p): i for p, i in zip(person, scene["identity"], strict=True)}
        code = torch.stack([*numbers, person], 1).float()
        self.codes |= {p.numpy().tobytes(): c for p, c in zip(unit(image), code, strict=True)}
        return image

    def encode(self, image):
        return (torch.stack([self.codes[one.numpy().tobytes()] for one in image]),)

    def decode(self, code):
        identity = torch.stack([self.people[round(float(p))] for p in code[:, 3]])
        angles = {"azimuth": code[:, 0] / 8, "elevation": code[:, 1] / -20, "light": code[:, 2] / 5}
        return unit(self.world.draw({**angles, "identity": identity}))


@pytest.fixture(scope="module")
def engine():
    kinds = dict.fromkeys(("azimuth", "elevation", "light", "shape"), "")
    world = HeadBatches("test", kinds, 6, SIZE, 2)
    net = Knobs(world)
    groups = ["azimuth=1", "elevation=1", "light=1", "shape=rest"]
    latents = Latents(net, {"groups": groups, "regime": "disentangled"})
    batches = [world.scene(kind, 0) for kind in ("azimuth", "shape")]
    scene = {name: torch.cat([b[name] for b in batches]) for name in batches[0]}
    labels = {kind: {n: torch.linspace(-RANGES[n], RANGES[n], 4000)[None] for n in RANGES}
              for kind in kinds}  # fmt: skip
    code = torch.stack([labels["shape"]["azimuth"] * 8, labels["shape"]["elevation"] * -20,
                        labels["shape"]["light"] * 5, torch.zeros(1, 4000)], -1)  # fmt: skip
    latents.__dict__["seen"] = ({kind: code for kind in kinds}, labels)
    latents.__dict__["owners"] = {**{n: slice(i, i + 1) for i, n in enumerate(RANGES)},
                                  "shape": slice(3, 4)}  # fmt: skip
    return latents, net, scene


def test_a_perfect_engine_rerenders_and_swaps_exactly(engine):
    latents, net, scene = engine
    results = truth.rerendering(latents, net, scene)
    assert set(results) == {*RANGES, "azimuth+light"}
    assert results["azimuth+light"]["copy_mse"] > results["light"]["copy_mse"]
    for part in results.values():
        # The maps are fitted to lines, so they are exact up to rounding.
        assert part["made_mse"] < 2e-4 < 0.005 < part["copy_mse"]
        assert part["own_mse"] == 0 and part["own_ssim"] > 0.999
        assert part["ratio_to_copy"] == pytest.approx(part["made_mse"] / part["copy_mse"])
        assert part["ratio_to_copy"] < 0.03 and part["made_ssim"] > 0.97
    swapped = truth.swaps(latents, net, scene)
    assert swapped["made_mse"] < 1e-9 and swapped["copy_pose_mse"] > 0.005
    assert swapped["copy_shape_mse"] > 0.005


def test_grids_of_a_perfect_engine_are_lines(engine, monkeypatch):
    latents, net, _ = engine
    monkeypatch.setattr(truth, "FACES", 2)
    curves = truth.grids(latents, net)
    for name, slope in (("azimuth", 8), ("elevation", -20), ("light", 5)):
        grid = curves[name]
        assert grid["latent"].shape == (2, truth.GRIDS[name])
        assert grid["value"][0] == pytest.approx(-RANGES[name])
        torch.testing.assert_close(grid["latent"], grid["value"].expand(2, -1) * slope)
        assert grid["similarity"].min() == pytest.approx(1)


def test_views_are_of_persons_that_no_batch_shows():
    one, two = (truth.views(split, 3, 4, RANGES) for split in ("train", "test"))
    assert one["person"].unique().numel() == 3 and len(one["azimuth"]) == 12
    assert not set(one["person"].tolist()) & set(two["person"].tolist())
    assert one["person"].min() > SPLITS["train"] + 10**6
    assert torch.equal(one["identity"][0], one["identity"][3])
    assert all((one[n].abs() <= RANGES[n]).all() and one[n].std() > 0 for n in RANGES)
    near = truth.views("test", 3, 4, truth.NEAR_FRONT)
    assert all((near[n].abs() <= truth.NEAR_FRONT[n]).all() for n in RANGES)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run") / "run", batch_size=4)


@pytest.fixture()
def few(monkeypatch):
    """Fewer heads, for speed; the scores then mean little."""
    monkeypatch.setattr(truth, "FACES", 2)
    monkeypatch.setattr(truth, "READ", (10, 6))
    monkeypatch.setattr(truth, "RECOGNISED", 10)


def test_evaluate_reports_every_measure_and_the_entangled_run(run, few, tmp_path, capsys):
    other = write_run(tmp_path / "e", seed=3, regime="entangled", batch_size=4)
    out = tmp_path / "report.json"
    options = ["--checkpoint", str(run), *EXACT, "--test_batches", "1", "--out", str(out)]
    evaluate.main([*options, "--entangled", str(other)])
    printed = capsys.readouterr().out
    report = json.loads(out.read_text())
    assert report["regime"] == "disentangled" and report["entangled regime"] == "entangled"
    assert report["images"] == 80 and "report_scatter.png" in printed  # batches of 20, not of 4
    parts = (
        *("reconstruction", "leakage", "correlation", "rerender azimuth"),
        *("rerender light", "rerender azimuth+light"),
        *("swap", "curves", "decoding", "dci", "mig", "sap", "beta_vae", "factor_vae"),
        *("invariance", "recognition"),
    )
    for part in parts:
        for name in (part, f"entangled {part}"):
            numbers = [v for v in report[name].values() if isinstance(v, float)]
            assert numbers and all(map(math.isfinite, numbers)), name
    assert report["recognition"]["chance"] == 0.1
    assert len(report["leakage"]["tables"]["variance"]["light"]) == LATENTS
    assert set(report["correlation"]["matrix"]["light"]) == set(RANGES)
    net, labels = network(), HeadBatches("test", dict.fromkeys([*RANGES, "shape"], ""), 20, SIZE, 1)
    with torch.no_grad():
        batch = labels.read("light", 0)
        latent = net.encode(unit(batch["image"]))[0][:, 2]
    r = torch.corrcoef(torch.stack([latent, batch["light"]]))[0, 1].abs().item()
    assert report["correlation"]["light_within"] == pytest.approx(r, abs=1e-4)
    for name in ("report_scatter.png", "report_scatter_entangled.png"):
        with Image.open(tmp_path / name) as image:
            assert image.width > 600
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20


def test_data_without_labels_or_renderer_gets_fewer_scores(run, tmp_path, capsys):
    torch.manual_seed(0)
    world = HeadBatches("test", dict.fromkeys([*RANGES, "shape"], ""), 4, SIZE, 2)
    for kind, name in zip(world.counts, ("AZ", "EL", "LIGHT_AZ", "SHAPE"), strict=True):
        for mode in ("FT_training", "FT_test"):
            batch = world.read(kind, 0)
            labels = {n: batch[n] for n in RANGES}
            write_batch(tmp_path / f"plain/th_{name}_VARIED/{mode}/batch1", batch["image"])
            write_batch(
                tmp_path / f"known/th_{name}_VARIED/{mode}/batch1.npz", batch["image"], labels
            )
    out = str(tmp_path / "o.json")
    options = ["--checkpoint", str(run), *EXACT, "--out", out, "--data"]
    evaluate.main([*options, str(tmp_path / "plain")])
    assert "no labels" in capsys.readouterr().out
    plain = json.loads((tmp_path / "o.json").read_text())
    assert plain["images"] == 16 and "correlation" not in plain
    evaluate.main([*options, str(tmp_path / "known")])
    known = json.loads((tmp_path / "o.json").read_text())
    assert known["leakage"] == plain["leakage"] and "rerender light" not in known
    assert 0 <= known["correlation"]["light_within"] <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--entangled", "RUN"], "must be a run of --regime entangled"),
        (["--entangled", "nowhere"], "nowhere: no such file or run folder"),
        (["--figure", "x.jpg"], "--figure x.jpg: must end in .png"),
        (["--data", "nowhere"], "nowhere: no such folder of batches"),
        (["--test_batches", "-1"], "--test_batches"),
    ],
)
def test_bad_input_is_one_line(run, options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [str(run) if o == "RUN" else o for o in options]
    with pytest.raises(SystemExit) as left:
        evaluate.main(["--checkpoint", str(run), "--test_batches", "1", *EXACT, *options])
    assert left.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_checkpoint_without_data_of_its_own_asks_for_some(run, tmp_path, capsys):
    content = checkpoints.read(checkpoints.find(run))
    content["kind"] = "of the published program"
    path = tmp_path / "published.pt"
    checkpoints.write(path, content)
    with pytest.raises(SystemExit):
        evaluate.main(["--checkpoint", str(path)])
    assert "a published network needs --data" in capsys.readouterr().err


def published_network(folder, **command):
    """A network of the published program, 150 px, in networks/NAME below `folder`."""
    torch.manual_seed(0)
    net, path = DCIGN(LATENTS, 8), folder / "networks/x"
    path.mkdir(parents=True)

    def write(name, content):
        with open(path / name, "wb") as file:
            content(file)

    originals.save(write, net, None, None, {"dim_hidden": LATENTS, "feature_maps": 8, **command})
    return path, net.eval()


def published_data(root, sizes=(5, 3)):
    """Torch7 batches of different sizes, of each type and mixed."""
    torch.manual_seed(1)
    folders = [f"th_{group.set}" for group in FACES]
    for mode in ("FT_training", "FT_test"):
        for n, size in enumerate(sizes, 1):
            for folder in folders:
                write_batch(root / folder / mode / f"batch{n}", torch.rand(size, 1, 150, 150))
    return root


def test_a_published_network_is_scored_on_the_data_its_options_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path, net = published_network(tmp_path, datasetdir="DATASET")
    command = ["--checkpoint", "networks/x", *EXACT, "--out", "o.json"]
    with pytest.raises(SystemExit):
        evaluate.main(command)
    assert "needs --data, a folder of batches; its options name DATASET, which does not exist" in (
        capsys.readouterr().err
    )
    root = published_data(tmp_path / "DATASET")
    evaluate.main(command)
    out = capsys.readouterr().out
    assert "data of the network's options: DATASET" in out and "%|" not in out
    assert "shape: batches of 3 to 5 images; codes of the first 3 of each" in out
    report = json.loads((tmp_path / "o.json").read_text())
    assert report["data"] == "DATASET" and "azimuth_active" in report["leakage"]
    # The bound by hand: summed over a batch, mean over all batches, with the same noise.
    noise = seeds.generator(0, "bound", 0)
    batches = [torch7.read(root / f"th_{g.set}/FT_test/batch{n}") for g in FACES for n in (1, 2)]
    sampled, plain = [], []
    with torch.no_grad():
        for image in batches:
            mu, s = net.encode(image)
            kl = 0.5 * (mu.square() + s.exp() - 1 - s).sum()
            z = mu + (0.5 * s).exp() * torch.randn(mu.shape, generator=noise)
            for code, bounds in ((z, sampled), (mu, plain)):
                y = net.decode(code)
                bounds.append(-(torch.nn.functional.binary_cross_entropy(y, image, reduction="sum")
                                + kl).item())  # fmt: skip
    bound = report["bound"]
    assert bound["lower_bound_per_batch"] == pytest.approx(sum(sampled) / 8, rel=1e-5)
    assert bound["lower_bound"] == pytest.approx(sum(sampled) / 32, rel=1e-5)
    assert bound["lower_bound_light"] == pytest.approx(sum(sampled[4:6]) / 8, rel=1e-5)
    assert bound["lower_bound_mean_code"] == pytest.approx(sum(plain) / 32, rel=1e-5)
    assert bound["lower_bound"] == pytest.approx(-bound["reconstruction"] - bound["kl"])
    monkeypatch.chdir(path)  # the data set lies beside the folder of networks
    evaluate.main(["--checkpoint", str(path), *EXACT, "--test_batches", "1", "--out", "o.json"])
    assert f"data of the network's options: {tmp_path / 'DATASET'}" in capsys.readouterr().out


def test_the_test_batches_of_the_entangled_program(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path, _ = published_network(tmp_path)
    (path / "cmd_options.txt").unlink()  # this program writes none
    torch.manual_seed(1)
    write_batch(tmp_path / "DATASET/th_test/batch1", torch.rand(7, 1, 150, 150))
    monkeypatch.setattr(originals, "MAPS", 8)
    evaluate.main(["--checkpoint", str(path), *EXACT, "--data", "DATASET", "--out", "o.json"])
    assert "leakage and correlation are not measured" in capsys.readouterr().out
    report = json.loads((tmp_path / "o.json").read_text())
    assert report["images"] == 7 and report["regime"] == "entangled"
    assert report["bound"]["lower_bound_per_batch"] == pytest.approx(
        7 * report["bound"]["lower_bound"]
    )
    with pytest.raises(SystemExit):
        evaluate.main(["--checkpoint", str(path)])
    assert "a published network needs --data" in capsys.readouterr().err


def test_reconstructions_are_written_as_the_published_program_dumps_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, net = published_network(tmp_path, datasetdir="DATASET")
    root = published_data(tmp_path / "DATASET")
    command = ["--checkpoint", "networks/x", *EXACT, "--test_batches", "1", "--out", "o.json"]
    evaluate.main([*command, "--preds", "tmp/x"])
    files = {str(file.relative_to(tmp_path / "tmp/x")) for file in tmp_path.rglob("preds*")}
    assert files == {f"{group.set}/preds{n}" for group in FACES for n in (1, 2)}
    image = torch7.read(root / f"th_{FACES[2].set}/FT_test/batch2")
    with torch.no_grad():
        expected = net.decode(net.encode(image)[0])
    written = torch7.read(tmp_path / f"tmp/x/{FACES[2].set}/preds2")
    torch.testing.assert_close(written, expected, rtol=0, atol=1e-6)  # sums in another order


def test_a_converted_published_network_is_not_scored_on_the_demo_world(tmp_path, capsys):
    path, _ = published_network(tmp_path)
    for name in ("x.pt", "x.safetensors"):
        published.main([str(path), str(tmp_path / name)])
        with pytest.raises(SystemExit):
            evaluate.main(["--checkpoint", str(tmp_path / name)])
        assert "a published network needs --data" in capsys.readouterr().err


def test_scoring_needs_no_moments(tmp_path, capsys):
    """Only training reads config.t7 and state.t7, so files that do not fit do not matter."""
    path, _ = published_network(tmp_path)
    root = published_data(tmp_path / "D", (2,))
    moments = {"evalCounter": 1.0, "m": torch.zeros(3), "v": torch.zeros(3)}
    for content in (b"", torch7.dumps({"learningRate": -0.0005}), torch7.dumps(moments)):
        (path / "config.t7").write_bytes(content)
        capsys.readouterr()
        evaluate.main(["--checkpoint", str(path), *EXACT, "--data", str(root), "--out",
                       str(tmp_path / "o.json")])  # fmt: skip
        out = capsys.readouterr().out
        assert ("only training needs it" in out) == (b"learningRate" not in content)
        infer.main(["--checkpoint", str(path), *EXACT, "--sweep", "z:1", "--steps", "2", "-s",
                    str(face(tmp_path)), "-o", str(tmp_path / "o.png")])  # fmt: skip
    with pytest.raises(UserError, match=r"config\.t7: m must be a vector"):
        originals.read(path, training=True)


def face(folder):
    path = folder / "face.png"
    Image.new("L", (20, 20), 99).save(path)
    return path


def test_long_stages_have_a_progress_bar_on_a_terminal(run, few, tmp_path, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(latents_module, "DELAY", 0.0)
    command = ["--checkpoint", str(run), *EXACT, "--test_batches", "1"]
    evaluate.main([*command, "--out", str(tmp_path / "o.json")])
    assert "%|" not in capsys.readouterr().err
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    evaluate.main([*command, "--out", str(tmp_path / "o.json")])
    for stage in ("encoding", "decoding", "drawing", "codes of type", "lower bound"):
        assert f"{stage}" in terminal.getvalue(), stage


def test_a_table_of_any_number_of_images_is_scored(run, tmp_path, capsys):
    rows = ["file,azimuth,elevation,light,identity,split"]
    Image.new("L", (9, 9), 50).save(tmp_path / "a.png")
    for split in ("train", "test"):
        for person in ("x", "y"):
            for factors in ("0,0,0", "1,0,0", "0,.2,0", "0,0,1"):
                rows.append(f"a.png,{factors},{split}{person},{split}")
    (tmp_path / "factors.csv").write_text("\n".join(rows) + "\n")
    evaluate.main(["--checkpoint", str(run), *EXACT, "--data", str(tmp_path), "--out",
                   str(tmp_path / "o.json")])  # fmt: skip
    report = json.loads((tmp_path / "o.json").read_text())
    assert report["images"] == 3 * 4 + 2 * 4 and report["rerender light"]["pairs"] == 4
    # A table of others that holds nothing to train on: maps of latents are missing.
    table = (tmp_path / "factors.csv").read_text().splitlines()
    only = [line for line in table if not line.endswith("train")]
    (tmp_path / "factors.csv").write_text("\n".join(only) + "\n")
    evaluate.main(["--checkpoint", str(run), *EXACT, "--data", str(tmp_path), "--out",
                   str(tmp_path / "o.json")])  # fmt: skip
    assert "re-rendering is not measured: " in capsys.readouterr().out
    report = json.loads((tmp_path / "o.json").read_text())
    assert "rerender light" not in report and "light_within" in report["correlation"]


@pytest.mark.parametrize("name", sorted(experiments_dcign.EXPERIMENTS))
def test_experiments_set_the_options_of_their_names(name, tmp_path):
    options = ["--config", "demo_dcign.yaml", *experiments_dcign.PLAIN]
    if name == "f":  # goes on from a network of the demo's size
        other = write_run(tmp_path / "a", regime="entangled")
        sizes = ["--dim_hidden", str(LATENTS), "--feature_maps", "8", "--image_size", str(SIZE)]
        options += [*sizes, "--checkpoint", str(other)]
    args = parse("", [*options, *experiments_dcign.EXPERIMENTS[name]])
    assert (args.regime == "entangled") == (name == "a")
    if name != "a":
        assert args.shape_bias == (name != "b")
        assert not args.shape_bias or args.shape_bias_amount == 9  # 1 : 1 : 1 : 10
    assert args.clamp == ("mean" if name == "e" else "first")
    assert args.invariance_strength == (0.01 if name == "d" else 0)


def test_bars_and_tables_are_of_what_evaluate_reports(run, few, tmp_path):
    out = tmp_path / "o.json"
    evaluate.main(["--checkpoint", str(run), *EXACT, "--test_batches", "1", "--out", str(out)])
    report = json.loads(out.read_text())
    for _, part, key in experiments_dcign.ROWS:
        assert isinstance(report[part][key], float)
    bars = learning.BARS["dcign"](report)
    assert [bar for *_, bar in bars] == [0.9, 0.9, 0.9, 0.7, 0.7, 0.6, 0.7, 0.6]
    assert bars[2][1] == report["correlation"]["light_within"]
