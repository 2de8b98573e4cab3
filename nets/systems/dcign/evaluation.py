"""Scores of a DC-IGN: what its latents stand for, what leaks, and what it draws against the truth.

On batches with labels the first two; on the demo world of heads, where every head can be drawn in
any pose and light, all of them, and beside those of a network of the entangled regime.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nets import metrics
from nets.data.batches import FACTORS, open_batches, unit
from nets.errors import UserError
from nets.run import checkpoints, options
from nets.run.options import NonNegativeInt
from nets.run.precision import Precision
from nets.run.ranks import Ranks
from nets.systems.dcign import figures, measures, truth
from nets.systems.dcign.latents import Latents, decode, encode, encode_batches
from nets.systems.dcign.options import sets

from . import load_network

# Pictures in a test batch of the demo world, as published, whatever the training took: within
# batches of few pictures |r| is large by chance.
BATCH = 20
PROTOCOL = {
    "code": "codes are posterior means, without clamp or noise, of persons never trained on",
    "correlation": (
        "absolute Pearson's r (spearman: of ranks) of a factor and its own latent: within batches "
        "in which only that factor changes, averaged; pooled over all test pictures; of azimuth "
        "also of each half, with the sign of the whole's r"
    ),
    "leakage": (
        "active: share of the within-batch variance of all latents that the own ones have; own: "
        "of a latent's within-batch variances, over its variance in all pictures, the share of its "
        "own type of batch; 1 is best"
    ),
    "rerender": (
        "the own latent set to the value that stands for another factor (piecewise linear map "
        "through medians in 20 bins, of training pictures), against the exact picture; MSE of grey "
        "values in [0, 1]; copy: the picture as it was; own: reconstruction of the exact picture; "
        "azimuth+light: both set at once"
    ),
    "swap": "pose and light latents of one head with the shape latents of another, likewise",
    "curves": (
        "cosine of the shape latents (minus their mean) to those of the same head at 0, at both "
        "ends of the factor's range, mean of 20 heads"
    ),
    "decoding": (
        "R^2 on unseen heads, where everything changes, of ridge regression from all latents, the "
        "own one, or all others"
    ),
    "scores": (
        "DCI by absolute weights of ridge regressions; MIG in 20 bins; SAP by linear R^2; gap of "
        "best to second latent, _own: of the best own latent to the best of the others"
    ),
    "recognition": (
        "of 50 unseen persons, known from 5 near-frontal pictures, 10 pictures each in any pose "
        "and light: nearest by cosine, and linear by ridge regression"
    ),
    "ssim": f"{metrics.PROTOCOL['ssim']}; of the first {truth.SSIM_OF} pictures",
}


# fmt: off
def add_options(p: options.ArgumentParser) -> None:
    add = p.add_argument_group("DC-IGN").add_argument
    add("--test_batches", type=NonNegativeInt, default=0,
        help="test batches of each type to look at; 0: all")
    add("--entangled", type=str | None, default=None, metavar="RUN",
        help="a run of --regime entangled, or its checkpoint, to compare with")
    add("--figure", type=str | None, default=None, metavar="PNG",
        help="the scatter plots; default: beside the report")
# fmt: on


def evaluate(args: options.Namespace, content: dict[str, Any], path: Path, ranks: Ranks) -> dict:
    """All measures that the data allows; also writes the scatter plots."""
    out = Path(args.figure or Path(args.out).with_name(f"{Path(args.out).stem}_scatter.png"))
    if out.suffix.lower() != ".png":
        raise UserError(f"--figure {out}: must end in .png")
    if args.data_index:
        raise UserError("--data_index: not for DC-IGN; give --data_root, a folder of batches")
    if args.entangled:
        file = checkpoints.find(args.entangled)
        other = checkpoints.read(file, "dcign")
        if other["options"].get("regime") != "entangled":
            raise UserError(f"--entangled {file}: a run of another regime")
    precision = Precision(args.precision, ranks.device, args.channels_last)
    report = measure(args, content, path, precision, out)
    if args.entangled:
        print(f"beside it {checkpoints.describe(other, file)}")
        beside = measure(args, other, file, precision, out.with_stem(f"{out.stem}_entangled"))
        report |= {f"entangled {name}": part for name, part in beside.items() if name != "data"}
    return report | {"protocol": PROTOCOL}


@torch.no_grad()
def measure(
    args: options.Namespace, content: dict[str, Any], path: Path, precision: Precision, out: Path
) -> dict[str, Any]:
    """The report's parts for one network."""
    net, trained = load_network(content, path, precision)
    if args.data_root:
        trained |= {"datasetdir": args.data_root, "num_train_batches_per_type": None,
                    "num_test_batches_per_type": None}  # fmt: skip
    elif "kind" in content:
        raise UserError(f"{path}: a published network; --data_root, a folder of batches, is needed")
    latents = Latents(net, trained)
    asked = {**trained, "regime": "disentangled"}
    if trained["datasetdir"] is None:
        count = trained["num_test_batches_per_type"]
        asked |= {"bsize": BATCH, "num_test_batches_per_type":
                  count and -(-count * trained["bsize"] // BATCH)}  # fmt: skip
    unseen = open_batches(asked, sets(trained), "test")
    each = args.test_batches or max(unseen.counts.values())
    with precision.autocast():
        codes, labels = encode_batches(net, unseen, each)
        count = sum(c.shape[0] * c.shape[1] for c in codes.values())
        print(f"{count} test pictures of {unseen.name}, {trained['regime']} regime")
        report = {"data": unseen.name, "regime": trained["regime"], "images": count}
        report["reconstruction"] = {"mse": reconstruction(net, unseen, each)}
        report["leakage"] = leakage(latents, codes)
        if not all(set(FACTORS) & of.keys() for of in labels.values()):
            print("no labels: correlations and pictures cannot be judged")
            return report
        report["correlation"] = correlation(latents, codes, labels)
        if not hasattr(unseen, "draw"):
            return report
        scene = truth.test_scene(unseen, each)
        for name, part in truth.rerendering(latents, unseen, scene).items():
            report[f"rerender {name}"] = part
        report["swap"] = truth.swaps(latents, unseen, scene)
        found = truth.grids(latents, unseen)
        figures.scatter(out, found, f"{trained['regime']}, step {content['step']}")
        print(f"written: {out}")
        report["curves"] = {
            f"{name}_{end}": grid["similarity"][place].item()
            for name, grid in found.items()
            for end, place in (("low", 0), ("high", -1))
        }
        report["curves"]["tables"] = {
            name: {key: column.tolist() for key, column in grid.items()}
            for name, grid in found.items()
        }
        report |= truth.readings(latents, unseen)
        report["recognition"] = truth.recognitions(latents, unseen)
    return report


def reconstruction(net: Any, unseen: Any, each: int) -> float:
    """Mean squared error of grey values over the test pictures."""
    errors = []
    for kind, count in unseen.counts.items():
        for number in range(min(count, each)):
            image = unit(unseen.read(kind, number)["image"])
            errors.append(measures.mean_squared_error(decode(net, encode(net, image)), image))
    return torch.cat(errors).mean().item()


def leakage(latents: Latents, codes: dict[str, Tensor]) -> dict[str, Any]:
    found = measures.leakage(codes, latents.owners)
    result: dict[str, Any] = {f"{name}_active": share for name, share in found.active.items()}
    result |= {f"{name}_own": found.own[name].mean().item() for name in latents.factors}
    tables = {"variance": found.variance, "relative": found.relative}
    result["tables"] = {
        name: {kind: row.tolist() for kind, row in table.items()} for name, table in tables.items()
    }
    return result


def correlation(
    latents: Latents, codes: dict[str, Tensor], labels: dict[str, dict[str, Tensor]]
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    matrix: dict[str, dict[str, float]] = {}
    named = [n for n in latents.factors if all(n in of for of in labels.values())]
    for name in named:
        index = latents.owners[name].start
        latent = torch.cat([code[..., index].flatten() for code in codes.values()])
        within = measures.within_batch(codes[name][..., index], labels[name][name])
        factor = torch.cat([of[name].flatten() for of in labels.values()])
        pooled = measures.pooled(latent, factor)
        result |= {
            f"{name}_within": within["pearson"],
            f"{name}_within_spearman": within["spearman"],
            f"{name}_pooled": pooled["pearson"],
            f"{name}_pooled_spearman": pooled["spearman"],
        }
        if name == "azimuth":
            result |= {f"azimuth_{h}": pooled[h] for h in ("negative_half", "positive_half")}
        matrix[name] = {
            other: measures.pearson(
                latent, torch.cat([of[other].flatten() for of in labels.values()])
            ).item()
            for other in named
        }
    return result | {"matrix": matrix}
