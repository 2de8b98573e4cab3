"""The rows of benchmarks/steps.py, one file a system, each with a list ROWS.

A row has `name`, `batch` (images of a step), `size` (their side) and `contenders`, names among
"fp32", "bf16" and "published": the same network computed the way its published program did.
`row.contender(name, device, compiled)` is an object with

    step()                  one training step
    forward()               the forward pass that users wait for: a transfer, a frame, an image
    forward(random=False)   its result, a Tensor, without noise: what contenders must agree on

bf16 may be off by 0.05 of the result's mean magnitude, or by `row.bf16_error`.
"""

import importlib

SYSTEMS = ("vunet", "dcign", "bilayer", "landmarks")
ROWS = [row for system in SYSTEMS for row in importlib.import_module(f"{__name__}.{system}").ROWS]
