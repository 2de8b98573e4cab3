"""Every C++ and CUDA file compiles without a warning, on a machine that may have no GPU."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch

from nets.ops import _build

INCLUDES = ["-isystem", f"{Path(torch.__file__).parent}/include"]
INCLUDES += ["-isystem", sysconfig.get_path("include"), "-I", str(_build.CSRC)]


def compile_(command, file, tmp_path):
    done = subprocess.run(
        [*command, *INCLUDES, "-std=c++20", "-c", str(file), "-o", str(tmp_path / "out.o")],
        capture_output=True,
        text=True,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "warning" not in output, output
    return output


def sources(suffix):
    files = [Path(file) for file in _build.sources(cuda=True) if file.endswith(suffix)]
    return pytest.mark.parametrize("file", files, ids=lambda f: f.name)


def test_object_files_have_names_of_their_own():
    """torch's JIT build puts all objects into one folder, named after the source alone."""
    names = [Path(file).name for file in _build.sources(cuda=True)]
    assert len(names) > 15
    assert len(set(names)) == len(names)


@pytest.mark.slow
@sources(".cpp")
def test_cpp_compiles_without_warnings(file, tmp_path):
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        pytest.skip(f"no C++ compiler ({compiler})")
    flags = [*_build.flags(native=True, cuda=False)["cxx"], "-Wall", "-Wextra", "-Werror"]
    compile_([compiler, *flags, "-fPIC", "-DTORCH_EXTENSION_NAME=_C"], file, tmp_path)


@pytest.mark.slow
@sources("_cpu.cpp")
def test_cpp_compiles_for_arm(file, tmp_path):
    """All but module.cpp, which needs the configuration of a Python for that processor."""
    compiler = "aarch64-linux-gnu-g++"
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} (Debian: g++-aarch64-linux-gnu)")
    flags = [*_build.flags(native=False, cuda=False)["cxx"], "-Wall", "-Wextra", "-Werror"]
    compile_([compiler, *flags, "-fPIC"], file, tmp_path)


@pytest.mark.slow
@sources(".cu")
def test_cuda_compiles_without_warnings_and_spills_for_sm_80_and_sm_90(file, tmp_path):
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc")
    archs = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in (80, 90)]
    flags = [*_build.flags(native=False, cuda=True)["nvcc"], "-Xcompiler", "-Wall,-Wextra,-fPIC"]
    said = compile_(["nvcc", *flags, *archs, "-Xptxas", "-v"], file, tmp_path)
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    kernels = said.count("Compiling entry function")
    assert kernels and len(spills) == kernels and set(spills) == {("0", "0")}, said
