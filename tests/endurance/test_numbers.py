"""Numbers that are not finite, in every system: none reaches the weights, wherever it is from."""

import importlib
import itertools
import re

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from four_systems import SYSTEMS, arguments
from nets.run.loader import Loader
from nets.run.precision import Precision
from nets.run.run import Run
from runs import logged, newest, stored

pytestmark = pytest.mark.slow


class Poison:
    """Puts NaN or infinity at a step of this process's run: into what its networks compute in
    training, into a gradient, into every floating-point number of a batch.
    """

    def __init__(self, monkeypatch, loss=(), gradient=(), batch=()):
        self.step = -1
        steps, batches, norm = Run.steps, Loader.batches, Precision.gradient_norm

        def counted(run, *args):
            for self.step in steps(run, *args):
                yield self.step

        def poisoned_batches(loader, step):
            for content in batches(loader, step):
                yield spoil(content) if step in batch and self.step == step else content

        def poisoned_norm(precision, *optimizers):
            if self.step in gradient:
                groups = (g["params"] for o in optimizers for g in o.param_groups)
                one = next(p for group in groups for p in group if p.grad is not None)
                one.grad[(0,) * one.grad.ndim] = float("inf")
            return norm(precision, *optimizers)

        def poisoned_output(module, given, out):
            if self.step in loss and module.training and isinstance(out, torch.Tensor):
                return out * float("nan") if out.requires_grad else None

        monkeypatch.setattr(Run, "steps", counted)
        monkeypatch.setattr(Loader, "batches", poisoned_batches)
        monkeypatch.setattr(Precision, "gradient_norm", poisoned_norm)
        self.hook = register_module_forward_hook(poisoned_output)


def spoil(content):
    if isinstance(content, dict):
        return {key: spoil(value) for key, value in content.items()}
    if isinstance(content, list):
        return [spoil(value) for value in content]
    if isinstance(content, torch.Tensor) and content.is_floating_point():
        return torch.full_like(content, float("nan"))
    return content


@pytest.fixture
def train(tmp_path, monkeypatch, request):
    """Run a system in this process, poisoned; returns its run folder."""
    monkeypatch.chdir(tmp_path)

    def start(system, *given, code=0, **where):
        script, argv = arguments(system, "a", "--num_steps", 8, "--workers", 0, *given)
        poison = Poison(monkeypatch, **where)
        try:
            importlib.import_module(script.removesuffix(".py")).main(argv)
            assert not code
        except SystemExit as ended:
            assert ended.code == code
        finally:
            poison.hook.remove()
            monkeypatch.undo()
        return tmp_path / "runs" / system / "a"

    return start


def assert_finite(state, name=""):
    """Every tensor of a state dict of state dicts."""
    for key, value in state.items() if isinstance(state, dict) else enumerate(state):
        if isinstance(value, dict | list | tuple):
            assert_finite(value, f"{name}.{key}")
        elif isinstance(value, torch.Tensor) and value.is_floating_point():
            assert value.isfinite().all(), f"{name}.{key}"


@pytest.mark.parametrize("system", SYSTEMS)
def test_such_steps_are_left_out_counted_and_their_batch_is_kept(train, system):
    run = train(system, "--nan", "skip", batch=[1], loss=[3], gradient=[5, 6])
    said = (run / "log.txt").read_text()
    out = [int(step) for step in re.findall(r"step (\d+): .*; step left out", said)]
    # Of head avatars the face points are floats; VUNet's joints are, too, and missing where NaN.
    spoilt = [2] if system == "bilayer" else []
    assert out == [*spoilt, 4, 6, 7] and f"{len(out)} so far" in said
    kept = torch.load(run / "bad_batch.pt", weights_only=True)
    assert kept["step"] == 7 and kept["losses"] == {"gradient_norm": float("inf")}
    assert len(kept["batch"]) > 0
    assert stored(run)[0] == 8
    assert_finite(newest(run)["parts"])
    assert all(value not in ("nan", "inf") for line in logged(run) for value in line.values())


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_first_one_stops_the_run(train, system, capsys):
    run = train(system, loss=[5], code=3)
    error = capsys.readouterr().err.splitlines()[-1]
    assert "error: step 6: " in error and "--nan skip would leave such steps out" in error
    assert "gradient_norm" not in error  # the losses are looked at before
    assert torch.load(run / "bad_batch.pt", weights_only=True)["step"] == 6
    assert stored(run)[0] == 4
    assert_finite(newest(run)["parts"])


@pytest.mark.parametrize("system", SYSTEMS)
def test_in_fp16_the_scale_is_halved(train, system):
    given = ["--precision", "fp16", "--nan", "halve"]
    run = train(system, *given, loss=[2], gradient=[4])
    said = (run / "log.txt").read_text()
    scales = [float(s) for s in re.findall(r"loss scale halved to ([\d.e+]+),", said)]
    assert len(scales) >= 2 and newest(run)["parts"]["precision"]["scale"] == scales[-1]
    assert all(later == earlier / 2 for earlier, later in itertools.pairwise(scales))
    assert_finite(newest(run)["parts"])
