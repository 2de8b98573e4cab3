"""The published VUNet's images of real pairs have the scores that are known for them.

GUISE_REAL_DATA names a folder of research data, no part of the project, with
vunet_market1501_pairs and vunet_deepfashion_pairs: pairs.csv, images/ and published_vunet_output/.
Without it these tests are skipped.
"""

import json
import os
from pathlib import Path

import pytest

import evaluate

REAL = Path(os.environ.get("GUISE_REAL_DATA", ""))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("GUISE_REAL_DATA"), reason="no GUISE_REAL_DATA"),
]
NAMES = ("nearest_target", "gradient", "l1", "ssim")
KNOWN = {
    "market1501": {
        "reference": (0.44, 0.86, 0.161, 0.268),
        "copy_source": (0.15, 1.06, 0.199, 0.151),
        "mean_image": (0.01, 0.13, 0.164, 0.280),
    },
    "deepfashion": {
        "reference": (0.95, 0.86, 0.064, 0.778),
        "copy_source": (0.23, 1.09, 0.121, 0.675),
        "mean_image": (0.01, 0.19, 0.132, 0.727),
    },
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_known_scores_come_out(name, tmp_path):
    folder = REAL / f"vunet_{name}_pairs"
    if not folder.is_dir():
        pytest.skip(f"no {folder.name}")
    evaluate.main([
        "--pairs", str(folder / "pairs.csv"), "--workers", "0", "--out", str(tmp_path / "a.json"),
        "--reference", str(folder / "published_vunet_output"),
    ])  # fmt: skip
    report = json.loads((tmp_path / "a.json").read_text())
    for row, expected in KNOWN[name].items():
        ours = [report[row][key] for key in NAMES]
        ours = [value if isinstance(value, float) else value["mean"] for value in ours]
        for value, known, step in zip(ours, expected, (0.01, 0.01, 0.001, 0.001), strict=True):
            assert abs(value - known) < 0.6 * step, (row, ours)  # rounded to steps
