"""Batches in which one factor changes: files, tables, the demo world, and their order."""

import csv
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from nets.data.io import torch7
from nets.data.io.images import read_grey, write_image
from nets.data.scenes import factors
from nets.data.scenes.batches import (
    BatchFolder,
    Drawn,
    in_file_order,
    read_batch,
    unit,
    write_batch,
)
from nets.data.scenes.factors import ROUNDS, FactorTable
from nets.dcign import convert
from nets.dcign.data import open_batches
from nets.errors import BadSample, UserError
from nets.worlds.heads.batches import HeadBatches
from nets.worlds.heads.world import RANGES, SPLITS

SETS = {
    "azimuth": "AZ_VARIED",
    "elevation": "EL_VARIED",
    "light": "LIGHT_AZ_VARIED",
    "shape": "SHAPE_VARIED",
}


class Counted:
    """A source whose pixel values encode type and number of the batch."""

    name = "counted"
    labels = ("place",)

    def __init__(self, **counts):
        self.counts = counts

    def read(self, kind, number):
        value = 10 * list(self.counts).index(kind) + number
        image = torch.full((5, 1, 4, 4), value, dtype=torch.uint8)
        return {"image": image, "place": torch.arange(5)}


def kinds(data, epochs=1):
    draws = [data.place(e, i) for e in range(epochs) for i in range(len(data))]
    return Counter(kind for kind, _ in draws), draws


@pytest.mark.parametrize("bias, shares", [(0, [1 / 4] * 4), (15, [1 / 19] * 3 + [16 / 19])])
def test_types_have_the_published_frequencies(bias, shares):
    source = Counted(azimuth=3, elevation=3, light=3, shape=3)
    counts, draws = kinds(Drawn(source, 1000, seed=3, bias=bias))
    for kind, share in enumerate(shares):
        sigma = (share * (1 - share) / 1000) ** 0.5
        assert abs(counts[kind] / 1000 - share) < 4 * sigma
    assert {number for _, number in draws} == {0, 1, 2}


def test_draws_depend_on_seed_epoch_and_index_only():
    source = Counted(a=7, b=9)
    one, same = (kinds(Drawn(source, 50, seed=1), 2)[1] for _ in range(2))
    assert one == same and one[:50] != one[50:]
    assert one != kinds(Drawn(source, 50, seed=2), 2)[1]


def test_passes_have_each_batch_once():
    data = Drawn(Counted(a=3, b=5), seed=1, how="passes")
    first, second = ([data.place(e, i) for i in range(8)] for e in (0, 1))
    assert (
        sorted(first) == sorted(second) == [(0, i) for i in range(3)] + [(1, i) for i in range(5)]
    )
    assert first != second != sorted(second)


def test_file_order_and_shuffling_inside_batches():
    data = in_file_order(Counted(a=2, b=1))
    rows = [data[0, i] for i in range(len(data))]
    assert [(r["kind"], r["batch"], int(r["image"][0, 0, 0, 0])) for r in rows] == [
        (0, 0, 0), (0, 1, 1), (1, 0, 10),
    ]  # fmt: skip
    assert rows[0]["place"].tolist() == [0, 1, 2, 3, 4]
    mixed = Drawn(Counted(a=2, b=1), 30, how="draws")
    places = [tuple(mixed[0, i]["place"].tolist()) for i in range(30)]
    assert {tuple(sorted(p)) for p in places} == {(0, 1, 2, 3, 4)}
    assert len({p[0] for p in places}) == 5  # any image may be the first, the clamp's
    with pytest.raises(IndexError):
        data[0, 3]


def test_heads_change_in_one_label_only():
    world = HeadBatches("train", SETS, count=3, size=24, limit=2)
    for kind in SETS:
        batch = world.read(kind, 1)
        assert batch["image"].shape == (3, 1, 24, 24) and batch["image"].dtype == torch.uint8
        moving = [
            name
            for name in ("azimuth", "elevation", "light", "person")
            if len(batch[name].unique()) > 1
        ]
        assert moving == ["person" if kind == "shape" else kind]
        for name, reach in RANGES.items():
            assert batch[name].abs().max() <= reach
        assert torch.equal(world.draw(batch), batch["image"])
    mixed = HeadBatches("train", None, count=3, size=24, limit=2).read("mixed", 0)
    for name in ("azimuth", "elevation", "light", "person"):
        assert len(mixed[name].unique()) == 3


