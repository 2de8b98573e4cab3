"""infer.py with a bilayer checkpoint, as a user starts it."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import infer
import train_bilayer
from avatar_folder import face_points, write_folder
from nets.bilayer import NETWORKS
from nets.bilayer.experiment import write_args
from nets.bilayer.published import read_args
from nets.data import detectors
from nets.data.heads.faces import hull_mask, write_keypoints
from nets.data.heads.videos import frame_path
from nets.data.io.images import read_image, write_image
from nets.data.io.video import open_video
from nets.data.io.video_writer import VideoWriter
from nets.data.pasting import paste_square
from nets.errors import UserError
from nets.run import checkpoints


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a run, a dataset, and a driving video: 5 frames, 96 px, with keypoints."""
    root = tmp_path_factory.mktemp("infer")
    data = write_folder(root / "data", size=96)
    argv = ["--config", "smoke_bilayer.yaml", "--experiment_dir", root, "--experiment_name", "run"]
    argv += ["--data", data, "--num_epochs", 4, "--checkpoint_freq", 2]
    argv += ["--networks_train", "identity_embedder, texture_generator, keypoints_embedder, "
             "inference_generator, texture_enhancer, discriminator", "--networks_test",
             "identity_embedder, texture_generator, keypoints_embedder, inference_generator, "
             "texture_enhancer", "--inf_pred_source_data", "--pse_emb_source_pose"]  # fmt: skip
    train_bilayer.main([str(a) for a in argv])
    points = np.stack([face_points(96, 0.05 * i).numpy() for i in range(5)])
    np.save(root / "video.npy", points)
    with VideoWriter(root / "video.mp4", 10) as video:
        for i in range(5):
            frame = read_image(frame_path(data, "imgs", "train", f"id0/video/00/{i % 4}"), None)
            video.write(frame)
    return root


@pytest.fixture
def drive(home, tmp_path, monkeypatch):
    """A function that calls infer.py in an empty folder, with person 0's first frame as source."""
    monkeypatch.chdir(tmp_path)
    name = "id0/video/00/0"
    files = {kind: frame_path(home / "data", kind, "train", name)
             for kind in ("imgs", "keypoints", "segs")}  # fmt: skip
    source = ["-s", files["imgs"], "--source_keypoints", files["keypoints"]]
    source += ["--source_masks", files["segs"]]

    def call(*argv, own=True):
        argv = ["--checkpoint", home / "runs/run", *(source if own else []), *argv]
        infer.main([str(a) for a in argv])

    return call


def refused(capsys, call, *argv, **settings):
    with pytest.raises(SystemExit) as error:
        call(*argv, **settings)
    assert error.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def driver(home, i=1):
    data = home / "data"
    return frame_path(data, "imgs", "test", f"id1/video/00/{i}"), frame_path(
        data, "keypoints", "test", f"id1/video/00/{i}"
    )


def test_one_image_out_of_two(home, drive, tmp_path):
    image, points = driver(home)
    drive("-d", image, "--driving_keypoints", points, "-o", "a.png")
    assert read_image("a.png", None).shape == (3, 32, 32)
    drive("-d", image, "--driving_keypoints", points, "-o", "b.png", "--enhancer", "false")
    assert not torch.equal(read_image("a.png", None), read_image("b.png", None))


