"""Scores of head avatars: against ground truth on the demo world, else the paper's metrics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from nets import metrics
from nets.bilayer import NETWORKS, fold
from nets.bilayer.data import open_avatars, prepare
from nets.bilayer.defaults import READING
from nets.bilayer.evaluate_clips import Measures, score_clips
from nets.bilayer.fitting import avatars_of
from nets.bilayer.losses import feature_boxes
from nets.bilayer.metrics import Metrics
from nets.bilayer.network.model import drive
from nets.bilayer.objective import point_finder, scored_pass, weights_folders
from nets.bilayer.readers import cut_out, load_readers, openings_of
from nets.bilayer.warm_start import Loaded, load_model
from nets.contracts import Batch, Batches
from nets.data.detectors import AUTO, BACKENDS
from nets.data.heads.videos import AvatarFolder
from nets.data.subset import First
from nets.errors import UserError
from nets.layers import signed
from nets.run import options
from nets.run.images import to_uint8
from nets.run.loader import in_order, to_device
from nets.run.options import NonNegativeInt, PositiveInt, add_flag
from nets.run.precision import Precision
from nets.run.ranks import Ranks
from nets.worlds.heads.videos import HeadVideos

PROTOCOL = {
    "heads": (
        "persons of the demo world that are not in the training set, with one source and one "
        "target frame each; the prediction is the sum of low and high frequency layer, 8-bit, not "
        "masked"
    ),
    "masked_l1": metrics.PROTOCOL["masked_l1"] + "; the mask is the target's ground truth",
    "masked_l1_copy_source": "masked_l1 of the source image instead of the prediction",
    "masked_l1_low_frequency": "masked_l1 of the low frequency layer instead of the prediction",
    "features_l1": (
        "masked_l1 inside the boxes around the points of each eye and of the mouth, which are "
        "enlarged by a pixel on each side"
    ),
    "mask_iou": "intersection over union of the predicted mask, above 0.5, and the ground truth",
    "cross": (
        "person i driven by the points of person i + 1 of its batch; the ground truth is person i "
        "in that pose, in the light of person i"
    ),
    "azimuth": (
        "mean absolute error, degrees, of the driver's azimuth that a small regressor predicts. It "
        "is trained on ground truth of training persons and reads frames driven by another person "
        "(driven) or by the own target (own), the source images (copy_source) and ground truth of "
        "held-out persons (true: the regressor's own error)"
    ),
    "openings": (
        "Pearson's r, over the images, of how far mouth and lids are open in the driver and the "
        "opening that a small regressor reads from the image. It is trained on ground truth of "
        "training persons and sees squares of fixed size around mouth and eyes, whose places do "
        "not depend on the openings. Columns as for azimuth"
    ),
}
PEOPLE = 256  # test persons of the demo world; a correlation over fewer says little
DATA_PROTOCOL = {
    "test": (
        "each PERSON/VIDEO of phase test once, with frames drawn as the options say. By the "
        "paper's rule, the source is the first frame and the target lies at 23.6 % of the video. "
        "If the data have masks, the target's mask cuts prediction, target and source out on black"
    ),
    "psnr": metrics.PROTOCOL["psnr"],
    "ssim": metrics.PROTOCOL["ssim"],
    "copy_source": "the source image instead of the prediction",
    "published": (
        "lpips (VGG16), csim (IR-SE50), dlib_distance (dlib's face recognition; not csim: 0 is the "
        "same face, above 0.6 another) and pme of single images; left_out lists the metrics whose "
        "weights or detector are missing. pme is the "
    )
    + metrics.PROTOCOL["pose_error"],
    "published_masking": (
        "with --published_masking: psnr, lpips, csim and pme once more, of prediction and target "
        "that the predicted mask m cuts out as in the published test: x m - (1 - m), for the "
        "target again in a second pass, and with an enhancer in each of its steps"
    ),
    "summary": metrics.PROTOCOL["summary"],
}


# fmt: off
def add_options(p: options.ArgumentParser) -> None:
    g = p.add_argument_group("bilayer")
    add = g.add_argument
    add("--people", type=NonNegativeInt, default=0, help="count of test videos; 0: all")
    add("--clips", type=PositiveInt | None, default=None, metavar="FRAMES",
        help="score whole clips of data in a folder instead, each person driven by the own clip "
        "and by another person's; driving frames of each clip")
    add("--detector", type=Literal[(AUTO, *BACKENDS)], default=AUTO,
        help="detector of the 68 face points, for pose and point errors; auto: dlib if it is "
        "installed, else mediapipe")
    add_flag(g, "--published_masking", False,
        "mask prediction and target as the published test does, the target several times")
# fmt: on


def data_options(args: options.Namespace, content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The options of a checkpoint with the data to score it on.

    The data are --data, else the run's. "--data heads" is the demo world, unless a folder has this
    name. Raises UserError for an original's checkpoint whose options name no data that are here.
    """
    trained = {**READING, **content["options"], "num_target_frames": 1}
    trained["demo_test"] = trained["demo_test"] or PEOPLE
    if args.data:
        demo = args.data == HeadVideos.name and not Path(args.data).exists()
        return trained | {"data": None if demo else args.data, "dataset_load_from_txt": False}
    original = str(content.get("kind", "")).startswith("of the published program")
    if original and "demo_test" not in content["options"]:
        root = trained["data"]
        if not trained["dataset_load_from_txt"] and not (root and Path(root, "imgs/test").is_dir()):
            named = f"{root}, which has no imgs/test here" if root else "none"
            raise UserError(
                f"--data: must be given: {path} was trained by the published program, its options "
                f"name as data {named}; --data heads is the demo world"
            )
    return trained


