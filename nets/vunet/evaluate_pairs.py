"""Scores of transfers for a list of pairs: of a VUNet, of other programs' images, of baselines."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nets import metrics
from nets.data.io.files import list_folder, read_arrays
from nets.data.io.images import image_size, is_image, read_image, write_image
from nets.data.io.names import safe_name
from nets.data.people.index import IndexDataset
from nets.data.people.transfers import Results, TransferPairs, person_of, result_name
from nets.errors import UserError
from nets.layers import signed
from nets.pretrained.inception import FEATURES, Inception, load_inception
from nets.pretrained.lpips import LPIPS, load_lpips
from nets.run import options
from nets.run.images import to_uint8
from nets.run.loader import in_order
from nets.run.options import PositiveInt, add_flag
from nets.run.precision import Precision
from nets.run.ranks import Ranks
from nets.skeletons import JOINTS_17, body_mask
from nets.vunet import VUNet
from nets.vunet.data import PersonInputs, open_people
from nets.vunet.fitting import fit

Row = dict[str, Any]  # the scores of one source of images
Score = Callable[[Tensor, Tensor], Tensor]  # results, truths (N, 3, H, W) uint8 -> (N,)
PLAIN: dict[str, Score] = {
    "gradient": metrics.gradient,
    "l1": metrics.l1,
    "ssim": metrics.ssim,
}
PAPERS: dict[str, Score] = {
    "ssim_inside": metrics.ssim_inside,
    "ssim_window51": metrics.ssim_window51,
    "psnr": metrics.psnr,
}
LPIPS_PROTOCOL = "LPIPS: version 0.1, images at the scored size in [-1, 1]; "


# fmt: off
def add_options(p: options.ArgumentParser) -> None:
    """Add the options of evaluate.py for lists of pairs."""
    g = p.add_argument_group("VUNet: transfers for a list of pairs")
    add = g.add_argument
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
    add_flag(g, "--unseen", False,
        "only pairs of people without an image in the run's training split")
    add_flag(g, "--papers", False,
        "also the papers' other scores: two more forms of SSIM, mask-SSIM, PSNR, LPIPS with "
        "AlexNet and VGG, inception score")
    add("--fid", type=str | None, default=None, metavar="REAL",
        help="real images for FID: a folder, an index.p (its training images), or an .npz of mu "
        "and sigma")
    add("--crop_width", type=PositiveInt | None, default=None,
        help="middle columns that are scored, e.g. 176 of DeepFashion's 256; default: all")
# fmt: on


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
    h, w = data.shape
    print(f"{len(data)} pairs of {data.name}, scored at {w}x{h} px")
    scores = PairScores(args, data, ranks.device)
    report: dict[str, Any] = {"data": data.name, "pairs": len(data)}
    protocol = {"pairs": pairs_protocol(data, trained)}
    if net is not None and trained is not None and precision is not None:
        report["network"] = scores(generated(args, ranks, data, net, trained, precision), "network")
    if args.reference:
        results = Results(args.reference)
        report["reference"] = scores(
            (results.image(data, i) for i in range(len(data))), "reference"
        )
        resized = f"; {results.resized} were resized, bilinear" if results.resized else ""
        protocol["reference"] = f"reference: images of {args.reference}{resized}"
    report["copy_source"] = scores(map(data.source, range(len(data))), "copy source")
    mean = mean_of(data)
    report["mean_image"] = scores((mean for _ in data.pairs), "mean image")
    if scores.left_out:
        report["left_out"] = scores.left_out
    report["protocol"] = protocol | scores.protocol
    return report


def open_pairs(args: options.Namespace, trained: dict[str, Any] | None) -> TransferPairs:
    """The pairs to score: with --reference those of which it has images, with --unseen new people.

    trained  options of the network, None without one
    """
    used = trained or {"image_size": 256, "fit": "squash"}
    data = TransferPairs(
        args.pairs,
        args.data,
        args.joints,
        used["image_size"],
        used["fit"] == "letterbox",
        used.get("img_channels", 3) == 4,
        args.crop_width,
    )
    if args.unseen:
        assert trained is not None  # evaluate_reference refuses --unseen
        seen = training_people(trained, data)
        known = [{person_of(file, data.folder) for file in pair} for pair in data.files]
        keep = [i for i, people in enumerate(known) if not people & seen]
        _select(data, keep, f"--unseen: pairs without people of {trained['data']}")
    if args.reference:
        results = Results(args.reference)
        keep = [i for i, pair in enumerate(data.pairs) if results.file(pair)]
        _select(data, keep, f"--reference {args.reference}: images as {results.example(data)}")
    return data


def _select(data: TransferPairs, places: Sequence[int], what: str) -> None:
    """Keep these pairs. Prints how many. Raises UserError if none is left."""
    count = len(data)
    if not places:
        raise UserError(f"{what}: none of {count} pairs of {data.name}")
    if len(places) < count:
        print(f"{what}: {len(places)} of {count}; only these pairs count")
    data.select(places)


def training_people(trained: dict[str, Any], data: TransferPairs) -> set[str]:
    """The people of a list's images that are in the training split of a run.

    An image of the run's index is known by its name: that of the list's image, and perhaps the
    number that extract.py appends.
    """
    training = open_people({**trained, "pairing": "same"}, "train")
    if not isinstance(training, IndexDataset):
        raise UserError(f"--unseen: the run's data must be an index, are {training.name}")
    stems = {training.file(i).stem for i in range(len(training))}
    stems |= {re.sub(r"_\d+$", "", stem) for stem in stems}
    images = [f for f in data.all_images() if {f.stem, safe_name(f.stem)} & stems]
    return {person_of(file, data.folder) for file in images}


def pairs_protocol(data: TransferPairs, trained: dict[str, Any] | None) -> str:
    """The line that says which images are compared, and how they reached their size."""
    h, w = data.shape
    people = len(set(data.people))
    cut = f", the middle columns of {data.full[1]}x{h}" if data.full[1] != w else ""
    text = (
        f"pairs: {len(data)} of {data.name}, targets of {people} people; scores at the images' own "
        f"size, {w}x{h} px{cut}, 8-bit RGB; mean_image is the mean of all images in {data.folder}"
    )
    if trained is None:
        return text
    side = trained["image_size"]
    way = "cut out of its letterbox and resized" if data.letterbox else "resized"
    return (
        f"{text}; the network's {side}x{side} result is {way} to {data.full[1]}x{data.full[0]}, "
        "bilinear, antialiased where it shrinks"
    )


class PairScores:
    """Scores of images for the targets of a list of pairs.

    `protocol` holds the line of each score, `left_out` a line for each score that cannot be had.
    """

    def __init__(self, args: options.Namespace, data: TransferPairs, device: torch.device):
        self.data, self.device, self.batch_size = data, device, args.batch_size
        self.functions = dict(PLAIN)
        self.left_out: list[str] = []
        self.protocol: dict[str, str] = {}
        self.nearest = len(set(data.people)) > 1
        if self.nearest:
            self.protocol["nearest_target"] = metrics.PROTOCOL["nearest_target"]
        else:
            self.left_out.append("nearest_target: all targets are of one person")
        self.masks = False
        self.inception: Inception | None = None
        self.real: tuple[Tensor, Tensor] | None = None
        self.lpips: dict[str, LPIPS] = {}
        if args.papers:
            self._add_papers(args)
        self.protocol |= {name: metrics.PROTOCOL[name] for name in self.functions}
        self.protocol["ssim"] = self.protocol["ssim"].replace(
            "at the network's resolution", "at the scored size"
        )
        if self.masks:
            self.protocol["mask_ssim"] = metrics.PROTOCOL["mask_ssim"]
        for name, lpips in self.lpips.items():
            self.protocol[name] = LPIPS_PROTOCOL + lpips.description
        if args.papers or args.fid:
            self._add_inception(args)
        for line in self.left_out:
            print(f"left out: {line}")

    def _add_papers(self, args: options.Namespace) -> None:
        self.functions |= PAPERS
        if min(self.data.shape) < 51:
            del self.functions["ssim_window51"]
            self.left_out.append("ssim_window51: the images have less than 51 pixels")
        try:
            self.data.read_joints()
            self.masks = True
        except UserError as error:
            self.left_out.append(f"mask_ssim: {error}")
        for network in ("alex", "vgg"):
            try:
                net = load_lpips(
                    network=network,
                    download=args.download_weights,
                    folders=weights_folders(args, "lpips"),
                )
            except UserError as error:
                self.left_out.append(f"lpips_{network}: {error}")
            else:
                self.lpips[f"lpips_{network}"] = net.to(self.device)

    def _add_inception(self, args: options.Namespace) -> None:
        try:
            folders = weights_folders(args, "inception")
            self.inception = load_inception(folders, args.download_weights).to(self.device)
        except UserError as error:
            if args.fid:  # asked for by name
                raise
            self.left_out.append(f"inception_score: {error}")
        else:
            network = f"; {self.inception.description}"
            if len(self.data) >= 10:
                text = metrics.PROTOCOL["inception_score"]
                self.protocol["inception_score"] = text + network
            else:
                self.left_out.append("inception_score: needs 10 pairs at least")
            if args.fid:
                self.real, what = self._real_images(args.fid)
                self.protocol["fid"] = f"{metrics.PROTOCOL['frechet']}; against {what}{network}"
        if not args.fid:
            self.left_out.append("fid: --fid names the real images")

    def _real_images(self, given: str) -> tuple[tuple[Tensor, Tensor], str]:
        """Mean and covariance of the features of real images, and what they are."""
        path = Path(given)
        if path.suffix == ".npz":
            return _read_statistics(path), f"the statistics of {path}"
        if path.is_file():
            index = IndexDataset(path, "train")
            files = [index.file(i) for i in range(len(index))]
            what = f"{len(files)} training images of {path}"
        else:
            try:
                files = list_folder(path, is_image, recursive=True).files
            except OSError as error:
                raise UserError(f"--fid {given}: cannot be read: {error.strerror}") from error
            what = f"{len(files)} images of {path}"
        if len(files) < 2:
            raise UserError(f"--fid {given}: holds {len(files)} images, needs two at least")
        features, cropped = [], 0
        for file in tqdm(files, "real images", unit="image", disable=None, delay=5):
            image = read_image(file, None)
            if image.shape[1:] == self.data.full != self.data.shape:
                image, cropped = self.data.cropped(image), cropped + 1
            features.append(self._features(image[None])[0])
        cut = f", {cropped} cut to {self.data.shape[1]} columns" if cropped else ""
        return metrics.gaussian_of(torch.cat(features)), what + cut

    @torch.no_grad()
    def _features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        assert self.inception is not None  # whoever calls has looked
        features, logits = self.inception(images.to(self.device))
        return features.cpu(), logits.cpu()

    def __call__(self, images: Iterable[Tensor], name: str) -> Row:
        """The scores of one image (3, H, W) uint8 for each pair."""
        values: dict[str, list[Tensor]] = {}
        small: list[tuple[Tensor, Tensor]] = []
        features: list[tuple[Tensor, Tensor]] = []
        rest = iter(tqdm(images, name, len(self.data), unit="pair", disable=None, delay=5))
        done = 0
        while batch := list(islice(rest, self.batch_size)):
            places = range(done, done + len(batch))
            done += len(batch)
            results = torch.stack([image.cpu() for image in batch])
            truths = torch.stack([self.data.truth(i) for i in places])
            for key, value in self._of_images(results, truths, places).items():
                values.setdefault(key, []).append(value)
            small.append((metrics.small_images(results), metrics.small_images(truths)))
            if self.inception is not None:
                features.append(self._features(results))
        row: Row = {}
        if self.nearest:
            ours, theirs = (torch.cat(part) for part in zip(*small, strict=True))
            near = metrics.nearest_target(ours, theirs, self.data.people)
            row["nearest_target"] = float(near.double().mean())
        for key, parts in values.items():
            of_all = torch.cat(parts)
            usable = of_all[~of_all.isnan()]  # mask_ssim has NaN where no limb is known
            # PSNR of equal images is infinite: of all of them nothing is left to average.
            row[key] = metrics.summary(usable) if usable.isfinite().any() else None
        if features:
            means, logits = (torch.cat(part) for part in zip(*features, strict=True))
            if "inception_score" in self.protocol:
                mean, std = metrics.inception_score(logits)
                row["inception_score"] = {"mean": mean, "std": std}
            if self.real is not None and len(means) > 1:
                row["fid"] = metrics.frechet(metrics.gaussian_of(means), self.real)
        return row

    @torch.no_grad()
    def _of_images(
        self, results: Tensor, truths: Tensor, places: Sequence[int]
    ) -> dict[str, Tensor]:
        """The scores (N,) of single images."""
        scores = {key: function(results, truths) for key, function in self.functions.items()}
        if self.masks:
            joints = torch.stack([self.data.target_joints(i) for i in places])
            masks = body_mask(joints, self.data.shape, JOINTS_17)
            cut = [torch.where(masks[:, None], images, 0) for images in (results, truths)]
            value = metrics.ssim_inside(cut[0], cut[1])
            scores["mask_ssim"] = torch.where(masks.any(2).any(1), value, torch.nan)
        for key, lpips in self.lpips.items():
            pair = [signed(images.to(self.device)) for images in (results, truths)]
            scores[key] = lpips(*pair).double().cpu()
        return scores


def weights_folders(args: options.Namespace, part: str) -> list[Path]:
    """The folders to search for weights of others, before torch's cache."""
    root = args.pretrained_weights_dir
    return [Path(root), Path(root) / "pretrained_weights" / part] if root else []


