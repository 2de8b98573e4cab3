"""How well a DC-IGN of a real data set does on people or objects that it was not trained on.

python benchmarks/real_dcign.py yale_light --data FOLDER               train seeds 0, 1, 2; evaluate
python benchmarks/real_dcign.py coil_azimuth --data FOLDER --seeds 0
python benchmarks/real_dcign.py yale_light --runs RUN RUN RUN          the same of finished runs

FOLDER holds images and a factors.csv with a column split. Writes
benchmarks/results/real-dcign-NAME.json: the report of each seed, and their means.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.machine import facts  # noqa: E402
from nets.run import checkpoints  # noqa: E402

NAMES = ("yale_light", "coil_azimuth")  # configurations in configs/dcign


def trained(name: str, data: Path, seed: int, folder: Path) -> tuple[Path, float]:
    """(run, seconds) of a training of a configuration."""
    start, run = time.perf_counter(), f"{name}_{seed}"
    command = [sys.executable, ROOT / "train_dcign.py", "--config", f"{name}.yaml", "--data", data]
    subprocess.run([*command, "--seed", str(seed), "--run_dir", folder, "--name", run], check=True)
    return folder / run, time.perf_counter() - start


def evaluated(run: Path, folder: Path) -> dict[str, Any]:
    """The report of evaluate.py on a run, without folders of this machine and tables."""
    path, out = checkpoints.find(run), folder / "report.json"
    command = [sys.executable, ROOT / "evaluate.py", "--checkpoint", path, "--out", out]
    subprocess.run(command, check=True)
    report: dict[str, Any] = json.loads(out.read_text())
    options = checkpoints.read(path)["options"]
    report["seed"], report["data"] = options["seed"], Path(report["data"]).parent.name
    report["leakage"].pop("tables")
    del report["checkpoint"]
    return report


def means(reports: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The mean over reports of each number in each part."""
    result: dict[str, dict[str, float]] = {}
    for part, scores in reports[0].items():
        if isinstance(scores, dict) and part != "protocol":
            numbers = {k for k, v in scores.items() if isinstance(v, int | float)}
            result[part] = {
                key: mean(report[part][key] for report in reports) for key in sorted(numbers)
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", choices=NAMES, help="configuration")
    parser.add_argument("--data", type=Path, help="folder with a factors.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--runs", type=Path, nargs="+", help="finished runs, instead of training")
    parser.add_argument("--output", type=Path, help="JSON; default: in benchmarks/results/")
    args = parser.parse_args()
    if not args.runs and not args.data:
        parser.error("give --data to train, or --runs")
    reports = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runs = [(run, None) for run in args.runs or ()] or [
            trained(args.name, args.data, seed, folder) for seed in args.seeds
        ]
        for run, seconds in runs:
            reports.append({**evaluated(run, folder), "training_seconds": seconds})
    protocol = reports[0]["protocol"]
    for report in reports:
        del report["protocol"]
    result = {
        "machine": facts(),
        "config": f"{args.name}.yaml",
        "mean": means(reports),
        "seeds": reports,
        "protocol": protocol,
    }
    path = args.output or ROOT / f"benchmarks/results/real-dcign-{args.name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    for part, scores in result["mean"].items():
        for key, value in scores.items():
            print(f"{part:16} {key:28} {value:.4f}")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
