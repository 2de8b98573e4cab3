"""Plots of a DC-IGN's evaluation, as the paper has them: inferred latents against true factors."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from nets.data.files import whole_file


def scatter(path: Path, grids: Mapping[str, Mapping[str, Tensor]], title: str) -> None:
    """Write a PNG: above each factor's latent against its value, a dot a face; below how similar
    the shape latents stay to those at 0.

    grids  what `truth.grids` gives
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no display is asked for
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
