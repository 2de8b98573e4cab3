"""Rows of the rasteriser: meshes as large as the heads of the demo world, at its sizes."""

import torch

from benchmarks.op_rows.row import Row
from nets.ops import draw_mesh, rasterise
from nets.ops.raster import draw_mesh_reference, rasterise_reference

N, COLUMNS, ROWS_ = 8, 80, 45  # 7,040 triangles; a head has some 8,000
SAMPLES = 2


def make(size, drawn):
    """Bumpy spheres that fill the image, each turned another way."""
    u, v = torch.meshgrid(torch.linspace(0, 1, COLUMNS), torch.linspace(0, 1, ROWS_), indexing="ij")
    generator = torch.Generator().manual_seed(0)
    turn = torch.rand(N, 1, generator=generator)
    angle, height = 6.2832 * (u.flatten() + turn), 3.1416 * v.flatten()
    radius = 0.45 * size * (1 + 0.08 * (7 * angle).sin() * (5 * height).sin())
    ring = radius * height.sin()
    x, y, z = ring * angle.cos(), -radius * height.cos(), ring * angle.sin()
    points = torch.stack([x + size / 2, y + size / 2, z], -1).float().contiguous()
    first = (torch.arange(COLUMNS - 1)[:, None] * ROWS_ + torch.arange(ROWS_ - 1)).flatten()
    corners = [first, first + 1, first + ROWS_, first + 1 + ROWS_]
    one, two = ((0, 1, 2), (1, 3, 2))
    triangles = torch.cat([torch.stack([corners[i] for i in t], 1) for t in (one, two)]).int()
    if not drawn:
        return lambda device: (points.to(device), triangles.to(device))
    shades = torch.rand(N, COLUMNS * ROWS_, 7, generator=generator)
    shades[..., 6] = 1
    uv = torch.stack([u.flatten(), v.flatten()], 1).contiguous()
    texture = torch.randint(0, 256, (N, 256, 256, 4), dtype=torch.uint8, generator=generator)
    inputs = (points, triangles, shades, uv, texture)
    return lambda device: tuple(t.to(device) for t in inputs)


def finite(call):
    """The call, with depths of empty samples that can be subtracted."""
    return lambda *inputs: tuple(t.nan_to_num(neginf=-1e9) for t in call(*inputs))


def row(size, drawn):
    pixels = N * size * size
    samples = pixels * SAMPLES**2
    ours, formula = draw_mesh, draw_mesh_reference
    if not drawn:
        ours, formula = finite(rasterise), finite(rasterise_reference)
    points = N * COLUMNS * ROWS_
    return Row(
        name="draw_mesh" if drawn else "rasterise",
        size=f"{N}x{size}x{size}, {2 * (COLUMNS - 1) * (ROWS_ - 1)} triangles",
        make=make(size, drawn),
        ours=lambda *inputs: ours(*inputs, size, SAMPLES),
        formula=lambda *inputs: formula(*inputs, size, size, SAMPLES),
        reads=points * (10 if drawn else 3) * 4 + (N * 256 * 256 * 4 if drawn else 0),
        writes=pixels * 4 if drawn else samples * 16,
        exact=True,
        compiled=False,  # the reference is a Python loop over parts of the mesh
    )


ROWS = [row(128, False), row(128, True), row(64, True)]
