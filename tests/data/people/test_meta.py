"""Label folders with a meta.yaml, and the dataset of one moving person."""

import numpy as np
import pytest
import torch
import yaml

from nets.data.io.images import write_image
from nets.data.people.meta import MetaDataset, PrjotiDataset, write_label, write_meta
from nets.errors import BadSample, UserError
from nets.skeletons import OPENPOSE_18

N = 20


@pytest.fixture
def root(tmp_path):
    """A folder in the format of the original's tools, with a wide crop for each entry."""
    crops = [f"crops/jump/{i:05d}.png" for i in range(N)]
    for i, crop in enumerate(crops):
        write_image(tmp_path / crop, torch.full((3, 8, 16), 10 * i, dtype=torch.uint8))
    np.save(tmp_path / "flow.npy", np.arange(6))
    points = np.random.default_rng(0).uniform(0.1, 0.9, (N, 18, 2))
    labels = {
        "fid": np.arange(N),
        "kps_rel": points,
        "action": np.arange(N) % 2,
        "crop": np.array(crops),
        "flow:np": np.array(["flow.npy"] * N),
        "box/inner": np.zeros((N, 4), np.int32),
        "flag": np.arange(N) % 3 == 0,
    }
    write_meta(
        tmp_path,
        labels,
        "One person",
        {"crop": "image", "action": "category"},
        {
            "crop": {"root": str(tmp_path.resolve()), "support": "-1->1", "resize_to": 4},
            "action": {"categories": ["jump", "run"]},
        },
    )
    return tmp_path


def edit(root, **changes):
    meta = yaml.safe_load((root / "meta.yaml").read_text()) | changes
    (root / "meta.yaml").write_text(yaml.safe_dump(meta))


def test_label_files_are_raw_memory_named_by_shape_and_type(root):
    file = root / "labels" / f"kps_rel-*-{N}x18x2-*-float64.npy"
    assert file.stat().st_size == N * 18 * 2 * 8
    assert (root / "labels" / f"crop-*-{N}-*-U20.npy").exists()
    assert (root / "labels" / "box" / f"inner-*-{N}x4-*-int32.npy").exists()
    ours = MetaDataset(root).labels["kps_rel"]
    np.testing.assert_array_equal(np.fromfile(file).reshape(N, 18, 2), ours)
    # NumPy's name of the type, as in the originals' files.
    raw = np.array(["ab", "c"])
    raw.tofile(root / "labels" / "extra-*-2-*-<U2.npy")
    with pytest.raises(UserError, match=r"all labels must have one length, they have .*2 extra"):
        MetaDataset(root)


def test_entries_have_labels_and_loaded_values(root):
    data = MetaDataset(root)
    assert len(data) == N
    entry = data[3]
    assert entry["index_"] == 3 and entry["action"] == "run" and entry["fid"] == 3
    assert entry["labels_"]["crop_"] == "crops/jump/00003.png" and "crop_" not in entry
    assert entry["crop"].shape == (4, 4, 3) and entry["crop"].dtype == np.float32
    np.testing.assert_allclose(entry["crop"], 30 / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(entry["flow"], np.arange(6))
    assert entry["flag"] and entry["box/inner"].tolist() == [0, 0, 0, 0]


def test_loaders_of_the_yaml_override_those_in_names(root):
    edit(
        root,
        loaders={"crop": "image", "action": "cat", "flow": "category"},
        loader_kwargs={"action": {"categories": ["a", "b"]}, "flow": {"categories": {}}},
    )
    assert MetaDataset(root).loaders["flow"] == "category"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"loaders": {"crop": "os.system"}},
            "loaders/crop must be one of image, np, category",
        ),
        ({"loaders": {"crop": "my.module.Loader"}}, "is 'my.module.Loader'; import paths are not"),
        ({"loaders": ["image"]}, "must be a mapping, and its loaders too"),
        ({"loader_kwargs": {"action": {}}}, "loader_kwargs/action/categories must list"),
        (
            {"loader_kwargs": {"crop": {"support": "0-1"}, "action": {"categories": []}}},
            "loader_kwargs/crop/support must be one of 0->255, 0->1, -1->1",
        ),
    ],
)
def test_a_bad_meta_yaml_is_one_clear_line(root, changes, text):
    edit(root, **changes)
    with pytest.raises(UserError, match=rf"meta\.yaml: .*{text}") as caught:
        MetaDataset(root)
    assert "\n" not in str(caught.value)


