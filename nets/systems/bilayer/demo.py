"""Pictures of a run on the demo world: every layer, and people who follow a moving driver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nets.data.faces import normalised_pose
from nets.data.pictures import write_picture
from nets.data.video_writer import write_gif
from nets.data.worlds.head_videos import RANGES, HeadVideos
from nets.data.worlds.heads_folder import motion
from nets.errors import UserError
from nets.run.images import labelled_grid
from nets.systems.bilayer.grid import cells, columns_of
from nets.systems.bilayer.inputs import stickmen

FRAMES, EVERY, FPS = 16, 6, 8.0  # of the animation: every sixth frame of a motion of 25 a second


def layers(stem: Path, passes: Sequence[dict[str, Tensor]], networks: Sequence[str]) -> None:
    """Write STEM_layers.png: a line a pass, its layers under captions."""
    networks = [*networks, "discriminator"]  # whose column is the driving stickman
    rows = [[cell[0] for cell in cells(data, networks, 1)] for data in passes]
    captions = [title for title, _ in columns_of(passes[0], networks)]
    path = stem.with_name(f"{stem.name}_layers.png")
    sheet = labelled_grid(rows, column_captions=captions)
    write_picture(path, torch.from_numpy(sheet.copy()).permute(2, 0, 1))
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


def _on_white(picture: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask[:, None], picture, 255)


def _shown(
    world: HeadVideos, sample: dict[str, Any], scene: dict[str, Tensor]
) -> dict[str, Tensor]:
    """A sample's person and background under its own light, in every pose of a scene."""
    own = {**scene, "light": sample["target_scene"]["light"][:1].expand(FRAMES)}
    who = (sample[name].expand(FRAMES) for name in ("person", "background"))
    return world.truth(*who, own)
