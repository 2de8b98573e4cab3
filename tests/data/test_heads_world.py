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

from nets.data.worlds import ellipsoids, heads
from nets.data.worlds.heads import RANGES, SPLITS, HeadsWorld, identities, render, scenes
from nets.data.worlds.heads_folder import motion, write_data_root
from nets.data.worlds.heads_shape import PARAMETERS, PARTS, head, in_camera
from nets.errors import UserError

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


def parts_of(p: dict[str, float]) -> list[tuple]:
    """Centre, radii, albedo, roll, cut of a head at rest; the first nine are smooth skin."""
    w, h, d = 0.72 + 0.0432 * p["head_w"], 0.8 + 0.04 * p["head_h"], 0.85 + 0.0425 * p["head_d"]
    k = min(max(0.72 + 0.08 * p["skin"], 0.45), 0.95)
    a = min(max(0.25 + 0.12 * p["hair"], 0.03), 0.6)
    nw, nl = 0.075 + 0.01125 * p["nose_w"], 0.17 + 0.0255 * p["nose_len"]
    ny, zf = -0.14 + 0.03 * p["nose_y"], 0.74 * d / 0.85
    ex, ey = 0.27 + 0.0189 * p["eye_gap"], 0.14 + 0.03 * p["eye_y"]
    es = 0.095 + 0.0095 * p["eye_size"]
    ez = -0.105 + d * math.sqrt(max(0.05, 1 - (ex / w) ** 2 - ((ey - 0.12) / h) ** 2))
    mw, lt = 0.19 + 0.0228 * p["mouth_w"], 0.038 + 0.0076 * p["lip"]
    mz = 0.035 + 0.64 * math.sqrt(1 - 0.12**2)
    er, ck = 0.17 + 0.0204 * p["ear"], 0.27 + 0.0216 * p["cheek"]
    j, c = p["jaw_w"], p["chin"]
    by, bt = ey + 0.16 + 0.025 * p["brow_y"], 0.032 + 0.008 * p["brow_thick"]
    one = [
        ((0, 0.12, -0.05), (w, h, d), k),
        ((0, -0.40, 0.08), (0.54 + 0.0432 * j, 0.5, 0.64), k),
        ((0, -0.74 - 0.05 * c, 0.4), (0.22 + 0.022 * j, 0.17, 0.22), k),
        ((0, ny + 0.2, zf + 0.01), (0.73 * nw, 0.24, 0.1), k),
        ((0, ny, zf + 0.05), (1.05 * nw, 0.085, nl), k),
    ]
    sides = (-1, 1)
    one += [((s * 0.33, -0.17, 0.4), (ck, ck, ck), k) for s in sides]
    one += [((s * nw, ny - 0.015, zf + 0.02), (0.75 * nw, 0.06, 0.09), k) for s in sides]
    one += [((0, -1.1, -0.2), (0.4, 0.6, 0.4), 0.97 * k)]
    one += [((s * ex, ey, ez), (1.25 * es, 0.72 * es, 1.1 * es), 0.95) for s in sides]
    one += [((s * ex, ey, ez + 0.8 * es), (0.42 * es, 0.42 * es, 0.4 * es), 0.08) for s in sides]
    one += [((s * ex, by, ez + 0.02), (1.75 * es, bt, 0.09), 0.8 * a, -s * 0.12) for s in sides]
    one += [((0, -0.46 + 0.75 * lt, mz), (mw, lt, 0.085), 0.62 * k)]
    one += [((0, -0.46 - 0.75 * lt, mz), (0.85 * mw, 1.1 * lt, 0.09), 0.65 * k)]
    one += [((s * (w + 0.01), -0.02, -0.08), (0.07, er, 0.62 * er), 0.95 * k) for s in sides]
    cut = 0.34 - 0.06 * p["hairline"]
    return [*one, ((0, 0.14, -0.07), (1.06 * w, 1.06 * h, 1.05 * d), a, 0.0, cut)]


