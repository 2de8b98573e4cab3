"""The demo world of heads: images depend on their numbers alone, and the truth fits the images."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nets.data.heads.faces import normalised_pose
from nets.errors import UserError
from nets.ops.raster import draw_mesh_reference
from nets.worlds.heads.batches import HeadBatches
from nets.worlds.heads.export import motion, write_data_root
from nets.worlds.heads.face import drawing, hair, pack
from nets.worlds.heads.face import mesh as meshes
from nets.worlds.heads.face.expression import DRAWS, snapshots, speech
from nets.worlds.heads.face.mesh import face
from nets.worlds.heads.face.person import Traits, parameters
from nets.worlds.heads.videos import HeadVideos
from nets.worlds.heads.world import (
    RANGES,
    SPLITS,
    HeadsWorld,
    contact_sheet,
    identities,
    render,
    scenes,
)

SIZE = 128
UNITS = face().units


@pytest.fixture(autouse=True)
def one_thread():
    """As in a worker of a loader; two threads that wait for a third process take minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def some(count: int, first: int = 0, **ranges: float) -> tuple[torch.Tensor, dict]:
    ids = torch.arange(count) + first
    return identities(ids), scenes(ids, stream="test", ranges=RANGES | ranges)


def posing(count: int, **units: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """People who look ahead, with the given face units."""
    identity, scene = some(count)
    scene = {name: torch.zeros_like(value) for name, value in scene.items()}
    for name, value in units.items():
        scene["expression"][:, UNITS.index(name)] = value
    return identity, scene


@pytest.mark.parametrize("colour", [False, True])
def test_an_image_depends_on_its_numbers_alone(colour):
    identity, scene = some(20)
    behind = torch.arange(20) if colour else None
    whole = render(identity, size=64, colour=colour, background=behind, **scene)
    assert whole["image"].shape == (20, 3 if colour else 1, 64, 64)
    assert whole["image"].dtype == torch.uint8 and whole["mask"].dtype == torch.bool
    for rows in (torch.tensor([7, 3, 19, 0, 11]), torch.tensor([5]), torch.arange(17)):
        part = {name: value[rows] for name, value in scene.items()}
        again = render(
            identity[rows], size=64, colour=colour, background=rows if colour else None, **part
        )
        for name, value in again.items():
            assert torch.equal(value, whole[name][rows]), name


def test_images_are_exact_under_autocast_and_with_two_threads():
    identity, scene = some(4)
    plain = render(identity, size=128, colour=True, **scene)
    torch.set_num_threads(2)
    with torch.autocast("cpu", torch.bfloat16):
        rendered = render(identity, size=128, colour=True, **scene)
    assert all(torch.equal(rendered[name], plain[name]) for name in plain)


def test_the_reference_of_the_rasteriser_draws_the_same_people(monkeypatch):
    identity, scene = some(2)
    kernel = render(identity, size=48, colour=True, **scene)["image"]

    def reference(*arguments):
        *tensors, size, samples = arguments
        return draw_mesh_reference(*tensors, size, size, samples)

    monkeypatch.setattr(drawing, "draw_mesh", reference)
    assert torch.equal(render(identity, size=48, colour=True, **scene)["image"], kernel)


def test_points_lie_on_the_person():
    identity, scene = some(60)
    truth = render(identity, size=SIZE, **scene)
    near = torch.nn.functional.max_pool2d(truth["mask"].float()[:, None], 5, 1, 2)[:, 0] > 0
    at = truth["points"].round().long().clamp(0, SIZE - 1)
    inside = near[torch.arange(60)[:, None], at[..., 1], at[..., 0]]
    # The far brow of a profile may lie behind the visible outline by more than two pixels.
    assert inside.float().mean() > 0.995
    assert truth["points"].min() > 0 and truth["points"].max() < SIZE
    share = truth["mask"].float().mean((1, 2))
    assert share.min() > 0.25 and share.max() < 0.75


def test_the_points_alone_are_those_of_the_image():
    identity, scene = some(6)
    truth = render(identity, size=SIZE, colour=True, **scene)
    place = scene["azimuth"], scene["elevation"], scene["expression"]
    assert torch.equal(drawing.landmarks(identity, *place, SIZE), truth["points"])


def test_the_68_points_are_in_the_order_of_ibug():
    identity, scene = posing(30)
    p = render(identity, size=SIZE, **scene)["points"]
    x, y = p.unbind(-1)
    for row in (range(3, 14), range(17, 27), range(31, 36), range(48, 55), range(60, 65)):
        assert (x[:, list(row)].diff(dim=1) > 0).float().mean() > 0.98, row  # to the image's right
    assert (y[:, 27:31].diff(dim=1) > 0).all()  # down the bridge of the nose
    assert (x[:, 36] < x[:, 39]).all() and (x[:, 42] < x[:, 45]).all()
    for upper, lower in (((37, 38), (41, 40)), ((43, 44), (47, 46)), ((50, 51, 52), (58, 57, 56))):
        assert (y[:, list(upper)] < y[:, list(lower)]).all()
    assert (y[:, :9].diff(dim=1) > 0).float().mean() > 0.98  # down the jaw
    parts = (slice(17, 27), slice(36, 48), slice(31, 36), slice(48, 68))
    brows, eyes, nose, mouth = (y[:, s].mean(1) for s in parts)
    assert (brows < eyes).all() and (eyes < nose).all() and (nose < mouth).all()
    assert (y[:, 8] > mouth).all() and (y[:, 8] > y[:, :8].amax(1) - 1).all()


def test_the_jaw_is_the_visible_contour():
    """Of bald heads, which show it: on both sides if frontal, on the far side if turned."""
    identity, scene = posing(12)
    identity[:, parameters().index("hair_style")] = -2.5
    for azimuth, points in (
        (0.0, (4, 5, 11, 12)),
        (0.6, (12, 13)),
        (-0.6, (4, 3)),
        (0.9, (11, 12)),
    ):
        truth = render(identity, size=SIZE, **scene | {"azimuth": scene["azimuth"] + azimuth})
        away = []
        for k in points:
            x, y = truth["points"][:, k].unbind(1)
            rows = truth["mask"][torch.arange(12), y.round().long()].float()
            right = SIZE - 1 - rows.flip(1).argmax(1)
            edge = right if k > 8 else rows.argmax(1)
            away.append((edge - x).abs())
        # Points are vertices of a mesh, some three pixels apart.
        assert torch.stack(away).median() < 2, azimuth


def test_mirrored_poses_have_mirrored_points():
    """Of the mean person, whose shape is symmetric but for the mesh's own tenth of a pixel."""
    identity = torch.zeros(6, len(parameters()))
    angle = torch.linspace(0.1, 1.4, 6, dtype=torch.float64)
    zero = torch.zeros_like(angle)
    one = render(identity, angle, 0.2 + zero, 0.3 + zero, SIZE)
    two = render(identity, -angle, 0.2 + zero, -0.3 - zero, SIZE)
    swap = [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1),
            *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40), *range(54, 47, -1),
            *range(59, 54, -1), *range(64, 59, -1), *(67, 66, 65)]  # fmt: skip
    mirrored = two["points"][:, swap] * torch.tensor([-1.0, 1.0]) + torch.tensor([SIZE - 1.0, 0])
    assert (one["points"] - mirrored)[:, 27:].abs().median() < 0.6
    differs = (one["mask"] != two["mask"].flip(-1)).float().mean()
    assert differs < 0.04  # the parting of the hair


