"""What the CUDA kernels compile to: no spills, and 16 bits need no more instructions than 32."""

import concurrent.futures
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from nets.ops import _build

ROOT = Path(__file__).resolve().parents[2]
ARCH, GPU = "sm_90", "H100"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc"),
]


@pytest.fixture(scope="module")
def sass():
    spec = importlib.util.spec_from_file_location("sass", ROOT / "benchmarks/sass.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_kernel_spills(tmp_path):
    def compiled(file):
        flags = [*_build.flags(native=False, cuda=True)["nvcc"], "-std=c++20", f"-arch={ARCH}"]
        include = ["-isystem", f"{Path(torch.__file__).parent}/include", "-I", str(_build.CSRC)]
        out = tmp_path / f"{file.stem}.cubin"
        command = ["nvcc", *flags, *include, "-Xptxas", "-v", "-cubin", "-o", out, file]
        return subprocess.run(command, check=True, capture_output=True, text=True).stderr

    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        said = "".join(pool.map(compiled, sorted(_build.CSRC.glob("*/*.cu"))))
    kernels = re.findall(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads",
        said, re.DOTALL,
    )  # fmt: skip
    assert len(kernels) > 100
    assert not [kernel for kernel in kernels if kernel[1:] != ("0", "0")]


@pytest.mark.parametrize("name", ["tps_warp", "uv_sample", "perspective_crops"])
def test_16_bits_need_no_more_instructions_than_32(sass, name, tmp_path):
    missing = [tool for tool in sass.TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"no {missing[0]} to count instructions")
    each = {row["dtype"]: row["instructions"] for row in sass.limits(name, GPU, tmp_path)}
    assert set(each) == {"float32", "float16", "bfloat16"}
    assert each["float16"] <= each["float32"]
    assert each["bfloat16"] <= each["float32"]