def test_relative_motion_starts_at_the_source(home, drive, capsys, tmp_path):
    """The reference gives the source in its own pose, whatever of the motion is taken."""
    data = home / "data"
    own = [frame_path(data, kind, "train", "id0/video/00/0") for kind in ("imgs", "keypoints")]
    drive("-d", own[0], "--driving_keypoints", own[1], "-o", "own.png")
    still = read_image("own.png", None)
    files = [driver(home, i)[0] for i in range(4)]
    points = np.load(home / "video.npy")[[2, 1, 3, 4]] + [3, 1]
    points[2] = np.load(own[1]).reshape(68, 2)  # the source's: the best frame
    np.save(tmp_path / "points.npy", points)
    shared = ["-d", *files, "--driving_keypoints", tmp_path / "points.npy"]
    results = {}
    for name, more in {
        "absolute": [], "relative": ["--relative"], "lips": ["--relative", "--region", "lips"],
        "scaled": ["--relative", "--adapt_scale"], "best": ["--relative", "--find_best_frame"],
    }.items():  # fmt: skip
        drive(*shared, "-o", f"{name}/", *more)
        images = sorted(path for path in (tmp_path / name).glob("*--*.png"))
        results[name] = [read_image(path, None) for path in images]
        assert len(images) == 4
    for name in ("relative", "lips", "scaled"):
        difference = (results[name][0].int() - still.int()).abs().max()
        assert difference <= 1  # batches of another size round differently
        assert not torch.equal(results[name][3], results["absolute"][3])
    assert not torch.equal(results["absolute"][0], still)
    assert (results["best"][2].int() - still.int()).abs().max() <= 1
    for more in (["--region", "eyes"], ["--find_best_frame"], ["--adapt_scale"]):
        assert "only with --relative" in refused(capsys, drive, *shared, *more)
    assert "one of all, expression" in refused(capsys, drive, *shared, "--region", "nose")
    one = ["-d", own[0], "--driving_keypoints", own[1], "--relative"]
    assert "needs a video or several images" in refused(capsys, drive, *one)


def test_the_best_frame_of_a_video_is_looked_for_first(home, drive):
    video = ["-d", home / "video.mp4", "--driving_keypoints", home / "video.npy"]
    drive(*video, "-o", "v.mp4", "--relative", "--find_best_frame", "--frames_at_once", 2)
    assert sum(1 for _ in open_video("v.mp4")) == 5


def test_masks_put_white_or_black_behind(home, drive):
    image, points = driver(home)
    plain = ["-d", image, "--driving_keypoints", points]
    shown = {}
    for name, more in (("white", []), ("black", ["--background", "black"])):
        drive(*plain, "-o", f"{name}.png", "--masks", *more)
        shown[name] = read_image(f"{name}.png", None).float()
    assert (shown["white"] - shown["black"]).amin() >= -1
    assert (shown["white"] - shown["black"]).amax() > 20


def test_a_folder_gives_a_grid_layers_and_single_images(home, drive, tmp_path, capsys):
    folder = driver(home)[0].parent
    points = driver(home)[1].parent
    drive("-d", folder, "--driving_keypoints", points, "-o", "g.png", "--grid")
    assert len(list((tmp_path / "g").iterdir())) == 4
    assert read_image("g_layers.png", None).shape[1] == 4 * 32
    output = capsys.readouterr().out
    assert "source, source stickman" in output and "LF, HF" in output and "UV" in output


def test_a_video_is_as_long_as_its_driver_and_can_lie_beside_it(home, drive, tmp_path):
    video, points = home / "video.mp4", home / "video.npy"
    drive("-d", video, "--driving_keypoints", points, "-o", "v.mp4", "--concat")
    driven = open_video("v.mp4")
    assert len(list(driven)) == 5 and driven.size == (32, 32) and abs(driven.fps - 10) < 0.1
    assert open_video("v_concat.mp4").size == (32, 96)
    drive("-d", video, "--driving_keypoints", points, "-o", "p.mp4", "--paste")
    assert open_video("p.mp4").size == (96, 96)
    drive("-d", video, "--driving_keypoints", points, "-o", "videos", "--concat")
    assert sorted(p.name for p in (tmp_path / "videos").iterdir()) == [
        "0--video.mp4", "0--video_concat.mp4"]  # fmt: skip


def test_batches_of_frames_change_nothing(home, drive):
    folder, points = driver(home)[0].parent, driver(home)[1].parent
    for count in (1, 3):
        drive("-d", folder, "--driving_keypoints", points, "-o", f"n{count}/",
              "--frames_at_once", count, "--precision", "fp32")  # fmt: skip
    one, three = (read_image(f"n{i}/grid.png", None).int() for i in (1, 3))
    assert (one - three).abs().max() <= 1


