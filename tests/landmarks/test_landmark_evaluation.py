"""The regression, the scores and files of the BBC protocol, against values by hand."""

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.io import loadmat, savemat
from tqdm import tqdm

import evaluate as evaluate_script
from landmark_files import bbc_folder, joints_of, untrained
from nets.data.clips import bbc_pose
from nets.data.clips.points import PointTable
from nets.data.io.images import write_image
from nets.data.people.index import read_index
from nets.errors import UserError
from nets.landmarks import evaluate, published, regression
from nets.run import checkpoints
from nets.skeletons import JOINTS_17
from small_data import index_folder


def test_the_map_is_least_squares_without_intercept():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 6)), rng.normal(size=(50, 4))
    mapping = regression.fit(x, y)
    np.testing.assert_allclose(mapping, np.linalg.solve(x.T @ x, x.T @ y), atol=1e-10)
    assert abs(regression.fit(np.ones((9, 1)), np.full((9, 1), 3.0))[0, 0] - 3) < 1e-12


def test_two_landmarks_in_one_place_share_their_weight():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(50, 6)).astype(np.float16), rng.normal(size=(50, 4))
    twice = np.concatenate([x, x[:, :1]], 1)
    once, shared = regression.fit(x, y), regression.fit(twice, y)
    np.testing.assert_allclose(shared[0], once[0] / 2, atol=1e-8)
    np.testing.assert_allclose(shared[-1], once[0] / 2, atol=1e-8)
    np.testing.assert_allclose(twice @ shared, x @ once, atol=1e-8)


def test_predictions_go_back_into_the_frame():
    boxes = np.array([[10.0, 20.0, 310.0, 220.0]])
    predicted = np.concatenate([np.full(7, 0.25), np.full(7, -0.5)])[None]
    points = regression.to_pixels(predicted, boxes)
    assert points.shape == (2, 7, 1)
    np.testing.assert_allclose(points[:, :, 0], [[0.25 * 300 + 150 + 10] * 7, [20.0] * 7])


def test_twelve_pixels_count_and_a_little_more_does_not():
    truth = np.zeros((2, 7, 2)) + 100
    predicted = truth.copy()
    predicted[0, 0] += 12.0  # head: 12 px in both frames
    predicted[1, 1, 0] += 12.001  # right wrist, first frame
    predicted[:, 2, 1] += 20  # left wrist, second frame
    truth[0, 6, 1] = np.nan  # not annotated: left out
    result = regression.accuracy(predicted, truth, bbc_pose.JOINTS_7)
    assert result["accuracy"] == pytest.approx(11 / 13)
    assert result["per_joint"] == pytest.approx(
        {"head": 1, "rwrist": 0.5, "lwrist": 0.5, "relbow": 1, "lelbow": 1, "rshoulder": 1,
         "lshoulder": 1}
    )  # fmt: skip
    expected = {"head": 1, "wrists": 0.5, "elbows": 1, "shoulders": 1}
    assert result["groups"] == pytest.approx(expected)
    assert result["mean_of_joints"] == pytest.approx(6 / 7)


def test_distances_against_the_mean_pose():
    rng = np.random.default_rng(2)
    x = rng.uniform(-1, 1, (40, 3, 2))
    joints = np.stack([x[:, 0] / 2, x[:, 1] * 0.1 + x[:, 2] * 0.2], 1)
    joints[:5, 1] = np.nan
    result = regression.distances(x[:30], joints[:30], x[30:], joints[30:])
    assert result["error"] < 1e-9
    mean = np.nanmean(joints[:30], 0)
    expected = np.linalg.norm(joints[30:] - mean, axis=-1).mean()
    assert result["error_mean_pose"] == pytest.approx(expected)
    assert result["ratio_to_mean_pose"] == pytest.approx(0, abs=1e-6)


