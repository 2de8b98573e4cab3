"""Score a trained network: print the scores with their protocol and write them as JSON.

    python evaluate.py                                 the newest run, on its own test split
    python evaluate.py --checkpoint RUN --data data/market/index.p --out scores.json

The checkpoint says which system it is of; --help has a group of options for each.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nets import published, systems
from nets.run import checkpoints, options
from nets.run.files import write_text
from nets.run.options import PositiveInt
from nets.run.ranks import Ranks


# fmt: off
def parser() -> options.ArgumentParser:
    p = options.tool_parser(options.summary(__doc__), {"data_index": "data", "data_root": "data"})
    options.add_reading(p)
    g = p.add_argument_group("evaluation")
    add = g.add_argument
    systems.add_checkpoint(g)
    add("--data", type=str | None, default=None,
        help="data in the system's layout; default: the run's")
    add("--batch_size", type=PositiveInt, default=16, help="images per batch")
    add("--out", type=str | None, default=None,
        help="the JSON report; default: evaluation.json in the run folder, if there is one")
    return p
# fmt: on


def print_report(report: dict[str, Any]) -> None:
    """Print the scores of a report and the protocol of each; tables are only in the file."""
    for name, part in report.items():
        if name == "protocol" or not isinstance(part, dict):
            continue
        for key, value in part.items():
            if isinstance(value, dict) and value.keys() >= {"mean", "std"}:
                value = f"{value['mean']:.4f} (standard deviation {value['std']:.4f})"
            elif isinstance(value, float):
                value = f"{value:.4f}"
            elif isinstance(value, list | dict):
                continue
            print(f"  {name:15} {key:31} {value}")
    if "protocol" in report:
        print("protocol:")
        for text in report["protocol"].values():
            print(f"  {text}")


def read_report(file: Path) -> dict[str, Any]:
    """The report that a file holds; empty if there is no such file, or something else in it."""
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def merged(before: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """A report of one stage with the scores that earlier stages of the same weights wrote."""
    if any(
        before.get(key) != report[key] for key in ("checkpoint", "step", "data") if key in report
    ):
        return report
    protocol = {**before.get("protocol", {}), **report.get("protocol", {})}
    return {**before, **report, **({"protocol": protocol} if protocol else {})}


@options.user_errors()
def main(argv: list[str] | None = None) -> None:
    p = parser()
    owners = systems.add_options(p, "evaluate")
    args = options.parse(p, argv, training=systems.training_options)
    if args.reference and not args.checkpoint:
        report = systems.call("vunet", "evaluate_pairs", "score_pairs", args, Ranks(args.device))
        if args.out:
            write_text(Path(args.out), json.dumps(report, indent=1) + "\n")
        print_report(report)
        return
    path = published.find(args.checkpoint, args.system)
    content = published.read_checkpoint(path, args.system)
    system = content["system"]
    print(checkpoints.describe(content, path))
    systems.refuse_foreign(args, p, owners, system)
    folder = path if path.is_dir() else path.parent
    if folder.name == "checkpoints":
        folder = folder.parent
    elif folder == published.TRAINED:
        folder = Path()
    args.out = args.out or str(folder / "evaluation.json")
    report = systems.call(system, "evaluate", "evaluate", args, content, path, Ranks(args.device))
    report = {"checkpoint": str(path), "step": content["step"], **report}
    if args.stage != "all":
        report = merged(read_report(Path(args.out)), report)
    write_text(
        Path(args.out), json.dumps(report, indent=1) + "\n"
    )  # before printing: `| head` may end this
    print_report(report)
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
