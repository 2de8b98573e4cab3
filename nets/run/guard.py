"""Numbers that are not finite: stop or leave the step out, and keep the batch that did it.

In fp16 a gradient that overflows says that the loss scale is too large, which is how the scale is
found: whatever was chosen for other numbers, the step is left out and the scale halved.
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
    """Looks at the losses and gradients of every step before they are used."""

    def __init__(
        self,
        folder: Path,
        ranks: Ranks,
        policy: str,
        report: Callable[[str], None],
        halve: Callable[[], float] | None = None,
    ):
        """policy  "stop", "skip": leave the step out, "halve": and halve the loss scale
        report  takes a line for every step that is left out
        halve   halves the loss scale and returns it; None where there is none
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
        """A step begins: if it is left out, the models' buffers are what they are now, e.g. the
        averages of a BatchNorm, which a forward pass moves before its loss is known.
        """
        if self.policy != "stop" or self.halve is not None:
            there = [buffer for model in models for buffer in model.buffers()]
            self._buffers = [(buffer, buffer.clone()) for buffer in there]

    def check(self, step: int, losses: dict[str, Tensor], batch: Any) -> bool:
        """Whether step number `step` may go on: the losses of all ranks are finite.

        Saves the batch of a loss that is not. Raises NonFinite if such steps are not to be left
        out, or at the 20th in a row. Waits for the device.
        """
        values = floats(losses)
        bad = {name: value for name, value in values.items() if not math.isfinite(value)}
        if not self.ranks.any(bool(bad)):
            return True
        text = f"step {step}: a loss or gradient is not finite on another rank"
        if bad:
            named = ", ".join(f"{name} is {value}" for name, value in bad.items())
            text = f"step {step}: {named}; its batch is in {self._keep(step, values, batch)}"
        scale = self.halve is not None and (GRADIENT in losses or self.policy == "halve")
        if self.policy == "stop" and not scale:
            raise NonFinite(f"{text}; --nan skip would leave such steps out")
        self.count += 1
        self._row = self._row + 1 if step == self._last + 1 else 1
        self._last = step
        if self._row >= IN_A_ROW:
            raise NonFinite(f"{text}; {self._row} steps in a row")
        with torch.no_grad():
            for buffer, before in self._buffers:
                buffer.copy_(before)
        halved = f", loss scale halved to {self.halve():g}" if scale else ""
        self.report(f"{text}; step left out{halved}, {self.count} so far")
        return False

    def _keep(self, step: int, losses: dict[str, float], batch: Any) -> Path:
        suffix = f"_rank{self.ranks.rank}" if self.ranks.rank else ""
        path = self.folder / f"bad_batch{suffix}.pt"
        content = {"step": step, "losses": losses, "batch": batch}
        write_atomic(path, lambda file: torch.save(content, file))
        return path


def floats(values: dict[str, Any]) -> dict[str, float]:
    """Plain numbers from scalars; those on a device are fetched at once."""
    tensors = {name: v.detach().double() for name, v in values.items() if isinstance(v, Tensor)}
    fetched = torch.stack(list(tensors.values())).tolist() if tensors else []
    return {**{k: float(v) for k, v in values.items() if k not in tensors},
            **dict(zip(tensors, fetched, strict=True))}  # fmt: skip
