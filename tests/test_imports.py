"""What importing the package loads, seen in a fresh process."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Slow to import or installed by an extra only; the modules that use them import them when called.
HEAVY = {
    *("torch._dynamo", "torch._inductor", "sympy"),
    *("av", "h5py", "matplotlib", "mediapipe", "scipy", "tensorboard", "torchmetrics"),
}


def printed(code: str) -> str:
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return process.stdout.strip()


@pytest.mark.parametrize(
    "module",
    ["nets", "nets.ops", "nets.systems", "nets.metrics", "nets.pretrained.vgg", "guise"],
)
def test_importing_is_light(module):
    """No heavy module is loaded beyond those that this version of torch loads by itself."""
    loaded = printed(
        f"import sys, torch; own = set(sys.modules); import {module}; "
        f"print(sorted({HEAVY} & (set(sys.modules) - own)))"
    )
    assert loaded == "[]"


@pytest.mark.parametrize("script", sorted(file.stem for file in ROOT.glob("*.py")))
def test_help_is_light(script):
    """`--help` of every script, too: `import torch` is most of its time."""
    if script == "setup":
        pytest.skip("is pip's")
    loaded = printed(
        f"import contextlib, io, sys, torch; own = set(sys.modules); import {script}\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        f"    {script}.main(['--help'])\n"
        f"print(sorted({HEAVY} & (set(sys.modules) - own)))"
    )
    assert loaded == "[]"


def test_the_choice_of_conv3x3_is_a_constant_to_the_compiler():
    """Also where the library is not loaded yet: a compiler cannot trace what loads it."""
    code = """
import torch
from nets import ops
compiled = torch.compile(ops.conv3x3, backend="eager", fullgraph=True)
x, weight = torch.randn(1, 16, 32, 32), torch.randn(16, 16, 3, 3)
print(torch.equal(compiled(x, weight), ops.conv3x3(x, weight)))
"""
    assert printed(code) == "True"


@pytest.mark.parametrize(
    ("package", "extra", "code"),
    [
        ("scipy", "eval", "bbc_pose.read_mat(file, 'bbcpose', 3)"),
        ("scipy", "eval", "bbc_pose.write_points(file, numpy.zeros((2, 7, 1)))"),
        ("matplotlib", "plot", "visuals.scatter(file, {}, 'title')"),
    ],
)
def test_a_missing_extra_is_named(package, extra, code, tmp_path):
    """The package counts as missing: None in sys.modules stops its import."""
    (tmp_path / "points.mat").touch()
    line = printed(f"""
import pathlib, sys
import numpy
from nets.data.clips import bbc_pose
from nets.dcign import visuals
from nets.errors import UserError
sys.modules[{package!r}] = None
file = pathlib.Path({str(tmp_path / "points.mat")!r})
try:
    {code}
except UserError as error:
    print(error)
""")
    assert f"pip install -e '.[{extra}]'" in line and "\n" not in line
