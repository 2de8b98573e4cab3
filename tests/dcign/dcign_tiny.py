"""A checkpoint of a small DC-IGN with random weights, whose images follow its code."""

from __future__ import annotations

from pathlib import Path

import torch

from nets.dcign import DCIGN
from nets.run import checkpoints

SIZE, LATENTS = 48, 8


def network(seed: int = 1) -> DCIGN:
    torch.manual_seed(seed)
    net = DCIGN(LATENTS, maps=8, image_size=SIZE)
    with torch.no_grad():
        net.mu.weight.mul_(3000)
        net.expand.weight.mul_(30)
        net.decoder[-1].weight.mul_(30)
    return net.eval()


def write_run(folder: Path, seed: int = 1, **options: object) -> Path:
    """The run folder, with one checkpoint; options as train_dcign.py writes them."""
    defaults = {
        "dim_hidden": LATENTS, "feature_maps": 8, "image_size": SIZE, "likelihood": "bernoulli",
        "groups": ["azimuth=1", "elevation=1", "light=1", "shape=rest"],
        "regime": "disentangled", "data": None, "batch_size": 6, "seed": 0,
        "num_train_batches_per_type": 3, "num_test_batches_per_type": 2,
    }  # fmt: skip
    content = {
        "system": "dcign",
        "step": 7,
        "options": {**defaults, **options},
        "parts": {"model": network(seed).state_dict()},
    }
    (folder / "checkpoints").mkdir(parents=True)
    checkpoints.write(folder / "checkpoints" / "step_00000007.pt", content)
    return folder