def test_angles_turn_the_way_they_say():
    identity, scene = posing(8)
    zero = scene["azimuth"]
    ahead = render(identity, size=SIZE, **scene)["points"][:, 30]
    right = render(identity, size=SIZE, **scene | {"azimuth": zero + 0.5})["points"][:, 30]
    above = render(identity, size=SIZE, **scene | {"elevation": zero + 0.3})["points"][:, 30]
    assert (right[:, 0] - ahead[:, 0] > 10).all() and (above[:, 1] - ahead[:, 1] < -6).all()
    lit = render(identity, size=SIZE, **scene | {"light": zero + 1.2})["image"][:, 0].float()
    cheeks = lit[:, 60:80]
    assert (cheeks[..., 68:78].mean((1, 2)) > cheeks[..., 50:60].mean((1, 2)) + 15).all()


def test_mouth_and_lids_open_as_the_units_say():
    values = [0.0, 0.2, 0.5, 0.9]
    mouths, lids, red = [], [], []
    for value in values:
        identity, scene = posing(10, jawOpen=value)
        truth = render(identity, size=SIZE, colour=True, **scene)
        mouths.append(truth["mouth"])
        gap = truth["points"][:, [65, 66, 67], 1] - truth["points"][:, [63, 62, 61], 1]
        red.append(gap.mean(1))
        identity, scene = posing(10, eyeBlinkLeft=value, eyeBlinkRight=value)
        lids.append(render(identity, size=SIZE, **scene)["lids"])
    assert (torch.stack(mouths).diff(dim=0) > 0.02).all()
    assert (torch.stack(red).diff(dim=0) > 0.3).all()  # so do the points in the image
    assert (torch.stack(lids).diff(dim=0) < 0).all() and lids[0].min() > 0.05
    identity, scene = posing(10, eyeBlinkLeft=1.0)
    one = render(identity, size=SIZE, **scene)["lids"]
    assert (one[:, 1] < 0.4 * one[:, 0]).all()  # the subject's left eye is the second


