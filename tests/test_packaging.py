"""A wheel holds the commands, the configs and the sources of the operators, and works anywhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = ("guise-train-vunet", "guise-train-landmarks", "guise-train-bilayer",
            "guise-train-dcign", "guise-infer", "guise-extract", "guise-evaluate",
            "guise-export", "guise-app", "guise-distil")  # fmt: skip
IGNORED = shutil.ignore_patterns(".*", "build", "dist", "runs", "tests", "docs", "benchmarks",
                                 "*.egg-info", "__pycache__", "*.so")  # fmt: skip


def run(command, cwd, **environment):
    """What a command prints, started in `cwd` without this checkout on the path."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "GUISE_OPS": "reference", "PYTHONPATH": "", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an installation from a wheel, which knows nothing of this checkout."""
    work = tmp_path_factory.mktemp("packaging")
    shutil.copytree(ROOT, work / "source", ignore=IGNORED)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = ["wheel", "--no-build-isolation", "--no-deps", "-w", work / "wheels", work / "source"]
    run([*pip, *build], work)
    (wheel,) = (work / "wheels").glob("guise_nets-*.whl")
    run([*pip, "install", "--no-deps", "--target", work / "site", wheel], work)
    return work / "site"


@pytest.mark.slow
def test_a_wheel_holds_configs_and_sources(installed):
    for folder in ("configs", "csrc"):
        copied = {f.relative_to(installed / "nets" / folder) for f in
                 (installed / "nets" / folder).rglob("*") if f.is_file()}  # fmt: skip
        assert copied == {f.relative_to(ROOT / folder) for f in
                         (ROOT / folder).rglob("*") if f.is_file()}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_shows_its_help(installed, command, tmp_path):
    output = run([installed / "bin" / command, "--help"], tmp_path, PYTHONPATH=str(installed))
    assert (
        "--config" in output
        or "extract.py people" in output
        or "--format" in output
        or "--port" in output
    )


@pytest.mark.slow
def test_a_command_trains_by_the_name_of_a_config(installed, tmp_path):
    where = run(
        [sys.executable, "-c", "import nets; print(nets.__file__)"],
        tmp_path,
        PYTHONPATH=str(installed),
    )
    assert Path(where.strip()) == installed / "nets" / "__init__.py"
    train = [installed / "bin/guise-train-vunet", "--config", "smoke.yaml", "--name", "a"]
    output = run([*train, "--num_steps", "2"], tmp_path, PYTHONPATH=str(installed))
    assert "training a VUNet" in output
    assert list((tmp_path / "runs/vunet/a/checkpoints").glob("step_*.pt"))
    run([installed / "bin/guise-infer"], tmp_path, PYTHONPATH=str(installed))
    assert (tmp_path / "out.png").stat().st_size > 0


@pytest.mark.parametrize("tool", ["ruff", "codespell", "clang-format"])
def test_pre_commit_and_the_test_extra_pin_the_same_version(tool):
    pinned = {
        name: re.findall(rf"\b{tool}==([\d.]+)", (ROOT / name).read_text(encoding="utf-8"))
        for name in ("setup.py", ".pre-commit-config.yaml")
    }
    assert len(pinned["setup.py"]) == 1
    assert set(pinned[".pre-commit-config.yaml"]) == set(pinned["setup.py"])


def test_the_version_is_the_newest_of_the_changelog_and_of_the_citation():
    import nets

    newest = re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    assert newest and cited and newest[1] == cited[1] == nets.__version__
