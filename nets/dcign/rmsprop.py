"""RMSprop as in the published program, which trained DC-IGN with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor


class RMSprop(torch.optim.Optimizer):
    """RMSprop with momentum. Step t with gradient g, learning rate r and decays b1, b2 is

        m <- (1 - b1) m + b1 g
        v <- (1 - b2) v + b2 g^2
        x <- x - r c m / sqrt(v + 1e-8),  c = sqrt(1 - (1 - b2)^t) / (1 - (1 - b1)^t)

    This is Adam with betas (1 - b1, 1 - b2), except that 1e-8 is added inside the root to the
    uncorrected v. The published program calls b1 momentum decay and b2 update decay. It maximises
    the bound with a negative rate. Here a positive rate minimises the loss.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 5e-4,  # r
        momentum_decay: float = 0.1,  # b1
        update_decay: float = 0.01,  # b2
    ):
        """Raises ValueError for a negative rate, or a decay outside (0, 1]."""
        if lr < 0:
            raise ValueError(f"RMSprop: lr must be 0 or more, got {lr}")
        for name, value in (("momentum_decay", momentum_decay), ("update_decay", update_decay)):
            if not 0 < value <= 1:
                raise ValueError(f"RMSprop: {name} must be above 0 and at most 1, got {value}")
        settings = {"lr": lr, "momentum_decay": momentum_decay, "update_decay": update_decay}
        super().__init__(params, settings)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """The closure's loss, if given, after one step; parameters without gradient do not move."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_step: dict[int, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"] = 0
                    state["m"], state["v"] = torch.zeros_like(p), torch.zeros_like(p)
                state["step"] += 1
                by_step.setdefault(state["step"], []).append(p)
            for t, params in by_step.items():
                self._update(params, t, group)
        return loss

    def _update(self, params: list[Tensor], t: int, group: dict[str, Any]) -> None:
        """Update parameters that are all at their step t."""
        b1, b2 = group["momentum_decay"], group["update_decay"]
        grads = [p.grad for p in params if p.grad is not None]
        m = [self.state[p]["m"] for p in params]
        v = [self.state[p]["v"] for p in params]
        torch._foreach_lerp_(m, grads, b1)
        torch._foreach_mul_(v, 1 - b2)
        torch._foreach_addcmul_(v, grads, grads, value=b2)
        scale = torch._foreach_add(v, 1e-8)
        torch._foreach_sqrt_(scale)
        correction = math.sqrt(1 - (1 - b2) ** t) / (1 - (1 - b1) ** t)
        torch._foreach_addcdiv_(params, m, scale, value=-group["lr"] * correction)
