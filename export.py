"""Export a trained network: models that leave Python.

    python export.py --checkpoint RUN -o exported/                 ONNX files
    python export.py --checkpoint RUN -o exported/ --format aoti   AOTInductor packages
    python export.py --checkpoint RUN --hub my-avatar/             weights and a model card

VUNet, DC-IGN and the landmarks of an image take batches of any size. A head avatar is two models:
avatar_identity once for a person, avatar_frame for each frame. Each file is compared with PyTorch
after it is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from nets import hub, published, systems
from nets.errors import UserError
from nets.run import options

# Of the largest value of an output. Other summation orders in some 60 layers of float32 give about
# 1e-5; what is wired wrongly differs by far more.
ALLOWED = 1e-3


# fmt: off
def parser() -> options.Parser:
    p = options.Parser(options.summary(__doc__))
    g = p.add_argument_group("export")
    add = g.add_argument
    systems.add_checkpoint(g)
    add("-o", "--out", type=str, default="exported", help="folder of the exported files")
    add("--format", type=Literal["onnx", "aoti"], default="onnx",
        help="onnx: any machine, needs the extra `export`; aoti: compiled for this processor")
    add("--hub", type=str | None, default=None, metavar="FOLDER",
        help="instead: folder of weights as safetensors and a model card, for the Hugging Face Hub")
    return p
# fmt: on


@options.user_errors()
def main(argv: list[str] | None = None) -> None:
    args = options.parse(parser(), argv)
    if args.hub is not None:
        path = published.find(args.checkpoint, args.system)
        content = published.read_checkpoint(path, args.system)
        hub.write_folder(Path(args.hub), content, published.write_weights)
        print(f"written: {Path(args.hub, hub.FILE)} and README.md, the card: complete it, then\n"
              f"hf upload OWNER/NAME {args.hub}")  # fmt: skip
        return
    from nets import api, exports  # late: --help needs no network

    model = api.load(args.checkpoint, device="cpu", system=args.system)
    print(model)
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    write = {"onnx": exports.write_onnx, "aoti": exports.write_package}[args.format]
    ending = {"onnx": ".onnx", "aoti": ".pt2"}[args.format]
    for graph in exports.graphs(model):
        path = folder / f"{graph.name}{ending}"
        worst = write(graph, path, exports.metadata(model, graph))
        print(f"written: {path}, {path.stat().st_size / 1e6:.1f} MB; greatest difference to "
              f"PyTorch {worst:.1e} of the largest value")  # fmt: skip
        if not worst <= ALLOWED:
            raise UserError(f"{path}: differs from PyTorch by {worst:.1e}, allowed {ALLOWED}")


if __name__ == "__main__":
    main()