def test_faces_are_found_where_no_points_are_given(home, drive, monkeypatch):
    detector = SimpleNamespace(
        faces=lambda image, near=None, known=None: [face_points(96)],
        mask=lambda image: torch.ones(image.shape[1:]),
    )
    monkeypatch.setattr(detectors, "open_detector", lambda name: detector)
    source = frame_path(home / "data", "imgs", "train", "id0/video/00/0")
    drive("-s", source, "-d", home / "video.mp4", "-o", "f.mp4", own=False)
    assert len(list(open_video("f.mp4"))) == 5


def test_a_face_is_followed_through_a_driving_video(home, drive, monkeypatch):
    """As extract.py heads does: near its last place, and now and then in the whole frame."""
    searches = []

    def faces(image, near=None, known=None):
        searches.append("whole" if near is None else "near")
        face = face_points(96)
        face[[36, 45], 0] = torch.stack([face[:, 0].amin(), face[:, 0].amax()])  # not in profile
        return [face, face * 0.5] if near is None else [near]

    monkeypatch.setattr(detectors, "open_detector", lambda name: SimpleNamespace(faces=faces))
    for name, more, expected in (
        ("a", [], ["whole", *["near"] * 4]),  # 5 frames, 0.1 s apart
        ("b", ["--detect_every", 2], ["whole", "near", "whole", "near", "whole"]),
        ("c", ["--detect_every", 1], ["whole"] * 5),
        ("d", ["--fps", 2], ["whole"]),
    ):
        searches.clear()
        drive("-d", home / "video.mp4", "-o", f"{name}.mp4", *more)
        assert searches == expected
    drive("-d", home / "video.mp4", "-o", "second.mp4", "--person", 2)
    one, second = (next(iter(open_video(f"{name}.mp4")))[1].int() for name in ("a", "second"))
    assert (one - second).abs().max() > 2  # the points of the smaller face


def test_stored_pairs_are_read_by_relative_path(home, drive, tmp_path):
    argv = ["--preprocess", "false", "--dataset_root", home / "data", "--source_relative_path",
            "train/id0/video/00/0", "--target_relative_path", "test/id1/video/00/3"]  # fmt: skip
    drive(*argv, own=False)
    names = {f.name for f in (tmp_path / "results").iterdir()}
    assert names == {"pred_target_False_False.jpg"} | {
        f"{role}_{what}_False_False.png"
        for role in ("source", "target")
        for what in ("imgs", "segs", "stickmen")
    }
    mask = read_image("results/source_segs_False_False.png", None)
    assert mask.amin() == 0 and mask.amax() == 255  # the full range


def test_images_and_videos_are_preprocessed(home, drive, tmp_path, capsys):
    image, file = driver(home)
    points = ["--source_keypoints", file, "--driving_keypoints", file, "-o", "out/"]
    drive("--preprocess", "true", "--source_img_path", image, "--target_img_path", image,
          *points, own=False)  # fmt: skip
    drive("--preprocess", "true", "--from_video", "--video_path", home / "video.mp4",
          "--target_frame_num", 3, *points, own=False)  # fmt: skip
    names = {f.name for f in (tmp_path / "out").iterdir()}
    assert {"pred_target_True_False.jpg", "pred_target_True_True.jpg"} <= names
    drive("--preprocess", "false", "--from_video", "--dataset_root", home / "data",
          "--source_relative_path", "train/id0/video/00/0", "--target_relative_path",
          "train/id0/video/00/1", own=False)  # fmt: skip
    assert "from_video is set to false" in capsys.readouterr().out


def test_an_experiment_is_found_by_name_and_epoch(home, capsys, tmp_path):
    argv = ["--experiment_dir", home, "--experiment_name", "run", "-o", tmp_path / "o.png"]
    infer.main([str(a) for a in [*argv, "--which_epoch", 2]])
    assert "2_identity_embedder.pth" in capsys.readouterr().out
    assert (tmp_path / "o.png").exists()
    with pytest.raises(SystemExit):
        infer.main([str(a) for a in [*argv, "--which_epoch", 3]])
    assert "holds no networks of epoch 3" in capsys.readouterr().err