def test_an_open_mouth_and_closed_eyes_are_seen():
    """Between the inner lips it is dark or a tooth, not skin; a closed eye shows no eyeball."""
    identity, scene = posing(12)
    rest = render(identity, size=SIZE, colour=True, **scene)
    identity, scene = posing(12, jawOpen=0.8)
    opened = render(identity, size=SIZE, colour=True, **scene)
    at = opened["points"][:, [62, 66]].mean(1).round().long()
    rows = torch.arange(12)
    inside = opened["image"][rows, :, at[:, 1], at[:, 0]].float()
    cheek = opened["points"][:, [2, 31]].mean(1).round().long()
    skin = rest["image"][rows, :, cheek[:, 1], cheek[:, 0]].float()
    assert ((inside - skin).abs().amax(1) > 25).float().mean() > 0.8
    identity, scene = posing(12, eyeBlinkLeft=1.0, eyeBlinkRight=1.0)
    closed = render(identity, size=SIZE, colour=True, **scene)
    middle = rest["points"][:, 36:42].mean(1).round().long()
    changes = []
    for i in range(12):
        x, y = middle[i].tolist()
        box = (slice(None), slice(y - 1, y + 2), slice(x - 2, x + 3))
        changes.append(
            (rest["image"][i][box].float() - closed["image"][i][box].float()).abs().mean()
        )
    assert torch.stack(changes).median() > 20


def test_the_background_lies_behind_the_person():
    identity, scene = some(8)
    one = render(identity, size=64, colour=True, background=torch.arange(8), **scene)
    white = render(identity, size=64, colour=True, **scene)
    assert torch.equal(one["mask"], white["mask"]) and torch.equal(one["points"], white["points"])
    outside = -torch.nn.functional.max_pool2d(one["mask"].float()[:, None], 3, 1, 1)[:, 0] == 0
    assert (white["image"].permute(0, 2, 3, 1)[outside] == 255).all()
    assert (one["image"] != white["image"]).float().mean() > 0.3


