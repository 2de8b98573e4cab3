"""The demo world of heads: against a plain NumPy renderer, and what users of its truth rely on."""

from __future__ import annotations

import io
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from nets.errors import UserError
from nets.worlds.heads import ellipsoids
from nets.worlds.heads import world as heads
from nets.worlds.heads.export import motion, write_data_root
from nets.worlds.heads.shape import PARTS, head, in_camera
from nets.worlds.heads.world import RANGES, SPLITS, HeadsWorld, identities, render, scenes
from plain_heads import ray_traced

SIZE = 150
LIGHT = RANGES["light"]


@pytest.fixture(autouse=True)
def one_thread():
    """As in a worker of a loader; two threads that wait for a third process take minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def some(count: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    scene = scenes(torch.arange(count), stream="test")
    return identities(torch.arange(count)), scene


def at_rest(scene: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in scene.items() if name != "expression"}


def test_images_are_those_of_a_plain_ray_tracer():
    identity, scene = some(6)
    rendered = render(identity, size=SIZE, **at_rest(scene))
    angles = torch.stack([scene[name] for name in RANGES], 1).tolist()
    for i in range(6):
        truth = ray_traced(identity[i].double().numpy(), *angles[i], SIZE)
        error = np.abs(rendered["image"][i, 0].numpy() - truth * 255)
        # Half a grey level of rounding, float32 beside it; a pixel on an edge may fall to either.
        assert (error > 0.51).mean() < 2e-4, i
        assert np.array_equal(rendered["mask"][i].numpy(), truth < 1) or (
            (rendered["mask"][i].numpy() != (truth < 1)).sum() <= 2
        )


def test_the_world_has_the_statistics_of_its_design():
    n = 120
    identity, scene = some(n)
    rendered = render(identity, size=SIZE, **at_rest(scene))
    grey = rendered["image"].double() / 255
    assert abs((~rendered["mask"]).double().mean() - 0.5) < 0.04  # about half is background
    assert abs(grey.mean() - 0.71) < 0.03
    inside = grey.clamp(1e-12, 1 - 1e-12)
    entropy = -(grey * inside.log() + (1 - grey) * (1 - inside).log()).sum((1, 2, 3)).mean()
    assert abs(entropy - 6650) < 300  # nats
    zero = torch.zeros(n, dtype=torch.float64)

    def change(identity=identity, azimuth=zero, elevation=zero, light=zero):
        other = render(identity, azimuth, elevation, light, SIZE)["image"]
        return float((other.double() / 255 - frontal).abs().mean())

    frontal = render(identity, zero, zero, zero, SIZE)["image"].double() / 255
    assert abs(change(azimuth=zero + 0.1) - 0.023) < 0.003
    assert abs(change(elevation=zero + 0.1) - 0.029) < 0.004
    assert abs(change(light=zero + math.radians(10)) - 0.018) < 0.003
    assert abs(change(identity=identity.roll(1, 0)) - 0.070) < 0.010


def test_heads_are_mirror_symmetric():
    identity, scene = some(12)
    azimuth, elevation, light = (scene[name] for name in RANGES)
    one = render(identity, azimuth, elevation, light, SIZE)
    two = render(identity, -azimuth, elevation, -light, SIZE)
    # The same numbers in other tiles: float32 rounds a few of them to the next grey level.
    assert (one["image"].int() - two["image"].flip(-1).int()).abs().max() <= 1
    assert (one["mask"] != two["mask"].flip(-1)).sum() <= 2
    swap = [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1),
            *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40), *range(54, 47, -1),
            *range(59, 54, -1), *range(64, 59, -1), *(67, 66, 65)]  # fmt: skip
    mirrored = two["points"][:, swap]
    assert torch.allclose(one["points"][..., 0], SIZE - 1 - mirrored[..., 0], atol=1e-3)
    assert torch.allclose(one["points"][..., 1], mirrored[..., 1], atol=1e-3)


def test_angles_turn_the_way_they_say():
    identity = identities(torch.arange(8))
    zero = torch.zeros(8, dtype=torch.float64)
    ahead = render(identity, zero, zero, zero, SIZE)["points"][:, 30]
    right = render(identity, zero + 0.5, zero, zero, SIZE)["points"][:, 30]
    above = render(identity, zero, zero + 0.3, zero, SIZE)["points"][:, 30]
    assert (right[:, 0] - ahead[:, 0] > 20).all() and (above[:, 1] - ahead[:, 1] < -10).all()
    lit = render(identity, zero, zero, zero + LIGHT, SIZE)["image"][:, 0, 30:120, 30:120].float()
    assert (lit[..., 45:].mean((1, 2)) > lit[..., :45].mean((1, 2)) + 20).all()


@pytest.mark.parametrize("colour", [False, True])
def test_a_image_depends_on_its_numbers_alone(colour):
    identity, scene = some(12)
    behind = torch.arange(12) if colour else None
    whole = render(identity, size=64, colour=colour, background=behind, **scene)
    assert whole["image"].shape == (12, 3 if colour else 1, 64, 64)
    assert whole["image"].dtype == torch.uint8 and whole["mask"].dtype == torch.bool
    for rows in (torch.tensor([7, 3, 11, 0]), torch.tensor([5])):
        part = {name: value[rows] for name, value in scene.items()}
        again = render(
            identity[rows], size=64, colour=colour, background=rows if colour else None, **part
        )
        for name, value in again.items():
            assert torch.equal(value, whole[name][rows]), name


def test_images_are_exact_under_autocast():
    identity, scene = some(2)
    plain = render(identity, size=64, colour=True, **scene)
    with torch.autocast("cpu", torch.bfloat16):
        rendered = render(identity, size=64, colour=True, **scene)
    assert all(torch.equal(rendered[name], plain[name]) for name in plain)


def test_splits_share_nobody_and_persons_differ():
    train, test = (identities(torch.arange(500) + SPLITS[split]) for split in SPLITS)
    assert torch.cdist(train, test).min() > 0.5
    assert train.abs().max() <= 2 and abs(float(train.mean())) < 0.05
    assert abs(float(train.std()) - 0.94) < 0.03  # of N(0, 1) clipped to [-2, 2]: 0.941
    one, two = HeadsWorld("train", 32, persons=5), HeadsWorld("test", 32, persons=5)
    seen = [{s["person"] for s in w.__getitems__([(0, i) for i in range(9)])} for w in (one, two)]
    assert len(seen[0]) == len(seen[1]) == 5 and not seen[0] & seen[1]
    assert {s["background"] for s in one.__getitems__([(0, i) for i in range(9)])} & {
        s["background"] for s in two.__getitems__([(0, i) for i in range(9)])
    } == set()


def test_points_lie_where_they_say():
    identity, scene = some(24)
    scene = {name: value * 0.5 for name, value in scene.items()}
    scene["expression"][:, 2] = 0
    rendered = render(identity, size=256, colour=True, **scene)
    points = rendered["points"]
    assert points.shape == (24, 68, 2) and points.min() > 0 and points.max() < 255
    near = torch.nn.functional.max_pool2d(rendered["mask"].float()[:, None], 3, 1, 1)[:, 0] > 0
    at = points.round().long()
    assert near[torch.arange(24)[:, None], at[..., 1], at[..., 0]].all()
    # In a frontal image the pupils are dark, between the corners; lips are redder than skin.
    zero = torch.zeros(24, dtype=torch.float64)
    ahead = render(identity, zero, zero, zero, 256, colour=True)
    for eye in (slice(36, 42), slice(42, 48)):
        x, y = ahead["points"][:, eye].mean(1).round().long().unbind(1)
        colour = ahead["image"][torch.arange(24), :, y, x].float()
        left, top = ahead["points"][:, eye.start + 1].long().unbind(1)
        assert (colour.mean(1) < 150).all()
        white = ahead["image"][torch.arange(24), :, top + 3, left + 1].float().amin(1)
        assert (white > 100).float().mean() > 0.8
    lip = ahead["points"][:, [51, 62]].mean(1).round().long()
    skin = ahead["points"][:, [33, 51]].mean(1).round().long()
    redness = []
    for place in (lip, skin):
        rgb = ahead["image"][torch.arange(24), :, place[:, 1], place[:, 0]].float()
        redness.append(rgb[:, 0] / rgb.sum(1))
    assert (redness[0] > redness[1]).all()


def test_shoulders_turn_less_than_the_head():
    turn = torch.tensor([0.0, 1.0], dtype=torch.float64)
    parts = head(identities(torch.arange(2)), None, True)
    solids, _ = in_camera(parts, turn, torch.zeros(2, dtype=torch.float64))
    across = solids.axes[:, :, 0, 0] / solids.axes[:, :, :, 0].norm(dim=-1)  # of each part's x axis
    assert torch.allclose(across[0, [0, PARTS.index("shoulders")]], torch.ones(2).double())
    assert across[1, 0] == pytest.approx(math.cos(1.0))
    assert across[1, PARTS.index("shoulders")] == pytest.approx(math.cos(0.3))


def test_expressions_move_their_points_and_images():
    identity = identities(torch.arange(6))
    zero = torch.zeros(6, dtype=torch.float64)
    rest = torch.zeros(6, 3)
    rendered = {"rest": render(identity, zero, zero, zero, 128, expression=rest)}
    for i, name in enumerate(("mouth", "brows", "blink")):
        change = rest.clone()
        change[:, i] = 1
        rendered[name] = render(identity, zero, zero, zero, 128, expression=change)
    plain = render(identity, zero, zero, zero, 128)
    assert torch.equal(plain["image"], rendered["rest"]["image"])
    assert torch.equal(plain["points"], rendered["rest"]["points"])

    def moved(name: str, points: list[int]) -> torch.Tensor:
        return (rendered[name]["points"] - plain["points"])[:, points, 1]

    gap = rendered["mouth"]["points"][:, 66, 1] - rendered["mouth"]["points"][:, 62, 1]
    assert (plain["points"][:, 66, 1] - plain["points"][:, 62, 1]).abs().max() < 1
    assert (gap > 5).all() and (moved("mouth", [8, 57]) > 2).all()
    assert (moved("brows", list(range(17, 27))) < -1.5).all()
    assert (moved("blink", [37, 38, 43, 44]) > 2).all()
    assert moved("blink", list(range(17))).abs().max() == 0
    for name in ("mouth", "brows", "blink"):
        assert ((rendered[name]["image"] != plain["image"]).float().mean((1, 2, 3)) > 0.002).all()


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


def test_all_parts_are_seen():
    n = 40
    identity, scene = some(n)
    scene["expression"][:, 0], scene["expression"][:, 2] = 1, 0.5
    solids, _ = in_camera(
        head(identity, scene["expression"], True), scene["azimuth"], scene["elevation"]
    )
    lamp = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand(n, 3)
    _, part = ellipsoids.paint(solids, lamp, 152, -1.14, 1.08, 2.3 / 150)
    seen = {PARTS[int(i)] for i in part.unique().tolist() if i >= 0}
    assert seen == {"skull", *PARTS[9:]}


def test_motion_is_smooth_and_stays_in_range():
    for clip in range(5):
        scene = motion(clip, 200, ranges={"azimuth": 0.8, "elevation": 0.3, "light": 1.0})
        for name, limit in (("azimuth", 0.8), ("elevation", 0.3), ("light", 1.0)):
            assert scene[name].abs().max() <= limit
            assert scene[name].diff().abs().max() < 0.15 * limit
        assert scene["azimuth"].std() > 0.2 and scene["expression"][:, 2].max() > 0.4
        assert scene["expression"][:, 0].min() == 0 and scene["light"].unique().numel() == 1
        longer = motion(clip, 300, ranges={"azimuth": 0.8, "elevation": 0.3, "light": 1.0})
        assert torch.equal(longer["azimuth"][:200], scene["azimuth"])


def test_a_data_root_holds_images_points_and_masks(tmp_path):
    command = [sys.executable, "-m", "nets.worlds.heads.export", "--data_root", tmp_path / "d"]
    numbers = ["--persons", "2", "--test_persons", "1", "--videos", "1", "--frames", "3"]
    done = subprocess.run([*command, *numbers, "--size", "64"], check=True, capture_output=True)
    assert b"9 frames" in done.stdout
    files = sorted(str(f.relative_to(tmp_path / "d")) for f in (tmp_path / "d").rglob("*.*"))
    assert len(files) == 27
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identity": torch.zeros(2, 19)}, "identity must be"),
        ({"light": torch.zeros(3)}, "light must be"),
        ({"size": 8}, "size must be 16"),
        ({"supersample": 0}, "supersample"),
        ({"background": torch.zeros(2, dtype=torch.int64)}, "colour=True"),
        ({"expression": torch.zeros(2, 4)}, "expression must be"),
    ],
)
def test_bad_arguments_are_named(change, message):
    zero = torch.zeros(2)
    arguments = {"identity": torch.zeros(2, 20), "azimuth": zero, "elevation": zero, "light": zero}
    with pytest.raises(ValueError, match=message):
        render(**({"size": 32, **arguments} | change))


def test_a_world_refuses_what_it_has_not():
    with pytest.raises(ValueError, match="split"):
        HeadsWorld("val")
    with pytest.raises(ValueError, match="frames"):
        HeadsWorld(frames=0)
    with pytest.raises(IndexError, match="0 to 3"):
        HeadsWorld(length=4)[(0, 4)]


def test_the_sheet_can_be_drawn(tmp_path):
    out = tmp_path / "sheet.png"
    command = [sys.executable, "-m", "nets.worlds.heads.export", "--out", out, "--persons", "2"]
    subprocess.run([*command, "--poses", "2", "--size", "32", "--colour"], check=True)
    with Image.open(out) as sheet:
        assert sheet.size == (64, 64)
    assert heads.contact_sheet(1, 1, 32, False).shape == (1, 32, 32)
