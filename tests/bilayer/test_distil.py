"""distil.py: a small network learns one person's frames of a large one, and infer.py drives it."""

import numpy as np
import pytest
import torch

import distil
import evaluate
import export
import infer
from avatar_folder import face_points
from bilayer_tiny import OPTIONS, avatar_run, batch, model
from nets import published
from nets.app_systems import Checkpoints
from nets.bilayer import DEFAULTS, Driver, Student, fold
from nets.bilayer.distil import (
    DrivingPoses,
    begin,
    complete,
    make_person,
    parser,
    terms_of,
)
from nets.bilayer.fitting import jittered
from nets.bilayer.network.generators import Layers
from nets.bilayer.network.student import pixels_of_cells
from nets.bilayer.sources import Faces
from nets.bilayer.warm_start import load_model, load_student, student_of
from nets.data.heads.faces import face_crop_box, normalised_pose, points_in_crop
from nets.data.io.images import read_image, write_image
from nets.data.io.video import open_video
from nets.data.io.video_writer import VideoWriter
from nets.errors import UserError
from nets.ops import uv_sample
from nets.run import checkpoints, options
from nets.run.images import to_uint8
from nets.run.precision import Precision
from runs import assert_equal, newest, stored
from test_bilayer_drive import avatar_of, trained_like

