"""evaluate.py --pairs: scores of a network, of other programs' images and of baselines."""

import json

import numpy as np
import pytest
import torch

import evaluate
from nets import metrics
from nets.data.io.images import read_image, write_image
from nets.data.people.index import write_index
from nets.data.people.transfers import result_name
from nets.pretrained.lpips import load_lpips
from nets.published import TRAINED
from nets.skeletons import JOINTS_17
from nets.vunet import evaluate_pairs
from nets.worlds.people.world import PeopleWorld

COUNT = 12


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Twelve images of the demo world, two a person and 48 x 64 pixels, and a list of pairs."""
    folder = tmp_path_factory.mktemp("people")
    world = PeopleWorld("test", 64, length=COUNT)
    joints, names = {}, [f"p{i // 2}/{i}.png" for i in range(COUNT)]
    for i, name in enumerate(names):
        sample = world[0, i]
        write_image(folder / "images" / name, sample["target"][:, :, 8:56])
        points = (sample["joints"] - torch.tensor([8.0, 0.0])).tolist()
        inside = {
            joint: [round(v, 2) for v in point]
            for joint, point in zip(world.joint_order, points, strict=True)
            if point[0] == point[0] and 1 < point[0] < 47
        }
        joints[name] = inside
    (folder / "annotation.json").write_text(json.dumps(joints))
    pairs = [f"{a},{b}" for a, b in zip(names, names[1:] + names[:1], strict=True)]
    (folder / "pairs.csv").write_text("\n".join(["from,to", *pairs]) + "\n")
    return folder, [tuple(pair.split(",")) for pair in pairs]


@pytest.fixture(autouse=True)
def no_cache(tmp_path, monkeypatch):
    """Weights of others that lie on this machine do not change a test."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


def scores(folder, *arguments):
    out = folder / "report.json"
    evaluate.main([
        "--pairs", str(folder / "pairs.csv"), "--joints", str(folder / "annotation.json"),
        "--workers", "0", "--out", str(out), *map(str, arguments),
    ])  # fmt: skip
    return json.loads(out.read_text())


@pytest.fixture
def truths(people, tmp_path):
    """A folder in which every result is its true target."""
    folder, pairs = people
    for source, target in pairs:
        image = read_image(folder / "images" / target, None)
        write_image(tmp_path / "truths" / result_name(source, target), image)
    return tmp_path / "truths"


def test_true_targets_have_perfect_scores_without_any_network(people, truths, capsys):
    report = scores(people[0], "--reference", truths)
    row = report["reference"]
    assert row["nearest_target"] == 1
    assert [row[name]["mean"] for name in ("gradient", "l1")] == [1, 0]
    assert row["ssim"]["mean"] == pytest.approx(1, abs=1e-6) and row["ssim"]["count"] == COUNT
    assert "network" not in report and report["mean_image"]["gradient"]["mean"] < 0.7
    assert report["copy_source"]["l1"]["mean"] > 0
    shown = capsys.readouterr().out
    assert "12 of " in shown and "targets of 6 people" in shown and "48x64 px" in shown
    assert "nearest target: result and true targets are shrunk by area to 32 rows" in shown


def test_only_pairs_with_an_image_of_the_reference_count(people, truths, capsys):
    for file in sorted(truths.iterdir())[4:]:
        file.unlink()
    report = scores(people[0], "--reference", truths)
    assert report["pairs"] == report["copy_source"]["l1"]["count"] == 4
    assert "4 of 12; only these pairs count" in capsys.readouterr().out


def test_a_networks_images_score_as_its_row(people, tmp_path):
    network = [TRAINED / "vunet.safetensors", "--batch_size", 5]
    ours = scores(people[0], "--checkpoint", *network, "--pairs_out", tmp_path / "out")
    theirs = scores(people[0], "--reference", tmp_path / "out")
    assert ours["network"] == theirs["reference"] and ours["mean_image"] == theirs["mean_image"]
    assert 0 < ours["network"]["l1"]["mean"] < 0.5
    assert "128x128 result is resized to 48x64" in ours["protocol"]["pairs"]
    both = scores(people[0], "--checkpoint", *network, "--reference", tmp_path / "out")
    assert both["network"] == both["reference"] == ours["network"]


