"""Scores of a VUNet: of reconstructions, and on the demo world of transfers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor
from tqdm import tqdm

from nets import metrics
from nets.contracts import Batches, PeopleDataset
from nets.errors import UserError
from nets.run import options
from nets.run.images import to_uint8
from nets.run.loader import in_order, to_device
from nets.run.options import NonNegativeInt
from nets.run.precision import Precision
from nets.run.ranks import Ranks
from nets.vunet import VUNet, evaluate_pairs
from nets.vunet.data import DemoWorld, PersonInputs, has_truth, open_people
from nets.vunet.warm_start import load_network, require_data
from nets.worlds.people.world import SPLITS

SCORES = ("ssim", "psnr", "masked_l1", "nearest_outfit", "summary")
CANDIDATES = 16  # outfits that `nearest_outfit` chooses from, the correct one among them
Summary = dict[str, float | int]  # as `metrics.summary` returns it


class TransferScores(TypedDict):
    """Scores of transfers against the ground truth, on the pixels of the person."""

    masked_l1: Summary
    masked_l1_copy_source: Summary  # baseline: a copy of the source
    masked_l1_mean_image: Summary  # baseline: the mean training image
    ssim_person: Summary
    nearest_outfit: float  # fraction of images whose nearest outfit is the correct one
    candidates: int
    ratio_to_best_baseline: float  # of masked_l1, to the lower of both baselines


# fmt: off
def add_options(p: options.ArgumentParser) -> None:
    """Add the options of evaluate.py that are VUNet's own."""
    add = p.add_argument_group("VUNet").add_argument
    add("--images", type=NonNegativeInt, default=256, help="test images to evaluate; 0: all")
    add("--world_seed", type=NonNegativeInt, default=0,
        help="seed of the demo world's test people; choose settings with another seed, report 0")
    evaluate_pairs.add_options(p)
# fmt: on


def evaluate(
    args: options.Namespace, content: dict[str, Any], path: Path, ranks: Ranks
) -> dict[str, Any]:
    """A report for JSON: scores of reconstructed test images, and on the demo world of transfers.

    content  of the checkpoint `path`
    """
    precision = Precision(args.precision, ranks.device, args.channels_last)
    net, trained = load_network(content, path, precision)
    if args.pairs:
        return evaluate_pairs.score_pairs(args, ranks, net, trained, precision)
    pairs_only = ("joints", "reference", "pairs_out", "unseen", "papers", "fid", "crop_width")
    for name in (*pairs_only, "fit_steps"):
        if args[name]:
            raise UserError(f"--{name}: only with --pairs, a list of them")
    require_data(trained, args.data, path)
    if args.data:
        trained = {**trained, "data": args.data}
    world = args.world_seed
    data = open_people({**trained, "pairing": "same"}, "test", args.images, world)
    if world and not has_truth(data):
        raise UserError(f"--world_seed: an option of the demo world, the data is {data.name}")
    inputs = PersonInputs(trained, data.joint_order)
    print(f"{len(data)} test images of {data.name}, {trained['image_size']} px")
    report: dict[str, Any] = {"data": data.name, "images": len(data), "world_seed": world}
    report["protocol"] = {name: metrics.PROTOCOL[name] for name in SCORES}
    with torch.no_grad(), precision.autocast():
        size = args.batch_size
        batches = in_order(data, size, ranks, args.workers, args.on_bad_sample)
        batches = with_progress(batches, "reconstruction", data, size, ranks)
        report["reconstruction"] = reconstruction(net, inputs, batches)
        if has_truth(data) and len(data) > 1:
            pairs = open_people(trained, "test", args.images, world)  # with the run's own pairing
            mean = mean_image(open_people(trained, "train", 512), ranks)
            size = max(2, size)
            batches = in_order(pairs, size, ranks, args.workers)
            batches = with_progress(batches, "transfer", pairs, size, ranks)
            report["transfer"] = transfer_scores(net, inputs, data, batches, mean)
    return report


def evaluate_reference(args: options.Namespace, ranks: Ranks) -> dict[str, Any]:
    """The report on another program's images, --reference, for the pairs of --pairs."""
    if not args.pairs:
        raise UserError("--reference: needs --pairs, the list that the images are of")
    for name in ("pairs_out", "unseen"):
        if args[name]:
            raise UserError(f"--{name}: needs --checkpoint, a network")
    return evaluate_pairs.score_pairs(args, ranks)


