"""The losses and metrics of a run, with the networks and weight files that they need."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nets.bilayer import Bilayer
from nets.bilayer.defaults import network_names, words
from nets.bilayer.losses import EXTRACTORS, Losses, needed_extractors, numbers
from nets.bilayer.metrics import Detect, Metrics, look_for_weights
from nets.errors import UserError
from nets.pretrained import vgg
from nets.pretrained.features import load_features
from nets.run import options
from nets.run.precision import Precision
from nets.run.ranks import Ranks
from nets.run.run import Run

FACE = "vgg16_face_caffe"  # the feature network that is trained on faces


def weights_folders(args: Mapping[str, Any], part: str) -> list[Path]:
    """The folders to search for the weights of a part: perceptual, lpips or csim."""
    root = args.get("pretrained_weights_dir")
    return [Path(root) / "pretrained_weights" / part] if root else []


def open_losses(args: options.Namespace, run: Run, precision: Precision) -> Losses:
    """The losses of `losses_train`. Prints which feature networks the perceptual loss uses.

    Raises UserError with the remedy if weights are missing, before it reads any.
    """
    plain = options.plain(args)
    folders = weights_folders(plain, "perceptual")
    result = {}
    with naming_options():
        names = needed_extractors(plain)
        if args.perceptual == "mobilenet" and FACE in names:
            networks, weights = words(plain["per_full_net_names"]), plain["per_loss_weights"]
            kept = zip(networks, numbers(weights, float), strict=True)
            plain["per_loss_weights"] = [0.0 if name == FACE else weight for name, weight in kept]
            names.remove(FACE)
            if not names:
                raise UserError(f"--perceptual mobilenet: has no features of faces, as {FACE} has")
            run.print(f"perceptual loss: without {FACE}, MobileNetV2 has no features of faces")
        for name in names if args.perceptual == "pretrained" else []:
            download, ways = EXTRACTORS[name] == "torchvision", ", or --perceptual random"
            if download and args.vgg_download:
                continue
            ways = f", or --vgg_download{ways}" if download else ways
            look_for_weights("perceptual", vgg.OFFICIAL[EXTRACTORS[name]], folders, ways)
        for name in names:
            load = partial(
                load_features, args.perceptual, family=EXTRACTORS[name], pooling=args.per_pooling,
                option="--pretrained_weights_dir", folders=folders,
            )  # fmt: skip
            download = args.vgg_download and EXTRACTORS[name] == "torchvision"
            if download:  # by one rank, before the others look for the file
                run.ranks.on_main(partial(_download, load))
            result[name] = precision.place(load())
            run.print(f"perceptual loss: {result[name].description}")
        return Losses(plain, result)


def _download(load: Callable[..., object]) -> None:
    """Download the weights of a feature network."""
    load(download=True)


@contextlib.contextmanager
def naming_options() -> Iterator[None]:
    """Turn a ValueError of the networks or losses about an option into a UserError."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("bilayer: "):
            raise
        raise UserError(str(error).removeprefix("bilayer: ")) from error


class Scores:
    """The metrics of `losses_test` and `metrics` on a batch, by their published names.

    Prints a line for each metric that cannot be measured here, and leaves it out.
    """

    def __init__(self, args: options.Namespace, run: Run):
        names = list(dict.fromkeys([*args.metrics, *args.losses_test]))
        plain = options.plain(args)
        enhanced = "texture_enhancer" in args.networks_test
        fake = args.dis_fake_imgs_name if enhanced else "pred_target_imgs"
        settings: dict[str, Any] = {"device": run.device}
        settings["folders"] = lambda part: weights_folders(plain, part)
        if "pose_matching" in names:
            settings["detect"] = point_finder(run.print)
        psnr = tuple(part.strip() for part in args.psnr_loss_apply_to.split(","))
        pairs = [(["PSNR"] if "PSNR" in names else [], psnr)]
        pairs.append(([name for name in names if name != "PSNR"], (fake, "target_imgs")))
        self.parts = [Metrics(some, pair=pair, **settings) for some, pair in pairs if some]
        for part in self.parts:
            for line in part.absent + part.descriptions:
                run.print(line)

    def __call__(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The means over all images, scalars: G_PSNR and others."""
        scores: dict[str, Tensor] = {}
        for part in self.parts:
            if all(name in data for name in part.pair):
                scores |= part(data)
        return scores


def point_finder(say: Callable[[str], None], backend: str = "auto") -> Detect | None:
    """A detector of 68 face points, for pose_matching.

    say      prints the reason if no detector is installed
    backend  name of the backend, see `for_heads`
    returns  None without a detector
    """
    from nets.data.detectors import for_heads, open_detector

    try:
        detector = open_detector(for_heads(backend))
    except UserError as error:
        say(f"pose_matching: {error}")
        return None

    def points(image: Tensor) -> Tensor | None:
        result = detector.faces(image.cpu())
        return result[0] if result else None

    return points


def scored_pass(
    net: Bilayer, batch: Mapping[str, Tensor], networks: list[str]
) -> dict[str, Tensor]:
    """The data of a test pass of the networks, see `Bilayer.forward`.

    With published_masking, all networks but the discriminator run a second time on the first pass's
    target images, as in the published test. So these are masked once more.
    """
    data = net(batch, networks)
    if net.options["published_masking"] and "target_imgs" in data:
        trained = network_names(net.options, "networks_train")
        again = [name for name in trained if name in net.names and name != "discriminator"]
        data = net({**batch, "target_imgs": data["target_imgs"]}, again)
    return data


@torch.no_grad()
def mean_scores(
    net: Bilayer,
    networks: list[str],
    batches: Iterable[Mapping[str, Any]],
    scores: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
    ranks: Ranks,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The mean scores over the batches of all ranks, and this rank's last pass.

    scores   data of a pass -> scores; a batch may lack some of them
    returns  the mean of each score over the batches that have it; the data of the last pass
    """
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    data: dict[str, Tensor] = {}
    for batch in batches:
        data = scored_pass(net, batch, networks)
        for name, value in scores(data).items():
            sums[name] = sums.get(name, 0.0) + float(value)
            counts[name] = counts.get(name, 0) + 1
    gathered = ranks.gather([sums, counts])
    names = sorted({name for rank_sums, _ in gathered for name in rank_sums})
    return {
        name: sum(s.get(name, 0.0) for s, _ in gathered) / sum(c.get(name, 0) for _, c in gathered)
        for name in names
    }, data
