"""What a driven frame of a head avatar costs, an identity, and a whole video, at 256 pixels.

python benchmarks/inference.py                 writes benchmarks/results/inference-cpu.json
python benchmarks/inference.py --device cuda   with a CUDA graph
python benchmarks/inference.py --quick         short runs
python benchmarks/inference.py --students      distilled avatars beside these, on one thread and in
                                               processor time; writes inference-students-cpu.json

Networks of the published sizes with seeded weights, spectral norms divided out by all. In the clock
of a frame: poses on the device to images and masks on the device, in float32; the avatar is made.
In the clock of an identity: image, stickman and mask on the device to texture and parameters.
Detection, decoding, encoding and the folding of a driver are not in it; `fold` is that folding.

    published   the published program's operations one after another (benchmarks/step_rows/bilayer)
    drive       nets.bilayer.Bilayer.drive: all layers of a frame, one identity or many
    driver      nets.bilayer.Driver: everything constant folded in
    compiled    either, by torch.compile; `compile_s` is what the first frame then takes. Not with
                --quick: about half a minute a contender
    graph       Driver in a CUDA graph
    student     Driver of a student (distil.py) with 1/2, 3/8 or 1/4 of the channels. Its reference
                is its own network in float32, before anything is folded

Before anything is timed, all are asserted to give the published result: in float32 within 1e-4
everywhere, in bfloat16 within 0.01 of the range on average. Medians, contenders interleaved.

In the clock of the video (benchmarks/driven_video.py): all that `infer.py -d video` does from the
first frame to the last, with given points: reading, poses, networks, writing. Apart: what comes
before the first frame, and, where a detector is installed, looking for faces. Every frame is
asserted to come out as the network painted it, but for what H.264 changes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import driven_video
from benchmarks.machine import write_report
from benchmarks.step_rows.bilayer import (
    TEST,
    as_published,
    batch_of,
    published_frame,
    trained_like,
)
from benchmarks.steps import medians, timed
from nets.bilayer import DEFAULTS, Avatar, Bilayer, Driver, Graph, Student, fold
from nets.bilayer.network import build

SIZE = 256
HALF = torch.bfloat16
TOLERANCE = {"fp32": 1e-4, "bf16": 0.01}
STUDENTS = {"1/2": (16, 128), "3/8": (12, 96), "1/4": (8, 64)}  # channels; the others': 32, 256


def network(device: torch.device, last: bool = False) -> Bilayer:
    torch.manual_seed(0)
    with torch.no_grad():
        net = fold(trained_like(build({"inf_apply_masks": False}, TEST)).eval())
    layout = torch.channels_last if last else torch.contiguous_format
    return net.to(device, memory_format=layout)


def avatars(device: torch.device, data: dict[str, Tensor]) -> tuple[dict[str, Callable], Avatar]:
    """Ways to make an avatar, and the avatar."""
    sources = (data["source_imgs"], None, data["source_stickmen"], data["source_segs"])
    peer, ours = as_published(network(device)), network(device, last=True)

    def half() -> Avatar:
        with torch.autocast(device.type, HALF):
            return ours.create_avatar(*sources)

    ways = {
        "published fp32": lambda: peer.create_avatar(*sources),
        "create_avatar fp32": lambda: ours.create_avatar(*sources),
        "create_avatar bf16": half,
    }
    return ways, ours.create_avatar(*sources)


def frames(
    device: torch.device, avatar: Avatar, poses: Tensor, compiled: bool
) -> dict[str, Callable]:
    """Ways to drive an avatar."""
    peer, ours = as_published(network(device)), network(device, last=True)
    ways: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "published fp32": lambda: published_frame(peer, avatar, poses),
    }
    for name, dtype in (("fp32", torch.float32), ("bf16", HALF)):
        driver = Driver(ours, avatar, dtype)
        half = torch.autocast(device.type, HALF, enabled=dtype == HALF)

        def drive(half: torch.autocast = half) -> tuple[Tensor, Tensor]:
            with half:
                return tuple(ours.drive(avatar, poses)[:2])

        for kind, way in (("drive", drive), ("driver", lambda driver=driver: driver(poses))):
            ways[f"{kind} {name}"] = way
            if compiled:
                ways[f"{kind} compiled {name}"] = torch.compile(way, fullgraph=True)
        if device.type == "cuda":
            graph = Graph(driver, len(poses))
            ways[f"graph {name}"] = lambda graph=graph: graph(poses)
    return ways


def students(device: torch.device, avatar: Avatar, n: int, seconds: float) -> dict[str, Any]:
    """A row of one identity's frames in batches of n: published, driven, and by students."""
    poses = batch_of(SIZE, n, device, seed=n)["target_poses"][:, 0]
    ways = frames(device, avatar, poses, compiled=False)
    errors = agree(f"students, batch {n}", ways, list, ways["published fp32"])[0]
    for name, (channels, most) in STUDENTS.items():
        torch.manual_seed(0)
        with torch.no_grad():
            student = trained_like(Student(DEFAULTS, channels, most)).eval().to(device)
        student.texture.copy_(avatar.texture)

        @torch.no_grad()
        def own(student: Student = student) -> tuple[Tensor, Tensor]:
            image, layers = student(poses)
            return image, layers.logits.sigmoid()

        drivers = {
            f"student {name} {kind}": Driver(student, student.avatar(), dtype)
            for kind, dtype in (("fp32", torch.float32), ("bf16", HALF))
        }
        mine = {key: lambda driver=driver: driver(poses) for key, driver in drivers.items()}
        errors |= agree(f"students, batch {n}", mine, list, own)[0]
        ways |= mine
    times: dict[str, list[float]] = {name: [] for name in ways}
    end = time.perf_counter() + seconds * len(ways)
    while time.perf_counter() < end or len(times["published fp32"]) < 5:
        for name, way in ways.items():
            start = time.process_time()
            way()
            times[name].append(time.process_time() - start)
    medians_of = {name: statistics.median(values) for name, values in times.items()}
    result: dict[str, Any] = {"row": f"students, batch {n}", "batch": n, "ways": {}}
    for name, took in medians_of.items():
        kind = name.rpartition(" ")[2]
        result["ways"][name] = {
            "processor_ms": 1e3 * took / n,
            "times_published": medians_of["published fp32"] / took,
            "of_driver": took / medians_of[f"driver {kind}"],
            "largest_difference": errors[name],
        }
        print(f"  {name:24}" + "".join(f"{v:12.3g}" for v in result["ways"][name].values()))
    return result


