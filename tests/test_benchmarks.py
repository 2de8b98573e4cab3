"""The benchmarks start: what they import is there."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_benchmark_imports():
    names = sorted(f"benchmarks.{f.stem}" for f in (ROOT / "benchmarks").glob("*.py"))
    assert "benchmarks.inference" in names
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(f"import {name}" for name in names)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
