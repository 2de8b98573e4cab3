"""How well each demo learns, at full length, and whether it reaches its bars.

python benchmarks/learning.py vunet               train demo.yaml, evaluate, compare with the bars
python benchmarks/learning.py vunet --run RUN     the same of a finished run (a folder of runs:
                                                  its newest)
python benchmarks/learning.py vunet --trained     the same of the weights that come with guise

Writes benchmarks/results/learning-vunet.json, or nets/trained/vunet.json with --trained. Exits with
status 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.machine import facts  # noqa: E402
from nets import published  # noqa: E402
from nets.run import checkpoints  # noqa: E402

# Script, configuration, and what evaluate.py is told.
TRAIN = {
    "vunet": ("train_vunet.py", "demo.yaml", ("--images", "0")),
    "dcign": ("train_dcign.py", "demo_dcign.yaml", ()),
    "landmarks": ("train_landmarks.py", "demo_landmarks.yaml", ()),
    "bilayer": ("train_bilayer.py", "demo_bilayer.yaml", ()),
}
# Configurations of the weights that come with guise.
TRAINED_WITH = {
    "vunet": "people_128.yaml",
    "landmarks": "clips_128.yaml",
    "bilayer": "faces_128.yaml",
    "dcign": "faces_96.yaml",
}


def vunet(report: dict) -> list[tuple[str, float, str, float]]:
    """(what, value, at most or at least, bar) on held-out outfits and poses."""
    transfer = report["transfer"]
    return [
        ("masked L1 over the best trivial baseline", transfer["ratio_to_best_baseline"], "<=", 0.5),
        ("right outfit nearest among 16", transfer["nearest_outfit"], ">=", 0.75),
    ]


def dcign(report: dict) -> list[tuple[str, float, str, float]]:
    """The same, on unseen heads."""
    known, within = report["correlation"], "|r| of {}'s latent within batches"
    bars = [
        (within.format(name), known[f"{name}_within"], ">=", 0.9)
        for name in ("azimuth", "elevation", "light")
    ]
    for name in ("azimuth", "light"):
        bars.append((f"|r| of {name}'s latent over all", known[f"{name}_pooled"], ">=", 0.7))
    for name, bar in (("azimuth", 0.6), ("light", 0.7), ("azimuth+light", 0.6)):
        ratio = report[f"rerender {name}"]["ratio_to_copy"]
        bars.append((f"re-rendering to another {name} over copying", ratio, "<=", bar))
    return bars


def landmarks(report: dict) -> list[tuple[str, float, str, float]]:
    """The same, on held-out clips."""
    joints, behind = report["regression"], report["background"]
    return [
        ("error of joints over the mean pose's", joints["ratio_to_mean_pose"], "<=", 0.5),
        ("mask IoU", report["mask"]["iou"]["mean"], ">=", 0.5),
        ("background error over the mean image's", behind["ratio_to_mean_image"], "<=", 0.5),
    ]


def bilayer(report: dict) -> list[tuple[str, float, str, float]]:
    """The same, on held-out persons and poses."""
    heads, turned = report["heads"], report["azimuth"]
    return [
        ("masked L1 over copying the source", heads["ratio_to_copy_source"], "<=", 0.7),
        ("IoU of the mask", heads["mask_iou"]["mean"], ">=", 0.8),
        ("error of the azimuth over copying's", turned["ratio_to_copy_source"], "<=", 0.5),
    ]


def openings(report: dict) -> list[tuple[str, float, str, float]]:
    """The same, of eyes and mouth driven by another person."""
    return [
        (f"r of how far {part} open", report["openings"][name]["driven"], ">=", 0.8)
        for name, part in (("mouth", "the mouth is"), ("lids", "the lids are"))
    ]


# Of the weights that come with guise: higher bars than those of the demos.
TRAINED_BARS = {
    "masked L1 over the best trivial baseline": 0.35,
    "error of joints over the mean pose's": 0.2,
    "masked L1 over copying the source": 0.35,
    "re-rendering to another azimuth over copying": 0.15,
    "re-rendering to another light over copying": 0.3,
}
TRAINED_ONLY = {"bilayer": openings}  # what a short demo does not learn
BARS = {"vunet": vunet, "dcign": dcign, "landmarks": landmarks, "bilayer": bilayer}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("system", choices=sorted(TRAIN), help="whose demo")
    parser.add_argument("--run", type=Path, help="a finished run, instead of training one")
    parser.add_argument("--trained", action="store_true", help="of the weights in nets/trained")
    parser.add_argument(
        "--output", type=Path, help="JSON; default: in benchmarks/results/, not of --run"
    )
    parser.add_argument("--slack", type=float, default=0.0, help="how far a bar may be missed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run, seconds = args.run, None
        if args.trained:
            run = published.TRAINED / f"{args.system}.safetensors"
        if run is None:
            script, config, _ = TRAIN[args.system]
            run, start = Path(folder) / "run", time.perf_counter()
            command = [sys.executable, ROOT / script, "--config", config, "--run_dir", folder]
            subprocess.run([*command, "--name", "run"], check=True)
            seconds = time.perf_counter() - start
        path = checkpoints.find(run)
        out = Path(folder) / "report.json"
        evaluate = [sys.executable, ROOT / "evaluate.py", "--checkpoint", path, "--out", out]
        subprocess.run([*evaluate, *TRAIN[args.system][2]], check=True)
        report = json.loads(out.read_text())
    missed = 0
    bars = BARS[args.system](report)
    if args.trained and args.system in TRAINED_ONLY:
        bars += TRAINED_ONLY[args.system](report)
    for what, value, relation, bar in bars:
        bar = TRAINED_BARS.get(what, bar) if args.trained else bar
        met = (value - bar if relation == "<=" else bar - value) <= args.slack
        missed += not met
        print(f"{what}: {value:.3f}, bar {relation} {bar}: {'met' if met else 'MISSED'}")
    report["checkpoint"] = "/".join(path.parts[-3:])  # without the folders of this machine
    report = {"machine": facts(), "training_seconds": seconds, **report, "bars_missed": missed}
    result = args.output
    if args.trained:
        trained = checkpoints.read(path)["options"]
        report["seed"], report["config"] = trained["seed"], TRAINED_WITH[args.system]
        result = result or path.with_suffix(".json")
    elif args.run is None:
        result = result or ROOT / f"benchmarks/results/learning-{args.system}.json"
    if result:
        result.parent.mkdir(exist_ok=True)
        result.write_text(json.dumps(report, indent=1) + "\n")
        print(f"written: {result}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
