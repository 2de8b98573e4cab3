"""The compiled operators: found, else built once, else left to the references.

`library()` decides at the first call of an operator and says what it does. GUISE_OPS chooses:
auto (the default) falls back to the references where nothing can be compiled, compiled raises
instead, reference compiles and loads nothing. setup.py runs this file for its flags and stamps,
so it imports only the standard library at its top.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.machinery
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).resolve().parents[1]
# In a checkout the sources lie beside the package, in an installed wheel inside it.
CSRC = next((p for p in (PACKAGE.parent / "csrc", PACKAGE / "csrc") if p.is_dir()), None)

# The oldest torch that the library serves: bytes are major, minor, patch, so 0x020a is 2.10.
TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"
# No -ffast-math: NaN, infinities and the order of sums are part of the operators' contract. The
# two -fno- flags change no result, they only forget errno and the floating-point status word.
COMMON = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd"]
DEFAULT_ARCHS = "8.0;9.0+PTX"

_lock = threading.Lock()


class BuildError(RuntimeError):
    """The library cannot be built here; the message says why and what helps."""


def sources(cuda: bool) -> list[str]:
    """The files to compile: every .cpp under csrc and, for CUDA, every .cu."""
    suffixes = (".cpp", ".cu") if cuda else (".cpp",)
    return [str(f) for f in _files() if f.suffix in suffixes]


def _files() -> list[Path]:
    """All C++ and CUDA files under csrc, headers included, in a fixed order."""
    suffixes = (".h", ".cuh", ".cpp", ".cu")
    return sorted(f for f in CSRC.rglob("*") if f.suffix in suffixes)


def flags(native: bool, cuda: bool) -> dict[str, list[str]]:
    """Compiler flags for "cxx" and "nvcc"; `native` is for code that stays on this machine."""
    both = [TARGET, *(["-DUSE_CUDA"] if cuda else [])]
    cxx = [*COMMON, *(["-march=native"] if native else []), *both]
    return {"cxx": cxx, "nvcc": ["-O3", "--expt-relaxed-constexpr", *both]}


def stamp(native: bool, cuda: bool) -> str:
    """What a build depends on: the sources, the processor where it is native, and CUDA."""
    code = hashlib.sha256()
    for file in _files():
        code.update(file.relative_to(CSRC).as_posix().encode() + b"\0" + file.read_bytes())
    return (
        f"{code.hexdigest()[:16]}-{_processor() if native else 'any'}-{'cuda' if cuda else 'cpu'}"
    )


def write_facts(folder: Path, native: bool, cuda: bool) -> None:
    """Writes guise_build.h, which csrc/core/module.cpp includes; untouched when nothing changed."""
    import torch

    facts = {
        "STAMP": stamp(native, cuda),
        "CXX_FLAGS": " ".join(flags(native, cuda)["cxx"]),
        "CUDA_ARCHS": os.environ.get("TORCH_CUDA_ARCH_LIST", "") if cuda else "",
        "TORCH": torch.__version__,
    }
    text = "".join(f'#define GUISE_{name} "{value}"\n' for name, value in facts.items())
    header = folder / "guise_build.h"
    folder.mkdir(parents=True, exist_ok=True)
    if not header.exists() or header.read_text() != text:
        header.write_text(text)


def choose_archs() -> None:
    """Fixes TORCH_CUDA_ARCH_LIST: as given, else this machine's GPUs, else a default."""
    import torch

    if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        if torch.cuda.is_available():
            seen = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
            archs = ";".join(f"{major}.{minor}" for major, minor in sorted(seen))
        else:
            archs = DEFAULT_ARCHS
        os.environ["TORCH_CUDA_ARCH_LIST"] = archs
        say(f"TORCH_CUDA_ARCH_LIST is not set: building for {archs}")


def say(text: str) -> None:
    """One line to the standard error stream, so that it mixes with no program's output."""
    print(f"nets.ops: {text}", file=sys.stderr, flush=True)


@functools.cache
def _processor() -> str:
    """Names what -march=native depends on."""
    text = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        info = Path("/proc/cpuinfo").read_text()
        text += "".join(re.findall(r"(?m)^(?:model name|flags|Features)\s*:.*$", info)[:2])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _wants_cuda() -> bool:
    import torch

    if torch.version.cuda is None:
        return False
    from torch.utils.cpp_extension import CUDA_HOME

    return CUDA_HOME is not None


