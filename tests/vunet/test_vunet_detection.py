"""infer.py without given joints: detection, cutting out, pasting back, and driving videos.

The detector of these tests compares an image with the demo world's, so mediapipe is not needed.
"""

import json
import sys

import pytest
import torch

import infer
import train_vunet
from nets.data.detectors import Person, person_box
from nets.data.io.frames import Frame
from nets.data.io.images import read_image, write_image
from nets.data.io.video import open_video
from nets.data.io.video_writer import VideoWriter
from nets.skeletons import JOINTS_15, JOINTS_17, convert_joints, limb_lengths
from nets.vunet.data import PersonInputs
from nets.vunet.infer import SeenPerson, annotated_person, cut_out, in_proportion
from nets.worlds.people.world import PeopleWorld

SIZE, SIDE = 192, 32  # of the world's images, and of the network's in smoke.yaml
WORLD = PeopleWorld("test", SIZE)
NOBODY = torch.full((3, 240, 320), 128, dtype=torch.uint8)
SHIFTS = (8, 20, 32)  # of the person in the frames of the video, pixels


def scene(index, shift=30):
    """A larger grey image with a demo person, and the joints in its pixels."""
    sample = WORLD[(0, index)]
    image = NOBODY.clone()
    image[:, 24 : 24 + SIZE, shift : shift + SIZE] = sample["target"]
    joints = convert_joints(sample["joints"], JOINTS_15, JOINTS_17)
    return image, joints + torch.tensor([shift, 24])


