"""What a training step and a forward pass cost: seconds, images/s, peak memory.

python benchmarks/steps.py                    all rows; writes benchmarks/results/steps-cpu.json
python benchmarks/steps.py --quick image-128  short runs of the rows whose name holds "image-128",
                                              which replace those in the JSON

The peer of a row, "published", is the same network computed the way its published program did
(benchmarks/step_rows says how); it is asserted to give the same image first. Medians; all
contenders of a row in one run, interleaved, each in a process of its own: what others leave in the
heap costs a step time and memory that its users do not pay.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.machine import choose, peak_memory, write_report
from benchmarks.step_rows import ROWS


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds that a call takes, with all that it has started."""
    sync = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    start = time.perf_counter()
    call()
    sync()
    return time.perf_counter() - start


def medians(clocks: dict[str, Callable[[], float]], seconds: float) -> dict[str, float]:
    """Median of the seconds that each tells, interleaved so that a slow moment hits all."""
    times: dict[str, list[float]] = {name: [] for name in clocks}
    for clock in clocks.values():
        clock(), clock()
    end = time.perf_counter() + seconds * len(clocks)
    while time.perf_counter() < end or len(times[next(iter(clocks))]) < 5:
        for name, clock in clocks.items():
            times[name].append(clock())
    return {name: statistics.median(values) for name, values in times.items()}


class Apart:
    """A contender in a process of its own. Called with "step" or "forward", it tells how many
    seconds that took; with "peak", the megabytes of a step; with "result", it gives that."""

    def __init__(self, *which: Any):
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, *which), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is seen here

    def __call__(self, asked: str) -> Any:
        self.connection.send(asked)
        return self.connection.recv()

    def stop(self) -> None:
        self.connection.close()
        self.process.join()


def serve(asks: Connection, row_name: str, name: str, device_name: str, compiled: bool) -> None:
    """Makes a contender and answers until nobody asks."""
    (row,) = (r for r in ROWS if r.name == row_name)
    device = torch.device(device_name)
    contender = row.contender(name, device, compiled)
    answers = {
        "step": lambda: timed(contender.step, device),
        "forward": lambda: timed(contender.forward, device),
        "peak": lambda: statistics.median(peak_memory(contender.step, device) for _ in range(3)),
        "result": lambda: contender.forward(random=False).float().cpu().numpy(),
    }
    with contextlib.suppress(EOFError):
        while True:
            asks.send(answers[asks.recv()]())


def measure(row: Any, device: torch.device, seconds: float, compiled: bool) -> dict[str, Any]:
    contenders = {name: Apart(row.name, name, str(device), compiled) for name in row.contenders}
    agree(row, {name: torch.from_numpy(c("result")) for name, c in contenders.items()})

    def interleaved(what: str, seconds: float) -> dict[str, float]:
        return medians({n: lambda c=c: c(what) for n, c in contenders.items()}, seconds)

    steps, forwards = interleaved("step", seconds), interleaved("forward", seconds / 2)
    result = {"row": row.name, "batch": row.batch, "size": row.size, "compiled": compiled}
    for name, contender in contenders.items():
        result[name] = {
            "step_s": steps[name],
            "step_images_per_s": row.batch / steps[name],
            "forward_s": forwards[name],
            "peak_mb_of_a_step": contender("peak"),
        }
        contender.stop()
    return result


def agree(row: Any, results: dict[str, torch.Tensor]) -> None:
    """All contenders give fp32's result: to rounding, or to bf16's 8 bits of mantissa."""
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("rows", nargs="?", default="", help="a row's name, or part of several'")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="1 s a number instead of 8 s")
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    parser.add_argument("--output", type=Path, help="JSON")
    args = parser.parse_args()
    output = args.output or Path(__file__).parent / f"results/steps-{args.device}.json"
    chosen = choose(ROWS, args.rows)
    results = {}
    if args.rows and output.is_file():
        try:
            results = {r["row"]: r for r in json.loads(output.read_text())["rows"]}
        except (ValueError, KeyError, TypeError):
            sys.exit(f"steps.py: --output {output}: not a JSON that steps.py wrote")
    for row in chosen:
        device = torch.device(args.device)
        results[row.name] = measure(row, device, 1.0 if args.quick else 8.0, args.compile)
        print(table([results[row.name]]), flush=True)
    write_report(output, {"rows": list(results.values())})


if __name__ == "__main__":
    main()
