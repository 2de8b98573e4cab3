"""Builds and loads the library of compiled operators.

`library()` decides at the first call of an operator. GUISE_OPS chooses: with auto (the default) the
references serve where nothing can be compiled, compiled raises instead, reference compiles and
loads nothing. Where only the CUDA kernels cannot be compiled, auto builds those of the CPU alone.
setup.py runs this file for its flags and stamps, so its top imports only the standard library.
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
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).resolve().parents[1]
# In a checkout the sources lie beside the package, in an installed wheel inside it.
CSRC = next((p for p in (PACKAGE.parent / "csrc", PACKAGE / "csrc") if p.is_dir()), None)

# The oldest torch that the library serves: bytes are major, minor, patch, so 0x020a is 2.10.
TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"
# No -ffast-math: NaN, infinities and the order of sums are part of the operators' contract. The
# two -fno- flags change no result: they drop errno and the floating-point status word.
COMMON = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd"]

_lock = threading.Lock()


class BuildError(RuntimeError):
    """The library cannot be built here. The first line of the message says why."""


def sources(cuda: bool) -> list[str]:
    """The files to compile: every .cpp under csrc and, for CUDA, every .cu."""
    suffixes = (".cpp", ".cu") if cuda else (".cpp",)
    return [str(f) for f in _files() if f.suffix in suffixes]


def _files() -> list[Path]:
    """All C++ and CUDA files under csrc, headers included, in a fixed order."""
    suffixes = (".h", ".cuh", ".cpp", ".cu")
    return sorted(f for f in _csrc().rglob("*") if f.suffix in suffixes)


def _csrc() -> Path:
    if CSRC is None:
        raise BuildError("this installation holds no C++ sources; install from a checkout")
    return CSRC


def flags(native: bool, cuda: bool) -> dict[str, list[str]]:
    """Compiler flags for "cxx" and "nvcc"; `native` is for code that stays on this machine.

    GUISE_MARCH in the environment replaces "native" in -march=native, for example by x86-64-v3.
    """
    both = [TARGET, *(["-DUSE_CUDA"] if cuda else [])]
    cxx = [*COMMON, *([f"-march={_march()}"] if native else []), *both]
    return {"cxx": cxx, "nvcc": ["-O3", "--expt-relaxed-constexpr", *both]}


def stamp(native: bool, cuda: bool) -> str:
    """A hash of what a build depends on: the sources, the processor if native, and CUDA."""
    code = hashlib.sha256()
    for file in _files():
        code.update(file.relative_to(_csrc()).as_posix().encode() + b"\0" + file.read_bytes())
    return f"{code.hexdigest()[:16]}-{_target() if native else 'any'}-{'cuda' if cuda else 'cpu'}"


def write_facts(folder: Path, native: bool, cuda: bool) -> None:
    """Writes guise_build.h, which csrc/core/module.cpp includes, unless it has not changed."""
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


def say(text: str) -> None:
    """Prints one line to standard error, apart from the program's output."""
    print(f"nets.ops: {text}", file=sys.stderr, flush=True)


def _march() -> str:
    """The value of -march for code that stays on this machine."""
    return os.environ.get("GUISE_MARCH") or "native"


def _target() -> str:
    """What native code is for: this processor, or the architecture that GUISE_MARCH names."""
    return _processor() if _march() == "native" else _march()


@functools.cache
def _processor() -> str:
    """A hash of what -march=native depends on."""
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
    """The compiled module, or None where the references serve. Decided once in a process."""
    with _lock:
        return _library()


@functools.cache
def _library() -> ModuleType | None:
    choice = os.environ.get("GUISE_OPS", "auto")
    if choice not in ("auto", "compiled", "reference"):
        raise ValueError(f"GUISE_OPS must be auto, compiled or reference, got {choice}")
    if choice == "reference":
        return None
    cuda = _wants_cuda()
    try:
        return _ahead_of_time() or _first_use(cuda)
    except BuildError as error:
        if choice == "compiled":
            raise
        failure = str(error)
    if cuda:
        with contextlib.suppress(BuildError):
            module = _first_use(cuda=False)
            why = failure.splitlines()[0]
            say(
                f"warning: CPU kernels only, the slower PyTorch references serve on CUDA: {why} "
                "(CUDA_HOME and CXX name an nvcc and a C++ compiler that fit this torch; "
                "GUISE_OPS=compiled shows the whole error)"
            )
            return module
    say(f"warning: the slower PyTorch references serve every operator: {failure}")
    return None


