"""The examples of docs/data.md work."""

import re
import runpy
from pathlib import Path

import torch

from nets.data.extraction.check import check
from nets.data.io.images import write_image

TEXT = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")


def test_the_examples_of_formats_pass_the_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "data/mine/a/1.jpg",
        "data/mine/a/2.jpg",
        "data/me/frames/1.jpg",
        "data/me/frames/2.jpg",
    ):
        write_image(tmp_path / name, torch.full((3, 40, 30), 90, dtype=torch.uint8))
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    blocks = [block for block in blocks if "class " not in block]  # tests/vunet runs that one
    assert len(blocks) == 2
    for block in blocks:
        (tmp_path / "example.py").write_text(block)
        runpy.run_path(str(tmp_path / "example.py"))
    for data, count in (("data/mine", 2), ("data/me", 2)):
        checked = check(data, tmp_path / "sheet.png")
        assert checked.problems == [] and checked.count == count


def test_commands_and_options_of_the_page_exist():
    import extract

    commands = re.findall(r"python extract\.py (\w+)", TEXT)
    assert set(commands) == set(extract.COMMANDS)
    for option in re.findall(r"extract\.py people[^\n]*(?:\\\n[^\n]*)?", TEXT):
        for name in re.findall(r"--(\w+)", option):
            assert name in Path(extract.__file__).read_text(encoding="utf-8")
