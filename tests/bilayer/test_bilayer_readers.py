"""The readers of evaluate.py: they read azimuths and openings of heads that they do not know."""

import pytest
import torch
import torch.nn.functional as F

from nets.bilayer import readers
from nets.bilayer.readers import cut_out, load_readers, openings_of, squares, train_readers
from nets.layers import signed
from nets.tensor_files import read_plain
from nets.worlds.heads.videos import HeadVideos


def correlation(one, other):
    return torch.corrcoef(torch.stack([one, other]))[0, 1].item()


@pytest.fixture(scope="module")
def people():
    """Target and source frames of 160 test persons, cut out, with what they show."""
    world = HeadVideos("test", 128, length=160)
    samples = world.__getitems__([(0, i) for i in range(160)])
    frames = {}
    for role in ("source", "target"):
        image, mask, pose = (torch.cat([s[f"{role}_{name}"] for s in samples])
                             for name in ("imgs", "segs", "poses"))  # fmt: skip
        frames[role] = cut_out(signed(image), mask / 255), pose
    mouth, lids = (torch.cat([s[f"target_{name}"] for s in samples]) for name in ("mouth", "lids"))
    azimuth = torch.cat([s["target_scene"]["azimuth"] for s in samples]).float()
    return {**frames, "azimuth": azimuth, "openings": openings_of(mouth, lids)}


@pytest.mark.parametrize(("size", "least"), [(128, (0.95, 0.95)), (64, (0.9, 0.9))])
def test_openings_are_read_from_ground_truth(people, size, least):
    image, pose = people["target"]
    read = load_readers()[1](F.interpolate(image, (size, size), mode="area"), pose)
    for place, bar in enumerate(least):
        assert correlation(read[:, place], people["openings"][:, place]) > bar


def test_another_frame_does_not_show_the_openings(people):
    """Not even in the squares of the target: their places tell nothing."""
    image, pose = people["source"]
    for at in (pose, people["target"][1]):
        read = load_readers()[1](image, at)
        for place in range(2):
            assert abs(correlation(read[:, place], people["openings"][:, place])) < 0.25


def test_azimuths_are_read_from_ground_truth(people):
    error = (load_readers()[0](people["target"][0]) - people["azimuth"]).abs().mean().rad2deg()
    assert error < 6 < people["azimuth"].abs().mean().rad2deg() / 3


def test_squares_stay_where_the_nose_and_the_corners_of_the_eyes_are(people):
    image, pose = (value[:4] for value in people["target"])
    moved = pose.clone().view(4, 68, 2)
    moved[:, 48:] += 0.1  # the mouth
    moved[:, [37, 38, 40, 41, 43, 44, 46, 47]] += 0.1  # the lids
    assert torch.equal(squares(image, moved.flatten(1)), squares(image, pose))
    moved[:, 33] += 0.1
    assert not torch.equal(squares(image, moved.flatten(1)), squares(image, pose))


def test_training_writes_what_is_loaded(tmp_path, monkeypatch):
    known = readers.examples(64, size=32)
    trained = train_readers(known, steps=4)
    readers.save(tmp_path / "r.safetensors", *trained)
    assert read_plain(tmp_path / "r.safetensors").keys() == read_plain(readers.WEIGHTS).keys()
    monkeypatch.setattr(readers, "WEIGHTS", tmp_path / "r.safetensors")
    loaded = load_readers.__wrapped__()
    for one, other in zip(trained, loaded, strict=True):
        for name, value in one.state_dict().items():
            assert torch.allclose(value.float(), other.state_dict()[name].float(), atol=2e-3), name
