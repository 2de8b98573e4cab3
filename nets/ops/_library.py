"""How an operator is made known to torch: schema, reference, and the compiled kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nets.ops import _build

NAMES: list[str] = []  # every operator defined, in order


def define(
    schema: str, reference: Callable, fake: Callable, autocast: bool = True, vmap: bool = True
) -> Callable:
    """Defines guise::<schema> and returns it, ready to be called.

    schema     "name(Tensor a, int b) -> Tensor"
    reference  the same in stock torch: the definition, which serves where no kernel is compiled
    fake       returns empty tensors of the result's shape, dtype and strides
    autocast   compute in float32 under autocast, whatever the inputs are
    vmap       every Tensor leads with the batch axis N, which a mapped axis can join
    The library is looked for, and compiled if need be, when the operator first runs on real data.
    """
    name = schema.split("(")[0]
    qualified = f"guise::{name}"
    torch.library.define(qualified, schema[len(name) :])
    packet = getattr(torch.ops.guise, name)

    def first(*args):
        if kernel(name, next(a for a in args if isinstance(a, Tensor)).device.type) == "compiled":
            return packet(*args)  # the library has just been loaded and serves from now on
        return reference(*args)

    torch.library.impl(qualified, "CompositeExplicitAutograd", first)
    torch.library.register_fake(qualified, fake)
    if vmap:
        torch.library.register_vmap(qualified, _folded(packet))
    if autocast:
        for device in ("cpu", "cuda"):
            torch.library.register_autocast(qualified, device, torch.float32)
    NAMES.append(name)
    return packet


def kernel(name: str, device: str) -> str:
    """Which kernel serves operator `name` on "cpu" or "cuda": "compiled" or "reference"."""
    if _build.library() is None:
        return "reference"
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device)
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return "compiled" if key and has(f"guise::{name}", key) else "reference"


def _folded(packet: Callable) -> Callable:
    """The vmap rule: the mapped axis joins the batch axis, one call serves them all."""

    def rule(info, in_dims, *args):
        def fold(arg, dim):
            if not isinstance(arg, Tensor):
                return arg
            lead = (
                arg.movedim(dim, 0) if dim is not None else arg.expand(info.batch_size, *arg.shape)
            )
            return lead.flatten(0, 1)

        def unfold(out):
            return out.unflatten(0, (info.batch_size, -1 if out.shape[0] else 0))

        out = packet(*(fold(a, d) for a, d in zip(args, in_dims, strict=True)))
        if isinstance(out, Tensor):
            return unfold(out), 0
        return tuple(map(unfold, out)), (0,) * len(out)

    return rule
