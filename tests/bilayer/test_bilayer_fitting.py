"""The fit of avatars to their sources: what it reaches, and what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import evaluate
import infer
from avatar_folder import face_points, write_folder
from bilayer_tiny import avatar_run, model
from nets import published
from nets.api import load
from nets.bilayer.data import open_avatars, prepare
from nets.bilayer.fitting import avatars_of, fit, jittered
from nets.bilayer.network.model import drive
from nets.bilayer.warm_start import load_model
from nets.data.clips import augment
from nets.run.precision import Precision
from nets.spectral import fold

STEPS = 40


@pytest.fixture(scope="module")
def loaded():
    """The weights that come with guise."""
    path = Path(published.__file__).parent / "trained/bilayer.safetensors"
    content = published.read_checkpoint(path, "bilayer")
    precision = Precision("fp32", torch.device("cpu"), channels_last=False)
    result = load_model(content, path, precision)
    fold(result.net)
    return result


@pytest.fixture(scope="module")
def data(loaded):
    """Two persons of the demo world's test split with green faces: nothing that was trained on."""
    world = open_avatars({**loaded.options, "demo_test": 8}, "test")
    samples = [world[0, index] for index in range(2)]
    tensors = [k for k, v in samples[0].items() if isinstance(v, torch.Tensor)]
    batch = {name: torch.stack([s[name] for s in samples]) for name in tensors}
    for name in ("source_imgs", "target_imgs"):
        batch[name] = batch[name][:, :, [1, 0, 2]]
    return prepare(batch, loaded.options)


@pytest.fixture(scope="module")
def fitted(loaded, data):
    return avatars_of(loaded, data, STEPS)


def error(loaded, avatar, data, which):
    """Mean absolute difference inside the true mask, per person."""
    image = drive(loaded.net, avatar, data[f"{which}_poses"]).image
    mask = data[f"{which}_segs"]
    off = (image - data[f"{which}_imgs"]).abs() * mask
    return off.sum((1, 2, 3, 4)) / mask.sum((1, 2, 3, 4)) / 3


def test_a_fitted_avatar_looks_like_its_source_in_other_poses_too(loaded, data, fitted):
    before = avatars_of(loaded, data)
    for which, bar in (("source", 0.45), ("target", 0.6)):
        ratio = error(loaded, fitted, data, which) / error(loaded, before, data, which)
        assert ratio.max() < bar, (which, ratio)


def test_a_fit_moves_the_picture_with_the_pose_and_not_less(loaded, data, fitted):
    """The fit must not freeze the head in the source's pose."""
    still = error(loaded, fitted, {**data, "target_poses": data["source_poses"]}, "target")
    assert (error(loaded, fitted, data, "target") < 0.9 * still).all()


def test_a_fit_is_repeatable_leaves_networks_alone_and_persons_apart(loaded, data):
    state = {name: value.clone() for name, value in loaded.net.state_dict().items()}
    both, again = (avatars_of(loaded, data, 3) for _ in range(2))
    assert torch.equal(both.texture, again.texture)
    assert all(torch.equal(value, state[name]) for name, value in loaded.net.state_dict().items())
    assert not both.texture.requires_grad
    alone = avatars_of(loaded, {name: value[1:] for name, value in data.items()}, 3)
    start = avatars_of(loaded, data)  # Adam makes much of rounding where gradients are near zero
    for ours, single, before in (
        (both.texture, alone.texture, start.texture),
        *((b[0], a[0], s[0]) for b, a, s in zip(both.pairs, alone.pairs, start.pairs, strict=True)),
    ):
        assert (ours[1:] - single).abs().mean() < 0.05 * (single - before[1:]).abs().mean()


def test_several_sources_are_all_fitted(loaded, data):
    """Of two sources of one person, the second is the first in another colour: the mean wins."""
    names = ("source_imgs", "source_poses", "source_segs", "source_stickmen")
    two = {n: data[n][:1].repeat(1, 2, *[1] * (data[n].ndim - 2)) for n in names if n in data}
    two["source_imgs"][:, 1] *= 0.5
    avatar = avatars_of(loaded, two, STEPS)
    image = drive(loaded.net, avatar, two["source_poses"][:, :1]).image[0, 0]
    mask = two["source_segs"][0, 0].expand(3, -1, -1) > 0.5
    first, second = ((image - two["source_imgs"][0, i])[mask].abs().mean() for i in (0, 1))
    apart = (two["source_imgs"][0, 0] - two["source_imgs"][0, 1])[mask].abs().mean()
    assert max(first, second) < 0.85 * apart