def test_heads_are_deterministic_and_splits_share_no_person():
    world, other = (HeadBatches("train", SETS, 3, 24, 3) for _ in range(2))
    first = world.read("light", 2)["image"]
    assert torch.equal(world.read("light", 2)["image"], first)  # kept
    assert torch.equal(other.read("light", 2)["image"], first)  # rendered alone
    persons = [world.scene(k, n)["person"] for k in SETS for n in range(3)]
    once = [p.unique() for p in persons]
    assert len(torch.cat(once).unique()) == sum(len(p) for p in once)
    test = HeadBatches("test", SETS, 3, 24, 3)
    assert test.scene("shape", 0)["person"].min() >= SPLITS["test"] > torch.cat(persons).max()
    world._images.fill_(7)
    assert world.read("light", 2)["image"].max() == 7  # not rendered again


def test_heads_refuse_unknown_types():
    with pytest.raises(UserError, match="no batches in which only nose changes"):
        HeadBatches("train", {"nose": "NOSE", "shape": "SHAPE"})


@pytest.fixture
def root(tmp_path):
    """Batches of the demo world, train as Torch7 files and test with labels."""
    arguments = ["--heads", "--bsize", "3", "--imwidth", "48", "--num_test_batches", "1"]
    arguments += ["--num_train_batches", "2", "--output_dir", str(tmp_path / "D")]
    convert.main([*arguments, "--torch7"])
    return tmp_path / "D"


def settings(root, **others):
    return {"data": str(root), "regime": "disentangled", "batch_size": 3, "image_size": 48,
            "num_train_batches_per_type": None, "num_test_batches_per_type": None,
            **others}  # fmt: skip


def test_torch7_batches_in_the_published_layout(root):
    path = root / "th_AZ_VARIED/FT_training/batch2"
    tensor = torch7.read(path)
    assert tensor.shape == (3, 1, 48, 48) and tensor.dtype == torch.float32
    truth = HeadBatches("train", SETS, 3, 48, 2).read("azimuth", 1)["image"]
    assert torch.equal(tensor, truth.float() / 255)
    source = open_batches(settings(root), SETS, "train")
    assert source.counts == dict.fromkeys(SETS, 2) and source.labels == ()
    assert torch.equal(source.read("azimuth", 1)["image"], tensor)
    mixed = open_batches(settings(root, regime="entangled"), SETS, "test")
    assert mixed.counts == {"mixed": 1}
    mixed = mixed.read("mixed", 0)["image"]
    assert torch.equal(unit(HeadBatches("test", None, 3, 48, 2).read("mixed", 0)["image"]), mixed)


def test_npz_batches_have_labels(tmp_path):
    convert.main(["--heads", "--bsize", "2", "--imwidth", "48", "--num_test_batches", "1",
                  "--num_train_batches", "1", "--output_dir", str(tmp_path)])  # fmt: skip
    source = BatchFolder(tmp_path, "test", SETS, 2, 48)
    truth = HeadBatches("test", SETS, 2, 48, 1).read("light", 0)
    batch = source.read("light", 0)
    assert batch.keys() == truth.keys()
    assert all(torch.equal(batch[name], truth[name]) for name in truth)


def test_batches_are_sorted_by_number(tmp_path):
    folder = tmp_path / "th_training"
    folder.mkdir()
    for i in (1, 2, 10):
        image = torch.full((2, 1, 4, 4), i, dtype=torch.uint8)
        (folder / f"batch{i}").write_bytes(torch7.dumps(unit(image)))
    (folder / "notes.txt").write_text("not a batch")
    source = BatchFolder(tmp_path, "train", None, 2, 4)
    levels = [source.read("mixed", n)["image"].max().mul(255).round().item() for n in range(3)]
    assert levels == [1, 2, 10]
    with pytest.raises(UserError, match="holds 3 batches, 4 are asked for"):
        BatchFolder(tmp_path, "train", None, 2, 4, limit=4)
    (folder / "batch2.npz").write_bytes(b"")
    with pytest.raises(UserError, match="batch 2 is there twice"):
        BatchFolder(tmp_path, "train", None, 2, 4)