def test_a_folder_of_the_published_layout_takes_an_epoch(home, capsys, tmp_path):
    """As every script of the original passes it; the enhancer finds its base beside itself."""
    runs = tmp_path / "runs"
    state = checkpoints.read(checkpoints.find(home / "runs/run"))["parts"]["model"]
    for name, epoch, networks in (("main", 2225, NETWORKS[:4]), ("enh", 1225, NETWORKS[4:5])):
        (runs / name / "checkpoints").mkdir(parents=True)
        for network in networks:
            copy = runs / name / f"checkpoints/{epoch}_{network}.pth"
            start = f"{network}."
            one = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
            torch.save(one, copy)
        values = read_args(home / "runs/run/args.txt")
        if name == "enh":
            values |= {"init_experiment_dir": "/else/runs/main", "init_which_epoch": 2225,
                       "init_networks": NETWORKS[:4]}  # fmt: skip
        write_args(runs / name / "args.txt", values)
    image, points = driver(home)
    argv = ["-s", image, "--source_keypoints", points, "-d", image, "--driving_keypoints", points,
            "-o", tmp_path / "o.png", "--checkpoint", runs / "enh", "--which_epoch"]  # fmt: skip
    infer.main([str(a) for a in [*argv, 1225]])
    printed = capsys.readouterr().out
    assert "1225_texture_enhancer.pth" in printed and "2225_texture_generator.pth" in printed
    with pytest.raises(SystemExit):
        infer.main([str(a) for a in [*argv, 7]])
    assert "holds no networks of epoch 7; epochs: 1225" in capsys.readouterr().err
    infer.main([str(a) for a in ["--checkpoint", home / "runs/run", "--which_epoch", "latest",
                                 "-o", tmp_path / "latest.png"]])  # fmt: skip
    assert "4_identity_embedder.pth" in capsys.readouterr().out


def test_pasted_images_are_written_to_out(home, drive, tmp_path, capsys):
    image, points = driver(home)
    drive("-d", image, "--driving_keypoints", points, "-o", "sub/one.png", "--paste")
    assert read_image("sub/one.png", None).shape == (3, 96, 96)
    assert [p.name for p in tmp_path.rglob("*.png")] == ["one.png"]
    drive("-d", image.parent, "--driving_keypoints", points.parent, "-o", "many.png", "--paste")
    names = sorted(path.name for path in (tmp_path / "many").iterdir())
    assert names == [f"0--{i}.png" for i in range(4)]
    assert "written: many/0--3.png" in capsys.readouterr().out


def test_a_pasted_head_is_feathered_and_takes_the_colours_of_the_driving_face(home, drive, capsys):
    image, points = driver(home)
    pasted = {}
    for name, more in (("matched", []), ("plain", ["--match_colour", "false"])):
        drive("-d", image, "--driving_keypoints", points, "-o", f"{name}.png", "--paste", *more)
        pasted[name] = read_image(f"{name}.png", None).float()
    driving = read_image(image, None).float()
    face = hull_mask(torch.from_numpy(np.load(points)).view(68, 2).float(), 96, 0)[0] > 0
    off = [(x - driving)[:, face].mean(1).abs().max() for x in pasted.values()]
    assert off[0] < 0.5 * off[1] and off[1] > 10
    changed = (pasted["plain"] != driving).any(0)
    assert changed.any() and not changed.all()  # around the mask the driving image is kept
    line = refused(capsys, drive, "-d", image, "--driving_keypoints", points, "--match_colour")
    assert "--match_colour: only with --paste" in line


