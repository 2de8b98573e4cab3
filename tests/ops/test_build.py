"""Building the operators: the library in use, the messages, and faults of the build.

The builds here compile csrc/core/module.cpp alone, which takes seconds, in copies of the package.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch

from nets import ops
from nets.ops import _build

ROOT = _build.PACKAGE.parent
CALL = "import torch; from nets import ops; print(ops.heatmap_moments(torch.zeros(1, 1, 2, 2))[1])"
LIBRARY = "from nets.ops import _build; print(_build.library())"
no_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++")) is None, reason="no C++ compiler"
)


@pytest.fixture
def tree(tmp_path):
    """A copy of the project whose only C++ source is module.cpp."""
    for file in (*ROOT.glob("*.py"), ROOT / "pyproject.toml", ROOT / "README.md"):
        shutil.copy(file, tmp_path)
    for name in ("configs", "guise"):
        shutil.copytree(ROOT / name, tmp_path / name)
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "nets", tmp_path / "nets", ignore=ignore)
    shutil.copytree(_build.CSRC, tmp_path / "csrc")
    for file in _build.sources(cuda=True):
        if Path(file).name != "module.cpp":
            (tmp_path / "csrc" / Path(file).relative_to(_build.CSRC)).unlink()
    return tmp_path


def start(tree, *command, **environment):
    keep = {k: v for k, v in os.environ.items() if k not in ("GUISE_OPS", "CXX", "CC")}
    given = {"TORCH_EXTENSIONS_DIR": str(tree / "cache"), "PYTHONPATH": str(tree), **environment}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=tree,
        env={**keep, **given},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(tree, *command, **environment):
    process = start(tree, *command, **environment)
    out, err = process.communicate()
    return process.returncode, out, err


def broken_compiler(tree):
    file = tree / "broken-c++"
    # torch asks for the version first, and accepts only compilers that print their name.
    file.write_text(
        "#!/bin/sh\ncase $1 in -v|--version|-dump*) exec c++ $1;; esac\n"
        "echo 'broken-c++: the disk ate my headers' >&2\nexit 1\n"
    )
    file.chmod(0o755)
    return str(file)


def test_every_operator_has_its_compiled_kernel():
    if _build.library() is None:
        pytest.skip("the references serve")
    assert {name: ops.kernel(name, "cpu") for name in ops.NAMES} == dict.fromkeys(
        ops.NAMES, "compiled"
    )


def test_build_info_says_how_it_was_built():
    if _build.library() is None:
        pytest.skip("the references serve")
    info = _build.library().build_info()
    assert "-O3" in info["flags"]
    assert "fast-math" not in info["flags"]
    assert info["compiler"].startswith(("gcc", "clang"))
    assert info["torch_target"] == "2.10 or later"


@pytest.mark.parametrize("suffix", ["h", "cuh", "cpp", "cu"])
def test_the_stamp_follows_every_source(tmp_path, monkeypatch, suffix):
    shutil.copytree(_build.CSRC, tmp_path / "csrc")
    monkeypatch.setattr(_build, "CSRC", tmp_path / "csrc")
    file = sorted((tmp_path / "csrc").rglob(f"*.{suffix}"))[0]
    stamps = {_build.stamp(native=False, cuda=True)}
    file.write_text(file.read_text() + "// changed\n")
    stamps.add(_build.stamp(native=False, cuda=True))
    file.rename(file.with_name(f"renamed.{suffix}"))
    stamps.add(_build.stamp(native=False, cuda=True))
    assert len(stamps) == 3


def test_another_architecture_is_another_build(monkeypatch):
    monkeypatch.delenv("GUISE_MARCH", raising=False)
    here = _build.stamp(True, False)
    assert "-march=native" in _build.flags(True, False)["cxx"]
    monkeypatch.setenv("GUISE_MARCH", "x86-64-v3")
    assert "-march=x86-64-v3" in _build.flags(True, False)["cxx"]
    assert _build.stamp(True, False) != here
    assert not any("-march" in flag for flag in _build.flags(False, False)["cxx"])


def test_importing_compiles_and_loads_nothing(tree):
    code = "import sys, nets.ops; print('torch.utils.cpp_extension' in sys.modules)"
    assert run(tree, "-c", code) == (0, "False\n", "")
    assert not (tree / "cache").exists()


def test_reference_compiles_nothing(tree):
    rc, out, err = run(tree, "-c", CALL, GUISE_OPS="reference")
    assert (rc, err) == (0, "")
    assert "-0.5" in out  # the mean of a uniform 2 x 2 map: pixels at -1 and 0
    assert not (tree / "cache").exists()


def test_an_unknown_choice_is_named(tree):
    rc, _, err = run(tree, "-c", CALL, GUISE_OPS="fast")
    assert rc != 0
    assert err.splitlines()[-1].endswith("GUISE_OPS must be auto, compiled or reference, got fast")


def test_without_a_compiler_the_references_serve_with_one_warning(tree):
    rc, out, err = run(tree, "-c", CALL + ";" + CALL, CXX="/nowhere/c++")
    assert rc == 0
    assert out.count("[-0.5000, -0.5000]") == 2
    (line,) = (line for line in err.splitlines() if "warning" in line)  # torch for CUDA adds others
    assert "no C++ compiler: /nowhere/c++" in line
    rc, _, err = run(tree, "-c", CALL, CXX="/nowhere/c++", GUISE_OPS="compiled")
    assert rc != 0
    assert "no C++ compiler: /nowhere/c++" in err


@no_compiler
@pytest.mark.slow
def test_a_broken_compiler_is_reported_once_and_references_serve_only_with_auto(tree):
    compiler = broken_compiler(tree)
    rc, out, err = run(tree, "-c", CALL + ";" + CALL, CXX=compiler)
    assert rc == 0
    assert out.count("[-0.5000, -0.5000]") == 2
    assert err.count("the compilation failed") == 1
    assert "the disk ate my headers" in err
    rc, _, err = run(tree, "-c", CALL, CXX=compiler, GUISE_OPS="compiled")
    assert rc != 0
    assert "the disk ate my headers" in err


@pytest.mark.parametrize("choice", ["auto", "compiled"])
def test_cuda_that_does_not_compile_leaves_the_cpu_kernels(monkeypatch, tmp_path, capsys, choice):
    (tmp_path / "file").write_text("")
    nvcc = "[1/2] nvcc a.cu\nb.h(138): error: #error unsupported GNU version\n2 errors detected"
    builds = []

    def load(name, names, with_cuda, build_directory, **_):
        builds.append(with_cuda)
        if with_cuda:
            raise RuntimeError(f"Error building extension 'guise_ops': {nvcc}")
        (Path(build_directory) / "guise_ops.so").write_text("")
        return types.ModuleType(name)

    monkeypatch.setattr("torch.utils.cpp_extension.load", load)
    monkeypatch.setattr(_build, "_wants_cuda", lambda: True)
    monkeypatch.setattr(_build, "_ahead_of_time", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    monkeypatch.setenv("GUISE_OPS", choice)
    if choice == "compiled":
        with pytest.raises(_build.BuildError, match=r"failed: b.h\(138\): error: #error"):
            _build._library.__wrapped__()
        return
    module = _build._library.__wrapped__()
    assert Path(module.file).is_relative_to(tmp_path)
    assert builds == [True, False]
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "b.h(138): error: #error unsupported GNU version" in warnings[0]
    assert "CUDA_HOME" in warnings[0]


def test_a_folder_that_cannot_be_written_is_named(tree):
    (tree / "file").write_text("")
    rc, _, err = run(tree, "-c", CALL, TORCH_EXTENSIONS_DIR=str(tree / "file"))
    assert rc == 0
    assert "warning" in err
    assert "TORCH_EXTENSIONS_DIR" in err


@no_compiler
@pytest.mark.slow
def test_two_processes_build_once_and_later_ones_not_at_all(tree):
    both = [start(tree, "-c", LIBRARY) for _ in range(2)]
    outputs = [p.communicate() for p in both]
    assert all("guise_ops" in out for out, _ in outputs)
    said = "".join(err for _, err in outputs)
    assert said.count("compiling 1 files for this machine, once") == 1
    rc, out, err = run(tree, "-c", LIBRARY)
    assert (rc, err) == (0, "")
    assert "guise_ops" in out
    (folder,) = (tree / "cache").iterdir()
    assert sorted(f.name for f in folder.iterdir()) == ["guise_ops.so", "lock"]
    (tree / "csrc" / "core" / "hd.h").write_text("// changed\n")
    _, _, err = run(tree, "-c", LIBRARY, CXX="/nowhere/c++")
    assert "no C++ compiler" in err  # other sources: the old library does not serve


def test_the_lock_of_a_dead_process_is_free(tmp_path):
    hold = (
        "import sys, time; from pathlib import Path; from nets.ops import _build\n"
        "with _build._only_one(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path / "lock"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    begin = time.monotonic()
    with _build._only_one(tmp_path / "lock"):
        assert time.monotonic() - begin < 5


@no_compiler
@pytest.mark.slow
def test_built_ahead_of_time_serves_until_the_sources_change(tree):
    rc, _, err = run(tree, "setup.py", "build_ext", "--inplace")
    assert rc == 0, err
    rc, out, err = run(tree, "-c", LIBRARY)
    assert (rc, err) == (0, "")
    assert "nets/_C." in out
    assert not (tree / "cache").exists()
    (tree / "csrc" / "core" / "hd.h").write_text("// changed\n")
    _, out, err = run(tree, "-c", LIBRARY)
    assert "not used" in err
    assert "compiling 1 files" in err
    assert "guise_ops" in out


@no_compiler
@pytest.mark.slow
def test_setup_goes_on_without_a_working_compiler_unless_told_not_to(tree):
    compiler = broken_compiler(tree)
    command = ("setup.py", "build_ext", "--inplace")
    rc, out, err = run(tree, *command, CXX=compiler)
    assert rc == 0
    assert "the operators were not compiled" in out
    assert "the disk ate my headers" in out + err
    assert not list((tree / "nets").glob("_C*"))
    assert run(tree, *command, CXX=compiler, GUISE_OPS="compiled")[0] != 0


def test_the_report_names_the_library_and_each_kernel(tree):
    rc, out, err = run(tree, "-m", "nets.ops", GUISE_OPS="reference")
    assert (rc, err) == (0, "")
    assert torch.__version__ in out
    for name in ops.NAMES:
        assert any(line.split() == [name, "reference", "reference"] for line in out.splitlines())