def _read_statistics(path: Path) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a file as pytorch-fid writes it."""
    try:
        arrays = read_arrays(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--fid {path}: cannot be read: {error}") from error
    shapes = {"mu": (FEATURES,), "sigma": (FEATURES, FEATURES)}
    for name, shape in shapes.items():
        if not isinstance(arrays, dict) or name not in arrays or arrays[name].shape != shape:
            raise UserError(f"--fid {path}: must hold mu and sigma of {FEATURES} features")
    assert isinstance(arrays, dict)
    mean, covariance = (torch.from_numpy(np.asarray(arrays[n], np.float64)) for n in shapes)
    return mean, covariance


def generated(
    args: options.Namespace,
    ranks: Ranks,
    data: TransferPairs,
    net: VUNet,
    trained: dict[str, Any],
    precision: Precision,
) -> Iterator[Tensor]:
    """The network's transfers at the targets' size, (3, H, W) uint8; --pairs_out keeps them."""
    inputs = PersonInputs(trained, data.joint_order)
    data.read_joints()  # here and not in each worker
    steps = trained.get("fit_steps", 0) if args.fit_steps is None else args.fit_steps
    if steps:
        print(f"the network is fitted to each source in {steps} steps; --fit_steps 0 leaves it out")
    for batch in in_order(data, args.batch_size, ranks, args.workers):
        poses, appearances = inputs(batch)
        nets = [net]
        if steps:
            own = zip(*inputs.source(batch), strict=True)
            nets = [fit(net, inputs, image, at, steps, precision) for image, at in own]
        with torch.no_grad(), precision.autocast():
            parts = zip(nets, poses.chunk(len(nets)), appearances.chunk(len(nets)), strict=True)
            images = torch.cat([to_uint8(n(*given, "transfer").image) for n, *given in parts])
        for index, square in zip(batch["index"].tolist(), images.cpu(), strict=True):
            image = data.unsquared(square)
            if args.pairs_out:
                write_image(Path(args.pairs_out) / result_name(*data.pairs[index]), image)
            yield image


def mean_of(data: TransferPairs) -> Tensor:
    """The pixelwise mean (3, H, W) uint8 of all images in the folder that have the pairs' size."""
    total, count = torch.zeros(3, *data.full, dtype=torch.float64), 0
    for file in data.all_images():
        if image_size(file) == data.full[::-1]:
            total += read_image(file, None)
            count += 1
    return data.cropped((total / count).round().to(torch.uint8))
