"""Images in a folder with a table of their factors, as batches in which one factor changes.

The table factors.csv lies beside or above the images:

    file,azimuth,elevation,light,shape,split
    anna/001.png,-0.3,0.1,0.5,anna,train

`file` is relative to the table. Each type of batch has a column: numbers in radians for azimuth,
elevation and light; for the last type, shape, any name of the person (the column may be called
`identity`). The images of a batch agree in all other columns; where more images agree than a batch
holds, they are divided at random. The column `split`, train or test, is optional; without it a
tenth of the persons are for testing, as `FactorTable.note` says.
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
ROUNDS = 16  # divisions into training batches, each in another random order
CACHE = 256 << 20  # bytes of decoded images that a table keeps


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
        raise UserError(
            f"{path}: must have a column `file`, separated by commas, has "
            f"{', '.join(map(repr, columns))}"
        )
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
        seed: int = 0,  # of the split, if the table has none, and of the division into batches
    ):
        """Raises UserError if a column or a number is missing, or a type has too few batches."""
        self.table, self.name, self.size = Path(table), str(table), size
        self.count, self.seed = count, seed
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
            groups = {MIXED: [order.tolist()] if self.rows else []}
        else:
            groups = {kind: self._groups(kind) for kind in types}
        again = count and sets is not None and split == "train" and not limit
        self.rounds = ROUNDS if again else 1
        self.batches = {kind: _pieces(groups[kind], count) for kind in groups}
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
        self.counts = {kind: len(of) * self.rounds for kind, of in self.batches.items()}
        self._decoded: dict[int, Tensor] = {}

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

    def _groups(self, kind: str) -> list[list[int]]:
        """The rows that agree in all columns but that of a type, in which two of them differ."""
        groups: dict[tuple[str, ...], list[int]] = {}
        others = [column for k, column in self.columns.items() if k != kind]
        for i, row in enumerate(self.rows):
            groups.setdefault(tuple(row[column] for column in others), []).append(i)
        column = self.columns[kind]
        return [g for g in groups.values() if len({self.rows[i][column] for i in g}) > 1]

    def members(self, kind: str, number: int) -> list[int]:
        """The rows of a batch; see `read`."""
        place, again = divmod(number, self.rounds)
        group, first = self.batches[kind][place]
        if self.count is None or kind == MIXED:
            return group[first : first + (self.count or len(group))]
        draws = uniform(self.seed, f"divided {kind} {again}", torch.tensor(group), 1)[:, 0]
        order = draws.argsort(stable=True)[first : first + self.count]
        return [group[i] for i in order.tolist()]

    def read(self, kind: str, number: int) -> dict[str, Tensor]:
        """A batch as in `Source.read`. Numbers that follow each other divide the same images."""
        return self.take(self.members(kind, number))

    def take(self, chosen: Sequence[int]) -> dict[str, Tensor]:
        """Image and labels of rows, as a batch."""
        labels = {
            k: torch.tensor([values[i] for i in chosen]) for k, values in self.numbers.items()
        }
        return {"image": torch.stack([self._image(i) for i in chosen]), **labels}

    def _image(self, row: int) -> Tensor:
        """(1, S, S) uint8. It is kept after its first use if there is room."""
        if row not in self._decoded:
            image = read_grey(self.table.parent / self.rows[row]["file"], self.size)
            if len(self._decoded) * self.size**2 >= CACHE:
                return image
            self._decoded[row] = image
        return self._decoded[row]


def _pieces(groups: Sequence[list[int]], count: int | None) -> list[tuple[list[int], int]]:
    """(group, first place) of each batch of `count`, without a last one of fewer; None: groups."""
    return [
        (group, first)
        for group in groups
        for first in range(0, len(group) - (count or 1) + 1, count or len(group))
    ]


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