@pytest.mark.parametrize(
    "content, message",
    [
        (torch7.dumps(torch.zeros(2, 1, 4, 4))[:-3], "not a whole Torch7 file"),
        (torch7.dumps(torch.zeros(3, 1, 4, 4)), r"must be a batch of \[2, 1, 4, 4\], is \[3, 1"),
        (torch7.dumps(torch.zeros(2, 3, 4, 4)), r"is \[2, 3, 4, 4\]"),
        (torch7.dumps({"x": 1}), "is a Table"),
        (torch7.dumps(torch.full((2, 1, 4, 4), 1.5)), r"values in \[0, 1\], holds 1.5 to 1.5"),
        (torch7.dumps(torch.full((2, 1, 4, 4), float("nan"))), "holds nan"),
    ],
)
def test_broken_batches_are_named(tmp_path, content, message):
    (tmp_path / "batch1").write_bytes(content)
    with pytest.raises(BadSample, match=f"batch1: .*{message}"):
        read_batch(tmp_path / "batch1", 2, 4)


def test_broken_npz_are_named(tmp_path):
    path = tmp_path / "batch1.npz"
    path.write_bytes(b"PK nothing")
    with pytest.raises(BadSample, match=r"not a whole .*npz of numbers"):
        read_batch(path, 2, 4)
    np.savez(path, image=np.array([{}], dtype=object))
    with pytest.raises(BadSample, match=r"not a whole .*npz of numbers"):
        read_batch(path, 2, 4)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(BadSample, match="is a NoneType"):
        read_batch(path, 2, 4)


def test_missing_folders_are_named(tmp_path, root):
    with pytest.raises(UserError, match="no such folder of batches"):
        open_batches(settings(tmp_path / "nothing"), SETS, "train")
    (root / "th_EL_VARIED/FT_training").rename(root / "aside")
    with pytest.raises(UserError, match="th_EL_VARIED/FT_training: no such folder"):
        open_batches(settings(root), SETS, "train")
    (root / "th_EL_VARIED/FT_training").mkdir()
    with pytest.raises(UserError, match="th_EL_VARIED/FT_training: holds no batches"):
        open_batches(settings(root), SETS, "train")


