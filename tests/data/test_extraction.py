"""Datasets from photos and videos, with a detector of white and grey boxes."""

import json
import os

import numpy as np
import pytest
import torch

import extract
from boxes import STANDING, photos, refused, run, scene, video
from nets.data.extraction import jobs
from nets.data.extraction.people import split
from nets.data.heads.videos import AvatarFolder
from nets.data.io.images import read_image, write_image
from nets.data.people.index import IndexDataset, read_index
from nets.skeletons import JOINTS_15, OPENPOSE_18


def test_people_of_photos_and_videos_become_an_index(boxes, tmp_path, capsys):
    photos(tmp_path / "photos")
    run("people", "photos", "-o", "data", "--size", "64", "--min_size", "40", "--test", "0.3")
    printed = capsys.readouterr().out
    assert "7 images of 4 identities" in printed  # 2 + 1 of photos, 4 of two seconds of video
    left = (tmp_path / "data/left_out.txt").read_text()
    for line in ("small.png: too small", "cut.png: truncated or hidden, without lhip and rhip",
                 "broken.jpg: is not an image", "nobody.png: no person"):  # fmt: skip
        assert line in left
    assert read_image(tmp_path / "data/contact_sheet.png", None).shape == (3, 160, 7 * 160)
    index = read_index(tmp_path / "data/index.p")
    walked = [i for i, f in enumerate(index["imgs"]) if b"walk" in f]
    assert len(walked) == 4 and len(set(index["identities"][walked])) == 1
    data = IndexDataset(tmp_path / "data", "train", 64)
    sample = data[(0, 0)]
    corner = sample["joints"][JOINTS_15.index("lankle")]
    x, y = corner.round().int().tolist()
    assert sample["target"][0, y - 3, x] > 100  # inside the box, at its lower border
    assert sample["target"][0, min(y + 4, 63), x] < 100
    for crop, shape in (("aspect", (3, 64, 0)), ("none", (3, 48, 64))):
        run("people", "photos/b/one.jpg", "photos/a/two.png", "-o", crop, "--size", "64", "--crop",
            crop, "--min_size", "40")  # fmt: skip
        data = IndexDataset(tmp_path / crop, "train", 64)
        whole = read_image(data.file(0), None)
        assert whole.shape[0] == 3 and whole.shape[1] == shape[1]
        x, y = (data.joints[0][JOINTS_15.index("rankle")] * whole.shape[:0:-1]).round().astype(int)
        assert whole[0, y - 2, x] > 100 and whole[0, min(y + 3, whole.shape[1] - 1), x] < 100


def test_a_second_run_keeps_finished_files(boxes, tmp_path, capsys):
    photos(tmp_path / "photos")
    given = ("people", "photos", "-o", "data", "--size", "64")
    run(*given)
    first, before = boxes.asked, (tmp_path / "data/index.p").read_bytes()
    run(*given)
    assert boxes.asked == first  # images without people are recorded too
    assert (tmp_path / "data/index.p").read_bytes() == before


def test_annotated_joints_need_no_detector(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "detector", lambda backend: pytest.fail("must not be asked"))
    lines = ["name:keypoints_y:keypoints_x"]
    for i in range(3):
        write_image(tmp_path / f"market/{i}.png", scene((20, 20, 30, 80)))
        at = {n: STANDING.get(n, (-1, -1)) for n in OPENPOSE_18}
        ys, xs = ([round(20 + s * at[n][k]) if at[n][k] >= 0 else -1 for n in OPENPOSE_18]
                  for k, s in ((1, 80), (0, 30)))  # fmt: skip
        lines.append(f"{i}.png: {ys}: {xs}")
    (tmp_path / "market.csv").write_text("\n".join(lines))
    run("people", "market", "--joints", "market.csv", "-o", "data", "--size", "160")
    index = read_index(tmp_path / "data/index.p")
    assert index["joints"].shape == (3, 17, 2) and not np.isnan(index["joints"]).any()  # ears too
    nose = index["joints"][0][JOINTS_15.index("cnose")] * (160, 120)
    assert nose.tolist() == pytest.approx([35, 28])
    lines[2] = "1.png: [1, 2]: [3]"
    (tmp_path / "market.csv").write_text("\n".join(lines))
    line = refused(capsys, "people", "market", "--joints", "market.csv", "-o", "other")
    assert "market.csv, line 3: must be name: [18 y]: [18 x]" in line