def test_people_are_adults_of_all_kinds_with_many_styles_of_hair():
    assert not [n for n in face().shapes if "child" in n or "baby" in n]
    assert len(set(parameters())) == len(parameters())
    traits = Traits(identities(torch.arange(600)))
    assert len(hair.styles(traits).unique()) >= 8 and len(hair.STYLES) >= 8
    assert 0.35 < float((traits.male > 0.5).double().mean()) < 0.65
    assert (traits.races.argmax(1).bincount() > 100).all() and traits.old.min() >= 0
    train, test = (identities(torch.arange(200) + SPLITS[split]) for split in SPLITS)
    assert torch.cdist(train, test).min() > 5
    assert train.abs().max() <= 2.5 and abs(float(train.mean())) < 0.02


def test_grey_heads_have_no_hair():
    """As in renderings of face models. Only brows and lashes are left."""
    identity, scene = some(6)
    other = identity.clone()
    for name in parameters():
        if name.startswith(("hair_", "beard", "stubble")):
            other[:, parameters().index(name)] *= -1
    pose = (scene["azimuth"], scene["elevation"], scene["light"], SIZE)
    grey, shaved = render(identity, *pose), render(other, *pose)
    assert torch.equal(grey["mask"], shaved["mask"])
    brows = (grey["image"] != shaved["image"]).float().mean()  # they take the hair's shade
    coloured = (
        render(identity, *pose, colour=True)["mask"] != render(other, *pose, colour=True)["mask"]
    )
    assert brows < 0.02 < coloured.float().mean()


def test_persons_look_different_and_keep_their_looks():
    identity, scene = posing(30)
    image = render(identity, size=64, **scene)["image"].float()
    distance = torch.cdist(image.flatten(1), image.flatten(1)) / 64
    distance.fill_diagonal_(99)
    assert distance.min() > 6
    points = render(identity, size=64, **scene)["points"]
    away = (points[:, None] - points[None]).norm(dim=-1).mean(-1)
    assert away[~torch.eye(30, dtype=torch.bool)].min() > 0.2


def test_snapshots_are_plausible():
    expression = snapshots(torch.rand(2000, DRAWS, generator=torch.Generator().manual_seed(0)))
    assert expression.shape == (2000, 52) and expression.min() >= 0 and expression.max() <= 1
    jaw = expression[:, UNITS.index("jawOpen")]
    blink = expression[:, UNITS.index("eyeBlinkLeft")]
    assert 0.3 < float((jaw == 0).double().mean()) < 0.6 and jaw.max() < 0.9
    assert 0.02 < float((blink > 0.7).double().mean()) < 0.25
    both = expression[:, [UNITS.index("eyeLookInLeft"), UNITS.index("eyeLookOutLeft")]]
    assert not ((both > 0).all(1)).any()
    right = expression[:, UNITS.index("eyeLookInRight")]
    assert torch.equal(right, both[:, 1])  # both eyes look the same way


def test_speech_moves_smoothly_and_blinks():
    t = torch.arange(500, dtype=torch.float64) / 25
    expression = speech(3, t)
    assert torch.equal(speech(3, t[:40]), expression[:40])
    assert not torch.equal(speech(4, t), expression)
    jaw, blink = (expression[:, UNITS.index(n)] for n in ("jawOpen", "eyeBlinkRight"))
    assert jaw.diff().abs().max() < 0.3 and jaw.max() > 0.2 and jaw.min() < 0.02
    closings = ((blink[1:] > 0.6) & (blink[:-1] <= 0.6)).sum()
    assert 3 <= closings <= 12  # in 20 s
    scene = motion(2, 60)
    assert torch.equal(motion(2, 10)["azimuth"], scene["azimuth"][:10])
    assert (
        scene["azimuth"].abs().max() <= RANGES["azimuth"] and scene["light"].unique().numel() == 1
    )