FP32 = Precision("fp32", torch.device("cpu"))
SMALL = ("--inf_num_channels", 4, "--inf_max_channels", 8)  # 2 and 4 hardly learn


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a teacher's run, a source with points, and a video with points, 96 px."""
    root = tmp_path_factory.mktemp("distil")
    avatar_run(root, lively=True)
    g = torch.Generator().manual_seed(0)
    image = (torch.rand(3, 96, 96, generator=g) * 255).to(torch.uint8)
    write_image(root / "me.png", image)
    np.save(root / "me.npy", face_points(96).numpy())
    points = torch.stack([face_points(96, 0.05 * i) for i in range(5)])
    np.save(root / "drive.npy", points.numpy())
    with VideoWriter(root / "drive.mp4", 10) as video:
        for i in range(5):
            video.write(image // (i + 1))
    return root


def command(home, name, *more):
    argv = ["--checkpoint", home / "bilayer", "-s", home / "me.png", "--source_keypoints",
            home / "me.npy", "--run_dir", home / "avatars", "--name", name, "--precision", "fp32",
            *more]  # fmt: skip
    return [str(word) for word in argv]


@pytest.fixture(scope="module")
def run(home):
    """A student's run, distilled with poses of the demo world."""
    distil.main(command(home, "student", *SMALL, "--num_steps", 200, "--lr", 0.01))
    return home / "avatars/student"


def teacher_of(home):
    """The teacher's driver of the person, and the options of distil.py."""
    path = published.find(home / "bilayer", "bilayer")
    loaded = load_model(published.read_checkpoint(path), path, FP32)
    fold(loaded.net)
    args = options.parse(parser(""), command(home, "unused"))
    complete(args, loaded, path)
    _, avatar = make_person(args, loaded, Faces(loaded.options))
    return Driver(loaded.net, avatar), args


def refused(capsys, call, argv):
    with pytest.raises(SystemExit) as error:
        call([str(word) for word in argv])
    assert error.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("mask", [True, False])
def test_a_folded_student_gives_its_frames(mask):
    torch.manual_seed(0)
    student = Student({**DEFAULTS, **OPTIONS, "inf_pred_segmentation": mask}, 4, 8)
    trained_like(student)
    student.texture.uniform_(-1, 1)
    poses = torch.rand(3, 136) * 2 - 1
    driver = Driver(student, student.avatar())
    with torch.no_grad():
        image, layers = student(poses)
    frames, mine = driver(poses)
    close = {"atol": 1e-5, "rtol": 1e-5}
    assert torch.allclose(frames, image, **close)
    assert (mine is None) == (layers.logits is None) == (not mask)
    assert mine is None or torch.allclose(mine, layers.logits.sigmoid(), **close)
    single = torch.cat([driver(pose[None])[0] for pose in poses])
    assert torch.allclose(single, frames, **close)
    assert (image[0] - image[1]).abs().mean() > 0.01  # else any network would pass


def test_layers_of_a_driver_are_those_of_the_full_pass():
    net = trained_like(model(inf_apply_masks=False))
    data = batch(b=1)
    avatar = avatar_of(net, data)
    frames = net.drive(avatar, data["target_poses"])
    delta, low, mask = Driver(net, avatar).layers(data["target_poses"][0])
    close = {"atol": 1e-5, "rtol": 1e-5}
    assert torch.allclose(low, frames.low_frequency[0], **close)
    assert torch.allclose(mask, frames.mask[0], **close)
    assert torch.allclose(net.inference_generator.uvs(delta), frames.uvs[0], **close)


def test_the_loss_of_the_teachers_own_frames_is_zero(home):
    teacher, _ = teacher_of(home)
    poses = torch.stack([DrivingPoses(None, 0)[0, i]["pose"] for i in range(2)])
    delta, low, mask = teacher.layers(poses)
    own = uv_sample(teacher.texture, delta, low)
    terms = terms_of(own, Layers(delta, low, mask.logit()), teacher, poses)
    assert terms.keys() == {"image", "features", "low_frequency", "offsets", "mask"}
    assert all(value < 1e-6 for value in terms.values())
    wrong = terms_of(own + 0.1, Layers(delta + 0.1, low - 0.1, mask.logit() + 1), teacher, poses)
    assert all(value > 0.01 for value in wrong.values())


def test_a_student_comes_closer_to_its_teacher_than_a_still_frame(home, run):
    """On poses of persons that it was not trained on."""
    teacher, args = teacher_of(home)
    unseen = DrivingPoses(None, 7, 0.0, "test")
    poses = torch.stack([unseen[0, i]["pose"] for i in range(32)])
    path = checkpoints.find(run)
    student = load_student(checkpoints.read(path), path, FP32).net
    assert teacher.texture.equal(student.texture)
    torch.manual_seed(0)
    new = student_of(args)
    new.texture.copy_(teacher.texture)
    new.eval()
    target = teacher(poses)[0]
    error = {
        name: (frames - target).abs().mean()
        for name, frames in (
            ("student", Driver(student, student.avatar())(poses)[0]),
            ("untrained", Driver(new, new.avatar())(poses)[0]),
            ("still", target.mean(0)),
        )
    }
    assert error["student"] < 0.5 * error["untrained"]
    assert error["student"] < 0.7 * error["still"]


def test_a_run_that_was_stopped_ends_in_the_same_weights(home):
    few = ("--num_steps", 6, "--ckpt_freq", 3, "--driving_keypoints", home / "drive.npy")
    argv = command(home, "stopped", *few)
    distil.main(argv)
    folder = home / "avatars/stopped"
    whole = newest(folder)
    assert stored(folder) == [6, 3]
    checkpoints.path_of(folder / "checkpoints", 6).unlink()
    distil.main(argv)
    again = newest(folder)
    assert again["step"] == 6
    assert_equal(again["parts"], whole["parts"])
    assert "going on from" in (folder / "log.txt").read_text()
    assert read_image(folder / "images/teacher_student_0000006.png", None).shape[0] == 3
    distil.main(["--config", str(folder / "config.yaml"), "--name", "config"])
    assert_equal(newest(home / "avatars/config")["parts"]["model"], whole["parts"]["model"])


def test_infer_drives_the_person(home, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shared = ["--checkpoint", run, "--precision", "fp32"]
    drive = [*shared, "-d", home / "drive.mp4", "--driving_keypoints", home / "drive.npy"]
    infer.main([str(word) for word in [*drive, "-o", "out.mp4", "--concat"]])
    frames = [image for _, image in open_video(tmp_path / "out.mp4")]
    assert len(frames) == 5 and frames[0].shape == (3, 32, 32)
    beside = [image for _, image in open_video(tmp_path / "out_concat.mp4")]
    assert beside[0].shape == (3, 32, 96)

    image = [*shared, "-d", home / "me.png", "--driving_keypoints", home / "me.npy"]
    infer.main([str(word) for word in [*image, "-o", "one.png"]])
    path = checkpoints.find(run)
    student = load_student(checkpoints.read(path), path, FP32).net
    expected = to_uint8(Driver(student, student.avatar())(student.source_pose[None])[0])[0]
    assert torch.equal(read_image(tmp_path / "one.png", None), expected)
    # From the reference frame, which is taken for the source's own pose: the same image.
    infer.main([str(word) for word in [*drive, "-o", "r.mp4", "--relative"]])
    first = next(iter(open_video(tmp_path / "r.mp4")))[1]
    assert (first.float() - expected.float()).abs().mean() < 8  # H.264

    for more, said in (
        (["-s", home / "me.png"], "renders one person only"),
        (["--grid"], "not with a student"),
        (["--enhancer", "true"], "not with a student"),
    ):
        assert said in refused(capsys, infer.main, [*image, *more])
    assert "-d: must be given" in refused(capsys, infer.main, shared)


def test_other_commands_refuse_a_student(home, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for call, argv in (
        (evaluate.main, ["--checkpoint", run]),
        (export.main, ["--checkpoint", run, "-o", tmp_path]),
        (distil.main, command(home, "of_a_student", "--checkpoint", run)),
    ):
        assert "a distilled avatar of one person" in refused(capsys, call, argv)
    assert not (home / "avatars/of_a_student").exists()
    listed = [name for name, _ in Checkpoints([home]).choices("bilayer")]
    assert any(name.endswith("bilayer") for name in listed)
    assert not any("avatars" in name for name in listed)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("-d", "a.mp4", "--driving_keypoints", "b.npy"), "give one of them"),
        (("--batch_size", 3, "--accumulate", 2), "batch_size: must be a multiple of"),
        (("--driving_keypoints", "none.npy"), "none.npy"),
        (("--inf_num_channels", 0), "inf_num_channels"),
        (("--num_stepps", 3), "num_steps"),
    ],
)
def test_bad_options_are_refused_in_a_line(home, capsys, more, said):
    assert said in refused(capsys, distil.main, command(home, "refused", *more))
    assert not (home / "avatars/refused").exists()


