"""Small regressors that read an image: the head's azimuth, and how far mouth and lids are open.

evaluate.py measures with them whether driven images follow the driver. Their weights are fixed:
`readers.safetensors`, trained on ground truth of training persons of the demo world by

    python -m nets.bilayer.readers OUT.safetensors

They read images of any size. Half of the examples are blurred, as results of networks are.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from nets.layers import signed
from nets.random import uniform
from nets.run.files import write_atomic
from nets.tensor_files import read_plain, write_safetensors
from nets.worlds.heads.videos import HeadVideos

WEIGHTS = Path(__file__).with_name("readers.safetensors")
SIDE = 32  # side of the input of `AzimuthReader` and of the squares of `OpeningReader`, pixels
MOUTH, EYE = 0.26, 0.14  # half the sides of the squares, in halves of an image
DRAWN = 128  # side of the examples, pixels
EXAMPLES = 8200  # each of another person
STEPS, BATCH, RATE = 600, 64, 2e-3  # the rate falls to 0; azimuths take a third of the steps
SEED = 1  # of the world: none that evaluate.py scores by default


class HeadExamples(NamedTuple):
    """Ground truth: images (N, 3, S, S) in [-1, 1] on black, poses (N, 136) and what they show."""

    image: Tensor
    pose: Tensor
    azimuth: Tensor  # (N,) radians
    openings: Tensor  # (N, 2): of the mouth and of the lids, decimetres


def cut_out(image: Tensor, mask: Tensor) -> Tensor:
    """Images (N, 3, S, S) in [-1, 1] on black, by masks (N, 1, S, S) in [0, 1]."""
    return image.clamp(-1, 1) * mask - (1 - mask)


def openings_of(mouth: Tensor, lids: Tensor) -> Tensor:
    """(N, 2): the opening of the mouth (N,), and the mean of both eyes' lids (N, 2)."""
    return torch.stack([mouth, lids.mean(-1)], -1).float()