def write_table(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def images(tmp_path):
    """Two persons at 3 azimuths x 2 lights; grey and colour PNG of other sizes."""
    rows, number = [], 0
    for person in ("anna", "ben"):
        for azimuth in (-1, 0, 1):
            for light in (0, 0.5):
                shape = (3, 9, 7) if number % 2 else (1, 8, 8)
                write_image(tmp_path / f"{number}.png", torch.full(shape, 10 * number).byte())
                rows.append({"file": f"{number}.png", "azimuth": azimuth, "light": light,
                             "identity": person, "split": "train"})  # fmt: skip
                number += 1
    write_table(tmp_path / "factors.csv", rows)
    return tmp_path, rows


def test_a_table_of_factors_gives_batches(images):
    folder, rows = images
    sets = {"azimuth": "A", "light": "L", "shape": "S"}
    source = FactorTable(folder / "factors.csv", "train", sets, 2, 8)
    assert source.counts == {"azimuth": 4 * ROUNDS, "light": 6 * ROUNDS, "shape": 6 * ROUNDS}
    limited = FactorTable(folder / "factors.csv", "train", sets, 2, 8, limit=4)
    assert limited.counts == {"azimuth": 4, "light": 4, "shape": 4}
    batch = limited.read("light", 1)
    order = batch["light"].argsort()
    batch = {name: value[order] for name, value in batch.items()}  # divided at random
    assert batch["azimuth"].tolist() == [0, 0] and batch["light"].tolist() == [0, 0.5]
    assert batch["image"].shape == (2, 1, 8, 8)
    assert batch["image"].flatten(1).float().mean(1).tolist() == [20, 30]
    with pytest.raises(UserError, match="holds 0 train batches of 3 images in which only light"):
        FactorTable(folder / "factors.csv", "train", sets, 3, 8)
    (folder / "semicolons.csv").write_text("file;light\na.png;1\n")
    with pytest.raises(UserError, match="`file`, separated by commas, has 'file;light'"):
        FactorTable(folder / "semicolons.csv", "train", sets, 3, 8)
    with pytest.raises(UserError, match="must have a column `elevation`"):
        FactorTable(folder / "factors.csv", "train", SETS, 2, 8)
    mixed = open_batches(settings(folder, batch_size=2, image_size=8), sets, "train")
    assert mixed.counts == source.counts
    for row in rows:
        del row["split"]
    write_table(folder / "factors.csv", rows)
    train, test = (FactorTable(folder / "factors.csv", s, None, 3, 8) for s in ("train", "test"))
    assert train.counts == test.counts == {"mixed": 2} and train.labels == ("azimuth", "light")
    persons = [{row["identity"] for row in t.rows} for t in (train, test)]
    assert persons in ([{"anna"}, {"ben"}], [{"ben"}, {"anna"}])
    rows[3]["azimuth"] = "left"
    write_table(folder / "factors.csv", rows)
    with pytest.raises(UserError, match=r"azimuth of 3\.png must be a number"):
        for split in ("train", "test"):
            FactorTable(folder / "factors.csv", split, None, 1, 8)


def test_images_that_agree_are_divided_into_batches_again_and_again(tmp_path):
    for k in range(10):
        write_image(tmp_path / f"{k}.png", torch.full((1, 8, 8), 10 * k).byte())
    rows = [
        {"file": f"{k}.png", "light": k / 10, "shape": split + person, "split": split}
        for split in ("train", "test")
        for person in "abcd"
        for k in range(10)
    ]
    write_table(tmp_path / "factors.csv", rows)
    sets = {"light": "L", "shape": "S"}
    source = FactorTable(tmp_path / "factors.csv", "train", sets, 4, 8)
    assert source.counts == {"light": 8 * ROUNDS, "shape": 10 * ROUNDS}
    batches = [source.read("light", n) for n in range(source.counts["light"])]
    values = [tuple((b["light"] * 10).round().int().tolist()) for b in batches]
    assert len({frozenset(v) for v in values}) > ROUNDS  # not the same pieces in every round
    for number in range(ROUNDS):  # in a round the two pieces of a person share no image
        assert not set(values[number]) & set(values[number + ROUNDS])
    grey = [set(b["image"].flatten(1).float().mean(1).tolist()) for b in batches]
    assert all(len(of) == 4 for of in grey)  # the images go with their labels
    assert all({10 * v for v in one} == of for one, of in zip(values[:ROUNDS], grey, strict=False))
    again = FactorTable(tmp_path / "factors.csv", "train", sets, 4, 8)
    assert torch.equal(again.read("light", 5)["image"], batches[5]["image"])
    whole = open_batches(settings(tmp_path, batch_size=4, image_size=8), sets, "test")
    assert whole.counts == {"light": 4, "shape": 10}
    assert whole.read("light", 1)["light"].tolist() == pytest.approx([k / 10 for k in range(10)])


def test_a_table_reads_each_image_once(images, monkeypatch):
    folder, _ = images
    sets = {"azimuth": "A", "light": "L", "shape": "S"}
    source = FactorTable(folder / "factors.csv", "train", sets, 2, 8)
    read = []
    monkeypatch.setattr(
        factors, "read_grey", lambda *given: read.append(given) or read_grey(*given)
    )
    first = [source.read("light", n)["image"] for n in range(6 * ROUNDS)]
    assert len(read) == 12
    monkeypatch.setattr(factors, "CACHE", 0)
    source = FactorTable(folder / "factors.csv", "train", sets, 2, 8)
    assert all(map(torch.equal, first, (source.read("light", n)["image"] for n in range(96))))
    assert len(read) > 100


def test_a_table_with_paths_of_windows_is_refused(images):
    folder, rows = images
    rows[2]["file"] = "a\\0.png"
    write_table(folder / "factors.csv", rows)
    with pytest.raises(UserError, match=r"line 4: a\\0\.png: is a path of Windows"):
        FactorTable(folder / "factors.csv", "train", None, 2, 8)


def test_a_table_without_a_split_says_who_is_tested_and_what_to_do(images, capsys):
    folder, rows = images
    for row in rows:
        del row["split"]
    write_table(folder / "factors.csv", rows)
    sets = {"azimuth": "A", "shape": "S"}
    mixed = settings(folder, batch_size=2, image_size=8, regime="entangled")
    open_batches(mixed, sets, "train")
    assert not capsys.readouterr().out  # once a run
    open_batches(mixed, sets, "test")
    assert "factors.csv: no column `split`: 1 of 2 persons are for testing; add the column, with " \
        "train or test in each row, to choose" in capsys.readouterr().out  # fmt: skip
    with pytest.raises(UserError, match="only shape changes, 1 is needed; no column `split`: 1 of"):
        open_batches(settings(folder, batch_size=2, image_size=8), {"azimuth": "A", "light": "L",
                     "shape": "S"}, "train")  # fmt: skip
    write_table(folder / "factors.csv", [row for row in rows if row["identity"] == "anna"])
    with pytest.raises(UserError, match="no column `split` and one person only; add the column"):
        open_batches(mixed, sets, "test")


def test_batches_of_any_size(images, tmp_path):
    folder, _ = images
    sets = {"azimuth": "A", "light": "L", "shape": "S"}
    table = FactorTable(folder / "factors.csv", "train", sets, None, 8)
    assert table.counts == {"azimuth": 4, "light": 6, "shape": 6}
    assert len(table.read("azimuth", 0)["image"]) == 3 and len(table.read("light", 0)["image"]) == 2
    for number, count in enumerate((3, 5), 1):
        write_batch(tmp_path / f"D/th_training/batch{number}", torch.rand(count, 1, 8, 8))
    source = BatchFolder(tmp_path / "D", "train", None, None, 8)
    assert [len(source.read("mixed", n)["image"]) for n in range(2)] == [3, 5]
    write_batch(tmp_path / "D/th_training/batch3", torch.rand(3, 1, 9, 9))
    source = BatchFolder(tmp_path / "D", "train", None, None, 8)
    with pytest.raises(BadSample, match=r"must be a batch of \[3, 1, 8, 8\], is \[3, 1, 9, 9\]"):
        source.read("mixed", 2)


@pytest.mark.parametrize("name", ["/etc/0.png", "../0.png", "a\\..\\..\\0.png", "c:/0.png"])
def test_a_table_may_only_name_images_below_its_folder(images, name):
    folder, rows = images
    rows[2]["file"] = name
    write_table(folder / "factors.csv", rows)
    with pytest.raises(UserError, match=r"factors\.csv, line 4: file must lie below the table's"):
        FactorTable(folder / "factors.csv", "train", None, 3, 8)


def test_grey_has_the_published_weights(tmp_path):
    image = torch.tensor([100, 200, 50]).view(3, 1, 1).expand(3, 4, 4).byte()
    write_image(tmp_path / "x.png", image)
    assert read_grey(tmp_path / "x.png", 4).unique().tolist() == [round(21 + 144 + 3.5)]


def test_scenes_become_batches(tmp_path, capsys):
    for scene in (1, 2, 10):
        for image in (1, 2, 10):
            value = torch.full((3, 6, 6), 20 * scene + image).byte()
            write_image(tmp_path / f"in/face_{scene}/{image}.png", value)
        write_image(tmp_path / f"in/face_{scene}/.1.png", value)  # hidden: not one of the images
    rows = [{"file": f"face_2/{p}.png", "azimuth": p / 10, "who": "x"} for p in (1, 2, 10)]
    write_table(tmp_path / "in/factors.csv", rows)
    shared = ["--dataset_dir", str(tmp_path / "in"), "--output_dir", str(tmp_path / "D"),
              "--imwidth", "6", "--num_test_batches", "1", "--bsize"]  # fmt: skip
    convert.main([*shared, "3"])
    source = BatchFolder(tmp_path / "D", "train", {"azimuth": "AZ_VARIED"}, 3, 6)
    assert source.counts == {"azimuth": 2} and source.labels == ("azimuth",)
    first = source.read("azimuth", 0)
    assert first["image"][:, 0, 0, 0].tolist() == [41, 42, 50]
    assert first["azimuth"].tolist() == pytest.approx([0.1, 0.2, 1.0])
    with pytest.raises(SystemExit, match="2"):
        convert.main([*shared, "4"])
    assert "face_1: holds 3 PNG files, 4 are needed" in capsys.readouterr().err
    convert.main([*shared, "4", "--pad", "--torch7", "--set_name", "PADDED"])
    padded = BatchFolder(tmp_path / "D", "test", {"azimuth": "PADDED"}, 4, 6).read("azimuth", 0)
    assert padded["image"][:, 0, 0, 0].mul(255).round().tolist() == [21, 22, 30, 0]


def test_the_convert_command_names_missing_options(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "nets.dcign.convert", "--dataset_dir", tmp_path / "no",
         "--output_dir", tmp_path], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.strip().endswith("no such folder of scenes")
