"""Datasets of heads in videos: folders, lists of files, and the rules that draw frames."""

import math

import numpy as np
import pytest
import torch

from avatar_folder import face_points, write_folder
from nets.bilayer.data import open_avatars, poses_of, prepare, stickmen
from nets.data.heads.faces import pose_points, write_keypoints
from nets.data.heads.videos import AvatarFolder, AvatarList, frame_path, paper_frames, read_frame
from nets.data.io.images import write_image
from nets.errors import BadSample, UserError
from nets.run.loader import loader
from nets.run.ranks import Ranks
from nets.worlds.heads.export import write_data_root

OPTIONS = {
    "image_size": 32,
    "num_source_frames": 1,
    "num_target_frames": 1,
    "num_keypoints": 68,
    "output_segmentation": True,
    "output_stickmen": True,
    "stickmen_thickness": 2,
    "dataset_load_from_txt": False,
    "frame_num_from_paper": True,
    "seed": 0,
    "demo_train": 0,
    "demo_test": 4,
}


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "data")


def test_papers_frames_lie_at_the_fractions_of_the_spec():
    assert paper_frames(10001, 5, 0.0) == [0, 2361, 4721, 7082, 9443]
    assert paper_frames(2, 2, 0.5) == [0, 1]  # round(0.5) is 0: half to even; frac(.5 + sqrt 5)
    assert paper_frames(1, 3, 0.9) == [0, 0, 0]


def test_poses_of_a_dataset_leave_out_what_cannot_be_read(folder):
    data = open_avatars({**OPTIONS, "data": folder}, "train")
    whole = poses_of(data)
    assert whole.shape == (2 * len(data), 136)
    assert torch.equal(poses_of(data, 1), whole[:2])

    class Torn(AvatarFolder):
        def __getitem__(self, place):
            if place[1]:
                raise BadSample("x", "is torn")
            return super().__getitem__(place)

    data.__class__ = Torn
    assert torch.equal(poses_of(data), whole[:2])


def test_a_sample_is_one_persons_frames_in_the_documented_form(folder):
    data = AvatarFolder(folder, "train", 32, sources=2, targets=3, paper=True)
    assert len(data) == 2
    sample = data[0, 1]
    shapes = {name: tuple(value.shape) for name, value in sample.items()}
    assert shapes == {
        "source_imgs": (2, 3, 32, 32),
        "source_poses": (2, 136),
        "source_segs": (2, 1, 32, 32),
        "target_imgs": (3, 3, 32, 32),
        "target_poses": (3, 136),
        "target_segs": (3, 1, 32, 32),
        "indices": (1,),
    }
    assert sample["source_imgs"].dtype == sample["source_segs"].dtype == torch.uint8
    middle = sample["target_imgs"][:, :, 16, 16]
    assert (middle[:, 1].int() - 60).abs().max() <= 3  # all frames are of person 1
    assert sample["target_poses"].abs().max() <= 1 and sample["indices"].item() == 1


def test_poses_are_pixels_over_the_stored_width_whatever_the_size(folder):
    frame = read_frame(folder, "test", "id0/video/00/2", 32)
    assert torch.allclose(pose_points(frame.pose, 48), face_points(48, 0.1), atol=1e-4)


def test_in_phase_test_the_source_is_the_first_frame_and_epochs_change_nothing(folder):
    data = AvatarFolder(folder, "test", 32, targets=2, paper=True)
    assert data.choose(0, 0) == data.choose(7, 0)
    # The fractions of the 4 frames give the indices 0, 0.71 and 1.42.
    assert data.choose(0, 0) == [f"id0/video/00/{i}" for i in (0, 1, 1)]


def test_frames_are_counted_from_seed_epoch_and_item(folder):
    for paper in (True, False):
        data = AvatarFolder(folder, "train", 32, targets=3, paper=paper, seed=1)
        again = AvatarFolder(folder, "train", 32, targets=3, paper=paper, seed=1)
        chosen = [data.choose(epoch, 0) for epoch in range(20)]
        assert chosen == [again.choose(epoch, 0) for epoch in range(20)]
        assert len({tuple(names) for names in chosen}) > 3
        other = AvatarFolder(folder, "train", 32, targets=3, paper=paper, seed=2)
        assert chosen != [other.choose(epoch, 0) for epoch in range(20)]


def test_the_random_rule_takes_every_frame_equally_often_and_alike_in_test(folder):
    data = AvatarFolder(folder, "train", 32, paper=False)
    taken = [name for epoch in range(400) for name in data.choose(epoch, 0)]
    counts = np.unique(taken, return_counts=True)[1]
    assert len(counts) == 4 and counts.min() > 160
    test = AvatarFolder(folder, "test", 32, paper=False)
    assert test.choose(0, 1) == test.choose(3, 1)