def examples(count: int = EXAMPLES, size: int = DRAWN, seed: int = SEED) -> HeadExamples:
    """Ground truth of `count` training persons."""
    world = HeadVideos("train", size, sources=0, seed=seed, length=count)
    parts: list[tuple[Tensor, ...]] = []
    for start in tqdm(range(0, count, BATCH), "examples", unit="batch", disable=None):
        places = [(0, i) for i in range(start, min(start + BATCH, count))]
        for s in world.__getitems__(places):
            image = cut_out(signed(s["target_imgs"]), s["target_segs"].float() / 255)
            openings = openings_of(s["target_mouth"], s["target_lids"])
            azimuth = s["target_scene"]["azimuth"].float()
            parts.append((image.half(), s["target_poses"], azimuth, openings))
    return HeadExamples(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _layers(outputs: int) -> nn.Sequential:
    """Convolutions of (N, 3, SIDE, SIDE) down to a side of 4, and a fully connected layer."""
    layers: list[nn.Module] = []
    for a, b, stride in ((3, 24, 2), (24, 32, 1), (32, 48, 2), (48, 64, 1), (64, 64, 2)):
        layers += [nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * (SIDE // 8) ** 2, outputs))


class AzimuthReader(nn.Module):
    """A regressor of azimuths (N,), radians, from images (N, 3, S, S) in [-1, 1] on black."""

    def __init__(self) -> None:
        super().__init__()
        self.net = _layers(1)

    def forward(self, images: Tensor) -> Tensor:
        small = F.interpolate(images.float(), (SIDE, SIDE), mode="area")
        return self.net(small)[:, 0]


class OpeningReader(nn.Module):
    """A regressor of openings (N, 2), decimetres: of the mouth, and of the lids.

    It sees squares of fixed size around the mouth and the eyes. The nose and the corners of the
    eyes, which stay where they are when mouth and lids move, say where the squares are. So only the
    image tells the opening. A square's own mean and contrast are taken out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mouth, self.lids = _layers(1), _layers(2)
        self.scale = nn.Parameter(torch.ones(2, 2), requires_grad=False)  # mean and spread

    def forward(self, images: Tensor, poses: Tensor) -> Tensor:
        """Openings of images (N, 3, S, S) in [-1, 1] with poses (N, 136)."""
        return self.of_squares(squares(images, poses))

    def of_squares(self, parts: Tensor) -> Tensor:
        """Openings of (N, 3, 3, SIDE, SIDE), as `squares` cuts them out."""
        parts = parts.float()
        parts = parts - parts.mean((2, 3, 4), keepdim=True)
        parts = parts / (parts.square().mean((2, 3, 4), keepdim=True).sqrt() + 0.05)
        mouth = self.mouth(parts[:, 0])[:, 0]
        eyes = torch.stack([parts[:, 1], parts[:, 2].flip(-1)], 1)
        value, weight = self.lids(eyes.flatten(0, 1)).unflatten(0, (-1, 2)).unbind(-1)
        lids = (value * weight.softmax(1)).sum(1)  # an eye that is hidden says little
        return torch.stack([mouth, lids], 1) * self.scale[1] + self.scale[0]


def squares(images: Tensor, poses: Tensor) -> Tensor:
    """Squares around mouth, right eye and left eye, (N, 3, 3, SIDE, SIDE), in float32.

    images  (N, 3, S, S)
    poses   (N, 136) in [-1, 1]
    """
    p = poses.float().unflatten(1, (-1, 2))
    nose = p[:, 33] - p[:, 27]  # from between the eyes down to its base
    right, left = p[:, [36, 39]].mean(1), p[:, [42, 45]].mean(1)
    place = (torch.arange(SIDE, device=p.device) * 2 + 1) / SIDE - 1
    grid = torch.stack(torch.meshgrid(place, place, indexing="xy"), -1)
    parts = []
    for centre, half in ((p[:, 33] + 0.6 * nose, MOUTH), (right, EYE), (left, EYE)):
        at = centre[:, None, None] + grid * half
        parts.append(F.grid_sample(images.float(), at, "bilinear", "border", align_corners=False))
    return torch.stack(parts, 1)


@functools.cache
def load_readers() -> tuple[AzimuthReader, OpeningReader]:
    """Both regressors, in evaluation mode, on the CPU."""
    held = read_plain(WEIGHTS)
    readers = AzimuthReader(), OpeningReader()
    for name, reader in zip(("azimuth", "opening"), readers, strict=True):
        own = {k.removeprefix(f"{name}."): v.float() if v.is_floating_point() else v
               for k, v in held.items() if k.startswith(f"{name}.")}  # fmt: skip
        reader.load_state_dict(own)
        reader.eval().requires_grad_(False)
    return readers


def _fit(
    net: nn.Module, what: str, batch: Callable[[Tensor, int], tuple[Tensor, Tensor]], count: int,
    call: Callable[[Tensor], Tensor], spread: Tensor, steps: int
) -> None:  # fmt: skip
    """Train a regressor; `batch` gives inputs and ground truth of (BATCH,) examples in a step."""
    net.train()
    optimizer = torch.optim.AdamW(
        [p for p in net.parameters() if p.requires_grad], RATE, weight_decay=0.02
    )
    draw = uniform(0, f"readers {what}", torch.arange(steps * BATCH), 1)[:, 0]
    for step in tqdm(range(steps), f"regressor of {what}", unit="step", disable=None):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        inputs, truth = batch((draw[step * BATCH : (step + 1) * BATCH] * count).long(), step)
        optimizer.zero_grad()
        ((call(inputs) - truth) / spread).square().mean().backward()
        optimizer.step()
    net.eval()


def train_readers(
    known: HeadExamples, steps: int = STEPS, seed: int = 0
) -> tuple[AzimuthReader, OpeningReader]:
    """Both regressors, trained on examples, in evaluation mode.

    A half of the squares comes from images of half the size, and a half is blurred.
    """
    torch.manual_seed(seed)
    azimuth, opening = AzimuthReader(), OpeningReader()
    parts = list(zip(known.image.split(256), known.pose.split(256), strict=True))
    small = torch.cat([F.interpolate(i.float(), (SIDE, SIDE), mode="area") for i, _ in parts])
    halves = [(F.avg_pool2d(image.float(), 2), pose) for image, pose in parts]
    cut = [torch.cat([squares(*part).half() for part in of]) for of in (parts, halves)]
    count, openings = len(small), known.openings

    def of_azimuth(chosen: Tensor, step: int) -> tuple[Tensor, Tensor]:
        return _blurred(small[chosen], step), known.azimuth[chosen]

    def of_openings(chosen: Tensor, step: int) -> tuple[Tensor, Tensor]:
        x, truth = cut[step % 2][chosen].float(), openings[chosen]
        if step % 4 > 1:  # mirrored: the eyes change places
            x = x[:, [0, 2, 1]].flip(-1)
        return _blurred(x.flatten(0, 1), step // 4).view_as(x), truth

    _fit(
        azimuth,
        "azimuths",
        of_azimuth,
        count,
        azimuth,
        known.azimuth.std(),
        steps // 3,
    )
    opening.scale.copy_(torch.stack([openings.mean(0), openings.std(0)]))
    _fit(opening, "openings", of_openings, count, opening.of_squares, openings.std(0), steps)
    return azimuth, opening


def _blurred(x: Tensor, step: int) -> Tensor:
    """Images (N, 3, H, W), blurred in every other step."""
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) if step % 2 else x


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the readers of azimuths and openings.")
    parser.add_argument("out", type=Path, help="the .safetensors to write")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="count of images")
    parser.add_argument("--steps", type=int, default=STEPS, help="count of steps")
    args = parser.parse_args()
    save(args.out, *train_readers(examples(args.examples), args.steps))


def save(out: Path, azimuth: AzimuthReader, opening: OpeningReader) -> None:
    """Write the weights of both regressors in float16."""
    named = {"azimuth": azimuth, "opening": opening}
    state = {f"{name}.{k}": v.half() if v.is_floating_point() else v
             for name, net in named.items() for k, v in net.state_dict().items()}  # fmt: skip
    write_atomic(out, lambda file: write_safetensors(file, state, {}))
    print(f"written: {out}")


if __name__ == "__main__":
    main()
