"""Numerical precision of a run: autocast, loss scaling and memory format in one object."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def best_precision(device: torch.device) -> tuple[str, str]:
    """The precision that `auto` means on `device`, and the reason.

    It depends on the device's instructions and not on a measurement, so a resumed run keeps its
    precision. Only processors with AVX512-BF16 or AMX are faster in bf16 than in fp32.
    """
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return "bf16", "this GPU has bf16 tensor cores"
        return "fp32", "this GPU has no bf16 tensor cores"
    able = processor_facts()
    for name in ("amx_bf16", "avx512_bf16"):
        if able.get(name):
            return "bf16", f"this processor has {name}"
    return "fp32", "this processor has no bf16 arithmetic"


def processor_facts() -> dict[str, Any]:
    """The processor's name and a flag for each instruction set extension, as torch says."""
    ask = getattr(torch.cpu, "get_capabilities", None)  # older torch has none
    return dict(ask()) if ask else {}


def compile_methods(net: nn.Module, *names: str) -> None:
    """Compiles methods of a network in place, by torch.compile at their first call."""
    for name in names:
        setattr(net, name, torch.compile(getattr(net, name)))


class Precision:
    """Precision of the forward pass, of gradients, and of the optimiser step.

    name           fp32, bf16 or fp16 (resolved from auto); `reason` says why
    memory_format  of images and weights
    Weights stay float32. In fp16 the loss is scaled. A step whose gradients overflow must be left
    out and the scale halved, which `Run.check` does. After 2000 good steps the scale doubles. The
    scale is part of a checkpoint (state_dict).
    """

    def __init__(self, name: str, device: torch.device, channels_last: bool = True):
        self.device = device
        self.reason = "as asked"
        if name == "auto":
            name, self.reason = best_precision(device)
        self.name = name
        self.dtype = DTYPES[name]
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager:
        """A context in which products and convolutions run in the chosen precision."""
        if self.name == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def place(self, model: Net) -> Net:
        """The model on the device, in the memory format."""
        # torch's annotations of Module.to leave memory_format out.
        return model.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload]

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of the loss, scaled in fp16."""
        self.scaler.scale(loss).backward()

    def gradient_norm(self, *optimizers: torch.optim.Optimizer) -> Tensor:
        """The 2-norm of all gradients of the optimisers' parameters, a scalar for `Run.check`.

        Call it once a step: in fp16 it also divides the gradients by the loss scale.
        """
        if self.scaler.is_enabled():
            for optimizer in optimizers:
                self.scaler.unscale_(optimizer)
        groups = (group["params"] for optimizer in optimizers for group in optimizer.param_groups)
        gradients = [p.grad for group in groups for p in group if p.grad is not None]
        return nn.utils.get_total_norm(gradients)

    def step(self, *optimizers: torch.optim.Optimizer) -> None:
        """Step all optimisers of a backward pass, then adapt the loss scale."""
        for optimizer in optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()

    def halve(self) -> float:
        """Halve the loss scale, for a step that is left out, and return it; only in fp16."""
        scale = self.scaler.get_scale() / 2
        self.scaler = torch.amp.GradScaler(self.device.type, scale)
        return scale

    def state_dict(self) -> dict[str, Any]:
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state and self.scaler.is_enabled():
            self.scaler.load_state_dict(state)