def ray_traced(identity: np.ndarray, a: float, e: float, phi: float, n: int) -> np.ndarray:
    """Grey values of one head in float64, one pixel a ray, with no shortcut."""
    ux = np.array([math.cos(a), 0, math.sin(a)])
    uy = np.array([-math.sin(e) * math.sin(a), math.cos(e), math.sin(e) * math.cos(a)])
    f = np.cross(ux, uy)
    place = ((np.arange(n) + 0.5) / n * 2 - 1) * 1.15
    origin = place[None, :, None] * ux + (-place - 0.06)[:, None, None] * uy
    b = 0.35
    light = np.array([math.sin(phi) * math.cos(b), math.sin(b), math.cos(phi) * math.cos(b)])
    light = light[0] * ux + light[1] * uy + light[2] * f
    best, grey = np.full((n, n), -np.inf), np.ones((n, n))
    skin, depth_of_skin, albedo_of_skin = np.zeros((n, n, 3)), np.full((n, n), -np.inf), 0.0
    parts = parts_of(dict(zip(PARAMETERS, identity, strict=True)))
    for number, (centre, radii, albedo, *rest) in enumerate(parts):
        roll = rest[0] if rest else 0.0
        cos, sin = math.cos(roll), math.sin(roll)
        q = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        m = np.diag(1 / np.array(radii)) @ q.T
        q0, q1 = (origin - np.array(centre)) @ m.T, m @ f
        aa, bb, cc = q1 @ q1, q0 @ q1, (q0 * q0).sum(-1) - 1
        disc = bb * bb - aa * cc
        seen = np.full((n, n), -np.inf)
        normals = np.zeros((n, n, 3))
        for sign in (1, -1) if len(rest) > 1 else (1,):
            tau = (-bb + sign * np.sqrt(np.maximum(disc, 0))) / aa
            hit = (disc > 0) & ~np.isfinite(seen)
            if len(rest) > 1:
                hit &= (origin + tau[..., None] * f) @ np.array([0, 0.8, -0.6]) >= rest[1]
            normal = ((q0 + tau[..., None] * q1) / np.array(radii)) @ q.T * sign
            normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
            seen[hit], normals[hit] = tau[hit], normal[hit]
        if number < 9:
            weight = np.exp(14 * np.where(np.isfinite(seen), seen, -50))
            skin += weight[..., None] * normals
            depth_of_skin, albedo_of_skin = np.maximum(depth_of_skin, seen), albedo
            if number < 8:
                continue
            normals = skin / np.maximum(np.linalg.norm(skin, axis=-1, keepdims=True), 1e-30)
            seen, albedo = depth_of_skin, albedo_of_skin
        nearer = seen > best
        shade = albedo * (0.25 + 0.75 * np.maximum(0, normals @ light))
        grey[nearer], best[nearer] = shade[nearer], seen[nearer]
    return grey


def test_pictures_are_those_of_a_plain_ray_tracer():
    identity, scene = some(6)
    made = render(identity, size=SIZE, **at_rest(scene))
    angles = torch.stack([scene[name] for name in RANGES], 1).tolist()
    for i in range(6):
        truth = ray_traced(identity[i].double().numpy(), *angles[i], SIZE)
        error = np.abs(made["image"][i, 0].numpy() - truth * 255)
        # Half a grey level of rounding, float32 beside it; a pixel on an edge may fall to either.
        assert (error > 0.51).mean() < 2e-4, i
        assert np.array_equal(made["mask"][i].numpy(), truth < 1) or (
            (made["mask"][i].numpy() != (truth < 1)).sum() <= 2
        )


def test_the_world_has_the_statistics_of_its_design():
    n = 120
    identity, scene = some(n)
    made = render(identity, size=SIZE, **at_rest(scene))
    grey = made["image"].double() / 255
    assert abs((~made["mask"]).double().mean() - 0.5) < 0.04  # about half is background
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
def test_a_picture_depends_on_its_numbers_alone(colour):
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


