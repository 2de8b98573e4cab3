"""Registration of an operator with torch: schema, reference and compiled kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nets.ops import _build

NAMES: list[str] = []  # of all operators, in the order of their definition
REFERENCES: dict[Any, Callable] = {}  # operator overload -> its definition, for exports


def define(
    schema: str, reference: Callable, fake: Callable, autocast: bool = True, vmap: bool = True
) -> Callable:
    """Defines guise::<schema> and returns the operator.

    schema     "name(Tensor a, int b) -> Tensor"
    reference  the definition in stock torch; serves where no kernel is compiled
    fake       returns empty tensors with the shape, dtype and strides of the result
    autocast   compute in float32 under autocast, whatever the inputs are
    vmap       the first axis of every tensor is the batch, which a mapped axis can join
    The first call on real data loads the library, and compiles it if necessary.
    """
    name = schema.split("(")[0]
    qualified = f"guise::{name}"
    torch.library.define(qualified, schema[len(name) :])
    packet = getattr(torch.ops.guise, name)

    def first(*args: Any) -> Any:
        if kernel(name, next(a for a in args if isinstance(a, Tensor)).device.type) == "compiled":
            return packet(*args)  # loading the library has registered its kernel
        return reference(*args)

    torch.library.impl(qualified, "CompositeExplicitAutograd", first)
    torch.library.register_fake(qualified, fake)
    if vmap:
        torch.library.register_vmap(qualified, _folded(packet))
    if autocast:
        for device in ("cpu", "cuda"):
            torch.library.register_autocast(qualified, device, torch.float32)
    NAMES.append(name)
    REFERENCES[packet.default] = reference
    return packet


def kernel(name: str, device: str) -> str:
    """The kernel that serves operator `name` on "cpu" or "cuda": "compiled" or "reference"."""
    if _build.library() is None:
        return "reference"
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device)
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return "compiled" if key and has(f"guise::{name}", key) else "reference"


def _folded(packet: Callable) -> Callable:
    """The vmap rule of an operator: the mapped axis joins the batch axis."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        def fold(arg: Any, dim: int | None) -> Any:
            if not isinstance(arg, Tensor):
                return arg
            lead = (
                arg.movedim(dim, 0) if dim is not None else arg.expand(info.batch_size, *arg.shape)
            )
            return lead.flatten(0, 1)

        def unfold(out: Tensor) -> Tensor:
            return out.unflatten(0, (info.batch_size, -1 if out.shape[0] else 0))

        out = packet(*(fold(a, d) for a, d in zip(args, in_dims, strict=True)))
        if isinstance(out, Tensor):
            return unfold(out), 0
        return tuple(map(unfold, out)), (0,) * len(out)

    return rule
