"""Losses and gradients that are not finite: stop or skip the step, and save its batch.

In fp16 the loss scale is found by overflow: a gradient that is not finite always skips the step
and halves the scale, whatever --nan says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nets.run.files import write_atomic
from nets.run.options import NonFinite
from nets.run.ranks import Ranks

IN_A_ROW = 20
GRADIENT = "gradient_norm"  # the name under which a step's gradients are looked at


class Guard:
    """Checks the losses and gradients of every step before they are used."""

    def __init__(
        self,
        folder: Path,
        ranks: Ranks,
        policy: str,
        report: Callable[[str], None],
        halve: Callable[[], float] | None = None,
    ):
        """policy  "stop"; "skip" the step; or "halve": skip it and halve the loss scale
        report  called with a line for every step that is skipped
        halve   halves the loss scale and returns it; None without a loss scale
        """
        self.folder = folder
        self.ranks = ranks
        self.policy = policy
        self.report = report
        self.halve = halve
        self.count = 0
        self._last = -1
        self._row = 0
        self._buffers: list[tuple[Tensor, Tensor]] = []

    def begin(self, models: Iterable[nn.Module]) -> None:
        """Remember the models' buffers at the start of a step, to restore them if it is skipped.

        The forward pass of a BatchNorm, for example, moves its averages before the loss is known.
        """
        if self.policy != "stop" or self.halve is not None:
            buffers = [buffer for model in models for buffer in model.buffers()]
            self._buffers = [(buffer, buffer.clone()) for buffer in buffers]

    def check(self, step: int, losses: dict[str, Tensor], batch: Any) -> bool:
        """True if the losses of all ranks are finite; waits for the device.

        step  number of the step, counted from 1
        Saves the batch of a loss that is not finite. Raises NonFinite if the policy is "stop", or
        at the 20th such step in a row.
        """
        values = floats(losses)
        bad = {name: value for name, value in values.items() if not math.isfinite(value)}
        if not self.ranks.any(bool(bad)):
            return True
        text = f"step {step}: a loss or gradient is not finite on another rank"
        if bad:
            named = ", ".join(f"{name} is {value}" for name, value in bad.items())
            text = f"step {step}: {named}; its batch is in {self._keep(step, values, batch)}"
        halve = self.halve if GRADIENT in losses or self.policy == "halve" else None
        if self.policy == "stop" and halve is None:
            raise NonFinite(f"{text}; --nan skip would leave such steps out")
        self.count += 1
        self._row = self._row + 1 if step == self._last + 1 else 1
        self._last = step
        if self._row >= IN_A_ROW:
            raise NonFinite(f"{text}; {self._row} steps in a row")
        with torch.no_grad():
            for buffer, before in self._buffers:
                buffer.copy_(before)
        halved = "" if halve is None else f", loss scale halved to {halve():g}"
        self.report(f"{text}; step left out{halved}, {self.count} so far")
        return False

    def _keep(self, step: int, losses: dict[str, float], batch: Any) -> Path:
        suffix = f"_rank{self.ranks.rank}" if self.ranks.rank else ""
        path = self.folder / f"bad_batch{suffix}.pt"
        content = {"step": step, "losses": losses, "batch": batch}
        write_atomic(path, lambda file: torch.save(content, file))
        return path


def floats(values: dict[str, Any]) -> dict[str, float]:
    """The scalars as plain numbers; those on a device are fetched together."""
    tensors = {name: v.detach().double() for name, v in values.items() if isinstance(v, Tensor)}
    fetched = torch.stack(list(tensors.values())).tolist() if tensors else []
    return {**{k: float(v) for k, v in values.items() if k not in tensors},
            **dict(zip(tensors, fetched, strict=True))}  # fmt: skip
