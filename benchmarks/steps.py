"""What a training step and a transfer cost: seconds, images/s, peak memory.

python benchmarks/steps.py                    all rows; writes benchmarks/results/steps-cpu.json
python benchmarks/steps.py --quick image-128  short runs of the rows whose name holds "image-128"

The peer of the whole-image rows is the same network computed the way its published program did: the
weight-normalised convolution, its scale and its shift one after another, noise from a multivariate
normal with an identity covariance, NCHW, Adam without fusing. It is asserted to give the same
picture first. Pixel L1 only, no VGG, two pictures a batch. Medians; everything in one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.machine import facts, peak_memory
from nets.layers import Conv, fold
from nets.run.precision import Precision
from nets.vunet import Noise, VUNet

BATCH = 2


class Row(NamedTuple):
    name: str
    make: Callable[[], VUNet]
    size: int
    crops: int  # side of the appearance crops; 0: the appearance is a picture


ROWS = [
    Row("image-128", lambda: VUNet.image(128, 32, 64, "weight_affine", tanh=False), 128, 0),
    Row("image-256", lambda: VUNet.image(256), 256, 0),
    Row("parts-128", lambda: VUNet.parts(128, 1, 1), 128, 64),
    Row("parts-256", lambda: VUNet.parts(256, 2, 2), 256, 64),
]


def published_convolution(self: Conv, x: Tensor) -> Tensor:
    """`Conv.forward` one operation after another."""
    if self.norm != "weight_affine":
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
    v = torch._weight_norm(self.weight, self.gain.view(-1, 1, 1, 1), 0)
    y = F.conv2d(x, v, self.bias, self.stride, self.padding)
    return self.gamma.view(1, -1, 1, 1) * y + self.beta.view(1, -1, 1, 1)


def published_noise(net: VUNet, n: int) -> Noise:
    """Seven draws from multivariate normals: the latents, and the prior's four groups each."""

    def draw(shape: tuple[int, ...]) -> Tensor:
        dims = shape[0] * shape[1] * shape[2]
        normal = torch.distributions.MultivariateNormal(torch.zeros(dims), torch.eye(dims))
        return normal.sample((n,)).view(n, *shape)

    coarse, fine = net.latent_shapes
    groups = [draw((fine[0] // 4, *fine[1:])) for _ in range(4)]
    return Noise((draw(coarse), draw(fine)), (draw(coarse), torch.cat(groups, dim=1)))


def as_published(net: VUNet) -> VUNet:
    """The network with every convolution computed the published way."""
    for module in net.modules():
        if isinstance(module, Conv):
            module.forward = types.MethodType(published_convolution, module)
    return net


def data(row: Row, precision: Precision) -> tuple[Tensor, Tensor, Tensor]:
    """Pose, appearance and target, seeded."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, row.size), (24, row.crops) if row.crops else (3, row.size), (3, row.size)]
    made = [torch.rand(BATCH, c, s, s, generator=generator) * 2 - 1 for c, s in shapes]
    return tuple(t.to(precision.device, memory_format=precision.memory_format) for t in made)


def medians(
    calls: dict[str, Callable[[], Any]], seconds: float, sync: Callable
) -> dict[str, float]:
    """Median seconds of each call, interleaved so that a slow moment of the machine hits all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call(), call(), sync()
    end = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < end or len(times[next(iter(calls))]) < 5:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            sync()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


class Contender:
    """One way of computing a row: its training step and its transfer."""

    def __init__(self, row: Row, name: str, device: torch.device, compiled: bool):
        self.peer = name == "published"
        kind = "fp32" if self.peer else name
        self.precision = Precision(kind, device, channels_last=not self.peer)
        torch.manual_seed(0)
        self.net = self.precision.place(row.make())
        if self.peer:
            as_published(self.net)
        self.optimizer = torch.optim.Adam(self.net.parameters(), 1e-4, fused=not self.peer)
        torch.manual_seed(0)
        self.ready = fold(self.precision.place(row.make())) if not self.peer else self.net
        self.pose, self.appearance, self.target = data(row, self.precision)
        if compiled:
            self.net.compile()
            self.ready.compile()

    def step(self) -> None:
        noise = published_noise(self.net, BATCH) if self.peer else None
        with self.precision.autocast():
            out = self.net(self.pose, self.appearance, "train", noise)
        loss = (out.image.float() - self.target).abs().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def transfer(self, random: bool = True) -> Tensor:
        """The peer's transfer draws noise, as published, unless `random` is false."""
        noise = published_noise(self.net, BATCH) if self.peer and random else None
        with self.precision.autocast():
            return self.ready(self.pose, self.appearance, "transfer", noise).image.float()


def measure(row: Row, device: torch.device, seconds: float, compiled: bool) -> dict[str, Any]:
    names = ["fp32", "bf16"] + (["published"] if row.crops == 0 else [])
    contenders = {name: Contender(row, name, device, compiled) for name in names}
    agree(row, contenders)
    sync = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    steps = medians({n: c.step for n, c in contenders.items()}, seconds, sync)
    transfers = medians({n: c.transfer for n, c in contenders.items()}, seconds / 2, sync)
    memory = {name: peak_memory(c.step, device) for name, c in contenders.items()}
    result = {"row": row.name, "batch": BATCH, "size": row.size, "compiled": compiled}
    for name in names:
        result[name] = {
            "step_s": steps[name],
            "step_images_per_s": BATCH / steps[name],
            "transfer_s": transfers[name],
            "peak_mb_of_a_step": memory[name],
        }
    return result


def agree(row: Row, contenders: dict[str, Contender]) -> None:
    """All contenders give fp32's picture: to rounding, or to bf16's 8 bits of mantissa."""
    pictures = {name: c.transfer(random=False) for name, c in contenders.items()}
    scale = pictures["fp32"].abs().mean()
    for name, picture in pictures.items():
        error = ((picture - pictures["fp32"]).abs().mean() / scale).item()
        if not error < (0.05 if name == "bf16" else 1e-4):
            raise AssertionError(f"{row.name}: {name} is off by {error:g} of the mean magnitude")


def table(results: list[dict[str, Any]]) -> str:
    lines = [f"{'':24}{'step s':>9}{'images/s':>10}{'transfer s':>12}{'peak MB':>9}   of published"]
    for result in results:
        for name in ("published", "fp32", "bf16"):
            if name not in result:
                continue
            r = result[name]
            ratio = ""
            if "published" in result:
                p = result["published"]
                ratio = "".join(f"{p[k] / r[k]:7.2f}x" for k in ("step_s", "transfer_s"))
            lines.append(
                f"{result['row'] + ' ' + name:24}{r['step_s']:9.3f}{r['step_images_per_s']:10.1f}"
                f"{r['transfer_s']:12.3f}{r['peak_mb_of_a_step']:9.0f}   {ratio}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", nargs="?", default="", help="part of the rows' names")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="1 s a number instead of 8 s")
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    parser.add_argument("--output", type=Path, help="JSON")
    args = parser.parse_args()
    results = []
    for row in (r for r in ROWS if args.rows in r.name):
        device = torch.device(args.device)
        results.append(measure(row, device, 1.0 if args.quick else 8.0, args.compile))
        print(table(results[-1:]), flush=True)
    output = args.output or Path(__file__).parent / f"results/steps-{args.device}.json"
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps({"machine": facts(), "rows": results}, indent=1) + "\n")
    print(f"written: {output}")


if __name__ == "__main__":
    main()