def agree(
    row: str, ways: dict[str, Callable], outputs: Callable, reference: Callable
) -> tuple[dict[str, float], dict[str, float]]:
    """Largest difference from the reference's result; raises where it is beyond the tolerance. And
    the seconds of each way's first call.
    """
    expected = outputs(reference())
    errors, first = {}, {}
    for name, way in ways.items():
        start = time.perf_counter()
        made = way()
        first[name] = time.perf_counter() - start
        pairs = zip(outputs(made), expected, strict=True)
        differences = torch.cat([(a.float() - b).abs().flatten() for a, b in pairs])
        errors[name] = differences.max().item()
        kind = name.rpartition(" ")[2]
        error = errors[name] if kind == "fp32" else differences.mean().item()
        if not error <= TOLERANCE[kind]:
            raise AssertionError(f"{row}: {name} is off by {error:g}")
    return errors, first


def measure(
    row: str,
    ways: dict[str, Callable],
    outputs: Callable,
    n: int,
    seconds: float,
    device: torch.device,
) -> dict[str, Any]:
    errors, first = agree(row, ways, outputs, ways["published fp32"])
    times = medians({k: lambda way=way: timed(way, device) for k, way in ways.items()}, seconds)
    result: dict[str, Any] = {"row": row, "batch": n, "ways": {}}
    for name, took in times.items():
        result["ways"][name] = {
            "ms": 1e3 * took / n,
            "times_published": times["published fp32"] / took,
            "largest_difference": errors[name],
        }
        if "compiled" in name:
            result["ways"][name]["compile_s"] = first[name]
    print(f"{row:32}{'ms each':>9}{'of published':>14}{'differs by':>12}")
    for name, r in result["ways"].items():
        print(
            f"  {name:30}{r['ms']:9.2f}{r['times_published']:13.2f}x{r['largest_difference']:12.1e}"
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--quick", action="store_true", help="1 s a number instead of 8 s, and nothing is compiled"
    )
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    parser.add_argument(
        "--students", action="store_true", help="only frames, and those of students"
    )
    parser.add_argument("--output", type=Path, help="JSON")
    args = parser.parse_args()
    device, seconds = torch.device(args.device), 1.0 if args.quick else 8.0
    data = batch_of(SIZE, 1, device)
    if args.students:
        if device.type != "cpu":
            parser.error("--students: on the CPU only")
        torch.set_num_threads(1)
        _, avatar = avatars(device, data)
        rows = [students(device, avatar, n, seconds) for n in (1, 8)]
        output = args.output or Path(__file__).parent / "results/inference-students-cpu.json"
        write_report(output, {"rows": rows})
        return
    ways, avatar = avatars(device, data)
    # The texture, and the pairs of the inference generator.
    made = lambda a: [a.texture, *(part for pair in a.pairs for part in pair)]  # noqa: E731
    rows = [measure("identity", ways, made, 1, seconds, device)]
    start = time.perf_counter()
    Driver(network(device, last=True), avatar)
    fold_ms = 1e3 * (time.perf_counter() - start)
    for n in (1, 8):
        poses = batch_of(SIZE, n, device, seed=n)["target_poses"][:, 0]
        ways = frames(device, avatar, poses, not (args.quick or args.no_compile))
        rows.append(measure(f"frame, batch {n}", ways, list, n, seconds, device))
    rows.append(driven_video.row(lambda: network(device, last=True), device, args.quick))
    output = args.output or Path(__file__).parent / f"results/inference-{args.device}.json"
    write_report(output, {"fold_ms": fold_ms, "rows": rows})


if __name__ == "__main__":
    main()
