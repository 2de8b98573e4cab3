"""What the parts of DC-IGN's training do: its regimes side by side, each with all measures.

python benchmarks/experiments_dcign.py                       all, of the demo configuration's length
python benchmarks/experiments_dcign.py a c --steps 5000 --runs runs/experiments -- --image_size 80

    a   the entangled regime
    b   disentangled, types of batches 1:1:1:1
    c   disentangled, 1:1:1:10
    d   c with the repaired invariance signal, strength 0.01
    e   c with the mean clamp
    f   a, then c from its weights

A run that is there is gone on with or, if it is whole, only evaluated. What follows "--" goes to
train_dcign.py. Writes benchmarks/results/experiments-dcign.json, or --output, and prints a table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.machine import facts  # noqa: E402

PLAIN = ("--clamp", "first", "--force_invariance", "false", "--invariance_strength", "0")
BIASED = ("--shape_bias", "true", "--shape_bias_amount", "9")
EXPERIMENTS = {
    "a": ("--regime", "entangled"),
    "b": ("--shape_bias", "false"),
    "c": BIASED,
    "d": (*BIASED, "--force_invariance", "--invariance_strength", "0.01"),
    "e": (*BIASED, "--clamp", "mean"),
    "f": (*BIASED, "--reset_optimizer"),
}
FACTORS = ("azimuth", "elevation", "light")
# Row of the table, part and key of the report.
ROWS = (
    ("reconstruction, MSE", "reconstruction", "mse"),
    *((f"|r| within batches, {n}", "correlation", f"{n}_within") for n in FACTORS),
    *((f"|r| over all, {n}", "correlation", f"{n}_pooled") for n in FACTORS),
    *((f"share of own latents, {n}", "leakage", f"{n}_active") for n in (*FACTORS, "shape")),
    *(
        (f"re-rendering {n} over copying", f"rerender {n}", "ratio_to_copy")
        for n in (*FACTORS, "azimuth+light")
    ),
    ("swap over copying", "swap", "ratio_to_copy"),
    *((f"R^2 of {n} from its own latent", "decoding", f"{n}_own") for n in FACTORS),
    *((f"R^2 of {n} from all others", "decoding", f"{n}_others") for n in FACTORS),
    ("disentanglement", "dci", "disentanglement"),
    ("within over between persons", "invariance", "within_over_between_shape"),
    *((f"recognition by {w}", "recognition", f"linear_{w}") for w in ("shape", "all", "pixels")),
)


def train(name: str, config: str, steps: int | None, folder: Path, more: list[str]) -> Path:
    """The run folder of an experiment, trained as far as it is not yet."""
    command = [sys.executable, ROOT / "train_dcign.py", "--config", config, *PLAIN]
    command += [*EXPERIMENTS[name], "--run_dir", folder, "--name", name, *more]
    if steps:
        command += ["--num_steps", steps]
    if name == "f":
        command += ["--checkpoint", folder / "a"]
    subprocess.run([str(part) for part in command], check=True)
    return folder / name


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("which", nargs="*", help=f"of {', '.join(EXPERIMENTS)}; default: all")
    parser.add_argument("--config", default="demo_dcign.yaml", help="what they have in common")
    parser.add_argument("--steps", type=int, help="of each; default: the configuration's")
    parser.add_argument("--runs", type=Path, default=Path("runs/experiments_dcign"))
    parser.add_argument(
        "--output", type=Path, default=ROOT / "benchmarks/results/experiments-dcign.json"
    )
    given, more = sys.argv[1:], []
    if "--" in given:
        given, more = given[: given.index("--")], given[given.index("--") + 1 :]
    args = parser.parse_args(given)
    which = args.which or list(EXPERIMENTS)
    unknown = [name for name in which if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"{unknown[0]}: no such experiment; there are {', '.join(EXPERIMENTS)}")
    if "f" in which and "a" not in which and not (args.runs / "a").exists():
        parser.error(f"f: goes on from a, and {args.runs / 'a'} is not there")
    reports = {}
    for name in sorted(which):
        start = time.perf_counter()
        run = train(name, args.config, args.steps, args.runs, more)
        seconds = time.perf_counter() - start
        out = run / "evaluation.json"
        evaluate = [sys.executable, ROOT / "evaluate.py", "--checkpoint", run, "--out", out]
        subprocess.run([str(part) for part in evaluate], check=True, stdout=subprocess.DEVNULL)
        report = json.loads(out.read_text())
        report["curves"].pop("tables", None)
        report["leakage"].pop("tables", None)
        report.pop("protocol", None)
        path = Path(report["checkpoint"])
        report["checkpoint"] = "/".join(path.parts[-3:])  # without the folders of this machine
        reports[name] = {"options": EXPERIMENTS[name], "training_seconds": seconds, **report}
    width = max(len(row[0]) for row in ROWS)
    print(f"{'':{width}} " + " ".join(f"{name:>7}" for name in reports))
    for label, part, key in ROWS:
        numbers = " ".join(f"{report[part][key]:7.3f}" for report in reports.values())
        print(f"{label:{width}} {numbers}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    asked = {"config": args.config, "steps": args.steps, "options": more}
    result = {"machine": facts(), **asked, "experiments": reports}
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {args.output}")


if __name__ == "__main__":
    main()
