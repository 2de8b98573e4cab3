"""Builds of the CUDA kernels: architectures, versions and libraries, with an nvcc that is a script.

No GPU and no CUDA are needed: the scripts print what an nvcc prints.
"""

import os
import re
import shutil
import types
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

from nets.ops import _build, _nvcc

CUDA_13 = [(7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (12, 0)]


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with CUDA 13.0 and torch for it: an nvcc that is a script, and no GPU yet."""

    class Machine:
        def __init__(self):
            self.home, self.lines = tmp_path / "cuda", []
            self.nvcc()

        def nvcc(self, version="13.0", archs=CUDA_13, top=None):
            file = self.home / "bin" / "nvcc"
            file.parent.mkdir(parents=True, exist_ok=True)
            known = "\n".join(f"compute_{major}{minor}" for major, minor in archs)
            file.write_text(
                f"#!/bin/sh\ncase $1 in\n"
                f"--version) echo 'Cuda compilation tools, release {version}, V{version}.88';;\n"
                f"--list-gpu-arch) echo '{known}';;\n"
                f"--dryrun) echo '#$ TOP={top or self.home}' >&2;;\n"
                "esac\n"
            )
            file.chmod(0o755)

        def gpus(self, *capabilities):
            monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
            monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
            monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: capabilities[i])

        def choose(self, here=True):
            _nvcc.choose_archs(self.lines.append, here)
            return os.environ["TORCH_CUDA_ARCH_LIST"]

    machine = Machine()
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(machine.home))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("PYTORCH_NVCC", raising=False)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    return machine


@pytest.mark.parametrize(
    "archs, gpu, served",
    [
        ("8.0", (8, 0), True),
        ("8.0", (8, 6), True),  # machine code serves later minor versions
        ("8.6", (8, 0), False),
        ("8.0", (9, 0), False),
        ("8.0+PTX", (9, 0), True),
        ("9.0+PTX", (8, 0), False),
        ("8.0 9.0a", (9, 0), True),
        ("9.0a+PTX", (10, 0), False),
        ("8.0;12.0", (12, 1), True),
        ("Hopper", (8, 0), True),  # names are not judged
        ("", (8, 0), True),
    ],
)
def test_which_gpus_a_build_serves(archs, gpu, served):
    assert _nvcc.unserved(archs, [gpu]) == ([] if served else [gpu])


@pytest.mark.parametrize("gpu, served", [((8, 6), True), ((9, 0), False), (None, True)])
def test_a_build_for_other_gpus_does_not_serve(machine, monkeypatch, tmp_path, capsys, gpu, served):
    """The file itself is never loaded: kernels cannot be registered twice."""
    file = tmp_path / f"_C{_build.importlib.machinery.EXTENSION_SUFFIXES[0]}"
    file.write_bytes(f"guise-stamp:{_build.stamp(True, True)};\0guise-archs:8.0|".encode())
    loaded = types.ModuleType("_C")
    monkeypatch.setattr(_build, "PACKAGE", tmp_path)
    monkeypatch.setattr(_build, "_load", lambda *_: loaded)
    machine.gpus(*([gpu] if gpu else []))
    assert _build._ahead_of_time() is (loaded if served else None)
    line = f"nets.ops: {file} is not used: built for CUDA 8.0, this machine has 9.0\n"
    assert capsys.readouterr().err == ("" if served else line)


def test_a_library_holds_its_architectures():
    if _build.library() is None:
        pytest.skip("the references serve")
    assert re.search(rb"guise-archs:[^|\0]*\|", Path(_build.library().file).read_bytes())


def test_this_machines_gpus_are_built_for_and_the_newest_with_ptx(machine):
    machine.gpus((9, 0), (8, 0), (9, 0))
    assert machine.choose() == "8.0;9.0+PTX"
    assert machine.lines == ["TORCH_CUDA_ARCH_LIST is not set: building for 8.0;9.0+PTX"]


def test_without_a_gpu_there_is_a_default(machine):
    machine.gpus()
    assert machine.choose() == "8.0;9.0+PTX"


@pytest.mark.parametrize("here, chosen", [(True, "8.0;9.0"), (False, "8.0")])
def test_a_given_list_that_leaves_out_a_gpu(machine, monkeypatch, here, chosen):
    """A build at first use is for this machine; one ahead of time may be for another."""
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0")
    machine.gpus((9, 0))
    assert machine.choose(here) == chosen
    assert len(machine.lines) == here


@pytest.mark.parametrize(
    "given, chosen",
    [
        ("7.0;9.0+PTX", "9.0+PTX"),  # CUDA 13 dropped Volta
        ("9.0;13.0", "9.0;12.0+PTX"),  # newer than this nvcc
        ("8.0;13.0+PTX", "8.0;12.0+PTX"),
        ("Ampere", "Ampere"),
    ],
)
def test_architectures_that_nvcc_does_not_know(machine, monkeypatch, given, chosen):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", given)
    machine.gpus()
    assert machine.choose() == chosen
    assert all("nvcc 13.0 does not compile for" in line for line in machine.lines)
    assert len(machine.lines) == (given != chosen)


def serve(monkeypatch, load):
    """The library, and the calls of torch's builder as booleans: with CUDA."""
    builds = []

    def recorded(name, names, with_cuda, build_directory, **options):
        builds.append(with_cuda)
        load(with_cuda, options)
        (Path(build_directory) / "guise_ops.so").write_text("")
        return types.ModuleType(name)

    monkeypatch.setattr(cpp_extension, "load", recorded)
    monkeypatch.setattr(_build, "_ahead_of_time", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setenv("GUISE_OPS", "auto")
    return _build._library.__wrapped__(), builds


@pytest.mark.parametrize(
    "version, gpu, why",
    [
        ("12.4", (9, 0), "is of CUDA 12.4, torch of CUDA 13.0"),
        ("13.0", (7, 0), "nvcc 13.0 does not compile for 7.0"),
    ],
)
def test_an_nvcc_that_cannot_serve_leaves_the_cpu_kernels(
    machine, monkeypatch, capsys, version, gpu, why
):
    machine.nvcc(version)
    machine.gpus(gpu)
    module, builds = serve(monkeypatch, lambda *_: None)
    assert module is not None
    assert builds == [False]
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert why in warnings[0]


def test_a_gpu_that_torch_does_not_know_leaves_the_cpu_kernels(machine, monkeypatch):
    def load(with_cuda, options):
        if with_cuda:
            raise ValueError("Unknown CUDA arch (12.3) or GPU not supported")

    machine.gpus((9, 0))
    module, builds = serve(monkeypatch, load)
    assert module is not None
    assert builds == [True, False]


def test_a_minor_version_may_differ(machine):
    machine.nvcc("13.9")
    _nvcc.check_version()


def make(file):
    file.parent.mkdir(parents=True)
    file.write_text("")
    return file.parent


def test_the_runtime_of_an_nvcc_that_calls_another(machine, monkeypatch, tmp_path):
    """As /usr/local/bin/nvcc may: beside it lie no libraries."""
    machine.nvcc(top=tmp_path / "cuda-13.0")
    machine.gpus()
    folder = make(tmp_path / "cuda-13.0" / "lib" / "libcudart.so")
    flags = []
    serve(monkeypatch, lambda _, options: flags.extend(options["extra_ldflags"]))
    assert flags == [f"-L{folder}"]


def test_the_runtime_of_a_wheel_gets_the_name_that_the_linker_asks_for(
    machine, monkeypatch, tmp_path
):
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "site" / "torch" / "__init__.py"))
    assert _nvcc.runtime_folder(tmp_path) is None
    folder = make(tmp_path / "site" / "nvidia" / "cu13" / "lib" / "libcudart.so.13")
    for _ in range(2):  # the link may exist
        assert _nvcc.runtime_folder(tmp_path) == tmp_path
        assert (tmp_path / "libcudart.so").resolve() == folder / "libcudart.so.13"


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_this_machines_nvcc(monkeypatch, tmp_path):
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(Path(shutil.which("nvcc")).parents[1]))
    monkeypatch.setattr(torch.version, "cuda", _nvcc._version())
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    _nvcc.choose_archs(pytest.fail, here=False)
    _nvcc.check_version()
    assert (_nvcc.runtime_folder(tmp_path) / "libcudart.so").exists()