def test_a_person_beyond_the_test_data_and_points_without_a_source_are_refused(home, capsys):
    base = ["--checkpoint", home / "bilayer", "--run_dir", home / "avatars", "--name", "refused"]
    assert "has 64 test videos" in refused(capsys, distil.main, [*base, "--person", 65])
    points = [*base, "--source_keypoints", home / "me.npy"]
    assert "go with -s" in refused(capsys, distil.main, points)


def test_a_teacher_that_cannot_be_distilled_is_refused(home):
    path = published.find(home / "bilayer", "bilayer")
    loaded = load_model(published.read_checkpoint(path), path, FP32)
    args = options.parse(parser(""), [])
    for changed, said in (
        ({"use_source_background": True}, "background"),
        ({"num_keypoints": 5}, "takes 5 points"),
    ):
        other = loaded._replace(options={**loaded.options, **changed})
        with pytest.raises(UserError, match=said):
            complete(args, other, path)
    with pytest.raises(ValueError, match="image_size must be at least 16"):
        Student({**DEFAULTS, **OPTIONS, "image_size": 8}, 4, 8)


def test_poses_depend_on_seed_epoch_and_index_alone():
    data = DrivingPoses(None, 3)
    places = [(0, 5), (1, 5), (0, 6)]
    together = [sample["pose"] for sample in data.__getitems__(places)]
    for place, pose in zip(places, together, strict=True):
        assert torch.allclose(DrivingPoses(None, 3)[place]["pose"], pose, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 0.01
    assert (DrivingPoses(None, 4)[0, 5]["pose"] - together[0]).abs().max() > 0.01
    plain = torch.stack([DrivingPoses(None, 3, 0.0)[0, i]["pose"] for i in range(20)])
    points = plain.view(20, 68, 2)
    sides = (points.amax(1) - points.amin(1)).amax(1)
    assert (sides[1::2] - 1).abs().max() < 0.02  # as infer.py cuts faces out: twice their size
    assert sides[::2].std() > 0.02  # and as the demo world shows them


def test_given_points_are_cut_out_as_by_infer(home):
    given = torch.from_numpy(np.load(home / "drive.npy"))
    _, args = teacher_of(home)
    args.driving_keypoints, args.jitter = [str(home / "drive.npy")], 0.0
    data = distil.open_poses(args, Faces({"image_size": 32, "num_keypoints": 68}))
    assert len(data) == 5
    for i, at in enumerate(given):
        expected = normalised_pose(points_in_crop(at, face_crop_box(at), 1), 1)
        assert torch.allclose(data[3, i]["pose"], expected)


def test_jitter_moves_turns_and_resizes_alone():
    poses = normalised_pose(face_points(96), 96)[None].expand(3, -1)
    noise = torch.tensor([[0, 0, 0, 0], [1.0, -1, 2, 1], [0, 0, 0, -1]])
    points = jittered(poses, noise)[0].view(3, 68, 2)
    apart = torch.stack([torch.cdist(p, p) for p in points])
    assert torch.allclose(points[0].flatten(), poses[0], atol=1e-6)
    for other, grows in ((1, True), (2, False)):
        ratio = (apart[other] / apart[0])[apart[0] > 0.1]
        assert torch.allclose(ratio, ratio[0].expand_as(ratio), rtol=1e-3)  # the form stays
        assert (ratio[0] > 1) == grows
    moved = points[1].mean(0) - points[0].mean(0)
    assert moved[0] > 0.02 and moved[1] < -0.02


def test_a_student_begins_with_the_person_and_the_teachers_embedder(home):
    path = published.find(home / "bilayer", "bilayer")
    loaded = load_model(published.read_checkpoint(path), path, FP32)
    fold(loaded.net)
    args = options.parse(parser(""), command(home, "unused"))
    complete(args, loaded, path)
    source, avatar = make_person(args, loaded, Faces(loaded.options))
    student = student_of(args)
    begin(student, loaded, source, avatar)
    expected = loaded.net.keypoints_embedder.state_dict()
    assert_equal(student.keypoints_embedder.state_dict(), expected)
    assert torch.equal(student.texture, avatar.texture)
    assert torch.equal(student.source_image, source.image)
    assert torch.equal(student.source_pose, source.pose)


def test_pixels_of_cells_by_hand():
    """A cell holds all channels of its upper left pixel, then upper right, lower left and right."""
    cells = torch.arange(8.0).view(1, 8, 1, 1)
    first = torch.tensor([[0.0, 2.0], [4.0, 6.0]])
    assert torch.equal(pixels_of_cells(cells), torch.stack([first, first + 1])[None])