def test_frames_without_all_their_files_are_no_candidates(folder):
    frame_path(folder, "keypoints", "train", "id0/video/00/1").unlink()
    frame_path(folder, "segs", "train", "id0/video/00/2").unlink()
    data = AvatarFolder(folder, "train", 32)
    assert data.frames("id0/video") == ["id0/video/00/0", "id0/video/00/3"]
    bare = AvatarFolder(folder, "train", 32, masks=False)
    assert bare.frames("id0/video") == [f"id0/video/00/{i}" for i in (0, 2, 3)]
    assert "source_segs" not in bare[0, 0]


def test_an_item_without_frames_gives_the_next_one(folder):
    for i in range(4):
        frame_path(folder, "keypoints", "train", f"id0/video/00/{i}").unlink()
    data = AvatarFolder(folder, "train", 32)
    assert data.choose(0, 0)[0].startswith("id1/")


def test_frames_sort_as_text_by_path_part(folder):
    points = face_points(48)
    for name in ("10", "2"):
        for kind, suffix in (("imgs", "jpg"), ("segs", "png")):
            target = frame_path(folder, kind, "train", f"id0/video/00/{name}")
            target.write_bytes(frame_path(folder, kind, "train", "id0/video/00/0").read_bytes())
            assert target.suffix == f".{suffix}"
        write_keypoints(frame_path(folder, "keypoints", "train", f"id0/video/00/{name}"), points)
    names = AvatarFolder(folder, "train", 32).frames("id0/video")
    assert [name.split("/")[-1] for name in names] == ["0", "1", "10", "2", "3"]


def test_masks_of_three_equal_channels_are_read(folder):
    file = frame_path(folder, "segs", "train", "id0/video/00/0")
    mask = read_frame(folder, "train", "id0/video/00/0", 48).mask
    write_image(file, mask.expand(3, -1, -1))
    assert torch.equal(read_frame(folder, "train", "id0/video/00/0", 48).mask, mask)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda f: f("imgs").write_bytes(b"no"), r"imgs.*0\.jpg: is not an image"),
        (lambda f: f("keypoints").unlink(), r"keypoints.*0\.npy: is missing"),
        (lambda f: np.save(f("keypoints"), np.zeros((5, 2))), r"0\.npy: must hold keypoints"),
        (
            lambda f: write_image(f("segs"), torch.zeros(1, 20, 20, dtype=torch.uint8)),
            r"segs.*0\.png: is 20 x 20 pixels, its image .* is 48 x 48",
        ),
        (
            lambda f: write_image(f("imgs"), torch.zeros(3, 20, 30, dtype=torch.uint8)),
            r"0\.jpg: must be square, is 30 x 20",
        ),
    ],
)
def test_a_bad_file_is_named(folder, spoil, why):
    spoil(lambda kind: frame_path(folder, kind, "train", "id0/video/00/0"))
    with pytest.raises(BadSample, match=why):
        read_frame(folder, "train", "id0/video/00/0", 32)


def test_folders_that_hold_nothing_usable_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"imgs/train: no such folder"):
        AvatarFolder(tmp_path, "train", 32)
    write_folder(tmp_path / "d", masks=False)
    with pytest.raises(UserError, match="holds no PERSON/VIDEO/SEQUENCE/FRAME with image, key"):
        AvatarFolder(tmp_path / "d", "train", 32)


def write_list(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_samples_come_from_a_list_in_its_order(folder, tmp_path):
    file = write_list(
        tmp_path / "l.txt",
        f"data-root: {folder}",
        "source1: id1/video/00/3.jpg",
        "target1: id1/video/00/0.jpg",
        "source 1:id0/video/00/2.jpg",
        f"target1:{folder}/imgs/test/id0/video/00/1.jpg",
    )
    data = AvatarList(file, "train", None, 32)
    assert len(data) == 2 and not data.shuffle
    red = [data[epoch, 0]["source_imgs"][0, 0, 16, 16].item() for epoch in (0, 5)]
    assert red[0] == red[1] and abs(red[0] - 120) <= 3
    assert abs(data[0, 1]["target_imgs"][0, 0, 16, 16].item() - 40) <= 3


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["target1: id0/video/00/0.jpg"], r"line 2: must be `source1: PATH`"),
        (["source1: id0/video/00/0.jpg", "what"], r"line 3: must be `target1: PATH`, is `what`"),
        (["source1: id0/video/00/9.jpg"], r"line 2: .*9\.jpg is missing"),
        (["source1: id0/video/00/0.jpg"], r"line 2: the last sample ends before its target1"),
        (["source1:"], r"line 2: must be `source1: PATH`"),
        ([], r"names no sample"),
        (["source1: /elsewhere/0.jpg"], r"line 2: .* is not below a folder imgs"),
        (["source1: id0/../../0.jpg"], r"line 2: must lie below ROOT/imgs/train, is id0/\.\./"),
        (["source1: /x/imgs/train/../../0.jpg"], r"line 2: must lie below ROOT/imgs/train"),
    ],
)
def test_a_wrong_line_is_named(folder, tmp_path, lines, why):
    file = write_list(tmp_path / "l.txt", f"data-root: {folder}", *lines)
    with pytest.raises(UserError, match=rf"l\.txt.*{why}"):
        AvatarList(file, "train", None, 32)


