"""evaluate.py for landmarks: errors of joints regressed from them.

The data are BBC Pose, an index.p, a table of points or the demo world. In the demo world, masks and
backgrounds are compared with the ground truth too.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from nets import metrics
from nets.contracts import Batch, Dataset
from nets.data.clips import bbc_pose
from nets.data.clips.augment import Warps
from nets.data.io.files import read_arrays, whole_file
from nets.data.io.pickles import read_pickle
from nets.errors import UserError
from nets.landmarks import LandmarkModel, regression
from nets.landmarks.data import Every
from nets.landmarks.warm_start import load_network
from nets.layers import signed
from nets.published import TRAINED
from nets.run import options
from nets.run.images import to_uint8
from nets.run.loader import in_order
from nets.run.options import PositiveInt, add_flag
from nets.run.precision import Precision
from nets.run.ranks import Ranks

SAFE, ORIGINAL = "gaussians.npz", "gaussians.pkl3"
LABELLED, HELD_OUT = 500, 1000  # frames at most, where the options say nothing
DUMP_KEYS = ("predictions_mean", "vid", "frame", "bboxes", "gt")


class Dump(TypedDict):
    """Landmarks of N frames of BBC Pose, as they are written to a file."""

    predictions_mean: np.ndarray  # (N, 2K) float32 in [-1, 1): x of all landmarks, then y
    predictions_cov: np.ndarray  # (N, K, 2, 2) float32; (0,) if the covariance is fixed
    predictions_cov_decomp: np.ndarray  # their lower Cholesky factors, of the same shape
    vid: np.ndarray  # (N,) int, video
    frame: np.ndarray  # (N,) int, frame in the video
    bboxes: np.ndarray  # (N, 4) float64: x_min, y_min, x_max, y_max, pixels
    gt: np.ndarray  # (N, 14) float32, joints from -0.5 to 0.5 over the box: x of all, then y


def write_dump(folder: Path, dump: Dump, original: bool) -> Path:
    """Write the landmarks of one partition to a folder; returns the file.

    original  false: gaussians.npz. True: gaussians.pkl3 as the published program writes it, with
              means and covariances in float16, and an empty list for fixed covariances
    """
    if not original:
        path = folder / SAFE
        with whole_file(path) as file:
            np.savez(file, **dump)
        return path
    path = folder / ORIGINAL
    content = {
        **dump,
        "predictions_mean": _half(dump["predictions_mean"]),
        "predictions_cov": _half(dump["predictions_cov"]),
        "predictions_cov_decomp": _half(dump["predictions_cov_decomp"]),
    }
    with whole_file(path) as file:
        pickle.dump(content, file, protocol=3)
    return path


def _half(values: np.ndarray) -> np.ndarray | list[float]:
    """The values in float16; an empty list for none."""
    return values.astype(np.float16) if values.size else []


def read_dump(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of DUMP_KEYS in the newest file that `write_dump` wrote to a folder.

    Code in a pickle is refused. Raises UserError if there is no file, or it is damaged.
    """
    matches = [folder / name for name in (SAFE, ORIGINAL) if (folder / name).is_file()]
    if not matches:
        raise UserError(f"{folder}: holds no {SAFE} and no {ORIGINAL}; --stage dump writes one")
    path = max(matches, key=lambda file: file.stat().st_mtime_ns)
    try:
        content = read_arrays(path) if path.suffix == ".npz" else read_pickle(path)
        lacking = [key for key in DUMP_KEYS if not isinstance(content, dict) or key not in content]
        if lacking:
            raise UserError(f"{path}: lacks {', '.join(lacking)}")
        result = {key: np.asarray(content[key]) for key in DUMP_KEYS}
    except (ValueError, OSError, EOFError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read ({error})") from error
    if len({len(values) for values in result.values()}) != 1:
        counts = ", ".join(f"{len(values)} {key}" for key, values in result.items())
        raise UserError(f"{path}: must hold the same number of each, got {counts}")
    return result


PARTITIONS = ("test", "train", "val")
STAGES = ("all", "dump", "regress", "score", "val_truth")


# fmt: off
def add_options(p: options.ArgumentParser) -> None:
    """Add the options of this module."""
    g = p.add_argument_group("landmarks: three steps on BBC Pose (--data FOLDER, or the run's); "
                             "one step on an index (--data index.p), a table of points (--data "
                             "points.csv) or the demo world")
    add = g.add_argument
    add("--stage", type=Literal[STAGES], default="all",
        help="BBC Pose: dump writes the landmarks of all frames, regress the joints predicted "
        "from them, score compares these with the ground truth; all: the three; val_truth: only "
        "write the ground truth of the validation frames, bbc_val_GT.mat, to --predictions")
    add("--gaussians", type=str | None, default=None,
        help="folder of the dumped landmarks; default: gaussians/ in the run folder")
    add_flag(g, "--gaussians_pickle", False,
             "dump gaussians.pkl3 as published, in half precision, instead of gaussians.npz")
    add("--predictions", type=str | None, default=None,
        help="folder of preds_test.mat and preds_val.mat; default: predictions/ in the run folder")
    add("--test_anno_path", type=str | None, default=None,
        help="ground truth of the test frames; default: code/results.mat of the data")
    add("--val_anno_path", type=str | None, default=None,
        help="ground truth of the validation frames (variable my_pred or results); default: from "
        "code/bbcpose.mat of the data")
    add("--labelled", type=PositiveInt | None, default=None,
        help="training frames with joints for the regression, at most; default: 500, of a table "
        "of points all")
    add("--held_out", type=PositiveInt | None, default=None,
        help="test frames, at most; default: 1000, of a table of points all")
    add("--eyes", type=list[str] | None, default=None,
        help="table of points: names of both eyes, e.g. [p37,p46]; default: the first two points")
    add("--labels", type=list[PositiveInt], default=[1, 5, 10, 20, 100, 500, 1000, 5000],
        help="table of points: numbers of labelled images of the curve")
    add("--label_draws", type=PositiveInt, default=10,
        help="table of points: random draws of the labelled images for each number")
    add("--landmarks", type=PositiveInt | None, default=None,
        help="required number of landmarks of the checkpoint; default: any")
# fmt: on


def evaluate(
    args: options.Namespace, content: dict[str, Any], path: Path, ranks: Ranks
) -> dict[str, Any]:
    """The report of a checkpoint on BBC Pose, an index.p or the demo world.

    Raises UserError if the data has no joints, or an option does not fit the data.
    """
    precision = Precision(args.precision, ranks.device, args.channels_last)
    net, trained = load_network(content, path, precision, args.landmarks)
    kind = trained.get("dataset")
    index = args.data if args.data and Path(args.data).suffix else None
    root = (args.data if not index else None) or (trained["data"] if kind == "bbc_pose" else None)
    if "dataset" not in trained and not args.data:
        raise UserError(
            f"--data: needed, since {path} and an opt.yaml beside it name no data; give the folder "
            "of BBC Pose, or an index.p"
        )
    if root and not args.data and not Path(root).is_dir():
        raise UserError(f"--data: needed, since {root}, the data of {path}, is missing")
    if args.stage != "all" and not root:
        raise UserError(f"--stage {args.stage}: a step of BBC Pose; needs --data, its folder")
    with torch.no_grad(), precision.autocast():
        if index and Path(index).suffix == ".csv":
            return of_points(args, index, net, trained, ranks)
        if index:
            return of_index(args, index, net, trained, ranks)
        if root:
            return of_bbc(args, net, trained, ranks, Path(root), run_folder(path))
        if kind:
            raise UserError(
                f"--data: {trained['data']}, the data of the run, has no joints; give an index.p "
                "or the folder of BBC Pose"
            )
        return of_world(args, net, trained, ranks)


def run_folder(path: Path) -> Path:
    """The folder of a checkpoint's run or published file; for weights inside guise, the current."""
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    return Path() if folder == TRAINED else folder


def of_bbc(
    args: options.Namespace,
    net: LandmarkModel,
    trained: dict[str, Any],
    ranks: Ranks,
    root: Path,
    run: Path,
) -> dict[str, Any]:
    """The report on BBC Pose, after the steps of --stage.

    run  the run folder, for the files of the steps
    """
    gaussians = Path(args.gaussians or run / "gaussians")
    predictions = Path(args.predictions or run / "predictions")
    report: dict[str, Any] = {"data": str(root), "protocol": regression.PROTOCOL}
    if args.stage == "val_truth":
        file = predictions / "bbc_val_GT.mat"
        bbc_pose.write_points(file, bbc_pose.validation_truth(root))
        print(f"written: {file}")
    if args.stage in ("all", "dump"):
        for partition in PARTITIONS:
            data = bbc_pose.BBCEvaluation(root, partition, trained["image_size"])
            dumped = dump(args, net, data, ranks, with_truth=partition == "train")
            file = write_dump(gaussians / partition, dumped, args.gaussians_pickle)
            print(f"written: {file} ({len(data)} frames)")
    if args.stage in ("all", "regress"):
        dumps = {partition: read_dump(gaussians / partition) for partition in PARTITIONS}
        for name, arrays in dumps.items():
            coordinates = arrays["predictions_mean"].shape[1]
            if coordinates != 2 * trained["n_landmarks"]:
                raise UserError(
                    f"{gaussians / name}: holds {coordinates // 2} landmarks, the checkpoint has "
                    f"{trained['n_landmarks']}"
                )
        mapping = regression.fit(dumps["train"]["predictions_mean"], dumps["train"]["gt"])
        for name in ("test", "val"):
            predicted = dumps[name]["predictions_mean"].astype(np.float64) @ mapping
            points = regression.to_pixels(predicted, dumps[name]["bboxes"])
            file = predictions / f"preds_{name}.mat"
            bbc_pose.write_points(file, points)
            print(f"written: {file}")
    if args.stage in ("all", "score"):
        truths = {
            "test": lambda: bbc_pose.read_points(
                Path(args.test_anno_path or root / "code/results.mat")
            ),
            "val": lambda: (
                bbc_pose.read_points(Path(args.val_anno_path))
                if args.val_anno_path
                else bbc_pose.validation_truth(root)
            ),
        }
        for name, truth in truths.items():
            report[name] = score(predictions / f"preds_{name}.mat", truth())
            print(f"{name.capitalize()} {report[name]['accuracy']:.4f}")
    return report


def score(file: Path, truth: np.ndarray) -> dict[str, Any]:
    """Accuracies of a file of predictions, by name, for the report.

    truth  (2, 7, N), pixels
    Raises UserError if the file has another number of frames.
    """
    predicted = bbc_pose.read_points(file)
    if predicted.shape != truth.shape:
        raise UserError(
            f"{file}: has {predicted.shape[2]} frames, the truth {truth.shape[2]}; both must be of "
            "the same data"
        )
    result = regression.accuracy(predicted, truth, bbc_pose.JOINTS_7)
    per_joint, groups = result.pop("per_joint"), result.pop("groups")
    return (
        result
        | {f"{name} (both)" if name != "head" else name: v for name, v in groups.items()}
        | per_joint
    )


def dump(
    args: options.Namespace,
    net: LandmarkModel,
    data: bbc_pose.BBCEvaluation,
    ranks: Ranks,
    with_truth: bool,
) -> Dump:
    """Landmarks of all frames of a partition.

    with_truth  false: all joints are 0
    """
    names = ("mean", "cov", "vid", "frame", "bbox", "gt")
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    for batch in frames(args, data, ranks, on_bad_sample="fail"):
        result = net.landmarks(signed(batch["frame"]))
        rows["mean"].append(result.means.float().transpose(1, 2).flatten(1).cpu())
        if net.fixed_covariance is None:
            rows["cov"].append(result.covariances.float().cpu())
        for name, key in (("vid", "vid"), ("frame", "img"), ("bbox", "bbox"), ("gt", "gt")):
            rows[name].append(batch[key].cpu())
    whole = {name: torch.cat(parts) if parts else torch.zeros(0) for name, parts in rows.items()}
    cov = whole["cov"]
    factors = torch.linalg.cholesky_ex(cov)[0] if len(cov) else cov
    return {
        "predictions_mean": whole["mean"].numpy(),
        "predictions_cov": cov.numpy(),
        "predictions_cov_decomp": factors.numpy(),
        "vid": whole["vid"].numpy(),
        "frame": whole["frame"].numpy(),
        "bboxes": whole["bbox"].numpy(),
        "gt": whole["gt"].float().numpy() * (1 if with_truth else 0),
    }


def gather(
    args: options.Namespace, net: LandmarkModel, data: Dataset, ranks: Ranks
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Landmarks (N, K, 2), joints (N, J, 2) and sides (N, 2) of a dataset.

    Joints are from -0.5 to 0.5 of the image. Sides are the dataset's "sides", width and height of
    what the image shows in pixels of its file, else 1.

    data  its samples have the joints, and an image "frame" or "target"
    Raises UserError if no frame can be read.
    """
    means, joints, sides = [], [], []
    for batch in frames(args, data, ranks):
        frame = batch["frame"] if "frame" in batch else batch["target"]
        means.append(net.landmarks(signed(frame)).means.float().cpu())
        joints.append(batch["joints"].cpu().double() / frame.shape[-1] - 0.5)
        sides.append(batch.get("sides", torch.ones(len(frame), 2)).cpu().double())
    if not means:
        raise UserError(f"{data.name}: no frame can be read")
    return torch.cat(means).numpy(), torch.cat(joints).numpy(), torch.cat(sides).numpy()


def of_index(
    args: options.Namespace, index: str, net: LandmarkModel, trained: dict[str, Any], ranks: Ranks
) -> dict[str, Any]:
    """The report on an index.p: regression from its training images to its test images."""
    from nets.data.people.index import IndexDataset

    size = trained["image_size"]
    labelled = Every(IndexDataset(index, "train", size), args.labelled or LABELLED)
    held_out = Every(IndexDataset(index, "test", size), args.held_out or HELD_OUT)
    return regressed(args, net, labelled, held_out, ranks)


def of_points(
    args: options.Namespace, table: str, net: LandmarkModel, trained: dict[str, Any], ranks: Ranks
) -> dict[str, Any]:
    """The report on a table of points: errors over the distance of the eyes, and consistency."""
    from nets.data.clips.points import PointTable

    size = trained["image_size"]
    labelled, held_out = (
        Every(PointTable(table, split, size), limit or sys.maxsize)
        for split, limit in (("train", args.labelled), ("test", args.held_out))
    )
    names = labelled.joint_order
    eyes = args.eyes or list(names[:2])
    for name in eyes:
        if name not in names:
            raise UserError(f"--eyes: {name} is no point of {table}, which has {', '.join(names)}")
    if len(eyes) != 2:
        raise UserError(f"--eyes: must name two points, got {len(eyes)}")
    places = names.index(eyes[0]), names.index(eyes[1])
    x, y, _ = gather(args, net, labelled, ranks)
    test_x, test_y, sides = gather(args, net, held_out, ranks)
    print(f"{len(x)} labelled images, {len(test_x)} test images of {table}")

    def error(chosen: np.ndarray, bias: bool) -> float:
        predicted = regression.predicted_points(x[chosen], y[chosen], test_x, bias)
        return regression.interocular_error(predicted, test_y, sides, places)

    whole = np.arange(len(x))
    mean_pose = np.broadcast_to(np.nanmean(y, 0), test_y.shape)
    with_eyes = np.isfinite(test_y[:, places]).all((1, 2))
    if not with_eyes.any():
        raise UserError(f"{table}: no test image has both eyes, {eyes[0]} and {eyes[1]}")
    report: dict[str, Any] = {
        "data": table,
        "labelled": len(x),
        "held_out": len(test_x),
        "points": {
            "error": error(whole, False),
            "error_with_bias": error(whole, True),
            "error_mean_pose": regression.interocular_error(mean_pose, test_y, sides, places),
            "images_without_eyes": int((~with_eyes).sum()),
        },
    }
    for part, bias in (("labels", False), ("labels_with_bias", True)):
        report[part] = {}
        for count in sorted(n for n in args.labels if n < len(x)):
            random = np.random.default_rng([args.seed, count])
            draws = [random.choice(len(x), count, replace=False) for _ in range(args.label_draws)]
            errors = torch.tensor([error(draw, bias) for draw in draws])
            report[part][str(count)] = metrics.summary(errors)
    report["consistency"] = consistency(args, net, held_out, ranks)
    protocol = dict(regression.PROTOCOL)
    protocol["interocular"] = protocol["interocular"].format(first=eyes[0], second=eyes[1])
    protocol["labels"] = protocol["labels"].format(draws=args.label_draws)
    kept = ("regression", "points", "mean_pose", "interocular", "labels", "consistency")
    return report | {"protocol": {name: protocol[name] for name in kept}}


def consistency(
    args: options.Namespace, net: LandmarkModel, data: Dataset, ranks: Ranks
) -> dict[str, Any]:
    """How well landmarks follow a known warp of a frame: `regression.PROTOCOL["consistency"]`."""
    distances: list[Tensor] = []
    unmoved: list[Tensor] = []
    for batch in frames(args, data, ranks):
        frame = signed(batch["frame"])
        side = frame.shape[-1]
        warps = Warps(side, trans=(-0.05 * side, 0.05 * side), mode="clean")
        draw = batch["index"]
        line = torch.arange(side, dtype=torch.float32, device=frame.device)
        y, x = torch.meshgrid(line, line, indexing="ij")
        places = torch.stack([x, y]).expand(len(frame), -1, -1, -1)  # of each pixel, itself
        origins = warps(places, args.seed, draw)  # place in the frame that a pixel reads from
        first, second = (
            (net.landmarks(image).means.float() + 1) * side / 2
            for image in (frame, warps(frame, args.seed, draw))
        )
        back = _at(origins, second)
        usable = ((back > 0) & (back < side - 1)).all(-1)
        usable &= ((second >= 0) & (second <= side - 1)).all(-1)
        distances.append(((back - first).norm(dim=-1) / side)[usable].cpu())
        unmoved.append(((_at(origins, first) - first).norm(dim=-1) / side)[usable].cpu())
    if not sum(map(len, distances)):
        raise UserError("consistency: no landmark stays inside the frames when they are warped")
    result: dict[str, Any] = {
        "error": metrics.summary(torch.cat(distances)),
        "error_unmoved": metrics.summary(torch.cat(unmoved)),
    }
    ratio = result["error"]["mean"] / result["error_unmoved"]["mean"]
    return result | {"ratio_to_unmoved": ratio}


def _at(maps: Tensor, points: Tensor) -> Tensor:
    """Values (N, K, C) of maps (N, C, S, S) at points (N, K, 2) in pixels, bilinear."""
    grid = 2 * points / (maps.shape[-1] - 1) - 1
    values = F.grid_sample(maps, grid[:, :, None], padding_mode="border", align_corners=True)
    return values[..., 0].transpose(1, 2)


def regressed(
    args: options.Namespace, net: LandmarkModel, labelled: Every, held_out: Every, ranks: Ranks
) -> dict[str, Any]:
    """The report of a regression that is fitted on labelled frames and tested on held-out ones."""
    x, y, _ = gather(args, net, labelled, ranks)
    test_x, test_y, _ = gather(args, net, held_out, ranks)
    print(f"{len(x)} labelled frames, {len(test_x)} held-out frames of {labelled.name}")
    if len(x) < 2 * x.shape[1]:
        print(f"note: {len(x)} labelled frames are fewer than the {2 * x.shape[1]} coordinates")
    result = regression.distances(x, y, test_x, test_y)
    names = labelled.joint_order
    for key in ("per_joint", "per_joint_mean_pose"):
        result[key] = dict(zip(names, result[key], strict=True))
    protocol = {key: regression.PROTOCOL[key] for key in ("regression", "mean_pose")}
    protocol["error"] = "error: mean distance of a joint, as a share of the image's side"
    return {
        "data": labelled.name,
        "labelled": len(x),
        "held_out": len(test_x),
        "regression": result,
        "protocol": protocol,
    }


def of_world(
    args: options.Namespace, net: LandmarkModel, trained: dict[str, Any], ranks: Ranks
) -> dict[str, Any]:
    """The report on the demo world: regressed joints, reconstructions, masks and backgrounds."""
    from nets.worlds.clips import ClipsWorld

    size = trained["image_size"]
    labelled = Every(ClipsWorld("train", size), args.labelled or LABELLED)
    truth = ClipsWorld("test", size, pairs=True, truth=True)
    held_out = Every(truth, args.held_out or HELD_OUT)
    report = regressed(args, net, labelled, held_out, ranks)
    mean = sum(batch["frame"].double().sum(0) for batch in frames(args, labelled, ranks))
    mean = (mean / len(labelled)).round().to(torch.uint8)
    scores = images(args, net, held_out, ranks, mean)
    report |= {part: values for part, values in scores.items() if values}
    report["protocol"] |= {
        name: metrics.PROTOCOL[name] for name in ("ssim", "masked_l1", "summary")
    }
    report["protocol"] |= {
        "mask": "mask IoU: mask above 0.5 against the person's pixels, mean over frames",
        "background": (
            "background: masked L1 over the person's pixels, between the background from a frame "
            "and the true one; baselines: the mean of the labelled training frames; the "
            "mean of the clip's 40 frames, which uses the whole clip and is no fair competitor"
        ),
    }
    return report


def images(
    args: options.Namespace, net: LandmarkModel, data: Every, ranks: Ranks, mean: Tensor
) -> dict[str, dict[str, Any]]:
    """Scores of reconstructed frames; with masks also of the frames' own masks and backgrounds.

    data  frames of the demo world, with partners, masks and backgrounds; each frame is
          reconstructed with the appearance of its partner
    mean  (3, S, S) uint8, the mean of the training frames, a baseline for the background
    """
    rows: dict[str, list[Tensor]] = {}
    clips: dict[int, Tensor] = {}

    def add(name: str, values: Tensor) -> None:
        rows.setdefault(name, []).append(values.double().cpu())

    for batch in frames(args, data, ranks):
        frame, person = batch["frame"], batch["mask"]
        out = net(signed(frame), signed(batch["partner"]))
        generated = to_uint8(out.reconstruction)
        everywhere = torch.ones_like(person)
        add("l1", metrics.masked_l1(generated, frame, everywhere))
        add("l1_person", metrics.masked_l1(generated, frame, person))
        add("ssim", metrics.ssim(generated, frame))
        if out.mask is None:
            continue
        mask = out.mask[:, 0] > 0.5
        both, either = (mask & person).sum((1, 2)), (mask | person).sum((1, 2))
        add("iou", both / either)
        background = net.appearance(signed(frame)).background
        assert background is not None  # a network with masks gives one
        own = to_uint8(background)
        add("error", metrics.masked_l1(own, batch["background"], person))
        add("mean_image", metrics.masked_l1(mean.expand_as(frame), batch["background"], person))
        of_clip = torch.stack([clip_mean(data, int(i), clips) for i in batch["index"]])
        add("clip_mean", metrics.masked_l1(of_clip.to(frame.device), batch["background"], person))
    summary = {name: metrics.summary(torch.cat(values)) for name, values in rows.items()}
    result: dict[str, dict[str, Any]] = {
        "reconstruction": {name: summary[name] for name in ("l1", "l1_person", "ssim")}
    }
    if "iou" in summary:
        ratio = summary["error"]["mean"] / summary["mean_image"]["mean"]
        result["mask"] = {"iou": summary["iou"]}
        result["background"] = {
            "masked_l1": summary["error"],
            "masked_l1_mean_image": summary["mean_image"],
            "ratio_to_mean_image": ratio,
            "masked_l1_clip_mean": summary["clip_mean"],
        }
    return result


def frames(
    args: options.Namespace, data: Dataset, ranks: Ranks, on_bad_sample: str | None = None
) -> Iterator[Batch]:
    """Batches of a dataset in order, each sample once, with a progress bar on a terminal.

    on_bad_sample  None: that of the options
    """
    batches = in_order(
        data, args.batch_size, ranks, args.workers, on_bad_sample or args.on_bad_sample
    )
    with tqdm(total=len(data), desc=data.name, unit="frame", leave=False, disable=None) as bar:
        for batch in batches:
            yield batch
            bar.update(len(next(iter(batch.values()))))


def clip_mean(data: Every, index: int, known: dict[int, Tensor]) -> Tensor:
    """The mean of all frames of a frame's clip, (3, S, S) uint8.

    index  of the frame
    known  means by clip; the function adds new ones
    """
    from nets.worlds.clips import FRAMES, ClipsWorld

    clip = index // FRAMES
    if clip not in known:
        world = ClipsWorld(data.split, data.size)
        whole = world.__getitems__([(0, clip * FRAMES + i) for i in range(FRAMES)])
        pixels = torch.stack([sample["frame"] for sample in whole]).double().mean(0)
        known[clip] = pixels.round().to(torch.uint8)
    return known[clip]
