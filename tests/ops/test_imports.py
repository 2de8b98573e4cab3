"""Modules that importing the package loads, in a fresh process."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ["torch._dynamo", "torch._inductor", "sympy", "scipy", "matplotlib", "torchmetrics"]


def printed(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["nets", "nets.ops"])
def test_importing_is_light(module):
    assert printed(f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])") == "[]"


def test_the_choice_of_conv3x3_is_a_constant_to_the_compiler():
    """Also before the library is loaded: the compiler cannot trace its loading."""
    code = """
import torch
from nets import ops
compiled = torch.compile(ops.conv3x3, backend="eager", fullgraph=True)
x, weight = torch.randn(1, 16, 32, 32), torch.randn(16, 16, 3, 3)
print(torch.equal(compiled(x, weight), ops.conv3x3(x, weight)))
"""
    assert printed(code) == "True"