def test_a_key_that_stands_twice_is_refused_by_name(root):
    text = (root / "meta.yaml").read_text()
    (root / "meta.yaml").write_text(f"{text}loader_kwargs: {{}}\n")
    line = text.count("\n") + 1
    why = rf"meta\.yaml: .*loader_kwargs stands twice .*line {line},"
    with pytest.raises(UserError, match=why):
        MetaDataset(root)
    base = "base: &base {a: 1, b: 2}\nother: {<<: *base, b: 3}\n"  # merged keys may be replaced
    (root / "meta.yaml").write_text(text + base)
    assert MetaDataset(root).meta["other"] == {"a": 1, "b": 3}


def test_yaml_that_runs_code_is_refused(root):
    (root / "meta.yaml").write_text("description: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(UserError, match=r"meta\.yaml: is not YAML of plain values") as caught:
        MetaDataset(root)
    assert "\n" not in str(caught.value)


def test_missing_parts_are_named(root, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(UserError, match=r"holds no meta\.yaml"):
        MetaDataset(empty)
    (empty / "meta.yaml").write_text("description: none\n")
    with pytest.raises(UserError, match="holds no labels/"):
        MetaDataset(empty)


@pytest.mark.parametrize(
    ("name", "size", "text"),
    [
        ("a-*-20-*-int64.npy", 100, r"must be 160 bytes by its name, is 100"),
        ("a-*-20-*-object.npy", 160, r"a label's name must be"),
        ("a-*-20-*-O8.npy", 160, r"a label's name must be"),
        ("a-*-20.npy", 160, r"a label's name must be <name>-\*-<shape>-\*-<dtype>\.npy"),
        ("a-*-2x-*-int64.npy", 16, r"a label's name must be"),
    ],
)
def test_a_bad_label_file_is_named(root, name, size, text):
    (root / "labels" / name).write_bytes(bytes(size))
    with pytest.raises(UserError, match=text):
        MetaDataset(root)


@pytest.mark.parametrize("place", ["/etc/passwd", "../../a.png"])
def test_paths_stay_in_the_folder(root, place):
    for old in (root / "labels").glob("crop*"):
        old.unlink()
    write_label(root, "crop", np.array([place] * N))
    with pytest.raises(UserError, match=r"labels: crop must point below the dataset's folder"):
        MetaDataset(root).load("crop", 0)


@pytest.mark.parametrize("place", ["/", "/etc", "..", "a/../.."])
def test_roots_stay_in_the_folder(root, place):
    edit(root, loader_kwargs={"crop": {"root": place}, "action": {"categories": []}})
    with pytest.raises(UserError, match=r"meta\.yaml: crop must point below the dataset's folder"):
        MetaDataset(root).load("crop", 0)


def test_a_root_below_the_folder_is_used(root):
    (root / "crops").rename(root / "kept")
    (root / "moved").mkdir()
    (root / "kept").rename(root / "moved" / "crops")
    for place in ("moved", str((root / "moved").resolve())):
        edit(root, loader_kwargs={"crop": {"root": place}, "action": {"categories": []}})
        assert MetaDataset(root).load("crop", 2)[0, 0, 0] == 20


def test_paths_of_windows_are_said_when_the_folder_is_opened(root):
    names = np.array(["images\\0.png"] * 4)
    labels = {"crop:image": names, "kps_rel": np.full((4, 18, 2), 0.5)}
    write_meta(root / "win", labels, "x", {"crop": "image"}, {})
    with pytest.raises(UserError, match=r"crop holds a path of Windows, images\\0\.png; write"):
        MetaDataset(root / "win")


def test_points_in_pixels_are_refused(root):
    points = np.full((4, 18, 2), 0.5)
    points[2, 5] = (9.9, 0.1)
    labels = {"crop:image": np.array(["images/0.png"] * 4), "kps_rel": points}
    write_meta(root / "pixels", labels, "x", {"crop": "image"}, {})
    with pytest.raises(UserError, match=r"fractions .* entry 2 has point 5 at \(9\.9, 0\.1\)"):
        PrjotiDataset(root / "pixels", "train", 8)


def test_pickled_arrays_are_not_loaded(root):
    np.save(root / "flow.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(BadSample, match=r"flow\.npy: cannot be read as an array"):
        MetaDataset(root).load("flow", 0)


def test_prjoti_samples(root):
    train, test = PrjotiDataset(root, "train", 32), PrjotiDataset(root, "test", 32)
    assert (len(train), len(test)) == (18, 2) and train.joint_order == OPENPOSE_18
    sample = test[0, 1]
    assert sample["target"].shape == (3, 32, 32) and (sample["target"] == 190).all()
    points = MetaDataset(root).labels["kps_rel"]
    torch.testing.assert_close(sample["joints"], torch.tensor(points[19] * 32).float())
    assert sample["index"] == 1 and train.identities is None


def test_prjoti_appearances_stay_in_the_split_and_are_deterministic(root):
    appearances = {}
    for split, rows in (("train", range(18)), ("test", range(18, 20))):
        data = PrjotiDataset(root, split, 8, seed=3)
        for epoch in range(20):
            for i in range(len(data)):
                sample = data[epoch, i]
                row = int(sample["appearance"][0, 0, 0]) // 10
                assert row in rows and row != rows[i]
                appearances[split, epoch, i] = row
                points = torch.tensor(MetaDataset(root).labels["kps_rel"][row] * 8).float()
                torch.testing.assert_close(sample["appearance_joints"], points)
    again = PrjotiDataset(root, "train", 8, seed=3)
    assert [int(again[7, i]["appearance"][0, 0, 0]) // 10 for i in range(18)] == [
        appearances["train", 7, i] for i in range(18)
    ]
    assert len({appearances["train", epoch, 0] for epoch in range(20)}) > 5


def test_prjoti_pairs_by_identity(root):
    write_label(root, "identity", np.arange(N) % 2)
    data = PrjotiDataset(root, "train", 8)
    for epoch in range(5):
        assert int(data[epoch, 4]["appearance"][0, 0, 0]) // 10 % 2 == 0


def test_prjoti_marks_missing_points(root):
    points = np.full((N, 18, 2), 0.5)
    points[0, 0], points[0, 1], points[0, 2], points[0, 3] = (0, 0), (-0.1, 0.5), (0, 0.5), (1.2, 0)
    next((root / "labels").glob("kps_rel*")).unlink()
    write_label(root, "kps_rel", points)
    joints = PrjotiDataset(root, "train", 8)[0, 0]["joints"]
    assert joints[:2].isnan().all() and joints[2].tolist() == [0, 4]
    torch.testing.assert_close(joints[3], torch.tensor([9.6, 0]))


def test_prjoti_needs_its_labels(root):
    with pytest.raises(ValueError, match="split must be train or test, got 'all'"):
        PrjotiDataset(root, "all")
    next((root / "labels").glob("kps_rel*")).unlink()
    with pytest.raises(UserError, match=r"needs the labels crop \(image\) and kps_rel, has"):
        PrjotiDataset(root)
    write_label(root, "kps_rel", np.zeros((N, 17, 2)))
    with pytest.raises(UserError, match="kps_rel must be Nx18x2, is 20x17x2"):
        PrjotiDataset(root)