def _ahead_of_time() -> ModuleType | None:
    """nets._C if setup.py has built it from these sources and for this processor, else None."""
    names = [PACKAGE / f"_C{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    file = next((f for f in names if f.exists()), None)
    if file is None:
        return None
    # Read from the bytes: two libraries with the same kernels must not be loaded together.
    match = re.search(rb"guise-stamp:([^;]*);", file.read_bytes())
    built = match.group(1).decode() if match else "unknown"
    cuda = built.endswith("-cuda")
    fits = CSRC is None or built in (stamp(True, cuda), stamp(False, cuda))
    if not fits or (not cuda and _wants_cuda()):
        say(f"{file} is not used: built from other sources, for another processor or without CUDA")
        return None
    from nets.ops import _nvcc

    archs = re.search(rb"guise-archs:([^|]*)\|", file.read_bytes()) if cuda else None
    if archs and (missing := _nvcc.unserved(archs[1].decode(), _nvcc.gpus())):
        gpus = ", ".join(f"{major}.{minor}" for major, minor in missing)
        say(f"{file} is not used: built for CUDA {archs[1].decode()}, this machine has {gpus}")
        return None
    return _load(file, "nets._C")


def _first_use(cuda: bool) -> ModuleType:
    """The library of these sources from torch's extension cache, built there if necessary."""
    import torch

    if cuda:
        from nets.ops import _nvcc

        try:
            _nvcc.check_version()
            _nvcc.choose_archs(say, here=True)
        except RuntimeError as error:
            raise BuildError(str(error)) from error
    key = [stamp(True, cuda), *flags(True, cuda)["cxx"], os.environ.get("TORCH_CUDA_ARCH_LIST")]
    key += [torch.__version__, sys.version, os.environ.get("CXX"), sysconfig.get_platform()]
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    home = os.path.expanduser("~")
    if home == "~":  # no HOME and no entry of the user
        home = os.path.join(tempfile.gettempdir(), f"guise-{os.getuid()}")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path(home, ".cache")) / "torch_extensions"
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
def _only_one(file: Path) -> Iterator[None]:
    """Holds `file` locked. The operating system frees the lock when its holder dies."""
    import fcntl

    with open(file, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that compiles the operators ({file})")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compile(file: Path, cuda: bool) -> ModuleType:
    """Builds in a folder of its own, loads, and moves the result to `file`, whole or not at all."""
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler.split()[0]) is None:
        raise BuildError(f"no C++ compiler: {compiler} is not on the PATH (CXX names another)")
    from torch.utils.cpp_extension import load

    names = sources(cuda)
    say(
        f"compiling {len(names)} files for this machine, once (about 20 s on two cores, more with "
        f"CUDA), into {file.parent}"
    )
    scratch = Path(tempfile.mkdtemp(dir=file.parent))
    path = os.environ.get("PATH", "")
    try:
        # pip puts ninja beside Python, which is on the PATH only in an activated environment.
        os.environ["PATH"] = os.pathsep.join([path, sysconfig.get_path("scripts")])
        write_facts(scratch, True, cuda)
        options = flags(True, cuda)
        libraries: list[str] = []
        if cuda:
            from nets.ops import _nvcc

            folder = _nvcc.runtime_folder(scratch)
            libraries = [f"-L{folder}"] if folder else []
        module = load(
            "guise_ops",
            names,
            extra_cflags=options["cxx"],
            extra_cuda_cflags=options["nvcc"],
            extra_ldflags=libraries,
            extra_include_paths=[str(scratch), str(_csrc())],
            build_directory=str(scratch),
            with_cuda=cuda,
        )
        os.replace(scratch / "guise_ops.so", file)
        module.file = str(file)
        return module
    except (RuntimeError, ValueError, ImportError, subprocess.SubprocessError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        first = next((s for s in lines if re.search(r"\berror\b|\bfatal\b", s)), lines[0])
        shown = "\n".join(lines[:40] + (["..."] if len(lines) > 40 else []))
        raise BuildError(f"the compilation failed: {first.strip()}\n{shown}") from error
    finally:
        os.environ["PATH"] = path
        shutil.rmtree(scratch, ignore_errors=True)


def _load(file: Path, name: str) -> ModuleType:
    """Imports the library, which registers its kernels. One that is broken raises ImportError."""
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not an extension module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.file = str(file)  # type: ignore[attr-defined]  # for `python -m nets.ops`
    return module