def test_the_dataset_follows_the_agreement():
    world = HeadsWorld("test", size=32, length=6, persons=4, frames=3)
    samples = world.__getitems__([(0, 1), (5, 5)])
    for (epoch, index), sample in zip([(0, 1), (5, 5)], samples, strict=True):
        single = world[epoch, index]
        for key, value in single.items():
            same = (
                torch.equal(sample[key], value) if torch.is_tensor(value) else sample[key] == value
            )
            assert same, key
        assert sample["image"].shape == (3, 3, 32, 32) and sample["expression"].shape == (3, 52)
        person, background = (torch.full((3,), sample[k]) for k in ("person", "background"))
        truth = world.truth(person, sample, background)
        assert torch.equal(truth["image"], sample["image"])
    assert not torch.equal(world[0, 1]["image"], world[1, 1]["image"])
    for call, message in (
        (lambda: HeadsWorld("val"), "split"),
        (lambda: HeadsWorld(frames=0), "frames"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(IndexError, match="0 to 5"):
        world[0, 6]


def first(batch: list) -> list:
    return batch


def test_workers_make_the_same_images():
    world = HeadsWorld("test", size=32, length=8)
    keys = [(0, i) for i in range(8)]
    loader = torch.utils.data.DataLoader(
        world, sampler=keys, batch_size=4, num_workers=2, collate_fn=first
    )
    rendered = [sample for batch in loader for sample in batch]
    for sample, key in zip(rendered, keys, strict=True):
        assert torch.equal(sample["image"], world[key]["image"])


def test_videos_show_a_person_in_two_frames():
    options = {"size": 32, "sources": 2, "targets": 1, "length": 5}
    world = HeadVideos("train", **options)
    sample = world[0, 2]
    assert len(world) == 5 and sample["source_imgs"].shape == (2, 3, 32, 32)
    assert sample["target_poses"].shape == (1, 136) and sample["target_lids"].shape == (1, 2)
    assert sample["target_segs"].shape == (1, 1, 32, 32) and sample["indices"].tolist() == [2]
    assert not torch.equal(world[0, 2]["target_imgs"], world[1, 2]["target_imgs"])
    test = HeadVideos("test", **options)
    assert torch.equal(test[0, 2]["target_imgs"], test[1, 2]["target_imgs"])
    truth = world.truth(sample["person"], sample["background"], sample["target_scene"])
    assert torch.equal(truth["image"], sample["target_imgs"])
    assert torch.equal(truth["mouth"], sample["target_mouth"])
    assert torch.equal(normalised_pose(truth["points"], 32), sample["target_poses"])


def test_batches_change_one_factor():
    sets = {"azimuth": "AZ", "elevation": "EL", "light": "LIGHT", "shape": "SHAPE"}
    world = HeadBatches("train", sets, count=6, size=48, limit=2)
    people = set()
    for kind in sets:
        batch = world.read(kind, 1)
        assert batch["image"].shape == (6, 1, 48, 48)
        for factor in ("azimuth", "elevation", "light"):
            assert (batch[factor].unique().numel() > 1) == (factor == kind), (kind, factor)
            assert batch[factor].abs().max() <= RANGES[factor]
        assert batch["person"].unique().numel() == (6 if kind == "shape" else 1)
        assert torch.equal(world.read(kind, 1)["image"], batch["image"])
        assert not torch.equal(batch["image"][0], batch["image"][1])
        people |= set(batch["person"].tolist())
    assert len(people) == 9
    other = HeadBatches("train", sets, count=6, size=48, limit=2, seed=1).scene("azimuth", 1)
    assert not torch.equal(other["identity"], world.scene("azimuth", 1)["identity"])
    with pytest.raises(IndexError, match="below 2"):
        world.read("azimuth", 2)
    with pytest.raises(UserError, match="no batches in which only smile changes"):
        HeadBatches("train", {"smile": "X"})


def test_a_data_root_holds_images_points_and_masks(tmp_path):
    command = [sys.executable, "-m", "nets.worlds.heads.export", "--data_root", tmp_path / "d"]
    numbers = ["--persons", "2", "--test_persons", "1", "--videos", "1", "--frames", "3"]
    done = subprocess.run([*command, *numbers, "--size", "64"], check=True, capture_output=True)
    assert b"9 frames" in done.stdout
    files = sorted(str(f.relative_to(tmp_path / "d")) for f in (tmp_path / "d").rglob("*.*"))
    assert files.pop() == "truth.csv" and len(files) == 27
    frame = "train/person_00001/video_00/00/00002"
    assert {f"imgs/{frame}.jpg", f"keypoints/{frame}.npy", f"segs/{frame}.png"} <= set(files)
    points = np.load(tmp_path / f"d/keypoints/{frame}.npy")
    assert points.shape == (68, 2) and points.dtype == np.float32
    image, mask = (
        np.asarray(Image.open(io.BytesIO((tmp_path / "d" / name).read_bytes())))
        for name in (f"imgs/{frame}.jpg", f"segs/{frame}.png")
    )
    assert image.shape == (64, 64, 3) and mask.shape == (64, 64)
    assert set(np.unique(mask)) == {0, 255}
    scene = {name: value[2:3] for name, value in motion(2, 3).items()}
    who = identities(torch.tensor([1]))
    rendered = render(who, size=64, colour=True, background=torch.tensor([1]), **scene)
    assert np.array_equal(points, rendered["points"][0].numpy())
    truth = rendered["image"][0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(image.astype(int) - truth).mean() < 6  # of JPEG
    with pytest.raises(UserError, match="nothing to write"):
        write_data_root(tmp_path, {"train": 0})


def test_the_sheet_can_be_drawn(tmp_path):
    out = tmp_path / "sheet.png"
    command = [sys.executable, "-m", "nets.worlds.heads.export", "--out", str(out)]
    subprocess.run([*command, "--columns", "2", "--rows", "1", "--size", "32"], check=True)
    with Image.open(out) as sheet:
        assert sheet.size == (64, 32)
    assert contact_sheet(1, 1, 32).shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identity": torch.zeros(2, 19)}, "identity must be"),
        ({"light": torch.zeros(3)}, "light must be"),
        ({"size": 8}, "size must be 16"),
        ({"supersample": 0}, "supersample"),
        ({"background": torch.zeros(2, dtype=torch.int64)}, "colour=True"),
        ({"expression": torch.zeros(2, 3)}, "expression must be"),
    ],
)
def test_bad_arguments_are_named(change, message):
    zero = torch.zeros(2)
    identity = torch.zeros(2, len(parameters()))
    arguments = {"identity": identity, "azimuth": zero, "elevation": zero, "light": zero}
    with pytest.raises(ValueError, match=message):
        render(**({"size": 32, **arguments} | change))


def test_normals_are_those_of_the_surface():
    """From four neighbours, against sums over triangles."""
    model = face()
    ours = torch.stack(meshes.normals(model.points[None].unbind(2), model.around), 2)[0]
    corners = model.corner_of[model.triangles]
    a, b, c = (model.points[corners[:, k]] for k in range(3))
    cross = torch.linalg.cross(c - a, b - a)  # triangles run clockwise
    exact = torch.zeros_like(ours)
    for k in range(3):
        exact.index_add_(0, corners[:, k], cross)
    exact = torch.nn.functional.normalize(exact, dim=1)
    cosine = (ours * exact).sum(1)[model.group < 7]
    assert cosine.min() > 0.5 and (cosine > 0.95).float().mean() > 0.98


def test_positions_are_sums_of_targets():
    model = face()
    k, e = len(model.shapes), len(model.units)
    shape, expression = torch.zeros(1, k), torch.zeros(1, e)
    assert torch.equal(model.positions(shape, expression)[0], model.points)
    shape[0, 3], expression[0, 7] = 0.5, 1
    moved = model.base + 0.5 * model.deltas[3] + model.deltas[k + 7]
    expected = (moved / meshes.UNIT).float().view(-1, 3)
    assert torch.equal(model.positions(shape, expression)[0], expected)


def test_the_packed_file_is_small_and_comes_with_its_licence():
    folder = Path(meshes.__file__).parent
    assert (folder / "face.npz").stat().st_size < 4e6
    assert "CC0" in (folder / "LICENSE.md").read_text() and (folder / "CC0.md").exists()
    d = torch.nn.functional.normalize(torch.randn(5, 3, dtype=torch.float64), dim=1)
    assert np.allclose(pack.harmonics(d.numpy()), drawing._harmonics(d).numpy())
    with pytest.raises(UserError, match="holds no mpfb2"):
        pack.pack(folder)


def test_splits_share_nobody_and_persons_differ():
    train, test = (identities(torch.arange(500) + SPLITS[split]) for split in SPLITS)
    assert torch.cdist(train, test).min() > 0.5
    one, two = HeadsWorld("train", 32, persons=5), HeadsWorld("test", 32, persons=5)
    seen = [{s["person"] for s in w.__getitems__([(0, i) for i in range(9)])} for w in (one, two)]
    assert len(seen[0]) == len(seen[1]) == 5 and not seen[0] & seen[1]
    assert {s["background"] for s in one.__getitems__([(0, i) for i in range(9)])} & {
        s["background"] for s in two.__getitems__([(0, i) for i in range(9)])
    } == set()


def test_clips_show_one_person_and_have_the_truth():
    world = HeadsWorld("test", 64, seed=3, persons=4, frames=3)
    keys = [(0, 1), (1, 1), (0, 5), (0, 2)]
    clips = world.__getitems__(keys)
    first = clips[0]
    assert first["image"].shape == (3, 3, 64, 64) and first["points"].shape == (3, 68, 2)
    assert [c["person"] for c in clips] == [SPLITS["test"] + p for p in (1, 1, 1, 2)]
    assert len(world) == 16 and world.identities[5] == 1
    assert first["light"].unique().numel() == 1 and first["azimuth"].unique().numel() == 3
    assert clips[1]["light"][0] == first["light"][0] != clips[2]["light"][0]
    assert not torch.equal(clips[1]["azimuth"], first["azimuth"])  # another epoch, another pose
    alone = world[(0, 1)]
    for name, value in alone.items():
        same = torch.equal(value, first[name]) if torch.is_tensor(value) else value == first[name]
        assert same, name
    # Exact truth: the second clip's person in the fourth one's scene.
    scene = {name: clips[3][name] for name in (*RANGES, "expression")}
    person = torch.full((3,), clips[1]["person"])
    truth = world.truth(person, scene, torch.full((3,), clips[3]["background"]))
    assert torch.equal(truth["points"].isfinite(), torch.ones(3, 68, 2, dtype=torch.bool))
    behind = torch.full((3,), clips[3]["background"])
    own = world.truth(torch.full((3,), clips[3]["person"]), scene, behind)
    assert torch.equal(own["image"], clips[3]["image"])
    assert not torch.equal(truth["image"], clips[3]["image"])


def test_supersampling_softens_edges_and_keeps_the_rest():
    identity, scene = some(4)
    plain, soft = (render(identity, size=64, supersample=s, **scene) for s in (1, 3))
    change = (plain["image"].int() - soft["image"].int()).abs().float()
    assert 0.5 < change.mean() < 6 and change.median() <= 2
    assert (plain["mask"] != soft["mask"]).float().mean() < 0.03
    assert torch.equal(plain["points"], soft["points"])


def test_motion_is_smooth_and_stays_in_range():
    for clip in range(5):
        scene = motion(clip, 200, ranges={"azimuth": 0.8, "elevation": 0.3, "light": 1.0})
        for name, limit in (("azimuth", 0.8), ("elevation", 0.3), ("light", 1.0)):
            assert scene[name].abs().max() <= limit
            assert scene[name].diff().abs().max() < 0.15 * limit
        assert scene["azimuth"].std() > 0.2 and scene["light"].unique().numel() == 1
        longer = motion(clip, 300, ranges={"azimuth": 0.8, "elevation": 0.3, "light": 1.0})
        assert torch.equal(longer["azimuth"][:200], scene["azimuth"])
