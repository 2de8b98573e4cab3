"""Transfer with a trained network: the appearance of one image in the pose of another.

    python infer.py                                       the newest run, demo images
    python infer.py -s me.jpg -d dancer.jpg -o out.png    one image out of two
    python infer.py -s me.jpg -d dance.mp4 -o out.mp4     a video, with its sound
    python infer.py -s me.jpg -d poses/ -o out/ ...       several: a grid, and each image
    python infer.py -d dancer.jpg --samples 8 -o out/ ... sampled appearances in a pose
    python infer.py --checkpoint exported/vunet.onnx ...  a file of export.py, by onnxruntime

The checkpoint says which system it is of; --help has a group of options for each.
"""

from __future__ import annotations

import os
from typing import Literal

from nets import onnx_files, published, systems
from nets.data.detectors import AUTO, BACKENDS
from nets.data.io.frames import ON_MISSING
from nets.errors import UserError
from nets.run import checkpoints, options
from nets.run.options import NonNegativeFloat, PositiveFloat, PositiveInt, add_flag
from nets.run.ranks import Ranks

FINDERS = ("vunet", "bilayer")  # systems that detect people or faces in images
OWNERS = {  # option -> the systems that have it
    "concat": (*FINDERS, "landmarks"),
    **dict.fromkeys(("paste", "detector", "person", "on_missing"), FINDERS),
    "fit_steps": systems.FITTING,
}


# fmt: off
def parser() -> options.Parser:
    p = options.tool_parser(options.summary(__doc__))
    g = p.add_argument_group("inference")
    add = g.add_argument
    systems.add_checkpoint(g)
    add("-s", "--source", type=str, nargs="+", default=[], metavar="IMAGE",
        help="images, or folders of them, that give the appearance")
    add("-d", "--driving", type=str, nargs="+", default=[], metavar="FILE",
        help="images, folders of them, or videos that give the pose")
    add("-o", "--out", type=str, default="out.png",
        help="output: an image; for several transfers a grid, with each image in a folder beside "
        "it; for a video a video, for several a folder of SOURCE--DRIVING.mp4")
    add_flag(g, "--grid", False, "write a grid for one pair, too: poses above, sources to the left")
    options.add_max_megapixels(add)
    add_flag(g, "--compile", False,
        "compile the networks with torch.compile: needs a C++ compiler, and a minute before the "
        "first image")
    g = p.add_argument_group("videos and detection")
    add = g.add_argument
    add("--start", type=NonNegativeFloat | None, default=None, help="start in the video, seconds")
    add("--end", type=PositiveFloat | None, default=None, help="end in the video, seconds")
    add("--fps", type=PositiveFloat | None, default=None,
        help="frames per second; default: every frame of the driving video")
    add_flag(g, "--concat", False,
        "also write SOURCE--DRIVING_concat.mp4: source, driving and result side by side")
    add_flag(g, "--paste", False, "paste the result into the driving image or frame")
    systems.add_fit(g)
    add("--detector", type=Literal[(AUTO, *BACKENDS)], default=AUTO,
        help="detector of joints and faces, for images without; auto: mediapipe for people, for "
        "faces dlib if it is installed; pip install -e '.[extract]' or '.[dlib]'")
    add("--person", type=PositiveInt, default=1,
        help="person in the driving image, or in the video's first frame; 1: the largest")
    add("--on_missing", type=Literal[ON_MISSING], default="fail",
        help="at a frame without a person or face: stop, leave it out, or hold the one before")
    return p
# fmt: on


def refuse_own_input(out: str, given: list[str]) -> None:
    """Raise UserError if --out is one of the given files, which would be lost."""
    for file in given:
        if os.path.isfile(out) and os.path.isfile(file) and os.path.samefile(out, file):
            raise UserError(f"--out {out}: is an input, which would be lost; give another name")


@options.user_errors()
def main(argv: list[str] | None = None) -> None:
    p = parser()
    owners = systems.add_options(p, "infer")
    args = options.parse(p, argv, training=systems.training_options)
    refuse_own_input(args.out, [*args.source, *args.driving])
    named = systems.call("bilayer", "published_modes", "experiment", args)
    path = published.find(args.checkpoint or named, args.system)
    if path.suffix == ".onnx":
        content = onnx_files.read(path, args.system)
        onnx_files.refuse(args, ("compile", "cuda_graph"))
        for name, only in (("device", "cpu"), ("precision", "fp32")):
            if args[name] not in ("auto", only):
                raise UserError(f"--{name} {args[name]}: exported files run with {only} here")
            args[name] = only
    else:
        content = published.read_checkpoint(path, args.system)
    print(checkpoints.describe(content, path))
    systems.refuse_foreign(args, p, owners, content["system"])
    systems.refuse_shared(args, p, OWNERS, content["system"])
    systems.call(content["system"], "infer", "infer", args, content, path, Ranks(args.device))


if __name__ == "__main__":
    main()