class Truth:
    """A detector that knows the images of this file."""

    def people(self, image, near=None):
        for index in (0, 1):
            for shift in (30, *SHIFTS):
                whole, joints = scene(index, shift)
                if (image.float() - whole.float()).abs().mean() < 6:
                    return [Person(joints, person_box(joints))]
        return []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of one step, two images of people, and a video whose third frame has no person."""
    folder = tmp_path_factory.mktemp("detection")
    train_vunet.main([
        "--config", "smoke.yaml", "--num_steps", "1", "--name", "a",
        "--run_dir", str(folder / "runs"),
    ])  # fmt: skip
    write_image(folder / "me.png", scene(0)[0])
    write_image(folder / "dancer.png", scene(1)[0])
    write_image(folder / "nobody.png", NOBODY)
    with VideoWriter(folder / "dance.mp4", 10) as out:
        for image in [scene(1, SHIFTS[0])[0], scene(1, SHIFTS[1])[0], NOBODY,
                        scene(1, SHIFTS[2])[0]]:  # fmt: skip
            out.write(image)
    return folder


@pytest.fixture
def run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("nets.vunet.infer.open_detector", lambda name: Truth())
    return lambda *given: infer.main(["--checkpoint", "runs/a", *map(str, given)])


def refused(capsys, run, *arguments):
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_detected_joints_give_the_image_of_given_joints_of_the_cut_out_person(
    run, folder, tmp_path
):
    from nets.data.detectors import person_square
    from nets.data.heads.faces import crop_square, points_in_crop

    run("-s", "me.png", "-d", "dancer.png", "-o", tmp_path / "detected.png")
    for i, name in enumerate(("me", "dancer")):
        image, joints = scene(i)
        box = person_square(joints)
        write_image(tmp_path / f"{name}.png", crop_square(image, box, SIDE))
        points = points_in_crop(joints, box, SIDE).tolist()
        text = json.dumps(dict(zip(JOINTS_15, points, strict=False)) | {"normalised": False})
        (tmp_path / f"{name}.json").write_text(text)
    run("-s", tmp_path / "me.png", "-d", tmp_path / "dancer.png", "-o", tmp_path / "given.png",
        "--source_joints", tmp_path / "me.json", "--driving_joints",
        tmp_path / "dancer.json")  # fmt: skip
    detected, given = (read_image(tmp_path / f"{n}.png", None) for n in ("detected", "given"))
    assert detected.shape == given.shape
    # Measured 0. Joints rounded in the JSON file may move single pixels.
    assert (detected.float() - given.float()).abs().mean() < 2


@pytest.mark.parametrize("origin", ["detector", "file"])
def test_ears_reach_the_figure_from_a_detector_and_from_a_file(tmp_path, origin):
    trained = {"image_size": 64, "box_factor": 0, "fit": "squash", "missing_part": 0.0,
               "appearance": "image", "stickman": "image"}  # fmt: skip
    joints, drawn = scene(0)[1], []
    joints[15:] = joints[14] + torch.tensor([[-20.0, -5.0], [20.0, -5.0]])  # inside the box
    write_image(tmp_path / "me.png", NOBODY)
    for names in (JOINTS_15, JOINTS_17):
        points = joints.clone()
        points[len(names) :] = torch.nan
        frame = Frame("me", None, NOBODY)
        named = dict(zip(names, points.tolist(), strict=False)) | {"normalised": False}
        (tmp_path / "me.json").write_text(json.dumps(named))
        if origin == "detector":
            seen = cut_out(frame, points, "me", 64)
        else:
            seen = annotated_person(tmp_path / "me.png", str(tmp_path / "me.json"), trained)
        drawn.append(PersonInputs(trained, JOINTS_17).pose(seen.joints[None]))
    more = (drawn[1] > drawn[0])[0]
    assert more[1].sum() > 5 and not more[[0, 2]].any()  # green lines from the eyes to the ears


def test_paste_changes_the_person_and_nothing_else(run, tmp_path):
    run("-s", "me.png", "-d", "dancer.png", "-o", tmp_path / "out.png", "--paste")
    result, driving = read_image(tmp_path / "out.png", None), scene(1)[0]
    assert result.shape == driving.shape
    changed = (result != driving).any(0).nonzero()
    x0, y0, x1, y1 = person_box(scene(1)[1])
    margin = 0.2 * max(x1 - x0, y1 - y0) + abs((y1 - y0) - (x1 - x0)) / 2
    assert len(changed) > 5000
    assert changed[:, 1].min() >= x0 - margin and changed[:, 1].max() <= x1 + margin
    run("-s", "me.png", "-d", "dancer.png", "me.png", "-o", tmp_path / "many", "--paste")
    assert sorted(p.name for p in (tmp_path / "many").iterdir()) == [
        "me--dancer.png", "me--me.png"]  # fmt: skip


def test_paste_with_given_joints_cuts_the_person_out_likewise(run, folder, tmp_path):
    joints = {
        f"{name}.png": dict(zip(JOINTS_15, scene(i)[1].tolist(), strict=False))
        for i, name in enumerate(("me", "dancer"))
    }
    (tmp_path / "joints.json").write_text(json.dumps(joints))
    pair = ("-s", "me.png", "-d", "dancer.png", "--paste", "-o")
    run(*pair, tmp_path / "detected.png")
    run(*pair, tmp_path / "given.png", "--driving_joints", tmp_path / "joints.json")
    detected, given = (read_image(tmp_path / f"{n}.png", None) for n in ("detected", "given"))
    assert given.shape == scene(1)[0].shape and not torch.equal(given, scene(1)[0])
    # Measured 0. Joints rounded in the JSON file may move single pixels.
    assert (detected.float() - given.float()).abs().mean() < 2
    (tmp_path / "none.json").write_text(json.dumps({"dancer.png": {"cnose": None}}))
    with pytest.raises(SystemExit, match="2"):
        run(*pair, tmp_path / "o.png", "--driving_joints", tmp_path / "none.json")


def test_paste_needs_an_image_to_paste_into(run, capsys):
    assert "--paste: only with -d, images or videos" in refused(capsys, run, "--paste")


def test_a_video_is_driven_frame_by_frame(run, folder, tmp_path, capsys):
    given = ("-s", "me.png", "-d", "dance.mp4")
    line = refused(capsys, run, *given, "-o", tmp_path / "out.mp4")
    assert "dance.mp4, second 0.20: no person found; --on_missing skip" in line
    assert not (tmp_path / "out.mp4").exists()
    run(*given, "-o", tmp_path / "out.mp4", "--on_missing", "skip", "--concat")
    assert "1 of 4 frames without a person, left out" in capsys.readouterr().err
    seconds = [s for s, _ in open_video(tmp_path / "out.mp4")]
    assert seconds == pytest.approx(
        [0, 0.1, 0.3], abs=0.01
    )  # frames keep their times, for the sound
    beside = open_video(tmp_path / "out_concat.mp4")
    assert beside.size == (SIDE, 3 * SIDE)
    run(*given, "dancer.png", "-o", tmp_path / "outs.png", "--on_missing", "hold", "--paste")
    again = open_video(tmp_path / "outs" / "me--dance.mp4")
    assert again.size == (240, 320) and again.frames == 4
    assert (tmp_path / "outs.png").exists()  # the result of the driving image


def test_impossible_commands_are_refused(run, tmp_path, capsys):
    line = refused(capsys, run, "-s", "nobody.png", "-d", "dancer.png")
    assert "nobody.png: no person found" in line
    line = refused(capsys, run, "-s", "me.png", "-d", "dancer.png", "--person", "2")
    assert "dancer.png: no person 2 found" in line
    line = refused(capsys, run, "-d", "dance.mp4", "--samples", "2")
    assert "--samples: only with driving images" in line
    line = refused(capsys, run, "-s", "dance.mp4", "-d", "dancer.png")
    assert "-s dance.mp4: the appearance comes from an image, not from a video" in line
    (tmp_path / "text.mp4").write_text("no video")
    line = refused(capsys, run, "-s", "me.png", "-d", tmp_path / "text.mp4")
    assert "text.mp4: is not a video" in line


def test_without_a_detector_the_remedy_is_named(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(SystemExit, match="2"):
        infer.main(["--checkpoint", "runs/a", "-s", "me.png", "-d", "dancer.png"])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "me.png: joints are needed; give --source_joints" in line
    assert "pip install -e '.[extract]'" in line


def test_options_of_detection_are_refused_for_systems_without_it(run, folder, tmp_path, capsys):
    from nets.run import checkpoints

    content = checkpoints.read(checkpoints.find(folder / "runs/a"))
    checkpoints.write(tmp_path / "other.pt", {**content, "system": "landmarks"})
    with pytest.raises(SystemExit, match="2"):
        infer.main(["--checkpoint", str(tmp_path / "other.pt"), "-d", "dance.mp4", "--paste"])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--paste: an option of vunet and bilayer" in line


@pytest.mark.parametrize("form", ["image", "video", "given"])
def test_proportions_of_the_source_reach_the_figure(run, folder, tmp_path, monkeypatch, form):
    drawn = []
    draw = PersonInputs.pose
    monkeypatch.setattr(PersonInputs, "pose", lambda s, j: drawn.append(j.cpu()) or draw(s, j))
    given = {}
    for i, name in enumerate(("me", "dancer")):
        given[name] = tmp_path / f"{name}.json"
        named = dict(zip(JOINTS_15, scene(i)[1].tolist(), strict=False))
        given[name].write_text(json.dumps(named | {"normalised": False}))
    more = {
        "image": ["-d", "dancer.png", "-o", tmp_path / "out.png"],
        "video": ["-d", "dance.mp4", "-o", tmp_path / "out.mp4", "--on_missing", "skip"],
        "given": ["-d", "dancer.png", "-o", tmp_path / "out.png", "--source_joints", given["me"],
                  "--driving_joints", given["dancer"]],
    }[form]  # fmt: skip
    run("-s", "me.png", *more)
    plain = drawn[-1][-1]
    run("-s", "me.png", *more, "--keep_proportions")
    source = scene(0)[1]
    scale = torch.tensor([SIDE / 320, SIDE / 240]) if form == "given" else torch.ones(2)
    own, other = limb_lengths(source), limb_lengths(plain / scale)
    kept = limb_lengths(drawn[-1][-1] / scale) / own
    assert kept.max() / kept.min() < 1.001
    assert (other / own).max() / (other / own).min() > 1.02  # the two people differ


def test_lengths_are_compared_in_the_shape_that_images_had_before_squashing():
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    joints = convert_joints(WORLD[(0, 0)]["joints"], JOINTS_15, JOINTS_17) / SIZE * 64
    tall = SeenPerson("me", image, joints / torch.tensor([0.5, 1.0]), aspect=0.5)
    driving = convert_joints(WORLD[(0, 1)]["joints"], JOINTS_15, JOINTS_17)[None] / SIZE * 64
    upright = in_proportion(SeenPerson("me", image, joints), driving, [1.0])
    assert (in_proportion(tall, driving, [1.0]) - upright).abs().nan_to_num(0).max() < 1e-4


def test_limbs_that_the_source_does_not_show_are_named(run, tmp_path, capsys):
    joints = dict(zip(JOINTS_15, scene(0)[1].tolist(), strict=False)) | {"normalised": False}
    for name in ("rwrist", "lwrist"):
        joints[name] = None
    (tmp_path / "me.json").write_text(json.dumps(joints))
    pair = ("-s", "me.png", "--source_joints", tmp_path / "me.json", "-d", "dancer.png", "-o",
            tmp_path / "o.png", "--keep_proportions")  # fmt: skip
    run(*pair)
    line = "me: does not show elbow to wrist, which keep the driving person's length"
    assert line in capsys.readouterr().out
    (tmp_path / "me.json").write_text(json.dumps({"cnose": [50, 50], "normalised": False}))
    assert "me: --keep_proportions needs a limb, the source shows none" in refused(
        capsys, run, *pair
    )
    line = refused(capsys, run, "-d", "dancer.png", "--samples", 2, "--keep_proportions")
    assert "--keep_proportions: needs -s" in line
    assert "--keep_proportions: only with -s and -d" in refused(capsys, run, "--keep_proportions")