def test_fit_refuses_training_mode_and_avatars_without_poses(loaded, data):
    avatar = avatars_of(loaded, data)
    with pytest.raises(ValueError, match="without source_pose"):
        fit(loaded.net, avatar._replace(poses=None), 1)
    net = model(networks=["identity_embedder", "texture_generator", "keypoints_embedder",
                          "inference_generator"])  # fmt: skip
    with pytest.raises(ValueError, match="evaluation mode"):
        fit(net.train(), avatar, 1)


def test_points_and_images_move_alike():
    """A white disc at each of some points is found at the moved points."""
    size, at = 96, torch.tensor([[-0.4, -0.3], [0.3, -0.2], [0.1, 0.5]])
    rows = (torch.arange(size) * 2 + 1) / size - 1
    noise = torch.tensor([[1.0, -2.0, 2.5, 1.5], [0, 0, 0, 0], [-1, 1, -2, -2]])
    for point in range(3):
        distance = (rows[:, None] - at[point, 1]) ** 2 + (rows - at[point, 0]) ** 2
        disc = (distance < 0.01).float()[None, None].expand(3, -1, -1, -1)
        poses, motion = jittered(at.flatten()[None].expand(3, -1), noise)
        seen = augment.move_images(disc, motion)[:, 0]
        total = seen.sum((1, 2))
        found = [(seen.sum(1) * rows).sum(1) / total, (seen.sum(2) * rows).sum(1) / total]
        expected = poses.view(3, 3, 2)[:, point]
        assert torch.allclose(torch.stack(found, 1), expected, atol=0.005)


def test_infer_and_evaluate_fit_as_the_checkpoint_or_the_option_says(tmp_path, capsys):
    run = avatar_run(tmp_path)
    path = published.find(run, "bilayer")
    content = torch.load(path, weights_only=True)
    content["options"]["fit_steps"] = 4
    torch.save(content, path)
    folder = write_folder(tmp_path / "data", ("test",), people=1, frames=6, size=32)
    image = folder / "imgs/test/id0/video/00/0.jpg"
    points = folder / "keypoints/test/id0/video/00/0.npy"
    given = ["--checkpoint", run, "-s", image, "-d", image, "--source_keypoints", points,
             "--driving_keypoints", points, "--device", "cpu"]  # fmt: skip
    results = {}
    for name, more in (("preset", []), ("none", ["--fit_steps", 0]), ("six", ["--fit_steps", 6])):
        out = tmp_path / f"{name}.png"
        infer.main([str(word) for word in [*given, *more, "-o", out]])
        text = capsys.readouterr().out
        assert ("fitting the avatar to 1 image" in text) == (name != "none"), text
        assert name != "six" or "6 steps" in text
        results[name] = out.read_bytes()
    assert len(set(results.values())) == 3
    scores = {}
    for steps in (None, 0, 12):
        out = tmp_path / "report.json"
        more = [] if steps is None else ["--fit_steps", steps]
        argv = ["--checkpoint", run, "--data", folder, "--out", out, "--device", "cpu", *more]
        evaluate.main([str(word) for word in argv])
        report = json.loads(out.read_text())
        assert report["fit_steps"] == (4 if steps is None else steps)
        scores[steps] = report["test"]["psnr"]["mean"]
    assert scores[0] < scores[None] < scores[12]


def test_the_library_fits_too(tmp_path):
    run = avatar_run(tmp_path)
    heads = load(run, device="cpu")
    image = torch.full((3, 40, 40), 200, dtype=torch.uint8)
    mask = torch.full((1, 40, 40), 255, dtype=torch.uint8)
    points = face_points(40)
    off = []
    for steps in (None, 0, 80):
        result = heads.avatar(image, points, mask, fit_steps=steps).drive(points).float()
        off.append((result - 200).abs().mean())
    assert off[0] == off[1] and off[2] < 0.6 * off[1]