def test_unseen_leaves_out_people_of_the_training_split(people, tmp_path, monkeypatch, capsys):
    folder, pairs = people
    names = [f"images/{i}_0.jpg" for i in range(COUNT)]  # as extract.py names them
    joints = np.full((COUNT, 17, 2), 0.5, np.float32)
    write_index(tmp_path / "index.p", JOINTS_17, names, joints, [i == 0 for i in range(COUNT)])
    read = evaluate_pairs.open_pairs

    def with_data(args, trained):
        return read(args, trained and {**trained, "data": str(tmp_path / "index.p")})

    monkeypatch.setattr(evaluate_pairs, "open_pairs", with_data)
    report = scores(folder, "--checkpoint", TRAINED / "vunet.safetensors", "--unseen")
    left = [pair for pair in pairs if not any(name.startswith("p0/") for name in pair)]
    assert report["pairs"] == len(left) == 9
    assert f"index.p: {len(left)} of {COUNT}; only these pairs count" in capsys.readouterr().out


class Small:
    """Stands for InceptionV3: colours of 8 x 8 cells as features, a few of them as logits."""

    description = "small"

    def to(self, device):
        return self

    def __call__(self, images):
        cells = torch.nn.functional.adaptive_avg_pool2d(images.double() / 255, 4).flatten(1)
        return cells, cells[:, :10] * 5


def test_the_papers_scores(people, truths, tmp_path, monkeypatch):
    monkeypatch.setattr(
        evaluate_pairs, "load_lpips",
        lambda network, **settings: load_lpips(source="random", network=network),
    )  # fmt: skip
    monkeypatch.setattr(evaluate_pairs, "load_inception", lambda *settings: Small())
    folder = people[0]
    report = scores(folder, "--reference", truths, "--papers", "--fid", truths)
    perfect, copied = report["reference"], report["copy_source"]
    assert perfect["fid"] == pytest.approx(0, abs=1e-6) and copied["fid"] > -1e-6
    for name, best in {"ssim_inside": 1, "mask_ssim": 1, "lpips_alex": 0, "lpips_vgg": 0}.items():
        assert perfect[name]["mean"] == pytest.approx(best, abs=1e-6)
        assert abs(copied[name]["mean"] - best) > 1e-3
        assert name in report["protocol"]
    assert perfect["psnr"] is None  # infinite for all
    assert 1 < perfect["inception_score"]["mean"] < 10
    assert report["left_out"] == ["ssim_window51: the images have less than 51 pixels"]
    # the same FID against the images' own statistics
    images = torch.stack([read_image(f, None) for f in sorted(truths.iterdir())])
    mean, covariance = metrics.gaussian_of(Small()(images)[0])
    monkeypatch.setattr(evaluate_pairs, "FEATURES", len(mean))
    np.savez(tmp_path / "fid.npz", mu=mean.numpy(), sigma=covariance.numpy())
    again = scores(folder, "--reference", truths, "--fid", tmp_path / "fid.npz")
    assert again["copy_source"]["fid"] == pytest.approx(copied["fid"])
    joints = np.full((COUNT, 17, 2), 0.5, np.float32)
    names = [f.name for f in sorted(truths.iterdir())]
    write_index(truths / "index.p", JOINTS_17, names, joints, [True] * COUNT)
    again = scores(folder, "--reference", truths, "--fid", truths / "index.p")
    assert again["copy_source"]["fid"] == pytest.approx(copied["fid"])
    assert f"against {COUNT} training images of" in again["protocol"]["fid"]


def test_what_cannot_be_measured_is_said(people, truths, capsys):
    report = scores(people[0], "--reference", truths, "--papers")
    lines = "\n".join(report["left_out"])
    for text in (
        "lpips_alex: no AlexNet weights: alexnet-owt-7be5be79.pth",
        "lpips_vgg: no torchvision16 VGG16 weights",
        "inception_score: no Inception weights of FID: pt_inception-2015-12-05-6726825d.pth",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/",
        "fid: --fid names the real images",
    ):
        assert (
            text in lines and f"left out: {text}"[:40] in capsys.readouterr().out
        ) or text in lines
    assert "lpips_alex" not in report["reference"]
    with pytest.raises(SystemExit, match="2"):
        scores(people[0], "--reference", truths, "--fid", truths)
    assert "no Inception weights of FID" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--papers"], "--papers: only with --pairs"),
        (["--reference", "x"], "--reference: needs --pairs"),
        (["--reference", "x", "--pairs", "y", "--unseen"], "--unseen: needs --checkpoint"),
        (["--pairs", "none.csv"], "none.csv: cannot be read as a list of pairs"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        evaluate.main(
            arguments if "--reference" in arguments else ["--system", "vunet", *arguments]
        )
    assert message in capsys.readouterr().err


def test_a_reference_that_fits_no_pair_is_named(people, truths, capsys):
    for file in list(truths.iterdir()):
        file.rename(truths / f"x{file.name}")
    with pytest.raises(SystemExit, match="2"):
        scores(people[0], "--reference", truths)
    error = capsys.readouterr().err
    assert "images as p00.png___p01.png_vis.png: none of 12 pairs" in error
