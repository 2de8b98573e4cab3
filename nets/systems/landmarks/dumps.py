"""Landmarks of many frames as files: what `evaluate.py` writes first and reads afterwards."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from nets.data.files import read_arrays, whole_file
from nets.data.pickles import read_pickle
from nets.errors import UserError

SAFE, ORIGINAL = "gaussians.npz", "gaussians.pkl3"
KEYS = ("predictions_mean", "vid", "frame", "bboxes", "gt")


def write(folder: Path, gaussians: dict[str, np.ndarray], original: bool) -> Path:
    """Write one partition's landmarks: gaussians.npz in float32, or the original's pickle, in which
    means and covariances are float16 and fixed covariances are empty lists.

    predictions_mean        (N, 2K): mu_x of all landmarks, then mu_y, in [-1, 1)
    predictions_cov         (N, K, 2, 2), predictions_cov_decomp their lower Cholesky factors; both
                            (0,) where the covariance is fixed
    vid, frame              (N,) int; bboxes (N, 4) float64; gt (N, 14) float32
    """
    if not original:
        path = folder / SAFE
        with whole_file(path) as file:
            np.savez(file, **gaussians)
        return path
    path, content = folder / ORIGINAL, dict(gaussians)
    for key in ("predictions_mean", "predictions_cov", "predictions_cov_decomp"):
        content[key] = content[key].astype(np.float16) if content[key].size else []
    with whole_file(path) as file:
        pickle.dump(content, file, protocol=3)
    return path


def read(folder: Path) -> dict[str, np.ndarray]:
    """The landmarks that were written to a folder, of either kind; the pickle without running any
    code that it might hold. Raises UserError.
    """
    found = [folder / name for name in (SAFE, ORIGINAL) if (folder / name).is_file()]
    if not found:
        raise UserError(f"{folder}: holds no {SAFE} and no {ORIGINAL}; --stage dump writes one")
    path = max(found, key=lambda file: file.stat().st_mtime_ns)
    try:
        content = read_arrays(path) if path.suffix == ".npz" else read_pickle(path)
        lacking = [key for key in KEYS if not isinstance(content, dict) or key not in content]
        if lacking:
            raise UserError(f"{path}: lacks {', '.join(lacking)}")
        result = {key: np.asarray(content[key]) for key in KEYS}
    except (ValueError, OSError, EOFError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read ({error})") from error
    if len({len(values) for values in result.values()}) != 1:
        counts = ", ".join(f"{len(values)} {key}" for key, values in result.items())
        raise UserError(f"{path}: must have as many of each, has {counts}")
    return result
