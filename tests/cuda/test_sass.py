"""What the CUDA warps compile to: 16 bits need no more instructions than 32."""

import importlib.util
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GPU = "H100"

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


@pytest.mark.parametrize("name", ["tps_warp", "uv_sample", "perspective_crops"])
def test_16_bits_need_no_more_instructions_than_32(sass, name, tmp_path):
    missing = [tool for tool in sass.TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"no {missing[0]} to count instructions")
    each = {row["dtype"]: row["instructions"] for row in sass.limits(name, GPU, tmp_path)}
    assert set(each) == {"float32", "float16", "bfloat16"}
    assert each["float16"] <= each["float32"]
    assert each["bfloat16"] <= each["float32"]
