"""The benchmarks start, check their rows, and refuse bad arguments in one line."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
OWN = {"benchmarks", "guise", "nets"}


def test_every_benchmark_imports():
    names = sorted(f"benchmarks.{f.stem}" for f in (ROOT / "benchmarks").glob("*.py"))
    assert "benchmarks.inference" in names
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(f"import {name}" for name in names)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_what_benchmarks_import_when_called_is_there():
    """`test_every_benchmark_imports` sees the top of the files only."""
    found = 0
    for file in (ROOT / "benchmarks").rglob("*.py"):
        for function in ast.walk(ast.parse(file.read_text())):
            if not isinstance(function, ast.FunctionDef):
                continue
            for line in ast.walk(function):
                if isinstance(line, ast.ImportFrom) and line.module.split(".")[0] in OWN:
                    module = importlib.import_module(line.module)
                    for alias in line.names:
                        if not hasattr(module, alias.name):
                            importlib.import_module(f"{line.module}.{alias.name}")
                        found += 1
    assert found


def run(*command, **environment):
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.parametrize("script", ["benchmarks/ops.py", "benchmarks/steps.py"])
def test_a_row_that_nobody_has_is_named_with_those_that_there_are(script):
    done = run(script, "nosuchrow")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "no row is named like nosuchrow; rows: " in done.stderr


def test_a_json_of_another_kind_is_refused_and_kept(tmp_path):
    file = tmp_path / "other.json"
    file.write_text("[1]")
    done = run("benchmarks/steps.py", "parts-128", "--output", file)
    assert done.returncode == 1 and f"{file}: not a JSON that steps.py wrote" in done.stderr
    assert file.read_text() == "[1]"


def test_a_missing_package_is_named_with_its_extra(tmp_path):
    (tmp_path / "cv2.py").write_text("raise ImportError(name='cv2')")
    done = run("benchmarks/ops.py", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == ("ops.py: needs cv2: pip install -e '.[benchmark]'")
    assert run("benchmarks/ops.py", "--help", PYTHONPATH=str(tmp_path)).returncode == 0


def test_agreement_is_held_against_this_machines_own_rounding():
    from benchmarks import ops
    from benchmarks.op_rows.row import Row

    def row(factor, exact=False):
        return Row("x", "1", lambda device: (torch.rand(1000) * 3,), lambda x: x.exp() * factor,
                   torch.exp, 4, 4, exact=exact)  # fmt: skip

    inputs = (torch.rand(1000) * 3,)
    ops.check(row(1.0), inputs)
    with pytest.raises(AssertionError, match="x: off by"):
        ops.check(row(1 + 1e-5), inputs)
    with pytest.raises(AssertionError, match="more than 0"):
        ops.check(row(1 + 1e-6, exact=True), inputs)


def test_every_image_of_the_docs_has_a_command():
    from benchmarks import figures

    by_hand = {
        "app.png",
        "astronaut.png",
        "distil.png",
        "fitted.png",
        "web.png",
    }  # a browser, detectors, students
    images = {f.name for f in (ROOT / "docs").iterdir() if f.suffix in (".png", ".gif", ".jpg")}
    assert images == set(figures.COMMANDS) | by_hand
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert all(f"docs/{name}" in page for name in by_hand)


def test_a_figure_is_made_small_enough_and_an_unknown_name_is_refused(tmp_path):
    from benchmarks import figures

    noise = torch.randint(0, 8, (900, 900, 3), dtype=torch.uint8) * 32  # few colours are quicker
    Image.fromarray(noise.numpy()).save(tmp_path / "large.png")
    figures.shrink(tmp_path / "large.png", tmp_path / "small.png")
    assert (tmp_path / "small.png").stat().st_size <= 300_000
    turned = [Image.fromarray(noise[:500, :500].roll(k, 0).numpy()) for k in range(3)]
    turned[0].save(tmp_path / "a.gif", save_all=True, append_images=turned[1:], duration=90)
    figures.few_colours(tmp_path / "a.gif", 8)
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.n_frames, image.info["duration"], image.size) == (3, 90, (500, 500))
        assert len(image.convert("RGB").getcolors()) <= 8
    done = run("benchmarks/figures.py", "demo.jpg")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("figures.py: error: no figure is named demo.jpg")
