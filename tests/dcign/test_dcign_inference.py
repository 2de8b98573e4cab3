"""infer.py with a small DC-IGN of random weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

import guise
import infer
from dcign_tiny import LATENTS, SIZE, network, write_run
from nets import app_systems
from nets.data.io.images import read_grey, read_image, write_image
from nets.data.io.video import open_video
from nets.dcign import FACES
from nets.dcign.infer import to_face
from nets.dcign.latents import Latents, encode
from nets.dcign.metrics import fit_map

GAP = 2  # pixels between the tiles of a sheet
EXACT = ("--precision", "fp32")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Two colour images of different sizes, and a grey one with a palette."""
    folder = tmp_path_factory.mktemp("faces")
    torch.manual_seed(0)
    for name, shape in (("a", (3, 90, 60)), ("b", (3, 40, 70))):
        write_image(folder / f"{name}.png", (torch.rand(shape) * 255).byte())
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).convert("P").save(
        folder / "c.png"
    )
    return folder


def sheet(path):
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("L")))


def tiles(path, rows: int, columns: int) -> torch.Tensor:
    """(rows, columns, SIZE, SIZE) uint8, the images below and right of a sheet's captions."""
    whole = sheet(path)
    step = SIZE + GAP
    cut = whole[-rows * step :, -columns * step :]
    assert cut.shape == (rows * step, columns * step)
    return cut.unfold(0, SIZE, step).unfold(1, SIZE, step)


def test_a_face_of_any_size_and_colour_becomes_the_networks_input():
    wide = torch.zeros(3, 30, 60, dtype=torch.uint8)
    wide[0] = 255  # red
    face = to_face(wide, 48)
    assert face.shape == (1, 48, 48) and face.dtype == torch.float32
    assert face[0, :10].min() > 0.999 and face[0, -10:].min() > 0.999  # white above and below
    assert face[0, 16:32].max() == pytest.approx(0.21, abs=1e-6)
    assert face[0, 16:32].min() == pytest.approx(0.21, abs=1e-6)
    green, blue = (
        to_face(torch.eye(3)[c, :, None, None].expand(3, 9, 9).mul(255).byte(), 48) for c in (1, 2)
    )
    assert green.mean() == pytest.approx(0.72) and blue.mean() == pytest.approx(0.07)
    square = torch.full((3, 150, 150), 128, dtype=torch.uint8)
    assert to_face(square, 150).sub(128 / 255).abs().max() < 1e-6


def test_images_are_squashed_for_a_run_on_a_table_as_in_its_training(tmp_path):
    torch.manual_seed(0)
    write_image(tmp_path / "a.png", (torch.rand(1, 30, 20) * 255).byte())
    (tmp_path / "factors.csv").write_text("file,light,shape\na.png,0.5,anna\n")
    (tmp_path / "th_LIGHT_AZ_VARIED").mkdir()
    for root, squashed in ((tmp_path, False), (None, False), (tmp_path / "table", True)):
        latents = Latents(network(), {"data": root, "groups": ["light=1", "shape=rest"],
                                      "regime": "disentangled"})  # fmt: skip
        assert latents.squashed == squashed
    face = to_face(read_image(tmp_path / "a.png", None), SIZE, squash=True)
    trained = read_grey(tmp_path / "a.png", SIZE).float() / 255
    # Pillow and torch interpolate alike, up to the rounding of bytes.
    torch.testing.assert_close(face, trained, rtol=0, atol=2 / 255)