def test_pictures_are_exact_under_autocast():
    identity, scene = some(2)
    plain = render(identity, size=64, colour=True, **scene)
    with torch.autocast("cpu", torch.bfloat16):
        made = render(identity, size=64, colour=True, **scene)
    assert all(torch.equal(made[name], plain[name]) for name in plain)


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
    made = render(identity, size=256, colour=True, **scene)
    points = made["points"]
    assert points.shape == (24, 68, 2) and points.min() > 0 and points.max() < 255
    near = torch.nn.functional.max_pool2d(made["mask"].float()[:, None], 3, 1, 1)[:, 0] > 0
    at = points.round().long()
    assert near[torch.arange(24)[:, None], at[..., 1], at[..., 0]].all()
    # In a frontal picture the pupils are dark, between the corners; lips are redder than skin.
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


def test_expressions_move_their_points_and_pictures():
    identity = identities(torch.arange(6))
    zero = torch.zeros(6, dtype=torch.float64)
    rest = torch.zeros(6, 3)
    made = {"rest": render(identity, zero, zero, zero, 128, expression=rest)}
    for i, name in enumerate(("mouth", "brows", "blink")):
        change = rest.clone()
        change[:, i] = 1
        made[name] = render(identity, zero, zero, zero, 128, expression=change)
    plain = render(identity, zero, zero, zero, 128)
    assert torch.equal(plain["image"], made["rest"]["image"])
    assert torch.equal(plain["points"], made["rest"]["points"])

    def moved(name: str, points: list[int]) -> torch.Tensor:
        return (made[name]["points"] - plain["points"])[:, points, 1]

    gap = made["mouth"]["points"][:, 66, 1] - made["mouth"]["points"][:, 62, 1]
    assert (plain["points"][:, 66, 1] - plain["points"][:, 62, 1]).abs().max() < 1
    assert (gap > 5).all() and (moved("mouth", [8, 57]) > 2).all()
    assert (moved("brows", list(range(17, 27))) < -1.5).all()
    assert (moved("blink", [37, 38, 43, 44]) > 2).all()
    assert moved("blink", list(range(17))).abs().max() == 0
    for name in ("mouth", "brows", "blink"):
        assert ((made[name]["image"] != plain["image"]).float().mean((1, 2, 3)) > 0.002).all()


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


def test_a_data_root_holds_pictures_points_and_masks(tmp_path):
    command = [sys.executable, "-m", "nets.data.worlds.heads", "--data_root", tmp_path / "d"]
    numbers = ["--persons", "2", "--test_persons", "1", "--videos", "1", "--frames", "3"]
    done = subprocess.run([*command, *numbers, "--size", "64"], check=True, capture_output=True)
    assert b"9 frames" in done.stdout
    files = sorted(str(f.relative_to(tmp_path / "d")) for f in (tmp_path / "d").rglob("*.*"))
    assert len(files) == 27
    frame = "train/person_00001/video_00/00/00002"
    assert {f"imgs/{frame}.jpg", f"keypoints/{frame}.npy", f"segs/{frame}.png"} <= set(files)
    points = np.load(tmp_path / f"d/keypoints/{frame}.npy")
    assert points.shape == (68, 2) and points.dtype == np.float32
    picture, mask = (
        np.asarray(Image.open(io.BytesIO((tmp_path / "d" / name).read_bytes())))
        for name in (f"imgs/{frame}.jpg", f"segs/{frame}.png")
    )
    assert picture.shape == (64, 64, 3) and mask.shape == (64, 64)
    assert set(np.unique(mask)) == {0, 255}
    scene = {name: value[2:3] for name, value in motion(2, 3).items()}
    who = identities(torch.tensor([1]))
    made = render(who, size=64, colour=True, background=torch.tensor([1]), **scene)
    assert np.array_equal(points, made["points"][0].numpy())
    truth = made["image"][0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(picture.astype(int) - truth).mean() < 6  # of JPEG
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
    command = [sys.executable, "-m", "nets.data.worlds.heads", "--out", out, "--persons", "2"]
    subprocess.run([*command, "--poses", "2", "--size", "32", "--colour"], check=True)
    with Image.open(out) as sheet:
        assert sheet.size == (64, 64)
    assert heads.contact_sheet(1, 1, 32, False).shape == (1, 32, 32)
