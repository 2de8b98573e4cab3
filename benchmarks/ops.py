"""Times of the operators, against the formula, torch.compile, libraries and the machine's limit.

python benchmarks/ops.py                  the whole table; writes benchmarks/results/ops-cpu.json
python benchmarks/ops.py --quick heat     short runs of the rows whose name holds "heat"

A row of the table is a `Row` in benchmarks/op_rows/. Before it is timed, its error is compared with
that of its formula in float32, both against the formula in float64 on this machine. Times are
medians. The floor is the time in which this machine fills (or copies) a new tensor with as many
bytes as the operator must write (or read and write), in the same run. The last KEPT results of
every contender and of the floor are kept: so all write memory that has left the caches, as in a
training step.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import statistics
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.benchmark import Timer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.machine import choose, needs_extra, write_report
from benchmarks.op_rows import Row, all_rows
from nets import ops
from nets.ops import _build

KEPT = 4  # results


def measure(row: Row, device: str, seconds: float, compiled: bool) -> dict:
    """Times of all contenders of a row in milliseconds, after a check against its formula."""
    torch.manual_seed(0)
    inputs = row.make(device)
    with torch.no_grad():
        check(row, inputs)
    contenders = {"ours": row.ours, "formula": row.formula}
    if compiled and row.compiled:
        contenders["compiled"] = torch.compile(row.formula)
    contenders |= row.others
    result = {"name": row.name, "size": row.size, "forward": {}, "backward": {}}
    with torch.no_grad():
        result["floor"] = _time(_floor(row, device), seconds)
        for name, call in contenders.items():
            result["forward"][name] = _time(lambda call=call: call(*inputs), seconds)
    if row.grads:
        leaves = [inputs[i].requires_grad_() for i in row.grads]
        weights = [torch.randn_like(t) for t in _tuple(row.ours(*inputs))]
        for name in [n for n in contenders if n not in row.others]:

            def both(call=contenders[name]):
                return torch.autograd.grad(_tuple(call(*inputs)), leaves, weights)

            torch.compiler.reset()
            result["backward"][name] = _time(both, seconds)
    return result


def check(row: Row, inputs: tuple) -> None:
    """Raise AssertionError if ours is less exact than twice the formula's error in float32.

    Both errors are against the formula in float64, on this machine; 1e-6 of the scale is free.
    """
    ours, plain = _tuple(row.ours(*inputs)), _tuple(row.formula(*inputs))
    if row.exact:
        truth = plain
    else:
        wide = (x.double() if x.is_floating_point() else x for x in inputs)
        truth = _tuple(row.formula(*wide))
    for a, b, c in zip(ours, plain, truth, strict=True):
        error, usual = ((t.double() - c.double()).abs().max().item() for t in (a, b))
        allowed = 0.0 if row.exact else 2 * usual + 1e-6 * c.abs().max().item()
        if not error <= allowed:
            raise AssertionError(f"{row.name}: off by {error:g}, more than {allowed:g}")


def _tuple(value) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def _floor(row: Row, device: str) -> Callable:
    """A call that fills as much as the row writes, or copies as much as it reads and writes."""
    if row.reads * 4 < row.writes:
        return lambda: torch.empty(row.writes // 4, device=device).fill_(1.0)
    a = torch.ones((row.reads + row.writes) // 8, device=device)
    return lambda: torch.empty_like(a).copy_(a)


def _time(call: Callable, seconds: float) -> float:
    kept = deque(maxlen=KEPT)
    for _ in range(2 * KEPT):
        kept.append(call())
    threads = torch.get_num_threads()
    names = {"call": call, "kept": kept}
    runs = [
        Timer("kept.append(call())", globals=names, num_threads=threads).blocked_autorange(
            min_run_time=seconds / 3
        )
        for _ in range(3)
    ]
    return statistics.median(t for run in runs for t in run.times) * 1e3


def table(results: list[dict]) -> str:
    """A table of times (ms) and of the speed of ours against all others."""
    lines = [f"{'':38}{'ms':>9} {'floor':>7}  {'x floor':>7}   times faster than"]
    for r in results:
        for direction in ("forward", "backward"):
            times = r[direction]
            if not times:
                continue
            label = f"{r['name']} {r['size']}" if direction == "forward" else "  with backward"
            ours = times["ours"]
            floor = f"{r['floor']:7.2f}  {ours / r['floor']:7.2f}" if direction == "forward" else ""
            rest = ", ".join(f"{n} {t / ours:.1f}" for n, t in times.items() if n != "ours")
            lines.append(f"{label:38}{ours:9.2f} {floor:16}   {rest}")
    return "\n".join(lines)


def bars(rows: list[Row], results: list[dict]) -> list[dict]:
    """The bars of the timed rows: the target, the measured value, and whether it is met."""
    out = []
    for row, result in zip(rows, results, strict=True):
        for bar, asked in row.bars.items():
            if bar == "floor":
                reached = result["forward"]["ours"] / result["floor"]
            else:
                direction, name = bar.split()
                times = result[direction]
                if name not in times:  # a quick run may leave torch.compile out
                    continue
                reached = times[name] / times["ours"]
            met = reached <= asked if bar == "floor" else reached >= asked
            out.append(
                {"row": row.name, "bar": bar, "asked": asked, "reached": reached, "met": met}
            )
    return out


def plot(results: list[dict], file: Path) -> None:
    """Draws the forward times divided by ours as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = [
        (f"{r['name']} {r['size']}: {n}", t / r["forward"]["ours"])
        for r in results
        for n, t in [("floor", r["floor"]), *r["forward"].items()]
        if n != "ours"
    ][::-1]
    figure, axes = pyplot.subplots(figsize=(9, 0.5 + 0.22 * len(bars)))
    axes.barh([b[0] for b in bars], [b[1] for b in bars])
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("time over ours, forward (1 = as fast; log scale)")
    figure.tight_layout()
    figure.savefig(file, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("rows", nargs="?", default="", help="part of the rows' names")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="0.2 s a number instead of 1.5 s")
    parser.add_argument("--no_compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--output", type=Path, help="JSON; a PNG is drawn beside it")
    args = parser.parse_args()
    try:
        rows = all_rows()
    except ImportError as error:
        needs_extra(error)
    chosen = choose(rows, args.rows)
    if _build.library() is None:
        sys.exit("benchmarks/ops.py: the operators are not compiled: nothing to compare")
    _keep_memory()
    results = []
    for row in chosen:
        results.append(measure(row, args.device, 0.2 if args.quick else 1.5, not args.no_compile))
        print(table(results[-1:]), flush=True)
    reached = bars(chosen, results)
    for bar in reached:
        sign = "at most" if bar["bar"] == "floor" else "at least"
        print(
            f"{'met   ' if bar['met'] else 'MISSED'} {bar['row']}, {bar['bar']}: "
            f"{bar['reached']:.2f} times, asked {sign} {bar['asked']}"
        )
    default = Path(__file__).parent / "results" / f"ops-{args.device}.json"
    # A part of the table, or short runs, do not replace the whole file.
    output = args.output or (None if args.quick or args.rows else default)
    if output is None:
        return
    content = {
        "unit": "ms, medians",
        "library": _build.library().build_info(),
        "kernels": {name: ops.kernel(name, args.device) for name in ops.NAMES},
        "rows": results,
        "bars": reached,
    }
    write_report(output, content)
    try:
        plot(results, output.with_suffix(".png"))
    except ImportError:
        print("no plot: matplotlib is not installed")


def _keep_memory() -> None:
    """Tells glibc to keep freed blocks.

    Without this, page faults of a fresh result take ten times as long as the call in some runs.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no separate mapping for a block
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: nothing is returned
        torch.ones(1 << 28)  # 1 GiB that stays allocated


if __name__ == "__main__":
    main()