def test_points_with_and_without_an_intercept():
    random = np.random.default_rng(0)
    x, test = random.normal(size=(30, 4, 2)), random.normal(size=(7, 4, 2))
    weights = random.normal(size=(8, 3, 2))
    points = np.einsum("nf,fjc->njc", x.reshape(30, 8), weights) + 0.3  # a shift
    expected = np.einsum("nf,fjc->njc", test.reshape(7, 8), weights) + 0.3
    points[:5, 1] = np.nan  # fitted on the others
    points[:, 2] = np.nan  # on none
    exact = regression.predicted_points(x, points, test, bias=True)
    np.testing.assert_allclose(exact[:, :2], expected[:, :2])
    assert np.isnan(exact[:, 2]).all()
    through_centre = regression.predicted_points(x, points, test, bias=False)
    np.testing.assert_allclose(
        through_centre[:, 0], test.reshape(7, 8) @ regression.fit(x.reshape(30, 8), points[:, 0])
    )
    assert np.abs(through_centre[:, 0] - expected[:, 0]).max() > 0.1


def test_errors_are_shares_of_the_distance_of_the_eyes():
    truth = np.array([[[-0.1, 0.0], [0.1, 0.0], [0.0, 0.25]], [[np.nan] * 2, [0.1, 0], [0, 0]]])
    predicted = truth + np.array([0.05, 0.0])
    sides = np.array([[200.0, 80.0], [50.0, 50.0]])  # eyes 40 pixels apart; errors of 10 pixels
    assert regression.interocular_error(predicted, truth, sides, (0, 1)) == pytest.approx(0.25)
    predicted[0, 2] = truth[0, 2] + np.array([0.0, 0.25])  # 20 pixels down
    error = regression.interocular_error(predicted, truth, sides, (0, 1))
    assert error == pytest.approx((10 + 10 + 20) / 3 / 40)
    with pytest.raises(ValueError, match="both eyes of one image"):
        regression.interocular_error(predicted[1:], truth[1:], sides[1:], (0, 1))


class Spots:
    """Landmarks at the centres of the red and of the green of an image: they follow any warp."""

    def __init__(self, follow=True):
        self.follow = follow

    def landmarks(self, image):
        weight = (image[:, :2] + 1).clamp_min(0) if self.follow else torch.ones(3, 2, 64, 64)
        weight = weight / weight.sum((2, 3), keepdim=True)
        line = 2 * torch.arange(64) / 64 - 1
        means = torch.stack([(weight.sum(2) * line).sum(2), (weight.sum(3) * line).sum(2)], -1)
        return SimpleNamespace(means=means)


def test_landmarks_that_follow_a_warp_are_consistent():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    rows = []
    for k in range(3):
        spots = [(20 + 6 * k, 24), (40, 44 - 5 * k)]
        maps = [torch.exp(-((x - a) ** 2 + (y - b) ** 2) / 2) * 255 for a, b in spots]
        rows.append({"frame": torch.stack([*maps, torch.zeros(64, 64)]).byte(), "index": k})

    class Data(list):
        name = "spots"

        def __getitem__(self, place):
            return list.__getitem__(self, place[1])

    args = SimpleNamespace(seed=0, batch_size=3, workers=0, on_bad_sample="fail")
    cpu = SimpleNamespace(rank=0, world_size=1, device=torch.device("cpu"))
    follows = evaluate.consistency(args, Spots(), Data(rows), cpu)
    stays = evaluate.consistency(args, Spots(follow=False), Data(rows), cpu)
    # The warp deforms a spot of a few pixels, which moves its centre by less than a pixel.
    assert follows["error"]["mean"] < 0.5 / 64 < 0.03 < follows["error_unmoved"]["mean"]
    assert follows["ratio_to_unmoved"] < 0.25
    assert stays["ratio_to_unmoved"] == pytest.approx(1, abs=1e-3)


def table_of_points(folder, count=9):
    """Images of the demo world with the points of their persons, as a CSV."""
    index = index_folder(folder, count, size=32)
    content = read_index(index)
    names = ["reye", "leye", "cnose", "rwrist"]
    places = [JOINTS_17.index(name) for name in names]
    lines = [",".join(["file", "split", *(f"{n}_{axis}" for n in names for axis in "xy")])]
    for k in range(count):
        points = content["joints"][k, places] * 32
        cells = ["" if np.isnan(v) else f"{v:.2f}" for v in points.ravel()]
        split = "train" if content["train"][k] else "test"
        lines.append(",".join([f"images/{k}.png", split, *cells]))
    (folder / "points.csv").write_text("\n".join(lines) + "\n")
    return folder / "points.csv"


