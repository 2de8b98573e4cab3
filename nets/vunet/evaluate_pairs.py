"""Scores of transfers for a list of pairs: of a VUNet, of other programs' images, of baselines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from nets import metrics
from nets.data.io.images import image_size, read_image, write_image
from nets.data.people.index import folds_of, read_index
from nets.data.people.transfers import Results, TransferPairs, result_name
from nets.errors import UserError
from nets.run import options
from nets.run.images import to_uint8
from nets.run.loader import in_order
from nets.run.precision import Precision
from nets.run.ranks import Ranks
from nets.vunet import VUNet
from nets.vunet.data import PersonInputs

SCORES = ("nearest_target", "gradient", "l1", "ssim", "summary")
Row = dict[str, Any]  # the scores of one source of images


# fmt: off
def add_options(p: options.ArgumentParser) -> None:
    """Add the options of evaluate.py for lists of pairs."""
    add = p.add_argument_group("VUNet: transfers for a list of pairs").add_argument
    add("--pairs", type=str | None, default=None, metavar="FILE",
        help="CSV list of pairs with the columns from,to; its images are in --data, default: "
        "images/ or test/ beside the list")
    add("--joints", type=str | None, default=None, metavar="FILE",
        help="annotated joints of the images; default: annotation.csv beside pairs.csv")
    add("--reference", type=str | None, default=None, metavar="FOLDER",
        help="images FROM___TO.png of another program, which are scored as well; without "
        "--checkpoint no network is run")
    add("--pairs_out", type=str | None, default=None, metavar="FOLDER",
        help="folder for the network's results, FROM___TO_vis.png at the size of the targets")
# fmt: on


def open_pairs(args: options.Namespace, trained: dict[str, Any] | None) -> TransferPairs:
    """The pairs to score: all, or with --reference those of which it has images.

    trained  options of the network, None without one
    """
    trained = trained or {"image_size": 256, "fit": "squash"}
    data = TransferPairs(
        args.pairs,
        args.data,
        args.joints,
        trained["image_size"],
        trained["fit"] == "letterbox",
        trained.get("img_channels", 3) == 4,
    )
    if args.reference:
        results, count = Results(args.reference), len(data)
        example = result_name(*data.pairs[0])
        data.select([i for i, pair in enumerate(data.pairs) if results.file(pair)])
        if not len(data):
            raise UserError(
                f"--reference {args.reference}: no image has the name of a pair of {data.name}, "
                f"e.g. {example}"
            )
        if len(data) < count:
            print(f"{args.reference}: images of {len(data)} of {count} pairs; only these count")
    if trained.get("folds"):
        leave_out_trained(data, trained)
    return data


def leave_out_trained(data: TransferPairs, trained: dict[str, Any]) -> None:
    """Keep the pairs of people that a run with --folds was not trained on, by its index.

    trained  options of the run. Raises UserError if its index is missing or no pair is left.
    """
    index = read_index(Path(trained["data"]))
    fold = folds_of(index["identities"], trained["folds"], trained["data"])
    files = index["imgs"][fold != trained["fold"]]
    stems = {Path(os.fsdecode(file)).stem for file in files}
    stems |= {stem.rpartition("_")[0] for stem in stems}  # extract.py adds a person's number
    count = len(data)
    data.select(
        [
            i
            for i, files in enumerate(zip(data.sources, data.targets, strict=True))
            if not any(file.stem in stems for file in files)
        ]
    )
    if not len(data):
        raise UserError(f"{data.name}: the run was trained on people of all its pairs")
    print(
        f"{len(data)} of {count} pairs are of people outside the run's training; only these count"
    )


def score_pairs(
    args: options.Namespace,
    ranks: Ranks,
    net: VUNet | None = None,
    trained: dict[str, Any] | None = None,
    precision: Precision | None = None,
) -> dict[str, Any]:
    """The report on a list of pairs: a row of scores for each source of images.

    net, trained, precision  a network and its options; None: only --reference and the baselines
    """
    data = open_pairs(args, trained)
    shape = data.shape
    print(f"{len(data)} pairs of {data.name}, {shape[1]}x{shape[0]} px")
    report: dict[str, Any] = {"data": data.name, "pairs": len(data)}
    score = Scores(data, shape)
    protocol = {"pairs": pairs_protocol(data, shape, trained)}
    if net is not None and trained is not None and precision is not None:
        report["network"] = score(generated(args, ranks, data, net, trained, precision), "network")
    if args.reference:
        results = Results(args.reference)
        images = (results.image(pair, shape) for pair in data.pairs)
        report["reference"] = score(images, "reference")
        protocol["reference"] = f"reference: images of {args.reference}" + (
            f"; {results.resized} resized to the targets' size, bilinear" if results.resized else ""
        )
    report["copy_source"] = score(map(data.source, range(len(data))), "copy source")
    mean = mean_of(data.all_images(), shape)
    report["mean_image"] = score((mean for _ in data.pairs), "mean image")
    report["protocol"] = protocol | {name: metrics.PROTOCOL[name] for name in SCORES}
    return report


def pairs_protocol(
    data: TransferPairs, shape: tuple[int, int], trained: dict[str, Any] | None
) -> str:
    """The line that says which images are compared, and how they reached their size."""
    h, w = shape
    text = (
        f"pairs: {len(data)} of {data.name}, targets of {len(set(data.people))} people; scores at "
        f"the images' own {w}x{h} px, 8-bit RGB; mean_image is the mean of all images in "
        f"{data.folder}"
    )
    if trained is None:
        return text
    side = trained["image_size"]
    way = "cut out of its letterbox" if data.letterbox else "unsquashed"
    return f"{text}; the network's {side}x{side} result is {way} to {w}x{h}, bilinear with area"


class Scores:
    """Scores of images for the targets of a list of pairs.

    shape  (H, W) of the targets
    """

    def __init__(self, data: TransferPairs, shape: tuple[int, int]):
        self.data, self.shape = data, shape
        self.targets: list[Tensor] = []  # small ones, of the first row
        self.several = len(set(data.people)) > 1
        if not self.several:
            print("nearest_target: left out, all targets are of one person")

    def __call__(self, images: Iterator[Tensor], name: str) -> Row:
        """The scores of one image (3, H, W) uint8 for each pair."""
        functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "gradient": metrics.gradient, "l1": metrics.l1, "ssim": metrics.ssim,
        }  # fmt: skip
        values: dict[str, list[Tensor]] = {key: [] for key in functions}
        small, targets = [], []
        progress = tqdm(images, name, len(self.data), unit="pair", disable=None, delay=5)
        for index, image in enumerate(progress):
            result, truth = image[None].cpu(), self.data.truth(index)[None]
            for key, function in functions.items():
                values[key].append(function(result, truth))
            small.append(metrics.small_images(result))
            if len(self.targets) < len(self.data):
                targets.append(metrics.small_images(truth))
        self.targets = self.targets or targets
        row: Row = {}
        if self.several:
            near = metrics.nearest_target(
                torch.cat(small), torch.cat(self.targets), self.data.people
            )
            row["nearest_target"] = float(near.double().mean())
        return row | {key: metrics.summary(torch.cat(parts)) for key, parts in values.items()}


def generated(
    args: options.Namespace,
    ranks: Ranks,
    data: TransferPairs,
    net: VUNet,
    trained: dict[str, Any],
    precision: Precision,
) -> Iterator[Tensor]:
    """The network's transfers, (3, H, W) uint8 each at the targets' size, written to --pairs_out."""
    shape, inputs = data.shape, PersonInputs(trained, data.joint_order)
    data.read_joints()  # here and not in each worker
    for batch in in_order(data, args.batch_size, ranks, args.workers):
        with torch.no_grad(), precision.autocast():
            images = to_uint8(net(*inputs(batch), "transfer").image)
        for index, square in zip(batch["index"].tolist(), images.cpu(), strict=True):
            image = data.unsquared(square, shape)
            if args.pairs_out:
                write_image(Path(args.pairs_out) / result_name(*data.pairs[index]), image)
            yield image


def mean_of(files: list[Path], shape: tuple[int, int]) -> Tensor:
    """The pixelwise mean (3, H, W) uint8 of the images of this shape."""
    total, count = torch.zeros(3, *shape, dtype=torch.float64), 0
    for file in files:
        if image_size(file) == shape[::-1]:
            total += read_image(file, None)
            count += 1
    return (total / count).round().to(torch.uint8)