def test_annotations_of_coco_openpose_and_by_name(tmp_path):
    from nets.data.people.annotations import read_annotations

    coco = {
        "images": [{"id": 7, "file_name": "x/000007.jpg"}],
        "annotations": [
            {"image_id": 7, "keypoints": [10, 20, 2, *[0, 0, 0] * 16], "num_keypoints": 1},
            {"image_id": 7, "keypoints": [0] * 51, "num_keypoints": 0},
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    (joints,) = read_annotations(tmp_path / "coco.json")["000007.jpg"]
    assert joints[JOINTS_15.index("cnose")].tolist() == [10, 20] and joints.isnan().sum() == 32
    one = {"people": [{"pose_keypoints_2d": [3, 4, 0.9, *[0, 0, 0] * 24]}]}
    (tmp_path / "p_keypoints.json").write_text(json.dumps(one))
    (joints,) = read_annotations(tmp_path)["p.jpg"]
    assert joints[JOINTS_15.index("cnose")].tolist() == [3, 4]
    (tmp_path / "own.json").write_text(json.dumps({"a.jpg": {"cnose": [5, 6], "lhip": None}}))
    (joints,) = read_annotations(tmp_path / "own.json")["a.jpg"]
    assert joints[JOINTS_15.index("cnose")].tolist() == [5, 6] and joints.isnan().sum() == 32


def test_splits_keep_identities_together():
    names = [f"p{i // 3}" for i in range(30)]
    train = split(names, 0.2)
    assert train.count(False) == 6
    assert all(len({t for n, t in zip(names, train, strict=True) if n == p}) == 1 for p in names)
    assert split(["me"] * 10, 0.2) == [True] * 8 + [False] * 2
    assert split(["a", "b"], 0.01).count(False) == 1 and all(split(["a", "b"], 0))


def test_heads_of_videos_become_a_dataset(boxes, tmp_path, capsys):
    faces = [scene((40 + i, 30, 40, 40)) for i in range(6)]
    faces[2] = scene()
    video(tmp_path / "root/ann/first/00001.mp4", faces)
    video(tmp_path / "root/bob/talk/00002.mp4", [scene((0, 0, 40, 40))] * 4)
    (tmp_path / "root/bob/talk/text.mp4").write_text("no video")
    seed = ("--batch_size", "8", "--num_gpus", "1", "--output_segmentation", "True")
    run("heads", "--video_root", "root", "--data_root", "data", "--phase", "train",
        "--sampling_rate", "2", "--image_size", "64", *seed)  # fmt: skip
    printed = capsys.readouterr().out
    assert "4 frames of 2 persons in 3 videos" in printed
    assert "2 faces at the border" in printed and "2 frames or videos left out" in printed
    left = (tmp_path / "data/left_out_train.txt").read_text()
    assert "00001.mp4, frame 2, second 0.50: no face" in left and "text.mp4: is not a vid" in left
    data = AvatarFolder("data", "train", 64)
    assert data.items == ["ann/first", "bob/talk"]
    assert data.frames("ann/first") == ["ann/first/00001/0", "ann/first/00001/4"]
    points = np.load(tmp_path / "data/keypoints/train/ann/first/00001/4.npy")
    assert points.shape == (68, 2) and points.dtype == np.float32
    # The face has side 39 and begins at (44, 30). The square has side 78 and is moved up by 39 / 6.
    assert points[0].tolist() == pytest.approx([0.25 * 64, (0.25 + 6 / 78) * 64], abs=1.5)
    mask = read_image(tmp_path / "data/segs/train/ann/first/00001/4.png", None)
    x, y = points[:2].mean(0).round().astype(int)
    assert mask[0, y, x] == 255 and mask[0, 2, 2] == 0
    asked = boxes.asked
    run("heads", "root", "-o", "data", "--phase", "train", "--sampling_rate", "2",
        "--image_size", "64")  # fmt: skip
    assert boxes.asked == asked  # all frames were kept
    os.unlink(tmp_path / "data/imgs/train/ann/first/00001/4.jpg")
    run("heads", "root", "-o", "data", "--phase", "train", "--sampling_rate", "2",
        "--image_size", "64")  # fmt: skip
    assert len(data.frames("ann/first")) == 2


def test_a_mask_without_a_person_is_empty(boxes, tmp_path):
    """Not noise of a few levels, which would be read as labels."""
    boxes.mask = lambda image: torch.full(image.shape[1:], 0.01)
    video(tmp_path / "talk.mp4", [scene((40, 30, 40, 40))] * 2)
    run("heads", "talk.mp4", "-o", "data", "--image_size", "64")
    assert (read_image(tmp_path / "data/segs/test/talk/talk/talk/0.png", None) == 0).all()


@pytest.mark.parametrize("first", [[], ["--output_segmentation", "False"]], ids=["masks", "none"])
def test_heads_without_masks_pass_the_check(boxes, tmp_path, capsys, first):
    video(tmp_path / "root/ann/first/00001.mp4", [scene((40 + i, 30, 40, 40)) for i in range(3)])
    shared = ["heads", "--video_root", "root", "--data_root", "data", "--image_size", "64"]
    run(*shared, "--phase", "train", *first)
    run(*shared, "--phase", "test", "--output_segmentation", "False")
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        extract.main(["check", "data"])
    printed = capsys.readouterr().out
    assert not ended.value.code and "heads of videos, 6 frames" in printed
    where = "" if first else " in test"
    assert f"no masks{where}: train with --output_segmentation false" in printed
    (tmp_path / "data/segs/train").mkdir(parents=True, exist_ok=True)  # empty or not: no matter
    with pytest.raises(SystemExit) as ended:
        extract.main(["check", "data"])
    assert not ended.value.code


def test_heads_of_part_of_a_single_video(boxes, tmp_path, capsys):
    video(tmp_path / "my talk.mp4", [scene((40 + i, 30, 40, 40)) for i in range(8)])
    run("heads", "my talk.mp4", "-o", "data", "--start", "1", "--image_size", "64")
    assert AvatarFolder("data", "test", 64).frames("my_talk/my_talk") == [
        f"my_talk/my_talk/my_talk/{i}" for i in (4, 5, 6, 7)]  # fmt: skip
    video(tmp_path / "dark.mp4", [scene()] * 3)
    line = refused(capsys, "heads", "dark.mp4", "-o", "other")
    assert "no face in 1 videos; the first left out: dark.mp4, frame 0, second 0.00" in line


def test_heads_of_a_stable_crop_have_one_size(boxes, tmp_path):
    """A face that is found 36 to 44 pixels large and shakes by 4, in 12 frames; one is dark."""
    faces = [scene((60 + 4 * (i % 2), 30, 36 + 4 * (i % 3), 40)) for i in range(12)]
    faces[5] = scene()
    video(tmp_path / "talk.mp4", faces, fps=25)
    widths, places = {}, {}
    for crop in ("frame", "stable"):
        run("heads", "talk.mp4", "-o", crop, "--crop", crop, "--image_size", "64")
        files = [tmp_path / f"{crop}/keypoints/test/talk/talk/talk/{i}.npy" for i in range(12)]
        assert [file.exists() for file in files] == [i != 5 for i in range(12)]
        points = np.stack([np.load(file)[:2] for file in files if file.exists()])
        widths[crop] = (points[:, 1] - points[:, 0])[:, 0]
        places[crop] = points.mean(1)[:, 0]
    assert "frame 5, second 0.20: no face" in (tmp_path / "stable/left_out_test.txt").read_text()
    # The squares of single frames follow the face, so it stands still in them, at one size.
    assert widths["frame"].std() < 2 and places["frame"].std() < 1
    # In the stable ones it moves and grows, as it does in the video: 64 pixels show 80.
    assert widths["stable"].std() == pytest.approx(0.8 * np.std([36, 40, 44]), abs=0.8)
    assert places["stable"].std() > 1
    asked = boxes.asked
    run("heads", "talk.mp4", "-o", "stable", "--crop", "stable", "--image_size", "64")
    assert boxes.asked == asked  # all frames were kept


def test_a_clip_has_one_square_around_the_whole_path(boxes, tmp_path):
    video(tmp_path / "walk.mp4", [scene((10 + 8 * i, 20, 30, 80)) for i in range(8)])
    run("clips", "walk.mp4", "-o", "clips", "--fps", "4", "--size", "48")
    frames = [read_image(f, None) for f in sorted((tmp_path / "clips/walk").iterdir())]
    assert len(frames) == 8 and frames[0].shape == (3, 48, 48)
    middles = [(f[0] > 100).nonzero()[:, 1].float().mean().item() for f in frames]
    assert (
        middles == sorted(middles) and middles[-1] - middles[0] > 15
    )  # the box moves in the frame
    rows = [(f[0] > 100).nonzero()[:, 0].float().mean().item() for f in frames]
    assert max(rows) - min(rows) < 1


def test_check_lists_the_problems_of_each_format(boxes, tmp_path, capsys):
    photos(tmp_path / "photos")
    run("people", "photos", "-o", "mine", "--size", "64")
    video(tmp_path / "talk.mp4", [scene((40 + i, 30, 40, 40)) for i in range(4)])
    run("heads", "talk.mp4", "-o", "heads", "--image_size", "64")
    run("clips", "talk.mp4", "-o", "clips", "--crop", "centre")
    for data in ("mine", "heads", "clips"):
        with pytest.raises(SystemExit, match="0"):
            extract.main(["check", data, "-o", f"{data}.png"])
        assert (tmp_path / f"{data}.png").exists()
    capsys.readouterr()
    victim = next((tmp_path / "mine/images").iterdir())
    victim.write_bytes(victim.read_bytes()[:200])
    np.save(tmp_path / "heads/keypoints/test/talk/talk/talk/1.npy", np.zeros((3, 2)))
    (tmp_path / "heads/keypoints/test/talk/talk/talk/2.npy").unlink()
    (tmp_path / "clips/talk/000001.jpg").write_text("no image")
    for data, text in (("mine", victim.name), ("heads", "1.npy: must hold keypoints (68, 2)"),
                       ("heads", "1 images without keypoints or mask"),
                       ("clips", "000001.jpg: is not an image")):  # fmt: skip
        with pytest.raises(SystemExit, match="1"):
            extract.main(["check", data])
        assert text in capsys.readouterr().out
    for data, text in (("nowhere", "no such file"), ("mine/extraction", "no dataset")):
        line = refused_check(capsys, data)
        assert text in line


def test_look_draws_the_detections(boxes, tmp_path, capsys):
    photos(tmp_path / "photos")
    extract.main(["look", "photos/a", "photos/b/nobody.png", "-o", "look.png"])
    printed = capsys.readouterr().out
    assert "two.png: 2 persons, 2 faces" in printed and "nobody.png: 0 persons, 0 faces" in printed
    small, two, nobody = read_image(tmp_path / "look.png", None).split(
        228, 1
    )  # in the order of their names
    assert (two[1].int() - two[0] > 100).sum() > 40  # green joints, on white and grey
    assert not (nobody[1].int() - nobody[0] > 100).any()
    square = two[:, :, 456:680].float()  # the larger person: a box of 30 x 80 in a square of 104
    assert 0.15 < (square[0] > 200).float().mean() < 0.3
    assert small.shape == two.shape
    with pytest.raises(SystemExit, match="2"):
        extract.main(["look", "nowhere.png"])
    assert "nowhere.png: is missing" in capsys.readouterr().err


def test_check_reads_batches_and_tables(tmp_path, capsys, monkeypatch):
    from nets.data.scenes.batches import write_batch

    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("batch1.npz", "batch2", "batch3.npz")):
        image = torch.full((6 - (i == 2), 1, 16, 16), 90, dtype=torch.uint8)
        write_batch(tmp_path / "set/th_AZ_VARIED/FT_training" / name, image)
    write_image(tmp_path / "faces/a.png", scene())
    (tmp_path / "faces/factors.csv").write_text("file,azimuth\na.png,0.1\nb.png,0.2\n")
    for data, text in (("set", "batch3.npz: must be a batch of [6, 1, 16, 16]"),
                       ("faces", "b.png: is missing")):  # fmt: skip
        with pytest.raises(SystemExit, match="1"):
            extract.main(["check", data])
        printed = capsys.readouterr().out
        assert text in printed and "1 problems" in printed


def refused_check(capsys, data):
    with pytest.raises(SystemExit, match="2"):
        extract.main(["check", data])
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_small_mistakes_are_one_line(boxes, tmp_path, capsys):
    assert "must be one of people, heads" in refused(capsys, "persons")
    assert "give photos, videos" in refused(capsys, "people")
    assert "nowhere: no such file" in refused(capsys, "people", "nowhere")
    (tmp_path / "empty").mkdir()
    assert "empty: holds no images" in refused(capsys, "people", "empty")
    assert "VIDEO_ROOT: give a file" in refused(capsys, "heads")
    assert "--sampling_rte" in refused(capsys, "heads", "x", "--sampling_rte", "3")
    write_image(tmp_path / "empty/a.png", scene())
    assert "no person in 1 files" in refused(capsys, "people", "empty", "-o", "d")
    (tmp_path / "file").write_text("")
    write_image(tmp_path / "one/a.png", scene((20, 20, 30, 80)))
    assert "file" in refused(capsys, "people", "one", "-o", "file/data")
