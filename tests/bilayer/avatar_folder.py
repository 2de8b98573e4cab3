"""A small dataset folder of heads without the demo world: discs with 68 points."""

import torch

from nets.data.heads.videos import write_frame


def face_points(size, turn=0.0):
    """68 points in pixels, roughly in the form of a face."""
    t = torch.linspace(0, torch.pi, 17)
    jaw = torch.stack([-t.cos() * 0.7, t.sin() * 0.8], 1)
    ring = torch.linspace(0, 2 * torch.pi, 13)[:12]

    def oval(x, y, rx, ry, count):
        at = ring[:: 12 // count] if 12 % count == 0 else torch.linspace(0, 6, count)
        return torch.stack([x + rx * at.cos(), y + ry * at.sin()], 1)

    def row(x0, y0, x1, y1, count):
        s = torch.linspace(0, 1, count)[:, None]
        return torch.tensor([[x0, y0]]) * (1 - s) + torch.tensor([[x1, y1]]) * s

    parts = [jaw, row(-0.5, -0.4, -0.1, -0.4, 5), row(0.1, -0.4, 0.5, -0.4, 5)]
    parts += [row(0, -0.3, 0, 0.1, 4), row(-0.2, 0.2, 0.2, 0.2, 5)]
    parts += [oval(-0.3, -0.2, 0.12, 0.06, 6), oval(0.3, -0.2, 0.12, 0.06, 6)]
    parts += [oval(0, 0.5, 0.3, 0.12, 12), oval(0, 0.5, 0.2, 0.05, 8)]
    points = torch.cat(parts)
    assert points.shape == (68, 2)
    return (points + torch.tensor([turn, 0.0]) + 1.2) / 2.4 * size


def write_folder(root, phases=("train", "test"), people=2, frames=4, size=48, masks=True):
    """`root`, as a dataset folder with one video per person.

    The frames are named 0, 1, ...; the red of a frame is 40 times its number, the green 60 times
    the number of its person.
    """
    yy, xx = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    disc = (((xx - size / 2) ** 2 + (yy - size / 2) ** 2) < (0.4 * size) ** 2)[None]
    for phase in phases:
        for person in range(people):
            for frame in range(frames):
                colour = torch.tensor([40 * frame, 60 * person, 100], dtype=torch.uint8)
                image = torch.where(disc, colour[:, None, None], 255).to(torch.uint8)
                name = f"id{person}/video/00/{frame}"
                points = face_points(size, frame * 0.05)
                mask = disc.byte() * 255 if masks else None
                write_frame(root, phase, name, image, points, mask)
    return root
