"""Scores of landmarks: joints regressed from them, on BBC Pose, an index.p or the demo world, where
masks and backgrounds are known too.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nets import metrics
from nets.data.clips import bbc_pose
from nets.data.io.files import read_arrays, whole_file
from nets.data.io.pickles import read_pickle
from nets.errors import UserError
from nets.landmarks import LandmarkModel, regression
from nets.landmarks.data import Every
from nets.landmarks.warm_start import load_network
from nets.layers import signed
from nets.run import options
from nets.run.images import to_uint8
from nets.run.loader import in_order
from nets.run.options import PositiveInt, add_flag
from nets.run.precision import Precision
from nets.run.ranks import Ranks

SAFE, ORIGINAL = "gaussians.npz", "gaussians.pkl3"
DUMP_KEYS = ("predictions_mean", "vid", "frame", "bboxes", "gt")


def write_dump(folder: Path, gaussians: dict[str, np.ndarray], original: bool) -> Path:
    """Write one partition's landmarks: gaussians.npz in float32, or the original's pickle, in which
    means and covariances are float16 and fixed covariances are empty lists.

    predictions_mean        (N, 2K): mu_x of all landmarks, then mu_y, in [-1, 1)
    predictions_cov         (N, K, 2, 2), predictions_cov_decomp their lower Cholesky factors; both
                            (0,) where the covariance is fixed
    vid, frame              (N,) int; bboxes (N, 4) float64; gt (N, 14) float32
    """
    if not original:
        path = folder / SAFE
        with whole_file(path) as file:
            np.savez(file, **gaussians)
        return path
    path, content = folder / ORIGINAL, dict(gaussians)
    for key in ("predictions_mean", "predictions_cov", "predictions_cov_decomp"):
        content[key] = content[key].astype(np.float16) if content[key].size else []
    with whole_file(path) as file:
        pickle.dump(content, file, protocol=3)
    return path


def read_dump(folder: Path) -> dict[str, np.ndarray]:
    """The landmarks that were written to a folder, of either kind; the pickle without running any
    code that it might hold. Raises UserError.
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
        raise UserError(f"{path}: must have as many of each, has {counts}")
    return result


PARTITIONS = ("test", "train", "val")
STAGES = ("all", "dump", "regress", "score", "val_truth")


# fmt: off
def add_options(p: options.ArgumentParser) -> None:
    g = p.add_argument_group("landmarks: on BBC Pose (--data FOLDER, or the run's) in three steps; "
                             "on an index (--data index.p) or the demo world in one")
    add = g.add_argument
    add("--stage", type=Literal[STAGES], default="all",
        help="BBC Pose: dump the landmarks of all frames, regress joints from them, score those; "
        "val_truth: only write the validation frames' truth, bbc_val_GT.mat, to the predictions")
    add("--gaussians", type=str | None, default=None,
        help="folder of the dumped landmarks; default: gaussians/ in the run folder")
    add_flag(g, "--gaussians_pickle", False,
             "dump the original's gaussians.pkl3, in half precision, instead of gaussians.npz")
    add("--predictions", type=str | None, default=None,
        help="folder of preds_test.mat and preds_val.mat; default: predictions/ in the run folder")
    add("--test_anno_path", type=str | None, default=None,
        help="truth of the test frames; default: code/results.mat of the data")
    add("--val_anno_path", type=str | None, default=None,
        help="truth of the validation frames (variable my_pred or results); default: from "
        "code/bbcpose.mat of the data")
    add("--labelled", type=PositiveInt, default=500,
        help="index.p and demo world: training frames whose joints the regression sees")
    add("--held_out", type=PositiveInt, default=1000, help="frames that it is tested on, at most")
    add("--landmarks", type=PositiveInt | None, default=None,
        help="refuse a checkpoint that has another number of them")
# fmt: on


def evaluate(args: options.Namespace, content: dict[str, Any], path: Path, ranks: Ranks) -> dict:
    """The BBC protocol, or the regression protocol with what else is known of the data."""
    precision = Precision(args.precision, ranks.device, args.channels_last)
    net, trained = load_network(content, path, precision, args.landmarks)
    kind = trained.get("dataset")
    index = args.data if args.data and Path(args.data).suffix else None
    root = (args.data if not index else None) or (trained["data"] if kind == "bbc_pose" else None)
    if args.stage != "all" and not root:
        raise UserError(f"--stage {args.stage}: a step of BBC Pose; needs --data, its folder")
    with torch.no_grad(), precision.autocast():
        if index:
            return of_index(args, index, net, trained, ranks)
        if root:
            return of_bbc(args, net, trained, ranks, Path(root), path.parent.parent)
        if kind:
            raise UserError(
                f"--data: the run learnt from {trained['data']}, which "
                "has no joints; give an index.p or BBC Pose's folder"
            )
        return of_world(args, net, trained, ranks)


