"""The CUDA kernels on a CPU (cuda_on_cpu.h): they pass the operators' own tests."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import emulate
from nets.ops import _build

ROOT = _build.PACKAGE.parent
OPERATORS = [
    "draw_skeleton", "gaussian_heatmaps", "heatmap_moments", "instance_norm", "layers_on_cuda",
    "modulate", "perspective_crops", "tps_warp", "uv_sample", "warps",
]  # fmt: skip
# Left out: what torch does around a kernel; the numerical gradients of tps_warp, which take longer
# than all the rest; the same bits for any number of threads, which atomic sums do not have; sizes
# that only the CPU's kernels refuse.
LEFT_OUT = "compile or opcheck or vmap or same_bits_for or (test_gradients and tps) or names_what"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which(emulate.CXX) is None, reason=f"no C++ compiler {emulate.CXX}"),
    pytest.mark.skipif(platform.system() != "Linux", reason="preloads the sanitizers as on Linux"),
]


def run_tests(library, names, choice=f"not ({LEFT_OUT})", sanitized=False):
    """Return code and output of the operators' tests on emulated kernels."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "GUISE"))}
    environment |= {
        "CUDA_ON_CPU": str(library),
        "CUDA_ON_CPU_ORDER": "random",
        "PYTHONPATH": os.pathsep.join([str(emulate.HERE), str(ROOT)]),
    }
    if sanitized:
        libraries = [
            subprocess.check_output([emulate.CXX, f"-print-file-name={name}"], text=True).strip()
            for name in ("libasan.so", "libubsan.so")
        ]
        if not all(Path(file).is_absolute() for file in libraries):
            pytest.skip(f"{emulate.CXX} has no sanitizers: {libraries}")
        environment |= {
            "LD_PRELOAD": ":".join(libraries),
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        }
    files = [f"tests/ops/test_{name}.py" for name in names]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-s", "-p", "emulate"]
    command += ["-p", "no:cacheprovider", "-k", choice, *files]  # -s shows what a sanitizer says
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_the_kernels_pass_in_random_order(tmp_path):
    code, output = run_tests(emulate.build(tmp_path), OPERATORS)
    assert code == 0, output


def test_the_kernels_pass_under_sanitizers(tmp_path):
    library = emulate.build(tmp_path, *SANITIZERS)
    choice = f"not ({LEFT_OUT} or test_gradients or as_exact)"
    names = [name for name in OPERATORS if name not in ("instance_norm", "modulate")]
    code, output = run_tests(library, names, choice, sanitized=True)
    assert code == 0, output


def test_many_images_take_several_launches(tmp_path):
    mutant = ("core/launch.cuh", "kPart = int64_t(1) << 31", "kPart = 300")
    library = emulate.build(tmp_path, only="uv_sample.cu", mutant=mutant)
    code, output = run_tests(library, ["uv_sample"])
    assert code == 0, output


def test_a_missing_barrier_is_caught(tmp_path):
    barrier = "__syncthreads();  // all threads have read the result of the last call"
    mutant = ("core/reduce.cuh", barrier, "")
    library = emulate.build(tmp_path, only="heatmap_moments.cu", mutant=mutant)
    code, output = run_tests(library, ["heatmap_moments"])
    assert code == 1, output
    assert "FAILED tests/ops/test_heatmap_moments.py" in output


def test_a_read_outside_the_image_is_caught(tmp_path):
    mutant = ("core/sampler.cuh", "i + 1 < s.w", "i + 1 <= s.w")
    library = emulate.build(tmp_path, *SANITIZERS, only="perspective_crops.cu", mutant=mutant)
    code, output = run_tests(library, ["perspective_crops"], sanitized=True)
    assert code != 0, output
    assert "AddressSanitizer: heap-buffer-overflow" in output
    assert "sampler.cuh" in output


def test_threads_that_do_not_meet_are_named(tmp_path):
    line = "const T top = block_max(seen.top);"
    mutant = ("heatmaps/heatmap_moments.cu", line, f"if (threadIdx.x == 7) return;\n    {line}")
    library = emulate.build(tmp_path, only="heatmap_moments.cu", mutant=mutant)
    code, output = run_tests(library, ["heatmap_moments"])
    assert code != 0, output
    assert "cuda_on_cpu: a block is stuck" in output
