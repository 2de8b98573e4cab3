"""Writes the images of inference: one file, or a grid and a folder of single images."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from nets.data.io.images import write_image
from nets.data.io.names import Paths, distinct, pair_name
from nets.errors import UserError
from nets.run import options
from nets.run.images import labelled_grid, to_uint8

TILE = 256  # pixels of a tile of a demo, at least


def write_grid(
    args: options.Namespace,
    rows: list[str],
    sources: list[Tensor | None],
    columns: list[str],
    poses: Tensor,
    images: Tensor,
) -> None:
    """Writes one image to --out, or a grid to --out and single images to a folder beside it.

    rows     names of the source images
    sources  the source images, (3, S, S) uint8; None leaves a cell empty
    columns  names of the driving images
    poses    (P, 3, S, S) in [-1, 1], the images above the columns
    images   (len(rows), len(columns), 3, S, S) in [-1, 1], the results
    Raises UserError if --out is neither an image nor a folder.
    """
    out = Path(args.out)
    rows, columns = distinct(rows), distinct(columns)
    folder = out.with_suffix("")
    if not out.suffix or out.is_dir() or args.out.endswith("/"):
        folder, out = out, out / "grid.png"
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--out {out}: must end in .png or .jpg, or be a folder")
    results = to_uint8(images).cpu()
    if results.shape[:2] == (1, 1) and not args.grid:
        write_image(out, results[0, 0])
        print(f"written: {out}")
        return
    cells: list[list[Tensor | None]] = [[None, *to_uint8(poses).cpu()]]
    cells += [[s if s is None else s.cpu(), *row] for s, row in zip(sources, results, strict=True)]
    grid = labelled_grid(cells, ["", *rows], ["", *columns])
    write_image(out, torch.from_numpy(grid.copy()).permute(2, 0, 1))
    paths = Paths()
    for (i, row), (j, column) in product(enumerate(rows), enumerate(columns)):
        write_image(paths(folder / pair_name(row, column, ".png")), results[i, j])
    print(f"written: {out} and {len(rows) * len(columns)} images in {folder}/")


def write_demo(out: str, columns: list[str], rows: list[list[Tensor | None]]) -> None:
    """Writes a grid of large, labelled tiles: what infer.py shows without -s and -d.

    columns  captions, such as "source"
    rows     images of one size, (C, S, S), uint8 or in [-1, 1]; None leaves a cell empty
    Raises UserError if `out` is not the name of an image.
    """
    path = Path(out)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--out {out}: must end in .png or .jpg")
    grid = labelled_grid(rows, (), columns, gap=4, height=TILE)
    write_image(path, torch.from_numpy(grid.copy()).permute(2, 0, 1))
    print(f"written: {path}")
