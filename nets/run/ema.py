"""Moving averages of a network's weights, exponential or plain."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nets.run.ranks import bare


class EMA:
    """Float32 averages of a model's floating parameters: average += (1 - decay) (weight - average).

    Averages start at the current weights. Buffers are not averaged.
    """

    def __init__(self, model: nn.Module, decay: float | None):
        """decay  in [0, 1); 0.999 averages over about 1000 steps. None: the plain mean of the
        weights after every step so far
        """
        self.steps = 0
        self.model = bare(model)
        self.decay = decay
        self.average = {name: p.detach().float().clone() for name, p in self._weights().items()}

    def _weights(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.model.named_parameters() if p.is_floating_point()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the weights; call it after every optimiser step."""
        weights = [weight.detach().float() for weight in self._weights().values()]
        self.steps += 1
        share = 1 / self.steps if self.decay is None else 1 - self.decay
        torch._foreach_lerp_(list(self.average.values()), weights, share)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[nn.Module]:
        """A context in which the model has the averages as its weights."""
        weights = self._weights()
        kept = {name: weight.detach().clone() for name, weight in weights.items()}
        self._copy(weights, self.average)
        try:
            yield self.model
        finally:
            self._copy(weights, kept)

    @staticmethod
    @torch.no_grad()
    def _copy(weights: dict[str, Tensor], values: dict[str, Tensor]) -> None:
        for name, weight in weights.items():
            weight.copy_(values[name])

    def state_dict(self) -> dict[str, Any]:
        return {"decay": self.decay, "steps": self.steps, "average": dict(self.average)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state.get("steps", 0)
        for name, average in self.average.items():
            average.copy_(state["average"][name])
