"""Exported files against the networks in PyTorch, on the same inputs on one CPU thread.

python benchmarks/export.py                  writes benchmarks/results/export-cpu.json
python benchmarks/export.py --only quality --checkpoint runs/bilayer/TIME
                                             adds what int8 costs an avatar that learnt the demo

    torch        what infer.py calls; for a frame of an avatar nets.bilayer.Driver
    onnxruntime  the file of export.py --format onnx
    aoti         the package of export.py --format aoti
    folded       of a frame only: a Driver of one person as a graph
    int8         of a frame only, by onnxruntime.quantization: static, with ranges of 32 poses, or
                 dynamic

All are asserted to agree with torch within 1e-3 of the largest value before they are timed, but for
int8, whose distance is reported. A time is the processor time of one thread, which other processes
disturb less than the clock on the wall. Contenders are interleaved, and a ratio is the median of
the ratios of the rounds. The avatar has the published sizes at 256 px and seeded weights.

The quality of int8 is that of an avatar with trained weights: frames of test persons of the demo
world, by the float network and by int8, against each other and against the ground truth.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.inference import network
from benchmarks.machine import write_report
from benchmarks.step_rows.bilayer import batch_of
from nets import api, exports
from nets.bilayer import Avatar, Bilayer, Driver
from nets.bilayer.infer import make_avatar
from nets.onnx_files import Session
from nets.run.options import Namespace
from nets.worlds.heads.videos import HeadVideos

Way = Callable[[], list[Tensor]]
ALLOWED = 1e-3  # of the largest value, as in export.py
SIZE, CALIBRATION, PERSONS = 256, 32, 32
KINDS = ("static", "dynamic")


def listed(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else [o for o in outputs if o is not None]


def ways_of(
    graph: exports.ExportGraph, folder: Path, name: str = ""
) -> dict[str, Callable[[dict[str, Tensor]], list[Tensor]]]:
    """Functions of the inputs, by onnxruntime and by AOTInductor; `name` goes in front of both."""
    onnx, package = folder / f"{name}{graph.name}.onnx", folder / f"{name}{graph.name}.pt2"
    for path, write in ((onnx, exports.write_onnx), (package, exports.write_package)):
        if not path.exists():
            write(graph, path.with_stem("unfinished"), {})
            path.with_stem("unfinished").rename(path)
            print(f"written: {path}", flush=True)
    compiled = torch._inductor.aoti_load_package(str(package))
    return {
        f"{name}onnxruntime": Session(onnx),
        f"{name}aoti": lambda inputs: listed(compiled(*(inputs[n] for n in graph.inputs))),
    }


def inputs_of(avatar: Avatar) -> dict[str, Tensor]:
    """The inputs of a frame beside the poses."""
    flat = [tensor for pair in avatar.pairs for tensor in pair]
    return {"texture": avatar.texture, **{f"adaptive_{i}": t for i, t in enumerate(flat)}}


def frame_graph(net: Bilayer, avatar: Avatar, poses: Tensor) -> exports.ExportGraph:
    """A frame of any avatar, as export.py writes it."""
    inputs = {"pose": poses, **inputs_of(avatar)}
    frame = exports.frame_of(net)
    return exports.ExportGraph("frame", frame, inputs, ("image", "mask"), ("pose",), "")


def folded_graph(driver: Driver, poses: Tensor) -> exports.ExportGraph:
    """A frame of one avatar, whose constants are folded into the weights."""
    frame = exports.Wrapped(driver, lambda net, pose: net(pose))
    outputs = ("image", "mask")
    return exports.ExportGraph("folded_frame", frame, {"pose": poses}, outputs, ("pose",), "")


def int8(source: Path, examples: list[dict[str, Tensor]], static: bool) -> Session:
    """The quantised file of a frame.

    examples  inputs, from which static quantisation takes its ranges
    """
    from onnxruntime import quantization as q

    names = list(Session(source).shapes)

    class Examples(q.CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(examples)

        def get_next(self) -> dict[str, Any] | None:
            inputs = next(self.rest, None)
            return inputs and {name: inputs[name].contiguous().numpy() for name in names}

    prepared = source.with_name(f"prepared_{source.name}")
    out = source.with_name(f"{'static' if static else 'dynamic'}_{source.name}")
    q.shape_inference.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    kinds = ["Conv", "MatMul", "Gemm"]
    if static:
        q.quantize_static(
            str(prepared), str(out), Examples(), op_types_to_quantize=kinds, per_channel=True,
            quant_format=q.QuantFormat.QDQ, activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
        )  # fmt: skip
    else:
        q.quantize_dynamic(
            str(prepared), str(out), op_types_to_quantize=kinds, weight_type=q.QuantType.QUInt8
        )
    return Session(out)


def frames(folder: Path) -> Iterator[tuple[str, int, dict[str, Way]]]:
    """Rows: N frames of an avatar of the published sizes."""
    device = torch.device("cpu")
    data, net = batch_of(SIZE, 1, device), network(device, last=True)
    with torch.no_grad():
        avatar = net.create_avatar(
            data["source_imgs"], None, data["source_stickmen"], data["source_segs"]
        )
    poses = batch_of(SIZE, 8, device, seed=1)["target_poses"][:, 0]
    driver, person = Driver(net, avatar), inputs_of(avatar)
    calls = {"torch": lambda inputs: listed(driver(inputs["pose"]))}
    calls |= ways_of(frame_graph(net, avatar, poses[:2]), folder)
    calls |= ways_of(folded_graph(driver, poses[:2]), folder, "folded ")
    ranges = batch_of(SIZE, CALIBRATION, device, seed=99)["target_poses"]
    examples = [{**person, "pose": pose} for pose in ranges]
    for name, file in (("", "frame.onnx"), ("folded ", "folded folded_frame.onnx")):
        for kind in KINDS:
            calls[f"{name}{kind} int8"] = int8(folder / file, examples, kind == "static")
    for n in (1, 8):
        inputs = {**person, "pose": poses[:n]}
        ways = {name: lambda call=call, inputs=inputs: call(inputs) for name, call in calls.items()}
        yield f"frame of an avatar, {SIZE} px, batch {n}", n, ways


def people(folder: Path) -> tuple[str, int, dict[str, Way]]:
    """A row: transfers by the VUNet that comes with guise."""
    model = api.load(None, device="cpu", system="vunet")
    (graph,) = exports.graphs(model)
    calls = {"torch": lambda inputs: listed(graph.module(*inputs.values()))}
    calls |= ways_of(graph, folder)
    ways = {name: lambda call=call: call(graph.inputs) for name, call in calls.items()}
    return f"transfer of a VUNet, {model.size} px, batch 2", 2, ways


def agree(row: str, ways: dict[str, Way]) -> dict[str, float]:
    """The greatest difference from torch, of the largest value of an output."""
    expected, errors = ways["torch"](), {}
    for name, way in ways.items():
        error = 0.0
        for got, right in zip(way(), expected, strict=True):
            error = max(error, ((got - right).abs().max() / right.abs().max()).item())
        errors[name] = error
        if "int8" not in name and not error <= ALLOWED:
            raise AssertionError(f"{row}: {name} is off by {error:g}")
    return errors


def measure(row: str, n: int, ways: dict[str, Way], seconds: float) -> dict[str, Any]:
    with torch.no_grad():
        errors = agree(row, ways)
        rounds: list[dict[str, float]] = []
        end = time.perf_counter() + seconds * len(ways)
        while time.perf_counter() < end or len(rounds) < 7:
            spent = {}
            for name, way in ways.items():
                start = time.process_time()
                way()
                spent[name] = time.process_time() - start
            rounds.append(spent)
    result: dict[str, Any] = {"row": row, "batch": n, "rounds": len(rounds), "ways": {}}
    print(f"{row}, {len(rounds)} rounds\n  {'':24}{'ms each':>9}{'of torch':>10}{'differs by':>12}")
    for name in ways:
        way = result["ways"][name] = {
            "ms": 1e3 * statistics.median(r[name] for r in rounds) / n,
            "times_torch": statistics.median(r["torch"] / r[name] for r in rounds),
            "largest_difference": errors[name],
        }
        print(f"  {name:24}{way['ms']:9.2f}{way['times_torch']:9.2f}x{errors[name]:12.1e}")
    return result


@torch.no_grad()
def quality(checkpoint: str, folder: Path) -> dict[str, Any]:
    """What int8 costs frames of test persons of the demo world, on the scale 0 to 1."""
    model = api.load(checkpoint, device="cpu", system="bilayer")
    size = model.size
    test, train = HeadVideos("test", size, 1, 4), HeadVideos("train", size, 1, 1)

    def avatar_of(sample: dict[str, Any]) -> Avatar:
        return make_avatar(Namespace(enhancer=None), model._model, sample)

    samples = [train[0, i] for i in range(CALIBRATION)]
    examples = [{**inputs_of(avatar_of(s)), "pose": s["target_poses"]} for s in samples]
    poses = torch.cat([s["target_poses"] for s in samples[:2]])
    file = folder / "quality.onnx"
    exports.write_onnx(frame_graph(model.net, avatar_of(samples[0]), poses), file, {})
    sessions = {f"{kind} int8": int8(file, examples, kind == "static") for kind in KINDS}
    sums: dict[str, list[float]] = {}
    for index in range(PERSONS):
        sample = test[0, index]
        avatar, poses = avatar_of(sample), sample["target_poses"]
        shown = {"float": unit(model.net.drive(avatar, poses).image)}
        for name, session in sessions.items():
            shown[name] = unit(session({**inputs_of(avatar), "pose": poses})[0])
        masks = sample["target_segs"].float() / 255
        truth = sample["target_imgs"].float() / 255
        for name, images in shown.items():
            add = sums.setdefault
            add(f"{name}, masked L1 to the truth", []).append(
                ((images - truth).abs() * masks).sum().item() / (3 * masks.sum().item())
            )
            if name != "float":
                difference = images - shown["float"]
                add(f"{name}, L1 to float", []).append(difference.abs().mean().item())
                psnr = -10 * difference.square().mean().log10().item()
                add(f"{name}, PSNR to float, dB", []).append(psnr)
    means = {name: statistics.fmean(values) for name, values in sums.items()}
    for name, value in means.items():
        print(f"  {name:40}{value:9.4f}")
    return {"persons": PERSONS, "frames": 4 * PERSONS, "size": size, "step": model.step, **means}


def unit(images: Tensor) -> Tensor:
    """Images in [0, 1] from images in [-1, 1]."""
    return (images.clamp(-1, 1) + 1) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="1 s a number instead of 5 s")
    parser.add_argument(
        "--only", choices=["speed", "quality"], help="one half, kept beside the other"
    )
    parser.add_argument("--checkpoint", help="run of demo_bilayer.yaml, for the quality of int8")
    parser.add_argument(
        "--files", type=Path, help="folder of exported files, which are used again by the next run"
    )
    parser.add_argument("--output", type=Path, help="JSON")
    args = parser.parse_args()
    if args.only == "quality" and not args.checkpoint:
        parser.error("--only quality: needs --checkpoint")
    output = args.output or Path(__file__).parent / "results/export-cpu.json"
    before = json.loads(output.read_text()) if output.is_file() else {}
    result = {key: before[key] for key in ("rows", "int8_quality") if key in before}
    torch.set_num_threads(1)
    seconds = 1.0 if args.quick else 5.0
    with tempfile.TemporaryDirectory() as name:
        folder = args.files or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        if args.only != "quality":
            result["rows"] = []
            for row in (*frames(folder), people(folder)):
                result["rows"].append(measure(*row, seconds))
        if args.checkpoint:
            result["int8_quality"] = quality(args.checkpoint, folder)
    write_report(output, result)


if __name__ == "__main__":
    main()
