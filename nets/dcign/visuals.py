"""Sheets of reconstructions and of sweeps of single latents, and scatter plots."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nets.data.io.files import whole_file
from nets.data.scenes.batches import Source, unit
from nets.dcign import DCIGN, factor_slice
from nets.dcign.metrics import BatchScores, set_latents
from nets.dcign.options import groups
from nets.errors import UserError
from nets.run.images import labelled_grid
from nets.run.options import Namespace
from nets.run.run import Run


def to_bytes(images: Tensor) -> Tensor:
    """Images as uint8 on the CPU, from images in [0, 1]."""
    return (images.float() * 255).round().clamp(0, 255).to(torch.uint8).cpu()


def sweep_values(low: float, high: float, steps: int) -> Tensor:
    """(steps,) values from low to high; a single one is the middle."""
    if steps == 1:
        return torch.tensor([(low + high) / 2])
    return torch.linspace(low, high, steps)


def bounds(latent: Tensor) -> tuple[float, float]:
    """The range of a sweep: the 1st and the 99th percentile of a latent's values."""
    low, high = torch.quantile(latent.flatten().float().cpu(), torch.tensor([0.01, 0.99]))
    return low.item(), high.item()


@torch.no_grad()
def sweep(net: DCIGN, code: Tensor, indices: Sequence[int], values: Tensor) -> Tensor:
    """Images (N, steps, 1, S, S) in [0, 1] of codes whose latents take the values of each step.

    code     (N, D)
    indices  numbers of the K latents that change together
    values   (steps, K)
    """
    rows = []
    for step in values:
        changed = code
        for index, value in zip(indices, step, strict=True):
            own = slice(index, index + 1)
            changed = set_latents(changed, own, value.expand(len(code), 1))
        rows.append(net.decode(changed))
    return torch.stack(rows, dim=1)


@torch.no_grad()
def sweep_sheet(
    net: DCIGN,
    image: Tensor,
    latents: Sequence[tuple[str, int, tuple[float, float]]],
    steps: int,
) -> np.ndarray:
    """A sheet (H, W, 3) uint8; each row has an input, its reconstruction and a sweep of a latent.

    image    (N, 1, S, S) in [0, 1], on the network's device
    latents  (name, number from 0, (low, high)) of each latent
    steps    images in a sweep
    """
    code = net.encode(image)[0]
    reconstructed = net.decode(code)
    swept = [
        sweep(net, code, [i], sweep_values(*ends, steps)[:, None].to(code))
        for _, i, ends in latents
    ]
    rows, names = [], []
    for n in range(len(image)):
        for (name, _, _), images in zip(latents, swept, strict=True):
            pair = torch.stack([image[n], reconstructed[n]])
            rows.append([*to_bytes(pair), *to_bytes(images[n])])
            names.append(name)
    ends = ["low", *[""] * (steps - 2), "high"] if steps > 1 else [""]
    return labelled_grid(rows, names, ["input", "reconstructed", *ends])


@torch.no_grad()
def reconstruction_sheet(net: DCIGN, image: Tensor) -> Tensor:
    """(2N, 1, S, S) uint8: each image, followed by its reconstruction from the code's mean."""
    reconstructed = net.decode(net.encode(image)[0])
    return to_bytes(torch.stack([image, reconstructed], dim=1).flatten(0, 1))


def show(
    run: Run,
    args: Namespace,
    net: DCIGN,
    source: Source,
    rows: Sequence[BatchScores],
    step: int,
    name: str = "sweeps",
) -> Path:
    """Write a sheet of sweeps and one of reconstructions, on rank 0; the path of the first.

    It sweeps the latents of the factors; in the entangled regime the four of largest variance.
    source  its first batch of the last type is shown
    rows    results of `evaluate.score_batches` for the source's batches; empty: nothing is written
    """
    path = run.folder / "images" / f"{name}_{step + 1:07d}.png"
    if not run.is_main or not rows:
        return path
    kind = list(source.counts)[-1]  # of type shape, if any: each image shows another person
    image = unit(source.read(kind, 0)["image"]).to(run.device)
    codes = torch.cat([row["mu"] for row in rows])
    if args.regime == "entangled":
        chosen = [(f"z{i + 1}", i) for i in codes.var(0).argsort(descending=True)[:4].tolist()]
    else:
        chosen = [
            (group.name, i)
            for group in groups(args)[:-1]
            for i in range(net.latents)[factor_slice(groups(args), group.name, net.latents)]
        ]
    latents = [(label, i, bounds(codes[:, i])) for label, i in chosen]
    run.image("reconstructions", step, reconstruction_sheet(net, image[:8]))
    return run.image(name, step, sweep_sheet(net, image[:2], latents, args.sweep_steps))


def require_matplotlib() -> None:
    """Raise UserError if matplotlib, which only plots need, is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("plots need matplotlib: pip install -e '.[plot]'")


def scatter(path: Path, grids: Mapping[str, Mapping[str, Tensor]], title: str) -> None:
    """Write a PNG with two plots per factor.

    Above: the latent against the true factor, one dot per image. Below: the cosine similarity of
    the shape latents to those at 0.
    grids  result of `demo_metrics.grids`
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # needs no display
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(grids), 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(grids), squeeze=False, height_ratios=[3, 2], sharex="col")
    for (name, grid), above, below in zip(grids.items(), axes[0], axes[1], strict=True):
        degrees = (grid["value"] * 180 / math.pi).tolist()
        for face in grid["latent"].tolist():
            above.plot(degrees, face, ".", markersize=2.5, alpha=0.6)
        above.set_title(f"{name}", fontsize=10)
        below.plot(degrees, grid["similarity"].tolist(), color="black", linewidth=1)
        below.set_ylim(min(0.0, *grid["similarity"].tolist()) - 0.02, 1.02)
        below.set_xlabel(f"true {name}, degrees", fontsize=9)
        for axis in (above, below):
            axis.grid(alpha=0.3)
            axis.tick_params(labelsize=8)
    axes[0][0].set_ylabel("inferred latent", fontsize=9)
    axes[1][0].set_ylabel("cosine of shape\nlatents to those at 0", fontsize=9)
    figure.suptitle(title, fontsize=10)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100, metadata={"Software": None})
    with whole_file(path) as file:
        file.write(data.getvalue())
