"""What a training step and a forward pass cost: seconds, images/s, peak memory.

python benchmarks/steps.py                    all rows; writes benchmarks/results/steps-cpu.json
python benchmarks/steps.py --quick image-128  short runs of the rows whose name holds "image-128",
                                              which replace those in the JSON

The peer of a row, "published", is the same network computed the way its published program did
(benchmarks/step_rows says how); it is asserted to give the same picture first. Medians; all
contenders of a row in one run, interleaved. The peak memory of a step is the median of three steps
in a process of its own: what others left in the heap changes what a step takes from it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.machine import facts, peak_memory
from benchmarks.step_rows import ROWS


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


def measure(row: Any, device: torch.device, seconds: float, compiled: bool) -> dict[str, Any]:
    contenders = {name: row.contender(name, device, compiled) for name in row.contenders}
    agree(row, contenders)
    sync = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    steps = medians({n: c.step for n, c in contenders.items()}, seconds, sync)
    forwards = medians({n: c.forward for n, c in contenders.items()}, seconds / 2, sync)
    del contenders
    memory = {name: apart(peak, row.name, name, str(device), compiled) for name in row.contenders}
    result = {"row": row.name, "batch": row.batch, "size": row.size, "compiled": compiled}
    for name in row.contenders:
        result[name] = {
            "step_s": steps[name],
            "step_images_per_s": row.batch / steps[name],
            "forward_s": forwards[name],
            "peak_mb_of_a_step": memory[name],
        }
    return result


def apart(function: Callable[..., float], *args: Any) -> float:
    """What a function returns in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def peak(row_name: str, name: str, device_name: str, compiled: bool) -> float:
    """Megabytes that a step of a contender takes at its peak."""
    (row,) = (r for r in ROWS if r.name == row_name)
    device = torch.device(device_name)
    step = row.contender(name, device, compiled).step
    return statistics.median(peak_memory(step, device) for _ in range(3))


def agree(row: Any, contenders: dict[str, Any]) -> None:
    """All contenders give fp32's result: to rounding, or to bf16's 8 bits of mantissa."""
    results = {name: c.forward(random=False).float() for name, c in contenders.items()}
    scale = results["fp32"].abs().mean()
    for name, result in results.items():
        error = ((result - results["fp32"]).abs().mean() / scale).item()
        if not error < (getattr(row, "bf16_error", 0.05) if name == "bf16" else 1e-4):
            raise AssertionError(f"{row.name}: {name} is off by {error:g} of the mean magnitude")


def table(results: list[dict[str, Any]]) -> str:
    lines = [f"{'':28}{'step s':>9}{'images/s':>10}{'forward s':>12}{'peak MB':>9}   of published"]
    for result in results:
        for name in ("published", "fp32", "bf16"):
            if name not in result:
                continue
            r = result[name]
            ratio = ""
            if "published" in result:
                p = result["published"]
                ratio = "".join(f"{p[k] / r[k]:7.2f}x" for k in ("step_s", "forward_s"))
            lines.append(
                f"{result['row'] + ' ' + name:28}{r['step_s']:9.3f}{r['step_images_per_s']:10.1f}"
                f"{r['forward_s']:12.3f}{r['peak_mb_of_a_step']:9.0f}   {ratio}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", nargs="?", default="", help="a row's name, or part of several'")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="1 s a number instead of 8 s")
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    parser.add_argument("--output", type=Path, help="JSON")
    args = parser.parse_args()
    output = args.output or Path(__file__).parent / f"results/steps-{args.device}.json"
    results = {}
    if args.rows and output.is_file():
        results = {r["row"]: r for r in json.loads(output.read_text())["rows"]}
    chosen = [r for r in ROWS if r.name == args.rows] or [r for r in ROWS if args.rows in r.name]
    for row in chosen:
        device = torch.device(args.device)
        results[row.name] = measure(row, device, 1.0 if args.quick else 8.0, args.compile)
        print(table([results[row.name]]), flush=True)
    output.parent.mkdir(exist_ok=True)
    content = {"machine": facts(), "rows": list(results.values())}
    output.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written: {output}")


if __name__ == "__main__":
    main()