def test_a_sheet_shows_the_decoded_image_of_each_value(run, faces, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    command = ["--checkpoint", str(run), *EXACT, "-s", str(faces / "a.png"), "-o", str(out)]
    options = ["--sweep", "light", "shape:2", "z:8", "--range", "-4", "6", "--steps", "3"]
    infer.main([*command, *options])
    assert f"written: {out}" in capsys.readouterr().out
    shown = tiles(out, 3, 5)
    net = network()
    face = to_face(read_image(faces / "a.png", None), SIZE)
    with torch.no_grad():
        code = net.encode(face[None])[0]
        assert (shown[0, 0].float() - face[0] * 255).abs().max() <= 0.5
        for row, latent in enumerate((2, 4, 7)):
            assert (shown[row, 1].float() - net.decode(code)[0, 0] * 255).abs().max() < 0.6
            for column, value in enumerate((-4.0, 1.0, 6.0)):
                changed = code.clone()
                changed[0, latent] = value
                truth = net.decode(changed)[0, 0] * 255
                assert (shown[row, 2 + column].float() - truth).abs().max() < 0.6
    assert (shown[0, 2].int() - shown[0, 4].int()).abs().max() > 5  # the images follow the latent


def test_sweeps_reach_as_far_as_training_images(run, tmp_path, capsys):
    infer.main(["--checkpoint", str(run), *EXACT, "--steps", "2", "-o", str(tmp_path / "o.png")])
    printed = capsys.readouterr().out
    assert "no -s" in printed
    assert tiles(tmp_path / "o.png", 6, 4).float().std() > 1  # two heads, three factors
    latents = Latents(network(), {**content(run)["options"]})
    codes = torch.cat([c.flatten(0, 1) for c in latents.seen[0].values()])
    assert codes.shape == (4 * 3 * 6, LATENTS)
    for name, index in (("azimuth", 0), ("light", 2)):
        low, high = np.quantile(codes[:, index].numpy(), (0.01, 0.99))
        assert latents.bounds(index) == pytest.approx((low, high), rel=1e-4)
        assert f"{name}: {low:.3g} to {high:.3g}" in printed


def content(run):
    from nets.run import checkpoints

    return checkpoints.read(checkpoints.find(run))


def test_degrees_go_through_the_map_from_factor_to_latent(run, faces, tmp_path, capsys):
    out = str(tmp_path / "o.png")
    command = [
        "--checkpoint",
        str(run),
        *EXACT,
        "-s",
        str(faces / "a.png"),
        "-o",
        out,
        "--sweep",
        "light",
    ]
    infer.main([*command, "--range", "-30", "45", "--degrees", "--steps", "2"])
    latents = Latents(network(), content(run)["options"])
    codes, labels = latents.seen
    truth = torch.cat([of["light"].flatten() for of in labels.values()])
    latent_map = fit_map(truth, torch.cat([c[..., 2:3].flatten(0, 1) for c in codes.values()]))
    low, high = latent_map(torch.tensor([math.radians(-30), math.radians(45)]))[:, 0].tolist()
    assert low != high and f"light: {low:.3g} to {high:.3g}" in capsys.readouterr().out


def test_a_factor_that_turns_fully_is_swept_along_its_circle(faces, tmp_path, capsys):
    rows = ["file,azimuth,shape,split"]
    for person, split in (("a", "train"), ("b", "train"), ("c", "test"), ("d", "test")):
        for k in range(20):
            write_image(tmp_path / f"{person}{k}.png", torch.full((1, 8, 8), 12 * k).byte())
            rows.append(f"{person}{k}.png,{k * math.pi / 10 + 0.1},{person},{split}")
    (tmp_path / "factors.csv").write_text("\n".join(rows) + "\n")
    run = write_run(tmp_path / "run", groups=["azimuth=2", "shape=rest"], data=str(tmp_path),
                    batch_size=2, num_train_batches_per_type=None)  # fmt: skip
    command = ["--checkpoint", str(run), *EXACT, "-s", str(faces / "a.png"), "--sweep", "azimuth"]
    infer.main([*command, "--steps", "4", "-o", str(tmp_path / "o.gif")])
    latents = Latents(network(), content(run)["options"])
    turn = latents.maps["azimuth"]
    assert turn.turns and turn.latent.shape == (20, 2)
    first = ", ".join(f"{value:.3g}" for value in turn(torch.zeros(())).tolist())
    assert f"azimuth: {first} to {first}" in capsys.readouterr().out
    with Image.open(tmp_path / "o.gif") as movie:
        assert movie.n_frames == 4
    with pytest.raises(SystemExit):
        infer.main([*command, "--range", "0", "1", "-o", str(tmp_path / "o.png")])
    assert "--range: azimuth has 2 latents; give --degrees as well" in capsys.readouterr().err
    infer.main([*command, "--range", "0", "90", "--degrees", "-o", str(tmp_path / "o.png")])
    low, high = (turn(torch.tensor(angle)).tolist() for angle in (0.0, math.pi / 2))
    assert f"azimuth: {low[0]:.3g}, {low[1]:.3g} to {high[0]:.3g}, " in capsys.readouterr().out


def test_the_page_has_a_slider_for_each_latent_of_a_factor(run, tmp_path):
    turning = write_run(tmp_path / "run", groups=["azimuth=2", "shape=rest"])
    first, second = (guise.load(str(path), precision="fp32") for path in (run, turning))
    names = ["azimuth", "elevation", "light", "shape:1", "shape:2"]
    assert app_systems.latent_names(first, 2) == names
    names = app_systems.latent_names(second, 1)
    assert names == ["azimuth:1", "azimuth:2", "shape:1"]
    assert [app_systems.latent_index(second, name) for name in names] == [0, 1, 2]


@pytest.mark.parametrize("ending", [".gif", ".mp4"])
def test_a_movie_goes_there_and_back(run, faces, tmp_path, ending):
    out = tmp_path / f"movie{ending}"
    command = ["--checkpoint", str(run), *EXACT, "-s", str(faces / "a.png"), str(faces / "b.png")]
    infer.main([*command, "--range", "-9", "9", "--steps", "8", "-o", str(out)])
    frames = torch.stack([image[0] for _, image in open_video(out)])
    assert len(frames) == 8 and frames.shape[1] >= 2 * SIZE and frames.shape[2] >= 4 * SIZE
    change = (frames.float() - frames.float().roll(1, 0)).abs().mean((1, 2))
    assert change[1:].max() > 0.1  # it moves
    # The sweep returns: frame k equals frame 8 - k, up to the loss of the codec.
    loss = 0.01 if ending == ".gif" else 4
    assert (frames[1:].float() - frames[1:].flip(0).float()).abs().mean() < loss


def test_several_latents_turn_together(run, faces, tmp_path, capsys):
    command = ["--checkpoint", str(run), *EXACT, "-s", str(faces / "a.png"), "--sweep", "light",
               "azimuth", "--together", "--range", "-4", "6"]  # fmt: skip
    infer.main([*command, "--steps", "3", "-o", str(tmp_path / "o.png")])
    shown = tiles(tmp_path / "o.png", 1, 5)
    net = network()
    face = to_face(read_image(faces / "a.png", None), SIZE)
    with torch.no_grad():
        code = net.encode(face[None])[0]
        for column, value in enumerate((-4.0, 1.0, 6.0)):
            code[0, [0, 2]] = value
            truth = net.decode(code)[0, 0] * 255
            assert (shown[0, 2 + column].float() - truth).abs().max() < 0.6
    infer.main([*command, "--steps", "4", "-o", str(tmp_path / "o.gif")])
    frames = [image for _, image in open_video(tmp_path / "o.gif")]
    assert len(frames) == 4 and frames[0].shape[2] == 2 * (SIZE + GAP)  # input and one column


@pytest.mark.parametrize("regime", ["disentangled", "entangled"])
def test_without_images_a_demo_shows_heads_in_the_pose_of_others(tmp_path, capsys, regime):
    run, out = write_run(tmp_path / "r", regime=regime), tmp_path / "o.png"
    infer.main(["--checkpoint", str(run), *EXACT, "-o", str(out)])
    assert "no -s" in capsys.readouterr().out
    with Image.open(out) as image:
        assert image.width >= 4 * 256 and image.height >= 4 * 256
        grid = torch.from_numpy(np.array(image.convert("L"))).float()[-4 * 260 :]
        driving, truth = (grid[:, 260 * i : 260 * i + 256] for i in (1, 3))
        assert (driving - truth).abs().mean() > 1  # of two persons
    infer.main(["--checkpoint", str(run), *EXACT, "-o", str(tmp_path / "o.gif"), "--steps", "2"])
    assert "azimuth: " in capsys.readouterr().out  # a movie is still one of sweeps


def test_reconstructions_of_test_data_and_of_images(run, faces, tmp_path, capsys):
    out = str(tmp_path / "o.png")
    infer.main(["--checkpoint", str(run), *EXACT, "--reconstruct", "-o", out])
    assert "mean squared error 0." in capsys.readouterr().out
    assert tiles(out, 4 * 6, 2).shape[:2] == (24, 2)  # the first batch of each of the four types
    infer.main(["--checkpoint", str(run), *EXACT, "--reconstruct", "-s", str(faces), "-o", out])
    face = to_face(read_image(faces / "b.png", None), SIZE)
    with torch.no_grad():
        truth = network()(face[None])[0][0, 0] * 255
    assert (tiles(out, 3, 2)[1, 1].float() - truth).abs().max() < 0.6


def test_the_published_generalisation_sheet(run, faces, tmp_path, capsys):
    out = str(tmp_path / "o.png")
    command = ["--checkpoint", str(run), *EXACT, "-s", str(faces), "--generalize", "-o", out]
    infer.main(command)
    printed = capsys.readouterr().out
    assert "azimuth: -20 to 20" in printed
    assert tiles(out, 3 * 3, 2 + 6).shape[:2] == (9, 8)
    infer.main([*command, "--custom_bounds", "--steps", "4"])
    printed = capsys.readouterr().out
    assert "azimuth: -4 to 5" in printed and "elevation: 0.5 to 6" in printed
    assert "light: -1.5 to 4" in printed
    tiles(out, 9, 6)
    at = command.index("-s")  # without -s: eight test faces, from two batches of six
    infer.main([*command[:at], *command[at + 2 :], "--steps", "1"])
    tiles(out, 3 * 8, 2 + 1)


def test_a_face_in_the_pose_and_light_of_another(run, faces, tmp_path):
    out = tmp_path / "o.png"
    command = ["--checkpoint", str(run), *EXACT, "-o", str(out)]
    infer.main([*command, "-s", str(faces / "a.png"), "-d", str(faces / "b.png")])
    net = network()
    pair = [to_face(read_image(faces / f"{n}.png", None), SIZE) for n in "ab"]
    code = encode(net, torch.stack(pair))
    mixed = torch.cat([code[1, :3], code[0, 3:]])[None]
    with torch.no_grad():
        truth = net.decode(mixed)[0, 0] * 255
    assert (sheet(out).float() - truth).abs().max() < 0.6
    infer.main([*command, "-s", str(faces), "-d", str(faces)])
    single = sorted(p.name for p in (tmp_path / "o").iterdir())
    assert len(single) == 9 and single[1] == "a--b.png"
    assert torch.equal(sheet(tmp_path / "o" / "a--b.png").float().round(), truth.round())


def test_a_video_drives(run, faces, tmp_path):
    driving, out = tmp_path / "d.mp4", tmp_path / "o.mp4"
    command = ["--checkpoint", str(run), *EXACT, "-s", str(faces / "a.png")]
    infer.main(
        [*command, "--sweep", "z:1", "--range", "0", "9", "--steps", "5", "-o", str(driving)]
    )
    infer.main([*command, "-d", str(driving), "-o", str(out)])
    frames = [image for _, image in open_video(out)]
    assert len(frames) == 5 and frames[0].shape == (3, SIZE, SIZE)


def test_an_entangled_network_has_latents_by_variance(tmp_path):
    run = write_run(tmp_path / "e", regime="entangled")
    latents = Latents(network(), content(run)["options"])
    moving = latents.seen[0]["light"].var(1, unbiased=False).mean(0)
    assert latents.indices("light") == [moving.argmax()]
    assert [g.name for g in FACES][:3] == latents.factors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--sweep", "nose"],
            "no such latent; the names are azimuth, elevation, light, shape:K",
        ),
        (["--sweep", "shape"], "shape: must be shape:K, K from 1 to 5"),
        (["--sweep", "shape:6"], "shape:6: must be shape:K, K from 1 to 5"),
        (["--sweep", "z:0"], "z:0: must be z:K, K from 1 to 8"),
        (["--sweep", "light", "--reconstruct"], "--sweep and --reconstruct: give one of them"),
        (["--custom_bounds"], "--custom_bounds: needs --generalize"),
        (["--sweep", "light", "--together"], "--together: needs two or more latents"),
        (["--degrees"], "--degrees: needs --range"),
        (["--sweep", "shape:1", "--degrees", "--range", "1", "2"], "shape:1 has no degrees"),
        (["-d", "FACE"], "-s: -d needs a source image"),
        (["--generalize", "-o", "x.gif"], "a sheet must end in .png or .jpg"),
        (["-o", "x.tif"], "must end in .png"),
        (["-s", "nothing.png"], "nothing.png: is missing"),
        (["-s", "FACE", "-d", "x.mp4"], "--out out.png: a video must end in .gif"),
        (["-s", "FACE", "FACE", "-d", "x.mp4", "-o", "y.mp4"], "a video must be the only -d"),
        (["--samples", "3"], "--samples: an option of vunet"),
        (["--steps", "0"], "--steps"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(run, faces, options, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    options = [str(faces / "a.png") if o == "FACE" else o for o in options]
    with pytest.raises(SystemExit) as left:
        infer.main(["--checkpoint", str(run), *EXACT, *options])
    assert left.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_published_network_has_no_data_but_ranges(tmp_path):
    latents = Latents(network(), content(write_run(tmp_path / "r"))["options"], has_data=False)
    assert latents.bounds(1) == (-20, 20) and latents.indices("elevation") == [1]
    with pytest.raises(ValueError, match="has no data of its own"):
        _ = latents.maps


def test_a_narrow_strip_needs_no_large_square():
    from nets.dcign.infer import to_face

    strip = torch.zeros(3, 60_000, 20, dtype=torch.uint8)  # its square would have 14 GB
    face = to_face(strip, 16)
    assert face.shape == (1, 16, 16) and face[0, :, 0].min() > 0.99 and face.min() < 0.99
