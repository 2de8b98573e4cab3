"""Score a trained network: print the scores with their protocol and write them as JSON.

    python evaluate.py                                 the newest run, on its own test split
    python evaluate.py --checkpoint RUN --data data/market/index.p --out scores.json
    python evaluate.py --checkpoint RUN --pairs pairs.csv     transfers for a list of pairs
    python evaluate.py --json - | jq .                 for scripts: JSON alone on stdout
    python evaluate.py --compare RUN RUN               their reports as one Markdown table

The checkpoint says which system it is of; --help has a group of options for each.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nets import published, systems
from nets.errors import UserError
from nets.run import checkpoints, options
from nets.run.files import write_text
from nets.run.options import PositiveInt, add_flag
from nets.run.ranks import Ranks

REPORT = "evaluation.json"  # of a run folder
REPORT_OF_PAIRS = "evaluation_pairs.json"
RENAMED = {  # names of the published programs -> names here
    "data_index": "data",
    "data_root": "data",
    "dataset_path": "data",
    "datasetdir": "data",
    "resume_ckpt": "checkpoint",
    "gaussians_save_path": "gaussians",
    "gaussian_path": "gaussians",
    "out_path": "predictions",
    "results_path": "predictions",
}


# fmt: off
def parser() -> options.Parser:
    p = options.tool_parser(options.summary(__doc__), RENAMED)
    options.add_reading(p)
    g = p.add_argument_group("evaluation")
    add = g.add_argument
    systems.add_checkpoint(g)
    systems.add_fit(g)
    add("--data", type=str | None, default=None,
        help="data in the system's layout; default: the run's")
    add("--batch_size", type=PositiveInt, default=16, help="images per batch")
    add("--pretrained_weights_dir", type=str | None, default=None,
        help="folder of weights of others (LPIPS, face recognition, Inception of FID); default: "
        "the run's, and torch's hub cache")
    add_flag(g, "--download_weights", False,
        "download missing weights of LPIPS and FID from their publishers")
    add("--out", type=str | None, default=None,
        help=f"the JSON report; default: {REPORT} in the run folder, if there is one; with --pairs "
        f"{REPORT_OF_PAIRS}")
    add("--json", type=str | None, default=None, metavar="FILE",
        help="another copy of the report; -: on stdout, and all else on stderr")
    add("--compare", type=str, nargs="+", default=None, metavar="RUN",
        help="runs or report files: a Markdown table of their reports, and no evaluation")
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
            elif value is None:
                value = "no finite value"
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


def report_of(given: str) -> dict[str, Any]:
    """The report of a run folder, of one of its checkpoints, or of a report file."""
    path = Path(given)
    if path.suffix == ".json":
        files = [path]
    else:
        folder = run_folder(path)
        files = [folder / REPORT, folder / REPORT_OF_PAIRS]
    for file in files:
        if report := read_report(file):
            return report
    raise UserError(
        f"--compare {given}: no report, {' or '.join(map(str, files))}; evaluate.py --checkpoint "
        f"{given} writes one"
    )


def run_folder(path: Path) -> Path:
    """The run folder of a checkpoint, or of the run folder itself."""
    folder = path if path.is_dir() else path.parent
    return folder.parent if folder.name == "checkpoints" else folder


def scores_of(report: dict[str, Any]) -> dict[tuple[str, str], float]:
    """(part, score) -> number, of each single number of a report; of a summary the mean."""
    result: dict[tuple[str, str], float] = {}
    for name, part in report.items():
        for key, value in part.items() if isinstance(part, dict) else ():
            value = value.get("mean") if isinstance(value, dict) else value
            if isinstance(value, int | float) and not isinstance(value, bool):
                result[name, key] = value
    return result


def comparison(names: Sequence[str], reports: Sequence[dict[str, Any]]) -> str:
    """A Markdown table, a row a score and a column a report, and what differs between them.

    Scores of different protocols or data are named below the table.
    """
    columns = [scores_of(report) for report in reports]
    rows = list(dict.fromkeys(key for column in columns for key in column))
    shown = [[_number(column.get(row)) for column in columns] for row in rows]
    table = [["", *names], ["---", *("---:" for _ in names)]]
    table += [[" ".join(row), *cells] for row, cells in zip(rows, shown, strict=True)]
    lines = [f"| {' | '.join(row)} |" for row in table]
    notes = []
    for key in ("data", "images", "pairs", "videos"):
        values = [str(report.get(key)) for report in reports]
        if len(set(values)) > 1:
            notes.append(f"{key} differs: {', '.join(values)}")
    protocols = [report.get("protocol", {}) for report in reports]
    for key in dict.fromkeys(key for protocol in protocols for key in protocol):
        texts = {protocol[key] for protocol in protocols if key in protocol}
        if len(texts) > 1:
            notes.append(f"the protocol of {key} differs")
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4f}"


@contextlib.contextmanager
def quiet_stdout() -> Iterator[int]:
    """Everything that is written to stdout goes to stderr; yields a descriptor of stdout itself.

    Of other processes too, such as compilers.
    """
    sys.stdout.flush()
    stdout = os.dup(1)
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield stdout
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


@options.user_errors()
def main(argv: list[str] | None = None) -> None:
    p = parser()
    owners = systems.add_options(p, "evaluate")
    args = options.parse(p, argv, training=systems.training_options)
    if args.json == "-":
        with quiet_stdout() as stdout:
            report = evaluate(args, p, owners)
            with open(os.dup(stdout), "w", encoding="utf-8") as file:
                file.write(json.dumps(report, indent=1) + "\n")
        return
    report = evaluate(args, p, owners)
    if args.json:
        write_text(Path(args.json), json.dumps(report, indent=1) + "\n")


def evaluate(
    args: options.Namespace, p: options.ArgumentParser, owners: dict[str, str]
) -> dict[str, Any]:
    """The report that the options ask for, printed and written to --out."""
    if args.compare:
        if args.out:
            raise UserError("--out: not with --compare; > FILE keeps the table, --json the reports")
        reports = [report_of(given) for given in args.compare]
        print(comparison(args.compare, reports))
        return dict(zip(args.compare, reports, strict=True))
    if args.reference and not args.checkpoint:
        systems.refuse_foreign(args, p, owners, "vunet")
        report = systems.call("vunet", "evaluate", "evaluate_reference", args, Ranks(args.device))
        return publish(args, report)
    path = published.find(args.checkpoint, args.system)
    content = published.read_checkpoint(path, args.system)
    system = content["system"]
    print(checkpoints.describe(content, path))
    systems.refuse_foreign(args, p, owners, system)
    systems.refuse_shared(args, p, {"fit_steps": systems.FITTING}, system)
    folder = Path() if path.parent == published.TRAINED else run_folder(path)
    args.out = args.out or str(folder / (REPORT_OF_PAIRS if args.pairs else REPORT))
    report = systems.call(system, "evaluate", "evaluate", args, content, path, Ranks(args.device))
    report = {"checkpoint": str(path), "step": content["step"], **report}
    if args.stage != "all":
        report = merged(read_report(Path(args.out)), report)
    return publish(args, report)


def publish(args: options.Namespace, report: dict[str, Any]) -> dict[str, Any]:
    """The report, printed, and written to --out if it is given."""
    if args.out:  # before printing: `| head` may end this
        write_text(Path(args.out), json.dumps(report, indent=1) + "\n")
    print_report(report)
    if args.out:
        print(f"written: {args.out}")
    return report


if __name__ == "__main__":
    main()