def test_a_table_of_points(tmp_path, monkeypatch, capsys):
    run, table = untrained(tmp_path), table_of_points(tmp_path / "people")
    monkeypatch.chdir(tmp_path)
    shared = ["--checkpoint", str(run), "--workers", "0", "--data", str(table), "--out", "a.json"]
    evaluate_script.main([*shared, "--labels", "[2,4,6]", "--label_draws", "3"])
    report = json.loads((tmp_path / "a.json").read_text())
    assert (report["labelled"], report["held_out"]) == (6, 3)
    points = report["points"]
    assert points["error"] > 0 and points["error_with_bias"] > 0 and points["error_mean_pose"] > 0
    assert list(report["labels"]) == list(report["labels_with_bias"]) == ["2", "4"]  # not all 6
    assert report["labels"]["2"]["count"] == 3
    assert 0 <= report["consistency"]["error"]["mean"] < 1
    assert "over the distance of the true eyes, reye and leye" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        evaluate_script.main([*shared, "--eyes", "[reye,nose]"])
    assert "--eyes: nose is no point of" in capsys.readouterr().err


def test_a_table_of_points_is_read_in_its_boxes(tmp_path):
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, 10:30, 20:60] = 200
    write_image(tmp_path / "a.png", image)
    table = tmp_path / "points.csv"
    head = "file,split,a_x,a_y,b_x,b_y,x_min,y_min,x_max,y_max\n"
    table.write_text(head + "a.png,test,20,10,,5,20,10,60,30\n")
    sample = PointTable(table, "test", 16)[0, 0]
    assert (sample["frame"] == 200).all() and sample["sides"].tolist() == [40, 20]
    assert sample["joints"][0].tolist() == [0, 0] and sample["joints"][1].isnan().all()
    for text, message in {
        head + "a.png,train,x,1,1,1,0,0,1,1\n": "line 2: a_x must be a number, is 'x'",
        "file,a_x,a_y,b_x,b_y\na.png,1,1,1,1\n": "must have a column split",
        "file,split,a_x,a_y\na.png,train,1,1\n": "columns NAME_x and NAME_y of two points",
        head + "a.png,test,1,1,1,1,0,0,1,1\n": "has no row of the split train",
    }.items():
        table.write_text(text)
        with pytest.raises(UserError, match=message):
            PointTable(table, "train", 16)


def gaussians(n=4, k=3, fixed=False):
    rng = np.random.default_rng(3)
    cov = np.tile(np.array([[0.2, 0.05], [0.05, 0.1]], np.float32), (n, k, 1, 1))
    empty = np.zeros(0, np.float32)
    return {
        "predictions_mean": rng.uniform(-1, 1, (n, 2 * k)).astype(np.float32),
        "predictions_cov": empty if fixed else cov,
        "predictions_cov_decomp": empty if fixed else np.linalg.cholesky(cov),
        "vid": np.arange(n),
        "frame": np.arange(n) + 1,
        "bboxes": rng.uniform(0, 9, (n, 4)),
        "gt": rng.normal(size=(n, 14)).astype(np.float32),
    }


@pytest.mark.parametrize("fixed", [False, True])
def test_dumps_are_read_back_and_the_pickle_is_the_originals(tmp_path, fixed):
    dump = gaussians(fixed=fixed)
    assert evaluate.write_dump(tmp_path / "safe", dump, original=False).name == "gaussians.npz"
    arrays = evaluate.read_dump(tmp_path / "safe")
    assert all(np.array_equal(arrays[key], dump[key]) for key in evaluate.DUMP_KEYS)
    path = evaluate.write_dump(tmp_path / "original", dump, original=True)
    with path.open("rb") as file:
        content = pickle.load(file)  # safe: this test wrote it
    assert content["predictions_mean"].dtype == np.float16
    assert content["predictions_cov"] == [] if fixed else content["predictions_cov"].shape[1:] == (
        3, 2, 2)  # fmt: skip
    assert content["gt"].dtype == np.float32 and content["bboxes"].dtype == np.float64
    arrays = evaluate.read_dump(tmp_path / "original")
    np.testing.assert_allclose(arrays["predictions_mean"], dump["predictions_mean"], atol=5e-4)