def test_a_list_needs_a_root_and_the_given_one_goes_first(folder, tmp_path):
    file = write_list(tmp_path / "l.txt", "source1: id0/video/00/0.jpg")
    with pytest.raises(UserError, match="line 1: a relative path"):
        AvatarList(file, "train", None, 32)
    lines = ["data-root: /nowhere", "source1: id0/video/00/0.jpg", "target1: id0/video/00/1.jpg"]
    assert len(AvatarList(write_list(file, *lines), "train", folder, 32)) == 1


def test_what_samples_name_can_be_read_back_as_a_list(folder, tmp_path):
    data = AvatarFolder(folder, "train", 32, sources=2, targets=2, with_names=True)
    samples = [data[3, 0], data[3, 1]]
    lines = [f"data-root: {folder}", *(sample["files"] for sample in samples)]
    again = AvatarList(write_list(tmp_path / "l.txt", *lines), "train", None, 32, 2, 2)
    for i, sample in enumerate(samples):
        for name in ("source_imgs", "target_imgs", "target_poses"):
            assert torch.equal(again[0, i][name], sample[name])


def test_prepared_batches_are_in_the_networks_ranges(folder):
    data = open_avatars({**OPTIONS, "data": str(folder)}, "train")
    batch = loader(data, 2, Ranks("cpu")).batch(0)
    ready = prepare(batch, OPTIONS)
    assert ready["source_imgs"].shape == (2, 1, 3, 32, 32)
    assert ready["target_stickmen"].shape == (2, 1, 3, 32, 32)
    assert ready["source_imgs"].amax() == 1 and ready["source_imgs"].amin() >= -1
    assert ready["target_segs"].amin() >= 0 and ready["target_segs"].amax() == 1


def test_stickmen_have_the_background_and_colours_of_the_table():
    pose = (face_points(256) / 256 * 2 - 1).flatten()[None, None]
    drawn = stickmen(pose, 256)
    assert drawn.shape == (1, 1, 3, 256, 256)
    assert math.isclose(drawn[0, 0, 0, 0, 0].item(), 2 / 255 - 1, rel_tol=1e-6)
    x, y = face_points(256)[29].long().tolist()  # the nose bridge is blue
    assert drawn[0, 0, :, y, x].tolist() == [-1, -1, 1]
    thick = stickmen(pose, 256, thickness=6)
    assert (thick > 0).sum() > 1.5 * (drawn > 0).sum()


def test_the_demo_world_gives_the_same_dictionary_and_exact_truth():
    world = open_avatars({**OPTIONS, "data": None}, "test")
    assert len(world) == 4
    samples = world.__getitems__([(0, 1), (5, 2)])
    assert {"source_imgs", "source_poses", "source_segs", "target_imgs"} <= samples[0].keys()
    sample = world[9, 1]
    assert torch.equal(sample["target_imgs"], samples[0]["target_imgs"])  # the epoch has no effect
    truth = world.truth(sample["person"], sample["background"], sample["target_scene"])
    assert torch.equal(truth["image"], sample["target_imgs"])
    train = open_avatars({**OPTIONS, "data": None}, "train")
    assert train[0, 1]["person"] != sample["person"]
    azimuth = [train[epoch, 1]["target_scene"]["azimuth"] for epoch in (0, 1)]
    assert azimuth[0] != azimuth[1]


def test_the_demo_worlds_folder_is_read(tmp_path):
    write_data_root(tmp_path, {"train": 2}, videos=1, frames=3, size=32)
    data = open_avatars({**OPTIONS, "data": str(tmp_path)}, "train")
    assert len(data) == 2 and data[0, 1]["source_imgs"].shape == (1, 3, 32, 32)
