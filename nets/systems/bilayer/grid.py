"""The picture that a training run leaves of each test and epoch: one line a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from nets.run.images import tile

Columns = Sequence[tuple[str, str]]  # name of the column, what it shows
# In the order of the published grids; "target" is the cut-out one that the losses see.
EMBEDDER = (("source", "source_imgs"), ("source stickman", "source_stickmen"))
RENDERED = (
    ("source LF", "pred_source_delta_lf_rgbs"), ("source HF", "pred_source_delta_hf_rgbs"),
    ("source UV", "pred_source_uvs"), ("source mask", "pred_source_segs"),
    ("texture", "pred_tex_hf_rgbs"), ("enhanced texture", "pred_enh_tex_hf_rgbs"),
    ("target", "target_imgs"), ("prediction", "pred_target_imgs"),
    ("enhanced", "pred_enh_target_imgs"), ("LF", "pred_target_delta_lf_rgbs"),
    ("HF", "pred_target_delta_hf_rgbs"), ("enhanced HF", "pred_enh_target_delta_hf_rgbs"),
    ("UV", "pred_target_uvs"), ("mask", "target_segs"), ("predicted mask", "pred_target_segs"),
)  # fmt: skip
DISCRIMINATOR = (("target stickman", "target_stickmen"),)


def columns_of(data: Mapping[str, Tensor], networks: Sequence[str]) -> Columns:
    """The columns that there is something for, left to right."""
    groups = (("identity_embedder", EMBEDDER), ("inference_generator", RENDERED),
              ("discriminator", DISCRIMINATOR))  # fmt: skip
    return [
        column
        for network, group in groups
        if network in networks
        for column in group
        if column[1] in data and (column[1] != "target_segs" or "pred_target_segs" in data)
    ]


def cells(data: Mapping[str, Tensor], networks: Sequence[str], rows: int) -> list[Tensor]:
    """Each column's pictures of the first `rows` samples, (rows, 3, S, S), in [-1, 1]."""
    columns = []
    for _, name in columns_of(data, networks):
        value = data[name].detach()[:rows, 0].float().cpu()
        if name.endswith("_uvs"):
            value = value.permute(0, 3, 1, 2)
            value = torch.cat([value, torch.full_like(value[:, :1], -1)], 1)
        elif name.endswith("_segs"):
            value = (value * 2 - 1).expand(-1, 3, -1, -1)
        columns.append(value)
    return columns


def grid(data: Mapping[str, Tensor], networks: Sequence[str], rows: int) -> np.ndarray:
    """The first `rows` samples, first source and target frame of each, one line a sample: uint8
    (rows S, columns S, 3), columns as `columns_of` says. UVs show as (u, v, -1).
    """
    columns = cells(data, networks, rows)
    return tile(torch.stack(columns, 1).flatten(0, 1), columns=len(columns))
