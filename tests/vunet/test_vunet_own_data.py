"""Data sets of the user's own: a class in a Python file; images with opacity; heatmaps as poses."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
import infer
import train_vunet
from helpers import ROOT, last_line, script
from nets.data.io.images import read_image, write_image
from nets.data.people.index import IndexDataset
from nets.data.people.own import OwnDataset
from nets.errors import BadSample, UserError
from nets.run import checkpoints
from nets.skeletons import OPENPOSE_18
from nets.vunet.data import PersonInputs, joint_heatmaps, open_people
from nets.vunet.visuals import drawn_pose
from small_data import index_folder

IMAGE = ["--variant", "image", "--losses.color_L1.weight", "1"]
PARTS: list[str] = []
OWN = '''
import numpy as np

class Mine:
    """People as random blocks."""
    joint_order = ["lshoulder", "rshoulder", "lhip", "rhip", "cnose"]

    def __init__(self, split, size):
        self.split, self.size, self.identities = split, size, list("aabbcc")

    def __len__(self):
        return 6

    def __getitem__(self, index):
        random = np.random.default_rng([index, self.split == "train"])
        image = random.integers(0, 256, (self.size, self.size, 3), dtype=np.uint8)
        joints = self.size * random.uniform(0.1, 0.9, (5, 2))
        return {"target": image, "joints": joints}

class Published(Mine):
    """The samples of the published whole-image program: floats, and a stick figure as image."""
    def __getitem__(self, index):
        random = np.random.default_rng(index)
        draw = lambda channels: random.uniform(-1, 1, (self.size, self.size, channels))
        return {"target": draw(3), "stickman": draw(CHANNELS), "appearance": draw(IMG)}
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Writes mine.py below the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(more="", channels=3, image=3):
        text = OWN.replace("CHANNELS", str(channels)).replace("IMG", str(image))
        (tmp_path / "mine.py").write_text(text + more)
        return tmp_path

    write()
    return write


def train(*arguments):
    train_vunet.main(["--config", "smoke.yaml", "--num_steps", "2", "--batch_size", "2",
                      *map(str, arguments)])  # fmt: skip


def files_of(run):
    return {path.name for path in (run / "images").iterdir()}


@pytest.mark.parametrize("form", [PARTS, IMAGE], ids=["parts", "image"])
def test_a_class_of_ones_own_is_trained_on_shown_and_scored(mine, tmp_path, capsys, form):
    train("--data", "mine.py:Mine", *form, "--name", "a")
    assert "on mine.py:Mine: 6 images of 32 px" in capsys.readouterr().out
    assert {"final_0000002.png", "transfer_0000002.png"} <= files_of(tmp_path / "runs/vunet/a")
    infer.main(["-o", "out.png"])
    with Image.open("out.png") as image:
        assert image.width == pytest.approx(3 * 256, abs=20)  # without ground truth
        assert image.height == pytest.approx(4 * 256, abs=60)  # four rows, of three people
    evaluate.main(["--workers", "0", "--out", "scores.json"])
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert (scores["data"], scores["images"]) == ("mine.py:Mine", 6)
    train_vunet.main(["--mode", "add_reconstructions", "--checkpoint", "runs/vunet/a", "--name",
                      "r", "--workers", "0"])  # fmt: skip
    assert len(list((tmp_path / "runs/vunet/r/reconstructions/images").iterdir())) == 6


@pytest.mark.parametrize(("channels", "image"), [(3, 3), (18, 4), (5, 3)])
def test_samples_of_the_published_program_train_the_image_form(mine, tmp_path, channels, image):
    mine(channels=channels, image=image)
    train("--data", "mine.py:Published", *IMAGE, "--pose_channels", channels, "--img_channels",
          image, "--name", "a")  # fmt: skip
    infer.main(["-o", "out.png"])
    evaluate.main(["--workers", "0", "--out", "scores.json"])
    assert json.loads((tmp_path / "scores.json").read_text())["images"] == 6
    train_vunet.main(["--mode", "test", "--checkpoint", "runs/vunet/a", "--name", "t",
                      "--workers", "0", "--batch_size", "2"])  # fmt: skip
    model = checkpoints.read(checkpoints.find("runs/vunet/a"))["parts"]["model"]
    assert model["pose.enter.weight"].shape[1] == channels
    assert model["appearance.enter.weight"].shape[1] == image
    with pytest.raises(SystemExit, match="2"):  # nothing draws such a figure from joints alone
        infer.main(["--samples", "2", "-o", "samples"])


def test_the_example_of_the_documentation_runs(tmp_path):
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    section = page.partition("## 3. A class of your own\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    (command, *_) = re.findall(r"python train_vunet\.py (.*mine\.py.*)", section)
    small = "--nf_start 4 --nf_max 8 --feature_layers [input_1] --feature_weights [1]"
    small += " --gram_weights [0] --num_steps 1 --image_size 32 --init_batches 1 --batch_size 2"
    done = script("train_vunet.py", *command.split(), *small.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "on mine.py:" in done.stdout


def opened(more="", size=32, split="train", pairing="same", **settings):
    return OwnDataset("mine.py:Wrong", split, size, pairing, **settings)


def sample(change):
    """A class whose samples are changed by one statement about `s`, or by a return."""
    return (
        "\nclass Wrong(Mine):\n    def __getitem__(self, index):\n"
        f"        s = super().__getitem__(index)\n        {change}\n        return s\n"
    )


S = "mine.py:Wrong, sample 0 of 'train': "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("del s['target']", S + "lacks target, it has joints"),
        ("del s['joints']", S + "lacks joints, it has target"),
        ("s['appearance'] = s['target']", S + "lacks appearance_joints, it has target, joints"),
        ("s = [1]", S + "must be a dict of arrays, is a list"),
        ("s['target'] = s['target'][:16]", S + "target must have the shape (32, 32, 3) or (32, 32, "
         "4), has (16, 32, 3)"),
        ("s['target'] = s['target'].transpose(2, 0, 1)", "has (3, 32, 32)"),
        ("s['target'] = 'file.jpg'", "target must have the shape (32, 32, 3)"),
        ("s['target'] = s['target'].astype('int64')", S + "target must be uint8 or float, is "
         "int64"),
        ("s['target'] = s['target'].astype('float32')", S + "target must be uint8, or floats in "
         "[-1, 1]; it has floats from 0 to 255"),
        ("s['target'] = np.full((32, 32, 3), np.nan)", "it has floats from nan to nan"),
        ("s['joints'] = s['joints'] / 32", S + "joints must be in pixels of the 32 px image; the "
         "largest is 0."),
        ("s['joints'] = s['joints'][:4]", S + "joints must have the shape (5, 2), has (4, 2)"),
        ("s['joints'] = s['joints'].astype('int64')", S + "joints must be float, is int64"),
        ("s['stickman'] = s['target'][..., :2]", S + "stickman must have the shape (32, 32, 3), "
         "has (32, 32, 2)"),
    ],
)  # fmt: skip
def test_a_wrong_first_sample_is_one_line(mine, change, message):
    mine(sample(change))
    with pytest.raises(UserError, match=re.escape(message)):
        opened()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("joint_order = ['lhip']", "joint_order lacks lshoulder"),
        ("def __len__(self): return 0", "holds no samples for 'train'"),
        ("def __init__(self, split): pass", "must be called as CLASS(split, size)"),
        ("def __init__(self, split, size):\n        super().__init__(split, size)\n"
         "        self.identities = [1]", "identities must be one a sample, 6, has 1"),
    ],
)  # fmt: skip
def test_a_wrong_class_is_one_line(mine, body, message):
    mine(f"\nclass Wrong(Mine):\n    {body}\n")
    with pytest.raises(UserError, match=re.escape(message)):
        opened()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("mine.py:Nobody", "mine.py has no class Nobody, but Mine, Published"),
        ("nothing.py:Mine", "nothing.py: no such file"),
        ("mine.py", "--data mine.py: which class of it? mine.py:CLASS names one"),
        ("broken.py:Mine", "broken.py, line 1: "),
    ],
)
def test_a_class_that_is_not_there_is_one_line_and_leaves_no_run(mine, tmp_path, data, message):
    (tmp_path / "broken.py").write_text("class :")
    done = script("train_vunet.py", "--config", "smoke.yaml", "--data", data, cwd=tmp_path)
    assert done.returncode == 2 and message in last_line(done)
    assert not list((tmp_path / "runs/vunet").iterdir())


def test_a_later_wrong_sample_is_named_or_skipped(mine, capsys):
    mine(sample("if index == 4: s['joints'] = s['joints'][:2]"))
    shared = ["--data", "mine.py:Wrong", "--pairing", "same", "--name"]
    with pytest.raises(SystemExit, match="2"):
        train(*shared, "a", "--num_steps", 4)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "mine.py:Wrong, sample 4 of 'train': joints must have the shape (5, 2)" in line
    train(*shared, "b", "--num_steps", 4, "--on_bad_sample", "skip")
    with pytest.raises(BadSample, match="sample 4"):
        opened()[0, 4]


def test_the_pairing_chooses_the_appearance_of_samples_without_one(mine):
    data = OwnDataset("mine.py:Mine", "train", 32, "identity")
    assert torch.equal(data[0, 2]["appearance"], data[0, 3]["target"])
    assert "appearance" not in OwnDataset("mine.py:Mine", "train", 32, "same")[0, 2]
    mine("\nclass Wrong(Mine):\n    identities = property(lambda s: None, lambda s, v: None)\n")
    with pytest.raises(UserError, match="pairing by identity needs the key identities"):
        opened(pairing="identity")


# Channels


@pytest.fixture
def transparent(tmp_path):
    """An index of images whose left half is transparent."""
    index = index_folder(tmp_path / "data", size=32)
    for file in (tmp_path / "data/images").iterdir():
        layer = Image.open(file).convert("RGBA")
        alpha = np.full((32, 32), 255, np.uint8)
        alpha[:, :16] = 0
        layer.putalpha(Image.fromarray(alpha))
        layer.save(file)
    return index


@pytest.mark.parametrize("letterbox", [False, True])
def test_images_with_opacity_have_a_fourth_channel(transparent, letterbox):
    plain = IndexDataset(transparent, "train", 32, letterbox=letterbox)
    data = IndexDataset(transparent, "train", 32, letterbox=letterbox, alpha=True)
    target = data[0, 0]["target"]
    assert target.shape == (4, 32, 32) and target[3, :, :16].max() == 0
    assert target[3, :, 16:].min() == 255
    assert torch.equal(target[:3], plain[0, 0]["target"])  # over white


@pytest.mark.parametrize("fit", ["squash", "letterbox"])
@pytest.mark.parametrize("form", [PARTS, IMAGE], ids=["parts", "image"])
def test_the_ports_channels_are_trained_and_drawn(transparent, tmp_path, monkeypatch, form, fit):
    monkeypatch.chdir(tmp_path)
    train("--data", transparent, "--pairing", "same", *form, "--img_channels", 4,
          "--pose_channels", 18, "--fit", fit, "--name", "a")  # fmt: skip
    images = tmp_path / "runs/vunet/a/images"
    figures = read_image(images / f"{'pose' if form else 'c'}_0000001.png", None)
    colours = figures[:, figures.amax(0) > 200].float()
    assert (colours.std(1) > 20).all()  # joints of many colours
    assert figures[:, 24:].amax() > 100  # ankles, too, which are not among the first channels
    (grid,) = images.glob("transfer_0000002.png")
    assert read_image(grid, None).shape == (3, 96, 96)
    model = checkpoints.read(checkpoints.find("runs/vunet/a"))["parts"]["model"]
    assert model["appearance.enter.weight"].shape[1] == (4 if form else 32)
    assert model["pose.enter.weight"].shape[1] == 18
    joints = ["--source_joints", f"{transparent}:0", "--driving_joints", f"{transparent}:1"]
    infer.main(["-s", "data/images/0.png", "-d", "data/images/1.png", *joints,
                "-o", "grid.png", "--grid"])  # fmt: skip
    infer.main(["-o", "demo.png"])
    evaluate.main(["--workers", "0", "--out", "scores.json"])
    train_vunet.main(["--mode", "transfer", "--checkpoint", "runs/vunet/a", "--name", "t",
                      "--workers", "0", "--batch_size", "2"])  # fmt: skip


def test_the_network_sees_the_opacity_of_infers_source(transparent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train("--data", transparent, "--pairing", "same", *IMAGE, "--img_channels", 4, "--name", "a")
    write_image("white.png", read_image("data/images/0.png", None))  # the same, opaque
    for source in ("data/images/0.png", "white.png"):
        infer.main(["-s", source, "-d", "data/images/1.png", "--driving_joints", f"{transparent}:1",
                    "-o", f"{source[:5]}.out.png"])  # fmt: skip
    assert not torch.equal(read_image("data/.out.png", None), read_image("white.out.png", None))


def test_the_demo_world_gives_opaque_images_and_heatmaps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train("--img_channels", 4, "--pose_channels", 18, "--name", "a")
    evaluate.main(["--workers", "0", "--images", "4", "--out", "scores.json"])
    assert "transfer" in json.loads((tmp_path / "scores.json").read_text())


def test_a_heatmap_is_a_gaussian_at_its_joint():
    joints = torch.full((1, 18, 2), torch.nan)
    joints[0, 3] = torch.tensor([20.0, 40.0])
    maps = joint_heatmaps(joints, 64, OPENPOSE_18)
    assert maps.shape == (1, 18, 64, 64)
    assert (maps[0, [i for i in range(18) if i != 3]] == -1).all()
    place = torch.tensor([[20.0, 21.0, 20.0], [40.0, 40.0, 42.0]]).long()
    expected = 2 * torch.tensor([0.0, -0.5, -2.0]).exp() - 1  # sigma is 1 px at 64 px
    torch.testing.assert_close(maps[0, 3][place[1], place[0]], expected)
    assert maps[0, 3].argmax() == 40 * 64 + 20


def test_three_channels_are_drawn_as_they_are_and_others_in_colours():
    pose = torch.rand(2, 3, 4, 4) * 2 - 1
    assert drawn_pose(pose) is pose
    maps = torch.full((1, 18, 4, 4), -1.0)
    maps[0, 0, 1, 2] = 1
    drawn = drawn_pose(maps)
    assert drawn[0, :, 1, 2].tolist() == [1, -1, -1] and (drawn > -1).sum() == 1


def test_a_number_of_channels_that_nothing_draws_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        train("--pose_channels", 7)
    assert "--pose_channels: must be 3 (a stick figure) or 18" in capsys.readouterr().err
    options = {"image_size": 32, "box_factor": 0, "appearance": "image", "stickman": "image",
               "missing_part": 0.0, "pose_channels": 7}  # fmt: skip
    with pytest.raises(UserError, match="pose_channels 7: only a class of your own"):
        PersonInputs(options, OPENPOSE_18).pose(torch.zeros(1, 18, 2))


def test_options_of_earlier_checkpoints_have_three_channels(tmp_path):
    index = index_folder(tmp_path / "data", size=32)
    options = {"data": str(index), "seed": 0, "image_size": 32, "pairing": "same", "fit": "squash"}
    assert open_people(options, "train")[0, 0]["target"].shape == (3, 32, 32)
