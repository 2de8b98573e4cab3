"""The image that a training run leaves of each test and epoch: one line a sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nets.bilayer.data import prepare, stickmen
from nets.bilayer.warm_start import Loaded
from nets.data.heads.faces import normalised_pose
from nets.data.io.images import write_image
from nets.data.io.video_writer import write_gif
from nets.errors import UserError
from nets.run import options
from nets.run.images import labelled_grid, tile
from nets.run.loader import to_device
from nets.worlds.heads.export import motion
from nets.worlds.heads.videos import RANGES, HeadVideos

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
    """Each column's images of the first `rows` samples, (rows, 3, S, S), in [-1, 1]."""
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


FRAMES, EVERY, FPS = 16, 6, 8.0  # of the animation: every sixth frame of a motion of 25 a second


def layers(stem: Path, passes: Sequence[dict[str, Tensor]], networks: Sequence[str]) -> None:
    """Write STEM_layers.png: a line a pass, its layers under captions."""
    networks = [*networks, "discriminator"]  # whose column is the driving stickman
    rows = [[cell[0] for cell in cells(data, networks, 1)] for data in passes]
    captions = [title for title, _ in columns_of(passes[0], networks)]
    path = stem.with_name(f"{stem.name}_layers.png")
    sheet = labelled_grid(rows, column_captions=captions)
    write_image(path, torch.from_numpy(sheet.copy()).permute(2, 0, 1))
    print(f"written: {path}: {', '.join(captions)}")


def animation(
    path: Path,
    world: Any,
    renderers: Sequence[Callable[[Tensor], Tensor]],
    samples: Sequence[dict[str, Any]],
) -> None:
    """Write a GIF: a line a person, with source, driver's stick figure, avatar and exact truth; the
    driver is another person of the test phase in motion.
    """
    if not isinstance(world, HeadVideos):
        raise UserError(f"--out {path}: animations of a run's own data need the demo world")
    moved = motion(1, FRAMES * EVERY, ranges=RANGES)
    scene = {name: value[::EVERY] for name, value in moved.items()}
    other = world[0, len(world) - 1]
    driver = _shown(world, other, scene)
    poses = normalised_pose(driver["points"], world.size)
    drawn = ((stickmen(poses[None], world.size)[0] + 1) * 127.5).round().byte()
    lines = []
    for render, sample in zip(renderers, samples, strict=True):
        source = _on_white(sample["source_imgs"][:1], sample["source_segs"][:1, 0] > 127)
        truth = _shown(world, sample, scene)
        row = [source.expand(FRAMES, -1, -1, -1), drawn, render(poses)]
        lines.append(torch.cat([*row, _on_white(truth["image"], truth["mask"])], 3))
    write_gif(path, torch.cat(lines, 2), FPS)
    print(f"written: {path}: source, driver, avatar, truth")


def _on_white(image: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask[:, None], image, 255)


def _shown(
    world: HeadVideos, sample: dict[str, Any], scene: dict[str, Tensor]
) -> dict[str, Tensor]:
    """A sample's person and background under its own light, in every pose of a scene."""
    own = {**scene, "light": sample["target_scene"]["light"][:1].expand(FRAMES)}
    who = (sample[name].expand(FRAMES) for name in ("person", "background"))
    return world.truth(*who, own)


def enhancing(args: options.Namespace, model: Loaded) -> bool:
    """Whether the enhancer is to run. Raises UserError where it is asked for and not there."""
    available = "texture_enhancer" in model.net.names
    if args.enhancer and not available:
        raise UserError("--enhancer: this checkpoint has no texture_enhancer")
    return available if args.enhancer is None else args.enhancer


def full_pass(args: options.Namespace, model: Loaded, sample: dict[str, Tensor]) -> dict:
    """Everything that the networks make of a sample: sources n, targets t."""
    networks = [n for n in model.options["networks_test"] if n in model.net.names]
    if not enhancing(args, model):
        networks = [n for n in networks if n != "texture_enhancer"]
    batch = {name: value[None] for name, value in sample.items() if isinstance(value, Tensor)}
    data = prepare(to_device(batch, model.device), model.options)
    with torch.no_grad(), model.precision.autocast():
        return model.net(data, networks)


def write_layers(file: Path, data: dict[str, Tensor], model: Loaded) -> None:
    """The visual grid: a line a target, everything that went into its image."""
    networks = [*model.options["networks_test"], "discriminator"]  # for the driving stickman
    count = data["target_poses"].shape[1]
    rows = {}
    for name, value in data.items():
        if isinstance(value, Tensor) and value.ndim > 2 and value.shape[:1] == (1,):
            each = value[0] if value.shape[1] == count else value[0][:1].expand(
                count, *value.shape[2:]
            )  # fmt: skip
            rows[name] = each[:, None]
    image = grid(rows, networks, count)
    write_image(file, torch.from_numpy(image.copy()).permute(2, 0, 1))
    names = ", ".join(title for title, _ in columns_of(rows, networks))
    print(f"written: {file}: {names}")
