"""CUDA compilers: architectures, versions, and where the CUDA runtime lies.

setup.py runs this file as it runs _build.py, so its top imports only the standard library.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

DEFAULT_ARCHS = "8.0;9.0+PTX"

Arch = tuple[int, int]  # a GPU's capability, for example (9, 0)


def gpus() -> list[Arch]:
    """The capabilities of this machine's GPUs, without repetition."""
    import torch

    if not torch.cuda.is_available():
        return []
    count = torch.cuda.device_count()
    return sorted({torch.cuda.get_device_capability(i) for i in range(count)})


def unserved(archs: str, capabilities: Iterable[Arch]) -> list[Arch]:
    """The capabilities that a build for `archs`, as in TORCH_CUDA_ARCH_LIST, does not run on.

    Machine code serves its major version from its minor version on, "9.0a" only that GPU, and PTX
    every later GPU. A list with names ("Hopper") is not judged: nothing is returned.
    """
    entries = [_parsed(entry) for entry in _entries(archs)]
    if not entries or None in entries:
        return []

    def serves(entry: tuple[Arch, str, bool] | None, gpu: Arch) -> bool:
        assert entry is not None
        arch, suffix, ptx = entry
        if suffix:
            return gpu == arch
        return arch <= gpu and (ptx or arch[0] == gpu[0])

    return [gpu for gpu in capabilities if not any(serves(e, gpu) for e in entries)]


def choose_archs(say: Callable[[str], None], here: bool) -> None:
    """Sets TORCH_CUDA_ARCH_LIST to what nvcc can compile: as set, else this machine's GPUs.

    say   prints a line
    here  the build stays on this machine: adds GPUs that a given list leaves out
    The newest architecture comes with PTX, which later GPUs can compile. Raises RuntimeError if
    nvcc compiles for none of them.
    """
    given, capabilities = os.environ.get("TORCH_CUDA_ARCH_LIST", ""), gpus()
    wanted = _entries(given)
    if not wanted:
        wanted = [f"{major}.{minor}" for major, minor in capabilities]
        wanted = [*wanted[:-1], f"{wanted[-1]}+PTX"] if wanted else _entries(DEFAULT_ARCHS)
        say(f"TORCH_CUDA_ARCH_LIST is not set: building for {';'.join(wanted)}")
    elif here and (missing := unserved(given, capabilities)):
        added = [f"{major}.{minor}" for major, minor in missing]
        say(f"TORCH_CUDA_ARCH_LIST={given} leaves out GPUs of this machine: adding {added}")
        wanted += added
    os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(_compilable(wanted, say))


def check_version() -> None:
    """Raises RuntimeError if nvcc is of another CUDA major version than torch."""
    import torch

    version = _version()
    if version and torch.version.cuda and version.split(".")[0] != torch.version.cuda.split(".")[0]:
        raise RuntimeError(
            f"error: nvcc ({_nvcc()}) is of CUDA {version}, torch of CUDA {torch.version.cuda}: "
            "the major versions must be the same"
        )


def runtime_folder(links: Path) -> Path | None:
    """A folder with libcudart.so of torch's CUDA, or None if there is none.

    links  a folder for a link of that name, where only libcudart.so.13 exists, as in pip's wheels

    torch takes the parent of nvcc's folder for the toolkit. If nvcc on the PATH is a script that
    calls another nvcc, that parent has no libraries.
    """
    import torch

    major = (torch.version.cuda or "").split(".")[0]
    wheels = Path(torch.__file__).resolve().parents[1] / "nvidia"
    roots = [_nvcc().parents[1], _toolkit(), wheels / f"cu{major}", wheels / "cuda_runtime"]
    folders = [
        r / name for r in roots if r for name in ("lib64", "lib", "targets/x86_64-linux/lib")
    ]
    for folder in folders:
        if (folder / "libcudart.so").exists():
            return folder
    for folder in folders:
        if (file := folder / f"libcudart.so.{major}").exists():
            (links / "libcudart.so").unlink(missing_ok=True)
            (links / "libcudart.so").symlink_to(file)
            return links
    return None


def _entries(archs: str) -> list[str]:
    return [entry for entry in re.split(r"[;\s]+", archs) if entry]


def _parsed(entry: str) -> tuple[Arch, str, bool] | None:
    """("9.0a+PTX") -> ((9, 0), "a", True); None for a name."""
    match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", entry)
    return match and ((int(match[1]), int(match[2])), match[3], bool(match[4]))


def _compilable(wanted: list[str], say: Callable[[str], None]) -> list[str]:
    """The entries that nvcc knows. GPUs that are too new for it get the PTX of its newest."""
    known = [
        (int(a), int(b)) for a, b in re.findall(r"compute_(\d+)(\d)\b", _asked("--list-gpu-arch"))
    ]
    parsed = {entry: _parsed(entry) for entry in wanted}
    dropped = [e for e, p in parsed.items() if known and p and p[0] not in known]
    if not dropped:
        return wanted
    kept = [entry for entry in wanted if entry not in dropped]
    if any(p and p[0] > max(known) for e, p in parsed.items() if e in dropped):
        newest = "{}.{}".format(*max(known))
        kept = [*(e for e in kept if not e.startswith(newest)), f"{newest}+PTX"]
    what = f"nvcc {_version() or ''} does not compile for {', '.join(dropped)}"
    if not kept:
        raise RuntimeError(f"error: {what}")
    say(f"{what}: building for {';'.join(kept)}")
    return kept


def _nvcc() -> Path:
    """The nvcc that torch calls."""
    from torch.utils.cpp_extension import CUDA_HOME

    return Path(os.environ.get("PYTORCH_NVCC") or Path(CUDA_HOME or "") / "bin" / "nvcc")


def _version() -> str:
    match = re.search(r"release (\d+\.\d+)", _asked("--version"))
    return match[1] if match else ""


def _toolkit() -> Path | None:
    """The root of the toolkit that nvcc says it belongs to."""
    match = re.search(r"(?m)^#\$ TOP=(.+)$", _asked("--dryrun", "-x", "cu", "/dev/null"))
    return Path(match[1].strip()) if match else None


def _asked(*arguments: str) -> str:
    """What nvcc prints; empty if it cannot be run."""
    try:
        done = subprocess.run([str(_nvcc()), *arguments], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout + done.stderr