def test_dumps_that_are_none(tmp_path):
    with pytest.raises(UserError, match=r"holds no gaussians.npz and no gaussians.pkl3"):
        evaluate.read_dump(tmp_path)
    np.savez(tmp_path / "gaussians.npz", vid=np.zeros(2))
    with pytest.raises(UserError, match="lacks predictions_mean"):
        evaluate.read_dump(tmp_path)
    with (tmp_path / "gaussians.pkl3").open("wb") as file:
        pickle.dump(print, file)
    with pytest.raises(UserError, match=r"refused, it asks for builtins.print"):
        evaluate.read_dump(tmp_path)


def test_bbc_pose_in_three_steps(tmp_path, monkeypatch, capsys):
    data = bbc_folder(tmp_path / "bbc")
    run = untrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    shared = ["--checkpoint", str(run), "--data", str(data), "--workers", "0"]
    for stage in ("dump", "regress", "score"):
        evaluate_script.main([*shared, "--stage", stage, "--out", f"{stage}.json"])
    report = json.loads((tmp_path / "score.json").read_text())
    assert report["test"]["frames"] == 2 and report["val"]["frames"] == 15
    assert f"Test {report['test']['accuracy']:.4f}" in capsys.readouterr().out

    dumped = evaluate.read_dump(run / "gaussians/train")
    assert dumped["predictions_mean"].shape == (30, 8) and dumped["gt"].any()
    assert not evaluate.read_dump(run / "gaussians/test")["gt"].any()
    # The same accuracy from the files, by hand.
    x, y = dumped["predictions_mean"].astype(float), dumped["gt"].astype(float)
    mapping = np.linalg.pinv(x, rcond=1e-15) @ y
    test = evaluate.read_dump(run / "gaussians/test")
    predicted = (test["predictions_mean"].astype(float) @ mapping).reshape(-1, 2, 7)
    box = test["bboxes"]
    side = (box[:, 2:] - box[:, :2])[:, :, None]
    points = (predicted * side + side / 2 + box[:, :2, None]).transpose(1, 2, 0)
    written = loadmat(run / "predictions/preds_test.mat")["my_pred"]
    assert written.dtype == np.float64
    np.testing.assert_allclose(written, points, atol=0.05)  # pinv and lstsq have different cut-offs
    truth = np.concatenate([joints_of(16, 1), joints_of(20, 1)], 2)
    near = np.linalg.norm((0.5 * (written - 1) + 1) - (0.5 * (truth - 1) + 1), axis=0) <= 6
    assert report["test"]["accuracy"] == pytest.approx(near.mean())
    assert report["test"]["head"] == pytest.approx(near[0].mean())

    evaluate_script.main([*shared, "--stage", "val_truth", "--predictions", "p", "--out", "x.json"])
    np.testing.assert_array_equal(
        loadmat("p/bbc_val_GT.mat")["my_pred"], bbc_pose.validation_truth(data)
    )
    (run / "predictions/preds_val.mat").rename(run / "predictions/kept.mat")
    savemat(run / "predictions/preds_val.mat", {"my_pred": np.zeros((2, 7, 3))})
    with pytest.raises(SystemExit):
        evaluate_script.main([*shared, "--stage", "score"])
    assert "has 3 frames, the truth 15" in capsys.readouterr().err


def test_a_published_checkpoint_is_scored_on_the_data_of_its_options(tmp_path, monkeypatch, capsys):
    """evaluate.py --checkpoint S/checkpoint_98.ckpt, stage by stage, with opt.yaml beside it."""
    data = bbc_folder(tmp_path / "bbc")
    published.write(tmp_path / "S", narrow(tmp_path), 98)
    monkeypatch.chdir(tmp_path)
    command = ["--checkpoint", "S/checkpoint_98.ckpt", "--workers", "0"]
    opt = tmp_path / "S/opt.yaml"
    stored = opt.read_text()

    def refusal():
        with pytest.raises(SystemExit) as ended:
            evaluate_script.main(command)
        assert ended.value.code == 2
        return capsys.readouterr().err

    assert "--data: needed, since S/checkpoint_98.ckpt and an opt.yaml beside it" in refusal()
    opt.unlink()
    assert "name no data; give the folder of BBC Pose, or an index.p" in refusal()
    named = stored.replace("dataset: ''", "dataset: bbc_pose")
    opt.write_text(named.replace("dataset_path: ''", "dataset_path: /elsewhere"))
    assert "--data: needed, since /elsewhere, the data of S/checkpoint_98" in refusal()
    opt.write_text(named.replace("dataset_path: ''", f"dataset_path: {data}"))
    for stage in ("dump", "regress", "score"):
        evaluate_script.main([*command, "--stage", stage])
    report = json.loads((tmp_path / "S/evaluation.json").read_text())
    assert report["data"] == str(data) and report["test"]["frames"] == 2
    assert {"gaussians", "predictions"} <= {path.name for path in (tmp_path / "S").iterdir()}
    evaluate_script.main([*command, "--stage", "val_truth"])
    kept = json.loads((tmp_path / "S/evaluation.json").read_text())
    assert kept["test"] == report["test"] and kept["val"] == report["val"]


