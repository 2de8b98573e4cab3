"""Whether a training run keeps more and more memory.

    python benchmarks/memory.py train_vunet.py --config demo.yaml --num_steps 2000
    python benchmarks/memory.py --output FILE train_dcign.py ...

Runs a training script as it is, with the arguments that follow its name, and reads the resident
memory of its process after every tenth step. The first quarter of the steps warms up; the peak of
the last quarter may lie at most 2 % above that of the second one. Exit code 1 where it does.
"""

from __future__ import annotations

import argparse
import json
import resource
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.machine import facts  # noqa: E402
from nets.run.run import Run  # noqa: E402

MOST = 0.02


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def watch(script: Path, given: list[str]) -> list[int]:
    """The resident memory after every tenth step of a script that goes to its end."""
    sizes: list[int] = []
    steps = Run.steps

    def watched(run: Run, *args: int) -> Iterator[int]:
        for step in steps(run, *args):
            yield step
            if step % 10 == 9:
                sizes.append(resident())

    Run.steps = watched
    sys.argv = [str(script), *given]
    runpy.run_path(str(script), run_name="__main__")
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--output", type=Path, help="also write the figures there")
    parser.add_argument("script", help="a training script, e.g. train_vunet.py")
    parser.add_argument("given", nargs=argparse.REMAINDER, help="its arguments")
    args = parser.parse_args()
    sizes = watch(ROOT / args.script, args.given)
    quarter = len(sizes) // 4
    if not quarter:
        raise SystemExit(f"memory.py: needs 40 steps and more, saw {10 * len(sizes)}")
    before, after = max(sizes[quarter : 2 * quarter]), max(sizes[-quarter:])
    growth = after / before - 1
    result = {
        "steps": 10 * len(sizes),
        "warm_mb": round(before / 1e6, 1),
        "last_mb": round(after / 1e6, 1),
        "growth": round(growth, 5),
        "mb_every_tenth_step": [round(size / 1e6, 1) for size in sizes],
        "machine": facts(),
    }
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['warm_mb']} MB after warm-up, {result['last_mb']} MB at the end: {growth:+.2%}")
    if growth > MOST:
        raise SystemExit(f"memory.py: grew by {growth:.2%} in {10 * len(sizes)} steps")


if __name__ == "__main__":
    main()
