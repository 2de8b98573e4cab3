"""Scores of landmarks on clips without annotations: reconstructions, masks, and the spread."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from nets import metrics
from nets.contracts import Batch
from nets.data.clips.clips import Clips
from nets.errors import UserError
from nets.landmarks import LandmarkModel
from nets.layers import signed
from nets.run.images import to_uint8

MOVED = 25  # levels of 255; a pixel that differs more from its clip's median has moved

PROTOCOL = {
    "reconstruction": (
        "reconstruction: each frame from its own landmarks and the appearance of another frame of "
        "its clip; L1 over all pixels and over the moving ones, in units of the full range; "
        "baselines: the other frame (copy), and the mean of the training frames"
    ),
    "moving": (
        f"moving pixels: those in which a channel differs by more than {MOVED} of 255 from the "
        "median of the clip's frames (background subtraction); what never moves is background"
    ),
    "mask": (
        "mask: IoU of the mask above 0.5 and the moving pixels; recall: the share of the moving "
        "pixels inside the mask; frames without moving pixels are left out"
    ),
    "spread": (
        "spread: root mean square distance from the centre, of the landmarks and of the moving "
        "pixels, as shares of the image's side; inside: the share of landmarks within 0.05 of the "
        "side of a moving pixel"
    ),
}
_NEAR = 0.05  # of the image's side


def medians(data: Clips) -> Tensor:
    """The per-pixel median of each clip's frames, (clips, 3, S, S) uint8."""
    result = []
    for clip, count in enumerate(data.source.counts):
        box = data.source.box(clip, 0)
        whole = [data.source.read(clip, frame, box, data.size) for frame in range(int(count))]
        result.append(torch.stack(whole).median(0).values)
    return torch.stack(result)


def moving(frame: Tensor, median: Tensor) -> Tensor:
    """Pixels (N, S, S) bool of frames (N, 3, S, S) uint8 that differ from the clips' medians."""
    return ((frame.int() - median.int()).abs() > MOVED).any(1)


def spread(points: Tensor, weight: Tensor) -> Tensor:
    """Root mean square distance of weighted points from their mean, (N,).

    points  (N, K, 2)
    weight  (N, K), not all 0
    """
    weight = (weight / weight.sum(1, keepdim=True))[..., None]
    centre = (points * weight).sum(1, keepdim=True)
    return ((points - centre).square() * weight).sum((1, 2)).sqrt()


def scores(
    net: LandmarkModel, batches: Iterable[Batch], data: Clips, mean: Tensor
) -> dict[str, dict[str, Any]]:
    """Scores of held-out frames, with means over the frames; see PROTOCOL.

    batches  of `data`, a dataset with partners
    mean     (3, S, S) uint8, the mean of the training frames
    Raises UserError if nothing moves in the clips.
    """
    behind = medians(data)
    rows: dict[str, list[Tensor]] = {}
    side = data.size
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    grid = ((torch.stack([x, y], -1).reshape(-1, 2) + 0.5) / side).double()

    def add(name: str, values: Tensor) -> None:
        rows.setdefault(name, []).append(values.double().cpu())

    for batch in batches:
        frame, partner = batch["frame"], batch["partner"]
        clip = [data.place(int(i))[0] for i in batch["index"]]
        moved = moving(frame, behind[clip].to(frame.device))
        out = net(signed(frame), signed(partner))
        images = {"l1": to_uint8(out.reconstruction), "copy": partner, "mean": mean}
        some = moved.flatten(1).any(1)
        everywhere = torch.ones_like(moved)
        for name, image in images.items():
            image = image.to(frame.device).expand_as(frame)
            add(name, metrics.masked_l1(image, frame, everywhere))
            add(f"{name}_moving", metrics.masked_l1(image[some], frame[some], moved[some]))
        if out.mask is not None:
            mask = out.mask[some, 0] > 0.5
            both = (mask & moved[some]).sum((1, 2)).double()
            add("iou", both / (mask | moved[some]).sum((1, 2)))
            add("recall", both / moved[some].sum((1, 2)))
        points = net.landmarks(signed(frame)).means.double().cpu() / 2 + 0.5  # shares of the side
        add("landmarks", spread(points, torch.ones(points.shape[:2], dtype=torch.float64)))
        weight = moved[some].flatten(1).double().cpu()
        add("pixels", spread(grid.expand(len(weight), -1, -1), weight))
        near = torch.cdist(points[some.cpu()], grid.expand(len(weight), -1, -1))
        near = near.masked_fill(weight[:, None] == 0, 2.0).amin(2)
        add("inside", (near <= _NEAR).double().mean(1))
    if not any(len(values) for values in rows.get("pixels", [])):
        raise UserError(f"{data.name}: no pixel of the clips moves; there is nothing to score")
    summary = {name: metrics.summary(torch.cat(values)) for name, values in rows.items()}
    result: dict[str, dict[str, Any]] = {"reconstruction": {}, "spread": {}}
    for part in ("", "_moving"):
        for name, key in (("l1", "l1"), ("copy", "l1_copy"), ("mean", "l1_mean_image")):
            result["reconstruction"][f"{key}{part}"] = summary[f"{name}{part}"]
        error = summary[f"l1{part}"]["mean"]
        for name, key in (("copy", "copy"), ("mean", "mean_image")):
            baseline = summary[f"{name}{part}"]["mean"]
            if baseline:
                result["reconstruction"][f"ratio_to_{key}{part}"] = error / baseline
    if "iou" in summary:
        result["mask"] = {name: summary[name] for name in ("iou", "recall")}
    result["spread"] = {name: summary[name] for name in ("landmarks", "pixels", "inside")}
    return result
