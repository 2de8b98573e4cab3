"""Scores of a VUNet: reconstruction; on the demo world also transfer against the exact truth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nets import metrics
from nets.errors import UserError
from nets.run import options
from nets.run.images import to_uint8
from nets.run.loader import in_order, to_device
from nets.run.options import NonNegativeInt
from nets.run.precision import Precision
from nets.run.ranks import Ranks
from nets.vunet import VUNet
from nets.vunet.data import PersonInputs, open_people
from nets.vunet.warm_start import load_network
from nets.worlds.people.world import SPLITS

SCORES = ("ssim", "psnr", "masked_l1", "nearest_outfit", "summary")
CANDIDATES = 16  # outfits to choose from, the right one among them


# fmt: off
def add_options(p: options.ArgumentParser) -> None:
    add = p.add_argument_group("VUNet").add_argument
    add("--images", type=NonNegativeInt, default=256, help="test images to look at; 0: all")
    add("--world_seed", type=NonNegativeInt, default=0,
        help="seed of the demo world's test people; choose settings by another one's, and report 0")
# fmt: on


def evaluate(args: options.Namespace, content: dict[str, Any], path: Path, ranks: Ranks) -> dict:
    """Reconstruction of test images; on the demo world also transfer against the exact truth."""
    precision = Precision(args.precision, ranks.device, args.channels_last)
    net, trained = load_network(content, path, precision)
    if args.data:
        trained = {**trained, "data": args.data}
    world = args.world_seed
    data = open_people({**trained, "pairing": "same"}, "test", args.images, world)
    if world and not hasattr(data, "transfer_truth"):
        raise UserError(f"--world_seed: of the demo world, this is {data.name}")
    inputs = PersonInputs(trained, data.joint_order)
    print(f"{len(data)} test images of {data.name}, {trained['image_size']} px")
    report: dict[str, Any] = {"data": data.name, "images": len(data), "world_seed": world}
    report["protocol"] = {name: metrics.PROTOCOL[name] for name in SCORES}
    with torch.no_grad(), precision.autocast():
        source = in_order(data, args.batch_size, ranks, args.workers, args.on_bad_sample)
        report["reconstruction"] = reconstruction(net, inputs, source)
        if hasattr(data, "transfer_truth") and len(data) > 1:
            data = open_people(trained, "test", args.images, world)
            mean = mean_image(open_people(trained, "train", 512), ranks)
            source = in_order(data, max(2, args.batch_size), ranks, args.workers)
            report["transfer"] = transfer_scores(net, inputs, data, source, mean)
    return report


def reconstruction(net: VUNet, inputs: PersonInputs, source: Iterator[dict[str, Any]]) -> dict:
    """Images from their own pose and their own posterior means: SSIM, PSNR, L1."""
    scores: dict[str, list[Tensor]] = {"ssim": [], "psnr": [], "l1": []}
    for batch in source:
        generated = to_uint8(net(*inputs(batch), "transfer").image)
        everywhere = torch.ones_like(generated[:, 0], dtype=torch.bool)
        scores["ssim"].append(metrics.ssim(generated, batch["target"]))
        scores["psnr"].append(metrics.psnr(generated, batch["target"]))
        scores["l1"].append(metrics.masked_l1(generated, batch["target"], everywhere))
    if not scores["l1"]:
        raise UserError("no image of the test split can be read")
    return {name: metrics.summary(torch.cat(values)) for name, values in scores.items()}


def mean_image(data: Any, ranks: Ranks) -> Tensor:
    """The pixelwise mean of training images, uint8 (3, S, S)."""
    total = sum(batch["target"].double().sum(0) for batch in in_order(data, 64, ranks))
    return (total / len(data)).round().to(torch.uint8)


def transfer_scores(
    net: VUNet, inputs: PersonInputs, data: Any, source: Iterator[dict[str, Any]], mean: Tensor
) -> dict:
    """Person i in the pose of person i + 1 of its batch, against the exact truth, on the person."""
    scores: dict[str, list[Tensor]] = {"transfer": [], "copy": [], "mean": [], "right": []}
    ssim: list[Tensor] = []
    for batch in source:
        if len(batch["target"]) < 2:
            continue
        source_image, joints = inputs.source(batch)
        outfit, pose, background = (
            batch[name].cpu() if name == "outfit" else batch[name].roll(-1).cpu()
            for name in ("outfit", "pose", "background")
        )
        truth = to_device(data.transfer_truth(outfit, pose, background), source_image.device)
        image, mask = truth["image"], truth["mask"]
        drawn = inputs.pose(batch["joints"].roll(-1, 0))
        generated = to_uint8(net(drawn, inputs.appearance(source_image, joints), "transfer").image)
        scores["transfer"].append(metrics.masked_l1(generated, image, mask))
        scores["copy"].append(metrics.masked_l1(source_image, image, mask))
        scores["mean"].append(metrics.masked_l1(mean.expand_as(image), image, mask))
        scores["right"].append(nearest_is_right(data, outfit, pose, background, generated, mask))
        ssim.append(metrics.ssim(torch.where(mask[:, None], generated, image), image))
    result = {
        "masked_l1": metrics.summary(torch.cat(scores["transfer"])),
        "masked_l1_copy_source": metrics.summary(torch.cat(scores["copy"])),
        "masked_l1_mean_image": metrics.summary(torch.cat(scores["mean"])),
        "ssim_person": metrics.summary(torch.cat(ssim)),
        "nearest_outfit": float(torch.cat(scores["right"]).double().mean()),
        "candidates": CANDIDATES,
    }
    best = min(result["masked_l1_copy_source"]["mean"], result["masked_l1_mean_image"]["mean"])
    result["ratio_to_best_baseline"] = result["masked_l1"]["mean"] / best
    return result


def nearest_is_right(
    data: Any, outfit: Tensor, pose: Tensor, background: Tensor, generated: Tensor, mask: Tensor
) -> Tensor:
    """Whether the right outfit, among CANDIDATES in the same pose, is nearest: (N,) bool."""
    first = SPLITS[data.split]
    columns = []
    for shift in range(CANDIDATES):  # shift 0 is the right one; the others are other test outfits
        other = first + (outfit - first + shift) % data.outfits
        columns.append(data.transfer_truth(other, pose, background)["image"])
    candidates = torch.stack(columns, dim=1).to(generated.device)
    return metrics.nearest_outfit(generated, mask, candidates) == 0