@torch.no_grad()
def evaluate(
    args: options.Namespace, content: dict[str, Any], path: Path, ranks: Ranks
) -> dict[str, Any]:
    """The report on test data: the demo world's scores, or a dataset's metrics.

    content, path  of the checkpoint
    """
    trained = data_options(args, content, path)
    precision = Precision(args.precision, ranks.device, args.channels_last)
    model = load_model(content, path, precision)
    fold(model.net)
    trained = {**model.options, **trained}
    if args.pretrained_weights_dir:
        model.options["pretrained_weights_dir"] = args.pretrained_weights_dir
    data = open_avatars(trained, "test")
    fit_steps = args.fit_steps
    if fit_steps is None:
        fit_steps = 0 if isinstance(data, HeadVideos) else model.options["fit_steps"]
    if fit_steps:
        print(f"each avatar is fitted to its sources in {fit_steps} steps")
    if args.clips:
        if not isinstance(data, AvatarFolder):
            raise UserError("--clips: for data in a folder, PERSON/VIDEO; give --data")
        detect = point_finder(print, args.detector)
        measures = Measures(model, detect, args.download_weights)
        scores = score_clips(model, data, args.clips, measures, fit_steps)
        return {"data": data.name, "fit_steps": fit_steps, **scores}
    count = min(args.people or len(data), len(data))
    first = First(data, count)
    print(f"{count} test videos of {data.name}, {trained['image_size']} px")
    batches = in_order(first, args.batch_size, ranks, args.workers, args.on_bad_sample)
    total = -(-count // (args.batch_size * ranks.world_size))
    batches = iter(tqdm(batches, "scores", total, unit="batch", disable=None))
    report: dict[str, Any] = {"data": data.name, "videos": count, "fit_steps": fit_steps}
    if args.published_masking:
        if isinstance(data, HeadVideos):
            raise UserError("--published_masking: for data in a folder; give --data")
        model.net.options["published_masking"] = True
    if isinstance(data, HeadVideos):
        return {**report, **on_heads(model, data, batches, fit_steps), "protocol": PROTOCOL}
    return {**report, **on_data(model, batches, args, fit_steps)}


def on_heads(
    model: Loaded, world: HeadVideos, batches: Batches, fit_steps: int = 0
) -> dict[str, Any]:
    """The scores on the demo world; see PROTOCOL."""
    own = _Scores()
    cross, turned = _Scores(), _Scores()
    azimuth_reader, opening_reader = (r.to(model.device) for r in load_readers())
    opened: dict[str, list[Tensor]] = {}
    for batch in batches:
        data = prepare(batch, model.options)
        with model.precision.autocast():
            avatar = avatars_of(model, data, fit_steps)
            same = drive(model.net, avatar, data["target_poses"])
            other = drive(model.net, avatar, data["target_poses"].roll(-1, 0))
        source, target = batch["source_imgs"][:, 0], batch["target_imgs"][:, 0]
        mask = batch["target_segs"][:, 0, 0] > 127
        shown = {"": to_uint8(same.image[:, 0]), "_copy_source": source,
                 "_low_frequency": to_uint8(same.low_frequency[:, 0])}  # fmt: skip
        features = mask & feature_boxes(data["target_poses"][:, 0], world.size).any(1)
        for name, image in shown.items():
            own.add(**{f"masked_l1{name}": metrics.masked_l1(image, target, mask)})
            own.add(**{f"features_l1{name}": metrics.masked_l1(image, target, features)})
        if same.mask is not None:
            own.add(mask_iou=iou(same.mask[:, 0, 0] > 0.5, mask))
        azimuth = batch["target_scene"]["azimuth"][:, 0].float()
        opening = openings_of(batch["target_mouth"][:, 0], batch["target_lids"][:, 0])
        cut_mask = mask[:, None].float()
        predicted = same.mask[:, 0].float() if same.mask is not None else cut_mask
        pose, before = data["target_poses"][:, 0], data["source_poses"][:, 0]
        # Images in [-1, 1] and their masks; poses; azimuths and openings that they should show.
        images = {
            "true": (signed(target), cut_mask, pose, azimuth, opening),
            "own": (same.image[:, 0].float(), predicted, pose, azimuth, opening),
        }
        if len(source) > 1:
            truth = rendered_as(world, batch, model.device)
            cross.add(
                masked_l1=metrics.masked_l1(
                    to_uint8(other.image[:, 0]), truth["image"], truth["mask"]
                ),
                masked_l1_copy_source=metrics.masked_l1(source, truth["image"], truth["mask"]),
            )
            result = other.mask[:, 0] if other.mask is not None else truth["mask"][:, None].float()
            driver, angle, gap = (value.roll(-1, 0) for value in (pose, azimuth, opening))
            images["driven"] = (other.image[:, 0].float(), result.float(), driver, angle, gap)
            source_mask = data["source_segs"][:, 0]
            images["copy_source"] = (signed(source), source_mask, before, angle, gap)
        for name, (image, cut, at, angle, gap) in images.items():
            seen = cut_out(image, cut)
            turned.add(**{name: (azimuth_reader(seen) - angle).abs().rad2deg()})
            opened.setdefault(name, []).append(torch.stack([opening_reader(seen, at), gap]).cpu())
    report = {"heads": own.report(), "cross": cross.report(), "azimuth": turned.report()}
    for part in ("heads", "cross"):
        if report[part]:
            scores = report[part]
            ratio = scores["masked_l1"]["mean"] / scores["masked_l1_copy_source"]["mean"]
            scores["ratio_to_copy_source"] = ratio
    heads = report["heads"]
    ratio = heads["features_l1"]["mean"] / heads["features_l1_copy_source"]["mean"]
    heads["features_ratio_to_copy_source"] = ratio
    turn = report["azimuth"]
    if "driven" in turn:
        turn["ratio_to_copy_source"] = turn["driven"]["mean"] / turn["copy_source"]["mean"]
    pairs = {name: torch.cat(parts, 1) for name, parts in opened.items()}
    report["openings"] = {
        part: {name: _correlation(*pair[..., place]) for name, pair in pairs.items()}
        for place, part in enumerate(("mouth", "lids"))
    }
    return report


def _correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's r of two rows of numbers; 0 if one of them is constant."""
    one, other = one.double() - one.double().mean(), other.double() - other.double().mean()
    return ((one * other).sum() / (one.norm() * other.norm()).clamp(min=1e-12)).item()


def rendered_as(world: HeadVideos, batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Ground truth of each person, driven by the next person of the batch.

    Pose and expression are the next person's, the light is the person's own.
    """
    scene = {name: value[:, 0].cpu() for name, value in batch["target_scene"].items()}
    driven = {
        name: value if name == "light" else value.roll(-1, 0) for name, value in scene.items()
    }
    truth = world.truth(batch["person"][:, 0].cpu(), batch["background"][:, 0].cpu(), driven)
    return to_device(truth, device)


def iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of masks (N, H, W) bool, (N,) float64."""
    both, either = (one & other).sum((1, 2)), (one | other).sum((1, 2))
    return both.double() / either.clamp_min(1)


class _Scores:
    """Scores of single images, collected by name."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}

    def add(self, **scores: Tensor) -> None:
        """Add the scores (N,) of N images."""
        for name, value in scores.items():
            self.values.setdefault(name, []).append(value.cpu())

    def report(self) -> dict[str, Any]:
        """Mean, standard deviation and count of each score."""
        return {name: metrics.summary(torch.cat(parts)) for name, parts in self.values.items()}


def on_data(
    model: Loaded, batches: Batches, args: options.Namespace, fit_steps: int
) -> dict[str, Any]:
    """The scores on a dataset's test phase; see DATA_PROTOCOL.

    args  detector of the 68 face points; download_weights that are missing
    """
    scores = _Scores()
    published = Metrics(
        ("lpips", "csim", "dlib_distance", "pose_matching"),
        lambda part: weights_folders(model.options, part),
        point_finder(print, args.detector),
        download=args.download_weights,
        device=model.precision.device,
    )
    for line in published.absent + published.descriptions:
        print(line)
    for batch in batches:
        data = prepare(batch, model.options)
        with model.precision.autocast():
            avatar = avatars_of(model, data, fit_steps)
            generated = drive(model.net, avatar, data["target_poses"])
        prediction, target = generated.image[:, 0].float(), data["target_imgs"][:, 0]
        source = data["source_imgs"][:, 0]
        masks = [data["target_segs"][:, 0]] if "target_segs" in data else []
        if model.net.options["published_masking"]:
            scores.add(**published_scores(model, data, published))
        if masks and generated.mask is not None:
            scores.add(mask_iou=iou(generated.mask[:, 0, 0] > 0.5, masks[0][:, 0] > 0.5))
        cut = [to_uint8(cut_out(x, masks[0]) if masks else x) for x in (prediction, target, source)]
        scores.add(
            psnr=metrics.psnr(cut[0], cut[1]),
            ssim=metrics.ssim(cut[0], cut[1]),
            psnr_copy_source=metrics.psnr(cut[2], cut[1]),
            ssim_copy_source=metrics.ssim(cut[2], cut[1]),
        )
        shown = {
            "pred_target_imgs": signed(cut[0])[:, None],
            "target_imgs": signed(cut[1])[:, None],
            "target_poses": data["target_poses"],
        }
        scores.add(**_each(published, shown))
    report = scores.report()
    if not report:
        raise UserError("no frame of the test phase can be read")
    return {"test": report, "left_out": published.absent, "protocol": DATA_PROTOCOL}


def _each(published: Metrics, shown: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published metrics of each image of a batch: lpips, csim, pme."""
    rows: dict[str, list[Tensor]] = {}
    for i in range(len(shown["target_imgs"])):
        result = published({name: value[i : i + 1] for name, value in shown.items()})
        for name, value in result.items():
            rows.setdefault(name[2:].lower(), []).append(value.reshape(1))
    return {name: torch.cat(values) for name, values in rows.items()}


def published_scores(
    model: Loaded, data: dict[str, Tensor], published: Metrics
) -> dict[str, Tensor]:
    """The published metrics and PSNR of images that are masked as in the published test."""
    networks = [name for name in NETWORKS[:5] if name in model.net.names]
    with model.precision.autocast():
        result = scored_pass(model.net, data, networks)
    enhanced = "pred_enh_target_imgs" in result
    shown = {
        "pred_target_imgs": result["pred_enh_target_imgs" if enhanced else "pred_target_imgs"],
        "target_imgs": result["target_imgs"],
        "target_poses": data["target_poses"],
    }
    shown = {name: value.float() for name, value in shown.items()}
    pair = [to_uint8(shown[name][:, 0]) for name in ("pred_target_imgs", "target_imgs")]
    each = {"psnr": metrics.psnr(*pair), **_each(published, shown)}
    return {f"{name}_published_masking": value for name, value in each.items()}
