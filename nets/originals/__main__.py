"""Turns an original's file or folder into a checkpoint of this project, or into safetensors.

python -m nets.originals IN OUT.pt             infer.py, evaluate.py and --checkpoint take OUT.pt
python -m nets.originals IN OUT.safetensors    the weights alone, with the options in its header
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from nets.errors import UserError

# A command, so on the floor of the scripts: it may know nets.run.
from nets.run import checkpoints
from nets.run.files import write_atomic
from nets.run.options import user_errors
from nets.states import write_safetensors

PROG = "python -m nets.originals"


@user_errors(PROG)
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog=PROG,
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
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.out.suffix == ".pt":
        checkpoints.write(args.out, content)
    else:
        said = {name: content[name] for name in ("system", "step", "options")}
        about = {"guise": json.dumps(said, default=str)}
        parts = content["parts"]  # of a run that averages its weights, the averages
        model = parts["model"] | parts.get("ema", {}).get("average", {})
        write_atomic(args.out, lambda file: write_safetensors(file, model, about))
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
