"""Samples and errors of clips, still images, BBC Pose and the demo world of clips."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from landmark_files import FIELDS, bbc_folder, frame, joints_of
from nets.data.clips import bbc_pose
from nets.data.clips.bbc_pose import BBCEvaluation, BBCPose
from nets.data.clips.clips import Clips, Folders, Stills, temporal_offset
from nets.data.io.images import write_image
from nets.data.io.video_writer import VideoWriter
from nets.errors import BadSample, UserError
from nets.worlds.clips import FRAMES, ClipsWorld, render
from nets.worlds.people.world import SPLITS


def folder_of(path, count, start=0):
    for i in range(count):
        write_image(path / f"{i + start}.png", frame(10 * i))
    return path


# --- temporal partner ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "count, position, expected",
    [
        (100, 61, set(range(3, 39))),
        (200, 10, set(range(3, 40))),
        (100, 96, {3}),
        (100, 97, set(range(-39, -2))),
        (100, 99, set(range(-39, -2))),
        (4, 1, {-1}),
        (3, 0, {0}),
        (1, 0, {0}),
    ],
)
def test_a_partner_lies_where_the_rule_says(count, position, expected):
    drawn = torch.arange(4000) / 4000
    n = torch.full((4000,), count)
    offset = temporal_offset(n, torch.full((4000,), position), drawn)
    assert set(offset.tolist()) == expected
    if len(expected) > 1:  # uniform: equal counts, up to the grid of the draws
        counts = torch.bincount(offset - offset.min())[[o - min(expected) for o in expected]]
        assert counts.max() - counts.min() <= 1


# --- folders -------------------------------------------------------------------------------------


def test_frames_of_clips_in_the_order_of_their_numbers(tmp_path):
    folder_of(tmp_path / "a", 12)
    folder_of(tmp_path / "b", 2, start=9)
    data = Clips(Folders(tmp_path, 32, pairs=True), 32, seed=3, pairs=True)
    assert len(data) == 14
    values = [int(data[0, i]["frame"][0, 0, 0]) for i in range(14)]
    assert values == [*range(0, 120, 10), 0, 10]  # 10.png comes after 9.png
    assert data.place(12) == (1, 0)
    for epoch in range(8):
        sample = data[epoch, 2]
        offset = (int(sample["partner"][0, 0, 0]) - 20) // 10
        assert 3 <= offset <= 9
        assert sample["draw"] == epoch * 14 + 2
    partners = {int(data[epoch, 2]["partner"][0, 0, 0]) for epoch in range(40)}
    assert len(partners) > 4
    again = Clips(Folders(tmp_path, 32), 32, seed=3, pairs=True)
    assert torch.equal(again[7, 2]["partner"], data[7, 2]["partner"])


def test_one_clip_that_is_shorter_than_the_range(tmp_path):
    folder_of(tmp_path / "only", 2)
    data = Clips(Folders(tmp_path, 32, pairs=True), 32, pairs=True)
    assert [int(data[0, i]["partner"][0, 0, 0]) for i in range(2)] == [0, 0]


def test_a_video_is_decoded_once_and_any_frame_is_read(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 10) as video:
        for i in range(6):
            video.write(frame(40 * i, 48, 64))
    written = []
    for _ in range(2):
        data = Clips(Folders(tmp_path, 32), 32)
        (cached,) = (tmp_path / ".frames").iterdir()
        written.append(cached.stat().st_mtime_ns)
        assert len(data) == 6
        for i in (5, 0, 3):  # H.264 of flat images is within a few levels
            assert abs(int(data[0, i]["frame"].float().mean()) - 40 * i) <= 4
    assert written[0] == written[1]
    with pytest.raises(UserError, match=r"--frame_cache gives another folder"):
        (tmp_path / "file").write_text("")
        Folders(tmp_path, 32, cache=tmp_path / "file")


def test_a_box_is_cut_out_of_every_frame_of_its_clip(tmp_path):
    image = frame(0)
    image[:, 10:30, 20:50] = 200
    write_image(tmp_path / "a/0.png", image)
    (tmp_path / "boxes.json").write_text(json.dumps({"a": [20, 10, 50, 30]}))
    assert (Clips(Folders(tmp_path, 32), 32)[0, 0]["frame"] == 200).all()


@pytest.mark.parametrize(
    "boxes, message",
    [
        ({"b": [0, 0, 1, 1]}, "b is not in"),
        ({"a": [0, 0, 0, 1]}, r"a: must be \[x_min, y_min, x_max, y_max\]"),
        ([], "must hold"),
    ],
)
def test_boxes_that_are_none(tmp_path, boxes, message):
    folder_of(tmp_path / "a", 1)
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    with pytest.raises(UserError, match=message):
        Folders(tmp_path, 32)


def test_folders_that_cannot_be_trained_on(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        Folders(tmp_path / "none", 32)
    write_image(tmp_path / "still.png", frame(0))
    with pytest.raises(UserError, match=r"holds no clips.*--dataset images takes stills"):
        Folders(tmp_path, 32)
    folder_of(tmp_path / "a", 1)
    assert len(Clips(Folders(tmp_path, 32), 32)) == 1
    with pytest.raises(UserError, match=r"a: holds one frame; use_temporal needs two or more"):
        Folders(tmp_path, 32, pairs=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: holds no frames"):
        Folders(tmp_path, 32)
    (tmp_path / "empty/broken.mp4").write_bytes(b"not a video")
    with pytest.raises(UserError, match=r"broken\.mp4: "):
        Folders(tmp_path / "empty", 32)


def test_stills_are_clips_of_one_frame_also_grey_ones(tmp_path):
    write_image(tmp_path / "b/colour.jpg", frame(90))
    Image.new("L", (50, 30), 70).save(tmp_path / "grey.png")
    data = Clips(Stills(tmp_path), 32)
    assert [int(data[0, i]["frame"][1, 3, 3]) for i in range(2)] == [90, 70]
    assert data[0, 1]["frame"].shape == (3, 32, 32)
    with pytest.raises(UserError, match="holds no images"):
        (tmp_path / "none").mkdir()
        Stills(tmp_path / "none")


# --- BBC Pose ------------------------------------------------------------------------------------


def test_training_frames_of_bbc_pose(tmp_path):
    data = Clips(BBCPose(bbc_folder(tmp_path), "train"), 32, pairs=True)
    assert len(data) == 30 and data.place(4) == (1, 1)
    sample = data[0, 4]  # video 2, its second frame
    assert abs(int(sample["frame"].float().mean()) - (5 * 2 + 8)) <= 2
    joints = joints_of(2, 3)[:, :, 1]
    low, high = joints.min(1) - 60, joints.max(1) + 60
    box = np.concatenate([np.maximum(low, 0), np.minimum(high, (200, 160))])
    assert data.source.box(1, 1) == pytest.approx(tuple(box))
    expected = (joints - box[:2, None]) / (box[2:] - box[:2])[:, None] * 32
    np.testing.assert_allclose(sample["joints"].numpy(), expected.T, rtol=1e-5)
    # The partner of the last three frames is before them, at the earliest the first frame.
    assert abs(int(sample["partner"].float().mean()) - (5 * 2 + 3)) <= 2
    assert len(Clips(BBCPose(tmp_path, "val", 0.4), 32)) == 5  # the first frame of each video


def test_evaluation_frames_of_bbc_pose(tmp_path):
    bbc_folder(tmp_path)
    data = BBCEvaluation(tmp_path, "val", 32)
    assert len(data) == 15
    sample = data[0, 4]
    joints = joints_of(12, 3)[:, :, 1]
    x, y = (joints.min(1) + joints.max(1)) / 2
    box = [max(0, x - 150), max(0, y - 150), min(200, x + 150), min(160, y + 150)]
    np.testing.assert_allclose(sample["bbox"].numpy(), box)
    w, h = box[2] - box[0], box[3] - box[1]
    gt = np.concatenate([(joints[0] - box[0]) / w - 0.5, (joints[1] - box[1]) / h - 0.5])
    np.testing.assert_allclose(sample["gt"].numpy(), gt, atol=1e-12)
    assert (sample["vid"], sample["img"]) == (1, 1)
    test = BBCEvaluation(tmp_path, "test", 32)
    assert len(test) == 2
    assert (test[0, 1]["vid"], test[0, 1]["img"]) == (20, 3)  # numbers of the files, not places
    assert abs(int(test[0, 1]["frame"].float().mean()) - (5 * 20 + 3)) <= 2
    assert len(BBCEvaluation(tmp_path, "val_manual", 32)) == 5


def test_annotations_and_frames_that_disagree(tmp_path):
    bbc_folder(tmp_path)
    (tmp_path / "7/8.jpg").unlink()
    with pytest.raises(UserError, match=r"7: .*3 frames of it, 1 of which are missing, e\.g\. 8\."):
        BBCPose(tmp_path, "train")
    data = Clips(BBCPose(tmp_path, "train", strict=False), 32)
    with pytest.raises(BadSample, match=r"8\.jpg: is missing"):
        data[0, 19]
    records = np.zeros((1, 20), dtype=[(name, object) for name in FIELDS])
    for v in range(20):
        records[0, v] = ("", "", "", np.arange(4)[None], joints_of(v, 3), [], [])
    savemat(tmp_path / "code/bbcpose.mat", {"bbcpose": records})
    with pytest.raises(UserError, match=r"video 1: 4 frames need joints 2 x 7 x 4, got 2 x 7 x 3"):
        BBCPose(tmp_path, "train")
    savemat(tmp_path / "code/bbcpose.mat", {"bbcpose": records[:, :5]})
    with pytest.raises(UserError, match="describes 5 videos, not 10"):
        BBCPose(tmp_path, "train")
    (tmp_path / "code/bbcpose.mat").write_bytes(b"MATLAB 5.0 no")
    with pytest.raises(UserError, match=r"bbcpose\.mat: cannot be read as a \.mat file"):
        BBCPose(tmp_path, "train")
    with pytest.raises(UserError, match="no such file"):
        BBCPose(tmp_path / "none", "train")


def test_points_are_written_and_read_in_both_forms(tmp_path):
    bbc_folder(tmp_path)
    truth = bbc_pose.validation_truth(tmp_path)
    np.testing.assert_array_equal(truth[:, :, 3:6], joints_of(12, 3))
    bbc_pose.write_points(tmp_path / "GT.mat", truth)
    np.testing.assert_array_equal(bbc_pose.read_points(tmp_path / "GT.mat"), truth)
    assert bbc_pose.read_points(tmp_path / "code/results.mat").shape == (2, 7, 2)
    savemat(tmp_path / "other.mat", {"x": 1})
    with pytest.raises(UserError, match="holds neither my_pred nor results"):
        bbc_pose.read_points(tmp_path / "other.mat")


# --- the clips world -----------------------------------------------------------------------------


def test_a_clip_is_one_person_before_one_background():
    data = ClipsWorld("train", 48, pairs=True, truth=True)
    places = [(0, 5 * FRAMES + i) for i in range(0, FRAMES, 4)]
    samples = data.__getitems__(places)
    behind = samples[0]["background"]
    for sample in samples:
        assert torch.equal(sample["background"], behind)
        outside = ~torch.nn.functional.max_pool2d(sample["mask"][None].float(), 5, 1, 2)[0].bool()
        assert torch.equal(sample["frame"][:, outside], behind[:, outside])
        assert 0.03 < sample["mask"].float().mean() < 0.4
        x, y = sample["joints"].long().unbind(-1)
        assert sample["mask"][y, x].float().mean() > 0.8  # joints lie on the person
        assert (sample["joints"] >= 0).all() and (sample["joints"] < 48).all()
    moved = (samples[0]["joints"] - samples[5]["joints"]).norm(dim=-1)
    assert moved.max() > 2
    alone = data[0, 5 * FRAMES + 4]
    assert all(
        torch.equal(torch.as_tensor(alone[k]), torch.as_tensor(samples[1][k])) for k in alone
    )


def test_a_body_keeps_its_size_and_moves_steadily():
    frame = torch.arange(FRAMES)
    joints = render(torch.full((FRAMES,), SPLITS["test"] + 3), frame, 64)["joints"]
    steps = (joints[1:] - joints[:-1]).norm(dim=-1)
    assert steps.max() < 10  # pixels from frame to frame: no jumps
    assert steps.mean() > 0.2


def test_partners_come_from_the_same_clip_and_change_with_the_epoch():
    data = ClipsWorld("train", 32, pairs=True, truth=True)
    a, b = data[0, 12], data[1, 12]
    assert torch.equal(a["frame"], b["frame"]) and not torch.equal(a["partner"], b["partner"])
    assert b["draw"] == len(data) + 12
    clip = data.__getitems__([(0, i) for i in range(FRAMES)])
    same = [i for i in range(FRAMES) if torch.equal(clip[i]["frame"], a["partner"])]
    assert same and 3 <= same[0] - 12 <= 27


def test_splits_share_nothing():
    train, test = (ClipsWorld(split, 32)[0, 0]["frame"] for split in ("train", "test"))
    assert not torch.equal(train, test)
    with pytest.raises(IndexError, match="index must be 0 to"):
        ClipsWorld("train", 32, clips=1)[0, FRAMES]


def test_extract_check_reads_bbc_pose(tmp_path):
    from nets.data.extraction.check import check

    bbc_folder(tmp_path / "bbc")
    victim = sorted((tmp_path / "bbc/3").iterdir())[0]
    victim.write_text("no image")
    checked = check(tmp_path / "bbc", tmp_path / "sheet.png")
    assert checked.format.startswith("BBC Pose, 45") and (tmp_path / "sheet.png").exists()
    assert len(checked.problems) == 1 and str(victim) in checked.problems[0]
