"""The rows of benchmarks/ops.py, one file an operator family, each with a list of Row: ROWS."""

from benchmarks.op_rows import heatmaps, layers, moments, skeletons, warps
from benchmarks.op_rows.row import Row

ROWS = [*heatmaps.ROWS, *moments.ROWS, *skeletons.ROWS, *warps.ROWS, *layers.ROWS]

__all__ = ["ROWS", "Row"]
