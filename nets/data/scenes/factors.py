"""Images in a folder with a table of their factors, as batches in which one factor changes.

The table factors.csv lies beside or above the images:

    file,azimuth,elevation,light,shape,split
    anna/001.png,-0.3,0.1,0.5,anna,train

`file` is relative to the table. Each type of batch has a column: numbers in radians for azimuth,
elevation and light; for the last type, shape, any name of the person (the column may be called
`identity`). The images of a batch agree in all other columns. The column `split`, train or test,
is optional; without it a tenth of the persons are for testing, as `FactorTable.note` says.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nets.data.io.files import below
from nets.data.io.images import read_grey
from nets.data.io.names import is_foreign
from nets.errors import UserError
from nets.random import uniform

MIXED = "mixed"  # the type of batches in which everything changes
FACTORS = ("azimuth", "elevation", "light")  # labels in radians, used by the measures


def kinds_of(sets: Mapping[str, str] | None) -> Sequence[str]:
    """The types of batches: those of the sets, or without sets the one type "mixed"."""
    return tuple(sets) if sets is not None else (MIXED,)


def read_table(path: str | Path) -> list[dict[str, str]]:
    """The rows of a table, texts by column. Raises UserError that names file and line."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, strict=True)
            columns = list(table.fieldnames or ())
            rows = list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a table: {error}") from error
    for column in columns:
        if columns.count(column) > 1:
            raise UserError(f"{path}: the column {column!r} stands twice")
    if not rows:
        raise UserError(f"{path}: holds no rows")
    if "file" not in rows[0]:
        raise UserError(f"{path}: must have a column `file`, has {', '.join(map(str, rows[0]))}")
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values() or not row["file"]:
            raise UserError(f"{path}, line {number}: must have {len(rows[0])} values")
        if not below(row["file"]):
            raise UserError(
                f"{path}, line {number}: file must lie below the table's folder, is {row['file']}"
            )
        if is_foreign(Path(path).parent, row["file"]):
            raise UserError(
                f"{path}, line {number}: {row['file']}: is a path of Windows; write a/b.png, with "
                "slashes"
            )
    return rows


class FactorTable:
    """A `batches.Source` of a folder of images with a table."""

    def __init__(
        self,
        table: str | Path,
        split: str,  # "train" or "test"
        sets: Mapping[str, str] | None,  # its keys are the types; None: everything changes
        count: int | None,  # images in a batch; None: all that differ in one factor only
        size: int,  # their side in pixels
        limit: int | None = None,  # batches of each type; fewer are an error
        seed: int = 0,  # of the split, if the table has none, and of mixed batches
    ):
        """Raises UserError if a column or a number is missing, or a type has too few batches."""
        self.table, self.name, self.size = Path(table), str(table), size
        rows = read_table(table)
        types = tuple(sets or (*(kind for kind in FACTORS if kind in rows[0]), "shape"))
        rename = {types[-1]: "identity"} if types[-1] not in rows[0] else {}
        self.columns = {kind: rename.get(kind, kind) for kind in types}
        for kind, column in self.columns.items():
            if column not in rows[0]:
                raise UserError(f"{table}: must have a column `{kind}`")
        self.rows, self.note = _of_split(self.table, rows, split, self.columns[types[-1]], seed)
        self.labels = tuple(kind for kind in types if kind in FACTORS)
        self.numbers = {kind: self._numbers(kind) for kind in self.labels}
        if sets is None:
            order = uniform(seed, f"mixed {split}", torch.arange(len(self.rows)), 1)[:, 0].argsort()
            self.batches = {MIXED: _pieces(order.tolist(), count)}
        else:
            self.batches = {kind: self._batches(kind, count) for kind in types}
        needed = limit or 1
        for kind, batches in self.batches.items():
            if len(batches) < needed:
                what = "" if kind == MIXED else f" in which only {kind} changes"
                images = "two or more images" if count is None else f"{count} images"
                note = f"; {self.note}" if self.note else ""
                raise UserError(
                    f"{table}: holds {len(batches)} {split} batches of {images}{what}, "
                    f"{needed} {'is' if needed == 1 else 'are'} needed{note}"
                )
            self.batches[kind] = batches[:limit]
        self.counts = {kind: len(batches) for kind, batches in self.batches.items()}

    def _numbers(self, kind: str) -> list[float]:
        values = []
        for row in self.rows:
            try:
                values.append(float(row[kind]))
            except ValueError:
                values.append(math.nan)
            if not math.isfinite(values[-1]):
                raise UserError(
                    f"{self.table}: {kind} of {row['file']} must be a number in radians"
                )
        return values

    def _batches(self, kind: str, count: int | None) -> list[list[int]]:
        groups: dict[tuple[str, ...], list[int]] = {}
        others = [column for k, column in self.columns.items() if k != kind]
        for i, row in enumerate(self.rows):
            groups.setdefault(tuple(row[column] for column in others), []).append(i)
        changing = (
            g for g in groups.values() if len({self.rows[i][self.columns[kind]] for i in g}) > 1
        )
        return [piece for group in changing for piece in _pieces(group, count)]

    def read(self, kind: str, number: int) -> dict[str, Tensor]:
        chosen = self.batches[kind][number]
        folder = self.table.parent
        image = torch.stack([read_grey(folder / self.rows[i]["file"], self.size) for i in chosen])
        labels = {
            k: torch.tensor([values[i] for i in chosen]) for k, values in self.numbers.items()
        }
        return {"image": image, **labels}


def _pieces(items: Sequence[int], count: int | None) -> list[list[int]]:
    """The items in pieces of `count`, without a last piece of fewer; None: in one piece."""
    if count is None:
        return [list(items)] if items else []
    return [list(items[i : i + count]) for i in range(0, len(items) - count + 1, count)]


def _of_split(
    table: Path, rows: list[dict[str, str]], split: str, person: str, seed: int
) -> tuple[list[dict[str, str]], str]:
    """(rows of a split, note). Without a column `split`, each person is in one split only.

    note  how the persons were divided; empty with a column `split`
    """
    if "split" in rows[0]:
        for row in rows:
            if row["split"] not in ("train", "test"):
                raise UserError(f"{table}: split of {row['file']} must be train or test")
        return [row for row in rows if row["split"] == split], ""
    persons = sorted({row[person] for row in rows})
    draws = uniform(seed, "persons to test", torch.arange(len(persons)), 1)[:, 0]
    if len(persons) < 2:
        raise UserError(
            f"{table}: has no column `split` and one person only; add the column, with train or "
            f"test in each row"
        )
    tested = {persons[i] for i in draws.argsort()[: max(1, len(persons) // 10)]}
    note = (
        f"no column `split`: {len(tested)} of {len(persons)} persons are for testing; add the "
        f"column, with train or test in each row, to choose"
    )
    return [row for row in rows if (row[person] in tested) == (split == "test")], note
