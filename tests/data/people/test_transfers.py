"""Lists of pairs for pose transfer: what is read, how results are found and brought to size."""

import json

import pytest
import torch

from nets.data.io.images import read_image, write_image
from nets.data.people.transfers import Results, TransferPairs, person_of, read_pairs, result_name
from nets.errors import UserError
from nets.skeletons import JOINTS_17

MARKET = ("0036_c6s1_003851_04.png", "0036_c6s1_003801_02.png", "0041_c1s1_000001_00.png")


def noise(h, w, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, h, w), dtype=torch.uint8, generator=generator)


def smooth(h, w):
    """An image that survives resizing."""
    y, x = torch.meshgrid(torch.linspace(0, 200, h), torch.linspace(0, 200, w), indexing="ij")
    return torch.stack([y, x, (x + y) / 2]).byte()


@pytest.fixture
def folder(tmp_path):
    """Three images of two people, 12 x 24 pixels, two pairs of them, and joints of each."""
    lines = ["name:keypoints_y:keypoints_x"]
    for number, name in enumerate(MARKET):
        write_image(tmp_path / "images" / name, smooth(24, 12))
        ys, xs = [23] + [6] * 17, [11] + [3 + number] * 17
        lines.append(f"{name}: {json.dumps(ys)}: {json.dumps(xs)}")
    (tmp_path / "annotation.csv").write_text("\n".join(lines) + "\n")
    pairs = ["from,to", f"{MARKET[0]},{MARKET[1]}", f"{MARKET[1]},{MARKET[2]}"]
    (tmp_path / "pairs.csv").write_text("\n".join(pairs) + "\n")
    return tmp_path


def test_images_and_joints_lie_beside_the_list(folder):
    data = TransferPairs(folder / "pairs.csv", size=24)
    assert len(data) == 2 and data.shape == data.full == (24, 12)
    assert data.people == ["0036", "0041"]
    assert torch.equal(data.truth(0), read_image(folder / "images" / MARKET[1], None))
    sample = data[0, 1]
    assert sample["appearance"].shape == sample["target"].shape == (3, 24, 24)
    nose = JOINTS_17.index("cnose")  # (11, 23) of 12 x 24, squashed to 24 x 24
    torch.testing.assert_close(sample["joints"][nose], torch.tensor([22.0, 23.0]))
    torch.testing.assert_close(sample["joints"][0], torch.tensor([10.0, 6.0]))
    torch.testing.assert_close(sample["appearance_joints"][0], torch.tensor([8.0, 6.0]))
    boxed = TransferPairs(folder / "pairs.csv", size=24, letterbox=True)[0, 1]
    torch.testing.assert_close(boxed["joints"][nose], torch.tensor([6 + 11.0, 23.0]))
    assert (boxed["target"][:, :, :6] == 0).all() and (boxed["target"][:, :, 18:] == 0).all()


@pytest.mark.parametrize("letterbox", [False, True])
def test_a_square_comes_back_at_its_own_size(folder, letterbox):
    data = TransferPairs(folder / "pairs.csv", size=48, letterbox=letterbox)
    back = data.unsquared(data[0, 0]["target"])
    error = (back.float() - data.truth(0).float()).abs()
    assert back.shape == (3, 24, 12)
    assert error[:, 2:-2, 2:-2].max() < 6  # of 200: bilinear there and back, off the border
    narrow = TransferPairs(folder / "pairs.csv", size=48, letterbox=letterbox, columns=6)
    assert torch.equal(narrow.unsquared(data[0, 0]["target"]), back[:, :, 3:9])
    assert torch.equal(narrow.truth(0), data.truth(0)[:, :, 3:9])
    shift = narrow.target_joints(0) - data.target_joints(0)
    assert torch.equal(shift, torch.tensor([-3.0, 0.0]).expand(17, 2))


def test_people_are_known_by_folders_or_names(tmp_path):
    for name, person in {
        "anna/1.png": "anna",
        "0036_c6s1_003851_04.png": "0036",
        "-1_c1s1_000001_00.jpg": "-1",
        "fashionWOMENTees_Tanksid0000762403_2side.jpg": "WOMENTees_Tanksid00007624",
        "fashionMENDenimid0000008001_1front.jpg": "MENDenimid00000080",
        "dancer_1.jpg": "dancer_1.jpg",
    }.items():
        assert person_of(tmp_path / name, tmp_path) == person


@pytest.mark.parametrize(
    "name",
    [
        f"{MARKET[0]}___{MARKET[1]}_vis.png",
        f"{MARKET[0][:-4]}___{MARKET[1][:-4]}.png",
        f"{MARKET[0][:-4]}_2_{MARKET[1][:-4]}_vis.png",
        f"{MARKET[0][:-4]}--{MARKET[1][:-4]}.png",
    ],
)
def test_results_have_the_names_of_the_field(folder, name):
    data = TransferPairs(folder / "pairs.csv")
    image = noise(24, 12, 1)
    write_image(folder / "other" / name, image)
    results = Results(folder / "other")
    assert torch.equal(results.image(data, 0), image) and results.resized == 0
    assert results.file(data.pairs[1]) is None
    assert result_name(*data.pairs[0]) == f"{MARKET[0]}___{MARKET[1]}_vis.png"


def test_results_are_brought_to_size(folder):
    image, where = noise(24, 12, 1), folder / "other" / result_name(MARKET[0], MARKET[1])
    data = TransferPairs(folder / "pairs.csv", columns=8)
    write_image(where, torch.cat([noise(24, 48, 2), image], 2))  # five panels, the result last
    assert torch.equal(Results(folder / "other").image(data, 0), image[:, :, 2:10])
    write_image(where, image[:, :, 2:10])
    assert torch.equal(Results(folder / "other").image(data, 0), image[:, :, 2:10])
    write_image(where, smooth(30, 20))
    results = Results(folder / "other")
    assert results.image(data, 0).shape == (3, 24, 8) and results.resized == 1


def test_a_list_that_cannot_be_used_is_named(folder):
    path = folder / "pairs.csv"
    for text, message in {
        "": "line 1: must name the columns from,to",
        "a,b\n": "line 1: must name the columns from,to",
        "from;to\n": "must name the columns from,to, separated by commas, has 'from;to'",
        "from,to\n": "lists no pairs",
        "from,to\nx.png\n": "line 2: lacks a name",
        "from,to\nC:\\x.png,y.png\n": "line 2: holds",
        f"from,to\n{MARKET[0]},other.png\n": "other.png is not in .*images",
    }.items():
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            TransferPairs(path)
    with pytest.raises(UserError, match=r"none\.csv: cannot be read as a list of pairs: no such"):
        read_pairs(folder / "none.csv")
    path.write_text(f"from,to\n{MARKET[0]},{MARKET[1]}\n")
    with pytest.raises(UserError, match="--crop_width: must be at most 12"):
        TransferPairs(path, columns=13)
    with pytest.raises(UserError, match=r"--reference .*none: cannot be read"):
        Results(folder / "none")
    (folder / "annotation.csv").write_text("name:keypoints_y:keypoints_x\n")
    with pytest.raises(UserError, match=f"annotation.csv: has no joints of .*{MARKET[0]}"):
        TransferPairs(path)[0, 0]
    write_image(folder / "images" / MARKET[1], noise(24, 13, 0))
    with pytest.raises(UserError, match=f"{MARKET[1]}: is 13x24, .* the first has 12x24"):
        TransferPairs(path)


def test_columns_of_a_list_may_stand_in_any_order(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("\ufeffid,to,from\n1,b.png,a.png\n\n")
    assert read_pairs(path) == [("a.png", "b.png")]
