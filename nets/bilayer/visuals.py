"""Images of samples and their layers: the grids of a training run, and those of infer.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nets.bilayer.data import Avatars, prepare, stickmen
from nets.bilayer.warm_start import Loaded
from nets.contracts import Sample
from nets.data.heads.faces import normalised_pose
from nets.data.io.images import write_image
from nets.data.io.video_writer import write_gif
from nets.errors import UserError
from nets.run import options
from nets.run.images import labelled_grid, tile
from nets.run.loader import to_device
from nets.worlds.heads.export import motion
from nets.worlds.heads.videos import RANGES, HeadVideos

Columns = Sequence[tuple[str, str]]  # (title, name in the data of a pass)
# In the order of the published grids. "target" is the masked image that the losses compare with.
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
    """The columns that `data` has images for, left to right."""
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
    """The images of each column for the first `rows` samples, (rows, 3, S, S) in [-1, 1]."""
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
    """A grid of the first `rows` samples, one line per sample: uint8 (rows S, columns S, 3).

    The columns are those of `columns_of`, with the first source and target frame of a sample.
    UVs are shown as (u, v, -1).
    """
    columns = cells(data, networks, rows)
    return tile(torch.stack(columns, 1).flatten(0, 1), columns=len(columns))


# The animation takes every sixth frame of a motion with 25 frames a second.
FRAMES, EVERY, FPS = 16, 6, 8.0


def layers(stem: Path, passes: Sequence[dict[str, Tensor]], networks: Sequence[str]) -> None:
    """Write STEM_layers.png: one line per pass, its layers under captions."""
    networks = [*networks, "discriminator"]  # its column is the driving stick figure
    rows = [[cell[0] for cell in cells(data, networks, 1)] for data in passes]
    captions = [title for title, _ in columns_of(passes[0], networks)]
    path = stem.with_name(f"{stem.name}_layers.png")
    sheet = labelled_grid(rows, column_captions=captions)
    write_image(path, torch.from_numpy(sheet.copy()).permute(2, 0, 1))
    print(f"written: {path}: {', '.join(captions)}")


def animation(
    path: Path,
    world: Avatars,
    renderers: Sequence[Callable[[Tensor], Tensor]],
    samples: Sequence[Sample],
) -> None:
    """Write a GIF with one line per person: source, driving stick figure, avatar, ground truth.

    renderers  poses (N, 136) -> images (N, 3, S, S) uint8, one per sample
    The driving person is the last one of the test phase, in motion.
    Raises UserError if the data are not the demo world.
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


def demo_row(render: Callable[[Tensor], Tensor], sample: Sample) -> list[Tensor | None]:
    """Source, points of the target as a stick figure, result and ground truth, (3, S, S) uint8.

    render  poses (N, 136) -> images (N, 3, S, S) uint8
    Source and ground truth are on white if the sample has masks.
    """
    poses, size = sample["target_poses"][:1], sample["target_imgs"].shape[-1]
    drawn = ((stickmen(poses[None], size)[0] + 1) * 127.5).round().byte()
    shown = {role: sample[f"{role}_imgs"][:1] for role in ("source", "target")}
    for role, image in shown.items():
        if f"{role}_segs" in sample:
            shown[role] = _on_white(image, sample[f"{role}_segs"][:1, 0] > 127)
    return [shown["source"][0], drawn[0], render(poses)[0], shown["target"][0]]


def _on_white(image: Tensor, mask: Tensor) -> Tensor:
    """Images (N, 3, S, S) uint8 on white, by masks (N, S, S) bool."""
    return torch.where(mask[:, None], image, 255)


def _shown(world: HeadVideos, sample: Sample, scene: dict[str, Tensor]) -> dict[str, Tensor]:
    """Ground truth of a sample's person in every pose of a scene, with its own light."""
    own = {**scene, "light": sample["target_scene"]["light"][:1].expand(FRAMES)}
    person, background = sample["person"].expand(FRAMES), sample["background"].expand(FRAMES)
    return world.truth(person, background, own)


def enhancing(args: options.Namespace, model: Loaded) -> bool:
    """True if the enhancer runs. Raises UserError if --enhancer needs a network that is missing."""
    available = "texture_enhancer" in model.net.names
    if args.enhancer and not available:
        raise UserError("--enhancer: this checkpoint has no texture_enhancer")
    return available if args.enhancer is None else args.enhancer


def full_pass(args: options.Namespace, model: Loaded, sample: Sample) -> dict[str, Tensor]:
    """The data of a pass of the networks of `networks_test` over one sample."""
    networks = [n for n in model.options["networks_test"] if n in model.net.names]
    if not enhancing(args, model):
        networks = [n for n in networks if n != "texture_enhancer"]
    batch = {name: value[None] for name, value in sample.items() if isinstance(value, Tensor)}
    data = prepare(to_device(batch, model.device), model.options)
    with torch.no_grad(), model.precision.autocast():
        return model.net(data, networks)


def write_layers(file: Path, data: dict[str, Tensor], model: Loaded) -> None:
    """Write a grid with one line per target: its layers, with the first source.

    data  of a pass over one sample
    """
    networks = [*model.options["networks_test"], "discriminator"]  # for the driving stick figure
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
