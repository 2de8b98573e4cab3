"""One line of the table of benchmarks/ops.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One operator at one size. `make` returns the inputs of all other callables."""

    name: str
    size: str
    make: Callable[[str], tuple]  # device -> inputs, seeded
    ours: Callable
    formula: Callable  # plain PyTorch, as one would write it
    reads: int  # bytes that the forward pass must read ...
    writes: int  # ... and write
    others: dict[str, Callable] = field(default_factory=dict)  # libraries; by name, CPU or both
    grads: Sequence[int] = ()  # the inputs by which forward + backward differentiates
    exact: bool = False  # the result must equal the formula's; else see `ops.check`
    compiled: bool = True  # whether torch.compile can take the formula
    # Targets: "forward compiled" 30 is 30 times as fast as compiled in the forward pass;
    # "floor" 1.7 is at most 1.7 times the floor.
    bars: dict[str, float] = field(default_factory=dict)