def library() -> ModuleType | None:
    """The compiled module, or None where the references serve. Decided once a process."""
    with _lock:
        return _library()


@functools.cache
def _library() -> ModuleType | None:
    choice = os.environ.get("GUISE_OPS", "auto")
    if choice not in ("auto", "compiled", "reference"):
        raise ValueError(f"GUISE_OPS must be auto, compiled or reference, got {choice}")
    if choice == "reference":
        return None
    try:
        return _ahead_of_time() or _first_use()
    except BuildError as error:
        if choice == "compiled":
            raise
        say(f"warning: the slower PyTorch references serve every operator: {error}")
        return None


def _ahead_of_time() -> ModuleType | None:
    """nets._C where setup.py has built it from these very sources, for this processor."""
    found = [PACKAGE / f"_C{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    file = next((f for f in found if f.exists()), None)
    if file is None:
        return None
    # Read from the bytes: two libraries with the same kernels must not be loaded together.
    match = re.search(rb"guise-stamp:([^;]*);", file.read_bytes())
    built = match.group(1).decode() if match else "unknown"
    cuda = built.endswith("-cuda")
    fits = CSRC is None or built in (stamp(True, cuda), stamp(False, cuda))
    if fits and (cuda or not _wants_cuda()):
        return _load(file, "nets._C")
    say(f"{file} is of other sources, another processor or without CUDA: not used")
    return None


def _first_use() -> ModuleType:
    """The library of these sources out of torch's extension cache, built there if need be."""
    import torch

    if CSRC is None:
        raise BuildError("this installation holds no C++ sources; install from a checkout")
    cuda = _wants_cuda()
    if cuda:
        choose_archs()
    key = [stamp(True, cuda), *flags(True, cuda)["cxx"], os.environ.get("TORCH_CUDA_ARCH_LIST")]
    key += [torch.__version__, sys.version, os.environ.get("CXX"), sysconfig.get_platform()]
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch_extensions"
    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cache) / f"guise_{name}"
    file = folder / "guise_ops.so"
    if not file.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _only_one(folder / "lock"):
                if not file.exists():
                    return _compile(file, cuda)
        except OSError as error:
            raise BuildError(f"{error}; TORCH_EXTENSIONS_DIR names another folder") from error
    return _load(file, "guise_ops")


@contextlib.contextmanager
def _only_one(file: Path):
    """Holds `file` locked. The kernel frees it when its holder dies: nobody waits for the dead."""
    import fcntl

    with open(file, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process compiles the operators, waiting for it ({file})")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compile(file: Path, cuda: bool) -> ModuleType:
    """Builds in a folder of its own, loads, and moves the result to `file`: whole or not at all."""
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler.split()[0]) is None:
        raise BuildError(f"no C++ compiler: {compiler} is not on the PATH (CXX names another)")
    from torch.utils.cpp_extension import load

    names = sources(cuda)
    many = f"{len(names)} files for this machine, once"
    say(f"compiling {many} (some 20 s on two cores, more with CUDA), into {file.parent}")
    scratch = Path(tempfile.mkdtemp(dir=file.parent))
    path = os.environ.get("PATH", "")
    try:
        # pip puts ninja beside Python, which is on the PATH only in an activated environment.
        os.environ["PATH"] = os.pathsep.join([path, sysconfig.get_path("scripts")])
        write_facts(scratch, True, cuda)
        options = flags(True, cuda)
        module = load(
            "guise_ops",
            names,
            extra_cflags=options["cxx"],
            extra_cuda_cflags=options["nvcc"],
            extra_include_paths=[str(scratch), str(CSRC)],
            build_directory=str(scratch),
            with_cuda=cuda,
        )
        os.replace(scratch / "guise_ops.so", file)
        module.file = str(file)
        return module
    except (RuntimeError, ImportError, subprocess.SubprocessError) as error:
        lines = str(error).splitlines()
        shown = "\n".join(lines[:40] + (["..."] if len(lines) > 40 else []))
        raise BuildError(f"the compilation failed:\n{shown}") from error
    finally:
        os.environ["PATH"] = path
        shutil.rmtree(scratch, ignore_errors=True)


def _load(file: Path, name: str) -> ModuleType:
    """Imports the library, which registers its kernels. One that is broken raises ImportError."""
    loader = importlib.machinery.ExtensionFileLoader(name, str(file))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    module.file = str(file)
    return module