def narrow(folder):
    """The content of a checkpoint of small networks that the published program has, too."""
    run = untrained(folder, "--narrowing", "1", "--ngc", "2", "--use_fg_bg_mask", "false")
    return checkpoints.read(checkpoints.find(run), "landmarks")


def test_every_stage_has_a_progress_bar(tmp_path, monkeypatch):
    run = untrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    bars = []

    def bar(*given, **settings):
        bars.append(tqdm(*given, **settings))
        return bars[-1]

    monkeypatch.setattr(evaluate, "tqdm", bar)
    shared = ["--checkpoint", str(run), "--workers", "0", "--labelled", "12", "--held_out", "6"]
    evaluate_script.main([*shared, "--out", "world.json"])
    data = bbc_folder(tmp_path / "bbc")
    evaluate_script.main([*shared, "--data", str(data), "--out", "bbc.json"])
    assert [bar.total for bar in bars] == [12, 6, 12, 6, 2, 30, 15]
    assert all(bar.disable for bar in bars)  # no terminal


def test_the_pickle_serves_the_regression_too(tmp_path, monkeypatch):
    data = bbc_folder(tmp_path / "bbc")
    run = untrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    shared = ["--checkpoint", str(run), "--data", str(data), "--workers", "0"]
    evaluate_script.main([*shared, "--gaussians_pickle", "--out", "a.json"])
    assert sorted(p.name for p in (run / "gaussians/val").iterdir()) == ["gaussians.pkl3"]
    assert 0 <= json.loads((tmp_path / "a.json").read_text())["val"]["accuracy"] <= 1


def test_the_demo_world_and_an_index(tmp_path, monkeypatch):
    run = untrained(tmp_path)
    index = index_folder(tmp_path / "people", 9, size=32)
    monkeypatch.chdir(tmp_path)
    shared = ["--checkpoint", str(run), "--workers", "0", "--labelled", "12", "--held_out", "6"]
    evaluate_script.main([*shared, "--out", "world.json"])
    world = json.loads((tmp_path / "world.json").read_text())
    assert world["labelled"] == 12 and world["held_out"] == 6
    ratio = world["regression"]["error"] / world["regression"]["error_mean_pose"]
    assert world["regression"]["ratio_to_mean_pose"] == pytest.approx(ratio)
    assert set(world["regression"]["per_joint"]) >= {"cnose", "rwrist"}
    assert 0 <= world["mask"]["iou"]["mean"] <= 1
    background = world["background"]
    assert background["ratio_to_mean_image"] == pytest.approx(
        background["masked_l1"]["mean"] / background["masked_l1_mean_image"]["mean"]
    )
    evaluate_script.main([*shared, "--data", str(index), "--out", "index.json"])
    report = json.loads((tmp_path / "index.json").read_text())
    assert report["labelled"] == 6 and report["held_out"] == 3 and "mask" not in report


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--landmarks", "9"], "was trained with 4 landmarks, not 9"),
        (["--stage", "dump"], "--stage dump: a step of BBC Pose; needs --data"),
        (["--data", "none"], r"none/code/results.mat: no such file"),
        (["--images", "5"], "--images: an option of vunet"),
    ],
)
def test_what_cannot_be_evaluated(tmp_path, monkeypatch, capsys, arguments, message):
    run = untrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        evaluate_script.main(["--checkpoint", str(run), *arguments])
    assert ended.value.code == 2 and message in capsys.readouterr().err
