"""Numbers that are not finite: stop or leave the step out, and keep the batch that did it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nets.run.files import write_atomic
from nets.run.options import NonFinite
from nets.run.ranks import Ranks

IN_A_ROW = 20


class Guard:
    """Looks at the losses of every step before they are used."""

    def __init__(self, folder: Path, ranks: Ranks, skip: bool, report: Callable[[str], None]):
        self.folder = folder
        self.ranks = ranks
        self.skip = skip
        self.report = report
        self.count = 0
        self._last = -1
        self._row = 0

    def check(self, step: int, losses: dict[str, Tensor], batch: Any) -> bool:
        """Whether step number `step` may go on: the losses of all ranks are finite.

        Saves the batch of a loss that is not. Raises NonFinite if such steps are not to be skipped,
        or at the 20th in a row. Waits for the device.
        """
        values = floats(losses)
        bad = {name: value for name, value in values.items() if not math.isfinite(value)}
        if not self.ranks.any(bool(bad)):
            return True
        text = f"step {step}: a loss or gradient is not finite on another rank"
        if bad:
            named = ", ".join(f"{name} is {value}" for name, value in bad.items())
            text = f"step {step}: {named}; its batch is in {self._keep(step, values, batch)}"
        if not self.skip:
            raise NonFinite(f"{text}; --nan skip would leave such steps out")
        self.count += 1
        self._row = self._row + 1 if step == self._last + 1 else 1
        self._last = step
        if self._row >= IN_A_ROW:
            raise NonFinite(f"{text}; {self._row} steps in a row")
        self.report(f"{text}; step left out, {self.count} so far")
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
