"""The rows of benchmarks/ops.py: one file for each operator family, each with a list ROWS."""

from benchmarks.op_rows.row import Row


def all_rows() -> list[Row]:
    """The rows of all families. Raises ImportError if a library to compare with is missing."""
    from benchmarks.op_rows import heatmaps, layers, moments, raster, skeletons, warps

    return [*heatmaps.ROWS, *moments.ROWS, *skeletons.ROWS, *warps.ROWS, *raster.ROWS, *layers.ROWS]


__all__ = ["Row", "all_rows"]
