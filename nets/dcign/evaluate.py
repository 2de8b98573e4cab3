"""Scores of a DC-IGN: correlation of latents and factors, leakage, re-rendering, recognition.

Batches without labels give reconstruction and leakage. Labels add correlation. The demo world of
heads, which can draw any head in any pose and light, gives all scores. A network of the entangled
regime can be evaluated beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nets import metrics as image_metrics
from nets.contracts import Batch
from nets.data.io import torch7
from nets.data.io.files import whole_file
from nets.data.scenes.batches import MIXED_FOLDERS, Source, in_file_order, unit
from nets.data.scenes.factors import FACTORS, MIXED, FactorTable
from nets.dcign import (
    DCIGN,
    LIKELIHOODS,
    Group,
    demo_metrics,
    factor_slice,
    kl_divergence,
    metrics,
    table_metrics,
    visuals,
)
from nets.dcign.data import open_batches
from nets.dcign.latents import BATCH, Latents, decode, encode, encode_batches, progress
from nets.dcign.metrics import BatchScores
from nets.dcign.options import sets
from nets.dcign.published import is_published
from nets.dcign.warm_start import load_network
from nets.errors import UserError
from nets.published import find, read_checkpoint
from nets.run import checkpoints, options, seeds
from nets.run.loader import in_order
from nets.run.options import Namespace, NonNegativeInt
from nets.run.precision import Precision
from nets.run.ranks import Ranks
from nets.run.run import Run

NUMBERS = ("lower_bound", "reconstruction", "kl", "mse")  # the columns of BatchScores.sums


@torch.no_grad()
def score_batches(
    net: DCIGN,
    likelihood: Callable[[Tensor, Tensor], Tensor],
    batches: Iterable[Batch],
    noise: Callable[[Tensor], Tensor] | None = None,
) -> list[BatchScores]:
    """Scores, codes and labels of each batch of scenes, computed without clamp.

    likelihood  negative log-likelihood, summed, of the decoder's parameters and images
    batches     with one batch of scenes each, on a new first axis, as a loader stacks them
    noise       a function of the code's mean that gives noise of its shape; None: no noise
    """
    rows: list[BatchScores] = []
    for batch in batches:
        image = unit(batch["image"][0])
        mu, log_variance = net.encode(image)
        z = mu if noise is None else net.sample(mu, log_variance, noise(mu))
        parameters = net.decode_parameters(z)
        reconstruction = likelihood(parameters, image)
        kl = kl_divergence(mu, log_variance)
        mse = (net.image(parameters) - image).square().flatten(1).mean(1).sum()
        rows.append(
            {
                "kind": int(batch["kind"]),
                "batch": int(batch["batch"]),
                "count": len(image),
                "sums": torch.stack([-reconstruction - kl, reconstruction, kl, mse]).double().cpu(),
                "mu": mu.float().cpu(),
                "labels": {name: batch[name][0].cpu() for name in FACTORS if name in batch},
            }
        )
    return rows


def validate(run: Run, args: Namespace, net: DCIGN, source: Source, step: int) -> list[BatchScores]:
    """The scores of all test batches, shared among ranks; empty if the run was asked to stop.

    Sorted by type and number, and equal on all ranks; see `score_batches`.
    """
    data = in_file_order(source)
    batches = in_order(data, 1, run.ranks, args.workers, args.on_bad_sample, run.print)
    generator = run.generator(step, "test")

    def noise(mu: Tensor) -> Tensor:
        return torch.randn(mu.shape, device=mu.device, generator=generator)

    rows = score_batches(
        net, LIKELIHOODS[args.likelihood], run.listen(batches), noise if args.sample else None
    )
    if run.stopping():
        return []
    gathered = [row for part in run.ranks.gather(rows) for row in part]
    return sorted(gathered, key=lambda row: (row["kind"], row["batch"]))


def summary(
    rows: Sequence[BatchScores], kinds: Sequence[str], groups: Sequence[Group]
) -> dict[str, float]:
    """Mean scores per image, of all types and of each type, and correlations of latents.

    within_FACTOR  |r| of the factor and its latent within a batch, mean over the type's batches
    pooled_FACTOR  |r| over all images of all types
    With several latents, and for angles of a full turn, it is `metrics.multiple_correlation`. The
    correlations need labels.
    """
    sums = torch.stack([row["sums"] for row in rows])
    counts = torch.tensor([row["count"] for row in rows], dtype=torch.float64)
    kind = torch.tensor([row["kind"] for row in rows])
    means = sums.sum(0) / counts.sum()
    result = {f"test_{name}": value for name, value in zip(NUMBERS, means.tolist(), strict=True)}
    if len(kinds) == 1:
        return result
    for i, name in enumerate(kinds):
        here = kind == i
        if here.any():
            bound = sums[here, 0].sum() / counts[here].sum()
            result[f"test_lower_bound_{name}"] = bound.item()
    for i, group in enumerate(groups[:-1]):
        mine = [row for row in rows if row["kind"] == i and group.name in row["labels"]]
        if not mine:
            continue
        own = factor_slice(groups, group.name, rows[0]["mu"].shape[1])
        truth = torch.cat([row["labels"][group.name] for row in rows])
        turns = metrics.is_full_turn(truth)
        within = [
            metrics.multiple_correlation(row["mu"][:, own], row["labels"][group.name], turns)
            for row in mine
        ]
        everything = torch.cat([row["mu"][:, own] for row in rows])
        pooled = metrics.multiple_correlation(everything, truth, turns)
        result[f"within_{group.name}"] = torch.stack(within).mean().item()
        result[f"pooled_{group.name}"] = pooled.item()
    return result


PROTOCOL = {
    "code": "codes are posterior means, without clamp or noise, of persons not trained on",
    "correlation": (
        "absolute Pearson's r (spearman: of ranks) of a factor and its own latent. within: in "
        "batches in which only that factor changes, mean over batches. pooled: over all test "
        "images. azimuth halves: over half its range, multiplied by the sign of the pooled r. With "
        "several latents, or an angle of a full turn: multiple correlation of the factor, or of "
        "its cosine and sine, with the own latents, the root of the mean R^2"
    ),
    "bound": (
        "lower bound of the log-likelihood in nats, the published test figure: per image, and "
        "summed over the images of a batch, mean over batches, as published. Codes are sampled. "
        "mean_code: of the mean of the code, as test_lower_bound in a training log"
    ),
    "leakage": (
        "active: share of the own latents in the within-batch variance of all latents. own: share "
        "of the own type of batch in a latent's within-batch variances, each divided by the "
        "latent's variance over all images. 1 is best"
    ),
    "rerender": (
        "the own latent is set to the value for another value of its factor, by a piecewise "
        "linear map through medians in 20 bins of training images. MSE of grey values in [0, 1] "
        "against the exact image. copy: the unchanged image; own: the reconstruction of the exact "
        "image; azimuth+light: both set at once. In a table the truth is another image of the same "
        "person, equal in the other factors; unchanged: the source's reconstruction; mean: "
        "the mean training image in the same of 20 bins of the factor"
    ),
    "swap": "as rerender, for pose and light latents of one head with shape latents of another",
    "curves": (
        "cosine of the shape latents, minus their mean, to those of the same head at 0; at both "
        "ends of the factor's range; mean of 20 heads"
    ),
    "decoding": (
        "R^2 of ridge regression from all latents, the own one, or all others, on unseen heads "
        "in which all factors change"
    ),
    "scores": (
        "DCI by absolute weights of ridge regressions; MIG in 20 bins; SAP by linear R^2. Gaps "
        "between the best and the second latent; _own: between the best own latent and the best "
        "of the others. beta_vae and factor_vae: accuracy of the classifiers of Higgins et al. "
        "2017 (algorithm 1) and Kim and Mnih 2018 (section 4): which factor do 64 pairs, or 64 "
        "images, share; classes as in MIG, 800 sets to train and 800 to test"
    ),
    "recognition": (
        "50 unseen persons, known from 5 near-frontal images; 10 images each in any pose and "
        "light. nearest: by cosine; linear: by ridge regression"
    ),
    "ssim": f"{image_metrics.PROTOCOL['ssim']}; of the first {demo_metrics.SSIM_OF} images",
}


# fmt: off
def add_options(p: options.ArgumentParser) -> None:
    """Add the options of evaluate.py for DC-IGN."""
    add = p.add_argument_group("DC-IGN").add_argument
    add("--test_batches", type=NonNegativeInt, default=0,
        help="test batches of each type; 0: all")
    add("--entangled", type=str | None, default=None, metavar="RUN",
        help="run of --regime entangled, or its checkpoint, for comparison")
    add("--preds", type=str | None, default=None, metavar="DIR",
        help="folder for the reconstructions of all test batches, TYPE/predsN, Torch7 files as the "
        "published program writes them")
    add("--figure", type=str | None, default=None, metavar="PNG",
        help="file of the scatter plots; default: beside the report")
# fmt: on


def evaluate(
    args: options.Namespace, content: dict[str, Any], path: Path, ranks: Ranks
) -> dict[str, Any]:
    """The report: all measures that the data allows. Also writes the scatter plots.

    content  of the checkpoint at `path`
    Raises UserError for options or data that cannot be used.
    """
    out = Path(args.figure or Path(args.out).with_name(f"{Path(args.out).stem}_scatter.png"))
    if out.suffix.lower() != ".png":
        raise UserError(f"--figure {out}: must end in .png")
    if args.figure:
        visuals.require_matplotlib()
    if args.entangled:
        file = find(args.entangled)
        other = read_checkpoint(file, "dcign")
        if other["options"].get("regime") != "entangled":
            raise UserError(f"--entangled {file}: must be a run of --regime entangled")
    precision = Precision(args.precision, ranks.device, args.channels_last)
    report = measure(args, content, path, precision, out)
    if args.entangled:
        print(f"for comparison {checkpoints.describe(other, file)}")
        second = measure(args, other, file, precision, out.with_stem(f"{out.stem}_entangled"))
        report |= {f"entangled {name}": part for name, part in second.items() if name != "data"}
    return report | {"protocol": PROTOCOL}


@torch.no_grad()
def measure(
    args: options.Namespace, content: dict[str, Any], path: Path, precision: Precision, out: Path
) -> dict[str, Any]:
    """The report on one network; `out` is the file of its scatter plots."""
    net, trained = load_network(content, path, precision)
    data = args.data or (named_data(content, path) if is_published(content) else None)
    known = training_table(trained)
    if data:
        trained |= {"data": data, "num_train_batches_per_type": None,
                    "num_test_batches_per_type": None}  # fmt: skip
    unseen = open_test_batches(trained)
    if known is None:
        try:
            known = training_table(trained)
        except UserError as error:
            print(f"re-rendering is not measured: {error}")
    latents = Latents(net, trained, known=known)
    each = args.test_batches or max(unseen.counts.values())
    with precision.autocast():
        codes, labels = encode_batches(net, unseen, each)
        count = sum(c.shape[0] * c.shape[1] for c in codes.values())
        print(f"{count} test images of {unseen.name}, {trained['regime']} regime")
        report = {"data": unseen.name, "regime": trained["regime"], "images": count}
        report["reconstruction"] = {"mse": reconstruction(net, unseen, each)}
        report["bound"] = bound(net, unseen, each, args.seed)
        if args.preds:
            write_reconstructions(net, unseen, sets(trained), Path(args.preds))
        if MIXED in unseen.counts:
            print("batches in which everything changes: leakage and correlation are not measured")
            return report
        report["leakage"] = leakage(latents, codes)
        if not all(set(FACTORS) & named.keys() for named in labels.values()):
            print("no labels: correlation and re-rendering are not measured")
            return report
        report["correlation"] = correlation(latents, codes, labels)
        if isinstance(unseen, FactorTable) and isinstance(known, FactorTable):
            for name, part in table_metrics.rerendering(latents, unseen, known).items():
                report[f"rerender {name}"] = part
            return report | table_metrics.readings(latents, unseen, known)
        if not isinstance(unseen, demo_metrics.Renderer):
            return report
        scene = demo_metrics.test_scene(unseen, each)
        for name, part in demo_metrics.rerendering(latents, unseen, scene).items():
            report[f"rerender {name}"] = part
        report["swap"] = demo_metrics.swaps(latents, unseen, scene)
        result = demo_metrics.grids(latents, unseen)
        try:
            visuals.scatter(out, result, f"{trained['regime']}, step {content['step']}")
            print(f"written: {out}")
        except UserError as error:
            print(f"no scatter plots: {error}")
        report["curves"] = {
            f"{name}_{end}": grid["similarity"][place].item()
            for name, grid in result.items()
            for end, place in (("low", 0), ("high", -1))
        }
        report["curves"]["tables"] = {
            name: {key: column.tolist() for key, column in grid.items()}
            for name, grid in result.items()
        }
        report |= demo_metrics.readings(latents, unseen)
        report["recognition"] = demo_metrics.recognitions(latents, unseen)
    return report


def named_data(content: dict[str, Any], path: Path) -> str:
    """The data set that the options of a published network name, `datasetdir` of cmd_options.txt.

    It is searched from the working directory, and from the folder that holds the networks' folder.
    Raises UserError if it does not exist.
    """
    name = (content["options"].get("command") or {}).get("datasetdir")
    for place in (Path(), Path(path).resolve().parent.parent):
        if name and (place / name).is_dir():
            print(f"data of the network's options: {place / name}")
            return str(place / name)
    what = f"; its options name {name}, which does not exist here" if name else ""
    raise UserError(f"{path}: a published network needs --data, a folder of batches{what}")


def open_test_batches(trained: dict[str, Any]) -> Source:
    """The test batches on the data of these options, of each type if the data has them.

    A folder of batches may have batches of any size. A table gives all images that differ in one
    factor only. `trained` gets a batch_size of None then. The demo world gives batches of 20, for
    any --batch_size of the training: in batches of few images |r| is large by chance.
    """
    asked = {**trained, "regime": "disentangled"}
    if trained["data"] is None:
        count = trained["num_test_batches_per_type"]
        asked |= {"batch_size": BATCH, "num_test_batches_per_type":
                  count and -(-count * trained["batch_size"] // BATCH)}  # fmt: skip
        return open_batches(asked, sets(trained), "test")
    root = Path(trained["data"])
    asked["batch_size"] = trained["batch_size"] = None
    table = (root / "factors.csv").is_file() or list(root.glob("th_*_VARIED"))
    if not table and (root / MIXED_FOLDERS["test"]).is_dir():
        asked["regime"] = "entangled"
    return open_batches(asked, sets(trained), "test")


def training_table(options: Mapping[str, Any]) -> FactorTable | None:
    """The table that a run was trained on, in batches of any size; None if it had none."""
    if not options["data"] or not (Path(options["data"]) / "factors.csv").is_file():
        return None
    source = open_batches({**options, "regime": "disentangled", "batch_size": None,
                           "num_train_batches_per_type": None}, sets(options), "train")  # fmt: skip
    return source if isinstance(source, FactorTable) else None


def bound(net: DCIGN, unseen: Source, each: int, seed: int) -> dict[str, float]:
    """Lower bounds in nats over `each` test batches of each type; see PROTOCOL."""
    device = next(net.parameters()).device
    generator = seeds.generator(seed, "bound", 0, device=device)

    def noise(mu: Tensor) -> Tensor:
        return torch.randn(mu.shape, device=device, generator=generator)

    def rows(noise: Callable[[Tensor], Tensor] | None, what: str) -> list[BatchScores]:
        places = [(i, kind, n) for i, (kind, count) in enumerate(unseen.counts.items())
                  for n in range(min(count, each))]  # fmt: skip
        batches = (
            {"image": unseen.read(kind, n)["image"][None].to(device), "kind": i, "batch": n}
            for i, kind, n in progress(places, what)
        )
        return score_batches(net, LIKELIHOODS[net.likelihood], batches, noise)

    sampled = rows(noise, "lower bound")
    result = {name.removeprefix("test_"): value
              for name, value in summary(sampled, list(unseen.counts), ()).items()
              if name != "test_mse"}  # fmt: skip
    total = torch.stack([row["sums"] for row in sampled]).sum(0)[0].item()
    result["lower_bound_per_batch"] = total / len(sampled)
    mean_code = summary(rows(None, "lower bound of mean codes"), (MIXED,), ())
    return result | {"lower_bound_mean_code": mean_code["test_lower_bound"]}


def reconstruction(net: DCIGN, unseen: Source, each: int) -> float:
    """Mean squared error of grey values in [0, 1], over `each` test batches of each type."""
    errors = []
    for kind, count in unseen.counts.items():
        for number in progress(range(min(count, each)), f"reconstructions of type {kind}"):
            image = unit(unseen.read(kind, number)["image"])
            errors.append(metrics.mean_squared_error(decode(net, encode(net, image)), image))
    return torch.cat(errors).mean().item()


def write_reconstructions(
    net: DCIGN, unseen: Source, folders: Mapping[str, str], out: Path
) -> None:
    """Write the reconstructions of all test batches as the published program does.

    folders  type -> name of its set of batches
    Batch N of a type is OUT/SET/predsN, one of a folder without types OUT/predsN: a float tensor
    (B, 1, S, S), of the code's mean.
    """
    for kind, count in unseen.counts.items():
        place = out if kind == MIXED else out / folders[kind]
        for number in progress(range(count), f"reconstructions of type {kind}"):
            image = decode(net, encode(net, unit(unseen.read(kind, number)["image"])))
            with whole_file(place / f"preds{number + 1}") as file:
                torch7.write(file, image)
    print(f"written: {out}/: reconstructions of {sum(unseen.counts.values())} test batches")


def leakage(latents: Latents, codes: dict[str, Tensor]) -> dict[str, Any]:
    """Leakage of codes {type: (B, N, D)}: TYPE_active, FACTOR_own, and tables by type."""
    matches = metrics.leakage(codes, latents.owners)
    result: dict[str, Any] = {f"{name}_active": share for name, share in matches.active.items()}
    result |= {f"{name}_own": matches.own[name].mean().item() for name in latents.factors}
    tables = {"variance": matches.variance, "relative": matches.relative}
    result["tables"] = {
        name: {kind: row.tolist() for kind, row in table.items()} for name, table in tables.items()
    }
    return result


def correlation(
    latents: Latents, codes: dict[str, Tensor], labels: dict[str, dict[str, Tensor]]
) -> dict[str, Any]:
    """Correlations of each labelled factor with its latent, and a matrix of latents and factors.

    codes   {type: (B, N, D)}
    labels  {type: {name: (B, N)}}, radians
    """
    result: dict[str, Any] = {}
    matrix: dict[str, dict[str, float]] = {}
    named = [n for n in latents.factors if all(n in known for known in labels.values())]
    for name in named:
        own = latents.owners[name]
        factor = torch.cat([known[name].flatten() for known in labels.values()])
        code = torch.cat([codes[kind][..., own].flatten(0, 1) for kind in codes])
        turns = metrics.is_full_turn(factor)
        if turns or code.shape[1] > 1:
            within_batches = metrics.multiple_correlation(
                codes[name][..., own], labels[name][name], turns
            )
            everywhere = metrics.multiple_correlation(code, factor, turns)
            result |= {
                f"{name}_within": within_batches.mean().item(),
                f"{name}_pooled": everywhere.item(),
            }
            continue
        latent = code[:, 0]
        within = metrics.within_batch(codes[name][..., own.start], labels[name][name])
        pooled = metrics.pooled(latent, factor)
        result |= {
            f"{name}_within": within["pearson"],
            f"{name}_within_spearman": within["spearman"],
            f"{name}_pooled": pooled["pearson"],
            f"{name}_pooled_spearman": pooled["spearman"],
        }
        if name == "azimuth":
            result |= {f"azimuth_{h}": pooled[h] for h in ("negative_half", "positive_half")}
        matrix[name] = {
            other: metrics.pearson(
                latent, torch.cat([known[other].flatten() for known in labels.values()])
            ).item()
            for other in named
        }
    return result | {"matrix": matrix}
