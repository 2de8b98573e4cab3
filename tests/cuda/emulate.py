"""Builds the CUDA kernels for a CPU (cuda_on_cpu.h), and serves them in place of the CPU's own.

As a plugin, `pytest -p emulate` runs tests of the operators on the library that CUDA_ON_CPU names.
"""

import concurrent.futures
import os
import re
import subprocess
import types
from pathlib import Path

import torch

from nets.ops import _build

HERE = Path(__file__).resolve().parent
TORCH = Path(torch.__file__).parent
CXX = os.environ.get("CXX", "c++")
REPLACEMENTS = [  # what macros cannot replace
    (r"(\w+(?:<[^<>;]*>)?)<<<(.*?)>>>\(", r"::cuda_on_cpu::launch(\1, \2)("),
    (r"reinterpret_cast<(const )?(Pack<\w+, \w+>)\*>\(", r"::cuda_on_cpu::wide<\1\2>("),
    (
        r"extern __shared__ (?:__align__\(\d+\) )?unsigned char (\w+)\[\];",
        r"unsigned char* const \1 = ::cuda_on_cpu::dynamic_shared();",
    ),
    (
        r"__shared__ ([\w<>]+) (\w+)((?:\[[^\]]+\])+);",
        r"static const char \2_id = 0; "
        r"auto& \2 = *static_cast<\1(*)\3>(::cuda_on_cpu::static_shared(&\2_id, sizeof(\1\3)));",
    ),
]


def translate(text: str) -> str:
    """CUDA C++ as C++."""
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text, flags=re.S)
    return text


def build(
    out: Path, *flags: str, only: str = "*", mutant: tuple[str, str, str] | None = None
) -> Path:
    """A library of the emulated kernels.

    out     the folder to build in
    flags   for the compiler, for example of a sanitizer
    only    pattern of the names of .cu files
    mutant  (file, text, other text): an error to put into a source
    """
    sources = []
    for file in _build._files():
        text = file.read_text()
        name = file.relative_to(_build.CSRC).as_posix()
        if mutant and name == mutant[0]:
            assert mutant[1] in text, f"{name} no longer holds {mutant[1]!r}"
            text = text.replace(mutant[1], mutant[2], 1)
        copy = out / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix in (".h", ".cuh"):
            copy.write_text(translate(text))
        elif file.suffix == ".cu" and file.match(only):
            copy = copy.with_suffix(".cu.cpp")
            copy.write_text(f'#include "cuda_on_cpu.h"\n#line 1 "{file}"\n' + translate(text))
            sources.append(copy)
    options = ["-std=c++20", "-fPIC", "-O1", "-g1", "-march=native", _build.TARGET]
    options += ["-isystem", f"{TORCH}/include", "-I", str(out), "-I", str(HERE)]

    def compile_(source: Path) -> str:
        target = out / f"{source.name}.o"
        own = [] if source.parent == HERE else flags
        subprocess.run([CXX, *options, *own, "-c", source, "-o", target], check=True)
        return str(target)

    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = list(pool.map(compile_, [HERE / "fibers.cpp", *sources]))
    library = out / "cuda_on_cpu.so"
    link = [f"-L{TORCH}/lib", f"-Wl,-rpath,{TORCH}/lib", "-ltorch", "-ltorch_cpu", "-lc10"]
    subprocess.run([CXX, "-shared", *flags, *objects, *link, "-o", library], check=True)
    return library


if file := os.environ.get("CUDA_ON_CPU"):

    def _library() -> types.SimpleNamespace:
        if not hasattr(_library, "loaded"):
            torch.ops.load_library(file)
            _library.loaded = types.SimpleNamespace(file=file, build_info=dict)
        return _library.loaded

    _build._library = _library
