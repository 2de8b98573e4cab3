"""The operators, built with the sanitisers of addresses and undefined behaviour, in their tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_operators_touch_only_what_is_theirs(tmp_path):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    runtimes = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so.6")  # the second, for exceptions to be seen
    ]
    if not all(map(os.path.isabs, runtimes)):
        pytest.skip("g++ has no libasan.so")
    wrapper = tmp_path / "sanitising-g++"
    checks = "-fsanitize=address,undefined -fno-sanitize-recover=all -g1"
    # -O1 after the builds' own -O3: compiling takes most of the time.
    wrapper.write_text(f'#!/bin/sh\nexec {compiler} "$@" {checks} -O1\n')
    wrapper.chmod(0o755)
    environment = {
        **os.environ,
        "CXX": str(wrapper),
        "GUISE_OPS": "compiled",
        "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions"),
        "LD_PRELOAD": " ".join(runtimes),
        # Python itself keeps what it has until its end, which is no leak.
        "ASAN_OPTIONS": f"detect_leaks=0:log_path={tmp_path}/found",
        "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={tmp_path}/found",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    tests = [str(ROOT / "tests/ops" / f"test_{name}.py") for name in (
        "gaussian_heatmaps", "heatmap_moments", "tps_warp", "uv_sample", "perspective_crops",
        "draw_skeleton", "raster", "warps", "conv3x3", "elu_cat",
        "instance_norm", "modulate", "spade", "padded_conv",
    )]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout=1500",
         "-k", "not compile and not export and not fullgraph", *tests],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    said = done.stdout + "".join(file.read_text() for file in tmp_path.glob("found*"))
    assert done.returncode == 0 and " passed" in said, said[-4000:]