def test_a_stable_crop_holds_still_where_the_points_shake(home, drive, capsys, monkeypatch):
    places = []
    paste = paste_square
    monkeypatch.setattr("nets.bilayer.infer.paste_square",
                        lambda image, crop, box, mask: places.append(box)
                        or paste(image, crop, box, mask))  # fmt: skip
    shaken = np.load(home / "video.npy")[[0] * 5]
    np.save("shaken.npy", shaken + 2 * np.array([0, 1, 0, 1, 0]).reshape(5, 1, 1))
    video = ["-d", home / "video.mp4", "--driving_keypoints", "shaken.npy", "--paste"]
    drive(*video, "-o", "each.mp4")
    assert len(set(places)) == 2
    places.clear()
    drive(*video, "-o", "stable.mp4", "--crop", "stable", "--frames_at_once", 2)
    assert len(places) == 5 and len({box.size for box in places}) == 1
    assert max(abs(a.cx - b.cx) for a, b in pairwise(places)) <= 1
    assert len(list(open_video("stable.mp4"))) == 5
    image, points = driver(home)
    line = refused(capsys, drive, "-d", image, "--driving_keypoints", points, "--crop", "stable")
    assert "--crop stable: only with a driving video" in line


def test_without_files_four_columns_a_person_are_drawn(home, tmp_path):
    argv = ["--checkpoint", home / "runs/run", "-o", tmp_path / "demo.png"]
    infer.main([str(a) for a in argv])
    sheet = read_image(tmp_path / "demo.png", None)
    assert sheet.shape[1] >= 2 * 256 and sheet.shape[2] == 4 * (256 + 4)  # two persons
    assert (tmp_path / "demo_layers.png").exists()
    two = [int(sheet[1, -130 - 260 * i, 128]) for i in (0, 1)]
    assert two[0] != two[1]  # sources of different persons


def test_bad_input_is_one_line(home, drive, tmp_path, capsys, monkeypatch):
    image, points = driver(home)
    blind = SimpleNamespace(faces=lambda image, known=None: [], mask=None)
    monkeypatch.setattr(detectors, "open_detector", lambda name: blind)
    assert "no face found" in refused(capsys, drive, "-d", image)
    line = refused(capsys, drive, "-d", home / "video.mp4", "-o", "v.mp4")
    assert "video.mp4, second 0.00: no face found" in line
    np.save("few.npy", np.zeros((5, 2)))
    line = refused(capsys, drive, "-d", image, "--driving_keypoints", "few.npy")
    assert "few.npy: must hold keypoints (68, 2)" in line
    np.save("short.npy", np.load(home / "video.npy")[:2])
    line = refused(capsys, drive, "-d", home / "video.mp4", "--driving_keypoints", "short.npy",
                   "-o", "v.mp4")  # fmt: skip
    assert "has 2 frames only" in line and not (tmp_path / "v.mp4").exists()
    line = refused(capsys, drive, "--preprocess", "true", "--from_video", "--video_path",
                   home / "video.mp4", "--source_frame_num", 9, own=False)  # fmt: skip
    assert "--source_frame_num 9" in line and "has 5 frames" in line
    line = refused(capsys, drive, "--preprocess", "false", "--dataset_root", home / "data",
                   "--source_relative_path", "train/x/y/z/0", own=False)  # fmt: skip
    assert "0.jpg: is missing" in line
    write_image(tmp_path / "small.png", torch.zeros(1, 20, 20, dtype=torch.uint8))
    files = ["-s", image, "--source_keypoints", points, "--source_masks", "small.png"]
    line = refused(capsys, drive, *files, "-d", image, own=False)
    assert "96 x 96 pixels, its mask 20 x 20" in line
    write_keypoints(tmp_path / "dot.npy", torch.zeros(68, 2))
    line = refused(capsys, drive, "-d", image, "--driving_keypoints", "dot.npy")
    assert "must be finite and span a pixel" in line


def test_hull_serves_where_neither_mask_nor_detector_is_there(home, drive, capsys, monkeypatch):
    def nothing(name):
        raise UserError("mediapipe is needed")

    monkeypatch.setattr(detectors, "open_detector", nothing)
    image, points = driver(home)
    drive("-s", image, "--source_keypoints", points, "-d", image, "--driving_keypoints",
          points, "-o", "h.png", own=False)  # fmt: skip
    assert "using the hull of its keypoints" in capsys.readouterr().out
