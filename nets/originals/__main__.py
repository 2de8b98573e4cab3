"""Turns an original's file or folder into a checkpoint of this project, or into safetensors.

python -m nets.originals IN OUT.pt             infer.py, evaluate.py and --checkpoint take OUT.pt
python -m nets.originals IN OUT.safetensors    the weights alone; options as JSON in its header
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from nets.errors import UserError

# A command, so on the floor of the scripts: it may know nets.run.
from nets.run import checkpoints
from nets.run.files import write_atomic
from nets.run.options import user_errors

SAFE = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def write_safetensors(path: Path, state: dict[str, torch.Tensor], about: dict[str, str]) -> None:
    """`state` in the safetensors format: 8 bytes of the header's length, the header in JSON, the
    tensors one after another. `about` is its `__metadata__`.
    """
    header: dict[str, Any] = {"__metadata__": about}
    start, blocks = 0, []
    for name, tensor in state.items():
        bytes_ = tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": SAFE[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, start + len(bytes_)],
        }
        start += len(bytes_)
        blocks.append(bytes_)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    def write(file: Any) -> None:
        for block in (len(text).to_bytes(8, "little"), text, *blocks):
            file.write(block)

    write_atomic(path, write)


@user_errors()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m nets.originals",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="IN", help="a file or folder of an original")
    parser.add_argument("out", metavar="OUT", type=Path, help="ends in .pt or .safetensors")
    args = parser.parse_args(argv)
    if args.out.suffix not in (".pt", ".safetensors"):
        raise UserError(f"{args.out}: must end in .pt or .safetensors")
    if args.out.exists():
        raise UserError(f"{args.out}: is there already")
    content = checkpoints.read(Path(args.source))
    print(checkpoints.describe(content, args.source))
    options = {"system": content["system"], **content["options"]}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.out.suffix == ".pt":
        checkpoints.write(args.out, content)
    else:
        write_safetensors(
            args.out, content["parts"]["model"], {"guise": json.dumps(options, default=str)}
        )
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