def of_bbc(
    args: options.Namespace,
    net: LandmarkModel,
    trained: dict[str, Any],
    ranks: Ranks,
    root: Path,
    run: Path,
) -> dict[str, Any]:
    """The three steps, or one of them."""
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
        result = {partition: read_dump(gaussians / partition) for partition in PARTITIONS}
        for name, dumped in result.items():
            if dumped["predictions_mean"].shape[1] != 2 * trained["n_landmarks"]:
                raise UserError(
                    f"{gaussians / name}: holds {dumped['predictions_mean'].shape[1] // 2} "
                    f"landmarks, the checkpoint has {trained['n_landmarks']}"
                )
        mapping = regression.fit(result["train"]["predictions_mean"], result["train"]["gt"])
        for name in ("test", "val"):
            predicted = result[name]["predictions_mean"].astype(np.float64) @ mapping
            points = regression.to_pixels(predicted, result[name]["bboxes"])
            bbc_pose.write_points(predictions / f"preds_{name}.mat", points)
            print(f"written: {predictions / f'preds_{name}.mat'}")
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
    """Accuracy of a file of predictions, flat for the printed report."""
    predicted = bbc_pose.read_points(file)
    if predicted.shape != truth.shape:
        raise UserError(
            f"{file}: has {predicted.shape[2]} frames, the truth {truth.shape[2]}; both must be "
            "of the same data"
        )
    result = regression.accuracy(predicted, truth, bbc_pose.JOINTS_7)
    per_joint, groups = result.pop("per_joint"), result.pop("groups")
    return (
        result
        | {f"{name} (both)" if name != "head" else name: v for name, v in groups.items()}
        | per_joint
    )


def dump(
    args: options.Namespace, net: LandmarkModel, data: Any, ranks: Ranks, with_truth: bool
) -> dict[str, np.ndarray]:
    """Landmarks of all frames of a partition, see `write_dump`."""
    rows: dict[str, list[Tensor]] = {
        "mean": [],
        "cov": [],
        "vid": [],
        "frame": [],
        "bbox": [],
        "gt": [],
    }
    for batch in in_order(data, args.batch_size, ranks, args.workers, "fail"):
        result = net.landmarks(signed(batch["frame"]))
        rows["mean"].append(result.means.float().transpose(1, 2).flatten(1).cpu())
        if net.fixed_covariance is None:
            rows["cov"].append(result.covariances.float().cpu())
        for name, key in (("vid", "vid"), ("frame", "img"), ("bbox", "bbox"), ("gt", "gt")):
            rows[name].append(batch[key].cpu())
    whole = {name: torch.cat(parts) if parts else torch.zeros(0) for name, parts in rows.items()}
    cov = whole["cov"]
    return {
        "predictions_mean": whole["mean"].numpy(),
        "predictions_cov": cov.numpy(),
        "predictions_cov_decomp": torch.linalg.cholesky_ex(cov)[0].numpy()
        if len(cov)
        else cov.numpy(),
        "vid": whole["vid"].numpy(),
        "frame": whole["frame"].numpy(),
        "bboxes": whole["bbox"].numpy(),
        "gt": whole["gt"].float().numpy() * (1 if with_truth else 0),
    }


def gather(
    args: options.Namespace, net: LandmarkModel, data: Any, ranks: Ranks
) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks (N, K, 2), and joints (N, J, 2) from -0.5 to 0.5 of the image, of a dataset whose
    images are called "frame" or "target".
    """
    means, joints = [], []
    for batch in in_order(data, args.batch_size, ranks, args.workers, args.on_bad_sample):
        frame = batch.get("frame", batch.get("target"))
        means.append(net.landmarks(signed(frame)).means.float().cpu())
        joints.append(batch["joints"].cpu().double() / frame.shape[-1] - 0.5)
    if not means:
        raise UserError(f"{data.name}: no frame can be read")
    return torch.cat(means).numpy(), torch.cat(joints).numpy()


def of_index(
    args: options.Namespace, index: str, net: LandmarkModel, trained: dict[str, Any], ranks: Ranks
) -> dict[str, Any]:
    """Regression from the index's training images to its test images."""
    from nets.data.people.index import IndexDataset

    size = trained["image_size"]
    data = [IndexDataset(index, split, size) for split in ("train", "test")]
    some = [Every(d, n) for d, n in zip(data, (args.labelled, args.held_out), strict=True)]
    return regressed(args, net, some, ranks)


