"""Images that show what a VUNet has learnt: reconstructions, samples, transfers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nets.run.images import labelled_grid, tile
from nets.run.loader import loader
from nets.run.run import Run
from nets.vunet.data import PersonInputs, signed
from nets.vunet.network import Noise, VUNet


@torch.no_grad()
def transfers(
    net: VUNet,
    poses: Tensor,
    appearances: Tensor,
    noise_scale: float = 0.0,
    generator: torch.Generator | None = None,
    at_once: int = 16,
) -> Tensor:
    """Images (A, P, 3, S, S), float32 in about [-1, 1]: A appearances in P poses.

    poses        (P, 3, S, S) drawn poses
    appearances  (A, 24, s, s) or (A, 3, S, S), as `net` takes them; each is encoded once
    noise_scale  of the noise added to the latents; 0: their means, deterministic
    at_once      images in one pass, which bounds the memory
    """
    rows = []
    for appearance in appearances:
        noise = None
        if noise_scale:
            noise = tuple(noise_scale * n for n in net.noise(1, poses.device, generator).posterior)
        _, given = net.encode(appearance[None], noise)
        row = []
        for some in poses.split(at_once):
            latents = tuple(z.expand(len(some), -1, -1, -1) for z in given)
            row.append(net.decode(some, latents)[0].float())
        rows.append(torch.cat(row))
    return torch.stack(rows)


@torch.no_grad()
def reconstructions(
    net: VUNet, inputs: PersonInputs, batch: Mapping[str, Any], noise: Noise
) -> dict[str, Tensor]:
    """x the targets, c the poses, sample the targets again from noisy latents, test_sample images
    drawn from the prior for the same poses; (N, 3, S, S) each.
    """
    pose, appearance = inputs(batch)
    return {
        "x": batch["target"],
        "c": pose,
        "sample": net(pose, appearance, "train", noise).image,
        "test_sample": net(pose, mode="sample", noise=noise).image,
    }


@torch.no_grad()
def transfer_grid(net: VUNet, inputs: PersonInputs, batch: Mapping[str, Any]) -> Tensor:
    """The cells of a batch's transfer grid, row by row: ((N + 1)^2, 3, S, S).

    First row: a neutral cell, then the N poses. Row i: source image i, then it in every pose.
    """
    pose, appearance = inputs(batch)
    sources = signed(inputs.source(batch)[0])
    rows = [torch.cat([torch.zeros_like(pose[:1]), pose])]
    for source, row in zip(sources, transfers(net, pose, appearance), strict=True):
        rows.append(torch.cat([source[None], row]))
    return torch.cat(rows)


IMAGE_NAMES = {  # what the program of the image form calls what `reconstructions` does
    "x": "target", "c": "pose", "sample": "images_prediction",
    "test_sample": "images_prediction_sample",
}  # fmt: skip


def show(run: Run, step: int, net: VUNet, inputs: PersonInputs, batch: Any, prefix: str) -> None:
    """Reconstructions and samples of a batch, under the names of the form's published program."""
    noise = net.noise(len(batch["target"]), run.device, run.generator(step, "show"))
    generated = reconstructions(net, inputs, batch, noise)
    if run.args.variant == "image":
        generated = {IMAGE_NAMES[name]: images for name, images in generated.items()}
        generated["appearance"] = inputs.source(batch)[0]
    for name, images in generated.items():
        run.image(prefix + name, step, images)


def show_transfer(
    run: Run, step: int, net: VUNet, inputs: PersonInputs, batch: Any, alone: bool = False
) -> None:
    """The transfer grid of a batch; `alone`: of no training step, the file is transfer_<step>."""
    cells = tile(transfer_grid(net, inputs, batch), columns=len(batch["target"]) + 1)
    run.image(*_called("transfer", step, alone), cells)


def show_samples(
    run: Run, step: int, net: VUNet, inputs: PersonInputs, batch: Any, alone: bool = False
) -> None:
    """Poses, and images drawn from the prior for them."""
    noise = net.noise(len(batch["target"]), run.device, run.generator(step, "show"))
    pose = inputs.pose(batch["joints"])
    run.image(*_called("testing_cond", step, alone), pose)
    generated = net(pose, mode="sample", noise=noise).image
    run.image(*_called("testing_test_sample", step, alone), generated)


def _called(name: str, step: int, alone: bool) -> tuple[str, int | None]:
    return (f"{name}_{step}", None) if alone else (name, step)


@torch.no_grad()
def final_image(run: Run, net: VUNet, inputs: PersonInputs, data: Any, bad: str) -> None:
    """Four people in the poses of four others, and what a perfect transfer shows if it is known."""
    n = min(4, len(data))
    batch = loader(data, 2 * n, run.ranks, shuffle=False, on_bad_sample=bad).batch(0)
    poses, appearances = inputs(batch)
    sources, poses = signed(inputs.source(batch)[0]), poses[-n:]
    generated = transfers(net, poses, appearances[:n])
    rows, names = [[None, *poses]], ["pose"]
    for i in range(n):
        rows.append([sources[i], *generated[i]])
        names.append("source, transfers")
        if hasattr(data, "transfer_truth"):
            ids = (batch["outfit"][i].expand(n), batch["pose"][-n:], batch["background"][-n:])
            rows.append([None, *data.transfer_truth(*(t.cpu() for t in ids))["image"]])
            names.append("truth")
    path = run.image("final", run.step - 1, labelled_grid(rows, names))
    run.print(f"sources, poses, transfers: {path}")
