"""python -m nets.worlds: each world as files that the datasets of training read, with its truth."""

import csv

import pytest
import torch

from nets.data.clips.clips import Folders
from nets.data.heads.videos import AvatarFolder
from nets.data.io.images import read_grey, read_image
from nets.data.people.index import IndexDataset
from nets.data.scenes.factors import FACTORS
from nets.worlds import __main__ as command
from nets.worlds import clips
from nets.worlds.heads.batches import HeadBatches
from nets.worlds.heads.export import motion
from nets.worlds.people.world import SPLITS, render


def table(file):
    with open(file, newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_people_are_read_as_they_were_drawn(tmp_path, capsys):
    command.main(["people", str(tmp_path), "--persons", "2", "--test_persons", "1", "--poses", "3",
                  "--size", "32", "--seed", "5"])  # fmt: skip
    assert capsys.readouterr().out == f"written: 9 images in {tmp_path}\n"
    test = IndexDataset(tmp_path / "index.p", "test", 32)
    assert len(test) == 3 and len(IndexDataset(tmp_path / "index.p", "train", 32)) == 6
    ids = torch.arange(3) + SPLITS["test"]
    drawn = render(torch.full_like(ids, SPLITS["test"]), ids, ids, 32, 5)
    for i in range(3):
        sample = test[0, i]
        assert torch.equal(sample["target"], drawn["image"][i])
        torch.testing.assert_close(sample["joints"][:15], drawn["joints"][i], rtol=0, atol=1e-4)
        mask = read_image(tmp_path / "masks/test/person_00000" / f"{i:03d}.png", None)
        assert torch.equal(mask[0] > 0, drawn["mask"][i])
    pairs = table(tmp_path / "pairs.csv")
    assert len(pairs) == 6 and all(row["from"] != row["to"] for row in pairs)
    assert {row["to"] for row in pairs} == {
        f"images/test/person_00000/{i:03d}.png" for i in range(3)
    }
    assert [row["pose_and_background"] for row in table(tmp_path / "truth.csv")[:4]] == list("0123")


def test_pairs_of_identity_show_one_person(tmp_path):
    command.main(["people", str(tmp_path), "--persons", "2", "--test_persons", "1", "--poses", "2",
                  "--size", "32"])  # fmt: skip
    data = IndexDataset(tmp_path / "index.p", "train", 32, pairing="identity")
    for i, other in enumerate((1, 0, 3, 2)):
        assert torch.equal(data[0, i]["appearance"], data[0, other]["target"])


def test_clips_are_read_as_they_were_drawn(tmp_path):
    command.main(["clips", str(tmp_path), "--clips", "2", "--size", "32", "--split", "test"])
    data = Folders(tmp_path / "frames", 32)
    assert data.counts == [clips.FRAMES] * 2
    clip = torch.tensor([1 + SPLITS["test"]])
    drawn = clips.render(clip, torch.tensor([7]), 32, 0, background=True)
    assert torch.equal(data.read(1, 7, None, 32), drawn["image"][0])
    behind = read_image(tmp_path / "backgrounds/clip_00001.png", None)
    assert torch.equal(behind, drawn["background"][0])
    row = table(tmp_path / "joints.csv")[clips.FRAMES + 7]
    assert row["file"] == "frames/clip_00001/007.png"
    points = torch.tensor([float(value) for name, value in row.items() if name != "file"])
    torch.testing.assert_close(points, drawn["joints"][0].flatten(), rtol=0, atol=0.006)


def test_faces_are_read_as_they_were_drawn(tmp_path):
    command.main(["faces", str(tmp_path), "--persons", "1", "--test_persons", "1", "--videos", "1",
                  "--frames", "2", "--size", "32"])  # fmt: skip
    data = AvatarFolder(tmp_path, "test", 32, sources=1, targets=1)
    assert len(data) == 1
    rows = table(tmp_path / "truth.csv")
    names = [f"{phase}/person_00000/video_00/00/0000{i}" for phase in SPLITS for i in range(2)]
    assert [row["frame"] for row in rows] == names
    for phase, clip in (("train", 0), ("test", 1)):
        scene = motion(clip, 2)
        for i, row in enumerate(row for row in rows if row["frame"].startswith(phase)):
            assert (tmp_path / "imgs" / f"{row['frame']}.jpg").is_file()
            for factor in FACTORS:
                assert float(row[factor]) == pytest.approx(float(scene[factor][i]), abs=1e-6)
            assert 0 <= float(row["mouth"]) < 1 and 0 <= float(row["left_lids"]) < 1


def test_scenes_are_batches_in_which_one_factor_changes(tmp_path):
    command.main(["scenes", str(tmp_path), "--batches", "1", "--test_batches", "1",
                  "--batch_size", "4", "--size", "32"])  # fmt: skip
    rows = table(tmp_path / "factors.csv")
    assert len(rows) == 2 * 4 * 4
    for start in range(0, len(rows), 4):
        batch = rows[start : start + 4]
        kind = batch[0]["file"].split("/")[1].split("_")[0]
        for column in (*FACTORS, "shape"):
            assert len({row[column] for row in batch}) == (4 if column == kind else 1)
    sets = dict.fromkeys((*FACTORS, "shape"), "")
    drawn = HeadBatches("test", sets, 4, 32, 1).read("light", 0)["image"]
    for i in range(4):
        image = read_grey(tmp_path / f"test/light_0000/00{i}.png", 32)
        assert torch.equal(image, drawn[i])
    assert len({row["shape"] for row in rows if row["split"] == "test"}) > 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["clips", "--clips", "0"], "--clips: must be 1 or more, got 0"),
        (["people", "--size", "8"], "--size: must be 16 or more, got 8"),
    ],
)
def test_a_bad_count_is_one_line(given, message, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main([*given, str(tmp_path / "new")])
    assert capsys.readouterr().err == f"python -m nets.worlds: error: {message}\n"
    assert not (tmp_path / "new").exists()
