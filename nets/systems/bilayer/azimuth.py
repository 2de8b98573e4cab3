"""How a head is turned, read from its picture: a small regressor, trained on true renderings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.data.worlds.head_videos import HeadVideos

SIDE = 32  # pixels of what the regressor sees
DRAWN = 64  # pixels at most of what it learns from; larger ones would only take longer to draw
STEPS, BATCH, RATE = 400, 64, 2e-3


class AzimuthReader(nn.Module):
    """Azimuths (N,) in radians from pictures (N, 3, S, S) in [-1, 1], cut out before black."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * (SIDE // 8) ** 2, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        small = F.interpolate(pictures.float(), (SIDE, SIDE), mode="area")
        return self.net(small)[:, 0]


def cut_out(picture: Tensor, mask: Tensor) -> Tensor:
    """Pictures (N, 3, S, S) in [-1, 1] before black, by masks (N, 1, S, S) in [0, 1]."""
    return picture.clamp(-1, 1) * mask - (1 - mask)


def train_reader(size: int, device: torch.device, seed: int = 0) -> AzimuthReader:
    """A reader that has seen `STEPS` batches of true renderings of training persons, in
    evaluation mode; the same on every call.
    """
    world = HeadVideos("train", min(size, DRAWN), sources=0, seed=seed + 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = AzimuthReader()
    reader.to(device).train()
    optimizer = torch.optim.Adam(reader.parameters(), RATE)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        places = [divmod(step * BATCH + i, len(world)) for i in range(BATCH)]
        samples = world.__getitems__(places)
        picture = torch.cat([s["target_imgs"] for s in samples]).to(device).float() / 127.5 - 1
        mask = torch.cat([s["target_segs"] for s in samples]).to(device).float() / 255
        azimuth = torch.cat([s["target_scene"]["azimuth"] for s in samples]).float().to(device)
        loss = (reader(cut_out(picture, mask)) - azimuth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return reader.eval()
