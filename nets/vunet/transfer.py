"""Pictures that show what a VUNet has learnt: reconstructions, samples, transfers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .inputs import Inputs, signed
from .network import Noise, VUNet


@torch.no_grad()
def transfers(
    net: VUNet,
    poses: Tensor,
    appearances: Tensor,
    noise_scale: float = 0.0,
    generator: torch.Generator | None = None,
    at_once: int = 16,
) -> Tensor:
    """Pictures (A, P, 3, S, S), float32 in about [-1, 1]: A appearances in P poses.

    poses        (P, 3, S, S) drawn poses
    appearances  (A, 24, s, s) or (A, 3, S, S), as `net` takes them; each is encoded once
    noise_scale  of the noise added to the latents; 0: their means, deterministic
    at_once      pictures in one pass, which bounds the memory
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
    net: VUNet, inputs: Inputs, batch: Mapping[str, Any], noise: Noise
) -> dict[str, Tensor]:
    """x the targets, c the poses, sample the targets again from noisy latents, test_sample pictures
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
def transfer_grid(net: VUNet, inputs: Inputs, batch: Mapping[str, Any]) -> Tensor:
    """The cells of a batch's transfer grid, row by row: ((N + 1)^2, 3, S, S).

    First row: a neutral cell, then the N poses. Row i: source picture i, then it in every pose.
    """
    pose, appearance = inputs(batch)
    sources = signed(inputs.source(batch)[0])
    rows = [torch.cat([torch.zeros_like(pose[:1]), pose])]
    for source, row in zip(sources, transfers(net, pose, appearance), strict=True):
        rows.append(torch.cat([source[None], row]))
    return torch.cat(rows)
