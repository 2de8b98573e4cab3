"""The rows of benchmarks/ops.py, one file an operator family, each with a list of Row: ROWS."""

from op_rows import heatmaps
from op_rows.row import Row

ROWS = [*heatmaps.ROWS]

__all__ = ["ROWS", "Row"]
