"""Images of a training run: reconstructions, samples, transfers."""

from __future__ import annotations

import colorsys

import torch
from torch import Tensor

from nets.contracts import Batch, PeopleDataset
from nets.layers import signed
from nets.run.images import labelled_grid, tile
from nets.run.loader import loader
from nets.run.run import Run
from nets.vunet.data import PersonInputs, has_truth
from nets.vunet.network import Noise, Pair, VUNet


def drawn_pose(pose: Tensor) -> Tensor:
    """Poses as images (N, 3, S, S) in [-1, 1], from the network's (N, C, S, S).

    Three channels are shown as they are. Others each have a colour of the rainbow on black, of
    which the brightest counts.
    """
    count = pose.shape[1]
    if count == 3:
        return pose
    result = torch.full_like(pose[:, :1].expand(-1, 3, -1, -1), -1)
    for i, channel in enumerate(pose.split(1, 1)):
        colour = pose.new_tensor(colorsys.hsv_to_rgb(i / count, 1, 1)).view(1, 3, 1, 1)
        result = torch.maximum(result, (channel + 1) * colour - 1)
    return result


@torch.no_grad()
def transfers(
    net: VUNet,
    poses: Tensor,
    appearances: Tensor,
    noise_scale: float = 0.0,
    generator: torch.Generator | None = None,
    at_once: int = 16,
) -> Tensor:
    """A appearances in P poses: images (A, P, 3, S, S), float32 in about [-1, 1].

    poses        (P, C, S, S), inputs of `net`
    appearances  (A, 24, s, s) or (A, 3, S, S), inputs of `net`; each is encoded once
    noise_scale  scale of the noise added to the latents; 0: their means, deterministic
    generator    of the noise
    at_once      images in one pass, which bounds the memory
    """
    rows = []
    for appearance in appearances:
        noise: Pair | None = None
        if noise_scale:
            coarse, fine = net.noise(1, poses.device, generator).posterior
            noise = noise_scale * coarse, noise_scale * fine
        _, latents = net.encode(appearance[None], noise)
        row = []
        for some in poses.split(at_once):
            coarse, fine = (z.expand(len(some), -1, -1, -1) for z in latents)
            row.append(net.decode(some, (coarse, fine))[0].float())
        rows.append(torch.cat(row))
    return torch.stack(rows)


@torch.no_grad()
def reconstructions(
    net: VUNet, inputs: PersonInputs, batch: Batch, noise: Noise
) -> dict[str, Tensor]:
    """Images (N, 3, S, S) of a batch, under the names of the parts form's published program.

    x            the targets
    c            their poses
    sample       reconstructions of the targets from posterior samples
    test_sample  images of the same poses from prior samples
    """
    pose, appearance = inputs(batch)
    return {
        "x": inputs.target(batch),
        "c": drawn_pose(pose),
        "sample": net(pose, appearance, "train", noise).image,
        "test_sample": net(pose, mode="sample", noise=noise).image,
    }


@torch.no_grad()
def transfer_grid(net: VUNet, inputs: PersonInputs, batch: Batch) -> Tensor:
    """Cells of a batch's transfer grid, row by row: ((N + 1)^2, 3, S, S) in [-1, 1].

    The first row is a grey cell and the N poses. Row i is source image i, then its transfers to
    every pose.
    """
    pose, appearance = inputs(batch)
    sources, shown = signed(inputs.source(batch)[0][:, :3]), drawn_pose(pose)
    rows = [torch.cat([torch.zeros_like(shown[:1]), shown])]
    for source, row in zip(sources, transfers(net, pose, appearance), strict=True):
        rows.append(torch.cat([source[None], row]))
    return torch.cat(rows)


IMAGE_NAMES = {  # names of `reconstructions` in the image form's published program
    "x": "target", "c": "pose", "sample": "images_prediction",
    "test_sample": "images_prediction_sample",
}  # fmt: skip


def show(run: Run, step: int, net: VUNet, inputs: PersonInputs, batch: Batch, prefix: str) -> None:
    """Write reconstructions and samples of a batch, named as by the form's published program."""
    noise = net.noise(len(batch["target"]), run.device, run.generator(step, "show"))
    generated = reconstructions(net, inputs, batch, noise)
    if run.args.variant == "image":
        generated = {IMAGE_NAMES[name]: images for name, images in generated.items()}
        generated["appearance"] = inputs.source(batch)[0][:, :3]
    for name, images in generated.items():
        run.image(prefix + name, step, images)


def show_transfer(
    run: Run, step: int, net: VUNet, inputs: PersonInputs, batch: Batch, numbered: bool = False
) -> None:
    """Write the transfer grid of a batch.

    numbered  `step` is the number of a grid, not a training step: the file is transfer_<step>.png
    """
    cells = tile(transfer_grid(net, inputs, batch), columns=len(batch["target"]) + 1)
    run.image(*_file_name("transfer", step, numbered), cells)


def show_samples(
    run: Run, step: int, net: VUNet, inputs: PersonInputs, batch: Batch, numbered: bool = False
) -> None:
    """Write the poses of a batch, and images of them from prior samples; see `show_transfer`."""
    noise = net.noise(len(batch["target"]), run.device, run.generator(step, "show"))
    pose = inputs.poses(batch)
    run.image(*_file_name("testing_cond", step, numbered), drawn_pose(pose))
    generated = net(pose, mode="sample", noise=noise).image
    run.image(*_file_name("testing_test_sample", step, numbered), generated)


def _file_name(name: str, step: int, numbered: bool) -> tuple[str, int | None]:
    """Name and step of an image for `Run.image`."""
    return (f"{name}_{step}", None) if numbered else (name, step)


@torch.no_grad()
def final_image(
    run: Run, net: VUNet, inputs: PersonInputs, data: PeopleDataset, on_bad_sample: str
) -> None:
    """Write four people in the poses of four others, with the ground truth if it is known."""
    n = min(4, len(data))
    batch = loader(data, 2 * n, run.ranks, shuffle=False, on_bad_sample=on_bad_sample).batch(0)
    poses, appearances = inputs(batch)
    sources, poses = signed(inputs.source(batch)[0][:, :3]), poses[-n:]
    generated = transfers(net, poses, appearances[:n])
    rows: list[list[Tensor | None]] = [[None, *drawn_pose(poses)]]
    names = ["pose"]
    for i in range(n):
        rows.append([sources[i], *generated[i]])
        names.append("source, transfers")
        if has_truth(data):
            ids = (batch["outfit"][i].expand(n), batch["pose"][-n:], batch["background"][-n:])
            rows.append([None, *data.transfer_truth(*(t.cpu() for t in ids))["image"]])
            names.append("truth")
    path = run.image("final", run.step - 1, labelled_grid(rows, names))
    run.print(f"sources, poses, transfers: {path}")
