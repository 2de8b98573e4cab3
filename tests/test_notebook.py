"""docs/guise_in_action.ipynb runs from top to bottom, on a run of two steps."""

import os
from pathlib import Path

import pytest

import train_vunet

NOTEBOOK = Path(__file__).parents[1] / "docs/guise_in_action.ipynb"


@pytest.mark.slow
def test_the_notebook_shows_an_image_of_every_part(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="is installed by the extra `test`")
    import nbformat

    monkeypatch.setenv("GUISE_RUN", str(tmp_path / "runs/a"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOK.parents[1])]))
    train_vunet.main([
        "--config", "smoke.yaml", "--num_steps", "2", "--ckpt_freq", "1", "--name", "a",
        "--run_dir", str(tmp_path / "runs"),
    ])  # fmt: skip
    notebook = nbformat.read(NOTEBOOK, 4)
    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(shown) == 4
    printed = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", []))
    assert "vunet, step 2" in printed and "vunet, step 1" in printed


def test_the_notebook_is_committed_without_outputs():
    import json

    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") for cell in cells)
    assert sum(cell["cell_type"] == "code" for cell in cells) >= 5