def regressed(
    args: options.Namespace, net: LandmarkModel, data: list[Any], ranks: Ranks
) -> dict[str, Any]:
    """The regression's report, from labelled frames to held-out ones."""
    (x, y), (test_x, test_y) = (gather(args, net, some, ranks) for some in data)
    print(f"{len(x)} labelled frames, {len(test_x)} held-out frames of {data[0].name}")
    if len(x) < 2 * x.shape[1]:
        print(f"note: {len(x)} labelled frames are fewer than the {2 * x.shape[1]} coordinates")
    result = regression.distances(x, y, test_x, test_y)
    names = data[0].joint_order
    for key in ("per_joint", "per_joint_mean_pose"):
        result[key] = dict(zip(names, result[key], strict=True))
    protocol = {key: regression.PROTOCOL[key] for key in ("regression", "mean_pose")}
    protocol["error"] = "error: mean distance of a joint, as a share of the image's side"
    return {
        "data": data[0].name,
        "labelled": len(x),
        "held_out": len(test_x),
        "regression": result,
        "protocol": protocol,
    }


def of_world(
    args: options.Namespace, net: LandmarkModel, trained: dict[str, Any], ranks: Ranks
) -> dict[str, Any]:
    """Regression to held-out clips of the demo world; masks and backgrounds against the truth."""
    from nets.worlds.clips import ClipsWorld

    size = trained["image_size"]
    known, held = ClipsWorld("train", size), ClipsWorld("test", size, pairs=True, truth=True)
    some = [Every(known, args.labelled), Every(held, args.held_out)]
    report = regressed(args, net, some, ranks)
    mean = sum(
        batch["frame"].double().sum(0) for batch in in_order(some[0], args.batch_size, ranks)
    )
    mean = (mean / len(some[0])).round().to(torch.uint8)
    scores = images(args, net, some[1], ranks, mean)
    report |= {part: values for part, values in scores.items() if values}
    report["protocol"] |= {
        name: metrics.PROTOCOL[name] for name in ("ssim", "masked_l1", "summary")
    }
    report["protocol"] |= {
        "mask": "mask IoU: of the mask above one half with the person's pixels, mean over frames",
        "background": (
            "background: masked L1 under the person between the reconstructed background of a "
            "frame and the true one; baselines: the mean of the labelled training frames; and the "
            "mean of the clip's own 40 frames, which is no competitor, since it sees the clip"
        ),
    }
    return report


def images(
    args: options.Namespace, net: LandmarkModel, data: Any, ranks: Ranks, mean: Tensor
) -> dict[str, dict[str, Any]]:
    """What is drawn of each frame with the appearance of its partner; with masks also how the mask
    and the background of the frame itself agree with the truth.
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
        own = to_uint8(net.appearance(signed(frame)).background)
        add("error", metrics.masked_l1(own, batch["background"], person))
        add("mean_image", metrics.masked_l1(mean.expand_as(frame), batch["background"], person))
        of_clip = torch.stack([clip_mean(data, int(i), clips) for i in batch["index"]])
        add("clip_mean", metrics.masked_l1(of_clip.to(frame.device), batch["background"], person))
    summary = {name: metrics.summary(torch.cat(values)) for name, values in rows.items()}
    result = {"reconstruction": {name: summary[name] for name in ("l1", "l1_person", "ssim")}}
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


def frames(args: options.Namespace, data: Any, ranks: Ranks) -> Iterator[dict[str, Any]]:
    return in_order(data, args.batch_size, ranks, args.workers, args.on_bad_sample)


def clip_mean(data: Any, index: int, known: dict[int, Tensor]) -> Tensor:
    """The mean of all frames of the clip that a frame is of, uint8 (3, S, S)."""
    from nets.worlds.clips import FRAMES, ClipsWorld

    clip = index // FRAMES
    if clip not in known:
        world = ClipsWorld(data.split, data.size)
        whole = world.__getitems__([(0, clip * FRAMES + i) for i in range(FRAMES)])
        pixels = torch.stack([sample["frame"] for sample in whole]).double().mean(0)
        known[clip] = pixels.round().to(torch.uint8)
    return known[clip]