def with_progress(
    batches: Batches, stage: str, data: PeopleDataset, size: int, ranks: Ranks
) -> Batches:
    """The batches of a stage, with a progress bar on a terminal after 5 seconds."""
    total = math.ceil(math.ceil(len(data) / ranks.world_size) / size)
    return iter(tqdm(batches, stage, total, unit="batch", disable=None, delay=5))


def reconstruction(net: VUNet, inputs: PersonInputs, batches: Batches) -> dict[str, Summary]:
    """SSIM, PSNR and L1 of images reconstructed from their own pose and posterior means."""
    scores: dict[str, list[Tensor]] = {"ssim": [], "psnr": [], "l1": []}
    for batch in batches:
        generated = to_uint8(net(*inputs(batch), "transfer").image)
        everywhere, target = (
            torch.ones_like(generated[:, 0], dtype=torch.bool),
            inputs.target(batch),
        )
        scores["ssim"].append(metrics.ssim(generated, target))
        scores["psnr"].append(metrics.psnr(generated, target))
        scores["l1"].append(metrics.masked_l1(generated, target, everywhere))
    if not scores["l1"]:
        raise UserError("no image of the test split can be read")
    return {name: metrics.summary(torch.cat(values)) for name, values in scores.items()}


def mean_image(data: PeopleDataset, ranks: Ranks) -> Tensor:
    """The pixelwise mean of a dataset's images, uint8 (3, S, S)."""
    batches = with_progress(in_order(data, 64, ranks), "mean image", data, 64, ranks)
    sums = (PersonInputs.target(batch).double().sum(0) for batch in batches)
    total = sum(sums, torch.zeros((), dtype=torch.float64))
    return (total / len(data)).round().to(torch.uint8)


def transfer_scores(
    net: VUNet, inputs: PersonInputs, data: DemoWorld, batches: Batches, mean: Tensor
) -> TransferScores:
    """Scores of person i in the pose of person i + 1 of its batch, against the ground truth.

    data     renders the ground truth
    batches  of the same dataset; a batch of one image is left out
    mean     (3, S, S) uint8, the mean training image
    """
    scores: dict[str, list[Tensor]] = {
        name: [] for name in ("transfer", "copy", "mean", "ssim", "correct")
    }
    for batch in batches:
        if len(batch["target"]) < 2:
            continue
        source_image, joints = inputs.source(batch)
        outfit, pose, background = (
            batch[name].cpu() if name == "outfit" else batch[name].roll(-1).cpu()
            for name in ("outfit", "pose", "background")
        )
        truth = to_device(data.transfer_truth(outfit, pose, background), source_image.device)
        image, mask = truth["image"], truth["mask"]
        drawn_pose = inputs.pose(batch["joints"].roll(-1, 0))
        appearance = inputs.appearance(source_image, joints)
        generated = to_uint8(net(drawn_pose, appearance, "transfer").image)
        scores["transfer"].append(metrics.masked_l1(generated, image, mask))
        scores["copy"].append(metrics.masked_l1(source_image, image, mask))
        scores["mean"].append(metrics.masked_l1(mean.expand_as(image), image, mask))
        scores["correct"].append(
            nearest_is_correct(data, outfit, pose, background, generated, mask)
        )
        scores["ssim"].append(metrics.ssim(torch.where(mask[:, None], generated, image), image))
    transfer, copy, average, ssim = (
        metrics.summary(torch.cat(scores[name])) for name in ("transfer", "copy", "mean", "ssim")
    )
    return {
        "masked_l1": transfer,
        "masked_l1_copy_source": copy,
        "masked_l1_mean_image": average,
        "ssim_person": ssim,
        "nearest_outfit": float(torch.cat(scores["correct"]).double().mean()),
        "candidates": CANDIDATES,
        "ratio_to_best_baseline": transfer["mean"] / min(copy["mean"], average["mean"]),
    }


def nearest_is_correct(
    data: DemoWorld,
    outfit: Tensor,
    pose: Tensor,
    background: Tensor,
    generated: Tensor,
    mask: Tensor,
) -> Tensor:
    """(N,) bool: the correct outfit is the nearest of CANDIDATES outfits in the same pose.

    outfit, pose, background  (N,) ids of the ground truth
    generated                 (N, 3, S, S) uint8
    mask                      (N, S, S) bool, the person
    """
    first = SPLITS[data.split]
    columns = []
    for shift in range(CANDIDATES):  # shift 0 is the correct outfit
        other = first + (outfit - first + shift) % data.outfits
        columns.append(data.transfer_truth(other, pose, background)["image"])
    candidates = torch.stack(columns, dim=1).to(generated.device)
    return metrics.nearest_outfit(generated, mask, candidates) == 0
