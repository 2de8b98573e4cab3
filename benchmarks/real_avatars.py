"""Head avatars on real clips, of persons seen in training and of others, from two starts.

python extract.py heads VIDEOS -o HEADS --phase train --sampling_rate 3 --image_size 128
python benchmarks/real_avatars.py HEADS

HEADS holds PERSON/VIDEO/SEQUENCE. Every third person is never trained on. Of the others, the first
two thirds of each sequence train a network of faces_128.yaml with real_heads.yaml, and the rest is
scored. One network starts from the weights of guise, which know the demo world, or from --start
RUN; the other starts untrained, with the same steps. The start is scored as it is, too. Every
network is scored twice: with avatars as it makes them, and with avatars fitted to their source.
Writes benchmarks/results/real-avatars.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.machine import write_report  # noqa: E402

KINDS = ("imgs", "keypoints", "segs")
FRAMES = 16  # of a clip that are scored
PROTOCOL = {
    "seen": "the last third of each sequence of persons whose first two thirds were trained on",
    "unseen": "the whole clips of every third person, of whom no frame was trained on",
    "starts": "demo world: both starts have the same real steps; untrained: no other steps; demo "
    "world, as it is: no real steps, so that persons called seen are new to it too",
    "fitted": "avatars are fitted to the source frame in fit_steps steps, which also is the source "
    "of the copy",
}


def link(data: Path, root: Path, phase: str, frames: list[Path]) -> None:
    """Links of frames, paths PERSON/VIDEO/SEQUENCE/FRAME of `data`, in another phase of `root`."""
    for kind in KINDS:
        for frame in frames:
            found = sorted((data / kind / "train" / frame.parent).glob(f"{frame.name}.*"))
            for file in found:
                target = root / kind / phase / frame.parent / file.name
                target.parent.mkdir(parents=True, exist_ok=True)
                os.symlink(file.resolve(), target)


def split(data: Path, seen: Path, unseen: Path) -> dict[str, int]:
    """Write both datasets as links; the persons and frames of each part."""
    persons = sorted(f.name for f in (data / "imgs/train").iterdir() if f.is_dir())
    counts = {"persons_seen": 0, "persons_unseen": 0, "train": 0, "seen": 0, "unseen": 0}
    for number, person in enumerate(persons):
        out = number % 3 == 2
        counts["persons_unseen" if out else "persons_seen"] += 1
        base = data / "imgs/train"
        for sequence in sorted(f for f in (base / person).glob("*/*") if f.is_dir()):
            frames = [f.relative_to(base).with_suffix("") for f in sorted(sequence.iterdir())]
            cut = 0 if out else len(frames) * 2 // 3
            link(data, seen, "train", frames[:cut])
            link(data, unseen if out else seen, "test", frames[cut:])
            counts["train"] += cut
            counts["unseen" if out else "seen"] += len(frames) - cut
    return counts


def run(*command: str | Path) -> None:
    subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, check=True)


def scores(
    checkpoint: str | Path, parts: dict[str, Path], detector: str, folder: Path
) -> dict[str, Any]:
    """Reports of a network on the parts of the data: {"seen": ..., "seen, fitted": ..., ...}."""
    if str(checkpoint) == "trained":
        checkpoint = ROOT / "nets/trained/bilayer.safetensors"
    rows = {}
    for part, data in parts.items():
        for name, more in ((part, ["--fit_steps", "0"]), (f"{part}, fitted", [])):
            out = folder / "report.json"
            run("evaluate.py", "--checkpoint", checkpoint, "--data", data, "--clips", str(FRAMES),
                "--detector", detector, "--out", out, *more)  # fmt: skip
            report = json.loads(out.read_text())
            rows[name] = {key: report[key] for key in ("self", "cross", "clips", "fit_steps")}
            own = report["self"]
            rows[name]["l1_over_copying"] = own["l1"]["mean"] / own["l1_copy_source"]["mean"]
            print(f"{checkpoint} {name}: L1 over copying {rows[name]['l1_over_copying']:.3f}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("heads", type=Path, help="folder that extract.py heads wrote")
    parser.add_argument(
        "--start", default="trained", help="run of faces_128.yaml; default: the weights of guise"
    )
    parser.add_argument("--steps", type=int, default=2000, help="of each training; default: 2000")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    parser.add_argument("--detector", default="dlib", help="of the scores akd and pose")
    parser.add_argument("--output", type=Path,
                        default=ROOT / "benchmarks/results/real-avatars.json",
                        help="JSON; default: in benchmarks/results/")  # fmt: skip
    args = parser.parse_args()
    if not (args.heads / "imgs/train").is_dir():
        parser.error(f"{args.heads}: has no imgs/train; extract.py heads --phase train writes it")
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        seen, unseen = folder / "seen", folder / "unseen"
        counts = split(args.heads, seen, unseen)
        config = ["--config", "faces_128.yaml", "real_heads.yaml", "--data", seen]
        config += ["--num_steps", str(args.steps), "--lr_decay_begin", str(args.steps // 2)]
        config += ["--run_dir", folder]
        parts = {"seen": seen, "unseen": unseen}
        rows["demo world, as it is"] = scores(args.start, parts, args.detector, folder)
        for seed in args.seeds:
            starts = {
                "demo world": ["--init_experiment_dir", args.start],
                "untrained": ["--init_experiment_dir", "", "--init_networks", ""],
            }
            for start, more in starts.items():
                name, begun = f"{start.replace(' ', '_')}_{seed}", time.perf_counter()
                run("train_bilayer.py", *config, *more, "--seed", str(seed), "--name", name)
                seconds = time.perf_counter() - begun
                scored = scores(folder / name, parts, args.detector, folder)
                rows[f"{start}, seed {seed}"] = {"training_seconds": seconds, **scored}
    write_report(args.output, {**counts, "steps": args.steps, **rows, "protocol": PROTOCOL})


if __name__ == "__main__":
    main()
